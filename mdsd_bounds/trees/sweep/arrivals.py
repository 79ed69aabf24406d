"""Three and more draws without replacement below one node: an integral over the time of the last draft.

As in :mod:`mdsd_bounds.verifiers.optimal.order_sweep`, every token gets an exponential arrival time of rate q, and
the drafts are the first n arrivals.  At time t let ``e = exp(-qt)`` and ``u = 1 - e``.  A set of tokens, each with a
mark z, has the polynomials

    ``A(x) = prod (e + x z u)``,   ``B(x) = sum over tokens of z q e prod over the others (e + x z u)``:

``[x^m] A`` is the mean of ``z^m`` where m of them have arrived, ``[x^m] B`` the rate at which one arrives after m
others.  With *fade* the probability that nothing above a set has arrived, times the weight of the quadrature,

    ``Q(set) = sum over t fade B[n-1]``, and a token i on top of it adds ``sum fade (u B[n-2] + q e A[n-1])``

to Q, with z = 1.  ``G(z)`` of :mod:`.uniform_pick` is ``sum fade B[n-1]`` of D (z = 1) and C (z) together, and

    ``H_y(z) = sum fade ( u_y B'[n-2] + q_y e_y A'[n-1] )``,   A' and B' of all of them but y,

from the polynomials of the tokens below y and of those of C above y.  All terms are positive; nothing is divided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS
from mdsd_bounds.verifiers.optimal.arrival_times import FINE, arrival_times, rescaling
from mdsd_bounds.verifiers.optimal.order_sweep import token_polynomials
from mdsd_bounds.verifiers.optimal.unit_kernels import spare_masses

_FAST_STEP = STEP | {"fastmath": SUMS}


class Arrivals(NamedTuple):
    """Tokens at the nodes of the quadrature; without rows where no node has three draws.

    Attributes
    ----------
    absent, arrived, closing : ndarray
        ``[K, T]``: e, u and q e of each item.
    weight : ndarray
        ``[m, T]``: weights of each node's quadrature; zeros where it needs fewer times than others.
    """

    absent: np.ndarray
    arrived: np.ndarray
    closing: np.ndarray
    weight: np.ndarray


class Sets(NamedTuple):
    """Polynomials of the tokens of a node below each of its positions; rows as in :attr:`Search.below`.

    Attributes
    ----------
    a, b : ndarray
        ``[K + m, n, T]``: with z = 1.
    fade : ndarray
        ``[K + m, T]``: weights times the probability that nothing at or above the position has arrived.
    marked_a, marked_b : ndarray
        ``[K + m, n, T]``: with the mark z for the tokens of the component at hand.
    upper_a, upper_b : ndarray
        ``[2, n, T]``: of the component's tokens above a position, and room for the next.
    """

    a: np.ndarray
    b: np.ndarray
    fade: np.ndarray
    marked_a: np.ndarray
    marked_b: np.ndarray
    upper_a: np.ndarray
    upper_b: np.ndarray


def make_arrivals(probs: list[np.ndarray], draws: list[int], many: list[bool]) -> Arrivals:
    """The quadratures of the nodes with three and more draws; ``probs`` ``[k_v]`` of every node, ``k_v >= draws``."""
    if not any(many):
        none = np.zeros((0, 0))
        return Arrivals(none, none, none, np.zeros((len(probs), 0)))
    found = {}
    for v, (q, n) in enumerate(zip(probs, draws, strict=True)):
        if many[v]:
            spare = spare_masses(q, n)
            factor = rescaling(float(spare[n - 1]))
            t, weight = arrival_times(spare * factor, n, FINE)
            found[v] = (*token_polynomials(q * factor, t), weight)
    times, size = max(len(weight) for _, _, weight in found.values()), sum(map(len, probs))
    absent, arrived, closing = np.zeros((size, times)), np.zeros((size, times)), np.zeros((size, times))
    weights, start = np.zeros((len(probs), times)), 0
    for v, q in enumerate(probs):
        if v in found:
            rows, last, weight = found[v]
            here = (slice(start, start + len(q)), slice(0, len(weight)))
            absent[here], arrived[here], closing[here] = rows[0::2], rows[1::2], last[0::2]
            weights[v, : len(weight)] = weight
        start += len(q)
    return Arrivals(absent, arrived, closing, weights)


@njit(**STEP)
def start_sets(arrivals, first, draws):  # type: ignore[no-untyped-def]
    """Room for the polynomials, with the empty set below the first position of each node and nothing above the last."""
    size, times = arrivals.absent.shape
    nodes = len(draws)
    rows, degrees = (size + nodes, draws.max()) if size else (0, 0)
    shape = (rows, degrees, times)
    sets = Sets(np.zeros(shape), np.zeros(shape), np.zeros((rows, times)), np.zeros(shape), np.zeros(shape),
                np.zeros((2, degrees, times)), np.zeros((2, degrees, times)))  # fmt: skip
    if rows:
        for v in range(nodes):
            sets.a[first[v] + v, 0] = 1.0
            sets.fade[first[v + 1] + v] = arrivals.weight[v]
    return sets


@njit(**_FAST_STEP)
def add_token(a, b, a_next, b_next, arrivals, i, z):  # type: ignore[no-untyped-def]
    """A and B of a set with item i added, which has the mark z."""
    absent, arrived, closing = arrivals.absent[i], arrivals.arrived[i], arrivals.closing[i]
    for t in range(len(absent)):
        a_next[0, t] = a[0, t] * absent[t]
        b_next[0, t] = b[0, t] * absent[t] + z * a[0, t] * closing[t]
    for m in range(1, a.shape[0]):
        for t in range(len(absent)):
            a_next[m, t] = a[m, t] * absent[t] + z * a[m - 1, t] * arrived[t]
            b_next[m, t] = b[m, t] * absent[t] + z * (b[m - 1, t] * arrived[t] + a[m, t] * closing[t])


@njit(**_FAST_STEP)
def fade_below(arrivals, sets, order, v, start, end):  # type: ignore[no-untyped-def]
    """Bring ``fade`` up to date for node v from position ``end`` down to ``start``."""
    for j in range(end - 1, start - 1, -1):
        absent, above, here = arrivals.absent[order[j]], sets.fade[j + 1 + v], sets.fade[j + v]
        for t in range(len(absent)):
            here[t] = above[t] * absent[t]


@njit(**_FAST_STEP)
def gained(arrivals, sets, i, row, n):  # type: ignore[no-untyped-def]
    """What item i, at the position of ``row``, adds to Q of the items below it.  ``n`` draws."""
    arrived, closing, fade = arrivals.arrived[i], arrivals.closing[i], sets.fade[row + 1]
    a, b, total = sets.a[row, n - 1], sets.b[row, n - 2], 0.0
    for t in range(len(fade)):
        total += fade[t] * (arrived[t] * b[t] + closing[t] * a[t])
    return total


@njit(**_FAST_STEP)
def mark_component(arrivals, sets, order, v, start, end, n, z):  # type: ignore[no-untyped-def]
    """Write ``marked_a`` and ``marked_b`` of a component's positions; returns ``G_v(z)``."""
    sets.marked_a[start + v], sets.marked_b[start + v] = sets.a[start + v], sets.b[start + v]
    for j in range(start, end):
        row = j + v
        add_token(sets.marked_a[row], sets.marked_b[row], sets.marked_a[row + 1], sets.marked_b[row + 1],
                  arrivals, order[j], z)  # fmt: skip
    fade, b, total = sets.fade[end + v], sets.marked_b[end + v, n - 1], 0.0
    for t in range(len(fade)):
        total += fade[t] * b[t]
    return total


@njit(**_FAST_STEP)
def start_upper(sets):  # type: ignore[no-untyped-def]
    """Set ``upper_a`` and ``upper_b`` to the empty set."""
    sets.upper_a[0], sets.upper_b[0] = 0.0, 0.0
    sets.upper_a[0, 0] = 1.0


@njit(**_FAST_STEP)
def drafted_marked(arrivals, sets, i, row, top, n):  # type: ignore[no-untyped-def]
    """``H`` of item i at the position of ``row``; ``top`` is the row of the component's end."""
    arrived, closing, fade = arrivals.arrived[i], arrivals.closing[i], sets.fade[top]
    total = 0.0
    for m in range(n):
        a, upper_a = sets.marked_a[row, m], sets.upper_a[0, n - 1 - m]
        for t in range(len(fade)):
            total += fade[t] * closing[t] * a[t] * upper_a[t]
        if m < n - 1:
            b, upper_a, upper_b = sets.marked_b[row, m], sets.upper_a[0, n - 2 - m], sets.upper_b[0, n - 2 - m]
            for t in range(len(fade)):
                total += fade[t] * arrived[t] * (b[t] * upper_a[t] + a[t] * upper_b[t])
    return total


@njit(**_FAST_STEP)
def lower_position(arrivals, sets, i, z):  # type: ignore[no-untyped-def]
    """Add item i to ``upper_a`` and ``upper_b``."""
    add_token(sets.upper_a[0], sets.upper_b[0], sets.upper_a[1], sets.upper_b[1], arrivals, i, z)
    sets.upper_a[0], sets.upper_b[0] = sets.upper_a[1], sets.upper_b[1]
