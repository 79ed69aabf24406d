"""The distribution of the pick of a tree of priority orders that is given: what runs, at any accuracy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend import lanes
from mdsd_bounds.verifiers.optimal.order_sweep import FAST, INNER, fade_above, pass_item, start_sweep, sweep_window


class PickSums(NamedTuple):
    """The tree's pick, by item, and what its bins need for the pick of each token in them.

    Attributes
    ----------
    r : ndarray
        ``[k]``: distribution of the pick.
    a, b : ndarray
        ``[rows, T]``: for row m of bin i, the sums over orders of their probability, the fade above the bin, and
        ``A[n-1-m]`` or ``B[n-1-m]`` of the items below it.
    pairs : ndarray
        ``[k, 3]``, two draws: the sums over orders with no fixed token above of their probability times X, times Y,
        and times 1.
    """

    r: np.ndarray
    a: np.ndarray
    b: np.ndarray
    pairs: np.ndarray


@njit(**FAST)
def pick_sums(items, tree):  # type: ignore[no-untyped-def]
    """Sum the distributions of all orders of the tree, at the nodes of ``items``; what runs, whatever made the tree."""
    size, rows = len(tree.place), items.arrived.shape
    # ``whole`` knows the sets below each component, ``own`` is the order of one node.
    whole, own = start_sweep(items, 1), start_sweep(items, size if items.draws > 2 else 1)
    for i in range(size):
        whole.order[tree.place[i]] = i
    sweep_window(items, whole, 0, size)
    reached, ends = np.ones(len(tree.coin)), np.full(len(tree.coin), size)
    found = PickSums(np.zeros(size), lanes.rows(*rows), lanes.rows(*rows), np.zeros((size, 3)))
    found.a[:], found.b[:] = 0.0, 0.0
    for node in range(len(tree.coin)):
        start, end, cut = tree.start[node], ends[node], tree.cut[node]
        if cut >= 0:
            lower = tree.lower[node]
            rest = reached[node] * (1.0 - tree.coin[node])
            if cut > start:
                ends[lower], reached[lower] = cut, rest
            if cut < end:
                ends[lower + 1], reached[lower + 1] = end, rest
        if tree.coin[node] > 0.0:
            for position in range(start, end):
                own.order[start + tree.rank[tree.offset[node] + position - start]] = whole.order[position]
            if items.draws == 2:
                own.pairs[start] = whole.pairs[start]
                add_pairs(items, own, start, end, reached[node] * tree.coin[node], found)
            else:
                _begin_order(whole, own, start, end, items.draws)
                _add_order(items, own, start, end, reached[node] * tree.coin[node], found)
    return found


@njit(**INNER)
def add_pairs(items, state, start, end, chance, found):  # type: ignore[no-untyped-def]
    """Add one order, which runs with probability ``chance``, to the sums: two draws."""
    sweep_window(items, state, start, end)
    for j in range(start, end):
        i = state.order[j]
        found.r[i] += chance * state.v[i]
        # Below a fixed token nothing is picked.
        if state.pairs[j, 3] == 0.0:
            found.pairs[i, 0] += chance * state.pairs[j, 0]
            found.pairs[i, 1] += chance * state.pairs[j, 1]
            found.pairs[i, 2] += chance


@njit(**INNER)
def _begin_order(whole, own, start, end, n):  # type: ignore[no-untyped-def]
    """Copy the set below ``start`` to the first slot, and the fade above ``end``."""
    for t in range(own.fade.shape[1]):
        own.fade[end, t] = whole.fade[end, t]
        for m in range(n):
            own.a[m, t], own.b[m, t] = whole.a[start * n + m, t], whole.b[start * n + m, t]


@njit(**INNER)
def _add_order(items, state, start, end, chance, found):  # type: ignore[no-untyped-def]
    """:func:`add_pairs` for more draws; the sets below are kept for one position at a time, in the first slot."""
    n = items.draws
    fade_above(items, state, start, end)
    for j in range(start, end):
        i = state.order[j]
        if items.within[i] > 0.0:
            first = items.first[i]
            for m in range(min(items.first[i + 1] - first, n)):
                for t in range(state.fade.shape[1]):
                    reached = chance * state.fade[j + 1, t]
                    found.a[first + m, t] += reached * state.a[n - 1 - m, t]
                    # An arrived draft of the bin; its row for none is not used.
                    found.b[first + m, t] += reached * state.b[n - 1 - m, t]
        found.r[i] += chance * pass_item(items, state, j, (0, 0), True)
