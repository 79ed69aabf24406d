"""Compiled loops of :mod:`mdsd_bounds.verifiers.optimal.bin_polynomials`."""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds.verifiers.optimal.order_sweep import FAST, INNER
from mdsd_bounds.verifiers.optimal.unit_kernels import powers_needed


@njit(**FAST)
def newton(x, y, mass, t, draws, cut):  # type: ignore[no-untyped-def]
    """Degrees ``[B]`` and rows of P and L from the power sums ``[M, B, T]`` of g and q g.

    ``draws`` is n and the mass off the n - 1 heaviest tokens of the row.  While fewer than n tokens off the bin have
    arrived, others of them arrive at the rate of that mass less the bin's at least.  So the last power that is kept has
    a probability of at most ``cut``: so many of the bin, and no more than complete n off it, have arrived.
    """
    n, spare = draws
    bins, nodes = x.shape[1:]
    degree = np.zeros(bins, np.int64)
    arrived, closing = np.empty((4 * bins + n, nodes)), np.empty((4 * bins + n, nodes))
    p, last, few, used = np.zeros((n, nodes)), np.zeros((n, nodes)), np.empty((n, nodes)), 0
    for i in range(bins):
        if used + n > len(arrived):
            arrived, closing = _doubled_room(arrived, used), _doubled_room(closing, used)
        for j in range(nodes):
            p[0, j] = np.exp(-mass[i] * t[j])
        _few_arrivals(max(spare - mass[i], 0.0), t, few)
        for m in range(n):
            if m > 0:
                _power_to_elementary(x, i, m, p)
            _last_arrival(y, i, m, p, last)
            arrived[used + m], closing[used + m] = p[m], last[m]
            size = 0.0
            for j in range(nodes):
                size = max(size, t[j] * last[m, j] * few[n - 1 - m, j])
            degree[i] = m
            if m > 0 and size < cut:
                break
        used += degree[i] + 1
    return degree, arrived[:used], closing[:used]


@njit(**INNER)
def _few_arrivals(rate, t, few):  # type: ignore[no-untyped-def]
    """``few[m]``: probability that a Poisson count of mean ``rate t`` is at most m."""
    for j in range(len(t)):
        mean = rate * t[j]
        term = total = np.exp(-mean)
        for m in range(len(few)):
            few[m, j] = total
            term *= mean / (m + 1)
            total += term


@njit(**INNER)
def _power_to_elementary(x, i, m, p):  # type: ignore[no-untyped-def]
    """``p[m]`` by Newton's identity, from those before."""
    kept, _, nodes = x.shape
    p[m] = 0.0
    for k in range(1, min(m, kept - 1) + 1):
        sign = 1.0 if k % 2 else -1.0
        for j in range(nodes):
            p[m, j] += sign * p[m - k, j] * x[k, i, j] / m


@njit(**INNER)
def _last_arrival(y, i, m, p, last):  # type: ignore[no-untyped-def]
    """``last[m]``: coefficient of ``P(z) sum_k (-z)^k Y_k``."""
    kept, _, nodes = y.shape
    last[m] = 0.0
    for k in range(min(m, kept - 1) + 1):
        sign = -1.0 if k % 2 else 1.0
        for j in range(nodes):
            last[m, j] += sign * p[m - k, j] * y[k, i, j]


@njit(**INNER)
def _doubled_room(rows, used):  # type: ignore[no-untyped-def]
    """The rows, with room for more."""
    larger = np.empty((2 * len(rows), rows.shape[1]))
    larger[:used] = rows[:used]
    return larger


@njit(**FAST)
def coefficients(first, arrived, closing, a, b):  # type: ignore[no-untyped-def]
    """For each power of g ``[orders, B, T]``: what one token wins once arrived, and by the square of its factor."""
    bins, nodes, orders = len(first) - 1, a.shape[1], 0
    for i in range(bins):
        orders = max(orders, first[i + 1] - first[i])
    plain, doubled = np.zeros((orders, bins, nodes)), np.zeros((orders, bins, nodes))
    for i in range(bins):
        p, last = arrived[first[i] : first[i + 1]], closing[first[i] : first[i + 1]]
        x, y = a[first[i] : first[i + 1]], b[first[i] : first[i + 1]]
        for power in range(len(p)):
            one, two = plain[power, i], doubled[power, i]
            for m in range(power + 1, len(p)):
                for j in range(nodes):
                    one[j] += y[m, j] / m * p[m - 1 - power, j] + x[m, j] / (m + 1) * last[m - 1 - power, j]
            for m in range(power, len(p)):
                for j in range(nodes):
                    two[j] += x[m, j] / (m + 1) * p[m - power, j]
    return plain, doubled


@njit(cache=True, nogil=True)
def token_distribution(q, item, number, series, scale, r, probs):  # type: ignore[no-untyped-def]
    """``probs`` ``[V]``: by the series of the token's bin; ``number`` is -1 for items of one token, which have r."""
    for i in range(len(q)):
        u = item[i]
        if u < 0:
            continue
        row = number[u]
        if row < 0:
            probs[i] = r[u]
            continue
        x, value = q[i] * scale, 0.0
        for m in range(powers_needed(x, series.shape[1]) - 1, -1, -1):
            value = value * x + series[row, m]
        probs[i] = value * x


@njit(cache=True, nogil=True)
def shortfall(p, r, left):  # type: ignore[no-untyped-def]
    """``sum_L (p - r)_+ + sum_R (r - p)_+``; side R holds what is never drafted."""
    total = 0.0
    for i in range(len(p)):
        total += max(p[i] - r[i] if left[i] else r[i] - p[i], 0.0)
    return total


@njit(cache=True, nogil=True)
def overshoot(p, r, shares):  # type: ignore[no-untyped-def]
    """``sum ((1 - share) r - p)_+`` for each share."""
    total = np.zeros(len(shares))
    for i in range(len(p)):
        # With no share left the term is largest.
        if r[i] > p[i]:
            for k in range(len(shares)):
                total[k] += max((1.0 - shares[k]) * r[i] - p[i], 0.0)
    return total
