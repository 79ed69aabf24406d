"""Figure: one position and its optimal rule: the majorant, r* against p and q, and what fills the key slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mdsd_bounds.plots.style import COLOURS, MARKERS
from mdsd_bounds.problem import InputError

#: Blocks that span less than this in P and Q are not shaded; pieces of less area are not marked.
_VISIBLE = 0.004
#: Tokens that are not shown one by one.
_OTHERS = "#e4e4e4"


def majorant_figure(
    p: Any, q: Any, n_drafts: int = 4, names: Mapping[int, str] | None = None, tokens: int = 8, figure: Any = None
) -> Any:
    """Three panels for one position with replacement; returns the figure.

    Parameters
    ----------
    p, q : array
        ``[V]`` laws.
    n_drafts : int
        Number of drafts.
    names : mapping, optional
        What to call a token; its number where it has no name.
    tokens : int
        How many of the heaviest tokens (by the larger of p and q) are shown one by one, at most 8.
    figure : optional
        A matplotlib figure to draw in.

    Raises
    ------
    InputError
        If more than 8 tokens are asked for, or the laws are none.
    """
    import matplotlib.pyplot as plt
    import torch

    from mdsd_bounds.bounds import make_problem
    from mdsd_bounds.verifiers.optimal.majorant import majorant
    from mdsd_bounds.verifiers.optimal.with_replacement import find_exchanges

    if not 1 <= tokens <= len(COLOURS):
        raise InputError(f"majorant_figure: tokens={tokens}; at most {len(COLOURS)} can be told apart")
    problem, *_ = make_problem(p, q, n_drafts, "with_replacement")
    target, draft, n = problem.p[0].cpu(), problem.q[0].cpu(), problem.n_drafts[0]
    points = majorant(target, draft, n, "with_replacement")
    exchanges, r, rank = find_exchanges(target.contiguous().numpy(), draft.contiguous().numpy(), n)
    heavy = torch.maximum(target, draft).topk(min(tokens, len(target))).indices.tolist()
    # In the order of priority, so that colours run along the curve and along the keys alike.
    heavy = sorted(heavy, key=lambda token: (rank[token] < 0, rank[token]))
    labels = {token: (names or {}).get(token, str(token)) for token in heavy}
    figure = figure or plt.figure(figsize=(10.5, 8.0), layout="constrained")
    panels = figure.subplot_mosaic([["curve", "laws"], ["keys", "keys"]], height_ratios=[1.45, 1.0])
    left, right, below = panels.values()
    for ax in (left, right, below):
        ax.spines[["top", "right"]].set_visible(False)
    _curve(left, points, heavy, n)
    _laws(right, target.numpy(), draft.numpy(), points.r, r, heavy, labels)
    _keys(below, exchanges, rank, heavy, n)
    return figure


def _curve(ax: Any, points: Any, heavy: list[int], n: int) -> None:
    """The points over prefixes, the majorant and its blocks, and where the slope passes one."""
    import numpy as np

    x, y, corner = points.target, points.mass, points.corner
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    visible = np.hypot(np.diff(x[corner]), np.diff(y[corner])) > _VISIBLE
    for k, place in enumerate(np.flatnonzero(visible)):
        ends = corner[[place, place + 1]]
        ax.fill_between(x[ends], y[ends], color="#000000", alpha=0.05 if k % 2 else 0.13, linewidth=0)
    ax.plot(
        x[corner], y[corner], color="#000000", linewidth=1.6, label="concave majorant (shades: its blocks)", zorder=3
    )
    ax.plot(x, y, color="#777777", linewidth=1.1, linestyle="--", label="points (P, Q) over prefixes", zorder=2)
    slot = {int(token): k for k, token in enumerate(points.order)}
    for i, token in enumerate(heavy):
        ends = [slot[token], slot[token] + 1]
        ax.plot(x[ends], y[ends], color=COLOURS[i], linewidth=2.8, zorder=4, solid_capstyle="butt")
        ax.plot(x[ends[1]], y[ends[1]], linestyle="none", **_mark(i), zorder=5)
    best = int(corner[int((x[corner] - y[corner]).argmin())])
    arrow = {"arrowstyle": "<->", "color": "#000000", "linewidth": 1.1}
    ax.annotate("", (x[best], x[best]), (x[best], y[best]), arrowprops=arrow, zorder=6)
    ax.annotate(
        f"H*, {best:,} tokens:\n1 − alpha* = {y[best] - x[best]:.3f}",
        (x[best], (x[best] + y[best]) / 2),
        xytext=(0.74, 0.52),
        textcoords="axes fraction",
        ha="center",
        va="top",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.8, "shrinkB": 4},
    )
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.02)
    ax.set_xlabel("P(H): target mass of the prefix")
    ax.set_ylabel("Q(H): chance that all drafts lie in it")
    ax.set_title(f"The optimal law of the pick, n = {n}: r* = p × slope", loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=9, loc="lower right")


def _laws(ax: Any, p: Any, q: Any, ideal: Any, r: Any, heavy: list[int], labels: Mapping[int, str]) -> None:
    """p, q, r* and the law of the pick of the heaviest tokens, on a square-root scale."""
    import numpy as np

    rows = np.arange(len(heavy))
    series: list[tuple[Any, str, dict[str, Any]]] = [
        (q, "q", {"marker": "|", "markersize": 14, "markeredgewidth": 2.4, "color": "#999999"}),
        (p, "p", {"marker": "o", "markersize": 7, "color": COLOURS[0]}),
        (
            r,
            "r of the rule that runs",
            {"marker": "D", "markersize": 10, "color": "#000000", "markerfacecolor": "none"},
        ),
        (ideal, "r* of the majorant", {"marker": "x", "markersize": 6, "markeredgewidth": 1.8, "color": COLOURS[3]}),
    ]
    for i, token in enumerate(heavy):
        ax.plot(np.sqrt([q[token], p[token]]), [i, i], color="#cccccc", linewidth=1.0, zorder=0)
        ax.plot(0, i, linestyle="none", **_mark(i), clip_on=False, zorder=5)
    for law, label, style in series:
        ax.plot(np.sqrt(law[heavy]), rows, linestyle="none", label=label, **style)
    most = float(max(law[heavy].max() for law in (p, q, r, ideal)))
    ticks = [t for t in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if t <= 1.2 * most]
    ax.set_xticks(np.sqrt(ticks), [f"{t:g}" for t in ticks])
    ax.set_yticks(rows, [labels[token] for token in heavy])
    ax.tick_params(axis="y", length=0, pad=9)
    ax.set_xlim(0, 1.06 * np.sqrt(most))
    ax.set_ylim(-0.6, len(heavy) - 0.4)
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    ax.set_xlabel("probability (square-root scale)")
    ax.set_ylabel("token, priority p/q upwards")
    ax.set_title("Heaviest tokens: r ≥ p in H*, r ≤ p outside", loc="left", fontsize=11, pad=22)
    handles, names = ax.get_legend_handles_labels()
    ax.legend(
        handles, names, frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=4,
        columnspacing=1.2, handletextpad=0.3, borderaxespad=0.0,
    )  # fmt: skip


def _keys(ax: Any, exchanges: Any, rank: Any, heavy: list[int], n: int) -> None:
    """Slots of the unit interval and what fills them after the exchanges; the area of a colour is its q."""
    import numpy as np
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    from mdsd_bounds.verifiers.optimal.with_replacement import interval_law

    edge = np.concatenate([[0.0], np.cumsum(exchanges.q)])
    moves = interval_law(exchanges).tocoo()
    colour = {int(rank[token]): i for i, token in enumerate(heavy) if rank[token] >= 0}
    mass = exchanges.q[moves.row] * moves.data
    floor = np.zeros(len(exchanges.q))
    patches: dict[int, list[Any]] = {i: [] for i in colour.values()}
    ax.add_patch(Rectangle((0, 0), 1, 1, facecolor=_OTHERS, linewidth=0))
    # A slot's own token lies at the bottom, then the heavy ones that came in, then the others.
    other = np.array([int(row) not in colour for row in moves.row])
    order = np.lexsort((moves.row, other, moves.row != moves.col, moves.col))
    for k in order[mass[order] > 1e-7]:
        owner, slot = int(moves.row[k]), int(moves.col[k])
        share, width = mass[k] / exchanges.q[slot], exchanges.q[slot]
        i = colour.get(owner, -1)
        if i >= 0:
            patches[i].append(Rectangle((edge[slot], floor[slot]), width, share))
            if owner != slot and mass[k] > _VISIBLE / 4 and width > 0.012 and share > 0.03:
                middle = edge[slot] + width / 2, floor[slot] + share / 2
                ax.plot(*middle, linestyle="none", marker=MARKERS[i], color="white", markersize=5)
        floor[slot] += share
    for i, found in patches.items():
        ax.add_collection(PatchCollection(found, facecolor=COLOURS[i], edgecolor="white", linewidth=0.3))
    for slot, i in colour.items():
        if exchanges.q[slot] > _VISIBLE:
            ax.plot((edge[slot] + edge[slot + 1]) / 2, -0.055, linestyle="none", **_mark(i), clip_on=False)
    s = np.linspace(0, 1, 200)
    ax.plot(s, s**n, color="#ffffff", linewidth=3.0, alpha=0.7)
    ax.plot(s, s**n, color="#000000", linewidth=1.5, linestyle="--")
    at = 0.72
    ax.annotate(
        f"chance that the largest of {n} keys is below s", (at, at**n), xytext=(-8, 4), textcoords="offset points",
        ha="right", va="bottom", fontsize=9, bbox={"boxstyle": "round", "fc": "white", "alpha": 0.85, "linewidth": 0},
    )  # fmt: skip
    cut = edge[exchanges.held]
    ax.axvline(cut, color="#000000", linewidth=1.2)
    ax.annotate("H* ←", (cut, 1.0), xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.tick_params(axis="x", pad=12)
    ax.set_xlabel("key s: each draft gets one from its token's area, the largest is picked")
    ax.set_ylabel("share of the slot")
    ax.set_title(
        "Key slots after the exchanges: a token's area is its q; white marks: mass swapped into another's slot",
        loc="left",
        fontsize=11,
        pad=16,
    )


def _mark(i: int) -> dict[str, Any]:
    """The marker of the i-th heavy token."""
    return {
        "marker": MARKERS[i],
        "color": COLOURS[i],
        "markersize": 8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
