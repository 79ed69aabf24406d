"""The distribution of the pick of strict priority orders: one sweep up the order gives it for every item.

*Items* are tokens, or bins of tokens that share one priority.  In a strict order the draft of the highest item is
picked; v_i is the probability that this is item i.  Drafts come without replacement: give every token an independent
exponential arrival time of rate q; the drafts are the first n arrivals.

**Two draws.** With ``w = q/(1-q)`` the pair {i, j} is drafted with probability ``w_i q_j + q_i w_j``, so that

    ``v_i = w_i X + q_i Y + (pairs inside i)``,   X and Y the sums of q and w over the items below i.

**Three draws and more.** At time t let ``e = exp(-qt)`` and ``u = 1 - e``, and for a set of items

    ``A(z) = prod over tokens (e + z u)``,   ``B(z) = sum over tokens of q e prod over the others (e + z u)``:

``[z^m] A`` is the probability that m tokens of the set have arrived, ``[z^m] B`` the rate at which a token of the set
arrives after m others of it.  The last draft arrives at t, and nothing above i has arrived (*fade*), so that

    ``v_i = integral dt fade ( sum_m B_i[m] A[n-1-m] + sum_{m>0} A_i[m] B[n-1-m] )``,   A, B of the items below i.

All terms are positive.  Tokens that are always drafted (*fixed*) leave A and B as they are; nothing below one is ever
picked, and the highest of them is picked if all random drafts lie below it: ``v = integral fade B[n-1]``.

A and B are kept for every position and the fade above it, so that after a change of the order inside a window only
the window is swept: outside it the sets of items below each item are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS

#: Options of what Python calls, and of the steps that only compiled code calls; sums may be reordered.
FAST: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": SUMS}
INNER: dict[str, Any] = STEP | {"fastmath": SUMS}
#: Exponents beyond which ``exp(-x)`` is taken as 0, far above the subnormal numbers and far below rounding.
FAINT_EXPONENT = 345.0


class Items(NamedTuple):
    """What is ordered, at the nodes t ``[T]`` of the quadrature; bins and tokens alike.

    Attributes
    ----------
    draws : int
        Random drafts n, at least 2.
    mass, odds, within : ndarray
        ``[k]``: sums of q and of ``w = q/(1-q)``, and the probability that both of two draws fall in the item.
    fixed : ndarray
        ``[k]`` bool: the token is always drafted.
    divisor : ndarray
        ``[k]``: q, and a huge number for fixed tokens, which come before all others in the order of ``p/q``.
    first : ndarray
        ``[k + 1]`` int64: the polynomials of item i are the rows ``first[i]`` to ``first[i + 1]``.
    arrived, closing : ndarray
        ``[rows, T]``: coefficients of ``A_i`` and ``B_i``; the last one of ``B_i`` is not used.
    weight : ndarray
        ``[T]``: weights of the quadrature.
    """

    draws: int
    mass: np.ndarray
    odds: np.ndarray
    within: np.ndarray
    fixed: np.ndarray
    divisor: np.ndarray
    first: np.ndarray
    arrived: np.ndarray
    closing: np.ndarray
    weight: np.ndarray


class Sweep(NamedTuple):
    """An order, its distribution, and what each position knows of the items below and above it.

    Attributes
    ----------
    order : ndarray
        ``[k]`` int64: items, highest priority last.
    v : ndarray
        ``[k]``: distribution of the pick, by item.
    pairs : ndarray
        ``[k + 1, 4]``, two draws: X, Y, the probability of pairs below, and the number of fixed tokens below.
    a, b : ndarray
        ``[k + 1, degrees, T]``: polynomials of the items below.
    fade : ndarray
        ``[k + 1, T]``: weights times the probability that nothing at or above has arrived.
    """

    order: np.ndarray
    v: np.ndarray
    pairs: np.ndarray
    a: np.ndarray
    b: np.ndarray
    fade: np.ndarray


@njit(**INNER)
def start_sweep(items):  # type: ignore[no-untyped-def]
    """Room for the sweeps of ``items``, with the empty sets below the first position and above the last."""
    size, nodes, draws = items.mass.shape[0], items.weight.shape[0], items.draws
    if draws == 2:
        rows, last_rows, size_kept, nodes = 1, 1, 0, 1
    else:
        rows, last_rows, size_kept = draws, draws if items.fixed.any() else draws - 1, size
    a, b = np.zeros((size_kept + 1, rows, nodes)), np.zeros((size_kept + 1, last_rows, nodes))
    fade = np.zeros((size_kept + 1, nodes))
    if draws > 2:
        a[0, 0] = 1.0
        fade[size] = items.weight
    return Sweep(np.arange(size), np.zeros(size), np.zeros((size + 1, 4)), a, b, fade)


@njit(**INNER)
def sweep_window(items, state, begin, end):  # type: ignore[no-untyped-def]
    """Bring v and the sets below up to date for the positions from ``begin`` to ``end``.  O((end - begin) n T)."""
    if items.draws == 2:
        sweep_pairs(items, state, begin, end)
        return
    for j in range(end - 1, begin, -1):
        i = state.order[j]
        if items.fixed[i]:
            state.fade[j] = 0.0
        else:
            absent, above, here = items.arrived[items.first[i]], state.fade[j + 1], state.fade[j]
            for t in range(here.shape[0]):
                here[t] = above[t] * absent[t]
    for j in range(begin, end):
        i = state.order[j]
        if items.fixed[i]:
            state.v[i] = dot(state.fade[j + 1], state.b[j, items.draws - 1])
            state.a[j + 1] = state.a[j]
            state.b[j + 1] = state.b[j]
        elif items.first[i + 1] - items.first[i] == 2:
            row, n = items.first[i], items.draws
            gone, here, last = items.arrived[row], items.arrived[row + 1], items.closing[row]
            state.v[i] = token_picked(state.fade[j + 1], here, last, state.a[j, n - 1], state.b[j, n - 2])
            if j + 1 < end:
                add_token((state.a[j], state.b[j]), (state.a[j + 1], state.b[j + 1]), gone, here, last)
        else:
            state.v[i] = bin_picked(items, state, j)
            add_bin(items, state, j)


@njit(**INNER)
def sweep_pairs(items, state, begin, end):  # type: ignore[no-untyped-def]
    """:func:`sweep_window` for two draws."""
    fixed = items.fixed.sum()
    for j in range(begin, end):
        i = state.order[j]
        x, y, below, count = state.pairs[j, 0], state.pairs[j, 1], state.pairs[j, 2], state.pairs[j, 3]
        if items.fixed[i]:
            count += 1.0
            state.v[i] = below if count == fixed else 0.0
        else:
            gained = items.odds[i] * x + items.mass[i] * y + items.within[i]
            x += items.mass[i]
            y += items.odds[i]
            below += gained
            state.v[i] = gained if count == fixed else 0.0
        state.pairs[j + 1, 0] = x
        state.pairs[j + 1, 1] = y
        state.pairs[j + 1, 2] = below
        state.pairs[j + 1, 3] = count


@njit(**INNER)
def dot(x, y):  # type: ignore[no-untyped-def]
    """Sum of products."""
    total = 0.0
    for t in range(x.shape[0]):
        total += x[t] * y[t]
    return total


@njit(**INNER)
def token_picked(fade, here, last, a, b):  # type: ignore[no-untyped-def]
    """v of a token, from the polynomial rows ``u`` and ``q e`` and the coefficients that complete them."""
    total = 0.0
    for t in range(fade.shape[0]):
        total += fade[t] * (here[t] * b[t] + last[t] * a[t])
    return total


@njit(**INNER)
def add_token(below, next_, gone, here, last):  # type: ignore[no-untyped-def]
    """A and B of a set with one more token; ``below`` and ``next_`` are pairs of A and B at one position."""
    a, b = below
    a_next, b_next = next_
    for t in range(gone.shape[0]):
        a_next[0, t] = a[0, t] * gone[t]
        b_next[0, t] = b[0, t] * gone[t] + a[0, t] * last[t]
    for m in range(1, b.shape[0]):
        for t in range(gone.shape[0]):
            x = a[m, t]
            a_next[m, t] = x * gone[t] + a[m - 1, t] * here[t]
            b_next[m, t] = b[m, t] * gone[t] + b[m - 1, t] * here[t] + x * last[t]
    for m in range(b.shape[0], a.shape[0]):
        for t in range(gone.shape[0]):
            a_next[m, t] = a[m, t] * gone[t] + a[m - 1, t] * here[t]


@njit(**INNER)
def bin_picked(items, state, j):  # type: ignore[no-untyped-def]
    """v of the bin at position j."""
    i, n, fade = state.order[j], items.draws, state.fade[j + 1]
    total = 0.0
    for m in range(items.first[i + 1] - items.first[i]):
        row = items.first[i] + m
        here, last = items.arrived[row], items.closing[row]
        if m < n:
            a = state.a[j, n - 1 - m]
            for t in range(fade.shape[0]):
                total += fade[t] * last[t] * a[t]
        if 0 < m < n:
            b = state.b[j, n - 1 - m]
            for t in range(fade.shape[0]):
                total += fade[t] * here[t] * b[t]
    return total


@njit(**INNER)
def add_bin(items, state, j):  # type: ignore[no-untyped-def]
    """A and B of the set with the bin at position j."""
    i, nodes = state.order[j], items.weight.shape[0]
    degree = items.first[i + 1] - items.first[i] - 1
    for m in range(state.a.shape[1]):
        a_next, gone = state.a[j + 1, m], items.arrived[items.first[i]]
        for t in range(nodes):
            a_next[t] = state.a[j, m, t] * gone[t]
        for k in range(1, min(degree, m) + 1):
            here, a = items.arrived[items.first[i] + k], state.a[j, m - k]
            for t in range(nodes):
                a_next[t] += a[t] * here[t]
    for m in range(state.b.shape[1]):
        b_next = state.b[j + 1, m]
        b_next[:] = 0.0
        for k in range(min(degree, m) + 1):
            row = items.first[i] + k
            here, last, a, b = items.arrived[row], items.closing[row], state.a[j, m - k], state.b[j, m - k]
            for t in range(nodes):
                b_next[t] += b[t] * here[t] + a[t] * last[t]


@njit(**FAST)
def token_polynomials(q, t):  # type: ignore[no-untyped-def]
    """``arrived`` and ``closing`` ``[2 k, T]`` of tokens with rates ``q`` ``[k]``; fixed tokens have ``q = 0``."""
    arrived, closing = np.zeros((2 * len(q), len(t))), np.zeros((2 * len(q), len(t)))
    for i in range(len(q)):
        for j in range(len(t)):
            x = q[i] * t[j]
            gone = np.exp(-x) if x < FAINT_EXPONENT else 0.0
            arrived[2 * i, j] = gone
            arrived[2 * i + 1, j] = 1.0 - gone if x > 0.35 else -np.expm1(-x)
            closing[2 * i, j] = q[i] * gone
    return arrived, closing


@njit(**FAST)
def given_order(items):  # type: ignore[no-untyped-def]
    """v ``[k]`` of the strict order in which the items are numbered."""
    state = start_sweep(items)
    sweep_window(items, state, 0, len(state.order))
    return state.v
