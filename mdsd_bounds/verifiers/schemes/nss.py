"""Naive sampling scheme: sample y from p and accept it if it was drafted (Miao et al., SpecInfer, ASPLOS 2024).

The drafts never influence the output, so the rule is lossless with any sampler, even one whose distribution is unknown.
Acceptance is ``E p(S) = sum_i p_i Pr(i is drafted)``; n independent draws give ``sum_i p_i (1 - (1 - q_i)^n)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import SAMPLERS, get_sampler
from mdsd_bounds.samplers.base import draw, fixed_mask, leftover, remainder
from mdsd_bounds.samplers.inclusion import inclusion_probabilities
from mdsd_bounds.verifiers.base import DraftCounts, Generator, Verifier, draft_distribution, drafted_mass
from mdsd_bounds.verifiers.excess_function import found_rates
from mdsd_bounds.verifiers.kernels.dispatch import compiled_step
from mdsd_bounds.verifiers.monte_carlo import many_drafts

#: Draft mass left below which an expected draw gives way to the draw.
SMALL = 1e-6


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """The target's own distribution."""
    return p


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: Generator = None, *, sampler: str, **options: Option
) -> Tensor:
    """One draw from p, O(V): a cumulative sum and a search, or sums of blocks and a search in one of them."""
    quick = compiled_step("target_steps", p, p, drafts, generator)
    if quick is not None:
        return quick
    return draw(p, generator)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``sum_i p_i Pr(i is drafted)`` ``[N, B]``, O(V) per n.

    Closed form when draws are independent, and when at most two draws follow the fixed tokens; NaN otherwise.
    """
    value = p.new_full((len(n_drafts), p.shape[0]), float("nan"))
    rule, found = get_sampler(sampler), None
    for i, n in enumerate(n_drafts):
        if rule.independent:
            missed = torch.ones_like(p)
            for k in range(n):
                missed = missed * (1.0 - draft_distribution(q, k))
            value[i] = (p * (1.0 - missed)).sum(-1)
        elif rule.split is not None:
            fixed, random = rule.split(n, **options)
            if rule.replacement and fixed == 0:
                found = found_rates(p, q, max(n_drafts)) if found is None else found
                value[i] = found[n - 1]
                continue
            included = inclusion_probabilities(leftover(q, fixed_mask(q, fixed)), random)
            if included is not None and not rule.replacement:
                value[i] = (p * torch.where(fixed_mask(q, fixed), torch.ones_like(p), included)).sum(-1)
    return value


def estimate_rate(
    p: Tensor, q: Tensor, n_drafts: DraftCounts, samples: int, generator: Generator, *, sampler: str, **options: Option
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` of the target's mass on sampled drafts.

    Without replacement the last of the draws is not drawn: given the set S before it, it finds ``sum_i p_i r_i / (1 -
    r(S))``, i off S (Rao-Blackwell).  One set of paths serves every n.
    """
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    rule = get_sampler(sampler)
    for i, n in enumerate(n_drafts):
        if rule.split is None or rule.replacement:
            for b in range(p.shape[0]):
                drafts = many_drafts(q[b], n, samples, generator, sampler=sampler, **options)
                hits = drafted_mass(p[b].expand(samples, -1), drafts)
                value[i, b], error[i, b] = hits.mean(), hits.std() / samples**0.5
    if rule.split is None or rule.replacement:
        return value, error
    splits = [rule.split(n, **options) for n in n_drafts]
    for fixed in {fixed for fixed, _ in splits}:
        counts = {i: random for i, (held, random) in enumerate(splits) if held == fixed}
        mask = fixed_mask(q, fixed)
        rest = leftover(q, mask)
        for b in range(p.shape[0]):
            hits = _found_along(p[b].masked_fill(mask[b], 0.0), rest[b], max(1, *counts.values()), samples, generator)
            for i, random in counts.items():
                total = p[b][mask[b]].sum() + (hits[random - 1] if random else hits.new_zeros(samples))
                value[i, b], error[i, b] = total.mean(), total.std() / samples**0.5
    return value, error


def _found_along(p: Tensor, r: Tensor, draws: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """Mass of p ``[draws, samples]`` found by k draws without replacement at rates r, the last one averaged over."""
    drafts = many_drafts(r, draws, samples, generator, sampler="without_replacement")
    r = remainder(r[None], torch.zeros_like(r[None], dtype=torch.bool))[0]
    index = drafts.clamp(min=0)

    def before(values: Tensor) -> Tensor:
        """Sum over the draws before each."""
        return torch.nn.functional.pad(torch.where(drafts >= 0, values[index], 0.0).cumsum(-1), (1, -1))

    left = 1.0 - before(r)
    mean = ((p * r).sum() - before(p * r)).clamp(min=0.0) / left.clamp(min=SMALL)
    # Where little is left the differences have no digits: the draw itself stands for its mean.
    last = torch.where(left > SMALL, mean, torch.where(drafts >= 0, p[index], 0.0))
    return (before(p) + last).T


VERIFIER = Verifier(
    name="nss",
    paper="Miao et al., SpecInfer, ASPLOS 2024, arXiv 2305.09781",
    lossless=True,
    samplers=tuple(SAMPLERS),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    cost="O(V)",
)
