"""Compare the three forms of one dump of a real pair: full logits, hidden states with the heads, top-k with tail mass.

    python scripts/make_data.py
    python scripts/check_forms.py [--study out/study] [--models models] [--out out/forms] [--result docs/results]

Of the study dump the first 2,000 positions are cut to the 64 most probable tokens, and the first batch of prompts (448
positions) is logged again, storing hidden states.  Bounds of every sampler and number of drafts are then computed from
each form, position by position: intervals of the top-k form must hold the full answer, values of the hidden form must
equal it up to the rounding of the stored logits.  Writes ``store_forms.md`` and ``store_forms.json``.  About half an
hour on two cores, most of it logging; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mdsd_bounds.distributions import to_probs
from mdsd_bounds.dumps import open_dump
from mdsd_bounds.dumps.base import LogitBatch
from mdsd_bounds.dumps.convert import convert
from mdsd_bounds.models.capture import CaptureSettings, log_pair
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run

POSITIONS = 2000
KEPT = 64
LOGGED_AGAIN = 448
COUNTS = (1, 2, 4, 8)
SAMPLERS = ("with_replacement", "without_replacement", "greedy", "top_k")
HIDDEN = CaptureSettings(
    new_tokens=28, temperature=1.0, seed=0, batch_size=16, store="hidden", max_positions=LOGGED_AGAIN
)
KEY = ["sampler", "drafts", "row"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, default=Path("out/study"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("out/forms"))
    parser.add_argument("--result", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    top_k = arguments.out / "top_k.safetensors"
    if not top_k.exists():
        convert(arguments.study, top_k, top_k=KEPT, limit=POSITIONS)
    hidden = log_pair(
        str(arguments.models / "qwen2.5-coder-1.5b"),
        str(arguments.models / "qwen2.5-coder-0.5b"),
        "humaneval",
        arguments.out / "hidden",
        HIDDEN,
    )
    full = bounds(arguments.study, arguments.out / "full.parquet", POSITIONS)
    again = bounds(hidden, arguments.out / "hidden.parquet", LOGGED_AGAIN)
    rounded = bounds(hidden, arguments.out / "hidden_float16.parquet", LOGGED_AGAIN, round_to=torch.float16)
    found: dict[str, Any] = {
        "kept tokens": KEPT,
        "sizes": sizes(arguments.study, hidden, top_k),
        "rows of the hidden form": rebuilt(arguments.study, hidden),
        "hidden": equal(full, again, rounded),
        "top-k": contained(full, bounds(top_k, arguments.out / "top_k.parquet", POSITIONS)),
    }
    arguments.result.mkdir(parents=True, exist_ok=True)
    (arguments.result / "store_forms.json").write_text(json.dumps(found, indent=1) + "\n")
    (arguments.result / "store_forms.md").write_text(page(found))
    print(page(found))


def bounds(path: Path, out: Path, rows: int, round_to: torch.dtype | None = None) -> pd.DataFrame:
    """Per-position bounds of a dump's first rows, computed once; ``round_to`` rounds the rows first."""
    dump = open_dump(path)
    if round_to is not None:
        read = dump.read_rows

        def read_rounded(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            target, draft, columns = read(start, stop)
            return target.to(round_to), draft.to(round_to), columns

        dump = replace(dump, read_rows=read_rounded)
    if not out.exists():
        table = run(dump, Settings(SAMPLERS, COUNTS), out=str(out), limit=rows)
        assert table is not None
    return pd.read_parquet(out)


def sizes(study: Path, hidden: Path, top_k: Path) -> dict[str, dict[str, float]]:
    """Bytes a position on disk, and bytes that do not grow."""
    found = {}
    for name, path in (("logits", study), ("hidden", hidden), ("top-k", top_k)):
        facts = open_dump(path).facts
        found[name] = {"bytes a position": (facts.bytes - facts.fixed_bytes) / facts.rows, "fixed": facts.fixed_bytes}
    return found


def _token(batch: LogitBatch) -> torch.Tensor:
    if batch.token is None:
        raise SystemExit("no tokens were logged; log the rows again")
    return batch.token


def rebuilt(study: Path, hidden: Path) -> dict[str, float]:
    """Logits rebuilt from hidden states against the stored ones, entry by entry."""
    totals = {"positions": 0, "entries": 0, "same tokens": 0, "same float16": 0}
    worst = excess = distance = 0.0
    pairs = zip(
        open_dump(study).batches(16, stop=LOGGED_AGAIN),
        open_dump(hidden).batches(16),
        strict=True,
    )
    for stored, again in pairs:
        totals["positions"] += len(stored.row)
        totals["same tokens"] += int(torch.eq(_token(stored), _token(again)).sum())
        for name in ("target_logits", "draft_logits"):
            old, new = getattr(stored, name), getattr(again, name)
            totals["entries"] += old.numel()
            totals["same float16"] += int((old == new.to(old.dtype)).sum())
            gap = (old.double() - new.double()).abs()
            # Half the distance to the next float16 is what storing alone explains.
            half = torch.from_numpy(np.spacing(np.abs(old.numpy())).astype(np.float64)) / 2
            worst, excess = max(worst, float(gap.max())), max(excess, float((gap - half).max()))
            probs = (to_probs(old) - to_probs(new)).abs().sum(-1) / 2
            distance = max(distance, float(probs.max()))
    return {
        "positions": totals["positions"],
        "share of equal tokens": totals["same tokens"] / totals["positions"],
        "entries": totals["entries"],
        "entries with another float16": totals["entries"] - totals["same float16"],
        "largest difference of a logit": worst,
        "of which float16 does not explain": max(excess, 0.0),
        "largest total variation of a distribution": distance,
    }


def equal(full: pd.DataFrame, hidden: pd.DataFrame, rounded: pd.DataFrame) -> list[dict[str, Any]]:
    """Differences of the values over the positions that all have."""
    both = full.merge(hidden, on=KEY, suffixes=("", "_hidden"), validate="one_to_one")
    both = both.merge(rounded, on=KEY, suffixes=("", "_rounded"), validate="one_to_one")
    return [
        {
            "sampler": sampler,
            "drafts": drafts,
            "positions": len(part),
            "mean": float(part["value"].mean()),
            "mean of the hidden form": float(part["value_hidden"].mean()),
            "largest difference": float((part["value"] - part["value_hidden"]).abs().max()),
            "the same, rounded": float((part["value"] - part["value_rounded"]).abs().max()),
        }
        for (sampler, drafts), part in both.groupby(["sampler", "drafts"], sort=False)
    ]


def contained(full: pd.DataFrame, top_k: pd.DataFrame) -> list[dict[str, Any]]:
    """How many intervals hold the full answer, and how wide they are."""
    both = full.merge(top_k, on=KEY, suffixes=("", "_cut"), validate="one_to_one")
    both["holds"] = (both["certified_low_cut"] <= both["certified_low"] + 1e-9) & (
        both["certified_high"] <= both["certified_high_cut"] + 1e-9
    )
    both["width"] = both["certified_high_cut"] - both["certified_low_cut"]
    return [
        {
            "sampler": sampler,
            "drafts": drafts,
            "positions": len(part),
            "hold the full answer": int(part["holds"].sum()),
            "mean": float(part["value"].mean()),
            "mean low": float(part["certified_low_cut"].mean()),
            "mean high": float(part["high_cut"].mean()),
            "median width": float(part["width"].median()),
            "largest width": float(part["width"].max()),
        }
        for (sampler, drafts), part in both.groupby(["sampler", "drafts"], sort=False)
    ]


def page(found: dict[str, Any]) -> str:
    """The result for people."""
    rows = found["rows of the hidden form"]
    lines = [
        "# Three forms of one dump",
        "",
        "Qwen2.5-Coder-1.5B drafted by its 0.5B sibling on HumanEval, vocabulary 151,936; made by",
        "`scripts/check_forms.py`.  The same positions, stored as full logits, as hidden states, and as the",
        f"{found['kept tokens']} most probable tokens with the mass of the rest.",
        "",
        "| form | bytes a position | once |",
        "|---|---|---|",
        *(
            f"| {name} | {size['bytes a position']:,.0f} | {size['once'] / 1e6:,.0f} MB |"
            for name, size in found["sizes"].items()
        ),
        "",
        "## Hidden states: values that equal the full answer",
        "",
        f"{rows['positions']} positions logged again, storing hidden states: {rows['share of equal tokens']:.2%}",
        f"of the text's tokens are the same.  Of {rows['entries']:,} logits rebuilt from the states",
        f"{rows['entries with another float16']:,} round to another float16 than the stored one.  Before rounding they",
        f"differ from it by up to {rows['largest difference of a logit']:.2g}, and the distributions by up to",
        f"{rows['largest total variation of a probs']:.2g} in total variation: what storing float16 costs.  Rounded in",
        "the same way, the rebuilt logits give the very bounds of the stored ones (last column).",
        "",
        "| sampler | drafts | positions | mean, logits | mean, hidden states | largest difference | after rounding |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['sampler']} | {row['drafts']} | {row['positions']} | {row['mean']:.6f} "
            f"| {row['mean of the hidden form']:.6f} | {row['largest difference']:.1e} "
            f"| {row['the same, rounded']:.1e} |"
            for row in found["hidden"]
        ),
        "",
        "`greedy` and `top_k` fix the most probable tokens of the draft.  Different logits may round to one float16,",
        "and the lower index then wins: another token is fixed, and a position may move by more than the",
        "distributions do.",
        "",
        f"## Top-{found['kept tokens']}: intervals that hold the full answer",
        "",
        "| sampler | drafts | positions | hold the full answer | mean, full | mean low | mean high | median width "
        "| largest width |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['sampler']} | {row['drafts']} | {row['positions']} | {row['hold the full answer']} "
            f"| {row['mean']:.5f} | {row['mean low']:.5f} | {row['mean high']:.5f} | {row['median width']:.1e} "
            f"| {row['largest width']:.1e} |"
            for row in found["top-k"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
