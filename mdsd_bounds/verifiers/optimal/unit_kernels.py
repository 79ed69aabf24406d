"""Compiled passes over a whole row for :mod:`mdsd_bounds.verifiers.optimal.units`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def cells(p: np.ndarray, q: np.ndarray, first: int, last: int, shift: int, cell: np.ndarray, ratio: np.ndarray) -> None:
    """Cell of p/q from the leading bits of the ratio, -1 where q = 0; ``ratio`` takes p/q.

    ``first`` and ``last`` are the leading bits of the smallest and largest ratio told apart.
    """
    bits = ratio.view(np.int64)
    for i in range(q.shape[0]):
        if q[i] > 0.0:
            ratio[i] = p[i] / q[i]
            cell[i] = min(max((bits[i] >> shift) - first, 0), last - first)
        else:
            ratio[i] = np.inf
            cell[i] = -1


@njit(cache=True, nogil=True)
def cell_weights(
    p: np.ndarray,
    q: np.ndarray,
    ratio: np.ndarray,
    cell: np.ndarray,
    threshold: float,
    unit: np.ndarray,
    draws: int,
    table: np.ndarray,
) -> None:
    """``min(p, draws q)`` and number of the tokens with ``unit = -1``, summed by cell; side R is the second half."""
    half = table.shape[1] // 2
    for i in range(q.shape[0]):
        if cell[i] >= 0 and unit[i] == -1:
            at = cell[i] + (half if ratio[i] >= threshold else 0)
            table[0, at] += min(p[i], draws * q[i])
            table[1, at] += 1.0


@njit(cache=True, nogil=True)
def sums_by_group(p: np.ndarray, q: np.ndarray, group: np.ndarray, scale: float, table: np.ndarray) -> None:
    """Add to ``table[g] = (sum p, sum x, sum x^2, ...)`` with ``x = q scale``, over the tokens of each group >= 0."""
    order = table.shape[1]
    for i in range(q.shape[0]):
        g = group[i]
        if g < 0:
            continue
        table[g, 0] += p[i]
        x = q[i] * scale
        power = x
        for k in range(1, order):
            table[g, k] += power
            power *= x
            # A term this small next to the sums it joins changes nothing.
            if power < 1e-40:
                break


@njit(cache=True, nogil=True)
def assign(
    ratio: np.ndarray,
    cell: np.ndarray,
    threshold: float,
    unit_left: np.ndarray,
    unit_right: np.ndarray,
    unit: np.ndarray,
) -> None:
    """Unit of each token by its side and cell; tokens whose ``unit`` is not -1 keep it, those with q = 0 stay at -1."""
    for i in range(ratio.shape[0]):
        if cell[i] >= 0 and unit[i] == -1:
            unit[i] = unit_left[cell[i]] if ratio[i] < threshold else unit_right[cell[i]]


@njit(cache=True, nogil=True)
def pair_sums(
    p: np.ndarray, q: np.ndarray, unit: np.ndarray, total: float, heaviest: int, rest: float, table: np.ndarray
) -> None:
    """``table[u] = (sum p, sum q, sum w, sum q w)`` over the tokens of each unit, ``w = q / (total (total - q))``.

    ``rest`` is what ``total - q`` is for the heaviest token, where it would cancel.
    """
    for i in range(q.shape[0]):
        u = unit[i]
        if u >= 0:
            odds = q[i] / total / (rest if i == heaviest else total - q[i])
            table[u, 0] += p[i]
            table[u, 1] += q[i]
            table[u, 2] += odds
            table[u, 3] += q[i] * odds


@njit(cache=True, nogil=True)
def pair_distribution(
    q: np.ndarray,
    item: np.ndarray,
    totals: tuple[float, int, float],
    mass: np.ndarray,
    odds: np.ndarray,
    below: np.ndarray,
    r: np.ndarray,
) -> None:
    """``r_i = w_i X + q_i Y + Z (w_i (mass - q_i) + q_i (odds - w_i)) / 2`` for the tokens of bins.

    ``below`` ``[k, 3]`` holds X, Y and Z of each item; half of a pair inside a bin goes to either token.  ``totals`` is
    ``total, heaviest, rest`` of :func:`pair_sums`.
    """
    total, heaviest, rest = totals
    for i in range(q.shape[0]):
        u = item[i]
        if u >= 0:
            w = q[i] / total / (rest if i == heaviest else total - q[i])
            inside = w * max(mass[u] - q[i], 0.0) + q[i] * max(odds[u] - w, 0.0)
            r[i] = w * below[u, 0] + q[i] * below[u, 1] + below[u, 2] * inside / 2
