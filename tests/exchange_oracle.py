"""The exchange construction token by token in plain numpy, with a sort: an oracle for the rule with replacement.

Every token with q > 0 owns an interval of its own, in the order of p/q ascending; otherwise as in
:mod:`mdsd_bounds.verifiers.optimal.with_replacement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array


@dataclass(frozen=True)
class Exchanges:
    """Intervals and exchanges of one position; M tokens have q > 0, S pairs exchange.

    Attributes
    ----------
    order : array
        ``[M]`` int32: tokens, lowest interval first.
    q, r : array
        ``[M]`` float64 by interval: the width of the interval, and the distribution of the pick.
    first, end : array
        ``[M]`` int32: the pairs of a interval are those from ``first`` to ``end``.
    low, high : array
        ``[S]`` int32: intervals that exchange.
    low_sum, high_sum : array
        ``[S]`` float64: mass exchanged, cumulated over the pairs of the lower and of the higher interval.
    held : int
        h: the first h intervals are the token set that proves the upper bound.
    bound : float
        ``1 + P(H) - q(H)^n`` of that set.
    """

    order: np.ndarray
    q: np.ndarray
    r: np.ndarray
    first: np.ndarray
    end: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_sum: np.ndarray
    high_sum: np.ndarray
    held: int
    bound: float


def interval_worth(edge: np.ndarray, n: int) -> np.ndarray:
    """``G_i`` from the upper edges of the intervals, without cancellation.  ``[M]``."""
    below = np.concatenate([[0.0], edge[:-1]])
    worth, power = np.zeros_like(edge), np.ones_like(edge)
    for _ in range(n):
        worth = worth * edge + power
        power = power * below
    return worth


def solve_exchanges(p: np.ndarray, q: np.ndarray, n: int) -> Exchanges:
    """The construction in plain numpy.  O(V log V).

    Parameters
    ----------
    p, q : array
        ``[V]`` float64 distributions.
    n : int
        Number of drafts.
    """
    with np.errstate(over="ignore", under="ignore"):
        tokens = np.flatnonzero(q > 0)
        order = tokens[np.argsort(p[tokens] / q[tokens], kind="stable")].astype(np.int32)
        target, draft = p[order], q[order] / q.sum()
        edge = np.cumsum(draft)
        edge = np.minimum(edge / edge[-1], 1.0)
        worth = interval_worth(edge, n)
        plain = draft * worth
        spare = np.concatenate([[0.0], np.cumsum(target - plain)])
        held = int(spare[:-1].argmin()) if spare.min() < spare[-1] else len(spare) - 1
        right = _match(target[held:], plain[held:], draft[held:], worth[held:])
        left = _match(-target[:held][::-1], -plain[:held][::-1], draft[:held][::-1], -worth[:held][::-1])
        # Reversed, surpluses are deficits: the pair (i, j) comes back as intervals (h-1-j, h-1-i), still in order.
        low = np.concatenate([held + right[0], held - 1 - left[1]])
        high = np.concatenate([held + right[1], held - 1 - left[0]])
        mass = np.concatenate([right[2], left[2]])
        gain = mass * (worth[high] - worth[low])
        r = plain + np.bincount(low, gain, len(order)) - np.bincount(high, gain, len(order))
    pairs = np.arange(len(mass), dtype=np.int32)
    first, end = np.zeros(len(order), np.int32), np.zeros(len(order), np.int32)
    for side in (low, high):
        first[side[::-1]] = pairs[::-1]
        end[side] = pairs + 1
    return Exchanges(
        order, draft, np.maximum(r, 0.0), first, end, low.astype(np.int32), high.astype(np.int32),
        _cumulate(mass, low), _cumulate(mass, high), held,
        float(1.0 + target[:held].sum() - (edge[held - 1] ** n if held else 0.0)),
    )  # fmt: skip


def _match(
    target: np.ndarray, plain: np.ndarray, draft: np.ndarray, worth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs ``(i, j, x)``, i < j: surpluses ``plain - target`` given to deficits before them, first in, first out."""
    spare = target - plain
    deficit, surplus = np.cumsum(np.maximum(spare, 0.0)), np.cumsum(np.maximum(-spare, 0.0))
    empty = np.zeros(0, np.int64)
    if len(spare) == 0 or surplus[-1] <= 0.0 or deficit[-1] <= 0.0:
        return empty, empty, np.zeros(0)
    most = min(deficit[-1], surplus[-1])
    knots = np.unique(np.concatenate([deficit, surplus]))
    knots = np.concatenate([[0.0], knots[(knots > 0.0) & (knots <= most)]])
    amount, middle = np.diff(knots), (knots[1:] + knots[:-1]) / 2
    i, j = np.searchsorted(deficit, middle), np.searchsorted(surplus, middle)
    step = worth[np.minimum(j, len(worth) - 1)] - worth[np.minimum(i, len(worth) - 1)]
    # Pairs that only rounding makes: nothing can be exchanged upwards.
    sound = (i < j) & (step > 0.0)
    i, j, x = i[sound], j[sound], amount[sound] / step[sound]
    # Cumulative sums round against the largest token: cut what a small one cannot hold.
    room = []
    for side in (i, j):
        used = np.bincount(side, x, len(draft))
        room.append(np.where(used > draft, draft / np.where(used > 0, used, 1.0), 1.0)[side])
    return i, j, x * np.minimum(*room)


def _cumulate(mass: np.ndarray, interval: np.ndarray) -> np.ndarray:
    """Cumulative sums of ``mass`` that start afresh where ``interval`` changes."""
    total = mass.copy()
    if len(mass):
        starts = np.flatnonzero(np.concatenate([[True], interval[1:] != interval[:-1]]))
        ends = np.append(starts[1:], len(mass))
        for run in np.flatnonzero(ends - starts > 1):
            part = slice(starts[run], ends[run])
            total[part] = np.cumsum(mass[part])
    return total


def interval_distribution(exchanges: Exchanges) -> csr_array:
    """Probability ``[M, M]`` that a draft of the token of one slot takes another: row sums are one."""
    count = len(exchanges.order)
    low_mass, high_mass = exchanges.low_sum.copy(), exchanges.high_sum.copy()
    for side, mass in ((exchanges.low, low_mass), (exchanges.high, high_mass)):
        follows = np.flatnonzero(side[1:] == side[:-1]) + 1
        total = mass.copy()
        mass[follows] -= total[follows - 1]
    leaves = np.bincount(exchanges.low, low_mass, count) + np.bincount(exchanges.high, high_mass, count)
    stays = np.maximum(exchanges.q - leaves, 0.0)
    own = np.arange(count)
    row = np.concatenate([own, exchanges.low, exchanges.high])
    column = np.concatenate([own, exchanges.high, exchanges.low])
    share = np.concatenate([stays, low_mass, high_mass]) / exchanges.q[row]
    probs: csr_array = coo_array((share, (row, column)), shape=(count, count)).tocsr()
    return probs
