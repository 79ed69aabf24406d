"""Rules that accept the first draft whose target probability is high enough.  LOSSY: the output distribution is not p.

The first draft x with ``p_x > least(p)`` is the output, else a token drawn from p.  Typical acceptance and top-K
membership are of this form, each with its own ``least``; a token above it is called *typical* here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mdsd_bounds.bounds import make_problem, solve
from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import NO_DRAFT, get_sampler
from mdsd_bounds.samplers.base import draw, fixed_mask, remainder, top_tokens
from mdsd_bounds.verifiers.base import DraftCounts, Generator, Verifier, draft_distribution, drafted_mass
from mdsd_bounds.verifiers.monte_carlo import many_drafts
from mdsd_bounds.verifiers.speculative_sampling import add_at, at

#: Share of the mass left below which it is summed afresh.
SMALL = 1e-6
#: ``p [B, V] -> [B]``: target probability above which a draft is accepted.
_Least: TypeAlias = Callable[[Tensor], Tensor]


def first_above(name: str, paper: str, threshold: Callable[..., Tensor], options: tuple[str, ...]) -> Verifier:
    """The rule of one threshold.

    Parameters
    ----------
    name, paper : str
        As in :class:`mdsd_bounds.verifiers.Verifier`.
    threshold : callable
        ``(p [B, V], **options) -> [B]``: drafts with more target probability than this are accepted.
    options : tuple of str
        Names of its options.
    """

    def bound_to(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **given: Option) -> Any:
            own = {key: given.pop(key) for key in options if key in given}
            return function(*arguments, least=functools.partial(threshold, **own), **given)

        return call

    return Verifier(
        name=name,
        paper=paper,
        lossless=False,
        samplers=("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus", "independent"),
        output_distribution=bound_to(output_distribution),
        fast_step=bound_to(fast_step),
        exact_rate=bound_to(exact_rate),
        estimate_rate=bound_to(estimate_rate),
        distance=bound_to(distance),
        options=options,
        cost="O(V)",
    )


def output_distribution(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, least: _Least, **options: Option
) -> Tensor:
    """Distribution of the output given the drafts."""
    above = least(p)[:, None]
    probs, reach = torch.zeros_like(p), torch.ones_like(p[:, 0])
    for k in range(drafts.shape[1]):
        accept = (at(p, drafts[:, k]) > above[:, 0]).to(p.dtype)
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
    return probs + reach[:, None] * p


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: Generator, *, sampler: str, least: _Least, **options: Option
) -> Tensor:
    """The first typical draft, else a draw from p."""
    kept = (p.gather(-1, drafts.clamp(min=0)) > least(p)[:, None]) & (drafts >= 0)
    token = drafts.gather(-1, kept.to(torch.int8).argmax(-1, keepdim=True))[:, 0]
    rows = (~kept.any(-1)).nonzero()[:, 0]
    if len(rows):
        token[rows] = draw(p[rows], generator)
    return token


def exact_rate(
    p: Tensor, q: Tensor, n_drafts: DraftCounts, *, sampler: str, least: _Least, **options: Option
) -> Tensor:
    """Closed form ``[N, B]`` for independent draws, and where at most one draw follows the fixed tokens; NaN otherwise.

    With T the typical tokens and c_k = 1 - q_k(T): ``1 - prod c_k + sum off T of p_i (prod c_k - prod (c_k - q_ki))``.
    Fixed tokens A add ``P(A) prod c_k`` where none of them is typical, and are accepted for certain where one is.
    """
    value = p.new_full((len(n_drafts), p.shape[0]), float("nan"))
    typical = p > least(p)[:, None]
    for i, n in enumerate(n_drafts):
        rule = get_sampler(sampler)
        if rule.independent:
            distributions, held = [draft_distribution(q, k) for k in range(n)], torch.zeros_like(typical)
        else:
            (fixed, random), *_ = rule.splits([n], options, "this verifier", "choose another sampler")
            if random > 1 and not rule.replacement:
                continue
            held = fixed_mask(q, fixed)
            distributions = [remainder(q, held)] * random
        none, missed = torch.ones_like(p[:, :1]), torch.ones_like(p)
        for probs in distributions:
            others = probs.masked_fill(typical, 0.0)
            # An empty distribution draws nothing.
            c = torch.where(probs.sum(-1, keepdim=True) > 0, others.sum(-1, keepdim=True), torch.ones_like(none))
            none, missed = none * c, missed * (c - others).clamp(min=0.0)
        drafted = torch.where(held, none, none - missed)
        value[i] = 1.0 - none[:, 0] + (p * drafted).masked_fill(typical, 0.0).sum(-1)
        value[i] = torch.where((held & typical).any(-1), torch.ones_like(value[i]), value[i])
    return value.clamp(0.0, 1.0)


def estimate_rate(
    p: Tensor,
    q: Tensor,
    n_drafts: tuple[int, ...],
    samples: int,
    generator: torch.Generator | None,
    *,
    sampler: str,
    least: _Least,
    **options: Option,
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` without replacement: ``1 - E[w (1 - p(S))]``.

    S holds the drafts where none is typical: draws without replacement of q off the typical tokens T.  The weight w is
    the probability that each draw of S was not a typical token instead, ``prod left / (left + q(T))``, with ``left``
    the mass off T not yet drawn.  It is small wherever a typical draft is likely, and so is the error.
    """
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    typical = p > least(p)[:, None]
    split = get_sampler(sampler).split
    assert split is not None
    for i, n in enumerate(n_drafts):
        fixed, random = split(n, **options)
        held = fixed_mask(q, fixed)
        rest = remainder(q, held)
        for b in range(p.shape[0]):
            if bool((held[b] & typical[b]).any()):
                value[i, b], error[i, b] = 1.0, 0.0
                continue
            chance, drafts = _none_typical(rest[b], typical[b], random, samples, generator)
            mass = p[b][held[b]].sum() + drafted_mass(p[b].expand(samples, -1), drafts)
            hits = 1.0 - chance * (1.0 - mass)
            value[i, b], error[i, b] = hits.mean(), hits.std() / samples**0.5
    return value, error


def _none_typical(
    r: Tensor, typical: Tensor, draws: int, samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Probability ``[samples]`` that no draw was typical, given that these ``[samples, draws]`` tokens came instead."""
    others = r.masked_fill(typical, 0.0)
    hit, total = r[typical].sum(), others.sum()
    chance = r.new_ones(samples)
    if not bool(total > 0):
        empty = torch.full((samples, draws), NO_DRAFT, dtype=torch.int64, device=r.device)
        return (chance * float(not bool(hit > 0)), empty)
    drafts = many_drafts(others / total, draws, samples, generator, sampler="without_replacement")
    mass = torch.where(drafts >= 0, others[drafts.clamp(min=0)], 0.0)
    left = total - torch.nn.functional.pad(mass.cumsum(-1), (1, -1))
    for s, k in (left < SMALL * total).nonzero().tolist():
        # Summed over what is left: the difference has no digits.
        remaining = others.clone()
        remaining[drafts[s, :k].clamp(min=0)] = 0.0
        left[s, k] = remaining.sum()
    return torch.where(hit > 0, left / (left + hit), torch.ones_like(left)).prod(-1), drafts


def distance(p: Tensor, q: Tensor, n_drafts: DraftCounts, *, sampler: str, least: _Least, **options: Option) -> Tensor:
    """Exact total variation ``[N, B]`` between the output distribution and p.

    Let u be the distribution of the first typical draft, given that there is one, and R the probability that there is
    none. The output distribution is ``(1 - R) u + R p``, so the distance is ``(1 - R) TV(u, p)``.

    *u.*  A typical fixed token comes first, always: u is one-hot at the first of them, and R = 0.  Otherwise u = q on
    the typical tokens T, renormalised, for any number of draws with or without replacement: in an exponential race the
    token of the first arrival in T is independent of its time and of all arrivals outside T.

    *R.*  With the target u, putting out the first typical draft is lossless, and no rule is right more often than a
    drafted set meets the support T of u.  So ``1 - R`` is the optimal acceptance of the target u, which is what
    :func:`mdsd_bounds.optimal_acceptance` computes, for every sampler of the fixed-plus-random family.

    Different drafters have different u_k: the distribution is summed draft by draft.
    """
    typical = p > least(p)[:, None]
    if get_sampler(sampler).independent:
        return _different_drafters(p, q, n_drafts, typical)
    split = get_sampler(sampler).split
    assert split is not None
    values = []
    for n in n_drafts:
        fixed, _ = split(n, **options)
        held = top_tokens(q, fixed)
        first, certain = torch.zeros_like(p), torch.zeros_like(p[:, 0], dtype=torch.bool)
        for k in range(fixed):
            hit = (held[:, k] >= 0) & typical.gather(-1, held[:, k : k + 1].clamp(min=0))[:, 0] & ~certain
            first[hit, held[hit, k]] = 1.0
            certain |= hit
        u = torch.where(certain[:, None], first, remainder(q, ~typical | fixed_mask(q, fixed)))
        some = u.sum(-1) > 0
        # Rows where no draft can be typical ask for nothing.
        problem, *_ = make_problem(torch.where(some[:, None], u, p), q, n, sampler, defects=None, **options)
        met = torch.where(certain, torch.ones_like(p[:, 0]), solve(problem).value[0])
        values.append(torch.where(some, met * (u - p).clamp(min=0.0).sum(-1), torch.zeros_like(met)))
    return torch.stack(values)


def _different_drafters(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], typical: Tensor) -> Tensor:
    probs, none, distances = torch.zeros_like(p), torch.ones_like(p[:, :1]), {}
    for k in range(max(n_drafts)):
        draft = draft_distribution(q, k)
        probs = probs + none * draft.masked_fill(~typical, 0.0)
        none = none * draft.masked_fill(typical, 0.0).sum(-1, keepdim=True)
        distances[k + 1] = (probs + none * p - p).clamp(min=0.0).sum(-1)
    return torch.stack([distances[n] for n in n_drafts])
