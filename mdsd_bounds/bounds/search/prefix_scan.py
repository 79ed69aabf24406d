"""The plain scan: sort by p/q, evaluate ``P(H) - Q(H)`` on every prefix, take the smallest.

For a sampler of the fixed-plus-random family (:mod:`mdsd_bounds.samplers.base`), A fixed tokens and k draws from
r = q off A,

    ``alpha* = 1 + P(A) + min over prefixes H' of (P(H') - Q'(H'))``,

prefixes of the tokens off A by p/r ascending: p = 0 first, tokens with r = 0 never (Hu et al., ICLR 2025, arXiv
2502.18779, theorem on the optimal subset; the fixed tokens are in every H with Q(H) > 0).  ``Q'`` is ``r(H')^k`` with
replacement and :func:`mdsd_bounds.bounds.search.exponential_race.race_prefix_mass` without.  All numbers of drafts
that share A share the sort and the quadrature.  Cost O(V log V) with replacement, O(V n G) without, G quadrature nodes.
This scan is the reference that faster methods must equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.exponential_race import prefix_sum, race_prefix_mass, sum_rounding
from mdsd_bounds.problem import Bound, InputError, Problem
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import RAISE, fixed_mask, leftover

#: Largest number of draws for which the quadrature's error budget was worked out and tested.
_MAX_DRAWS = 64
#: Entries of one ``[B, V]`` working array; a batch is cut into slices so that a scan needs a few hundred megabytes.
_SLICE = 2_000_000


def solve_prefix(problem: Problem) -> Bound:
    """Optimal acceptance rate by the full prefix scan; exact, with an interval for quadrature and rounding.

    Parameters
    ----------
    problem : Problem
        ``p``, ``q`` ``[B, V]``; a sampler of the fixed-plus-random family.

    Returns
    -------
    Bound
        Fields ``[N, B]``; the subset is rebuilt from the stored order when asked for.

    Raises
    ------
    InputError
        If the sampler has no prefix order, or more than 64 draws are asked for without replacement.
    """
    sampler = get_sampler(problem.sampler)
    splits = sampler.splits(problem.n_drafts, problem.options, "method 'prefix'")
    if not sampler.replacement and any(k > _MAX_DRAWS for _, k in splits):
        raise InputError(
            f"without replacement at most {_MAX_DRAWS} draws are supported; {max(splits)[1]} were asked for"
        )
    shape = (len(splits), problem.p.shape[0])
    value, error = (torch.zeros(shape, dtype=torch.float64, device=problem.p.device) for _ in range(2))
    size = torch.zeros(shape, dtype=torch.int64, device=problem.p.device)
    orders: dict[int, list[Tensor]] = {}
    rows = max(1, _SLICE // problem.p.shape[1])
    for first in range(0, shape[1], rows):
        part = slice(first, first + rows)
        p, q = problem.p[part], problem.q[part]
        for m in sorted({m for m, _ in splits}):
            slots = [i for i, (fixed, _) in enumerate(splits) if fixed == m]
            draws = [splits[i][1] for i in slots]
            best, bad, length, order = _scan(p, q, m, draws, sampler.replacement)
            value[slots, part], error[slots, part], size[slots, part] = best, bad, length
            orders.setdefault(m, []).append(order)

    def make_subset() -> Tensor:
        mask = torch.zeros((*shape, problem.p.shape[1]), dtype=torch.bool, device=problem.p.device)
        for i, (m, _) in enumerate(splits):
            order = torch.cat(orders[m])
            rank = torch.arange(order.shape[1], device=order.device)
            mask[i].scatter_(-1, order, rank < size[i][:, None])
        return mask

    if problem.mass_error is not None:
        error = error + problem.mass_error
    # alpha* is a probability: cutting the interval to [0, 1] only removes values that cannot be.
    low, high = (value - error).clamp(0.0, 1.0), (value + error).clamp(0.0, 1.0)
    value = value.clamp(0.0, 1.0)
    return Bound(value, low, high, size, problem, "prefix", make_subset=make_subset)


def prefix_order(p: Tensor, r: Tensor, fixed: Tensor) -> Tensor:
    """Token indices ``[B, V]``: fixed tokens, then p/r ascending (p = 0 < r first), then tokens with r = 0.

    r of any total.  The ratio to r times 2^64 is finite for every r down to the smallest subnormal number, and is
    rounded once: only below 2^-1022, where all of the ratios together weigh less than 1e-280 of P, are tokens tied.
    """
    ratio = torch.where(r > 0, p / (r * RAISE), torch.full_like(r, float("inf")))
    return ratio.masked_fill(fixed, -1.0).sort(dim=-1, stable=True).indices


def prefix_curves(
    p: Tensor, q: Tensor, m: int, draws: list[int], replacement: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The curves ``P(H)`` ``[B, V+1]`` and ``Q(H)`` ``[N, B, V+1]`` along the prefix order, their error and the order.

    Positions before the fixed tokens are complete have ``Q = 0`` (unless nothing is drawn at random).
    """
    fixed = fixed_mask(q, m)
    # Not normalised: the division would round subnormal rates, whose ratios the later draws depend on.
    r = leftover(q, fixed)
    order = prefix_order(p, r, fixed)
    target = prefix_sum(p.gather(-1, order))
    rates = r.gather(-1, order)
    total = rates.sum(-1, keepdim=True)
    nothing_left = total[:, 0] == 0
    rounding = sum_rounding(p.shape[1])
    if replacement:
        x = prefix_sum(rates) / torch.where(total > 0, total, torch.ones_like(total))
        mass = torch.stack([x.clamp(max=1.0).pow(k) for k in draws])
        error = rounding * torch.tensor(draws, dtype=torch.float64, device=p.device)[:, None].expand(-1, p.shape[0])
    else:
        safe = torch.where(nothing_left[:, None], torch.ones_like(rates), rates)
        mass, error = race_prefix_mass(safe, draws)
    held = fixed.sum(-1)
    complete = torch.arange(p.shape[1] + 1, device=p.device) >= held[:, None]
    mass = torch.where(nothing_left[:, None], torch.ones_like(mass), mass) * complete
    # A second unit of rounding for P, for the sort's division and for the final difference.
    return target, mass, error + 2 * rounding, order


def _scan(p: Tensor, q: Tensor, m: int, draws: list[int], replacement: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    target, mass, error, order = prefix_curves(p, q, m, draws, replacement)
    best, length = (target - mass).min(-1)
    return 1.0 + best, error, length, order
