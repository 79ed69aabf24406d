"""The search without replacement in torch, for any device: outer approximation of the convex curve Q along a sort.

The same idea as :mod:`mdsd_bounds.bounds.search.compiled_search`, whole batches at a time and without cells: the
tokens are sorted by p/q (quick on a GPU), and instead of evaluating ``Q(H)`` on every prefix, Q is evaluated on a few.
Between two evaluated prefixes the chord lies above the convex Q (proof in
:mod:`mdsd_bounds.bounds.search.exponential_race_kernel`), so ``f
>= P - chord``; P is
convex with slopes p/q, so the right side is lowest where p/q passes the chord's slope, one binary search.  There Q is
evaluated next, for all n at once, until no block of any row can hold less than its best value minus
:data:`TOLERANCE`.

Q comes from formula (2) of :mod:`mdsd_bounds.bounds.search.exponential_race` (trapezoid rule, control variate, its
error bounds); the counts from power sums of light tokens and a convolution of the heavy ones, with the truncation and
rounding bounds of
:mod:`mdsd_bounds.bounds.search.exponential_race_kernel`.  Prefix sums go by blocks, so r is ``(512 + V/512 + 2) u``
here; the control variate adds n + 4 to the factor of r.  Memory: about 20 arrays ``[B, V]``; batches are cut into
slices.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.compiled_search import scan_rest
from mdsd_bounds.bounds.search.exponential_race import (
    CUT,
    _node_range,
    outside_top,
    prefix_sum,
    suffix_sum,
    sum_rounding,
    trapezoid_step,
)
from mdsd_bounds.bounds.search.power_sums import ORDER, power_weights, sensitivity
from mdsd_bounds.bounds.search.prefix_scan import prefix_order
from mdsd_bounds.problem import Bound, Problem
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import fixed_mask, leftover, remainder

#: What the search may leave open, and the most draws it treats.
TOLERANCE = 2e-10
DRAWS = 8
#: Largest truncation error; tokens are convolved one by one until it is met.
TRUNCATION = 3e-10
#: Prefixes evaluated in each round, and rounds after which a row goes to the full scan.
ROUND = 16
ROUNDS = 80
_HEAVY = 512
_SLICE = 2_000_000


def solve_outer(problem: Problem) -> Bound:
    """Optimal acceptance rate by this search for 2 to 8 random draws without replacement, else by the prefix scan.

    Parameters and errors as :func:`mdsd_bounds.bounds.search.prefix_scan.solve_prefix`; rows on any device.

    Returns
    -------
    Bound
        Fields ``[N, B]``, within 1e-9 of the prefix scan.
    """
    sampler = get_sampler(problem.sampler)
    splits = sampler.splits(problem.n_drafts, problem.options, "method 'outer'")
    shape, device = (len(splits), problem.p.shape[0]), problem.p.device
    value, low, high = (torch.full(shape, float("nan"), dtype=torch.float64, device=device) for _ in range(3))
    size = torch.zeros(shape, dtype=torch.int64, device=device)
    solved = torch.zeros(shape, dtype=torch.bool)
    groups = sorted({m for m, k in splits if 2 <= k <= DRAWS}) if not sampler.replacement else []
    orders: dict[int, list[Tensor]] = {m: [] for m in groups}
    slots_of = {m: [i for i, (f, k) in enumerate(splits) if f == m and 1 <= k <= DRAWS] for m in groups}
    rows = max(1, _SLICE // problem.p.shape[1])
    for m in groups:
        slots = slots_of[m]
        draws = [splits[i][1] for i in slots]
        for first in range(0, shape[1], rows):
            part = slice(first, first + rows)
            best, least, error, length, order, usable = _search_rows(problem.p[part], problem.q[part], m, draws)
            value[slots, part], size[slots, part] = 1.0 + best, length
            low[slots, part], high[slots, part] = 1.0 + least - error, 1.0 + best + error
            solved[slots, part] = usable.cpu().expand(len(slots), -1)
            orders[m].append(order)
    if problem.mass_error is not None:
        low, high = low - problem.mass_error, high + problem.mass_error
    value, low, high = value.clamp(0.0, 1.0), low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)
    scans = scan_rest(problem, solved, value, low, high, size)

    def make_subset() -> Tensor:
        mask = torch.zeros((*shape, problem.p.shape[1]), dtype=torch.bool, device=device)
        rank = torch.arange(problem.p.shape[1], device=device)
        for m, slots in slots_of.items():
            for slot in slots:
                mask[slot].scatter_(-1, torch.cat(orders[m]), rank < size[slot][:, None])
        for slots, where, bound in scans:
            assert bound.make_subset is not None
            mask[torch.tensor(slots)[:, None], where] = bound.make_subset()
        return mask

    return Bound(value, low, high, size, problem, "outer", make_subset=make_subset)


def _search_rows(
    p: Tensor, q: Tensor, m: int, draws: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Minimum of ``P - Q`` for rows without replacement, m fixed tokens and ``draws`` random ones.

    Parameters
    ----------
    p, q : Tensor
        ``[B, V]`` float64.
    m : int
        Fixed tokens.
    draws : list of int
        Each in 1..8, the largest at least 2.

    Returns
    -------
    best, low, error : Tensor
        ``[N, B]``: the smallest value found, a lower bound on all others, and the error of each evaluation.
    length : Tensor
        ``[N, B]`` int64, tokens of the minimising prefix.
    order : Tensor
        ``[B, V]`` the prefix order.
    usable : Tensor
        ``[B]`` bool: False where the row must go to the full scan (support of at most ``max(draws)`` tokens, masses
        below 1e-100, more than 512 heavy tokens).
    """
    most = max(draws)
    fixed = fixed_mask(q, m)
    r = remainder(q, fixed)
    order = prefix_order(p, leftover(q, fixed), fixed)
    rates, target = r.gather(-1, order), p.gather(-1, order)
    # Infinite where a ratio overflows: such tokens are in no H that matters while ``spare`` is what it must be below.
    ratio = torch.where(rates > 0, target / rates, float("inf"))
    ratio = ratio.masked_fill(torch.arange(p.shape[1], device=p.device) < fixed.sum(-1, keepdim=True), -1.0)
    support = (rates > 0).sum(-1)
    shape = (len(draws), p.shape[0])
    best, low, error = (torch.zeros(shape, dtype=torch.float64, device=p.device) for _ in range(3))
    length = torch.zeros(shape, dtype=torch.int64, device=p.device)
    usable = support > most
    if p.shape[1] > most:
        spare = outside_top(rates, rates.topk(most, -1).values, most)
        usable &= spare[:, most - 1] > 1e-100
    rows = usable.nonzero()[:, 0]
    if not len(rows):
        return best, low, error, length, order, usable
    curve = _Curve(rates[rows], spare[rows], support[rows], most)
    prefix = prefix_sum(target[rows])
    held = fixed.sum(-1)[rows]
    found = _search(curve, prefix, ratio[rows], held, held + support[rows], draws)
    best[:, rows], low[:, rows], length[:, rows], done = found
    extra = torch.tensor([sensitivity(n) + n + 6 for n in draws], dtype=torch.float64, device=p.device)[:, None]
    error[:, rows] = curve.error + extra * sum_rounding(p.shape[1])
    usable[rows] &= done & curve.usable
    return best, low, error, length, order, usable


class _Curve:
    """``Q_n`` of any prefixes of sorted rows ``[B, V]``."""

    def __init__(self, rates: Tensor, spare: Tensor, support: Tensor, most: int) -> None:
        self.most, self.spare = most, spare
        self.inside, self.outside = prefix_sum(rates), suffix_sum(rates)
        self.step, trapezoid = trapezoid_step(most)
        start, stop = _node_range(spare, support, list(range(2, most + 1)))
        nodes = int(torch.ceil((stop - start) / self.step).max()) + 2
        grid = start[:, None] + self.step * torch.arange(nodes, dtype=torch.float64, device=rates.device)
        # A row whose range ends early gets no further nodes: results must not depend on the batch.
        self.live = (grid <= stop[:, None] + self.step).to(torch.float64)
        self.times = torch.exp(torch.minimum(grid, stop[:, None] + self.step))
        last = self.times[:, -1:]
        counts = torch.arange(1, most + 1, dtype=torch.float64, device=rates.device)
        self.fewer = torch.special.gammaincc(
            counts.expand(*grid.shape, most), (self.times[..., None] * spare[:, None, :most]).clamp(max=1e300)
        )
        scaled = rates * last
        light, truncation = self._light(scaled)
        heavy = scaled > light
        self.usable = heavy.sum(-1) <= _HEAVY
        self.error = trapezoid + 5 * CUT + truncation + 1e-12
        scaled = scaled.masked_fill(heavy, 0.0)
        self.power = torch.stack([prefix_sum(scaled**k) for k in range(1, ORDER + 1)], -1)
        self.passed = torch.nn.functional.pad(heavy.to(torch.int64).cumsum(-1), (1, 0)).clamp(max=_HEAVY)
        self.reach = self.times / last
        self.table = self._convolve(rates, heavy)

    def _light(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Largest ``q T`` of a light token per row ``[B, 1]``, halved until the truncation error ``[B]`` is small."""
        light = torch.full((len(scaled), 1), 0.25, dtype=torch.float64, device=scaled.device)
        weight = self.live * self.step * (self.times * self.fewer[..., -1]).clamp(max=1 / math.e)
        rest = power_weights()[1]
        while True:
            eighth = torch.where(scaled <= light, scaled, 0.0).pow(ORDER).sum(-1, keepdim=True)
            factor = sum(float(rest[k]) * light ** (k - ORDER) for k in range(ORDER + 1, len(rest)))
            change = torch.expm1((eighth * factor * (self.times / self.times[:, -1:]) ** (ORDER + 1)).clamp(max=50.0))
            error = (weight * change).sum(-1)
            wide = error > TRUNCATION
            if not bool(wide.any()):
                return light, error
            light = torch.where(wide[:, None], light / 2, light)

    def _convolve(self, rates: Tensor, heavy: Tensor) -> Tensor:
        """``[B, K + 1, G, n]``: probability of at most j arrivals among the first heavy tokens, by each node."""
        count = min(int(heavy.sum(-1).max()), _HEAVY)
        index = (~heavy).to(torch.uint8).sort(dim=-1, stable=True).indices[:, :count]
        chosen = rates.gather(-1, index).masked_fill(~heavy.gather(-1, index), 0.0)
        probs = torch.zeros((*self.times.shape, self.most), dtype=torch.float64, device=rates.device)
        probs[..., 0] = 1.0
        steps = [probs.cumsum(-1)]
        for i in range(count):
            x = (chosen[:, i : i + 1] * self.times)[..., None]
            probs = probs * torch.exp(-x) - torch.nn.functional.pad(probs[..., :-1], (1, 0)) * torch.expm1(-x)
            steps.append(probs.cumsum(-1))
        return torch.stack(steps, 1)

    def at(self, place: Tensor, draws: list[int]) -> Tensor:
        """``[N, B, K]``: Q of the prefixes of ``place`` ``[B, K]`` tokens."""
        power = self.power.gather(1, place[..., None].expand(-1, -1, ORDER))[:, :, None]
        c, x = self.outside.gather(1, place)[..., None], self.inside.gather(1, place)
        powers = power * self.reach[:, None, :, None] ** torch.arange(1, ORDER + 1, device=place.device)
        weights = torch.from_numpy(power_weights()[0]).to(place.device)
        sums = powers @ weights[1:, 1:].T
        rung = [torch.exp(-powers[..., 0])]
        for k in range(1, self.most):
            terms = [(-1.0) ** (j - 1) * sums[..., j - 1] * rung[k - j] for j in range(1, k + 1)]
            rung.append(functools.reduce(torch.add, terms) / k)
        row = torch.arange(len(place), device=place.device)[:, None]
        heavy = self.table[row, self.passed.gather(1, place)]
        waiting = c * self.times[:, None]
        weight = self.live[:, None] * self.step * waiting * torch.exp(-waiting)
        answer = []
        for n in draws:
            fewer = functools.reduce(torch.add, [rung[j] * heavy[..., n - 1 - j] for j in range(n)])
            control = (self.spare[:, n - 1 : n] / (self.spare[:, n - 1 : n] + c[..., 0])) ** n
            integral = (weight * (self.fewer[:, None, :, n - 1] - fewer)).sum(-1)
            answer.append(x if n == 1 else (control + integral).clamp(0.0, 1.0))
        return torch.stack(answer)


def _search(
    curve: _Curve, target: Tensor, ratio: Tensor, first: Tensor, final: Tensor, draws: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best value, lower bound and place ``[N, B]`` between two prefixes of each row; which rows are done."""
    place = torch.stack([first, final], 1)
    value = torch.zeros((len(draws), *place.shape), dtype=torch.float64, device=place.device)
    value[..., 1] = 1.0
    row = torch.arange(len(place), device=place.device)[:, None]
    for _ in range(ROUNDS):
        height = target.gather(1, place) - value
        best, where = height.min(-1)
        a, b = place[:, :-1], place[:, 1:]
        span = _between(curve, row, a, b)
        slope = torch.where(span > 0, value.diff(dim=-1) / span, torch.zeros_like(span))
        flat = slope.transpose(0, 1).reshape(len(place), -1).contiguous()
        j = torch.searchsorted(ratio, flat).reshape(len(place), len(draws), -1).transpose(0, 1)
        j = torch.minimum(torch.maximum(j, a), b)
        bound = target[row, j] - value[..., :-1] - slope * _between(curve, row, a, j)
        bound = torch.where((j > a) & (j < b), bound, torch.minimum(height[..., :-1], height[..., 1:]))
        short = (best - TOLERANCE)[..., None] - bound
        low = torch.minimum(best, bound.amin(-1))
        if not bool((short > 0).any()):
            break
        worst, slot = short.transpose(0, 1).reshape(len(place), -1).topk(min(ROUND, short[:, 0].numel()), -1)
        new = j.transpose(0, 1).reshape(len(place), -1).gather(-1, slot)
        # Rows without so many open blocks repeat a prefix that they hold.
        new = torch.where(worst > 0, new, place[:, :1])
        fresh = curve.at(new, draws)
        fresh = torch.where(new == place[:, :1], torch.zeros_like(fresh), fresh)
        place, turn = torch.cat([place, new], 1).sort(dim=1, stable=True)
        value = torch.cat([value, fresh], -1).gather(-1, turn.expand(len(draws), -1, -1))
    done = ~(short > 0).any(-1).any(0)
    return best, low, place.gather(1, where.transpose(0, 1)).transpose(0, 1), done


def _between(curve: _Curve, row: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mass of q between two prefixes, from the side on which it does not cancel."""
    inside = curve.inside[row, b] - curve.inside[row, a]
    return torch.where(curve.inside[row, b] < 0.5, inside, curve.outside[row, a] - curve.outside[row, b])
