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
def series(q: np.ndarray, unit: np.ndarray, scale: float, table: np.ndarray, r: np.ndarray) -> None:
    """``r_i = sum_m table[u, m] x^(m+1)``, ``x = q_i scale``, for the tokens of each unit u >= 0."""
    order = table.shape[1]
    for i in range(q.shape[0]):
        u = unit[i]
        if u < 0:
            continue
        x = q[i] * scale
        value = 0.0
        for m in range(order - 1, -1, -1):
            value = value * x + table[u, m]
        r[i] = value * x


@njit(cache=True, nogil=True)
def pair_sums(p: np.ndarray, q: np.ndarray, unit: np.ndarray, table: np.ndarray) -> None:
    """``table[u] = (sum p, sum q, sum q/(1-q), sum q^2/(1-q))`` over the tokens of each unit."""
    for i in range(q.shape[0]):
        u = unit[i]
        if u < 0:
            continue
        odds = q[i] / (1.0 - q[i])
        table[u, 0] += p[i]
        table[u, 1] += q[i]
        table[u, 2] += odds
        table[u, 3] += q[i] * odds


@njit(cache=True, nogil=True)
def pair_law(
    q: np.ndarray,
    unit: np.ndarray,
    plain: np.ndarray,
    scaled: np.ndarray,
    within: np.ndarray,
    beaten: np.ndarray,
    rest: float,
    r: np.ndarray,
) -> None:
    """``r_i = q_i [a_i (plain_u - within_u q_i) + scaled_u - within_u q_i a_i] + beaten_u q_i/rest``.

    ``a = 1/(1-q)``; the last term is what i wins from the token of the largest q, whose ``a`` is ``1/rest``.
    """
    for i in range(q.shape[0]):
        u = unit[i]
        if u < 0:
            continue
        a = 1.0 / (1.0 - q[i])
        own = within[u] * q[i]
        r[i] = q[i] * (a * (plain[u] - own) + scaled[u] - own * a) + beaten[u] * (q[i] / rest)


@njit(cache=True, nogil=True)
def meet(mass: np.ndarray, theta: np.ndarray, flow: np.ndarray, hessian: np.ndarray) -> float:
    """Phi of pairs that meet with ``mass [U, U]`` (its upper triangle), what each unit wins, and the Hessian.

    ``1 / (1 + e^-x)`` is formed from ``e^-|x|``: no overflow, and full relative accuracy of both chances.
    """
    size = theta.shape[0]
    total = 0.0
    flow[:] = 0.0
    for u in range(size):
        hessian[u, u] = 0.0
    for u in range(size):
        for v in range(u + 1, size):
            apart = theta[u] - theta[v]
            small = np.exp(-abs(apart))
            strong, weak = 1.0 / (1.0 + small), small / (1.0 + small)
            m = mass[u, v]
            first = strong if apart >= 0.0 else weak
            second = weak if apart >= 0.0 else strong
            flow[u] += m * first
            flow[v] += m * second
            curved = m * strong * weak
            hessian[u, v] = -curved
            hessian[v, u] = -curved
            hessian[u, u] += curved
            hessian[v, v] += curved
            # log(w_u + w_v) is the larger log-weight plus log(1 + e^-|x|).
            total += m * (max(theta[u], theta[v]) + np.log1p(small))
    return total
