"""The figure of ``make bench``: peers by size of the vocabulary, and every ratio to softmax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, title

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


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what a result of ``scripts/bench.py`` holds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = {name: _labelled(part["rows"]) for name, part in result.items() if name != "oracles"}
    tables = {name: rows for name, rows in tables.items() if rows}
    peers = result.get("oracles")
    panels = len(tables) + (peers is not None)
    if panels == 0:
        return
    heights = ([14] if peers is not None else []) + [len(rows) + 3 for rows in tables.values()]
    figure, axes = plt.subplots(
        panels, 1, figsize=(7.2, 0.24 * sum(heights) + 0.6), layout="constrained", height_ratios=heights, squeeze=False
    )
    places = iter(axes[:, 0])
    if peers is not None:
        _peers(next(places), peers)
    for name, rows in tables.items():
        _ratios(next(places), result[name]["title"], rows)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _peers(ax: Any, part: dict[str, Any]) -> None:
    solvers = list(dict.fromkeys(row["solver"] for row in part["rows"]))
    for i, solver in enumerate(solvers):
        rows = [row for row in part["rows"] if row["solver"] == solver]
        mine = solver == "prefix"
        ax.plot(
            [row["vocabulary"] for row in rows],
            [row["ms"] for row in rows],
            color="black" if mine else COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle="-" if mine else DASHES[1 + i % (len(DASHES) - 1)],
            linewidth=2.4 if mine else 1.4,
            label=SOLVERS.get(solver, solver),
        )
    ax.set(xscale="log", yscale="log", xlabel="vocabulary", ylabel="ms", title=part["title"])
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _plain(ax)


def _labelled(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """(label, kind of ratio, ratio) of every number whose column says that it is a ratio."""
    found = []
    for row in rows:
        label = ", ".join(
            f"V = {value:,}" if name == "vocabulary" else f"{name} {value}" if isinstance(value, int) else title(value)
            for name, value in row.items()
            if isinstance(value, str | int) and not isinstance(value, bool)
        )
        found.extend(
            (label, name, float(value))
            for name, value in row.items()
            if isinstance(value, float) and (name == "ratio" or name.endswith("_ratio"))
        )
    return found


def _ratios(ax: Any, name: str, rows: list[tuple[str, str, float]]) -> None:
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    labels = list(dict.fromkeys(label for label, _, _ in rows))
    for i, kind in enumerate(kinds):
        points = [(labels.index(label), ratio) for label, found, ratio in rows if found == kind]
        ax.plot(
            [ratio for _, ratio in points],
            [place for place, _ in points],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle="none",
            label=title(kind),
        )
        for place, ratio in points:
            ax.annotate(f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}", (ratio, place), (6, 0), fontsize=7,
                        textcoords="offset points", va="center")  # fmt: skip
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="times float32 softmax of the same two rows", title=name)
    ax.axvline(1, color="0.6", linewidth=0.8)
    ax.margins(x=0.12)
    if len(kinds) > 1:
        ax.legend(fontsize=8, frameon=False)
    _plain(ax)


def _plain(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for axis in [ax.xaxis] + ([ax.yaxis] if ax.get_yscale() == "log" else []):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.title.set_fontsize(10)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
