"""Figure of one position's optimal rule without replacement: its tree of strict priority orders, and what it picks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdsd_bounds.plots.style import COLOURS
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

#: Supports that can be drawn.
MOST_TOKENS = 24


def priority_orders_figure(
    p: Tensor, q: Tensor, n_drafts: int, *, names: dict[int, str] | None = None, figure: Figure | None = None
) -> Figure:
    """The tree of one position above the distributions of its tokens.

    Above, a bar is a component: the tokens that it spans, with the probability that its own order picks; its parts hang
    below it.  Tokens stand in the order of the final positions, side L on the left.  Below are p, q and r of each.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 probabilities; at most 24 tokens with ``q > 0``, and more than ``n_drafts``.
    n_drafts : int
        At least 2.
    names : dict, optional
        Labels of tokens.

    Raises
    ------
    InputError
        If the support is wider, or no tree is needed.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.plots import priority_orders_figure
    >>> p, q = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    >>> figure = priority_orders_figure(p, q, 2)
    >>> len(figure.axes) > 0
    True
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from mdsd_bounds.verifiers.optimal import prepare
    from mdsd_bounds.verifiers.optimal.priority_rule import PriorityRule

    support = int((q > 0).sum())
    if not n_drafts < support <= MOST_TOKENS:
        raise InputError(
            f"priority_orders_figure: {support} tokens can be drafted; give {n_drafts + 1} to {MOST_TOKENS}"
        )
    rule = prepare(p, q, n_drafts, "without_replacement")
    if not isinstance(rule.rule, PriorityRule):
        raise InputError(f"priority_orders_figure: n={n_drafts} needs no tree; give at least 2 drafts")
    token = rule.rule.token[np.argsort(rule.rule.tree.place)]
    figure = figure or plt.figure(figsize=(10.5, 7.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1.0])
    _components(above, rule.rule.tree)
    above.set_title(f"{n_drafts} drafts without replacement: acceptance {rule.acceptance:.4f} = alpha*", loc="left")
    at = np.arange(support)
    for k, (label, values) in enumerate((("p (target)", p), ("q (draft)", q), ("r (pick)", rule.r))):
        below.bar(at + 0.27 * (k - 1), values.numpy()[token], width=0.27, color=COLOURS[k], label=label)
    below.set_xticks(at, [(names or {}).get(int(i), str(int(i))) for i in token], rotation=60, ha="right", fontsize=8)
    below.set(ylabel="probability", xlabel="token, in the order of final positions", xlim=(-0.55, support - 0.4))
    below.legend(frameon=False)
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _components(ax: Axes, tree: Any) -> None:
    """One bar for each node, at its depth; darker where it is more likely that its own order picks."""
    ends, depth, reached = {0: len(tree.place)}, {0: 0}, {0: 1.0}
    for node, (start, cut, lower, coin) in enumerate(zip(tree.start, tree.cut, tree.lower, tree.coin, strict=True)):
        end, chance = ends[node], reached[node] * coin
        if node:
            ax.barh(-depth[node], end - start - 0.12, left=start - 0.44, height=0.72, color=COLOURS[0],
                    alpha=0.08 + 0.72 * coin, edgecolor="#444444", linewidth=0.5)  # fmt: skip
            text = f"{chance:.2g}" if end - start > 1 else ""
            ax.text((start + end - 1) / 2, -depth[node], text, ha="center", va="center", fontsize=7)
        if cut >= 0:
            for child, first, last in ((lower, start, cut), (lower + 1, cut, end)):
                if last > first:
                    ends[int(child)], depth[int(child)] = int(last), depth[node] + 1
                    reached[int(child)] = reached[node] * (1.0 - coin)
    if 0 < tree.cut[0] < len(tree.place):
        ax.axvline(tree.cut[0] - 0.5, color="#999999", linestyle=":")
        ax.text(tree.cut[0] - 0.6, -0.25, "side L", ha="right", va="bottom", fontsize=9)
        ax.text(tree.cut[0] - 0.4, -0.25, "side R", ha="left", va="bottom", fontsize=9)
    ax.set_ylim(-max(depth.values()) - 0.7, 0.4)
    ax.set_yticks([])
    ax.set_ylabel("depth (numbers: probability that\nthe component is reached and its order picks)")
