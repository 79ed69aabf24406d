"""The exchange construction compiled: a radix sort, sums by blocks, and pairs matched in one sweep each way.

Working arrays come from the caller, who keeps them: fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Terms of one block of a running sum.
BLOCK = 256
#: Ratios closer than this, relatively, are left in any order: logits of few bits make many that differ by rounding.
TIED = 1e-13


@njit(cache=True, nogil=True, error_model="numpy")
def ratio_order(p: np.ndarray, q: np.ndarray, ratio: np.ndarray, work: np.ndarray, order: np.ndarray) -> int:
    """Write the tokens with q > 0 by p/q ascending to ``order``; returns how many.

    Three passes of a radix sort on the upper 32 bits of the ratios' floating-point numbers, which order as whole
    numbers do; runs that agree in them are then put in order by the whole ratio.  ``work`` is ``[2, V]`` uint64.
    """
    size = p.shape[0]
    for i in range(size):
        ratio[i] = p[i] / q[i]
    bits = ratio.view(np.uint64)
    packed, other = work[0], work[1]
    counts = np.zeros((3, 2049), np.int64)
    count = 0
    for i in range(size):
        if q[i] > 0.0:
            # The sign bit is zero: 32 bits from the 63rd down.
            key = bits[i] >> np.uint64(31)
            packed[count] = (key << np.uint64(32)) | np.uint64(i)
            count += 1
            counts[0, np.int64(key & np.uint64(2047)) + 1] += 1
            counts[1, np.int64((key >> np.uint64(11)) & np.uint64(2047)) + 1] += 1
            counts[2, np.int64(key >> np.uint64(22)) + 1] += 1
    for turn in range(3):
        _radix_pass(packed[:count], other[:count], np.cumsum(counts[turn]), 32 + 11 * turn)
        packed, other = other, packed
    for k in range(count):
        order[k] = np.int32(packed[k] & np.uint64(0xFFFFFFFF))
    begin = 0
    while begin < count:
        end = begin + 1
        most, unsorted = ratio[order[begin]], False
        while end < count and (packed[end] >> np.uint64(32)) == (packed[begin] >> np.uint64(32)):
            found = ratio[order[end]]
            unsorted = unsorted or found < most * (1.0 - TIED)
            most = max(most, found)
            end += 1
        if unsorted:
            _sort_run(order[begin:end], ratio)
        begin = end
    return count


@njit(cache=True, nogil=True)
def _radix_pass(packed: np.ndarray, other: np.ndarray, place: np.ndarray, shift: int) -> None:
    for k in range(packed.shape[0]):
        digit = np.int64((packed[k] >> np.uint64(shift)) & np.uint64(2047))
        at = place[digit]
        other[at] = packed[k]
        place[digit] = at + 1


@njit(cache=True, nogil=True)
def _sort_run(order: np.ndarray, ratio: np.ndarray) -> None:
    if order.shape[0] > 32:
        order[:] = order[np.argsort(ratio[order], kind="mergesort")]
        return
    for k in range(1, order.shape[0]):
        token, place = order[k], k
        while place > 0 and ratio[order[place - 1]] > ratio[token]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = token


@njit(cache=True, nogil=True)
def _cumulate(values: np.ndarray, out: np.ndarray) -> None:
    """Running sums, block by block: the error grows with the block and the number of blocks, not with all terms."""
    total = 0.0
    for begin in range(0, values.shape[0], BLOCK):
        within = 0.0
        for i in range(begin, min(begin + BLOCK, values.shape[0])):
            within += values[i]
            out[i] = total + within
        total += within


@njit(cache=True, nogil=True, error_model="numpy")
def place_intervals(
    p: np.ndarray,
    q: np.ndarray,
    order: np.ndarray,
    n: int,
    work: np.ndarray,
    draft: np.ndarray,
    r: np.ndarray,
) -> tuple[int, float]:
    """Write q and r0 by interval; returns h and ``1 + P(H) - q(H)^n``.

    ``work`` is ``[3, M]``: on return its first row holds ``worth`` and its second ``p - r0``.
    """
    count = order.shape[0]
    worth, spare, edge = work[0], work[1], work[2]
    for k in range(count):
        spare[k], draft[k] = p[order[k]], q[order[k]]
    _cumulate(draft, edge)
    total = edge[count - 1]
    for k in range(count):
        draft[k] /= total
        edge[k] = min(edge[k] / total, 1.0)
    for k in range(count):
        upper, lower = edge[k], edge[k - 1] if k else 0.0
        sum_, power = 0.0, 1.0
        for _ in range(n):
            sum_ = sum_ * upper + power
            power *= lower
        worth[k] = sum_
        r[k] = draft[k] * sum_
    least, held = 0.0, 0
    low, low_target, base, base_target = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, count, BLOCK):
        within, within_target = 0.0, 0.0
        for k in range(begin, min(begin + BLOCK, count)):
            within_target += spare[k]
            spare[k] -= r[k]
            within += spare[k]
            if base + within < least:
                least, held, low_target = base + within, k + 1, base_target + within_target
                low = edge[k]
        base += within
        base_target += within_target
    return held, 1.0 + low_target - low**n


@njit(cache=True, nogil=True, error_model="numpy")
def match(
    held: int,
    worth: np.ndarray,
    spare: np.ndarray,
    draft: np.ndarray,
    r: np.ndarray,
    span: np.ndarray,
    pair: np.ndarray,
    mass: np.ndarray,
) -> int:
    """Match deficits with surpluses and change r; returns the number of pairs.

    Writes ``span`` ``[2, M]`` (first, end), ``pair`` ``[2, S]`` (low, high), ``mass`` ``[2, S]`` (low_sum, high_sum).
    """
    span[:] = 0
    count = worth.shape[0]
    pairs = _sweep(held, count, 1, worth, spare, draft, r, span, pair, mass, 0)
    pairs = _sweep(held - 1, -1, -1, worth, spare, draft, r, span, pair, mass, pairs)
    for k in range(count):
        r[k] = max(r[k], 0.0)
    return pairs


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(
    begin: int,
    stop: int,
    way: int,
    worth: np.ndarray,
    spare: np.ndarray,
    draft: np.ndarray,
    r: np.ndarray,
    span: np.ndarray,
    pair: np.ndarray,
    mass: np.ndarray,
    pairs: int,
) -> int:
    """One sweep from h outwards: tokens in want are served by those passed before, first in, first out.

    Upwards (``way`` 1) those in want are the surpluses, downwards the deficits.
    """
    outer, inner = (1, 0) if way > 0 else (0, 1)
    m = begin
    rest, used = way * spare[m] if begin != stop else 0.0, 0.0
    for k in range(begin, stop, way):
        left, mine = -way * spare[k], 0.0
        while left > 0.0:
            while m != k and not rest > 0.0:
                m += way
                rest, used = way * spare[m], 0.0
            if m == k:
                break
            amount = min(left, rest)
            left -= amount
            rest -= amount
            step = way * (worth[k] - worth[m])
            if not step > 0.0:
                # Only rounding pairs intervals of equal worth.
                continue
            moved = min(amount / step, draft[k] - mine, draft[m] - used)
            if not moved > 0.0:
                continue
            mine += moved
            used += moved
            gain = way * moved * step
            r[k] -= gain
            r[m] += gain
            if span[1, k] == 0:
                span[0, k] = pairs
            if span[1, m] == 0:
                span[0, m] = pairs
            pair[outer, pairs], pair[inner, pairs] = k, m
            mass[outer, pairs], mass[inner, pairs] = mine, used
            pairs += 1
            span[1, k] = pairs
            span[1, m] = pairs
    return pairs


@njit(cache=True, nogil=True)
def scatter(order: np.ndarray, values: np.ndarray, out: np.ndarray, rank: np.ndarray) -> None:
    """``values`` by token ``[V]`` (0 off the order), and the interval of every token (-1 off the order)."""
    if order.shape[0] < out.shape[0]:
        out[:] = 0.0
        rank[:] = -1
    for k in range(order.shape[0]):
        out[order[k]], rank[order[k]] = values[k], k


@njit(cache=True, nogil=True)
def pick(
    drafts: np.ndarray,
    uniform: np.ndarray,
    rank: np.ndarray,
    q: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    low_sum: np.ndarray,
    high_sum: np.ndarray,
) -> np.ndarray:
    """The draft ``[T]`` in the highest interval; ``uniform`` ``[T, 2 n]`` moves drafts and breaks ties."""
    rows, n = drafts.shape
    chosen = np.zeros(rows, np.int64)
    for t in range(rows):
        best, tied = -1, 0
        for k in range(n):
            interval = rank[drafts[t, k]]
            begin, stop = first[interval], end[interval]
            if stop > begin:
                is_low = low[begin] == interval
                table, partner = (low_sum, high) if is_low else (high_sum, low)
                goal = uniform[t, k] * q[interval]
                if goal < table[stop - 1]:
                    while begin < stop - 1:
                        middle = (begin + stop - 1) // 2
                        if table[middle] > goal:
                            stop = middle + 1
                        else:
                            begin = middle + 1
                    interval = partner[begin]
            if interval > best:
                best, tied, chosen[t] = interval, 1, k
            elif interval == best:
                tied += 1
                # The last of m in a tie takes over with probability 1/m: each ends with the same chance.
                if uniform[t, n + k] * tied < 1.0:
                    chosen[t] = k
    return chosen
