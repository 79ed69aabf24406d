"""Certified intervals for alpha* when only part of p and q is known.

Let p be known on the kept tokens ``K_p`` with mass ``m_p`` elsewhere, q on ``K_q`` with ``m_q`` elsewhere, and let the
drafts be n draws of q, with or without replacement.  Write ``P(H)``, ``Q(H) = Pr(every draft lies in H)``; then
``alpha* = 1 + min_H (P(H) - Q(H))`` (Hu et al., ICLR 2025, arXiv 2502.18779).  Two facts about Q are used.

*Monotone.*  Drafts are the first n arrivals of tokens of rate q_i.  Moving mass into H, or enlarging H, makes arrivals
in H earlier and the first one outside later: Q(H) grows.

*Splitting.*  Without replacement, replace a token of H of rate a by two of rates b + c = a.  The one arrives when
the earlier of the two does, so the two give at least as many arrivals at every time: Q(H) grows.  For fixed
b + c the number of arrivals is stochastically largest at b = c (``Pr(2) = 1 - e^{-bt} - e^{-ct} + e^{-at}``, Pr(0)
fixed).  So among all ways to spread a mass over J tokens of H, equal parts give the largest Q(H), and one lump the
smallest.  With replacement only the mass counts.

**Lower bound: disjoint tails.**  ``P(H) >= P_known(H)``, and ``Q(H) <= Q(H and all unknown tokens of q)``, which is at
most what equal parts give.  Hence alpha* is at least the optimum of the problem in which the tail of p lies where q is
zero and the tail of q, in J equal parts, where p is zero.  Beyond ``PARTS`` parts only ``PARTS`` are used: infinitely
fine parts and PARTS lumps give the same drafts unless two of n arrivals fall in one lump; given that an arrival is in
the tail, it hits one of h lumps already hit with probability at most h / PARTS, so ``n (n - 1) / (2 PARTS)`` is taken
off.

**Upper bound: coinciding tails**, the least of three, each a bound for *every* way the tails may lie.

* A.  Merge all tokens outside ``K = K_p and K_q`` into one token.  For H that holds all of them ``P(H) = 1 - P(V - H)``
  is known, and Q(H) is at least the merged sampler's (one lump).  So ``alpha* <= 1 + min over such H``.
* B.  For H of known tokens of p or q only: ``P(H) <= P_known(H) + cap_p |H - K_p|`` and ``Q(H) >= Q(H and K_q)``, which
  involves known rates alone.
* C.  The same with ``P(H) <= P_known(H) + m_p``.

With ``K_p = K_q`` A and B together range over all H that do not split the tail: the optimum when both tails are one
token.  Where a missing mass is itself only in an interval, P(H) and Q(H) are monotone in it (for A, seen through the
complement, which holds kept tokens only), and the end that keeps the inequality is used.

**Rounded rows.**  If the logarithm of every kept weight of q is known to within e, each factor
``w_i / (weight not drawn)`` of the probability of a tuple is known to within e^{+-2e}, the tuple's to within
``e^{+-2ne}``, and two distributions with that likelihood ratio differ by at most ``tanh(n e)`` in total variation; p by
``tanh(e)``.  P(H) - Q(H) moves by no more than the sum, by which both ends are widened.  (For small errors and draws
with replacement this is the familiar ``|d alpha*| <= TV(p, p') + n TV(q, q')``.)

**Fixed tokens.**  ``greedy``, ``top_k`` and ``top_m_plus`` draft the m most probable tokens A of q and draw k others
from ``r = q off A``: ``alpha* = 1 + P(A) + min over H off A of (P(H) - Q_{r,k}(H))``, and everything above applies to
r.  A is certain if the m-th kept token outranks the next one and every unknown one.  Where that is open, the first j
tokens may still be certain: they are drafted, so ``[P(first j), 1]`` is the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.prefix_scan import solve_prefix
from mdsd_bounds.bounds.truncated.distributions import TruncatedDistribution, whole_distribution
from mdsd_bounds.problem import Bound, Counts, Option, Problem, draft_counts
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import fixed_mask

#: Most equal parts that the tail of q is spread over; more of them are covered by a collision term.
PARTS = 65_536
#: Rates of draws without replacement are held times this power of two: none is then rounded for being subnormal.
SCALE = 2.0**512

Solver = Callable[[Problem], Bound]


def solve_cut(
    p: TruncatedDistribution,
    q: TruncatedDistribution,
    n_drafts: Counts,
    sampler: str = "without_replacement",
    options: Mapping[str, Option] | None = None,
    solver: Solver = solve_prefix,
) -> Bound:
    """Interval for alpha* from cut distributions; see the module's text for the proof.

    Parameters
    ----------
    p, q : TruncatedDistribution
        B rows over the same V tokens.
    n_drafts : int or sequence of int
        Numbers of drafts.
    sampler, options :
        A sampler of the fixed-plus-random family, or ``independent`` with one draft distribution (then it is
        ``with_replacement``).
    solver : callable
        A route that minimises ``P(H) - Q(H)`` exactly, for p that need not sum to one.

    Returns
    -------
    Bound
        ``[N, B]``; ``value`` is the middle of the interval, ``subset_size`` that of the upper bound's subset in the
        merged vocabulary.

    Raises
    ------
    InputError
        If the sampler is an explicit joint distribution.

    Notes
    -----
    Cost: four calls of ``solver`` for each number of fixed tokens, over the tokens kept in some row of the batch and,
    without replacement, up to ``PARTS`` more.
    """
    counts, _ = draft_counts(n_drafts)
    rule = get_sampler(sampler)
    rule = rule.one_drafter or rule
    splits = rule.splits(counts, options or {}, "no interval for truncated rows", "log full rows")
    shape = (len(counts), p.probs.shape[0])
    low, high = (torch.zeros(shape, dtype=torch.float64, device=p.probs.device) for _ in range(2))
    size = torch.zeros(shape, dtype=torch.int64, device=p.probs.device)
    spare = (~q.kept).sum(-1)
    p, q = _used(p, q)
    for m in sorted({m for m, _ in splits}):
        slots = [i for i, (fixed, _) in enumerate(splits) if fixed == m]
        draws = [splits[i][1] for i in slots]
        low[slots], high[slots], size[slots] = _with_fixed(p, q, m, draws, rule.replacement, spare, solver)
    problem = Problem(p.probs, q.probs, counts, sampler, dict(options or {}))
    return Bound((low + high) / 2, low, high, size, problem, "intervals")


def _used(p: TruncatedDistribution, q: TruncatedDistribution) -> tuple[TruncatedDistribution, TruncatedDistribution]:
    """Only the tokens that some row gives mass to: the others are in no subset that matters."""
    used = ((p.probs > 0) | (q.probs > 0)).any(0).nonzero()[:, 0]
    first, second = (
        TruncatedDistribution(c.probs[:, used], c.kept[:, used], c.low, c.high, c.cap, c.slack) for c in (p, q)
    )
    return first, second


def _with_fixed(
    p: TruncatedDistribution,
    q: TruncatedDistribution,
    m: int,
    draws: list[int],
    replacement: bool,
    spare: Tensor,
    solver: Solver,
) -> tuple[Tensor, Tensor, Tensor]:
    fixed = fixed_mask(q.probs, m)
    # Without replacement only the ratios of rates matter.
    scale = 1.0 if replacement else SCALE
    r = _off(q, fixed, scale)
    rest = ~fixed
    # The least and the greatest that the fixed tokens, and each other token, may weigh under p.
    least, most = (1 - p.high)[:, None] * p.probs, (1 - p.low)[:, None] * p.probs
    cap = torch.minimum(p.cap * (1 - p.low), p.high)
    unknown_fixed = (fixed & ~p.kept).sum(-1)
    fixed_low = (least * fixed).sum(-1)
    fixed_high = (most * fixed).sum(-1)
    both = p.kept & r.kept & rest
    either = (r.kept & ~p.kept & rest).to(least.dtype)
    zero = torch.zeros_like(least)

    r_low, r_high = scale * r.low, scale * r.high
    kept_low, kept_high = ((1 - mass)[:, None] * r.probs for mass in (r.high, r.low))
    lump = r_low + (kept_high * ~both).sum(-1)
    merged = 1.0 - (least * both).sum(-1)  # everything off K, the fixed tokens included
    uppers = [
        (merged, torch.where(both, least, zero), 0.0, torch.where(both, kept_high, zero), lump),
        (fixed_high + cap * unknown_fixed, most * rest + either * cap[:, None], 2.0, kept_low, r_high),
        (fixed_high + p.high, most * rest, 2.0, kept_low, r_high),
    ]
    high = torch.full((len(draws), p.probs.shape[0]), float("inf"), dtype=torch.float64, device=p.probs.device)
    size = torch.zeros(high.shape, dtype=torch.int64, device=high.device)
    for constant, target, price, rates, tail in uppers:
        tail_target = torch.full_like(tail, price)
        found = _solve(
            torch.cat([target, tail_target[:, None]], -1),
            torch.cat([rates, tail[:, None]], -1),
            draws,
            replacement,
            solver,
        )
        value = constant + found.high
        size = torch.where(value < high, found.subset_size + m, size)
        high = torch.minimum(high, value)

    parts = torch.ones_like(spare) if replacement else spare.clamp(min=1, max=PARTS)
    parts = torch.where(r.high > 0, parts, torch.zeros_like(parts))
    columns = int(parts.max())
    share = torch.where(parts > 0, r_high / parts.clamp(min=1), torch.zeros_like(r_high))
    tail_rates = share[:, None] * (torch.arange(columns, device=parts.device) < parts[:, None])
    found = _solve(
        torch.cat([least * rest, torch.zeros_like(tail_rates)], -1),
        torch.cat([kept_low, tail_rates], -1),
        draws,
        replacement,
        solver,
    )
    count = torch.tensor(draws, dtype=torch.float64, device=high.device)[:, None]
    collide = count * (count - 1) / (2 * PARTS) * ((spare > PARTS) & (r.high > 0)) * (not replacement)
    low = fixed_low + found.low - collide

    widen = torch.tanh(p.slack) + torch.tanh(count * q.slack)
    low, high = (low - widen).clamp(0.0, 1.0), (high + widen).clamp(0.0, 1.0)
    open_rows, sure = _open(q, m)
    floor = ((least * sure).sum(-1) - torch.tanh(p.slack)).clamp(0.0, 1.0)
    return torch.where(open_rows, floor, low), high.masked_fill(open_rows, 1.0), size


def _off(q: TruncatedDistribution, fixed: Tensor, scale: float) -> TruncatedDistribution:
    """q off the fixed tokens, renormalised: ``m / ((1 - m) s + m)`` is missing, s the kept mass that is left.

    ``probs`` is times ``scale``, ``cap``, which only compares, is not.
    """
    left = q.probs.masked_fill(fixed, 0.0)
    s = left.sum(-1)
    safe = torch.where(s > 0, s, torch.ones_like(s))
    low, high = (torch.where(mass > 0, mass / ((1 - mass) * s + mass), 0.0) for mass in (q.low, q.high))
    return TruncatedDistribution(left * scale / safe[:, None], q.kept | fixed, low, high, q.cap / safe, q.slack)


def _open(q: TruncatedDistribution, m: int) -> tuple[Tensor, Tensor]:
    """Rows whose m most probable tokens cannot be told for sure, and those of the m that can ``[B, V]``."""
    none = torch.zeros_like(q.kept)
    if m == 0:
        return none[:, 0], none
    size = min(m + 1, q.probs.shape[1])
    top, index = q.probs.topk(size, -1)
    top = torch.nn.functional.pad(top, (0, m + 1 - size))
    index = torch.nn.functional.pad(index, (0, m + 1 - size))
    margin = torch.exp(2 * q.slack)[:, None]
    # Strictly: a tie with an unknown token would be broken by their places in the vocabulary.
    outranks = (top[:, :m] * (1 - 1e-12) > q.cap[:, None] * margin) | (q.high <= 0)[:, None]
    clear = (top[:, :m] >= top[:, 1:] * margin) & outranks & (top[:, :m] > 0)
    # The first j tokens are sure if the j-th is clear of the next, whatever the order among them.
    rank = torch.arange(1, m + 1, device=top.device)
    count = (clear * rank).amax(-1)
    some = min(m, q.probs.shape[1])
    sure = none.scatter(-1, index[:, :some], ((rank <= count[:, None]) & (top[:, :m] > 0))[:, :some])
    exact = (q.high <= 0) & (q.slack <= 0)
    return ~exact & (count < m), sure


def _solve(target: Tensor, rates: Tensor, draws: list[int], replacement: bool, solver: Solver) -> Bound:
    """``1 + min over H (P(H) - Q(H))`` for k draws; no draws make Q = 1 and the empty set the best."""
    name = "with_replacement" if replacement else "without_replacement"
    exhausted = rates.sum(-1) <= 0
    if not bool(exhausted.any()) and min(draws) > 0:
        return solver(Problem(target, rates, tuple(draws), name))
    shape = (len(draws), target.shape[0])
    value = torch.zeros(shape, dtype=torch.float64, device=target.device)
    low, high, size = value.clone(), value.clone(), torch.zeros(shape, dtype=torch.int64, device=target.device)
    slots = [i for i, k in enumerate(draws) if k > 0]
    rows = (~exhausted).nonzero()[:, 0]
    if slots and len(rows):
        found = solver(Problem(target[rows], rates[rows], tuple(draws[i] for i in slots), name))
        for at, slot in enumerate(slots):
            low[slot, rows], high[slot, rows] = found.low[at], found.high[at]
            value[slot, rows], size[slot, rows] = found.value[at], found.subset_size[at]
    return Bound(value, low, high, size, Problem(target, rates, tuple(draws), name), "intervals")


__all__ = ["PARTS", "TruncatedDistribution", "solve_cut", "whole_distribution"]
