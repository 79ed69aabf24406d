"""Make ``docs/scale.md``: what a billion positions cost, from the measured rates of one worker.

    python scripts/bench.py --only worker,streaming --out docs/scale.json
    python scripts/scale_page.py

(The dump of the second benchmark is small unless ``scripts/benchmarks/streaming.py --gigabytes 20
--out docs/scale.json`` makes it.)

Nothing on the page is measured at that size: it is the rates of ``docs/scale.json``, multiplied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS

DOCS = Path(__file__).parent.parent / "docs"
POSITIONS = 1_000_000_000
WORKERS = (8, 64, 256, 1_000)
SAMPLERS = ("with_replacement", "greedy", "without_replacement")
#: Float16 logits of two models, and hidden states of the widths that the worker benchmark rebuilds.
KINDS = {"logits": "float16 logits", "hidden": "hidden states, float16"}


def page(part: dict[str, Any]) -> str:
    """The page of one table of the worker benchmark."""
    steps = {row["step"]: row for row in part["rows"]}
    sizes = {"logits": steps["read logits"]["bytes_per_position"]}
    rebuilding = {name: row for name, row in steps.items() if name.startswith("rebuild")}
    fastest = min(rebuilding, key=lambda name: rebuilding[name]["ms_per_position"])
    sizes["hidden"] = steps[fastest]["bytes_per_position"]
    results = steps["write results"]
    disk = sizes["logits"] / steps["read logits"]["ms_per_position"] / 1e3
    machine = ", ".join(f"{key} {value}" for key, value in part["machine"].items())

    terabytes = results["bytes_per_position"] * POSITIONS / 1e12

    def compute_ms(kind: str) -> float:
        bound = sum(steps[f"bound {sampler}"]["ms_per_position"] for sampler in SAMPLERS)
        rebuilt = rebuilding[fastest]["ms_per_position"] if kind == "hidden" else 0.0
        return float(bound + rebuilt + results["ms_per_position"])

    def read_ms(kind: str) -> float:
        return float(sizes[kind] / disk / 1e3)

    lines = [
        "# A billion positions, on paper",
        "",
        "Made by `scripts/scale_page.py` from `docs/scale.json` (`scripts/bench.py --only worker`).  **Nothing here",
        "was run at this size**: measured rates of one worker are multiplied.",
        "",
        "## Measured: one worker, one thread",
        "",
        "V = 151,936, n = 1, 2, 4 and 8 together, the shipped rows of Qwen2.5-Coder 1.5B and 0.5B.",
        f"Machine: {machine}.",
        "Processor time, except for reading from a cold page cache (elapsed); the least of several runs.",
        "",
        "| step | ms a position | times float32 softmax of the two rows | bytes a position |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['step'].replace('_', ' ')} | {row['ms_per_position']:.3g} | {row['ratio']:.2g} | "
            f"{row['bytes_per_position']:,.0f} |"
            for row in part["rows"]
        ),
        "",
        f"Reading ran at {disk:,.0f} MB/s.  Results are {results['bytes_per_position']:,.0f} bytes a position in a",
        f"part of {BLOCK_ROWS} (three samplers, four n), {terabytes:.2g} TB in all.",
        "",
        "## What it comes to",
        "",
        "| dump | bytes a position | dump | computing, core hours | reading, hours of one such disk |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {label} | {sizes[kind]:,.0f} | {sizes[kind] * POSITIONS / 1e12:,.3g} TB | "
            f"{compute_ms(kind) * POSITIONS / 3.6e6:,.0f} | {read_ms(kind) * POSITIONS / 3.6e6:,.3g} |"
            for kind, label in KINDS.items()
        ),
        "",
        f"Three samplers, all n.  Hidden states are rebuilt by a matrix product in {fastest.split(', ')[1]}, the",
        "faster of the two measured.  Every bound makes the distributions again; a run of several samplers makes them",
        "once, so that the computing is rather less.",
        "",
        "Elapsed time if every worker has a core and work divides evenly.  *Own disk*: each worker reads its share at",
        "the measured rate while it computes.  *Shared*: the total rate of reading that keeps the workers busy.",
        "",
        "| workers | " + " | ".join(f"{label}: own disk | shared" for label in KINDS.values()) + " |",
        "|---:|" + "---:|---:|" * len(KINDS),
    ]
    lines += [_elapsed(workers, sizes, compute_ms, read_ms) for workers in WORKERS]
    saved = sizes["logits"] / sizes["hidden"]
    dearer = compute_ms("hidden") / compute_ms("logits")
    lines += [
        "",
        "## What follows",
        "",
        f"- Hidden states take {saved:,.0f} times less room and reading, and {dearer:.2g} times the computing.  Where",
        "  many workers share one store, its rate is the limit with logits and the cores are with hidden states.",
        "- A part is what a killed worker loses: a billion rows are cut into at most 16,384 parts of 61,056 rows, "
        f"{_time(compute_ms('logits') * 61_056 / 1e3)} of",
        "  computing with logits.  With 1,000 workers the last round of parts leaves up to 4% of them idle.",
        "- The summary reads the joined table as a whole: twelve lines a position.  At this size give each portion of",
        "  the dump an `--out` of its own and summarise the portions.",
        "- GPUs are not on this page: their rates were not measured.",
        "- Not counted: starting workers, opening dumps, scheduling, and whatever a network adds to a disk.",
    ]
    return "\n".join(lines) + "\n"


def _elapsed(
    workers: int, sizes: Mapping[str, float], compute_ms: Callable[[str], float], read_ms: Callable[[str], float]
) -> str:
    """A line of elapsed times: what each kind of dump takes so many workers, and what it asks of a store."""
    cells = []
    for kind in KINDS:
        slower = max(compute_ms(kind), read_ms(kind))
        cells.append(_time(slower * POSITIONS / workers / 1e3))
        cells.append(f"{sizes[kind] * workers / compute_ms(kind) / 1e6:,.3g} GB/s")
    return f"| {workers:,} | " + " | ".join(cells) + " |"


def streaming(part: dict[str, Any]) -> str:
    """What the loop did with one large dump on disk."""
    lines = [
        "",
        "## Measured: the loop over a dump on disk",
        "",
        "`scripts/benchmarks/streaming.py`: files dropped from the page cache first; blocks from memory and reading",
        "alone are timed in turn with the loop over a quarter of the dump, elapsed medians.  *Share*: the loop's rate",
        "over the lower of those two.  Peak memory and *whole run* are those of `mdsd bounds`, or of `mdsd compare`",
        "where verifiers are named, over the whole dump, with start, join and summary.",
        f"Load {part['machine']['load']} on {part['machine']['cores']} cores.",
        "",
        "A dump larger than half of the free memory is read *past* the page cache, a smaller one *through* it.",
        "Filling that cache takes time of the processor away from computing: a small dump read either way shows how",
        "much here.",
        "",
        "| sampler | verifiers | dump | cache | loop, ms | from memory, ms | disk, ms | share | peak memory | "
        "whole run, ms |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row['sampler'].replace('_', ' ')} | {row['verifiers']} | {row['gigabytes']:.3g} GB | "
            f"{'through' if row['through_cache'] else 'past'} | "
            f"{row['loop_ms']:.3g} | {row['memory_ms']:.3g} | {row['disk_ms']:.3g} | {row['share']:.2f} | "
            f"{row['peak_GB']:.2f} GB | {row['whole_ms']:.3g} |"
            for row in part["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s"


def main() -> None:
    content = json.loads((DOCS / "scale.json").read_text())
    (DOCS / "scale.md").write_text(page(content["worker"]) + streaming(content["streaming"]))


if __name__ == "__main__":
    main()
