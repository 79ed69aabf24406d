"""Certify the optimal verifier on real rows it was never tuned on: gap per row, and alpha* by the independent scan.

    python scripts/optimal_certificates.py out/study --samplers with_replacement --rows 600

Rows of the dump are taken at equal steps, without the 32 positions that are shipped (those served while the rules were
made).  Each row's certificate (an upper bound on alpha* from a token set minus the acceptance of the rule that runs) is
computed by the rule itself; `worst miss` compares its acceptance with `optimal_acceptance`, which shares no code with
it.  Milliseconds are processor time of one thread.  Writes docs/optimal_certificates.json, keeping what other samplers
have there, docs/optimal_certificates.md from all of it, and docs/results/optimal_certificates.csv with every row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.timing import machine

from mdsd_bounds import open_dump, optimal_acceptance, to_probs
from mdsd_bounds.verifiers.optimal import prepare

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "optimal_certificates.json"
ROWS = ROOT / "docs" / "results" / "optimal_certificates.csv"

#: Route to alpha* that is exact to rounding where the fastest one gives a wider interval.
ROUTE = {"with_replacement": "prefix"}
ROUTES = "the plain prefix scan with replacement, else its default route"

INTRODUCTION = """# Certificates of the optimal verifier on real rows

Written by `python scripts/optimal_certificates.py` from what it measured: {about}.

`gap` is the certificate that comes with every prepared rule: an upper bound on alpha* (from a token set) minus the
acceptance of the rule that runs; it includes the allowance for rounding. `worst miss` is the largest difference between
that acceptance and alpha* by `optimal_acceptance`, which shares no code with the rule ({routes}).
`prepare` is processor time of one thread for one position at V = {vocabulary:,}.
Every row: [results/optimal_certificates.csv](results/optimal_certificates.csv).
"""


def shipped() -> set[tuple[int, int]]:
    """Document and position of the shipped rows."""
    dump = open_dump(ROOT / "data" / "qwen2.5-coder-humaneval")
    (batch,) = dump.batches(len(dump))
    return set(zip(batch.doc.tolist(), batch.position.tolist(), strict=True))


def chosen_rows(dump: Any, count: int) -> list[int]:
    """About ``count`` untouched rows at equal steps."""
    seen = shipped()
    rows = [
        row
        for batch in dump.batches(64)
        for row, *place in zip(*(np.asarray(x).tolist() for x in (batch.row, batch.doc, batch.position)), strict=True)
        if tuple(place) not in seen
    ]
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]


def measure(
    dump: Any, rows: list[int], sampler: str, counts: list[int], options: dict[str, Any]
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """One line per number of drafts, and one for every row of each."""
    wanted, kept, documents = set(rows), {n: [] for n in counts}, set()
    places: list[tuple[int, int]] = []
    begun, done = time.monotonic(), 0
    for batch in dump.batches(32):
        here = [i for i, row in enumerate(np.asarray(batch.row).tolist()) if row in wanted]
        if not here:
            continue
        p, q = to_probs(batch.target_logits[here]), to_probs(batch.draft_logits[here])
        documents.update(np.asarray(batch.doc)[here].tolist())
        places.extend(zip(np.asarray(batch.doc)[here].tolist(), np.asarray(batch.position)[here].tolist(), strict=True))
        best = optimal_acceptance(p, q, counts, sampler, method=ROUTE.get(sampler, "auto"), **options)
        for i, n in enumerate(counts):
            for b in range(len(here)):
                start = time.thread_time()
                prepared = prepare(p[b], q[b], n, sampler, **options)
                # The table that a rejected position is drawn from is part of the preparation.
                prepared.excess.numel()
                spent = time.thread_time() - start
                value = float(best.value[i, b])
                kept[n].append((value, prepared.gap, abs(value - prepared.acceptance), 1e3 * spent))
        done += len(here)
        left = (time.monotonic() - begun) * (len(wanted) - done) / done
        print(f"{sampler}: {done} of {len(wanted)} rows, {left / 60:.1f} min left", file=sys.stderr)
    lines, every = [], []
    for n in counts:
        value, gap, miss, spent = np.array(kept[n]).T
        table = pd.DataFrame(places, columns=["doc", "position"])
        short = [float(f"{one:.2e}") for one in gap]
        every.append(table.assign(sampler=sampler, drafts=n, alpha=value.round(6), gap=short, ms=spent.round(1)))
        lines.append(
            {
                "sampler": sampler,
                "drafts": n,
                "rows": len(value),
                "documents": len(documents),
                "alpha*": value.mean(),
                "mean gap": gap.mean(),
                "99% gap": np.quantile(gap, 0.99),
                "worst gap": gap.max(),
                "worst miss": miss.max(),
                "prepare median ms": np.median(spent),
                "prepare 95% ms": np.quantile(spent, 0.95),
            }
        )
    return lines, pd.concat(every)


def write_rows(rows: pd.DataFrame) -> None:
    """The rows of one sampler, in the place of those it had."""
    if ROWS.exists():
        before = pd.read_csv(ROWS)
        rows = pd.concat([before[before.sampler != rows.sampler.iloc[0]], rows])
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(ROWS, index=False)


def page(result: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = [line for part in result["samplers"].values() for line in part]
    names = list(lines[0])
    text = [INTRODUCTION.format(about=result["about"], vocabulary=result["vocabulary"], routes=ROUTES)]
    text.append("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    text.extend("| " + " | ".join(_cell(name, line[name]) for name in names) + " |" for line in lines)
    about = "; ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join(text) + f"\n\nMachine: {about}.  Manifest of the dump: sha256 {result['dump']}.\n"


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value).replace("_", " ")
    return f"{value:.5f}" if name == "alpha*" else f"{value:.1f}" if name.endswith("ms") else f"{value:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump")
    parser.add_argument("--samplers", default="with_replacement")
    parser.add_argument("--drafts", default="2,4,8")
    parser.add_argument("--rows", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dump = open_dump(arguments.dump)
    rows = chosen_rows(dump, arguments.rows)
    counts = [int(n) for n in arguments.drafts.split(",")]
    result: dict[str, Any] = json.loads(PAGE.read_text()) if PAGE.exists() else {"samplers": {}}
    result |= {
        "about": "positions of Qwen2.5-Coder-1.5B drafted by its 0.5B sibling on HumanEval, temperature 1, "
        "made as `data/README.md` says, the shipped rows left out",
        "machine": machine(),
        "dump": hashlib.sha256((Path(arguments.dump) / "manifest.json").read_bytes()).hexdigest(),
    }
    for sampler in arguments.samplers.split(","):
        options = {"m": 1} if sampler == "top_m_plus" else {}
        result["samplers"][sampler], every = measure(dump, rows, sampler, counts, options)
        write_rows(every)
        (batch,) = [batch for _, batch in zip(range(1), dump.batches(1), strict=False)]
        result["vocabulary"] = int(batch.target_logits.shape[1])
        PAGE.write_text(json.dumps(result, indent=1) + "\n")
        PAGE.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
