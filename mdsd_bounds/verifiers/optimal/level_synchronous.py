"""The tree of priority orders for a padded batch of rows, in plain torch operations: a form that a GPU could run.

The search is that of :mod:`.order_tree`, but all open components of all rows go forward together: a round sorts every
component by ``(t - c v)/q``, sweeps each row once, and lets each component either improve its coin or split.  It
returns r and what it certifies, not the ranks of a rule that runs.  It has been run and tested on CPUs alone; no GPU
has timed it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers.optimal.arrival_times import arrival_times, rescaling
from mdsd_bounds.verifiers.optimal.order_tree import (
    FEW,
    FIRST_GUESS,
    LEAST_GUESS,
    MOST_GUESS,
    SLACK,
    TINY,
    TOLERANCE,
)
from mdsd_bounds.verifiers.optimal.unit_kernels import spare_masses


class Levels(NamedTuple):
    """What :func:`level_synchronous` found.

    Attributes
    ----------
    r : Tensor
        ``[B, K]``: distribution of the pick of each row's tree; 0 where q is.
    gap : Tensor
        ``[B]``: alpha* minus ``sum min(p, r)``, but for rounding.
    rounds : int
        Sweeps of all rows.
    """

    r: Tensor
    gap: Tensor
    rounds: int


class Nodes(NamedTuple):
    """``q``, ``q/(1-q)`` ``[B, K]``; ``e``, ``u``, ``q e`` ``[B, K, T]`` at the nodes of the quadrature; weights."""

    mass: Tensor
    odds: Tensor
    gone: Tensor
    here: Tensor
    last: Tensor
    weight: Tensor


def level_synchronous(p: Tensor, q: Tensor, n: int, most_rounds: int = 10_000) -> Levels:
    """Distribution of the pick of the optimal rule for n draws without replacement, all rows at once.

    Parameters
    ----------
    p, q : Tensor
        ``[B, K]`` float64 distributions on one device; rows of smaller supports are padded with q = 0 (and p = 0).
        Every row of q has more than n positive entries.
    n : int
        At least 2.
    most_rounds : int
        Rounds after which components that are still open keep their present order.

    Raises
    ------
    InputError
        On another dtype or shape, n < 2, or a row with n positive entries or fewer.

    Notes
    -----
    Theorem 4 of ``docs/optimal_verifier.md``.  Rounds times O(B K n T) in K steps one after another, T the 55 to 113
    nodes of :mod:`.arrival_times` (for two draws one cumulative sum).  Memory O(B K T).

    Examples
    --------
    >>> import torch
    >>> p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    >>> level_synchronous(p, p.flip(1), 2).r.sum().round(decimals=12).item()
    1.0
    """
    if p.ndim != 2 or p.shape != q.shape or p.dtype != torch.float64 or q.dtype != torch.float64 or n < 2:
        raise InputError(f"p {p.dtype} {tuple(p.shape)}, q {q.dtype} {tuple(q.shape)}, n={n}: float64 rows, n >= 2")
    end = _checked_support(q, n)
    nodes = quadrature(q, n)
    at = torch.arange(q.shape[1], device=q.device).expand(q.shape)
    divisor = torch.where(q > 0, nodes.mass, 1.0)
    order = torch.where(q > 0, p / divisor, torch.inf).argsort(dim=-1, stable=True)
    v = sweep(nodes, order, n)
    least, split = (p - v).gather(1, order).cumsum(-1).min(-1, keepdim=True)
    split = torch.where(least < 0, split + 1, 0)
    # By position: first position of its component (one past the support: padding), and its state.
    start = torch.where(at < split, 0, torch.where(at < end, split, end))
    left, open_ = at < split, at < end
    target, reached, r = p.clone(), torch.ones_like(p), torch.zeros_like(p)
    own, fresh = torch.zeros_like(p), open_.clone()
    coin, cut = torch.ones_like(p), torch.full_like(at, -1)
    guess = torch.full_like(p, FIRST_GUESS)
    trial, saved = guess.clone(), order.clone()
    rounds = 1
    k = end.to(p.dtype)
    while bool(open_.any()) and rounds < most_rounds:
        # Components that were made in the round before: their own order is the present one.
        rows = v.gather(1, order)
        own = torch.where(fresh, rows, own)
        t = target.gather(1, order)
        w = reached.gather(1, order)
        short = torch.where(left, t - own, own - t).clamp(min=0.0)
        one = reduce(torch.ones_like(p), start, "sum")
        leaf = fresh & ((one == 1) | (reduce(short, start, "sum") * w <= TOLERANCE / k))
        r.scatter_add_(1, order, torch.where(leaf, w * own, 0.0))
        open_ = open_ & ~leaf
        trial = torch.where(fresh, torch.where(one > FEW, guess, 1.0), trial)
        coin, cut = torch.where(fresh, 1.0, coin), torch.where(fresh, -1, cut)
        by_item = torch.zeros_like(p).scatter_(1, order, own)
        key = (t - trial * own) / divisor.gather(1, order)
        order = _sorted_within(order, torch.where(open_, key, at.to(p.dtype)), start)
        v = sweep(nodes, order, n)
        rounds += 1
        own = by_item.gather(1, order)
        t, now = target.gather(1, order), v.gather(1, order)
        ratio, room, place = tightest(t, now, own, coin, SLACK / (k * w), start, left, open_)
        found, none = open_ & (place >= 0), open_ & (place < 0)
        again = none & (cut < 0) & (trial < 1.0)
        closed = none & ~again
        cut, coin = torch.where(found, place, cut), torch.where(found, ratio, coin)
        saved = torch.where(found, order, saved)
        tight = found & (room <= SLACK / (k * w))
        coin = torch.where(tight, 0.0, coin)
        trial = torch.where(again, 1.0, torch.where(found, ratio, trial))
        # Back to the order that had the set that binds, where rounding has changed it.
        done = closed | tight
        item_low = torch.zeros_like(open_).scatter_(1, saved, at < cut)
        same = reduce((item_low.gather(1, order) & (at < cut)).to(p.dtype), start, "sum") == cut - start
        back = closed & (cut >= 0) & ~same
        order = torch.where(back, saved, order)
        own, t = by_item.gather(1, order), target.gather(1, order)
        coin = torch.where(closed & (cut < 0), 1.0, coin)
        r.scatter_add_(1, order, torch.where(done, w * coin * own, 0.0))
        splits = done & (cut >= 0)
        rest = torch.where(splits, 1.0 - coin, 1.0)
        target.scatter_(1, order, torch.where(splits, ((t - coin * own) / rest).clamp(min=0.0), t))
        reached.scatter_(1, order, w * rest)
        guess = torch.where(splits, coin.clamp(LEAST_GUESS, MOST_GUESS), guess)
        start = torch.where(splits & (at >= cut), cut, start)
        open_, fresh = open_ & ~(closed & (cut < 0)), splits
        if bool(back.any()):
            v = sweep(nodes, order, n)
            rounds += 1
    rest = torch.where(open_, reached.gather(1, order) * own, 0.0)
    r.scatter_add_(1, order, rest)
    lower = torch.zeros_like(left).scatter_(1, order, left)
    return Levels(r, torch.where(lower, p - r, r - p).clamp(min=0.0).sum(-1), rounds)


def _checked_support(q: Tensor, n: int) -> Tensor:
    """Number of tokens that can be drafted ``[B, 1]``, more than n in every row."""
    support = (q > 0).sum(-1, keepdim=True)
    if bool((support <= n).any()):
        row = int((support[:, 0] <= n).nonzero()[0])
        raise InputError(f"row {row}: {int(support[row])} tokens can be drafted; level_synchronous needs more than {n}")
    return support


def quadrature(q: Tensor, n: int) -> Nodes:
    """Polynomials of the tokens at the nodes of each row; rows with fewer nodes have nodes of weight 0."""
    rows = q.cpu().numpy()
    spare = [spare_masses(row, n) for row in rows]
    factor = np.array([rescaling(float(one[n - 1])) for one in spare])
    mass = q * torch.from_numpy(factor).to(q.device)[:, None]
    if n == 2:
        total = torch.tensor([one[0] * f for one, f in zip(spare, factor, strict=True)], device=q.device)[:, None]
        off = torch.tensor([one[1] * f for one, f in zip(spare, factor, strict=True)], device=q.device)[:, None]
        heaviest = torch.nn.functional.one_hot(mass.argmax(-1), q.shape[1]).bool()
        odds = mass / total / torch.where(heaviest, off, total - mass)
        none = q.new_zeros(len(q), 0)
        return Nodes(mass, odds, none, none, none, none)
    found = [arrival_times(one * f, n) for one, f in zip(spare, factor, strict=True)]
    most = max(len(t) for t, _ in found)
    # Nodes that only fill up have weight 0.
    times = np.array([np.pad(t, (0, most - len(t)), constant_values=1.0) for t, _ in found])
    weight = torch.from_numpy(np.array([np.pad(w, (0, most - len(w))) for _, w in found])).to(q.device)
    x = mass[:, :, None] * torch.from_numpy(times).to(q.device)[:, None, :]
    gone = torch.where(x < 345.0, (-x).exp(), 0.0)
    here = torch.where(x > 0.35, 1.0 - gone, -torch.expm1(-x))
    return Nodes(mass, mass, gone, here, mass[:, :, None] * gone, weight)


def sweep(nodes: Nodes, order: Tensor, n: int) -> Tensor:
    """v ``[B, K]`` by item of the orders ``[B, K]``, highest priority last (:mod:`.order_sweep`)."""
    mass, out = nodes.mass.gather(1, order), torch.zeros_like(nodes.mass)
    if n == 2:
        odds = nodes.odds.gather(1, order)
        below = [x.cumsum(-1).roll(1, -1).index_fill(1, torch.tensor([0], device=x.device), 0.0) for x in (mass, odds)]
        return out.scatter_(1, order, odds * below[0] + mass * below[1])
    index = order[:, :, None].expand(-1, -1, nodes.weight.shape[1])
    gone, here, last = (x.gather(1, index) for x in (nodes.gone, nodes.here, nodes.last))
    above = gone.flip(1).cumprod(1).flip(1).roll(-1, 1)
    above[:, -1] = 1.0
    fade = above * nodes.weight[:, None, :]
    a = torch.zeros((len(order), n, nodes.weight.shape[1]), dtype=out.dtype, device=out.device)
    b = torch.zeros_like(a[:, : n - 1])
    a[:, 0] = 1.0
    picked = []
    for j in range(order.shape[1]):
        e, u, f = gone[:, j, None], here[:, j, None], last[:, j, None]
        picked.append((fade[:, j] * (u[:, 0] * b[:, n - 2] + f[:, 0] * a[:, n - 1])).sum(-1))
        moved = b * e + a[:, : n - 1] * f
        moved[:, 1:] += b[:, :-1] * u
        grown = a * e
        grown[:, 1:] += a[:, :-1] * u
        a, b = grown, moved
    return out.scatter_(1, order, torch.stack(picked, 1))


def reduce(x: Tensor, start: Tensor, how: str) -> Tensor:
    """Sum, least or largest entry ``[B, K]`` of each component, given to each of its positions."""
    first = {"sum": 0.0, "amin": torch.inf, "amax": -torch.inf}[how]
    room = torch.full((len(x), x.shape[1] + 1), first, dtype=x.dtype, device=x.device)
    return room.scatter_reduce_(1, start, x, how).gather(1, start)


def _sorted_within(order: Tensor, key: Tensor, start: Tensor) -> Tensor:
    """``order`` with the positions of each component sorted by ``key``."""
    first = key.argsort(dim=-1, stable=True)
    second = start.gather(1, first).argsort(dim=-1, stable=True)
    return order.gather(1, first.gather(1, second))


def tightest(
    t: Tensor, now: Tensor, own: Tensor, coin: Tensor, slack: Tensor, start: Tensor, left: Tensor, open_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Least ratio of gaps over the prefixes of each component, its ``gap_t``, and where it is cut (-1: none binds)."""
    size = t.shape[1]
    at = torch.arange(size, device=t.device).expand(t.shape)
    last = torch.cat([start[:, 1:] != start[:, :-1], torch.ones_like(left[:, :1])], 1)
    sign = torch.where(left, 1.0, -1.0)
    both = torch.stack([sign * (now - t), sign * (now - own)])
    # Side L is summed from the top and side R from the bottom.
    up, down, total = torch.zeros_like(both), torch.zeros_like(both), torch.zeros_like(both[:, :, 0])
    for j in range(size):
        total = torch.where(at[:, j] == start[:, j], 0.0, total) + both[:, :, j]
        up[:, :, j] = total
    total = torch.zeros_like(total)
    for j in range(size - 1, -1, -1):
        total = torch.where(last[:, j], 0.0, total) + both[:, :, j]
        down[:, :, j] = total
    gap_t, gap_v = torch.where(left, down, up)
    whole = torch.where(left, at == start, last)
    binds = open_ & ~whole & (gap_t - coin * gap_v < -slack)
    usable = (gap_v > TINY) & (gap_t > 0.0)
    ratio = torch.where(usable, gap_t / torch.where(usable, gap_v, 1.0), gap_t - TINY)
    ratio = torch.where(binds, ratio, torch.inf)
    least = reduce(ratio, start, "amin")
    here = binds & (ratio == least)
    # The first one met from the top on side L, from the bottom on side R.
    high = reduce(torch.where(here, at, -1).to(t.dtype), start, "amax")
    low = reduce(torch.where(here, at, size).to(t.dtype), start, "amin")
    chosen = torch.where(left, high, low).to(at.dtype)
    some = reduce(here.to(t.dtype), start, "sum") > 0
    room = reduce(torch.where(here & (at == chosen), gap_t, torch.inf), start, "amin")
    return least, room, torch.where(some, torch.where(left, chosen, chosen + 1), -1)
