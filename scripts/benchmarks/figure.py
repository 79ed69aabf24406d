"""The figure of ``make bench``: one panel for each table that was run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, title

Rows = list[dict[str, Any]]

#: Names of the solvers as their makers write them.
SOLVERS = {
    "lp": "HiGHS",
    "cvxpy": "cvxpy",
    "linprog": "scipy linprog",
    "maxflow": "OR-tools max-flow",
    "min_cost_flow": "OR-tools min-cost flow",
    "emd": "POT emd",
    "prefix": "prefix scan (ours)",
}
SOFTMAX = "times float32 softmax of the same two rows"
WIDTH = 151_936


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what a result of ``scripts/bench.py`` holds; nothing where no table has a panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = {name: part["rows"] for name, part in result.items()}
    panels: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    if "oracles" in tables:
        panels.append((_peers, (tables["oracles"],)))
    if "cores" in tables:
        panels.append((_before_and_after, (tables["cores"],)))
        for case, label in (
            ("vocabulary", "tokens in the vocabulary"),
            ("drafts", "largest n (all n up to it)"),
            ("batch", "rows in a batch"),
        ):
            panels.append((_growth, (tables["cores"], case, label)))
    if "optimal" in tables:
        panels.append((_prepare, (tables["optimal"],)))
    if "verifiers" in tables:
        panels += [(_steps, (tables["verifiers"], what)) for what in ("step", "exact rate")]
    if "worker" in tables:
        panels.append((_worker, (tables["worker"],)))
    if not panels:
        return
    down = -(-len(panels) // 3)
    figure, axes = plt.subplots(down, 3, figsize=(16, 4.6 * down), layout="constrained", squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, (panel, given) in zip(axes.flat, panels, strict=False):
        panel(ax, *given)
        ax.title.set_fontsize(10.5)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(ax: Any, series: dict[str, tuple[list[float], list[float]]], mine: str = "") -> None:
    for i, (label, (x, y)) in enumerate(series.items()):
        own = label == mine
        ax.plot(
            x,
            y,
            color="black" if own else COLOURS[i % 6],
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            linestyle="-" if own else DASHES[i % len(DASHES)],
            linewidth=2.4 if own else 1.4,
            label=label,
        )


def _peers(ax: Any, rows: Rows) -> None:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        x, y = series.setdefault(SOLVERS.get(row["solver"]) or row["solver"], ([], []))
        x.append(row["vocabulary"])
        y.append(row["ms"])
    _lines(ax, series, SOLVERS["prefix"])
    ax.set(xscale="log", yscale="log", xlabel="tokens in the vocabulary", ylabel="ms")
    ax.set_title("The bound beside its peers: n = 2 without replacement")
    # Room for the names above the curves.
    ax.set_ylim(top=100 * max(row["ms"] for row in rows))
    ax.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
    _ticks(ax.xaxis, sorted({row["vocabulary"] for row in rows}))
    _decimal(ax.yaxis)


def _before_and_after(ax: Any, rows: Rows) -> None:
    """Milliseconds, not ratios: the scan runs in small batches, beside another softmax than the search."""
    part = [row for row in rows if row["case"] == "sampler"]
    samplers = list(dict.fromkeys(row["sampler"] for row in part))
    for i, (method, label) in enumerate((("prefix", "before: plain scan"), ("fast", "now: search between cells"))):
        found = {row["sampler"]: row for row in part if row["method"] == method}
        places = [k + 0.38 * (i - 0.5) for k, sampler in enumerate(samplers) if sampler in found]
        times = [row["ms_per_position"] for row in found.values()]
        ax.barh(places, times, 0.36, color=COLOURS[1 - i], hatch="//" if i else None, edgecolor="white", label=label)
        for place, time, row in zip(places, times, found.values(), strict=True):
            alone = " (n = 8 alone)" if row["asked"] == "8" else ""
            ax.annotate(f"{_short(time)}{alone}", (time, place), (4, 0), textcoords="offset points", va="center",
                        fontsize=8)  # fmt: skip
    softmax = median(row["softmax_ms"] for row in part if row["method"] == "fast")
    ax.axvline(softmax, color="0.4", linewidth=0.8)
    ax.annotate("softmax of the rows", (softmax, -0.55), (3, 0), textcoords="offset points", fontsize=7, color="0.3")
    ax.set_yticks(range(len(samplers)), [title(sampler) for sampler in samplers])
    ax.set(xscale="log", xlabel="ms per position", title="All of n = 1..8, V = 151,936")
    ax.margins(x=0.3, y=0.1)
    ax.invert_yaxis()
    _decimal(ax.xaxis)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _growth(ax: Any, rows: Rows, case: str, label: str) -> None:
    series = {}
    for sampler in ("with_replacement", "without_replacement"):
        part = [row for row in rows if (row["case"], row["sampler"], row["method"]) == (case, sampler, "fast")]
        part.sort(key=lambda row: row[case])
        series[title(sampler)] = ([row[case] for row in part], [row["ms_per_position"] for row in part])
    _lines(ax, series)
    ticks = sorted({x for x, _ in series.values() for x in x})
    ax.set(xlabel=label, ylabel="ms per position", xscale="linear" if case == "vocabulary" else "log")
    ax.set_title(f"Growth with {'the ' if case != 'drafts' else ''}{case}")
    # Room for the legend above the lines.
    ax.set_ylim(0, 1.3 * max(y for _, ys in series.values() for y in ys))
    _ticks(ax.xaxis, ticks)
    ax.legend(fontsize=8, frameon=False)


def _prepare(ax: Any, rows: Rows) -> None:
    series: dict[str, tuple[list[float], list[float]]] = {}
    # Truncated rows and batches are in the table alone.
    rows = [row for row in rows if "kept" not in row]
    for row in rows:
        for name, key in (("prepare", "prepare_ms"), ("step", "step_ms")):
            if name == "step" and row["sampler"] != "without_replacement":
                continue
            label = title(row["sampler"]) if name == "prepare" else "one step, without replacement"
            x, y = series.setdefault(label, ([], []))
            x.append(row["drafts"])
            y.append(row[key])
    _lines(ax, series)
    ax.set(xscale="log", yscale="log", xlabel="n", ylabel="median ms per position")
    ax.set_title("Optimal verifier: preparing a position, V = 151,936")
    _ticks(ax.xaxis, sorted({row["drafts"] for row in rows}))
    _decimal(ax.yaxis)
    ax.set_ylim(top=60 * max(row["prepare_ms"] for row in rows))
    ax.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)


def _steps(ax: Any, rows: Rows, what: str) -> None:
    found: dict[str, float] = {}
    for row in rows:
        if row["vocabulary"] == WIDTH and row["what"] == what:
            after = f", {title(row['sampler'])}" if row["sampler"] == "greedy" != row["verifier"] else ""
            found[f"{title(row['verifier'])}{after}, n = {row['drafts']}"] = row["ratio"]
    _dots(ax, found)
    name = "one step of a batch of 64" if what == "step" else "exact acceptance of n = 1..8"
    ax.set(xlabel=SOFTMAX, title=f"Verifiers: {name}, V = 151,936")


def _worker(ax: Any, rows: Rows) -> None:
    _dots(ax, {title(row["step"]): row["ratio"] for row in rows})
    ax.set(xlabel=SOFTMAX, title="One worker of one thread: n = 1, 2, 4, 8")


def _dots(ax: Any, found: dict[str, float]) -> None:
    places = range(len(found))
    ax.hlines(places, 0.9 * min(found.values()), found.values(), color="0.85", linewidth=1)
    ax.plot(list(found.values()), places, linestyle="none", marker="o", markersize=5, color=COLOURS[0])
    for place, ratio in zip(places, found.values(), strict=True):
        ax.annotate(_short(ratio), (ratio, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_yticks(places, list(found), fontsize=8 if len(found) < 12 else 7)
    ax.set_xscale("log")
    ax.axvline(1, color="0.4", linewidth=0.8)
    ax.margins(x=0.15)
    ax.invert_yaxis()
    _decimal(ax.xaxis)


def _short(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"


def _ticks(axis: Any, values: list[float]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_ticks(values, [f"{value:,}" for value in values])
    axis.set_minor_locator(NullLocator())


def _decimal(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
