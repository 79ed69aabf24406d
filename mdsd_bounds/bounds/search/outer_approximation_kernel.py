"""Compiled search without replacement: outer approximation of the convex curve Q between cells, then between tokens.

A *run* is a sequence of edges 0 .. M with everything an evaluation needs at each, and the smallest and largest ratio
between neighbouring edges.  The cells of a row form one run, the sorted tokens of one cell another.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.bounds.search.exponential_race_kernel import INSIDE, OUTSIDE, TARGET, evaluate
from mdsd_bounds.bounds.search.power_sums import ORDER
from mdsd_bounds.bounds.search.ratio_cells import crossing_bound

#: Half the distance from one to the next larger number.
UNIT = 2.0**-53


@njit(**STEP)
def _span(run, a, b):  # type: ignore[no-untyped-def]
    """Mass of q between two edges, from the side on which it does not cancel."""
    return run[b, INSIDE] - run[a, INSIDE] if run[b, INSIDE] < 0.5 else run[a, OUTSIDE] - run[b, OUTSIDE]


@njit(**STEP)
def search(runs, ends, place, race, tolerance, stack, best, opened):  # type: ignore[no-untyped-def]
    """Minimise ``P - Q_n`` over a run, for all of the race's numbers of draws at once.

    Blocks of edges lie on a stack with Q at both ends.  The chord of a block lies above Q; where the slope of P passes
    that of the chord, ``P - chord`` is lowest.  A block is dropped when for every n that is no less than ``best`` minus
    ``tolerance``, else it is split there; one that is a single cell is put on the list ``opened``.  Q at the ends of
    the run is line ``place`` of ``ends``.

    Returns the number of opened cells.  ``best`` is brought up to date.
    """
    run, held, w_low, w_high, last_edge = runs
    blocks, stack_left, stack_right = stack
    number = race.draws.shape[0]
    value = np.empty(number)
    blocks[0, 0], blocks[0, 1] = 0, last_edge
    for d in range(number):
        stack_left[0, d], stack_right[0, d] = ends.left[place, d], ends.right[place, d]
    size, cells = 1, 0
    while size > 0:
        size -= 1
        a, b = blocks[size, 0], blocks[size, 1]
        whole = _span(run, a, b)
        worst, split = 0.0, -1
        for d in range(number):
            rise = stack_right[size, d] - stack_left[size, d]
            slope = rise / whole if whole > 0.0 else 0.0
            first, stop = a, b
            while first < stop:
                middle = (first + stop) // 2
                if w_high[middle] <= slope:
                    first = middle + 1
                else:
                    stop = middle
            j = first
            bound = run[j, TARGET] - stack_left[size, d] - slope * _span(run, a, j)
            kink = False
            if j < b and w_low[j] < slope:
                rise = run[j + 1, TARGET] - run[j, TARGET]
                bound = crossing_bound(bound, slope, rise, _span(run, j, j + 1), w_low[j], w_high[j])
                kink = True
            short = best.value[d] - tolerance - bound
            if short > 0.0 and (kink or a < j < b):
                if short > worst:
                    worst, split = short, j + 1 if kink and j == a else j
            elif bound < best.low[d]:
                best.low[d] = bound
        if split < 0:
            continue
        if b == a + 1:
            opened.edge[cells, 0] = a
            for d in range(number):
                opened.left[cells, d], opened.right[cells, d] = stack_left[size, d], stack_right[size, d]
            cells += 1
            continue
        evaluate(run, split, held[split], race, value)
        for d in range(number):
            found = run[split, TARGET] - value[d]
            if found < best.value[d]:
                best.value[d], best.edge[d] = found, split
        blocks[size + 1, 0], blocks[size + 1, 1] = split, b
        blocks[size, 1] = split
        for d in range(number):
            stack_left[size + 1, d], stack_right[size + 1, d] = value[d], stack_right[size, d]
            stack_right[size, d] = value[d]
        size += 2
    return cells


@njit(**STEP)
def node_range(spare, counts, right, left, step):  # type: ignore[no-untyped-def]
    """First node, and how many reach past the last: cuts (4) and (5) of the race for every n in ``counts``.

    n = 1 and 2 need none.  ``right[n]`` solves ``Pr(Poisson(x) < n) = cut``; ``left[n, i]`` solves
    ``x^(n-i+1) / (n-i)! = cut``, at most 1.
    """
    first, last = np.inf, 0.0
    for d in range(counts.shape[0]):
        n = counts[d]
        if n < 3:
            continue
        begin = 0.0
        for i in range(n):
            begin = max(begin, left[n, i] / spare[i])
        first = min(first, begin)
        last = max(last, right[n] / spare[n - 1])
    if last == 0.0:
        return 1.0, 0
    return first, int(math.ceil(math.log(max(last / first, 1.0)) / step)) + 1


@njit(**STEP)
def truncation(eighth, third, classes, rest, race, rate):  # type: ignore[no-untyped-def]
    """Errors of an evaluation from the powers left out of the medium tokens and of the lightest.

    ``rate`` is the mass outside the n - 1 largest tokens, n the largest number of draws.
    """
    light, least = classes.light, classes.least
    times, last, n, step = race.times, race.last, race.most, race.step
    medium, small = 0.0, 0.0
    factor, factor_small = 0.0, 0.0
    for k in range(rest.shape[0] - 1, ORDER, -1):
        factor += rest[k] * light ** (k - ORDER)
    for k in range(rest.shape[0] - 1, 3, -1):
        factor_small += rest[k] * least ** (k - 3)
    for g in range(times.shape[0]):
        x = rate * times[g]
        weight = step * min(1.0 / math.e, times[g])
        if x >= n:
            term, fewer = math.exp(-min(x, 700.0)), 0.0
            for k in range(n):
                fewer += term
                term *= x / (k + 1)
            weight = min(weight, step * x * fewer)
        reach = times[g] / last
        medium += weight * math.expm1(min(eighth * reach**9 * factor, 50.0))
        small += weight * math.expm1(min(third * reach**4 * factor_small, 50.0))
    return medium, small


@njit(**STEP)
def recurrence_rounding(sums, light, rest, race):  # type: ignore[no-untyped-def]
    """Error of an evaluation from its own recurrence (2), given the first three power sums of all light tokens.

    Each node adds at most ``31 u h c t e^{-ct} sum over k < n of k h_k e^{-x}`` (Rounding in
    :mod:`.exponential_race_kernel`), and for every z in (0, 1]
    ``sum over k < n of h_k <= z^{-(n-1)} exp(sum_m X_m z^m / m)``; z = 1 or, beyond n - 1 expected arrivals x,
    ``(n-1)/x``.
    """
    first, second, third = sums
    n, higher, total = race.most, 0.0, 0.0
    for k in range(rest.shape[0] - 1, 2, -1):
        higher += rest[k] * light ** (k - 3)
    for g in range(race.times.shape[0]):
        reach = race.times[g] / race.last
        x, beyond = first * reach, second * reach**2 / 2.0 + third * reach**3 * higher
        z = min(1.0, (n - 1) / x) if x > 0.0 else 1.0
        growth = math.exp(min(z * (x + beyond) + z * z * beyond - x - (n - 1) * math.log(z), 50.0))
        total += min(1.0 / math.e, race.times[g]) * growth
    return 31.0 * UNIT * n * race.step * total
