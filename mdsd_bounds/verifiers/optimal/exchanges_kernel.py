"""The exchanges of priority intervals compiled, the distribution of the pick, and the pick itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS
from mdsd_bounds.verifiers.optimal.intervals_kernel import BLOCK, STRIP, group_few, group_many, worth_of

#: Surpluses and deficits of rounding size, relative to the mass of their interval, are left alone.
_NOTHING = 1e-15
_LEAST = 1e-290


class Tables(NamedTuple):
    """What a step needs of M intervals (entry 0: tokens never drafted) and S pairs of them that exchange.

    ``draft`` (mass), ``worth`` (G over the total of q) and ``rate`` ``[M + 1]``: a draft of token i leaves its interval
    with probability ``rate (p_i / q_i - worth)``.  The pairs of an interval are those from ``first`` to ``end``;
    ``low`` and ``high`` ``[S]`` name the intervals of each, ``low_sum`` and ``high_sum`` the mass exchanged, cumulated
    over the pairs of the lower and of the higher one.
    """

    draft: np.ndarray
    worth: np.ndarray
    rate: np.ndarray
    first: np.ndarray
    end: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_sum: np.ndarray
    high_sum: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def prepare_row(
    p: np.ndarray, q: np.ndarray, n: int, token: np.ndarray, interval: np.ndarray, r: np.ndarray
) -> tuple[Tables, int, float, float]:
    """Fill ``interval`` and ``r`` ``[V]``; returns the tables, h, the bound and ``sum min(p, r)``.

    ``token`` lists the support of q, and then ``interval`` and ``r`` must be zero before; where it is empty the row is
    taken as a whole.  The intervals 1 to h are the token set H of the bound ``1 + P(H) - q(H)^n``.

    In an interval of worth G the part ``gain`` of every token's surplus or deficit ``p - q G`` is exchanged, so that
    ``r = (1 - gain) q G + gain p``.
    """
    is_few = token.shape[0] > 0
    groups = group_few(p, q, n, token, interval) if is_few else group_many(p, q, n, interval)
    count = groups.edge.shape[0]
    spare, gain, parts = np.zeros(count), np.zeros(count), np.zeros((count, 2))
    tables = Tables(
        groups.draft, np.zeros(count), np.zeros(count), np.zeros(count, np.int32), np.zeros(count, np.int32),
        np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count), np.empty(count),
    )  # fmt: skip
    held = _differences(n, groups, tables.worth, spare)
    pairs = _sweep(held + 1, count, 1, spare, tables, gain, 0)
    pairs = _sweep(held, 0, -1, spare, tables, gain, pairs)
    for k in range(1, count):
        stop = tables.end[k]
        tables.worth[k] /= groups.total
        if stop > 0:
            moved = tables.low_sum[stop - 1] if spare[k] > 0.0 else tables.high_sum[stop - 1]
            tables.rate[k] = moved / spare[k] * groups.total
            parts[k, 1] = min(gain[k] / abs(spare[k]), 1.0)
        parts[k, 0] = (1.0 - parts[k, 1]) * tables.worth[k]
    if is_few:
        sums = _emit_few(p, q, token, held, parts, interval, r)
    else:
        sums = _emit_many(p, q, groups.number, held, parts, interval, r)
    total, accepted, inside, inside_draft = sums[0], sums[1], sums[2], sums[3]
    return _shortened(tables, pairs), held, 1.0 + inside - (inside_draft / total) ** n, accepted


@njit(**STEP)
def _differences(n, groups, worth, spare):  # type: ignore[no-untyped-def]
    """Write G and ``target - draft G`` of every interval; returns h, the first place where their sum is least."""
    edge, target, draft = groups.edge, groups.target, groups.draft
    least, held, base = 0.0, 0, 0.0
    for begin in range(1, edge.shape[0], BLOCK):
        within = 0.0
        for k in range(begin, min(begin + BLOCK, edge.shape[0])):
            worth[k] = worth_of(edge[k - 1], edge[k], n)
            spare[k] = target[k] - draft[k] * worth[k]
            within += spare[k]
            if base + within < least:
                least, held = base + within, k
            if abs(spare[k]) <= max(_NOTHING * target[k], _LEAST):
                spare[k] = 0.0
        base += within
    return held


@njit(**STEP)
def _sweep(begin, stop, way, spare, tables, gain, pairs):  # type: ignore[no-untyped-def]
    """One sweep from h outwards: intervals in want are served by those passed before, first in, first out.

    Upwards (``way`` 1) those in want have a surplus, downwards a deficit.  Fills the pairs, adds what every interval
    gains or loses to ``gain``, and returns the number of pairs.
    """
    draft, worth = tables.draft, tables.worth
    m, rest, used = begin, way * spare[begin] if begin != stop else 0.0, 0.0
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
            gain[k] += moved * step
            gain[m] += moved * step
            low, high = (m, k) if way > 0 else (k, m)
            tables.low[pairs], tables.high[pairs] = low, high
            tables.low_sum[pairs], tables.high_sum[pairs] = (used, mine) if way > 0 else (mine, used)
            for side in (k, m):
                if tables.end[side] == 0:
                    tables.first[side] = pairs
                tables.end[side] = pairs + 1
            pairs += 1
    return pairs


@njit(**STEP)
def _shortened(tables, pairs):  # type: ignore[no-untyped-def]
    t = tables
    return Tables(
        t.draft, t.worth, t.rate, t.first, t.end,
        t.low[:pairs], t.high[:pairs], t.low_sum[:pairs], t.high_sum[:pairs],
    )  # fmt: skip


@njit(**STEP)
def _emit_few(p, q, token, held, parts, interval, r):  # type: ignore[no-untyped-def]
    """:func:`_emit_many` where only the tokens ``token`` are drafted; their intervals are known."""
    size, sums = token.shape[0], np.zeros(4)
    some_p, some_q, some_r, place = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK, np.int32)
    for strip in range(0, size, STRIP):
        subtotal = np.zeros(4)
        for begin in range(strip, min(strip + STRIP, size), BLOCK):
            many = min(BLOCK, size - begin)
            for j in range(many):
                i = token[begin + j]
                k = interval[i]
                some_p[j], some_q[j], place[j] = p[i], q[i], k
                some_r[j] = parts[k, 0] * q[i] + parts[k, 1] * p[i]
                r[i] = some_r[j]
            _add_sums(some_p[:many], some_q[:many], some_r[:many], place[:many], held, subtotal)
        sums += subtotal
    return sums


@njit(**STEP)
def _emit_many(p, q, number, held, parts, interval, r):  # type: ignore[no-untyped-def]
    """Write r, and intervals in the place of their codes; returns q's total, sum min(p, r), P(H) and q(H).

    ``r = parts[k, 0] q + parts[k, 1] p`` in interval k.
    """
    sums = np.zeros(4)
    for strip in range(0, p.shape[0], STRIP):
        subtotal = np.zeros(4)
        for begin in range(strip, min(strip + STRIP, p.shape[0]), BLOCK):
            end = min(begin + BLOCK, p.shape[0])
            some_p, some_q, some_r, place = p[begin:end], q[begin:end], r[begin:end], interval[begin:end]
            for i in range(place.shape[0]):
                place[i] = number[np.uint32(place[i])]
            for i in range(place.shape[0]):
                k = np.uint32(place[i])
                some_r[i] = parts[k, 0] * some_q[i] + parts[k, 1] * some_p[i]
            _add_sums(some_p, some_q, some_r, place, held, subtotal)
        sums += subtotal
    return sums


@njit(**STEP, fastmath=SUMS)
def _add_sums(p, q, r, place, held, sums):  # type: ignore[no-untyped-def]
    total, accepted, inside, inside_draft = 0.0, 0.0, 0.0, 0.0
    for i in range(p.shape[0]):
        # Tokens that are never drafted are in no interval, and not in H.
        is_in = 1.0 if np.uint32(place[i] - 1) < np.uint32(held) else 0.0
        total += q[i]
        accepted += min(p[i], r[i])
        inside += is_in * p[i]
        inside_draft += is_in * q[i]
    sums[0] += total
    sums[1] += accepted
    sums[2] += inside
    sums[3] += inside_draft


@njit(cache=True, nogil=True)
def pick(
    drafts: np.ndarray, uniform: np.ndarray, p: np.ndarray, q: np.ndarray, interval: np.ndarray, tables: Tables
) -> np.ndarray:
    """The draft ``[T]`` in the highest interval; ``uniform`` ``[T, 2 n]`` moves drafts and breaks ties.

    Empty places, which hold -1, are never picked.
    """
    rows, n = drafts.shape
    chosen, place, ratio = np.zeros(rows, np.int64), np.empty(n, np.int64), np.zeros(n)
    for t in range(rows):
        for k in range(n):
            token = drafts[t, k]
            place[k] = interval[token] if token >= 0 else -1
            if place[k] >= 0 and tables.end[place[k]] > tables.first[place[k]]:
                ratio[k] = p[token] / q[token]
        chosen[t] = pick_interval(place, ratio, uniform[t], tables)
    return chosen


@njit(**STEP)
def pick_interval(own, ratio, uniform, tables):  # type: ignore[no-untyped-def]
    """The draft in the highest interval, from the intervals ``own`` (-1: empty) and p/q of the drafts."""
    n, best, tied, chosen = len(own), -1, 0, 0
    for k in range(n):
        place = own[k]
        if place < 0:
            continue
        begin, stop = tables.first[place], tables.end[place]
        if stop > begin:
            leave = tables.rate[place] * (ratio[k] - tables.worth[place])
            if uniform[k] < leave:
                is_low = tables.low[begin] == place
                table, partner = (tables.low_sum, tables.high) if is_low else (tables.high_sum, tables.low)
                goal = uniform[k] / leave * table[stop - 1]
                while begin < stop - 1:
                    middle = (begin + stop - 1) // 2
                    if table[middle] > goal:
                        stop = middle + 1
                    else:
                        begin = middle + 1
                place = partner[begin]
        if place > best:
            best, tied, chosen = place, 1, k
        elif place == best:
            tied += 1
            # The last of m in a tie takes over with probability 1/m: each ends with the same chance.
            if uniform[n + k] * tied < 1.0:
                chosen = k
    return chosen
