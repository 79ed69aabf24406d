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

The fade is kept for every position, A and B for every one or every eighth, so that after a change of the order inside
a window only the window is swept: outside it the sets of items below each item are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend import lanes
from mdsd_bounds._backend.numba_options import STEP, SUMS

#: Options of what Python calls, and of the steps that only compiled code calls; sums may be reordered.
FAST: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": SUMS}
INNER: dict[str, Any] = STEP | {"fastmath": SUMS}
#: Of steps on a few numbers: a call that hands over records of arrays takes longer than they do.
INLINE: dict[str, Any] = INNER | {"forceinline": True}
#: Positions from one set that is kept to the next, where items are bins: writing all of them takes longer than passing
#: some items again.
_SPACING = 8
#: Exponents beyond which ``exp(-x)`` is taken as 0, far above the subnormal numbers and far below rounding.
_FAINT_EXPONENT = 345.0


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
        ``[rows, T]``: coefficients of ``A_i`` and ``B_i``; T is a multiple of :data:`.lanes.LANES`.
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
        ``[k + 1, 4]``, two draws: X, Y, the probability of pairs below, and minus the number of fixed tokens above.
    spacing : int
        Positions from one slot of ``a`` and ``b`` to the next.
    a, b : ndarray
        ``[slots n, T]``: polynomials of the items below every ``spacing``-th position, n rows each; the last slot is
        what a sweep works on.
    fade : ndarray
        ``[k + 1, T]``: weights times the probability that nothing at or above has arrived.
    """

    order: np.ndarray
    v: np.ndarray
    pairs: np.ndarray
    spacing: int
    a: np.ndarray
    b: np.ndarray
    fade: np.ndarray


@njit(**INNER)
def spacing_for(items):  # type: ignore[no-untyped-def]
    """Spacing of the sets that a search keeps: windows of tokens are short, with bins among the items they are not."""
    return _SPACING if items.within.any() else 1


@njit(**INNER)
def start_sweep(items, spacing):  # type: ignore[no-untyped-def]
    """Room for the sweeps of ``items``, with the empty sets below the first position and above the last."""
    size, nodes, n = items.mass.shape[0], items.weight.shape[0], items.draws
    slots, above = (size // spacing + 2, size + 1) if n > 2 else (1, 1)
    a, b, fade = lanes.rows(slots * n, nodes), lanes.rows(slots * n, nodes), lanes.rows(above, nodes)
    if n > 2:
        a[:n], b[:n] = 0.0, 0.0
        a[0] = 1.0
        fade[size] = items.weight
    pairs = np.zeros((size + 1, 4))
    pairs[0, 3] = -items.fixed.sum()
    return Sweep(np.arange(size), np.zeros(size), pairs, spacing, a, b, fade)


@njit(**INLINE)
def sweep_window(items, state, begin, end):  # type: ignore[no-untyped-def]
    """Bring v and the sets below up to date for the positions from ``begin`` to ``end``.  O((end - begin) n T)."""
    if items.draws == 2:
        _sweep_pairs(items, state, begin, end)
    else:
        _sweep_times(items, state, begin, end)


@njit(**INNER)
def _sweep_times(items, state, begin, end):  # type: ignore[no-untyped-def]
    """:func:`sweep_window` for three draws and more."""
    fade_above(items, state, begin, end)
    spacing, work = state.spacing, state.a.shape[0] // items.draws - 1
    now = begin // spacing
    for j in range(now * spacing, end):
        # The set below ``end`` is what it was; other sets are written to their slot, or passed on in the last one.
        beyond = (j + 1) // spacing if (j + 1) % spacing == 0 else work
        picked = pass_item(items, state, j, (now, beyond), j + 1 < end)
        now = beyond
        if j >= begin:
            state.v[state.order[j]] = picked


@njit(**INNER)
def fade_above(items, state, begin, end):  # type: ignore[no-untyped-def]
    """Bring ``fade`` up to date inside a window."""
    fade = state.fade
    for j in range(end - 1, begin, -1):
        i = state.order[j]
        row, present = items.first[i], 0.0 if items.fixed[i] else 1.0
        for t in range(fade.shape[1]):
            fade[j, t] = fade[j + 1, t] * items.arrived[row, t] * present


@njit(**INLINE)
def pass_item(items, state, j, slots, whole):  # type: ignore[no-untyped-def]
    """v of the item at position j, from A and B of the set below it; where ``whole``, those of the set with it too.

    ``slots`` are those of the two sets, which may be one.
    """
    i, n = state.order[j], items.draws
    below, beyond = slots[0] * n, slots[1] * n
    if items.fixed[i]:
        return _pass_fixed(state, j, n, below, beyond, whole)
    if items.first[i + 1] - items.first[i] == 2:
        return _pass_token(items, state, j, below, beyond, whole)
    return _pass_bin(items, state, j, below, beyond, whole)


@njit(**INNER)
def _pass_fixed(state, j, n, below, beyond, whole):  # type: ignore[no-untyped-def]
    """:func:`pass_item` for a token that is always drafted."""
    total = 0.0
    for t in range(state.fade.shape[1]):
        total += state.fade[j + 1, t] * state.b[below + n - 1, t]
    for m in range(n if whole else 0):
        for t in range(state.fade.shape[1]):
            state.a[beyond + m, t] = state.a[below + m, t]
            state.b[beyond + m, t] = state.b[below + m, t]
    return total


@njit(**INLINE)
def _pass_token(items, state, j, below, beyond, whole):  # type: ignore[no-untyped-def]
    """:func:`pass_item` for a token, whose polynomials are ``e + z u`` and ``q e``."""
    row, n, (a, b), picked = items.first[state.order[j]], items.draws, (state.a, state.b), lanes.zeros()
    for t in range(0, a.shape[1], lanes.LANES):
        gone, here = lanes.load(items.arrived, row, t), lanes.load(items.arrived, row + 1, t)
        last, fade = lanes.load(items.closing, row, t), lanes.load(state.fade, j + 1, t)
        x, y = lanes.load(a, below + n - 1, t), lanes.load(b, below + n - 1, t)
        # From the highest power down: it needs the lower ones as they were.
        for m in range(n - 1, 0 if whole else n - 2, -1):
            x_less, y_less = lanes.load(a, below + m - 1, t), lanes.load(b, below + m - 1, t)
            gained = lanes.multiply_add(last, x, lanes.multiply(here, y_less))
            if m == n - 1:
                picked = lanes.multiply_add(fade, gained, picked)
            if whole:
                lanes.store(b, beyond + m, t, lanes.multiply_add(gone, y, gained))
                lanes.store(a, beyond + m, t, lanes.multiply_add(here, x_less, lanes.multiply(gone, x)))
            x, y = x_less, y_less
        if whole:
            lanes.store(b, beyond, t, lanes.multiply_add(gone, y, lanes.multiply(last, x)))
            lanes.store(a, beyond, t, lanes.multiply(gone, x))
    return lanes.total(picked)


@njit(**INLINE)
def _pass_bin(items, state, j, below, beyond, whole):  # type: ignore[no-untyped-def]
    """:func:`pass_item` for any polynomials."""
    i, n, (a, b), picked = state.order[j], items.draws, (state.a, state.b), lanes.zeros()
    row, degree = items.first[i], items.first[i + 1] - items.first[i] - 1
    for t in range(0, a.shape[1], lanes.LANES):
        gone, last = lanes.load(items.arrived, row, t), lanes.load(items.closing, row, t)
        for m in range(n - 1, -1 if whole else n - 2, -1):
            x = lanes.load(a, below + m, t)
            arrived, closing, closed = lanes.multiply(gone, x), lanes.multiply(last, x), lanes.zeros()
            for k in range(1, min(degree, m) + 1):
                x, p = lanes.load(a, below + m - k, t), lanes.load(items.arrived, row + k, t)
                arrived = lanes.multiply_add(p, x, arrived)
                closing = lanes.multiply_add(lanes.load(items.closing, row + k, t), x, closing)
                closed = lanes.multiply_add(p, lanes.load(b, below + m - k, t), closed)
            gained = lanes.add(closing, closed)
            if m == n - 1:
                picked = lanes.multiply_add(lanes.load(state.fade, j + 1, t), gained, picked)
            if whole:
                lanes.store(b, beyond + m, t, lanes.multiply_add(gone, lanes.load(b, below + m, t), gained))
                lanes.store(a, beyond + m, t, arrived)
    return lanes.total(picked)


@njit(**INLINE)
def _sweep_pairs(items, state, begin, end):  # type: ignore[no-untyped-def]
    """:func:`sweep_window` for two draws."""
    x, y, below, count = state.pairs[begin, 0], state.pairs[begin, 1], state.pairs[begin, 2], state.pairs[begin, 3]
    for j in range(begin, end):
        i = state.order[j]
        if items.fixed[i]:
            count += 1.0
            state.v[i] = below if count == 0.0 else 0.0
        else:
            gained = items.odds[i] * x + items.mass[i] * y + items.within[i]
            x += items.mass[i]
            y += items.odds[i]
            below += gained
            state.v[i] = gained if count == 0.0 else 0.0
        state.pairs[j + 1, 0] = x
        state.pairs[j + 1, 1] = y
        state.pairs[j + 1, 2] = below
        state.pairs[j + 1, 3] = count


@njit(**FAST)
def token_polynomials(q, t):  # type: ignore[no-untyped-def]
    """``arrived`` and ``closing`` ``[2 k, T]`` of tokens with rates ``q`` ``[k]``; fixed tokens have ``q = 0``."""
    arrived, closing = lanes.rows(2 * len(q), len(t)), lanes.rows(2 * len(q), len(t))
    closing[1::2] = 0.0
    for i in range(len(q)):
        for j in range(len(t)):
            x = q[i] * t[j]
            gone = np.exp(-x) if x < _FAINT_EXPONENT else 0.0
            arrived[2 * i, j] = gone
            arrived[2 * i + 1, j] = 1.0 - gone if x > 0.35 else -np.expm1(-x)
            closing[2 * i, j] = q[i] * gone
    return arrived, closing


@njit(**FAST)
def given_order(items):  # type: ignore[no-untyped-def]
    """v ``[k]`` of the strict order in which the items are numbered."""
    state = start_sweep(items, 1)
    sweep_window(items, state, 0, len(state.order))
    return state.v
