"""Figure: one position and its optimal rule: the majorant, r* against p and q, and what fills the intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mdsd_bounds.plots.style import COLOURS, MARKERS
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

#: Blocks that span less than this in P and Q are not shaded; pieces of less area are not marked.
_VISIBLE = 0.004
#: Tokens that are not shown one by one.
_OTHERS = "#e4e4e4"


def majorant_figure(
    p: ArrayLike,
    q: ArrayLike,
    n_drafts: int = 4,
    names: Mapping[int, str] | None = None,
    tokens: int = 8,
    figure: Figure | None = None,
) -> Figure:
    """Three panels for one position with replacement; returns the figure.

    Parameters
    ----------
    p, q : array
        ``[V]`` distributions.
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
        If more than 8 tokens are asked for, or the distributions are none.

    Examples
    --------
    >>> from mdsd_bounds.plots import majorant_figure
    >>> figure = majorant_figure([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, {0: "the", 1: "a", 2: "an"})
    >>> len(figure.axes) > 0
    True
    """
    import matplotlib.pyplot as plt
    import torch

    from mdsd_bounds.bounds import make_problem
    from mdsd_bounds.verifiers.optimal import prepare
    from mdsd_bounds.verifiers.optimal.majorant import majorant
    from mdsd_bounds.verifiers.optimal.with_replacement import ExchangeRule

    if not 1 <= tokens <= len(COLOURS):
        raise InputError(f"majorant_figure: tokens={tokens}; at most {len(COLOURS)} can be told apart")
    problem, *_ = make_problem(p, q, n_drafts, "with_replacement")
    target, draft, n = problem.p[0].cpu(), problem.q[0].cpu(), problem.n_drafts[0]
    points = majorant(target, draft, n, "with_replacement")
    prepared = prepare(target, draft, n, "with_replacement")
    rule = prepared.rule
    assert isinstance(rule, ExchangeRule)
    heavy = torch.maximum(target, draft).topk(min(tokens, len(target))).indices.tolist()
    # In the order of priority, so that colours run along the curve and along the intervals alike.
    heavy = sorted(heavy, key=lambda token: (rule.interval[token] == 0, rule.interval[token]))
    labels = {token: (names or {}).get(token, str(token)) for token in heavy}
    figure = figure or plt.figure(figsize=(10.5, 8.0), layout="constrained")
    panels = figure.subplot_mosaic([["curve", "distributions"], ["intervals", "intervals"]], height_ratios=[1.45, 1.0])
    left, right, below = panels.values()
    for ax in (left, right, below):
        ax.spines[["top", "right"]].set_visible(False)
    _curve(left, points, heavy, n)
    _distributions(right, target.numpy(), draft.numpy(), points.r, prepared.r.numpy(), heavy, labels)
    _intervals(below, rule, heavy, n)
    return figure


def _curve(ax: Axes, points: Any, heavy: list[int], n: int) -> None:
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
    ax.set_title(f"The optimal distribution of the pick, n = {n}: r* = p × slope", loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=9, loc="lower right")


def _distributions(ax: Axes, p: Any, q: Any, ideal: Any, r: Any, heavy: list[int], labels: Mapping[int, str]) -> None:
    """p, q, r* and the distribution of the pick of the heaviest tokens, on a square-root scale."""
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
    for probs, label, style in series:
        ax.plot(np.sqrt(probs[heavy]), rows, linestyle="none", label=label, **style)
    most = float(max(probs[heavy].max() for probs in (p, q, r, ideal)))
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


def _intervals(ax: Axes, rule: Any, heavy: list[int], n: int) -> None:
    """Priority intervals and what fills them after the exchanges; the area of a colour is its q."""
    import numpy as np
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    width = rule.tables.draft
    edge = np.cumsum(width)
    colour = [i for i, token in enumerate(heavy) if rule.interval[token] > 0]
    token = np.array([heavy[i] for i in colour], dtype=np.int64)
    own, q = rule.interval[token], rule.q.numpy()
    mass = rule.shares(token) * (q[token] / q.sum())[:, None]
    patches: dict[int, list[Any]] = {i: [] for i in colour}
    ax.add_patch(Rectangle((0, 0), 1, 1, facecolor=_OTHERS, linewidth=0))
    for k in np.flatnonzero(mass.max(0, initial=0.0) > 1e-7):
        floor = 0.0
        # The tokens that own the interval lie at the bottom, then those that came in.
        for row in np.argsort(own != k, kind="stable"):
            share = mass[row, k] / width[k]
            if mass[row, k] <= 1e-7:
                continue
            patches[colour[row]].append(Rectangle((edge[k - 1], floor), width[k], share))
            if own[row] != k and mass[row, k] > _VISIBLE / 4 and width[k] > 0.012 and share > 0.03:
                middle = edge[k - 1] + width[k] / 2, floor + share / 2
                ax.plot(*middle, linestyle="none", marker=MARKERS[colour[row]], color="white", markersize=5)
            floor += share
    for i, found in patches.items():
        ax.add_collection(PatchCollection(found, facecolor=COLOURS[i], edgecolor="white", linewidth=0.3))
    for k in np.unique(own[width[own] > _VISIBLE]):
        # Tokens that share an interval are marked side by side.
        for place, row in enumerate(np.flatnonzero(own == k), 1):
            at = edge[k - 1] + width[k] * place / (1 + (own == k).sum())
            ax.plot(at, -0.055, linestyle="none", **_mark(colour[row]), clip_on=False)
    s = np.linspace(0, 1, 200)
    ax.plot(s, s**n, color="#ffffff", linewidth=3.0, alpha=0.7)
    ax.plot(s, s**n, color="#000000", linewidth=1.5, linestyle="--")
    at = 0.72
    ax.annotate(
        f"chance that the highest of {n} is below s", (at, at**n), xytext=(-8, 4), textcoords="offset points",
        ha="right", va="bottom", fontsize=9, bbox={"boxstyle": "round", "fc": "white", "alpha": 0.85, "linewidth": 0},
    )  # fmt: skip
    cut = edge[rule.held]
    ax.axvline(cut, color="#000000", linewidth=1.2)
    ax.annotate("H* ←", (cut, 1.0), xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.tick_params(axis="x", pad=12)
    ax.set_xlabel("priority s: each draft gets one from its token's area, the highest is picked")
    ax.set_ylabel("share of the interval")
    ax.set_title(
        "Intervals after the exchanges: a token's area is its q; white marks: mass in another's interval",
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
