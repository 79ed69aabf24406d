"""The distribution of the pick of a tree of priority orders that is given: what runs, at any accuracy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds.verifiers.optimal.order_sweep import FAST, INNER, start_sweep, sweep_window


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
    size, n = len(tree.place), items.draws
    whole, own = start_sweep(items), start_sweep(items)
    for i in range(size):
        whole.order[tree.place[i]] = i
    sweep_window(items, whole, 0, size)
    reached, ends = np.ones(len(tree.coin)), np.full(len(tree.coin), size)
    found = PickSums(np.zeros(size), np.zeros(items.arrived.shape), np.zeros(items.arrived.shape), np.zeros((size, 3)))
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
            own.pairs[start] = whole.pairs[start]
            if n > 2:
                own.a[start], own.b[start], own.fade[end] = whole.a[start], whole.b[start], whole.fade[end]
            sweep_window(items, own, start, end)
            add_order(items, own, start, end, reached[node] * tree.coin[node], found)
    return found


@njit(**INNER)
def add_order(items, state, start, end, chance, found):  # type: ignore[no-untyped-def]
    """Add one order, which runs with probability ``chance``, to the sums."""
    n, fixed = items.draws, items.fixed.sum()
    for j in range(start, end):
        i = state.order[j]
        found.r[i] += chance * state.v[i]
        if n == 2:
            # Below a fixed token nothing is picked.
            if state.pairs[j, 3] == fixed:
                found.pairs[i, 0] += chance * state.pairs[j, 0]
                found.pairs[i, 1] += chance * state.pairs[j, 1]
                found.pairs[i, 2] += chance
        elif items.within[i] > 0.0:
            fade = state.fade[j + 1]
            for m in range(min(items.first[i + 1] - items.first[i], n)):
                row = items.first[i] + m
                add_product(found.a[row], chance, fade, state.a[j, n - 1 - m])
                if m > 0:
                    add_product(found.b[row], chance, fade, state.b[j, n - 1 - m])


@njit(**INNER)
def add_product(out, chance, x, y):  # type: ignore[no-untyped-def]
    """``out += chance x y``."""
    for t in range(len(out)):
        out[t] += chance * x[t] * y[t]
