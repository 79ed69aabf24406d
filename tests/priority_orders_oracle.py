"""A tree of strict priority orders for independent drafts, written to be read, not to be quick: an oracle.

A *component* is a set C of tokens and the mass below it of tokens of lower priority; its game is ``f(A) = (below +
q(A))^n - below^n``.  On the left side the pick is asked to be at least a target t, on the right at most t.  The strict
order of C by t/q has the distribution v.  If v does not meet t, let c be the least ``gap_t(A) / gap_v(A)`` over A in C
(:func:`_gaps`) and A* a minimiser: with chance c the rule follows the order, and otherwise the part above A* has strict
priority over A*, where both are components of their own for ``t' = (t - c v) / (1 - c)``.  Minimisers of
``gap_t - c gap_v`` are prefixes in the order of (t - c v)/q, which Dinkelbach's method uses.
"""

from __future__ import annotations

import numpy as np

#: Violations below this are rounding.
SLACK = 1e-13


def order_tree_pick(p: np.ndarray, q: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distribution ``[V]`` of the pick of the tree, and the tokens of H, the minimiser of P(H) - q(H)^n."""
    r = np.zeros(len(p))
    drafted = np.flatnonzero(q > 0)
    with np.errstate(over="ignore"):
        order = drafted[np.argsort(p[drafted] / q[drafted], kind="stable")]
    value = np.append(0.0, np.cumsum(p[order] - _pick(q[order], 0.0, n)))
    first, rest = np.split(order, [int(value.argmin())])
    _solve(first, 0.0, p[first], 1.0, 1, (q / q.sum(), n), r)
    _solve(rest, float(q[first].sum() / q.sum()), p[rest], 1.0, -1, (q / q.sum(), n), r)
    return r, first


def _pick(q: np.ndarray, below: float, n: int) -> np.ndarray:
    """Distribution of the highest draft in a strict order."""
    edge = np.append(below, below + np.cumsum(q))
    return np.asarray(q * sum(edge[1:] ** (n - 1 - k) * edge[:-1] ** k for k in range(n)))


def _gaps(x: np.ndarray, v: np.ndarray, side: int) -> np.ndarray:
    """``gap_x`` of the prefixes of an order with distribution v: slack of the demand x on each of them."""
    spare = side * (v - x)
    total: np.ndarray = np.cumsum(spare[::-1])[::-1] if side > 0 else np.append(0.0, np.cumsum(spare)[:-1])
    return total


def _solve(
    tokens: np.ndarray,
    below: float,
    t: np.ndarray,
    chance: float,
    side: int,
    game: tuple[np.ndarray, int],
    r: np.ndarray,
) -> None:
    """Add the distribution of a component, times ``chance``, to r."""
    q, n = game
    if len(tokens) == 0 or chance <= 0.0:
        return
    order = np.argsort(t / q[tokens], kind="stable")
    tokens, t = tokens[order], t[order]
    v = _pick(q[tokens], below, n)
    if len(tokens) == 1 or np.maximum(side * (t - v), 0.0).sum() * chance <= SLACK:
        r[tokens] += chance * v
        return
    coin, part = 1.0, None
    for _ in range(100):
        by = np.argsort((t - coin * v) / q[tokens], kind="stable")
        here = _pick(q[tokens][by], below, n)
        gap_t, gap_v = _gaps(t[by], here, side), _gaps(v[by], here, side)
        found = gap_t - coin * gap_v
        found[0] = 0.0
        cut = int(found.argmin())
        if found[cut] >= -SLACK or cut == 0 or gap_v[cut] <= 0.0:
            break
        coin, part = max(0.0, gap_t[cut] / gap_v[cut]), by[:cut]
        if coin == 0.0:
            break
    if part is None:
        r[tokens] += chance * v
        return
    r[tokens] += chance * coin * v
    left = np.maximum((t - coin * v) / (1.0 - coin), 0.0)
    lower = np.isin(np.arange(len(tokens)), part)
    middle = below + float(q[tokens[lower]].sum())
    _solve(tokens[lower], below, left[lower], chance * (1.0 - coin), side, game, r)
    _solve(tokens[~lower], middle, left[~lower], chance * (1.0 - coin), side, game, r)
