"""The distribution of a uniformly random draft among those in a component.

A uniform pick is the pick with the least of independent uniform marks.  If the picked draft has the mark 1 - z, every
other draft of the component has a larger one with probability z, so that

    ``v(y) = integral over z from 0 to 1 of H_y(z) prod over the other nodes u of G_u(z)``,
    ``G_u(z) = E[z^J; all drafts of u in C + D]``,   ``H_y(z) = E[z^(J - 1); y drafted, all in C + D]``,

J the number of drafts of the node in the component C, D the items below it.  The integrand is a polynomial of degree
``sum(draws) - 1``, and the Gauss-Legendre rule is exact.  With ``X(z) = q(D) + z q(C)`` and ``Y(z) = w(D) + z w(C)``,
``w = q / (1 - q)``, a node has

| draws | G | H |
|---|---|---|
| n independent ones | ``X^n`` | ``n q_y X^(n-1)``: each draft counts, also of a token drafted twice |
| two without replacement | ``X Y - sum of q w`` (``z^2 q w`` in C) | ``w_y X + q_y Y - 2 z q_y w_y`` |
| three and more without replacement | an integral in time | another one, :mod:`.arrivals` |

so that but for the last row ``v(y) = a w_y + b q_y - c q_y w_y`` with three numbers a node: every token of a bin has
its exact probability.
The most probable token of a pair is kept apart, for its w may be as large as 1/(1 - q): nothing cancels then.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.trees.sweep.arrivals import drafted_marked, lower_position, mark_component, start_upper
from mdsd_bounds.trees.sweep.prefixes import HOT, MASS, ODDS, SQUARES, power, with_hot

#: Rows of :attr:`Search.factor`: G of each node, and the products of G over the nodes before and after it.
G, BEFORE, AFTER = range(3)


@njit(**STEP)
def uniform_pick(layer, search, start, end):  # type: ignore[no-untyped-def]
    """Write ``own`` and ``share`` of the items of a component, positions ``start`` to ``end`` ``[m]``."""
    share, own, order = search.share, search.own, search.order
    for v in range(len(start)):
        for j in range(start[v], end[v]):
            for k in range(3):
                share[order[j], k] = 0.0
    for v in range(len(start)):
        if end[v] == start[v]:
            # No item of the component: the same at every mark.
            search.factor[G, v] = _all_below(layer, search, v, start[v], end[v], 1.0)
    for g in range(len(layer.mark)):
        z = layer.mark[g]
        for v in range(len(start)):
            if end[v] > start[v]:
                search.factor[G, v] = _all_below(layer, search, v, start[v], end[v], z)
        others(search.factor)
        for v in range(len(start)):
            if end[v] > start[v]:
                rest = layer.weight[g] * search.factor[BEFORE, v] * search.factor[AFTER, v]
                add_share(layer, search, v, start[v], end[v], z, rest)
    for v in range(len(start)):
        if end[v] == start[v]:
            continue
        # All items of a node have the same three numbers, which stand at its first one, but for the hot item.
        plain = _plain_item(layer, search, v, start[v], end[v])
        for j in range(start[v], end[v]):
            i = order[j]
            if i != layer.hot[v] and not layer.many[v]:
                for k in range(3):
                    share[i, k] = share[plain, k]
            own[i] = max(
                share[i, 0] * layer.odds[i] + share[i, 1] * layer.mass[i] - share[i, 2] * layer.squares[i], 0.0
            )


@njit(**STEP)
def _plain_item(layer, search, v, start, end):  # type: ignore[no-untyped-def]
    """The first item of a component's stretch that is not the hot one, or that one if there is no other."""
    i = search.order[start]
    if i == layer.hot[v] and end > start + 1:
        return search.order[start + 1]
    return i


@njit(**STEP)
def _sums_at(layer, search, v, start, end, z):  # type: ignore[no-untyped-def]
    """X(z), Y(z) and the sum of q w without the hot token; and 1, z or 0 as that one lies in D, in C or above."""
    below, low, high = search.below, start + v, end + v
    x = below[low, MASS] + z * (below[high, MASS] - below[low, MASS])
    y = below[low, ODDS] + z * (below[high, ODDS] - below[low, ODDS])
    squares = below[low, SQUARES] + z * z * (below[high, SQUARES] - below[low, SQUARES])
    return x, y, squares, below[low, HOT] + z * (below[high, HOT] - below[low, HOT])


@njit(**STEP)
def _all_below(layer, search, v, start, end, z):  # type: ignore[no-untyped-def]
    """``G_v(z)``."""
    if layer.many[v]:
        return mark_component(layer.arrivals, search.sets, search.order, v, start, end, layer.draws[v], z)
    x, y, squares, hot = _sums_at(layer, search, v, start, end, z)
    if not layer.pairs[v]:
        return power(x, layer.draws[v])
    h = layer.hot[v]
    return max(x * y - squares, 0.0) + hot * (layer.odds[h] * x + layer.mass[h] * y)


@njit(**STEP)
def others(factor):  # type: ignore[no-untyped-def]
    """Products of G over the nodes before and after each node."""
    product = 1.0
    for v in range(factor.shape[1]):
        factor[BEFORE, v] = product
        product *= factor[G, v]
    product = 1.0
    for v in range(factor.shape[1] - 1, -1, -1):
        factor[AFTER, v] = product
        product *= factor[G, v]


@njit(**STEP)
def add_share(layer, search, v, start, end, z, rest):  # type: ignore[no-untyped-def]
    """Add the part of one mark to the three numbers of node v, kept at its first item, and to those of its hot one."""
    if layer.many[v]:
        _add_drafted(layer, search, v, start, end, z, rest)
        return
    x, y, _, hot = _sums_at(layer, search, v, start, end, z)
    first, share = _plain_item(layer, search, v, start, end), search.share
    if not layer.pairs[v]:
        n = layer.draws[v]
        share[first, 1] += rest * n * power(x, n - 1)
        return
    h = layer.hot[v]
    if search.below[end + v, HOT] > search.below[start + v, HOT]:
        share[h, 0] += rest * x
        share[h, 1] += rest * y
        if end == start + 1:
            return
    x, y = with_hot(layer, v, x, y, hot)
    share[first, 0] += rest * x
    share[first, 1] += rest * y
    share[first, 2] += rest * 2.0 * z


@njit(**STEP)
def _add_drafted(layer, search, v, start, end, z, rest):  # type: ignore[no-untyped-def]
    """:func:`add_share` for three and more draws: the second number is ``H / q``, for every item."""
    start_upper(search.sets)
    for j in range(end - 1, start - 1, -1):
        i = search.order[j]
        drafted = drafted_marked(layer.arrivals, search.sets, i, j + v, end + v, layer.draws[v])
        search.share[i, 1] += rest * drafted / layer.mass[i]
        lower_position(layer.arrivals, search.sets, i, z)


@cache
def marks(draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1] for a pick among ``draws`` drafts in all."""
    z, weight = np.polynomial.legendre.leggauss(max((draws + 1) // 2, 1))
    return (z + 1) / 2, weight / 2
