"""The search between cells against the plain scan, and how its cost grows with vocabulary, drafts and batch.

    PYTHONPATH=scripts python -m benchmarks.cores [RUNS [OUT.json]]

writes the rows as JSON and a figure beside them.  Every ratio is to ``torch.softmax`` in float32 of the same two rows,
run in turn; ``reused_ratio`` is to the same softmax writing into memory that it already holds (the plain call takes
fresh memory for its result, which on large batches costs more than the softmax).  Bounds start from float64 laws and
include their validation.  Times are processor time of all threads, so that other work on the machine shows less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import interleaved, logits, machine, softmax_of_both

from mdsd_bounds import optimal_acceptance, to_law
from mdsd_bounds.bounds import make_problem

TITLE = "Bounds from float64 laws: search between cells (fast) and plain scan (prefix)"

WIDTH = 151_936
ALL = tuple(range(1, 9))
SAMPLERS = ("with_replacement", "greedy", "without_replacement", "top_k", "top_m_plus")
#: Rows of the plain scan.  Without replacement it takes seconds for each: it answers n = 8 alone there, once.
SCANNED = {"with_replacement": 8, "greedy": 4, "without_replacement": 1, "top_k": 4, "top_m_plus": 1}


def rows_at(size: int, rows: int) -> tuple[Tensor, Tensor]:
    """Logits of a target and a draft; beyond the shipped 32 the rows are repeated at temperature 0.6."""
    target, draft = logits(size, rows)
    if size == WIDTH and rows > 32:
        target[32:], draft[32:] = target[32:] / 0.6, draft[32:] / 0.6
    return target, draft


def _measure(case: str, size: int, batch: int, call: Callable[[Tensor, Tensor], Any], runs: int, **facts: Any) -> Any:
    print(f"{case} V={size} batch={batch} {facts}", file=sys.stderr)
    target, draft = rows_at(size, batch)
    p, q = to_law(target), to_law(draft)
    mine, other = torch.empty_like(target), torch.empty_like(draft)
    references = (
        softmax_of_both(target, draft),
        lambda: (torch.softmax(target, -1, out=mine), torch.softmax(draft, -1, out=other)),
    )
    if runs:
        times = interleaved(runs, lambda: call(p, q), *references, clock=time.process_time)
    else:
        # Once and cold, between two lots of the reference.
        before = interleaved(3, *references, clock=time.process_time)
        begun = time.process_time()
        call(p, q)
        times = [[time.process_time() - begun]]
        after = interleaved(3, *references, clock=time.process_time)
        times += [one + two for one, two in zip(before, after, strict=True)]
    subject, plain, reused = (statistics.median(each) for each in times)
    return {
        "case": case,
        **facts,
        "vocabulary": size,
        "batch": batch,
        "cpu_ms_per_position": 1e3 * subject / batch,
        "ratio": subject / plain,
        "reused_ratio": subject / reused,
    }


def _bound(sampler: str, counts: tuple[int, ...], method: str) -> Callable[[Tensor, Tensor], Any]:
    options = {"m": 1} if sampler == "top_m_plus" else {}
    return lambda p, q: optimal_acceptance(p, q, counts, sampler, method=method, **options)


def table(runs: int) -> list[dict[str, Any]]:
    """All samplers by both methods; growth of two of them; the steps before a bound."""
    found = []

    def bound(case: str, sampler: str, size: int, batch: int, counts: tuple[int, ...], method: str = "fast") -> None:
        call = _bound(sampler, counts, method)
        asked = f"1..{counts[-1]}" if counts == tuple(range(1, counts[-1] + 1)) else ",".join(map(str, counts))
        facts = {"sampler": sampler, "method": method, "drafts": max(counts), "asked": asked}
        found.append(_measure(case, size, batch, call, runs if method == "fast" else 0, **facts))

    for sampler in SAMPLERS:
        bound("sampler", sampler, WIDTH, 64, ALL)
        bound("sampler", sampler, WIDTH, SCANNED[sampler], (8,) if SCANNED[sampler] == 1 else ALL, "prefix")
    for sampler in ("with_replacement", "without_replacement"):
        for size in (32_000, WIDTH, 262_144):
            bound("vocabulary", sampler, size, 16, ALL)
        for most in (1, 2, 4, 8):
            bound("drafts", sampler, WIDTH, 16, tuple(range(1, most + 1)))
        for batch in (1, 4, 16, 64):
            bound("batch", sampler, WIDTH, batch, ALL)
    for most in (16, 64):
        bound("drafts", "with_replacement", WIDTH, 16, (*ALL, most))
    bound("drafts", "without_replacement", WIDTH, 1, (16,), "prefix")
    check = lambda p, q: make_problem(p, q, ALL, "with_replacement")  # noqa: E731
    found.append(_measure("before", WIDTH, 64, check, runs, sampler="validation of both laws", method="", drafts=8))
    target, draft = rows_at(WIDTH, 64)
    both = lambda p, q: (to_law(target, temperature=0.7), to_law(draft, temperature=0.7))  # noqa: E731
    found.append(_measure("before", WIDTH, 64, both, runs, sampler="to_law of both", method="", drafts=8))
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Old and new for every sampler, and the growth of the new one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, title

    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.6), layout="constrained")
    for i, method in enumerate(("prefix", "fast")):
        part = [row for row in rows if row["case"] == "sampler" and row["method"] == method]
        places = [k + 0.38 * (0.5 - i) for k in range(len(part))]
        ratios = [row["ratio"] for row in part]
        label = "plain scan" if method == "prefix" else "search between cells"
        axes[0, 0].barh(
            places, ratios, 0.36, color=COLOURS[1 - i], hatch="//" if i else None, edgecolor="white", label=label
        )
        for place, ratio in zip(places, ratios, strict=True):
            axes[0, 0].text(ratio * 1.12, place, f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}", va="center", size=8)
        axes[0, 0].set_yticks(range(len(part)), [title(row["sampler"]) for row in part])
    axes[0, 0].set(
        xscale="log", xlabel="processor time / float32 softmax of the two rows", title="n = 1..8 at once, V = 151,936"
    )
    axes[0, 0].margins(x=0.2)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize=8, frameon=False, loc="upper right")
    names = {
        "vocabulary": "tokens in the vocabulary",
        "drafts": "largest n (all n up to it)",
        "batch": "rows in a batch",
    }
    for ax, (case, label) in zip(axes.flat[1:], names.items(), strict=True):
        for i, sampler in enumerate(("with_replacement", "without_replacement")):
            part = [r for r in rows if r["case"] == case and r["sampler"] == sampler and r["method"] == "fast"]
            ax.plot(
                [row[case] for row in part], [row["cpu_ms_per_position"] for row in part], color=COLOURS[i],
                marker=MARKERS[i], linestyle=DASHES[i], label=title(sampler),
            )  # fmt: skip
        ax.set(xlabel=label, ylabel="processor ms per position", xscale="linear" if case == "vocabulary" else "log")
        ticks = sorted({row[case] for row in rows if row["case"] == case and row["method"] == "fast"})
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8, frameon=False)
    for ax in axes.flat:
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run alone."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "out/cores.json")
    rows = table(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "title": TITLE, "rows": rows}, indent=1))
    draw(rows, out.with_suffix(".png"))
    for row in rows:
        print(" ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))


if __name__ == "__main__":
    main()
