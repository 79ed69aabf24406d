"""The optimal rule without replacement on a whole support, every token an item of its own: exact but for rounding.

The rows are first reduced to the tokens that can be drafted, so that truncated distributions cost what their support
costs and not what their vocabulary costs; all of it is one compiled call, since on small supports calls cost most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.verifiers.base import PROBS_TOLERANCE
from mdsd_bounds.verifiers.optimal.arrival_times import FINE, Accuracy, ends, nodes, rescaling
from mdsd_bounds.verifiers.optimal.order_sweep import FAST, Items, token_polynomials
from mdsd_bounds.verifiers.optimal.order_tree import SLACK, TOLERANCE, Tree, build_tree
from mdsd_bounds.verifiers.optimal.unit_kernels import spare_masses, total_and_least

#: Takes the place of q in ``p/q`` for tokens that are always drafted: they come first, in the order of their targets.
ALWAYS = 1e290
#: Tokens looked at together.
_STRIP = 256


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


def whole_support(p: np.ndarray, q: np.ndarray, always: np.ndarray, token: np.ndarray, draws: int) -> WholeSupport:
    """Tree, r and certificate for targets and rates ``[V]`` of the tokens ``[k]`` int32.

    ``always`` ``[V]`` bool says which are always drafted, with rate 0; it may be empty.  The gap leaves out what p is
    off from summing to one over the whole vocabulary.  O(k^2 n T), T the 55 to 113 nodes of :mod:`.arrival_times` (one
    for two draws).
    """
    r = np.zeros(len(p))
    tree, lost, off = _whole_support(p, q, always, token, draws, ends(draws), r)
    return WholeSupport(tree, r, lost + off + rounding(len(token), draws))


def narrow_row(p: np.ndarray, q: np.ndarray, draws: int) -> tuple[np.ndarray, WholeSupport] | None:
    """Tokens ``[k]`` int32 and rule of a row ``[V]`` in one compiled call, with checks; None where it does not fit.

    It is for distributions p and q with more than ``draws`` tokens that can be drafted.  The gap has what p is off from
    summing to one.
    """
    token, tree, r, gap = _narrow_row(p, q, draws, ends(draws))
    return (token, WholeSupport(tree, r, gap + rounding(len(token), draws))) if len(token) else None


@njit(**FAST)
def _narrow_row(p, q, draws, quadrature):  # type: ignore[no-untyped-def]
    """:func:`narrow_row`; no tokens where it does not fit."""
    none, r, (total, least), (mass, lowest) = (
        np.zeros(0, np.bool_),
        np.zeros(len(p)),
        total_and_least(p),
        total_and_least(q),
    )
    token = drafted_tokens(q, none)
    off = max(abs(total - 1.0), abs(mass - 1.0))
    if not (off <= PROBS_TOLERANCE and least >= 0.0 and lowest >= 0.0 and len(token) > draws):
        whole, real = np.zeros(0, np.int32), np.zeros(0)
        return token[:0], Tree(whole, whole, whole, whole, whole, real, whole), r, 0.0
    tree, lost, missing = _whole_support(p, q, none, token, draws, quadrature, r)
    return token, tree, r, lost + missing + abs(total - 1.0)


@njit(**FAST)
def _whole_support(p, q, always, token, draws, quadrature, r):  # type: ignore[no-untyped-def]
    """The tree; what it loses, and by how much its r, which is written, is off from summing to one."""
    fixed = np.zeros(len(token), np.bool_)
    if len(always):
        fixed[:] = always[token]
    target = p[token]
    tree, found, _ = build_tree(_items(q[token], fixed, draws, quadrature), target, TOLERANCE, SLACK, -1)
    lost, total = 0.0, 0.0
    for i in range(len(token)):
        # r(L) = Q(L) whatever the tree is, so that L is its own upper bound: alpha* <= 1 + P(L) - r(L).
        short = target[i] - found[i]
        lost += max(short if tree.place[i] < tree.cut[0] else -short, 0.0)
        total += found[i]
        r[token[i]] = found[i]
    return tree, lost, abs(total - 1.0)


@njit(cache=True, nogil=True)
def drafted_tokens(q, always):  # type: ignore[no-untyped-def]
    """Tokens int32 that can be drafted, ascending; ``always`` ``[V]`` bool may be empty."""
    drafted = q > 0.0
    if len(always):
        drafted |= always
    count, strips = 0, -(-len(q) // _STRIP)
    held = np.empty(strips, np.int64)
    for s in range(strips):
        held[s] = drafted[s * _STRIP : (s + 1) * _STRIP].sum()
        count += held[s]
    token, at = np.empty(count, np.int32), 0
    for s in range(strips):
        for i in range(s * _STRIP, min((s + 1) * _STRIP, len(q)) if held[s] else 0):
            if drafted[i]:
                token[at] = i
                at += 1
    return token


def rounding(size: int, draws: int) -> float:
    """Bound on ``sum |r - distribution of the pick|``: quadrature and its ends, and a few roundings per item below."""
    quadrature = FINE.step + 2 * draws * FINE.cut if draws > 2 else 0.0
    return quadrature + (8 * size + 128) * rounding_unit()


def token_items(q: np.ndarray, fixed: np.ndarray, draws: int, accuracy: Accuracy = FINE) -> Items:
    """Tokens as items, for rates ``q`` ``[k]`` of any positive total."""
    items: Items = _items(q, fixed, draws, ends(draws, accuracy))
    return items


@njit(**FAST)
def _items(q, fixed, draws, quadrature):  # type: ignore[no-untyped-def]
    """:func:`token_items`."""
    size, spare = len(q), spare_masses(q, draws)
    factor = rescaling(spare[draws - 1])
    q, spare = q * factor, spare * factor
    first, none, divisor = np.arange(0, 2 * size + 1, 2), np.zeros(size), q.copy()
    divisor[fixed] = ALWAYS
    if draws == 2:
        # 1 - q, summed over the others for the heaviest token, where it would cancel.
        rest = spare[0] - q
        rest[np.argmax(q)] = spare[1]
        one = np.zeros((1, 1))
        return Items(draws, q, q / spare[0] / rest, none, fixed, divisor, first, one, one, one[0])
    t = nodes(spare, quadrature)
    arrived, closing = token_polynomials(q, t)
    return Items(draws, q, none, none, fixed, divisor, first, arrived, closing, t * quadrature.step)
