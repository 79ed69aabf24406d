"""The optimal rule without replacement on a whole support, every token an item of its own: exact but for rounding.

The rows are first reduced to the tokens that can be drafted, so that truncated distributions cost what their support
costs and not what their vocabulary costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.verifiers.optimal.arrival_times import FINE, Accuracy, arrival_times, rescaling
from mdsd_bounds.verifiers.optimal.order_sweep import Items, token_polynomials
from mdsd_bounds.verifiers.optimal.order_tree import SLACK, TOLERANCE, Tree, build_tree
from mdsd_bounds.verifiers.optimal.unit_kernels import spare_masses

#: Takes the place of q in ``p/q`` for tokens that are always drafted: they come first, in the order of their targets.
ALWAYS = 1e290


@dataclass(frozen=True)
class WholeSupport:
    """The tree of one row and its certificate, by the tokens of the support.

    Attributes
    ----------
    tree : Tree
        Item i is token i of the support.
    r : ndarray
        ``[k]`` distribution of the pick.
    gap : float
        Certified upper bound on alpha* minus ``sum min(p, r)``.
    """

    tree: Tree
    r: np.ndarray
    gap: float


def whole_support(p: np.ndarray, q: np.ndarray, fixed: np.ndarray, draws: int) -> WholeSupport:
    """Tree, r and certificate for targets and rates ``[k]``; ``fixed`` ``[k]`` bool, with rate 0.

    The gap leaves out what p is off from summing to one over the whole vocabulary.  O(k^2 n T), T the 55 to 113 nodes
    of :mod:`.arrival_times` (one for two draws).
    """
    tree, r, _ = build_tree(token_items(q, fixed, draws), p, TOLERANCE, SLACK, -1)
    lower = tree.place < tree.cut[0]
    # r(L) = Q(L) whatever the tree is, so that L is its own upper bound: alpha* <= 1 + P(L) - r(L).
    short = np.where(lower, p - r, r - p)
    error = rounding(len(p), draws) + abs(float(r.sum()) - 1.0)
    return WholeSupport(tree, r, float(short[short > 0].sum()) + error)


def rounding(size: int, draws: int) -> float:
    """Bound on ``sum |r - distribution of the pick|``: quadrature and its ends, and a few roundings per item below."""
    quadrature = FINE.step + 2 * draws * FINE.cut if draws > 2 else 0.0
    return quadrature + (8 * size + 128) * rounding_unit()


def token_items(q: np.ndarray, fixed: np.ndarray, draws: int, accuracy: Accuracy = FINE) -> Items:
    """Tokens as items, for rates ``q`` ``[k]`` of any positive total."""
    size, spare = len(q), spare_masses(q, draws)
    factor = rescaling(float(spare[draws - 1]))
    q, spare = q * factor, spare * factor
    divisor = np.where(fixed, ALWAYS, q) if fixed.any() else q
    first, none = np.arange(0, 2 * size + 1, 2), np.zeros(size)
    if draws == 2:
        # 1 - q, summed over the others for the heaviest token, where it would cancel.
        rest, heaviest = spare[0] - q, int(np.argmax(q))
        rest[heaviest] = spare[1]
        one = np.zeros((1, 1))
        return Items(draws, q, q / spare[0] / rest, none, fixed, divisor, first, one, one, one[0])
    t, weight = arrival_times(spare, draws, accuracy)
    arrived, closing = token_polynomials(q, t)
    return Items(draws, q, none, none, fixed, divisor, first, arrived, closing, weight)
