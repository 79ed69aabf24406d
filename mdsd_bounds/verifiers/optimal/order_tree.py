"""The optimal rule without replacement, exactly: a tree of strict priority orders with one coin each (theorem 4).

A *component* is a set C of items in which nothing is drafted above C.  Its target t asks for a rule with ``r >= t`` on
C (side L) or ``r <= t`` (side R).  With v the distribution of the strict order of C by t/q, the coin

    ``c = min over subsets A of C with gap_v(A) > 0 of gap_t(A) / gap_v(A)``

is the largest for which ``t' = (t - c v) / (1 - c)`` can still be met, and at the minimiser A* the targets t' are
tight: whoever meets them gives C - A* strict priority over A*.  So with probability c the node's own order picks, and
otherwise the question falls apart into two smaller ones, the part above the cut and the part below.  The gaps are
``gap_t(A) = sum over C - A of (v' - t)`` on side L and ``sum over A of (t - v')`` on side R for the distribution v' of
any order in which A is lowest.  For any real x the least ``gap_x`` is found at a prefix of the order by x/q, so that
Dinkelbach's method, re-sorting by ``(t - c v)/q``, finds c in a few sweeps.

Components are contiguous stretches of one array ``order``; what a sweep knows of the items below them stays right for
both parts of a split.  Proofs: ``docs/optimal_verifier.md``, section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.borrowed import borrowed
from mdsd_bounds.verifiers.optimal.order_sweep import FAST, INLINE, INNER, spacing_for, start_sweep, sweep_window

#: Acceptance that may be left open in all leaves together, and the slack of one coin (absolute, in acceptance).
TOLERANCE, SLACK = 1e-10, 1e-12
#: Rounds of Dinkelbach's method at one node, and sweeps of all items after which open components become leaves.
ROUNDS, MOST_SWEEPS = 60, 2000
#: Guess of a coin: the first one, then the parent's within these bounds; components of so few items start without one.
FIRST_GUESS, LEAST_GUESS, MOST_GUESS, FEW = 0.1, 0.02, 0.9, 3
#: Below this a difference of gaps is not divided by.
TINY = 1e-290


class Tree(NamedTuple):
    """Nodes: the root first, children after their parents, the upper child right after the lower one.

    Attributes
    ----------
    place : ndarray
        ``[k]`` int32: final position of each item; components are stretches of positions.
    start, cut, lower, offset : ndarray
        ``[N]`` int32: first position; position that splits it (-1 in leaves); lower child; place of its order in
        ``rank`` (-1 where the coin is 0).
    coin : ndarray
        ``[N]``: probability that the node's own order picks; 1 in leaves.
    rank : ndarray
        int32: for each node and each of its positions, the priority of the item there in the node's order.
    """

    place: np.ndarray
    start: np.ndarray
    cut: np.ndarray
    lower: np.ndarray
    offset: np.ndarray
    coin: np.ndarray
    rank: np.ndarray


class Work(NamedTuple):
    """What the search keeps by item: targets, chance to be reached, r so far; the rest serves one node at a time.

    ``key`` goes by position: sorting moves it along with the order.
    """

    target: np.ndarray
    reached: np.ndarray
    r: np.ndarray
    own: np.ndarray
    key: np.ndarray
    saved: np.ndarray
    inside: np.ndarray
    swept: np.ndarray


class Part(NamedTuple):
    """A component: positions from ``start`` to ``end``, on side L or R."""

    start: int
    end: int
    left: bool


class Nodes(NamedTuple):
    """Nodes while they are made: as in :class:`Tree`, with the end of each component; coins start as guesses."""

    start: np.ndarray
    end: np.ndarray
    cut: np.ndarray
    lower: np.ndarray
    left: np.ndarray
    offset: np.ndarray
    coin: np.ndarray


@njit(**FAST)
def build_tree(items, p, tolerance, slack, split):  # type: ignore[no-untyped-def]
    """The tree for the targets ``p`` ``[k]``.

    ``split`` is -1, or the number of items on side L, which are then the first ones.

    Returns
    -------
    tree : Tree
    r : ndarray
        ``[k]``: distribution of its pick.
    steps : int
        Positions that were swept.
    """
    size = len(p)
    owned = start_sweep(items, spacing_for(items)), _start_work(p), _start_nodes(size)
    (state, work, nodes), items = borrowed(owned), borrowed(items)
    orders, used = np.empty(16 * size + 64, np.int32), 0
    nodes.cut[0] = _first_split(items, state, work) if split < 0 else _given_split(items, state, work, split)
    count = _add_parts(nodes, 0, 1)
    node = 0
    while node + 1 < count:
        node += 1
        part = Part(nodes.start[node], nodes.end[node], nodes.left[node])
        orders = _keep_order(state, work, part, orders, used)
        coin, cut = 1.0, -1
        if not is_leaf(state, work, part, tolerance / size):
            coin, cut = largest_coin(items, state, work, part, slack / size, nodes.coin[node])
        share_target(state, work, part, coin)
        nodes.coin[node], nodes.cut[node] = coin, cut
        if coin > 0.0:
            nodes.offset[node] = used
            used += part.end - part.start
        if cut >= 0:
            count = _add_parts(nodes, node, count)
    return finished(state.order, nodes, count, orders[:used]), owned[1].r, work.swept[0]


@njit(**INNER)
def _start_nodes(size):  # type: ignore[no-untyped-def]
    """Room for all nodes, with a root that holds everything and never picks."""
    room = 2 * size + 3
    whole = np.zeros((6, room), np.int32)
    whole[1, 0], whole[2], whole[5] = size, -1, -1
    nodes = Nodes(whole[0], whole[1], whole[2], whole[3], whole[4], whole[5], np.zeros(room))
    return nodes


@njit(**INLINE)
def _add_parts(nodes, node, count):  # type: ignore[no-untyped-def]
    """The parts below and above the node's cut, where they hold anything; returns how many nodes there are then."""
    cut, root = nodes.cut[node], node == 0
    nodes.lower[node] = count if cut > nodes.start[node] else count - 1
    for lower in (True, False):
        start, end = (nodes.start[node], cut) if lower else (cut, nodes.end[node])
        if end > start:
            nodes.start[count], nodes.end[count] = start, end
            nodes.left[count] = lower if root else nodes.left[node]
            nodes.coin[count] = FIRST_GUESS if root else min(max(nodes.coin[node], LEAST_GUESS), MOST_GUESS)
            count += 1
    return count


@njit(**INLINE)
def _keep_order(state, work, part, orders, used):  # type: ignore[no-untyped-def]
    """Write the component's order behind the others in ``orders`` and its distribution to ``own``."""
    if used + part.end - part.start > len(orders):
        larger = np.empty(2 * len(orders) + part.end - part.start, orders.dtype)
        larger[:used] = orders[:used]
        orders = larger
    for j in range(part.start, part.end):
        i = state.order[j]
        orders[used + j - part.start] = i
        work.own[i] = state.v[i]
    return orders


@njit(**INNER)
def _start_work(p):  # type: ignore[no-untyped-def]
    """Room for the search."""
    size = len(p)
    zeros = np.zeros(size)
    return Work(p.copy(), zeros + 1.0, zeros, zeros.copy(), zeros.copy(), np.zeros(size, np.int64),
                np.zeros(size, np.bool_), np.zeros(1, np.int64))  # fmt: skip


@njit(**INNER)
def _first_split(items, state, work):  # type: ignore[no-untyped-def]
    """Sort all items by p/q, and return the length of the prefix that minimises ``P - Q``, fixed tokens inside."""
    size = len(work.target)
    work.key[:] = work.target / items.divisor
    state.order[:] = np.argsort(work.key)
    sweep_window(items, state, 0, size)
    total, least, split, fixed = 0.0, 0.0, 0, items.fixed.sum()
    for j in range(size):
        i = state.order[j]
        total += work.target[i] - state.v[i]
        fixed -= items.fixed[i]
        if total < least:
            least, split = total, j + 1
    inside = 0
    for j in range(split):
        inside += items.fixed[state.order[j]]
    # Where the empty set is best, so is the set of all tokens that can be drafted; it holds the fixed ones.
    return split if inside == items.fixed.sum() else size


@njit(**INNER)
def _given_split(items, state, work, split):  # type: ignore[no-untyped-def]
    """Sort either side by the targets over q."""
    size = len(work.target)
    sweep_window(items, state, 0, size)
    for part in (Part(0, split, True), Part(split, size, False)):
        sort_component(items, state, work, part, 0.0)
    return split


@njit(**INLINE)
def is_leaf(state, work, part, tolerance):  # type: ignore[no-untyped-def]
    """Whether the component's order meets the targets, or the search has taken too long."""
    loss = 0.0
    for j in range(part.start, part.end):
        i = state.order[j]
        short = work.target[i] - state.v[i]
        loss += max(short if part.left else -short, 0.0)
    reached = work.reached[state.order[part.start]]
    tired = work.swept[0] >= MOST_SWEEPS * len(work.target)
    return part.end - part.start == 1 or loss * reached <= tolerance or tired


@njit(**INLINE)
def largest_coin(items, state, work, part, slack, guess):  # type: ignore[no-untyped-def]
    """Coin c of the component and the position that splits it; 1 and -1 where nothing binds.

    Dinkelbach's method: sort by ``(t - c v)/q``, take the prefix with the least ratio of gaps for c, and again.
    """
    coin, cut = 1.0, -1
    slack /= work.reached[state.order[part.start]]
    trial = guess if part.end - part.start > FEW else 1.0
    for _ in range(ROUNDS):
        sort_component(items, state, work, part, trial)
        found, ratio, room = _tightest_prefix(state, work, part, coin, slack)
        if found < 0:
            if cut < 0 and trial < 1.0:
                trial = 1.0
                continue
            break
        cut, coin, trial = found, ratio, ratio
        work.saved[part.start : part.end] = state.order[part.start : part.end]
        if room <= slack:
            # The set is tight already: nothing can be taken by the node's own order.
            coin = 0.0
            break
    if cut >= 0 and coin > 0.0 and not _same_prefix(state, work, part, cut):
        # The set that binds is a prefix of the last order too, but for rounding: back to the order that had it.
        state.order[part.start : part.end] = work.saved[part.start : part.end]
        sweep_window(items, state, part.start, part.end)
        work.swept[0] += part.end - part.start
    if coin >= 1.0:
        return 1.0, -1
    return coin, cut


@njit(**INLINE)
def sort_component(items, state, work, part, c):  # type: ignore[no-untyped-def]
    """Sort the component by ``(t - c v)/q`` (insertion: the order is nearly right) and sweep what has moved."""
    order, key = state.order, work.key
    for j in range(part.start, part.end):
        i = order[j]
        key[j] = (work.target[i] - c * work.own[i]) / items.divisor[i]
    first, last = part.end, part.start
    for j in range(part.start + 1, part.end):
        i, value, k = order[j], key[j], j - 1
        if key[k] > value:
            while k >= part.start and key[k] > value:
                order[k + 1], key[k + 1] = order[k], key[k]
                k -= 1
            order[k + 1], key[k + 1] = i, value
            first, last = min(first, k + 1), j + 1
    if last > first:
        sweep_window(items, state, first, last)
        work.swept[0] += last - first


@njit(**INLINE)
def _tightest_prefix(state, work, part, c, slack):  # type: ignore[no-untyped-def]
    """Among the prefixes with ``gap_t - c gap_v < -slack`` the one with the least ratio: cut, ratio, ``gap_t``.

    Side L is summed from the top and side R from the bottom: forward sums of the others would cancel.
    """
    gap_t, gap_v, least, cut, room = 0.0, 0.0, np.inf, -1, 0.0
    for step in range(part.end - part.start - 1):
        j = part.end - 1 - step if part.left else part.start + step
        i = state.order[j]
        sign = 1.0 if part.left else -1.0
        gap_t += sign * (state.v[i] - work.target[i])
        gap_v += sign * (state.v[i] - work.own[i])
        if gap_t - c * gap_v < -slack:
            ratio = gap_t / gap_v if gap_v > TINY and gap_t > 0.0 else gap_t - TINY
            if ratio < least:
                least, room, cut = ratio, gap_t, j if part.left else j + 1
    return cut, least, room


@njit(**INNER)
def _same_prefix(state, work, part, cut):  # type: ignore[no-untyped-def]
    """Whether the saved order and the present one have the same items below ``cut``."""
    for j in range(part.start, part.end):
        work.inside[work.saved[j]] = j < cut
    common = 0
    for j in range(part.start, cut):
        common += work.inside[state.order[j]]
    return common == cut - part.start


@njit(**INLINE)
def share_target(state, work, part, coin):  # type: ignore[no-untyped-def]
    """The node's own order picks with probability ``coin``: add that to r, and leave the rest of the target."""
    for j in range(part.start, part.end):
        i = state.order[j]
        work.r[i] += work.reached[i] * coin * work.own[i]
        if coin < 1.0:
            work.reached[i] *= 1.0 - coin
            work.target[i] = max((work.target[i] - coin * work.own[i]) / (1.0 - coin), 0.0)


@njit(**INNER)
def finished(order, nodes, count, orders):  # type: ignore[no-untyped-def]
    """The tree, with the orders written as priorities by final position."""
    place = np.empty(len(order), np.int32)
    for j in range(len(order)):
        place[order[j]] = j
    rank = np.empty(len(orders), np.int32)
    for node in range(count):
        if nodes.offset[node] >= 0:
            here = rank[nodes.offset[node] :]
            for j in range(nodes.end[node] - nodes.start[node]):
                here[place[orders[nodes.offset[node] + j]] - nodes.start[node]] = j
    kept = [x[:count].copy() for x in (nodes.start, nodes.cut, nodes.lower, nodes.offset)]
    return Tree(place, kept[0], kept[1], kept[2], kept[3], nodes.coin[:count].copy(), rank)


@njit(**FAST)
def best_side(items, p):  # type: ignore[no-untyped-def]
    """``[k]`` bool: the items of the prefix by p/q that minimises ``P - Q``.  One sweep."""
    state, work, inside = start_sweep(items, 1), _start_work(p), np.zeros(len(p), np.bool_)
    for j in range(_first_split(items, state, work)):
        inside[state.order[j]] = True
    return inside
