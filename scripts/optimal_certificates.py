"""Certify the optimal verifier on real rows it was never tuned on: gap per row, and alpha* by the independent scan.

    python scripts/optimal_certificates.py out/study --samplers with_replacement --rows 600

    python scripts/optimal_certificates.py out/study --truncated --samplers without_replacement --rows 600

    python scripts/optimal_certificates.py --shipped --samplers without_replacement,top_m_plus

Rows of the dump are taken at equal steps, without the 32 positions that are shipped (those served while the rules were
made); `--shipped` takes those 32, full and truncated in eleven ways, for where the dump has not been made.  Each row's
certificate (an upper bound on alpha* from a token set minus the acceptance of the rule that runs) is computed by the
rule itself; `worst miss` compares its acceptance with `optimal_acceptance`, which shares no code with it.  Milliseconds
are processor time of one thread.  Writes docs/optimal_certificates.json, keeping what other samplers have there, and
docs/optimal_certificates.md from all of it; for rows of a dump also docs/results/optimal_certificates.csv, every row.
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

Written by `python scripts/optimal_certificates.py` from what it measured on Qwen2.5-Coder-1.5B drafted by its 0.5B
sibling on HumanEval, temperature 1:

{about}

`gap` is the certificate that comes with every prepared rule: an upper bound on alpha* (from a token set) minus the
acceptance of the rule that runs; it includes the allowance for rounding. `worst miss` is the largest difference between
that acceptance and alpha* by `optimal_acceptance`, which shares no code with the rule ({routes}).
`prepare` is processor time of one thread for one position at V = {vocabulary:,}, and `/ softmax` its median ratio to
float32 softmax of the same two rows, timed beside it. Lines of 32 rows are of the shipped positions (`--shipped`),
which were in use while the rules were made; the other lines are of positions left out of that.
Every row: [results/optimal_certificates.csv](results/optimal_certificates.csv).
"""


def shipped() -> set[tuple[int, int]]:
    """Document and position of the shipped rows."""
    dump = open_dump(ROOT / "data" / "qwen2.5-coder-humaneval")
    (batch,) = dump.batches(len(dump))
    assert batch.doc is not None
    assert batch.position is not None
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


#: Truncations of the shipped rows, as options of `to_probs`.
SETTINGS: dict[str, dict[str, Any]] = {
    f"{name}, T {t:g}": {"temperature": t, **cut}
    for t in (1.0, 0.6)
    for name, cut in (
        ("full", {}),
        ("top-k 20", {"top_k": 20}),
        ("top-k 50", {"top_k": 50}),
        ("top-k 100", {"top_k": 100}),
        ("top-p .9", {"top_p": 0.9}),
        ("top-p .95", {"top_p": 0.95}),
    )
}


def truncated_lines(
    dump: Any, rows: list[int], sampler: str, counts: list[int], options: dict[str, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """One line per setting and number of drafts, over some rows of a dump; times are the best of three."""
    kept: dict[tuple[str, int], list[tuple[float, ...]]] = {(setting, n): [] for setting in settings for n in counts}
    wanted, begun, done = set(rows), time.monotonic(), 0
    for batch in dump.batches(32):
        here = [i for i, row in enumerate(np.asarray(batch.row).tolist()) if row in wanted]
        if not here:
            continue
        softmax = [softmax_seconds(batch, i) for i in here]
        for setting, warp in settings.items():
            p, q = to_probs(batch.target_logits[here], **warp), to_probs(batch.draft_logits[here], **warp)
            best = optimal_acceptance(p, q, counts, sampler, method=ROUTE.get(sampler, "auto"), **options)
            for i, n in enumerate(counts):
                for b in range(len(here)):
                    spent, prepared = [], None
                    for _ in range(3):
                        start = time.thread_time()
                        prepared = prepare(p[b], q[b], n, sampler, **options)
                        spent.append(time.thread_time() - start)
                    assert prepared is not None
                    value, miss = float(best.value[i, b]), abs(float(best.value[i, b]) - prepared.acceptance)
                    support = float((q[b] > 0).sum())
                    kept[setting, n].append((support, value, prepared.gap, miss, min(spent), min(spent) / softmax[b]))
        done += len(here)
        left = (time.monotonic() - begun) * (len(wanted) - done) / done
        print(f"{sampler}, truncated: {done} of {len(wanted)} rows, {left / 60:.1f} min left", file=sys.stderr)
    lines = []
    for (setting, n), found in kept.items():
        support, value, gap, misses, best_of, ratio = np.array(found).T
        lines.append(
            {"sampler": sampler, "setting": setting, "drafts": n, "rows": len(value),
             "median support": int(np.median(support)), "alpha*": value.mean(), "mean gap": gap.mean(),
             "worst gap": gap.max(), "worst miss": misses.max(), "prepare median ms": np.median(1e3 * best_of),
             "prepare longest ms": 1e3 * best_of.max(), "/ softmax": np.median(ratio)}
        )  # fmt: skip
    return lines


def softmax_seconds(batch: Any, row: int) -> float:
    """Processor time of float32 softmax of the target and draft row: the best of five."""
    pair = [torch.as_tensor(np.asarray(x[row])).float() for x in (batch.target_logits, batch.draft_logits)]
    spent = []
    for _ in range(5):
        start = time.thread_time()
        for x in pair:
            torch.softmax(x, -1)
        spent.append(time.thread_time() - start)
    return min(spent)


def measure(
    dump: Any, rows: list[int], sampler: str, counts: list[int], options: dict[str, Any]
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """One line per number of drafts, and one for every row of each."""
    wanted, documents = set(rows), set[int]()
    kept: dict[int, list[tuple[float, ...]]] = {n: [] for n in counts}
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
                _ = prepared.residual
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
    about = "\n".join(
        f"- {sampler.replace('_', ' ')}: {source['about']}; manifest of the dump: sha256 {source['sha256']}"
        for sampler, source in result["dumps"].items()
    )
    text = [INTRODUCTION.format(about=about, vocabulary=result["vocabulary"], routes=ROUTES), table(lines)]
    unseen = [line for part in result.get("truncated", {}).values() for line in part]
    if unseen:
        text.append("\n## Positions not used while the rules were made, truncated\n")
        text.append(
            "The positions of the first table, both distributions truncated; processor times, best of three a row.\n"
        )
        text.append(table(unseen))
    shipped_lines = [line for part in result.get("shipped", {}).values() for line in part]
    if shipped_lines:
        text.append("\n## The 32 shipped positions, full and truncated\n")
        text.append("Truncation of both distributions; processor times, best of three a row.\n")
        text.append(table(shipped_lines))
    machine_in_words = "; ".join(f"{key} {value}" for key, value in result["machine"].items())
    return "\n".join(text) + f"\n\nMachine: {machine_in_words}.\n"


def table(lines: list[dict[str, Any]]) -> str:
    """Lines of the same names in Markdown."""
    names = list(lines[0])
    head = "| " + " | ".join(names) + " |\n|" + "---|" * len(names)
    return "\n".join([head, *("| " + " | ".join(_cell(name, line[name]) for name in names) + " |" for line in lines)])


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value).replace("_", " ")
    if name.endswith("ms") or name == "/ softmax":
        return f"{value:.3g}"
    return f"{value:.5f}" if name == "alpha*" else f"{value:.1e}"


def certify_shipped(samplers: list[str], counts: list[int]) -> None:
    """Measure the shipped rows and write them to the page; lines of 600 rows keep what they had."""
    result = json.loads(PAGE.read_text())
    dump = open_dump(ROOT / "data" / "qwen2.5-coder-humaneval")
    for sampler in samplers:
        options = {"m": 1} if sampler == "top_m_plus" else {}
        rows = list(range(len(dump)))
        result.setdefault("shipped", {})[sampler] = truncated_lines(dump, rows, sampler, counts, options, SETTINGS)
        write(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", nargs="?")
    parser.add_argument(
        "--shipped", action="store_true", help="the shipped rows, full and truncated, instead of a dump"
    )
    parser.add_argument("--truncated", action="store_true", help="the rows of a dump truncated, instead of full")
    parser.add_argument("--samplers", default="with_replacement")
    parser.add_argument("--drafts", default="2,4,8")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument(
        "--about", default="made as `data/README.md` says, the shipped rows left out", help="how the dump was made"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shipped == bool(arguments.dump):
        parser.error("give a dump or --shipped")
    if arguments.shipped:
        certify_shipped(arguments.samplers.split(","), [int(n) for n in arguments.drafts.split(",")])
        return
    dump = open_dump(arguments.dump)
    rows = chosen_rows(dump, arguments.rows)
    counts = [int(n) for n in arguments.drafts.split(",")]
    result: dict[str, Any] = json.loads(PAGE.read_text()) if PAGE.exists() else {"samplers": {}, "dumps": {}}
    result["machine"] = machine()
    manifest = (Path(arguments.dump) / "manifest.json").read_bytes()
    source = {"about": arguments.about, "sha256": hashlib.sha256(manifest).hexdigest()}
    for sampler in arguments.samplers.split(","):
        options = {"m": 1} if sampler == "top_m_plus" else {}
        if arguments.truncated:
            if result["dumps"].get(sampler) != source:
                parser.error(f"measure the full rows of {sampler} in this dump first")
            cuts = {name: warp for name, warp in SETTINGS.items() if len(warp) > 1}
            lines = truncated_lines(dump, rows, sampler, counts, options, cuts)
            result.setdefault("truncated", {})[sampler] = lines
            write(result)
            continue
        result["dumps"][sampler] = source
        result["samplers"][sampler], every = measure(dump, rows, sampler, counts, options)
        write_rows(every)
        (batch,) = [batch for _, batch in zip(range(1), dump.batches(1), strict=False)]
        result["vocabulary"] = int(batch.target_logits.shape[1])
        write(result)


def write(result: dict[str, Any]) -> None:
    """The numbers, and the page from them."""
    PAGE.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
