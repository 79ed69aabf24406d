"""The rule of one layer: a tree of components, each with a coin and a uniform pick (theorem 4, several nodes at once).

As in :mod:`mdsd_bounds.verifiers.optimal.order_tree`, with two changes.  Items are those of all nodes of the layer, and
the oracle is the merged prefix theorem (:mod:`.prefixes`).  And a component's own rule is a uniformly random draft of
those in it (:mod:`.uniform_pick`) instead of a strict order: the proof needs only that its distribution v is known and
that ``v(A) >= f(A)`` for every subset A, which holds for any choice among the drafts of the component.  Among rules
with the same acceptance an even one leaves more to the layers below, whose value is concave in the accepted masses.

With ``f(A) = Q(D + A) - Q(D)`` the gaps of a target t are

    ``gap_t(A) = f(C) - f(A) - t(C - A)``  on side L (``r >= t``),
    ``gap_t(A) = t(A) - f(A)``  on side R (``r <= t``),

the coin is ``c = min gap_t / gap_v`` by Dinkelbach's method, each round with the least ratio among the candidates of
its oracle, and the minimiser splits the component.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.borrowed import borrowed
from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.trees.sweep.prefixes import (
    LEAST_KEY,
    Gaps,
    best_prefixes,
    chance_below,
    ratio_of_gaps,
    sort_component,
    start_search,
    sum_below,
)
from mdsd_bounds.trees.sweep.uniform_pick import uniform_pick

#: Rounds of Dinkelbach's method in one component.
ROUNDS = 40


class Components(NamedTuple):
    """Components: the root first, children after their parents, the upper child right after the lower one.

    Attributes
    ----------
    place : ndarray
        ``[K]`` int64: final position of each item.
    start, end, cut : ndarray
        ``[N, m]`` int64: the positions of each node's items, and where they are split.
    lower : ndarray
        ``[N]`` int64: the lower child; -1 in leaves.
    coin : ndarray
        ``[N]``: probability that the component's own pick decides; 0 at the root, which holds everything.
    """

    place: np.ndarray
    start: np.ndarray
    end: np.ndarray
    cut: np.ndarray
    lower: np.ndarray
    coin: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def solve_layer(layer, target, tolerance, slack):  # type: ignore[no-untyped-def]
    """The rule for the targets ``[K]``.

    Returns
    -------
    components : Components
    coefficient : ndarray
        ``[K, 3]``: numbers a, b and c of the pick's distribution ``a w + b q - c q w``.
    bound : float
        ``1 + min over B of target(B) - Q(B)``: the most that any rule can accept.
    """
    size = len(target)
    owned = start_search(layer, target), _start_components(layer)
    (search, parts), layer = borrowed(owned), borrowed(layer)
    search.key[:] = target
    bound = 1.0 + min(best_prefixes(layer, search, parts.start[0], parts.end[0], LEAST_KEY), 0.0)
    parts.cut[0] = search.best if bound < 1.0 else parts.start[0]
    count, left = _add_children(parts, 0, 1), np.zeros(2 * size + 3, np.bool_)
    left[1] = count == 3 or parts.cut[0].sum() == parts.end[0].sum()
    node = 0
    while node + 1 < count:
        node += 1
        start, end = parts.start[node], parts.end[node]
        uniform_pick(layer, search, start, end)
        coin, reached = 1.0, search.reached[first_item(search, start, end)]
        if not is_leaf(search, start, end, left[node], tolerance / size / reached):
            coin = largest_coin(layer, search, parts, node, left[node], slack / reached)
        share_target(search, start, end, coin)
        parts.coin[node] = coin
        if coin < 1.0:
            before = count
            count = _add_children(parts, node, count)
            left[before:count] = left[node]
    for j in range(size):
        parts.place[search.order[j]] = j
    kept = Components(owned[1].place, parts.start[:count].copy(), parts.end[:count].copy(), parts.cut[:count].copy(),
                      parts.lower[:count].copy(), parts.coin[:count].copy())  # fmt: skip
    return kept, owned[0].coefficient, bound


@njit(**STEP)
def _start_components(layer):  # type: ignore[no-untyped-def]
    """Room for all components, with the root."""
    size, nodes = len(layer.mass), len(layer.draws)
    room = 2 * size + 3
    parts = Components(
        np.zeros(size, np.int64), np.zeros((room, nodes), np.int64), np.zeros((room, nodes), np.int64),
        np.zeros((room, nodes), np.int64), np.full(room, -1), np.zeros(room),
    )  # fmt: skip
    parts.start[0], parts.end[0] = layer.first[:-1], layer.first[1:]
    return parts


@njit(**STEP)
def _add_children(parts, node, count):  # type: ignore[no-untyped-def]
    """The parts below and above the cut, where they hold anything; returns how many components there are then."""
    start, end, cut = parts.start[node], parts.end[node], parts.cut[node]
    parts.lower[node] = count if cut.sum() > start.sum() else count - 1
    if cut.sum() > start.sum():
        parts.start[count], parts.end[count] = start, cut
        count += 1
    if end.sum() > cut.sum():
        parts.start[count], parts.end[count] = cut, end
        count += 1
    return count


@njit(**STEP)
def first_item(search, start, end):  # type: ignore[no-untyped-def]
    """An item of the component."""
    for v in range(len(start)):
        if end[v] > start[v]:
            return search.order[start[v]]
    return 0


@njit(**STEP)
def is_leaf(search, start, end, left, tolerance):  # type: ignore[no-untyped-def]
    """Whether the component's own pick meets the targets, or there is nothing to split."""
    loss = 0.0
    for v in range(len(start)):
        for j in range(start[v], end[v]):
            i = search.order[j]
            short = search.target[i] - search.own[i]
            loss += max(short if left else -short, 0.0)
    return end.sum() - start.sum() == 1 or loss <= tolerance


@njit(**STEP)
def largest_coin(layer, search, parts, node, left, slack):  # type: ignore[no-untyped-def]
    """Coin of the component, with its minimiser in ``cut`` and in the order; 1 if nothing binds."""
    start, end = parts.start[node], parts.end[node]
    bottom = chance_below(search, start)
    top = chance_below(search, end) - bottom
    whole, _, _ = _sums_between(search, start, end)
    coin, saved = 1.0, search.saved
    for _ in range(ROUNDS):
        # At c = 1 the prefixes of (t - v)/q up to 0 are the least, whatever f is.
        scale, gaps = 1.0 if coin == 1.0 else 1.0 / (1.0 - coin), Gaps(coin, bottom, top, whole, left, slack)
        for v in range(len(start)):
            for j in range(start[v], end[v]):
                i = search.order[j]
                search.key[i] = scale * (search.target[i] - coin * search.own[i])
        ratio = _first_ratio(layer, search, start, end, gaps) if coin == 1.0 else np.inf
        if coin < 1.0:
            ratio = best_prefixes(layer, search, start, end, gaps)
        if ratio >= coin:
            break
        # Loops: assigning a slice of few numbers takes longer than they do.
        for v in range(len(start)):
            parts.cut[node, v] = search.best[v]
            for j in range(start[v], end[v]):
                saved[j] = search.order[j]
        coin = ratio
        if coin == 0.0:
            break
    for v in range(len(start)):
        if coin < 1.0:
            _restore_order(layer, search, v, start[v], end[v])
    return coin


@njit(**STEP)
def _restore_order(layer, search, v, start, end):  # type: ignore[no-untyped-def]
    """Bring the saved order of node v back, and its sums where it differs from the order at hand."""
    low, high = end, start
    for j in range(start, end):
        if search.order[j] != search.saved[j]:
            low, high = min(low, j), j + 1
            search.order[j] = search.saved[j]
    if high > low:
        sum_below(layer, search, v, low, high)


@njit(**STEP)
def _first_ratio(layer, search, start, end, gaps):  # type: ignore[no-untyped-def]
    """Sort by the keys over q and leave in ``best`` where they cease to be negative; returns the ratio there."""
    sort_component(layer, search, start, end)
    for v in range(len(start)):
        j = start[v]
        while j < end[v] and search.key[search.order[j]] < 0.0:
            j += 1
        search.best[v] = j
    target, own, _ = _sums_between(search, start, search.best)
    return ratio_of_gaps(gaps, target, own, chance_below(search, search.best))


@njit(**STEP)
def _sums_between(search, start, end):  # type: ignore[no-untyped-def]
    """Sums of the targets and of the component's own pick over the items between two positions, and their number."""
    target, own, count = 0.0, 0.0, 0
    for v in range(len(start)):
        for j in range(start[v], end[v]):
            target += search.target[search.order[j]]
            own += search.own[search.order[j]]
        count += end[v] - start[v]
    return target, own, count


@njit(**STEP)
def share_target(search, start, end, coin):  # type: ignore[no-untyped-def]
    """The component's own pick decides with probability ``coin``: add that to the rule, and leave the rest."""
    for v in range(len(start)):
        for j in range(start[v], end[v]):
            i = search.order[j]
            for k in range(3):
                search.coefficient[i, k] += search.reached[i] * coin * search.share[i, k]
            if coin < 1.0:
                search.reached[i] *= 1.0 - coin
                search.target[i] = max((search.target[i] - coin * search.own[i]) / (1.0 - coin), 0.0)


@njit(cache=True, nogil=True)
def pick_drafts(parts, node, position):  # type: ignore[no-untyped-def]
    """Probability ``[d]`` that each draft is the pick, from its node ``[d]`` and its final position ``[d]``.

    From the root, which holds everything: with the component's coin a uniformly random draft of those in it, otherwise
    on to the upper part if a draft lies there, else to the lower one.  No draft lies above the component.
    """
    out, part, left = np.zeros(len(node)), 0, 1.0
    while left > 0.0:
        inside, above = 0, False
        for d in range(len(node)):
            inside += position[d] >= parts.start[part, node[d]]
            above = above or position[d] >= parts.cut[part, node[d]]
        for d in range(len(node)):
            if position[d] >= parts.start[part, node[d]]:
                out[d] += left * parts.coin[part] / inside
        if parts.lower[part] < 0:
            break
        left *= 1.0 - parts.coin[part]
        part = parts.lower[part] + above
    return out
