"""The compiled loops of :mod:`mdsd_bounds.bounds.outer`; that file explains them."""

from __future__ import annotations

import math

import numba
import numpy as np

_STRIDE = 64
_LIGHT = 0.25
_ORDER = 8
_EVALUATIONS = 4000
#: Truncation error for which more tokens are convolved one by one instead.
_TRUNCATION = 2e-10


@numba.njit(cache=True)
def _power_sums(rate, last, light, sums):  # type: ignore[no-untyped-def]
    """Power sums ``[1 + V/64, 9]`` of the light tokens' ``q T`` before every 64th prefix."""
    total = np.zeros(_ORDER + 1)
    part = np.zeros(_ORDER + 1)
    for i in range(rate.shape[0]):
        if i % _STRIDE == 0:
            for k in range(1, _ORDER + 1):
                total[k] += part[k]
                part[k] = 0.0
                sums[i // _STRIDE, k] = total[k]
        x = rate[i] * last
        if x <= light:
            power = x
            for k in range(1, _ORDER + 1):
                part[k] += power
                power *= x
    # A full prefix may start a stretch of its own.
    for k in range(1, _ORDER + 1):
        sums[sums.shape[0] - 1, k] = total[k] + part[k]


@numba.njit(cache=True)
def _heavy_counts(rate, heavy, times, most, cumulative):  # type: ignore[no-untyped-def]
    """``cumulative[g, h, j]``: at most j arrivals by node g among the first h heavy tokens."""
    law = np.zeros(most)
    for g in range(times.shape[0]):
        law[:] = 0.0
        law[0] = 1.0
        cumulative[g, 0, :] = 1.0
        for h in range(heavy.shape[0]):
            x = rate[heavy[h]] * times[g]
            stay, come = math.exp(-x), -math.expm1(-x)
            for j in range(most - 1, 0, -1):
                law[j] = law[j] * stay + law[j - 1] * come
            law[0] *= stay
            running = 0.0
            for j in range(most):
                running += law[j]
                cumulative[g, h + 1, j] = running


@numba.njit(cache=True)
def _evaluate(place, rate, last, light, sums, heavy, cumulative, times, fewer, spare, outside, step, weights, q_out):  # type: ignore[no-untyped-def]
    """``Q_n`` of the prefix of ``place`` tokens for n = 1..most, into ``q_out``."""
    most = q_out.shape[0]
    powers = sums[place // _STRIDE].copy()
    for i in range(place // _STRIDE * _STRIDE, place):
        x = rate[i] * last
        if x <= light:
            power = x
            for k in range(1, _ORDER + 1):
                powers[k] += power
                power *= x
    passed = np.searchsorted(heavy, place)
    c = outside[place]
    for n in range(most):
        q_out[n] = 0.0
    scaled = np.empty(_ORDER + 1)
    count = np.empty(most)
    y = np.empty(_ORDER + 1)
    for g in range(times.shape[0]):
        waiting = c * times[g]
        if waiting > 700.0:
            break
        ratio = times[g] / last
        factor = 1.0
        for k in range(1, _ORDER + 1):
            factor *= ratio
            scaled[k] = powers[k] * factor
        for m in range(1, most):
            y[m] = 0.0
            for k in range(_ORDER, m - 1, -1):
                y[m] += weights[m, k] * scaled[k]
        count[0] = math.exp(-scaled[1])
        for k in range(1, most):
            value = 0.0
            sign = 1.0
            for m in range(1, k + 1):
                value += sign * y[m] * count[k - m]
                sign = -sign
            count[k] = value / k
        weight = step * waiting * math.exp(-waiting)
        for n in range(1, most + 1):
            inside = 0.0
            for j in range(n):
                inside += count[j] * cumulative[g, passed, n - 1 - j]
            q_out[n - 1] += weight * (fewer[g, n - 1] - inside)
    for n in range(1, most + 1):
        q_out[n - 1] += (spare[n - 1] / (spare[n - 1] + c)) ** n


@numba.njit(cache=True)
def _crossing(ratio, a, b, slope):  # type: ignore[no-untyped-def]
    """First prefix k in [a, b] whose next token has p/q >= slope: the minimum of P - slope * x on the block."""
    low, high = a, b
    while low < high:
        middle = (low + high) // 2
        if ratio[middle] < slope:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True)
def _between(inside, outside, a, b):  # type: ignore[no-untyped-def]
    """Draft mass between two prefixes, from the side on which it does not cancel: tiny tails decide later draws."""
    return inside[b] - inside[a] if inside[b] < 0.5 else outside[a] - outside[b]


@numba.njit(cache=True)
def _truncation(rate, times, fewer, step, factor, light):  # type: ignore[no-untyped-def]
    """Error of an evaluation from power sums beyond the eighth, with tokens up to ``q T = light`` in them."""
    last = times[-1]
    eighth = 0.0
    for i in range(rate.shape[0]):
        x = rate[i] * last
        if x <= light:
            eighth += x**_ORDER
    # The factor was formed for the largest threshold; its leading term is linear in the threshold.
    factor *= light / _LIGHT
    error = 0.0
    for g in range(times.shape[0]):
        change = math.expm1(min(eighth * (times[g] / last) ** _ORDER * factor, 50.0))
        error += step * min(1.0 / math.e, times[g] * fewer[g]) * change
    return error


@numba.njit(cache=True)
def _search_row(  # type: ignore[no-untyped-def]
    rate,
    ratio,
    target,
    inside,
    outside,
    held,
    support,
    spare,
    times,
    fewer,
    draws,
    step,
    weights,
    factor,
    tolerance,
    best,
    low,
    place,
):
    """One row: outer approximation for all ``draws``; returns the truncation error of an evaluation."""
    most = spare.shape[0]
    last = times[-1]
    light = _LIGHT
    truncation = _truncation(rate, times, fewer[:, most - 1], step, factor, light)
    while truncation > _TRUNCATION and light > 1e-4:
        light /= 2.0
        truncation = _truncation(rate, times, fewer[:, most - 1], step, factor, light)
    heavy = np.nonzero(rate * last > light)[0]
    sums = np.zeros((rate.shape[0] // _STRIDE + 1, _ORDER + 1))
    _power_sums(rate, last, light, sums)
    cumulative = np.empty((times.shape[0], heavy.shape[0] + 1, most))
    _heavy_counts(rate, heavy, times, most, cumulative)
    number = draws.shape[0]
    final = held + support
    # Blocks still open: ends and the values of Q there.
    block = np.empty((2 * _EVALUATIONS, 2), dtype=np.int64)
    left = np.empty((2 * _EVALUATIONS, most))
    right = np.empty((2 * _EVALUATIONS, most))
    value = np.empty(most)
    block[0, 0], block[0, 1] = held, final
    left[0, :] = 0.0
    right[0, :] = 1.0
    for d in range(number):
        at_start, at_end = target[held], target[final] - 1.0
        best[d], place[d] = (at_start, held) if at_start <= at_end else (at_end, final)
        low[d] = best[d]
    open_blocks, used = 1, 0
    while open_blocks > 0:
        open_blocks -= 1
        a, b = block[open_blocks, 0], block[open_blocks, 1]
        worst, split = 0.0, -1
        width = _between(inside, outside, a, b)
        for d in range(number):
            n = draws[d] - 1
            rise = right[open_blocks, n] - left[open_blocks, n]
            slope = rise / width if width > 0.0 else 0.0
            k = _crossing(ratio, a, b, slope)
            bound = target[k] - left[open_blocks, n] - slope * _between(inside, outside, a, k)
            short = best[d] - bound
            if short > tolerance and a < k < b and used < _EVALUATIONS:
                if short > worst:
                    worst, split = short, k
            elif bound < low[d]:
                low[d] = bound
        if split < 0:
            continue
        # Bounds of this block that were good enough stay valid for its halves and are found again there.
        _evaluate(split, rate, last, light, sums, heavy, cumulative, times, fewer, spare, outside, step, weights, value)
        used += 1
        for d in range(number):
            found = target[split] - value[draws[d] - 1]
            if found < best[d]:
                best[d], place[d] = found, split
        block[open_blocks + 1, 0], block[open_blocks + 1, 1] = split, b
        for n in range(most):
            left[open_blocks + 1, n], right[open_blocks + 1, n] = value[n], right[open_blocks, n]
            right[open_blocks, n] = value[n]
        block[open_blocks, 1] = split
        open_blocks += 2
    for d in range(number):
        low[d] = min(low[d], best[d])
    return truncation


@numba.njit(cache=True, parallel=True)
def search(  # type: ignore[no-untyped-def]
    rates,
    ratios,
    target,
    inside,
    outside,
    held,
    support,
    spare,
    times,
    nodes,
    fewer,
    draws,
    step,
    weights,
    factor,
    tolerance,
):
    """All rows; returns best, low ``[B, N]``, place ``[B, N]`` and truncation ``[B]``."""
    rows, number = rates.shape[0], draws.shape[0]
    best, low = np.empty((rows, number)), np.empty((rows, number))
    place = np.empty((rows, number), dtype=np.int64)
    truncation = np.empty(rows)
    for b in numba.prange(rows):
        g = nodes[b]
        truncation[b] = _search_row(
            rates[b], ratios[b], target[b], inside[b], outside[b], held[b], support[b], spare[b], times[b, :g],
            fewer[b, :g], draws, step, weights, factor, tolerance, best[b], low[b], place[b],
        )  # fmt: skip
    return best, low, place, truncation
