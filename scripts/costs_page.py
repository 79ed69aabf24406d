"""Make ``docs/costs.md`` from ``docs/costs.json``: what everything costs.

python scripts/bench.py --only costs,machinery --out docs/costs.json
python scripts/costs_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
#: What each part of the table is, in the order of the page.
PARTS = {
    "distributions": "From logits to probabilities; every command that reads logits pays this first.",
    "bound": "`alpha*` from given distributions, their validation included.  All numbers of drafts up to 8 share one "
    "search; without replacement those up to 16, 32 and 64 take one more each.",
    "exact acceptance rate": "Rates of published rules without sampling, all eight numbers of drafts in one call.",
    "verification step": "One output token for each position, p, q and four drafts given.",
    "optimal rule": "`prepare` once a position, then a step for each set of drafts.",
}


def page(measured: dict[str, Any], bench: dict[str, Any]) -> str:
    """The page of the two benchmarks ``measured``, and the routes of ``bench`` beside one another."""
    part = measured["costs"]
    rows, machine = part["rows"], part["machine"]
    reference = sorted(row["softmax_ms"] for row in rows if row["rows"] > 1)
    lines = [
        "# What everything costs",
        "",
        *conclusion(rows),
        "",
        "Made by `scripts/costs_page.py` from `docs/costs.json` (`python scripts/bench.py --only costs`).  The tables",
        "up to the optimal rule are of one run.",
        "A cost is processor time of one thread, in milliseconds a position at V = 151,936 on the shipped",
        "rows; *times softmax* is its ratio to `torch.softmax` in float32 of the same two rows into memory that is",
        f"already held, run in turn with it ({reference[0]:.2f} to {reference[-1]:.2f} ms a position).  Threads",
        "share the rows of a batch.  Ratios carry over to other machines better than milliseconds do.",
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
    ]
    if machine["load"] > machine["cores"]:
        lines += [
            "Other programs used the machine meanwhile, which lengthens processor time on both sides of a ratio, and",
            "most where memory is the limit: take milliseconds here for upper limits.",
        ]
    for name, about in PARTS.items():
        lines += [
            "",
            f"## {name[0].upper()}{name[1:]}",
            "",
            about,
            "",
            "| | ms a position | times softmax |",
            "|---|---:|---:|",
        ]
        lines += [
            f"| {row['what'].replace('_', ' ')} | {row['ms_per_position']:.3g} | {_short(row['ratio'])} |"
            for row in rows
            if row["part"] == name
        ]
    lines += [
        "",
        *machinery(measured["machinery"]),
        "",
        *peers(bench),
        "",
        "## Where else costs are stated",
        "",
        "- Reading, writing and whole runs over a dump on disk: [scale](scale.md).",
        "- Preparation of the optimal rule on truncated rows, with its gap: [certificates](optimal_certificates.md).",
        "- Ray (`--engine ray`) spreads a run over machines; `make bench-gpu` times the search on a GPU.",
    ]
    return "\n".join(lines) + "\n"


def machinery(part: dict[str, Any]) -> list[str]:
    """What hand-made pieces bring."""
    return [
        "## Machinery and what would stand in its place",
        "",
        "`scripts/benchmarks/machinery.py`: what is made by hand here stays because of this table.  The last column",
        "is the time of the stand-in over that of the piece.",
        "",
        "| piece | instead of | ms | ms instead | time saved, times |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {row['what']} | {row['instead of']} | {row['ms']:.3g} | {row['instead_ms']:.3g} | "
            f"{_short(row['ratio'])} |"
            for row in part["rows"]
        ),
        "",
        "Three runs on a shared machine: kept buffers 3.0 to 4.0, pages 1.5 to 2.4, the kernel 0.95 to 1.7 on float32",
        "and 1.2 to 2.1 on float16, the sort of thousands 3.8 to 6.4 and of twenty about 1.",
        "Reading past the cache saved processor time every time (2.4 to 3.5) and elapsed time not always",
        "(0.76 to 1.7): it leaves the processor to the bounds, and is taken only for dumps that the cache could",
        "not keep.",
    ]


def peers(bench: dict[str, Any]) -> list[str]:
    """The search beside the plain scan, and the scan beside other solvers, each from its latest run."""
    rows = [row for row in bench["cores"]["rows"] if row["case"] == "sampler"]
    scanned = {row["sampler"]: row for row in rows if row["method"] == "prefix"}
    solvers = [row for row in bench["oracles"]["rows"] if row["vocabulary"] == 200]
    return [
        "## Beside other routes",
        "",
        "`python scripts/bench.py --only cores`, one run of it on "
        + ", ".join(f"{key} {value}" for key, value in bench["cores"]["machine"].items())
        + " ([numbers](results/bench.json)): all of n = 1..8 at V = 151,936, milliseconds a position in batches of 64,",
        "the plain scan in the batches of 1 to 8 rows that suit it.",
        "",
        "| draft sampler | sort and scan every prefix | search between cells | times softmax in place |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['sampler'].replace('_', ' ')} | {scanned[row['sampler']]['ms_per_position']:.3g}"
            f"{' (n = 8 alone)' if scanned[row['sampler']]['asked'] == '8' else ''} | {row['ms_per_position']:.2g} | "
            f"{row['reused_ratio']:.2g} |"
            for row in rows
            if row["method"] == "fast"
        ),
        "",
        "![Every calculation beside its peers, as ratios](figures/bench.png)",
        "",
        "The bound of n = 2 without replacement at V = 200, milliseconds: "
        + ", ".join(f"{row['solver']} {row['ms']:.3g}" for row in solvers)
        + ".",
    ]


def conclusion(rows: list[dict[str, Any]]) -> list[str]:
    """The page's first sentences, from its figures."""
    cost = {row["what"]: row for row in rows}
    eight = cost["without_replacement, n = 8 alone"]["ms_per_position"]
    more = [cost[f"without_replacement, n = {n} alone"]["ms_per_position"] / eight for n in (16, 32, 64)]
    with_replacement = cost["with_replacement, n = 1..8, batch of 32"]
    without = cost["without_replacement, n = 1..8, batch of 32"]
    times = f"{more[0]:.1f}, {more[1]:.1f} and {more[2]:.1f} times"
    return [
        f"**A bound for eight numbers of drafts costs {with_replacement['ratio']:.1f} softmaxes with replacement and "
        f"{without['ratio']:.1f} without;",
        f"16, 32 and 64 draws without replacement take {times} the time of 8.**",
    ]


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def main() -> None:
    bench = json.loads((DOCS / "results" / "bench.json").read_text())
    (DOCS / "costs.md").write_text(page(json.loads((DOCS / "costs.json").read_text()), bench))


if __name__ == "__main__":
    main()
