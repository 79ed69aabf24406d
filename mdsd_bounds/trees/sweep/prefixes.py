"""Prefixes of several nodes at once: the probability that all drafts lie in them, and the best combination.

The drafts of a layer are those of its nodes, drawn independently.  Their tokens are pairs (node, token), kept node
after node as *items*.  For a set B of items with parts ``B_v``,

    ``Q(B) = product over nodes v of Q_v(B_v)``,   ``Q_v(B_v) = Pr(all drafts of v lie in B_v)``.

**Merged prefix theorem.**  For real x and a set D, ``x(B) - Q(D + B)`` is least at a union of prefixes, one a node, of
the items in the order of x/q: with all nodes but one fixed it is the one-level theorem with the target ``x / c_v``,
``c_v`` the product of the other factors.  At the minimiser the prefix of v is a vertex of the lower convex hull of its
points ``(Q_v, x)`` whose slopes enclose ``c_v``, so that ``C = Q(D + B)`` lies between the two slopes times ``Q_v``.
Along one hull these intervals are disjoint and ascending: one merge of the nodes' intervals finds all combinations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.trees.sweep.arrivals import Arrivals, Sets, add_token, fade_below, gained, start_sets

#: Columns of :attr:`Search.below`.
MASS, ODDS, SQUARES, HOT, CHANCE = range(5)


class Layer(NamedTuple):
    """The drafts below m nodes; an item is a token, or a bin of tokens of one node that are treated alike.

    Attributes
    ----------
    first : ndarray
        ``[m + 1]`` int64: the items of node v are ``first[v]`` to ``first[v + 1]``.
    draws : ndarray
        ``[m]`` int64: drafts below each node.
    pairs : ndarray
        ``[m]`` bool: two draws without replacement.
    many : ndarray
        ``[m]`` bool: three and more draws without replacement, where every item is a token.  At all other nodes the
        draws are independent, or there is one.
    hot : ndarray
        ``[m]`` int64: the item of the most probable token where ``pairs``, which is never in a bin; else -1.
    mass, odds, squares, within : ndarray
        ``[K]``: sums of q, of ``w = q/(1-q)`` and of ``q w``, and the probability that both of a pair fall in the item.
    mark, weight : ndarray
        ``[g]`` Gauss-Legendre nodes and weights on [0, 1], exact for polynomials of degree ``sum(draws) - 1``.
    arrivals : Arrivals
        The quadratures of the nodes with ``many`` draws.
    """

    first: np.ndarray
    draws: np.ndarray
    pairs: np.ndarray
    many: np.ndarray
    hot: np.ndarray
    mass: np.ndarray
    odds: np.ndarray
    squares: np.ndarray
    within: np.ndarray
    mark: np.ndarray
    weight: np.ndarray
    arrivals: Arrivals


class Search(NamedTuple):
    """What the search keeps.

    Attributes
    ----------
    order, saved : ndarray
        ``[K]`` int64: items, node after node; a component holds a stretch of positions of each node.  And the order of
        the best cut of the component at hand.
    below : ndarray
        ``[K + m, 5]``: of the items of node v below position j, in row ``j + v``: sums of q, w and q w without the hot
        token, whether that is among them, and ``Q_v``.
    total, picked : ndarray
        ``[K + m]``: sums of the key, and of the component's own pick, from the start of the component to each position.
    target, reached, key, ratio, own : ndarray
        ``[K]``: what is asked for; probability that the item's component is reached; what the oracle minimises, and
        that over q; and the distribution of the component's own pick.
    coefficient : ndarray
        ``[K, 3]``: the rule picks a token of the item with probability ``a w + b q - c q w``.
    share : ndarray
        ``[K, 3]``: the same for the component at hand.
    hull : ndarray
        ``[K + m]`` int64: positions of the vertices of the lower convex hull, from row ``start + v`` on.
    corners, corner, best : ndarray
        ``[m]`` int64: number of vertices, the one at hand in the merge, and the best prefixes' ends.
    factor : ndarray
        ``[3, m]``: room for one factor a node, and for the ends of its interval.
    sets : Sets
        Polynomials of the nodes with three and more draws.
    """

    order: np.ndarray
    saved: np.ndarray
    below: np.ndarray
    total: np.ndarray
    picked: np.ndarray
    target: np.ndarray
    reached: np.ndarray
    key: np.ndarray
    ratio: np.ndarray
    own: np.ndarray
    coefficient: np.ndarray
    share: np.ndarray
    hull: np.ndarray
    corners: np.ndarray
    corner: np.ndarray
    best: np.ndarray
    factor: np.ndarray
    sets: Sets


class Gaps(NamedTuple):
    """What the ratio of the two gaps of a set needs (:mod:`.search`); a negative coin asks for the least key instead.

    ``bottom`` and ``top`` are Q of the items below the component and by how much the component raises it; ``whole`` is
    its target, and ``left`` whether it is on side L.  Only sets with ``gap_t - coin gap_v < -slack`` have a ratio.
    """

    coin: float
    bottom: float
    top: float
    whole: float
    left: bool
    slack: float


#: Gaps below this are not divided by.
TINY = 1e-13
#: Asks :func:`best_prefixes` for the least key.
LEAST_KEY = Gaps(-1.0, 0.0, 0.0, 0.0, False, 0.0)


@njit(**STEP)
def _score(gaps, key, picked, chance):  # type: ignore[no-untyped-def]
    """Of a set with these sums and this Q with the items below it: what :func:`best_prefixes` makes least."""
    if gaps.coin < 0.0:
        return key - chance
    return ratio_of_gaps(gaps, key * (1.0 - gaps.coin) + gaps.coin * picked, picked, chance)


@njit(**STEP)
def ratio_of_gaps(gaps, target, picked, chance):  # type: ignore[no-untyped-def]
    """``gap_t / gap_v`` of a set with these sums, and this Q with the items below it; infinity where it has none."""
    inside = chance - gaps.bottom
    gap = gaps.top - inside - (gaps.whole - target) if gaps.left else target - inside
    if picked - inside <= TINY or gap - gaps.coin * (picked - inside) >= -gaps.slack:
        return np.inf
    return max(gap, 0.0) / (picked - inside)


@njit(**STEP)
def start_search(layer, target):  # type: ignore[no-untyped-def]
    """Room for a search, all items in the order of ``target / q``."""
    size, nodes = len(layer.mass), len(layer.draws)
    order = np.empty(size, np.int64)
    for v in range(nodes):
        start, end = layer.first[v], layer.first[v + 1]
        order[start:end] = start + np.argsort(target[start:end] / layer.mass[start:end])
    search = Search(
        order, order.copy(), np.zeros((size + nodes, 5)), np.zeros(size + nodes), np.zeros(size + nodes), target.copy(),
        np.ones(size),
        np.zeros(size), np.zeros(size), np.zeros(size), np.zeros((size, 3)), np.zeros((size, 3)),
        np.zeros(size + nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes, np.int64),
        np.zeros(nodes, np.int64), np.zeros((3, nodes)),
        start_sets(layer.arrivals, layer.first, layer.draws),
    )  # fmt: skip
    for v in range(nodes):
        sum_below(layer, search, v, layer.first[v], layer.first[v + 1])
    return search


@njit(**STEP)
def sum_below(layer, search, v, start, end):  # type: ignore[no-untyped-def]
    """Bring ``below`` up to date for node v from position ``start`` to ``end``.  Sums of positive terms only."""
    if layer.many[v]:
        _add_many(layer, search, v, start, end)
        return
    below, row = search.below, start + v
    mass, odds, squares = below[row, MASS], below[row, ODDS], below[row, SQUARES]
    hot, chance = below[row, HOT], below[row, CHANCE]
    for j in range(start, end):
        i = search.order[j]
        if layer.pairs[v]:
            x, y = with_hot(layer, v, mass, odds, hot)
            chance += layer.odds[i] * x + layer.mass[i] * y + layer.within[i]
            if i == layer.hot[v]:
                hot = 1.0
            else:
                mass += layer.mass[i]
                odds += layer.odds[i]
                squares += layer.squares[i]
        else:
            mass += layer.mass[i]
            chance = power(mass, layer.draws[v])
        row = j + v + 1
        below[row, MASS], below[row, ODDS], below[row, SQUARES] = mass, odds, squares
        below[row, HOT], below[row, CHANCE] = hot, chance


@njit(**STEP)
def _add_many(layer, search, v, start, end):  # type: ignore[no-untyped-def]
    """:func:`sum_below` for three and more draws without replacement."""
    fade_below(layer.arrivals, search.sets, search.order, v, start, end)
    a, b = search.sets.a, search.sets.b
    for j in range(start, end):
        i, row = search.order[j], j + v
        more = gained(layer.arrivals, search.sets, i, row, layer.draws[v])
        search.below[row + 1, CHANCE] = search.below[row, CHANCE] + more
        add_token(a[row], b[row], a[row + 1], b[row + 1], layer.arrivals, i, 1.0)


@njit(**STEP)
def power(x, n):  # type: ignore[no-untyped-def]
    """``x^n`` by multiplication."""
    product = 1.0
    for _ in range(n):
        product *= x
    return product


@njit(**STEP)
def with_hot(layer, v, mass, odds, share):  # type: ignore[no-untyped-def]
    """Sums of q and w with the hot token added ``share`` times."""
    if share == 0.0:
        return mass, odds
    return mass + share * layer.mass[layer.hot[v]], odds + share * layer.odds[layer.hot[v]]


@njit(**STEP)
def chance_below(search, positions):  # type: ignore[no-untyped-def]
    """``Q`` of the items below one position a node."""
    product = 1.0
    for v in range(len(positions)):
        product *= search.below[positions[v] + v, CHANCE]
    return product


@njit(**STEP)
def best_prefixes(layer, search, start, end, gaps):  # type: ignore[no-untyped-def]
    """Sort a component by ``key / q`` and leave in ``best`` the prefixes B at which ``key(B) - Q(D + B)`` is least.

    ``start`` and ``end`` are its positions ``[m]``; returns the least value.  O(items) beside the sorting.  Asked for a
    ratio (:class:`Gaps`), it looks for the least ratio among the same candidates, the set with the least key included:
    infinity if that one has none.
    """
    sort_component(layer, search, start, end)
    active, rest, several = -1, 1.0, False
    for v in range(len(start)):
        if end[v] > start[v]:
            several = several or active >= 0
            active = v
        else:
            search.best[v] = start[v]
            rest *= search.below[start[v] + v, CHANCE]
    if not several:
        return _best_prefix(search, active, start[active], end[active], rest, gaps)
    for v in range(len(start)):
        _lower_hull(search, v, start[v], end[v])
    return _merge_hulls(search, start, gaps)


@njit(**STEP)
def _best_prefix(search, v, start, end, rest, gaps):  # type: ignore[no-untyped-def]
    """:func:`best_prefixes` where all items are of node v; ``rest`` is the product of the other factors."""
    total, picked = 0.0, 0.0
    least = _score(gaps, total, picked, rest * search.below[start + v, CHANCE])
    search.best[v] = start
    for j in range(start, end):
        total += search.key[search.order[j]]
        picked += search.own[search.order[j]]
        value = _score(gaps, total, picked, rest * search.below[j + v + 1, CHANCE])
        if value < least:
            least, search.best[v] = value, j + 1
    return least


@njit(**STEP)
def sort_component(layer, search, start, end):  # type: ignore[no-untyped-def]
    """Sort a component by ``key / q``, and bring the sums below its positions up to date.

    Insertion sort: orders change little from one round to the next.  Sums change between the first and the last
    position that do; the same items lie below all others.
    """
    order, ratio = search.order, search.ratio
    for v in range(len(start)):
        low, high = end[v], start[v]
        for j in range(start[v], end[v]):
            i, k = order[j], j - 1
            this = search.key[i] / layer.mass[i]
            ratio[i] = this
            while k >= start[v] and ratio[order[k]] > this:
                order[k + 1] = order[k]
                k -= 1
            if k + 1 < j:
                order[k + 1] = i
                low, high = min(low, k + 1), j + 1
        if high > low:
            sum_below(layer, search, v, low, high)


@njit(**STEP)
def _lower_hull(search, v, start, end):  # type: ignore[no-untyped-def]
    """Vertices of the lower convex hull of the points (Q_v, sum of the key) of the prefixes of node v."""
    total, picked, hull, count = search.total, search.picked, search.hull, 0
    total[start + v], picked[start + v] = 0.0, 0.0
    room = start + v
    for j in range(start, end + 1):
        if j > start:
            total[j + v] = total[j + v - 1] + search.key[search.order[j - 1]]
            picked[j + v] = picked[j + v - 1] + search.own[search.order[j - 1]]
        y, x = total[j + v], search.below[j + v, CHANCE]
        if count and x <= search.below[hull[room + count - 1] + v, CHANCE]:
            if y >= total[hull[room + count - 1] + v]:
                continue
            count -= 1
        while count >= 2:
            a, b = hull[room + count - 2] + v, hull[room + count - 1] + v
            xa, xb = search.below[a, CHANCE], search.below[b, CHANCE]
            if (total[b] - total[a]) * (x - xb) < (y - total[b]) * (xb - xa):
                break
            count -= 1
        hull[room + count] = j
        count += 1
    search.corners[v] = count


@njit(**STEP)
def _slope_after(search, v, start, corner):  # type: ignore[no-untyped-def]
    """Slope of node v's hull behind one of its vertices; minus infinity before the first, infinity behind the last."""
    if corner < 0:
        return -np.inf
    if corner + 1 == search.corners[v]:
        return np.inf
    a, b = search.hull[start + v + corner] + v, search.hull[start + v + corner + 1] + v
    return (search.total[b] - search.total[a]) / (search.below[b, CHANCE] - search.below[a, CHANCE])


@njit(**STEP)
def _merge_hulls(search, start, gaps):  # type: ignore[no-untyped-def]
    """The best combination of vertices: those whose intervals of C have a point in common, in ascending order of C."""
    nodes, corner, low, high = len(start), search.corner, search.factor[0], search.factor[1]
    for v in range(nodes):
        corner[v] = 0
        interval(search, v, start[v], 0, low, high)
    least = np.inf
    while True:
        floor, ceiling, next_node = 0.0, np.inf, 0
        for v in range(nodes):
            floor = max(floor, low[v])
            if high[v] < ceiling:
                ceiling, next_node = high[v], v
        if floor <= ceiling:
            total, picked, product = 0.0, 0.0, 1.0
            for v in range(nodes):
                row = search.hull[start[v] + v + corner[v]] + v
                total += search.total[row]
                picked += search.picked[row]
                product *= search.below[row, CHANCE]
            value = _score(gaps, total, picked, product)
            if value < least:
                least = value
                for v in range(nodes):
                    search.best[v] = search.hull[start[v] + v + corner[v]]
        if ceiling == np.inf:
            return least
        corner[next_node] += 1
        interval(search, next_node, start[next_node], corner[next_node], low, high)


@njit(**STEP)
def interval(search, v, start, corner, low, high):  # type: ignore[no-untyped-def]
    """Write between which values of C a vertex of node v can be used."""
    chance = search.below[search.hull[start + v + corner] + v, CHANCE]
    before, after = _slope_after(search, v, start, corner - 1), _slope_after(search, v, start, corner)
    low[v] = before * chance if chance > 0.0 else -np.inf
    if after == np.inf:
        high[v] = np.inf
    elif chance > 0.0:
        high[v] = after * chance
    else:
        # At Q_v = 0 the product is 0 whatever the other nodes do; a negative slope always leads on.
        high[v] = 0.0 if after >= 0.0 else -np.inf
