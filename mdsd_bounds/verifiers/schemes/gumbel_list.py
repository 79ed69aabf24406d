"""Gumbel list matching (Rowan et al., 2025): the target and the drafts race on shared exponential arrival times.

With independent ``S_ik ~ Exp(1)``, i a token and k a draft: ``x_k = argmin_i S_ik / q_i`` and ``y = argmin_i min_k S_ik
/ p_i``.  ``min_k S_ik`` is exponential of rate n for every i, so y has distribution p: lossless, and the same whatever
the order of the drafts.  A step rebuilds the arrival times from their distribution given the drafts.

**Everything in one integral** [the derivation is ours].  Let ``c(r) = sum_j (q_j r - p_j)_+``, ``r_i = p_i / q_i`` and
``G(t, r) = t * integral from r to infinity of e^{-t c(u)} du``.  Let y = i be decided by draft k at ``S_ik = p_i t``; t
has the density ``p_i e^{-nt}`` for each k and i.  All other times are then ``S_jl = p_j t + Exp(1)``, independent.
In a column l != k draft j wins when ``S_jl / q_j = u t`` is the least for some u, so with probability

    ``g_j = integral of q_j t e^{-t c(u)} du over u > r_j = q_j G(t, r_j)``;

in column k token i arrives at ``u = r_i`` for certain: it wins if nobody else is earlier, with probability ``e^{-t
c(r_i)}``, and token j with ``q_j (G(t, r_j) - G(t, r_i))_+``.  Hence

    ``Pr(x_1..x_n, y = i) = integral of p_i e^{-nt} sum_k h_i(x_k) prod_{l != k} g_{x_l} dt``,
    ``acceptance = sum_i p_i integral of n e^{-nt} [1 - (1 - e^{-t c(r_i)}) (1 - q_i G(t, r_i))^{n-1}] dt``.

c is piecewise linear, so G is a suffix sum over tokens sorted by p/q.  The integrand is analytic in the right
half-plane and the trapezoid rule in log t converges like ``e^{-pi^2/h}``.

**Error of a rate.**  What is integrated is the mass that is missed, ``n t e^{-nt} m(t)`` over s = log t with
``m = sum_i p_i (1 - e^{-t c_i}) (1 - q_i G_i)^{n-1}``; it is taken from ``P(q > 0)``.  On the ray ``t e^{i phi}``,
``|e^{-z}| = e^{-|z| cos phi}`` and ``|1 - e^{-z}| <= (1 - e^{-|z| cos phi}) / cos phi``.  With ``a(u) = q_i / c'(u)``,
at most one beyond r_i and falling, ``1 - q_i G_i = (1 - a(r_i)) + a(r_i) (1 - e^{-t c(r_i)}) + integral of e^{-t c(u)}
(-da(u))`` is a sum of such terms.  So the integrand on the ray is at most ``cos^{-n-1}(phi)`` times its value at
``t cos phi``, whose integral is at most one, and formula (3) of :mod:`mdsd_bounds.bounds.search.exponential_race`, for
n + 1 in place of n, bounds the error of the rule.  The nodes before t_0 add up to at most ``n t_0 sum_i p_i min(1, t_0
c_i)``, since m grows and is at most that sum; t_0 is chosen for each row so that this is below :data:`CUT`.  The nodes
beyond t = 38 add up to less than 1e-15.  With V u for the rounding of sums over the row (u = 2^-53), **a rate is right
to 1e-12 + V u**.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.exponential_race import trapezoid_step
from mdsd_bounds.problem import Option
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.kernels.dispatch import compiled_for, compiled_step

#: Step of the trapezoid rule in log t for the distribution.
FINE = 0.2
#: Error allowed to the trapezoid rule of a rate, and to what is left out before its first node.
TRAPEZOID, CUT = 5e-13, 2e-13
_LEFT, _RIGHT = -34.0, 3.65
#: Draft probabilities up to this count as zero: the times that decide such a draft are beyond the floating point range.
NEVER = 1e-250
_NODES_AT_ONCE = 2_000_000


def _nodes(step: float, like: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Times t ``[G]`` and weights ``step * t``; the first time is moved by the factor ``e^shift``."""
    t = torch.arange(_LEFT + shift, _RIGHT, step, dtype=like.dtype, device=like.device).exp()
    return t, step * t


def rate_nodes(races: _Races, mass: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Nodes of one row's rates for up to ``most`` drafts: as many as the error stated above asks for."""
    step, _ = trapezoid_step(most + 1, TRAPEZOID)
    # Latest possible first: what is left out falls with t_0, and e^-40 is early enough whatever c is.
    for first in range(-8, -40, -2):
        start = math.exp(first)
        if most * start * float(mass @ (start * races.c).clamp(max=1.0)) <= CUT:
            break
    t = torch.arange(float(first), _RIGHT + step, step, dtype=mass.dtype, device=mass.device).exp()
    return t, step * t


def _chunks(nodes: int, size: int) -> list[slice]:
    step = max(1, _NODES_AT_ONCE // size)
    return [slice(first, min(first + step, nodes)) for first in range(0, nodes, step)]


class _Races:
    """One row sorted by p/q over the tokens that can be drafted: c at every token, and G at every (time, token)."""

    def __init__(self, p: Tensor, q: Tensor) -> None:
        held = (q > NEVER).nonzero()[:, 0]
        ratio, order = (p[held] / q[held]).sort(stable=True)
        self.token = held[order]
        self.q = q[self.token]
        self.slope = self.q.cumsum(0)
        # c is built of positive steps: its value at one breakpoint plus slope times distance.
        self.rise = torch.cat([self.slope[:-1] * ratio.diff(), ratio.new_full((1,), float("inf"))])
        self.c = torch.cat([ratio.new_zeros(1), self.rise[:-1].cumsum(0)])

    def curves(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``e^{-t c(r)}`` and ``G(t, r)`` at the sorted tokens, both ``[len(t), tokens]``.

        A segment of slope s from c to c' adds ``(e^{-tc} - e^{-tc'}) / s``, taken without cancellation.
        """
        stay = torch.exp(-t[:, None] * self.c)
        pieces = torch.expm1(-t[:, None] * self.rise).mul_(stay).div_(-self.slope)
        return stay, pieces.flip(-1).cumsum(-1).flip(-1)


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the drafts, by the integral above.  O(G n V) per row, G at least 190.

    Rows that are one row expanded share their curves.
    """
    if p.shape[0] > 1 and p.stride(0) == 0 and q.stride(0) == 0:
        return _distributions_given(p[0], q[0], drafts)
    return torch.cat([_distributions_given(p[b], q[b], drafts[b : b + 1]) for b in range(p.shape[0])])


def _distributions_given(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """Distributions ``[R, V]`` of the output of one row ``[V]`` given each of the drafts ``[R, n]``.

    Drafts that never occur (:data:`NEVER`) tell nothing: the distribution given them is p.
    """
    never = (q[drafts] <= NEVER).any(-1)
    if bool(never.any()):
        distributions = p.expand(len(drafts), -1).clone()
        if not bool(never.all()):
            distributions[~never] = _distributions_given(p, q, drafts[~never])
        return distributions
    rows, n = drafts.shape
    races = _Races(p, q)
    place = torch.full((len(p),), -1, dtype=torch.int64, device=p.device)
    place[races.token] = torch.arange(len(races.token), device=p.device)
    drawn = place[drafts]
    # Given a draft of probability q_x the times that matter are of the order of q_x.
    t, weight = _nodes(FINE, p, float(q[drafts].min().log()))
    probs = p.new_zeros((rows, len(p)))
    for part in _chunks(len(t), len(p) * n * rows):
        stay, g = races.curves(t[part])
        # Tokens that cannot be drafted never win a race of drafts: r = infinity, G = 0.
        late = p.new_zeros((len(stay), len(p)))
        late[:, races.token] = g
        here, certain = g[:, drawn], stay[:, drawn] / q[drafts]
        for k in range(n):
            others = torch.cat([here[..., :k], here[..., k + 1 :]], -1).prod(-1)
            own = (here[..., k, None] - late[:, None]).clamp(min=0.0)
            own.scatter_(-1, drafts[:, k].expand(len(stay), -1)[..., None], certain[..., k, None])
            probs += torch.einsum("g,gr,grv->rv", weight[part] * torch.exp(-n * t[part]), others, own)
    return probs * p


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """Output tokens ``[B]``: arrival times drawn given the drafts, then the target's race.  O(nV).

    Compiled, only the first arrival of the target's race is drawn, not every time.
    """
    quick = compiled_step("gumbel_steps", p, q, drafts, generator)
    if quick is not None:
        return quick
    best = torch.full_like(p, float("inf"))
    for k in range(drafts.shape[1]):
        best = torch.minimum(best, _given_arrivals(q, drafts[:, k], generator))
    return torch.where(p > 0, best / torch.where(p > 0, p, torch.ones_like(p)), float("inf")).argmin(-1)


def _given_arrivals(q: Tensor, draft: Tensor, generator: torch.Generator | None) -> Tensor:
    """Arrival times ``[B, V]`` of one column given that ``draft`` won its race: ``q_i M`` plus, for the others, Exp(1).

    M ~ Exp(1) is the winner's time; the others are beyond it, and memoryless.
    """
    first = _exponential(draft.shape, generator, q)[:, None]
    rest = _exponential(q.shape, generator, q).scatter(-1, draft[:, None], 0.0)
    return torch.addcmul(rest, q, first)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """Acceptance ``[N, B]`` by the integral above, right to 1e-12 + V u.

    O(V log V + G V) per row, G about 80 for 4 drafts and 130 for 16.
    """
    most = max(n_drafts)
    compiled = compiled_for(p)
    rows = []
    for b in range(p.shape[0]):
        races = _Races(p[b], q[b])
        mass = p[b][races.token]
        t, weight = rate_nodes(races, mass, most)
        missed = p.new_zeros(most)
        if compiled is None:
            missed_by_torch(races, mass, t, weight, missed)
        else:
            curves = (x.numpy() for x in (races.c, races.slope, races.q, mass, t, weight))
            compiled.gumbel_missed(*curves, most, missed.numpy())
        rows.append(mass.sum() - missed)
    return torch.stack([torch.stack(rows)[:, n - 1] for n in n_drafts]).clamp(0.0, 1.0)


def missed_by_torch(races: _Races, mass: Tensor, t: Tensor, weight: Tensor, missed: Tensor) -> None:
    """Add the integral of what n drafts miss, n = 1..len(missed)."""
    for part in _chunks(len(t), len(mass)):
        stay, g = races.curves(t[part])
        chance = (1.0 - stay).clamp_(min=0.0)
        each = (1.0 - races.q * g).clamp_(min=0.0)
        for i in range(len(missed)):
            n = i + 1
            missed[i] += (weight[part] * n * torch.exp(-n * t[part])) @ (chance @ mass)
            chance *= each


def list_matching_bound(p: Tensor, q: Tensor, n: int) -> Tensor:
    """Lower bound ``[B]``: y and some x_k are decided by one arrival, ``sum_i p_i n / (n + c(r_i))``.  O(V log V)."""
    rows = []
    for target, draft in zip(p, q, strict=True):
        races = _Races(target, draft)
        rows.append((target[races.token] * n / (n + races.c)).sum())
    return torch.stack(rows)


def _exponential(shape: torch.Size, generator: torch.Generator | None, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device).exponential_(generator=generator)


VERIFIER = Verifier(
    name="gumbel_list",
    paper="Rowan et al., List-level distribution coupling with applications to speculative decoding, 2025",
    lossless=True,
    samplers=("with_replacement",),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="O(nV)",
)
