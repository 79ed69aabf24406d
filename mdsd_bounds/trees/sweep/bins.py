"""Items of one node: single tokens where they are few, bins of tokens with like t/q where they are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from mdsd_bounds.verifiers.optimal.unit_kernels import single_tokens
from mdsd_bounds.verifiers.optimal.units import make_cells

#: Tokens of one node up to which each is an item of its own.
MOST_ITEMS = 384
#: Beyond, so many tokens stay single, those with the largest min(t, q), and the others share so many bins.
SINGLES, BINS = 64, 96


@dataclass(frozen=True)
class Items:
    """The items of one node, and the sums that the search needs (:class:`~.prefixes.Layer`).

    Attributes
    ----------
    item : ndarray
        ``[k]`` int64: item of each token.
    token_odds : ndarray
        ``[k]``: ``q / (1 - q)`` of each token; zeros for independent draws, which do not need it.
    mass, odds, squares, within, target : ndarray
        ``[U]``: sums over the tokens of q, w, q w and t; probability of a pair inside the item.
    hot : int
        Item of the most probable token.
    """

    item: np.ndarray
    token_odds: np.ndarray
    mass: np.ndarray
    odds: np.ndarray
    squares: np.ndarray
    within: np.ndarray
    target: np.ndarray
    hot: int


def bin_tokens(q: np.ndarray, target: np.ndarray, pairs: bool) -> Items:
    """The items of a node with draft probabilities ``q`` ``[k]``, all positive, and targets ``[k]``.  O(k)."""
    hot = int(q.argmax())
    odds = _odds(q, hot) if pairs else np.zeros(len(q))
    if len(q) <= MOST_ITEMS:
        item = np.arange(len(q))
        return Items(item, odds, q, odds, q * odds, np.zeros(len(q)), target, hot)
    # The most probable token is among them, whatever its target.
    alone = single_tokens(target, q, 1, SINGLES, np.inf)
    item = np.full(len(q), -1)
    item[alone] = np.arange(len(alone))
    grouped = make_cells(target, q, np.ones(len(q), bool))
    used = _like_ratios(q, (grouped.cell, len(grouped.low)), item, len(alone), BINS)
    count, mass, total, squares, asked = _sums(q, odds, target, item, used)
    # q_i w_j + w_i q_j over the pairs i < j of the item.
    within = np.where(count == 1.0, 0.0, np.maximum(mass * total - squares, 0.0))
    return Items(item, odds, mass, total, squares, within, asked, int(item[hot]))


def _odds(q: np.ndarray, hot: int) -> np.ndarray:
    """``q / (1 - q)``, with ``1 - q`` of the most probable token as the sum of the others."""
    rest = 1.0 - q
    rest[hot] = q[:hot].sum() + q[hot + 1 :].sum()
    return np.asarray(q / np.maximum(rest, 1e-300))


@njit(cache=True, nogil=True)
def _like_ratios(q: np.ndarray, grouped: tuple[np.ndarray, int], item: np.ndarray, first: int, bins: int) -> int:
    """Write to ``item`` the bins, numbered from ``first``, of the tokens where it is -1; returns the number of items.

    ``grouped`` are the cell of each token by t/q and the number of cells.  Bins are runs of cells: equal steps of the
    mass of q and of the rank together, so that no bin is heavy or long.
    """
    cell, cells = grouped
    mass, count = np.zeros(cells), np.zeros(cells)
    for i in range(len(q)):
        if item[i] < 0:
            mass[cell[i]] += q[i]
            count[cell[i]] += 1.0
    whole, every = max(mass.sum(), 1e-300), count.sum()
    number, used, before, held, ranked = np.empty(cells, np.int64), first, -1, 0.0, 0.0
    for c in range(cells):
        if count[c] > 0.0:
            held += mass[c]
            here = min(int((held / whole + ranked / every) * (bins / 2)), bins - 1)
            ranked += count[c]
            used += here != before
            before = here
        number[c] = used - 1
    for i in range(len(q)):
        if item[i] < 0:
            item[i] = number[cell[i]]
    return used


@njit(cache=True, nogil=True)
def _sums(q: np.ndarray, odds: np.ndarray, target: np.ndarray, item: np.ndarray, size: int) -> np.ndarray:
    """``[5, U]``: number of tokens, and sums of q, w, q w and t of each item."""
    found = np.zeros((5, size))
    for i in range(len(q)):
        u = item[i]
        found[0, u] += 1.0
        found[1, u] += q[i]
        found[2, u] += odds[i]
        found[3, u] += q[i] * odds[i]
        found[4, u] += target[i]
    return found


@njit(cache=True, nogil=True)
def token_pick(coefficient: np.ndarray, item: np.ndarray, odds: np.ndarray, q: np.ndarray) -> np.ndarray:
    """``a w + b q - c q w`` of each token, with the three numbers ``[U, 3]`` of its item; never below zero."""
    found = np.empty(len(q))
    for i in range(len(q)):
        u = item[i]
        pick = coefficient[u, 0] * odds[i] + coefficient[u, 1] * q[i] - coefficient[u, 2] * q[i] * odds[i]
        found[i] = max(pick, 0.0)
    return found
