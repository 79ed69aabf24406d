"""Sampling without replacement as a race: ``Q(H)`` for every prefix H, by one shared quadrature.

Give token i an exponential arrival time of rate q_i.  The first n arrivals, in order, are n sequential draws without
replacement (memorylessness).  All drafts lie in H exactly when n tokens of H arrive before the first token outside:
with ``c`` the mass outside H and ``N_H(t)`` the number of arrivals in H by time t,

    ``1 - Q_n(H) = integral_0^inf  c e^{-ct} Pr(N_H(t) < n) dt``.                                              (1)

**Control variate.**  With ``W_n`` the mass outside the n - 1 largest q, replace N_H by a Poisson count of rate W_n:
that integral is elementary, ``1 - (W_n / (W_n + c))^n``, so

    ``Q_n(H) = (W_n/(W_n+c))^n + integral c e^{-ct} [ Pr(Poisson(W_n t) < n) - Pr(N_H(t) < n) ] dt``           (2)

whose integrand vanishes like a power of t on the left and faster than exponentially on the right.

**Trapezoid rule** in ``s = log t`` with step h.  On the ray ``t e^{i phi}``, ``|e^{-z}| = e^{-|z| cos phi}`` and
``|1 - e^{-z}| <= (1 - e^{-|z| cos phi}) / cos phi`` (integrate e^{-u} along the ray), so each product
``c t e^{-ct} Pr(N_H(t) = j)``, j < n, is at most ``cos^{-n} phi`` times its value at ``t cos phi``; the same holds for
the Poisson term.  The standard strip bound then gives, for any phi in (0, pi/2),

    ``|error| <= 4 cos^{-n}(phi) / (e^{2 pi phi / h} - 1)``,   best at ``tan phi = 2 pi / (h n)``.              (3)

**Right cut.**  After j < n arrivals the rate still running is at least W_n, so ``e^{-ct} Pr(N_H(t) < n) <=
Pr(fewer than n tokens have arrived) <= Pr(Poisson(W_n t) < n)``.  Both terms of (2), summed over the nodes beyond t_R,
are at most ``h/(1-e^{-h})`` times that probability at t_R, for the left factor is nonincreasing in t.             (4)

**Left cut.**  Let ``W_{i+1}`` be the mass outside the i largest q, i < n.  If H holds those i tokens, ``c <= W_{i+1}``,
and n arrivals need n - i among the rest; if it lacks one, n - i + 1 among the rest.  Hence, while ``W_{i+1} t <= 1``,
``|integrand of (2) in s| <= (W_{i+1} t)^{n-i+1} / (n-i)!``, summing geometrically to less than its value at t_0.  (5)

**Counts.**  Per node, tokens with ``q t <= 1`` are *light*: with odds ``y = e^{qt} - 1`` and x their mass in H,
``Pr(N = j) = e^{-xt} e_j(y)``, and all prefixes of the elementary symmetric polynomials come from cumulative sums,
``e_j(i) = sum_{l<=i} y_l e_{j-1}(l-1)``; every term is positive, so nothing cancels.  At nodes up to t_R the light
tokens carry at most ``X + n`` expected arrivals (``X = W_n t_R``), so nothing overflows.  *Heavy* tokens, at most
``X + n``, are convolved one by one.  Cost: n cumulative sums of length V per node, 40 to 300 nodes.

Formula (1) is ours; the prefix theorem it serves is Hu et al., ICLR 2025 (arXiv 2502.18779), for sampling without
replacement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from scipy.special import gammainccinv
from torch import Tensor

from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.samplers.base import RAISE

#: Error allowed to each cut and to the trapezoid rule.
CUT = 1e-12
TRAPEZOID = 1e-11
_HEAVY = 1.0
_BLOCK = 512


def prefix_sum(x: Tensor) -> Tensor:
    """Sums of all prefixes of the last axis, the empty one first: ``[..., V] -> [..., V + 1]``.

    Summed within blocks of 512 and then over blocks, so that for non-negative ``x`` the relative error of each entry is
    at most ``(512 + V/512) u``, not ``V u``.
    """
    size = x.shape[-1]
    if size <= _BLOCK:
        return torch.nn.functional.pad(x.cumsum(-1), (1, 0))
    blocks = -(-size // _BLOCK)
    padded = torch.nn.functional.pad(x, (0, blocks * _BLOCK - size)).reshape(*x.shape[:-1], blocks, _BLOCK)
    within = padded.cumsum(-1)
    before = torch.nn.functional.pad(within[..., -1].cumsum(-1), (1, 0))[..., :-1]
    flat = (within + before[..., None]).reshape(*x.shape[:-1], blocks * _BLOCK)[..., :size]
    return torch.nn.functional.pad(flat, (1, 0))


def suffix_sum(x: Tensor) -> Tensor:
    """Sums of what each prefix leaves out, ``[..., V] -> [..., V + 1]``; never formed as one minus the prefix."""
    return prefix_sum(x.flip(-1)).flip(-1)


def sum_rounding(size: int) -> float:
    """Relative error bound of an entry of :func:`prefix_sum` of ``size`` non-negative terms."""
    return (_BLOCK + size / _BLOCK + 2) * rounding_unit()


def race_prefix_mass(q: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``Q_n(H)`` of sampling without replacement for every prefix H of the given token order.

    Parameters
    ----------
    q : Tensor
        ``[B, V]`` float64 rates in the order whose prefixes are wanted; any positive total.
    counts : sequence of int
        Numbers of draws n, each at least 0.

    Returns
    -------
    mass : Tensor
        ``[len(counts), B, V + 1]``, the empty prefix first.
    error : Tensor
        ``[len(counts), B]``: bound on the absolute error of every entry of the row (quadrature, cuts, rounding).

    Notes
    -----
    n = 0, 1, 2 are closed forms (``1``, ``x``, ``x - c sum_H q/(1-q)``); the rest share one quadrature.  With at most n
    tokens in the support all of them are drafted: Q = 1 on prefixes that hold the whole support, else 0.
    """
    # Raised by a power of two and never normalised: a division would round subnormal rates, and only ratios matter.
    q = q * RAISE
    total = q.sum(-1, keepdim=True)
    prefix, outside = prefix_sum(q), suffix_sum(q)
    rounding = sum_rounding(q.shape[-1])
    mass = torch.empty((len(counts), *prefix.shape), dtype=q.dtype, device=q.device)
    error = torch.zeros((len(counts), q.shape[0]), dtype=q.dtype, device=q.device)
    support = (q > 0).sum(-1)
    top = q.topk(min(max(max(counts), 1), q.shape[-1]), -1).values
    by_quadrature = []
    for slot, n in enumerate(counts):
        if n == 0:
            mass[slot] = 1.0
        elif n == 1:
            mass[slot], error[slot] = prefix / total, rounding
        elif n == 2:
            mass[slot], error[slot] = _pair_mass(q, total, prefix, outside), 6 * rounding
        elif bool((support > n).any()):
            by_quadrature.append((slot, n))
        exhausted = (support <= n) & (n > 0)
        mass[slot, exhausted] = (outside[exhausted] == 0).to(q.dtype)
        error[slot, exhausted] = 0.0
    if by_quadrature:
        todo = (support > min(n for _, n in by_quadrature)).nonzero()[:, 0]
        if len(todo):
            rates, c, held = q[todo], outside[todo], support[todo]
            for slot, n, values, bound in _quadrature(rates, c, top[todo], held, by_quadrature):
                wanted = held > n
                mass[slot, todo[wanted]] = values[wanted]
                error[slot, todo[wanted]] = bound
    return mass.clamp_(0.0, 1.0), error


def _pair_mass(q: Tensor, total: Tensor, prefix: Tensor, outside: Tensor) -> Tensor:
    # The largest token apart: 1 - q cancels where q is near one, and its odds may overflow where the rest is tiny.
    largest = q.argmax(-1, keepdim=True)
    odds = (q / (total - q)).scatter(-1, largest, 0.0)
    others = q.scatter(-1, largest, 0.0).sum(-1, keepdim=True)
    passed = torch.arange(outside.shape[-1], device=q.device) > largest
    share = torch.where(passed & (others > 0), outside / others, torch.zeros_like(outside))
    return (prefix - outside * prefix_sum(odds) - q.gather(-1, largest) * share) / total


def _quadrature(
    q: Tensor, c: Tensor, top: Tensor, support: Tensor, wanted: list[tuple[int, int]]
) -> list[tuple[int, int, Tensor, float]]:
    """Formula (2) for rows ``q`` ``[B, V]``: ``(slot, n, Q [B, V + 1], error)`` for each wanted count."""
    largest = max(n for _, n in wanted)
    step, trapezoid = trapezoid_step(largest)
    spare = outside_top(q, top, largest)
    start, stop = _node_range(spare, support, [n for _, n in wanted])
    nodes = int(torch.ceil((stop - start).amax() / step)) + 1
    totals = {n: torch.zeros_like(c) for _, n in wanted}
    for g in range(nodes):
        # A row whose range ends early would reach times its counts cannot bear: it adds zero from there on.
        log_t = torch.minimum(start + g * step, stop + step)[:, None]
        live = (start + g * step <= stop + step)[:, None]
        waiting = _times(c, log_t)
        weight = torch.where(live, step * waiting * torch.exp(-waiting), torch.zeros_like(waiting))
        light, heavy, segment = _arrivals(_times(q, log_t), largest)
        for _, n in wanted:
            inside = light[0] * heavy[n - 1].gather(-1, segment)
            for j in range(1, n):
                inside = inside + light[j] * heavy[n - 1 - j].gather(-1, segment)
            poisson = torch.special.gammaincc(torch.full_like(log_t, float(n)), _times(spare[:, n - 1 : n], log_t))
            totals[n] += weight * (poisson - inside)
    answers = []
    reach = float(gammainccinv(largest, CUT)) + 4 * largest + 16
    rounding = 4 * sum_rounding(q.shape[-1]) * reach + 64 * nodes * rounding_unit()
    for slot, n in wanted:
        rate = spare[:, n - 1 : n]
        control = (rate / (rate + c)).pow(n)
        answers.append((slot, n, control + totals[n], trapezoid + 5 * CUT + rounding))
    return answers


def _times(rate: Tensor, log_t: Tensor) -> Tensor:
    """``rate * t``, at most 1e300, for times that would overflow by themselves (rates down to the subnormals)."""
    half = torch.exp(log_t / 2)
    return (rate * half * half).clamp(max=1e300)


def _arrivals(rate: Tensor, largest: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Arrivals where ``rate = q t`` ``[B, V]``: light ones per prefix, heavy ones per number passed.

    Returns ``light[j] [B, V+1] = Pr(j light arrivals)``, ``heavy[j] [B, S+1] = Pr(at most j heavy arrivals)`` after the
    first S heavy tokens of the order, and the number of heavy tokens ``segment`` ``[B, V+1]`` in each prefix.
    """
    is_heavy = rate > _HEAVY
    light_rate = rate.masked_fill(is_heavy, 0.0)
    odds = torch.expm1(light_rate)
    none = torch.exp(-prefix_sum(light_rate))
    symmetric = torch.ones_like(none)
    light = [none]
    for _ in range(1, largest):
        symmetric = prefix_sum(odds * symmetric[:, :-1])
        light.append(none * symmetric)
    segment = torch.nn.functional.pad(is_heavy.to(torch.int64).cumsum(-1), (1, 0))
    count = int(segment[:, -1].max())
    # Heavy tokens of each row in prefix order; a stable sort puts them first without disturbing that order.
    index = (~is_heavy).to(torch.uint8).sort(dim=-1, stable=True).indices[:, :count] if count else segment[:, :0]
    rates = rate.gather(-1, index).masked_fill(~is_heavy.gather(-1, index), 0.0)
    probs = torch.zeros((rate.shape[0], largest), dtype=rate.dtype, device=rate.device)
    probs[:, 0] = 1.0
    survive, arrived = (torch.split(x, 1, -1) for x in (torch.exp(-rates), -torch.expm1(-rates)))
    steps = [probs]
    for s in range(count):
        probs = probs * survive[s] + torch.nn.functional.pad(probs[:, :-1], (1, 0)) * arrived[s]
        steps.append(probs)
    heavy = torch.stack(steps, 1).cumsum(-1)
    return light, [heavy[:, :, j].contiguous() for j in range(largest)], segment


@cache
def trapezoid_step(n: int, tolerance: float = TRAPEZOID, factor: float = 4.0) -> tuple[float, float]:
    """Largest step h whose error bound (3) is below ``tolerance``, and that bound.

    ``factor`` is the constant of (3): 4 for a difference of two terms, 2 for one.
    """

    def error(h: float) -> float:
        phi = math.atan(2 * math.pi / (h * n))
        exponent = 2 * math.pi * phi / h
        return factor * math.exp(-n * math.log(math.cos(phi)) - exponent) / -math.expm1(-exponent)

    low, high = 0.001, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) <= tolerance else (low, middle)
    return low, error(low)


# For whole batches on any device; :func:`mdsd_bounds.bounds.search.ratio_cells.outside_largest` is the same for one row
# inside a compiled kernel.
def outside_top(q: Tensor, top: Tensor, largest: int) -> Tensor:
    """``W_1 .. W_largest`` ``[B, largest]``: mass outside the 0, 1, ... largest q, summed over what is left.

    ``top`` ``[B, k]`` are the largest q of each row in descending order, ``k >= largest - 1``.
    """
    held = top[:, : largest - 1]
    floor = held[:, -1:] if held.shape[1] else q.new_full((q.shape[0], 1), float("inf"))
    # Everything not among the held ones; ties with the smallest of them are counted out again.
    rest = q.masked_fill(q >= floor, 0.0).sum(-1, keepdim=True)
    tied = (q == floor).sum(-1, keepdim=True) - (held == floor).sum(-1, keepdim=True)
    rest = rest + torch.where(torch.isfinite(floor), tied * floor, torch.zeros_like(floor))
    tail = torch.cat([rest, held.flip(-1)], -1).cumsum(-1).flip(-1)
    return tail[:, :largest]


def _node_range(spare: Tensor, support: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """First and last ``log t`` per row such that cuts (4) and (5) hold for every count with a quadrature."""
    start = torch.full_like(spare[:, 0], float("inf"))
    stop = torch.full_like(start, -float("inf"))
    for n in counts:
        needed = support > n
        right = math.log(float(gammainccinv(n, CUT))) - spare[:, n - 1].log()
        left = torch.full_like(start, -float("inf"))
        for i in range(n):
            exponent = (math.log(CUT) + math.lgamma(n - i + 1)) / (n - i + 1)
            left = torch.maximum(left, min(exponent, 0.0) - spare[:, i].log())
        start = torch.where(needed, torch.minimum(start, left), start)
        stop = torch.where(needed, torch.maximum(stop, right), stop)
    return start, stop
