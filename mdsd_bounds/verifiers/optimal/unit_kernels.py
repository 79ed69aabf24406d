"""Compiled passes over a whole row for :mod:`mdsd_bounds.verifiers.optimal.units`."""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS
from mdsd_bounds.bounds.search.ratio_cells import BLOCK, block_facts, largest, outside_largest


@njit(cache=True, nogil=True)
def total_and_least(x: np.ndarray) -> tuple[float, float]:
    """Sum, by blocks, and smallest entry."""
    total, least = 0.0, np.inf
    for begin in range(0, x.shape[0], BLOCK):
        part = _block_total(x[begin : begin + BLOCK])
        total += part[0]
        least = min(least, part[1])
    return total, least


@njit(**STEP, fastmath=SUMS)
def _block_total(x):  # type: ignore[no-untyped-def]
    total, least = 0.0, np.inf
    for i in range(x.shape[0]):
        total += x[i]
        least = min(least, x[i])
    return total, least


@njit(cache=True, nogil=True)
def excess_of_blocks(p: np.ndarray, r: np.ndarray, block: int) -> np.ndarray:
    """Sums of ``(p - r)_+`` over blocks of so many tokens; of p where r is empty."""
    found = np.empty(-(-p.shape[0] // block))
    for k in range(len(found)):
        here = slice(k * block, (k + 1) * block)
        found[k] = _block_excess(p[here], r[here]) if len(r) else _block_total(p[here])[0]
    return found


@njit(cache=True, nogil=True)
def draw_from_blocks(p: np.ndarray, r: np.ndarray, sums: np.ndarray, block: int, uniform: np.ndarray) -> np.ndarray:
    """Tokens in proportion to ``(p - r)_+`` (to p where r is empty), given its cumulative sums over blocks."""
    found = np.empty(len(uniform), np.int64)
    for i in range(len(uniform)):
        # 1 - u lies in (0, 1], so that a token of probability zero is never hit.
        goal = sums[-1] * (1.0 - uniform[i])
        k = min(np.searchsorted(sums, goal), len(sums) - 1)
        held, token = sums[k - 1] if k else 0.0, -1
        for j in range(k * block, min((k + 1) * block, p.shape[0])):
            left = p[j] - r[j] if len(r) else p[j]
            if left > 0.0:
                held += left
                token = j
                if held >= goal:
                    break
        found[i] = token
    return found


@njit(**STEP, fastmath=SUMS)
def _block_excess(p, r):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(p.shape[0]):
        total += max(p[i] - r[i], 0.0)
    return total


@njit(cache=True, nogil=True)
def total_of_smaller(x: np.ndarray, y: np.ndarray) -> float:
    """``sum min(x, y)``, by blocks."""
    total = 0.0
    for begin in range(0, x.shape[0], BLOCK):
        total += _block_smaller(x[begin : begin + BLOCK], y[begin : begin + BLOCK])
    return total


@njit(**STEP, fastmath=SUMS)
def _block_smaller(x, y):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.shape[0]):
        total += min(x[i], y[i])
    return total


@njit(cache=True, nogil=True)
def spare_masses(q: np.ndarray, n: int) -> np.ndarray:
    """Masses outside the 0, 1, .. n - 1 largest entries, each a sum of what is left."""
    blocks = -(-q.shape[0] // BLOCK)
    sums, peaks = np.empty(blocks), np.empty(blocks, np.int64)
    bits = q.view(np.int64)
    block_facts(q, bits, sums, peaks)
    value, token, outside = np.empty(n - 1), np.empty(n - 1, np.int64), np.empty(n)
    largest(q, bits, peaks, value, token)
    outside_largest(q, sums, value, token, outside)
    return outside


@njit(cache=True, nogil=True)
def single_tokens(p: np.ndarray, q: np.ndarray, draws: int, count: int, heavy: float) -> np.ndarray:
    """Tokens, ascending: the ``count`` largest ``min(p, draws q)``, all with ``q > heavy``, and the largest q."""
    blocks = -(-q.shape[0] // BLOCK)
    weight, peaks, sums = np.empty(q.shape[0]), np.empty(blocks, np.int64), np.empty(blocks)
    for i in range(q.shape[0]):
        weight[i] = min(p[i], draws * q[i])
    bits = weight.view(np.int64)
    block_facts(weight, bits, sums, peaks)
    value, token = np.empty(count), np.empty(count, np.int64)
    chosen = np.zeros(q.shape[0], np.bool_)
    for k in range(largest(weight, bits, peaks, value, token)):
        chosen[token[k]] = True
    hottest = 0
    for begin in range(0, q.shape[0], BLOCK):
        peak = _block_peak(q[begin : begin + BLOCK])
        if peak > heavy or peak > q[hottest]:
            for i in range(begin, min(begin + BLOCK, q.shape[0])):
                if q[i] > heavy:
                    chosen[i] = True
                if q[i] > q[hottest]:
                    hottest = i
    chosen[hottest] = True
    return np.flatnonzero(chosen)


@njit(**STEP, fastmath=SUMS)
def _block_peak(x):  # type: ignore[no-untyped-def]
    peak = 0.0
    for i in range(x.shape[0]):
        peak = max(peak, x[i])
    return peak


@njit(cache=True, nogil=True, error_model="numpy")
def edge_above(p: np.ndarray, q: np.ndarray, scale: float, limit: float) -> float:
    """Smallest number above p/q of the tokens with ``p / (q scale) < limit``; 0 if there are none."""
    w, most, peak = np.empty(BLOCK), -1.0, np.int64(-1)
    bits, top = w.view(np.int64), np.array([limit]).view(np.int64)[0]
    for begin in range(0, q.shape[0], BLOCK):
        part_p, part_q, here = p[begin : begin + BLOCK], q[begin : begin + BLOCK], np.int64(-1)
        for i in range(part_q.shape[0]):
            w[i] = p[begin + i] / (part_q[i] * scale) if part_q[i] > 0.0 else np.inf
        # Positive floats are ordered like integers, whose maximum the compiler vectorises.
        for i in range(part_q.shape[0]):
            here = max(here, bits[i] if bits[i] < top else np.int64(-1))
        if here >= peak:
            peak = here
            for i in range(part_q.shape[0]):
                if bits[i] == here and here >= 0:
                    most = max(most, part_p[i] / part_q[i])
    return np.nextafter(most, np.inf) if most >= 0.0 else 0.0


@njit(cache=True, nogil=True)
def spread_bins(
    table: np.ndarray, half: int, bins: int, even: bool, edges: tuple[np.ndarray, np.ndarray], number: np.ndarray
) -> tuple[np.ndarray, int]:
    """Bins of equal shares of ``sum share`` over the cells, whose weight and count are ``table`` ``[C, 2]``.

    The share of a cell is the square root of its weight; if ``even``, a flatter one with the same total on either
    side.  The first ``half`` cells are side L; ``edges`` are the lower and the upper ones of all cells.  Writes the bin
    of each cell to ``number`` (-1 where it is empty); returns the bounds of p/q ``[B, 2]`` and how many bins are on
    side L.
    """
    share, (low, high) = np.zeros(table.shape[0]), edges
    total = _shares(table[:half], even, True, share[:half]) + _shares(table[half:], even, False, share[half:])
    bounds, used, left, before, done = np.empty((2 * bins, 2)), 0, 0, -1, 0.0
    step = bins * (1.0 - 1e-12) / max(total, 1e-300)
    for c in range(table.shape[0]):
        number[c] = -1
        if c == half:
            left, before = used, -1
        if table[c, 1] > 0.0:
            done += share[c]
            here = min(int(done * step), bins - 1)
            if here != before:
                bounds[used, 0] = low[c]
                used += 1
                before = here
            bounds[used - 1, 1] = high[c]
            number[c] = used - 1
    return bounds[:used], used if half == table.shape[0] else left


@njit(cache=True, nogil=True)
def _shares(table, even, left, share):  # type: ignore[no-untyped-def]
    """Shares of the cells of one side, whose total is that of the square roots; returns it."""
    total, flat = 0.0, 0.0
    for c in range(table.shape[0]):
        if table[c, 1] > 0.0:
            root = np.sqrt(table[c, 0])
            # On side L the ends of the order, however light, are what no later tree can put right.
            share[c] = root if not even else np.sqrt(np.sqrt(root)) if left else np.cbrt(table[c, 0])
            total += root
            flat += share[c]
    if flat > 0.0:
        share *= total / flat
    return total


@njit(cache=True, nogil=True)
def moved_targets(
    p: np.ndarray, q: np.ndarray, curve: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], left: int, share: float
) -> np.ndarray:
    """:func:`.units.targets` of units with these bounds of p/q, the first ``left`` of them on side L."""
    goal, (low, high) = p.copy(), bounds
    room = np.maximum(curve - curve[left], 0.0) * share
    # What has been moved into a prefix of side L may fill its slack and that of every shorter one.
    for u in range(1, left + 1):
        room[u] = min(room[u], room[u - 1])
    added = 0.0
    for u in range(left - 1, -1, -1):
        want = max(min(q[u] * high[u], 1.0) - p[u], 0.0)
        total = max(added, min(added + want, room[u]))
        goal[u] += total - added
        added = total
    room = np.maximum(curve - curve[left], 0.0) * share
    for u in range(len(p) - 1, left - 1, -1):
        room[u] = min(room[u], room[u + 1])
    added = 0.0
    for u in range(left, len(p)):
        want = max(p[u] - q[u] * low[u], 0.0)
        total = max(added, min(added + want, room[u + 1]))
        goal[u] -= total - added
        added = total
    return goal


@njit(cache=True, nogil=True)
def below_edge(p: np.ndarray, q: np.ndarray, edge: float, left: np.ndarray) -> None:
    """Write to ``left`` which tokens with q > 0 have p/q below the edge."""
    for i in range(q.shape[0]):
        left[i] = q[i] > 0.0 and p[i] / q[i] < edge


@njit(cache=True, nogil=True)
def cells(
    p: np.ndarray, q: np.ndarray, left: np.ndarray, bits_kept: tuple[int, int, int], cell: np.ndarray, ratio: np.ndarray
) -> tuple[int, int, int, int]:
    """Cell of p/q from the leading bits of the ratio, -1 where q = 0; ``ratio`` takes p/q.

    ``bits_kept`` are the leading bits of the smallest and largest ratio told apart, and by how many places to shift for
    them.  Each side has cells from the first to the last that holds a token, those of side L first; returns the place
    of both cells among all, and behind the last, of either side.
    """
    first, last, shift = bits_kept
    bits, all_cells = ratio.view(np.int64), last - first + 1
    least_left, least_right, most_left, most_right = all_cells, all_cells, -1, -1
    for i in range(q.shape[0]):
        if q[i] > 0.0:
            ratio[i] = p[i] / q[i]
            place = min(max((bits[i] >> shift) - first, 0), last - first)
            cell[i] = place
            if left[i]:
                least_left, most_left = min(least_left, place), max(most_left, place)
            else:
                least_right, most_right = min(least_right, place), max(most_right, place)
        else:
            ratio[i] = np.inf
            cell[i] = -1
    before = max(most_left + 1 - least_left, 0)
    for i in range(q.shape[0]):
        if cell[i] >= 0:
            cell[i] += -least_left if left[i] else before - least_right
    return least_left, least_left + before, least_right, max(most_right + 1, least_right)


@njit(cache=True, nogil=True)
def cell_weights(
    p: np.ndarray, q: np.ndarray, cell: np.ndarray, unit: np.ndarray, draws: int, table: np.ndarray
) -> None:
    """``min(p, draws q)`` and number of the tokens with ``unit = -1``, summed by cell."""
    for i in range(q.shape[0]):
        if cell[i] >= 0 and unit[i] == -1:
            table[cell[i], 0] += min(p[i], draws * q[i])
            table[cell[i], 1] += 1.0


@njit(cache=True, nogil=True)
def sums_by_group(p: np.ndarray, q: np.ndarray, group: np.ndarray, scale: float, table: np.ndarray) -> None:
    """Add to ``table[g] = (sum p, sum x, sum x^2, ...)`` with ``x = q scale``, over the tokens of each group >= 0."""
    for i in range(q.shape[0]):
        g = group[i]
        if g < 0:
            continue
        table[g, 0] += p[i]
        power = x = q[i] * scale
        for k in range(1, powers_needed(x, table.shape[1] - 1) + 1):
            table[g, k] += power
            power *= x


@njit(**STEP)
def powers_needed(x, most):  # type: ignore[no-untyped-def]
    """Powers of x that count beside the first: times in units of the scale are below 1e3 where anything is left."""
    return min(most, 4) if x < 1e-8 else min(most, 8) if x < 1e-6 else most


@njit(cache=True, nogil=True)
def assign(cell: np.ndarray, bin_of_cell: np.ndarray, unit_of_bin: np.ndarray, unit: np.ndarray) -> None:
    """Unit of each token by the bin of its cell; tokens whose ``unit`` is not -1 keep it, those with q = 0 stay at -1.

    A bin of -1 has no unit.
    """
    for i in range(cell.shape[0]):
        if cell[i] >= 0 and unit[i] == -1:
            place = bin_of_cell[cell[i]]
            unit[i] = unit_of_bin[place] if place >= 0 else -1


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
