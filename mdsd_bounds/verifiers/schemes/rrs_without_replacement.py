"""Recursive rejection without replacement (RSD, Jeon et al. 2024; Sequoia, Chen et al. 2024; EAGLE, Li et al. 2024).

As recursive rejection, and after each rejection the rejected token leaves the draft distribution too: ``q_{k+1}`` is
q_k without x_k, renormalised.  The distribution of the next draft given those before is all that the rule needs, so
fixed tokens (greedy, top_k, top_m_plus) fit it as well: they are drafts of a one-hot distribution.

Along a path of rejected tokens the acceptance is ``1 - E(tau_n)`` with ``tau_k = tau_{k-1} + E(tau_{k-1}) / c_k``, c_k
the draft mass not yet rejected (:mod:`mdsd_bounds.verifiers.excess_function`).  The paths are enumerated where they
are few (n = 2 at any V) and drawn otherwise (:mod:`mdsd_bounds.verifiers.rejection_paths`).

m fixed tokens A are accepted with P(A) together, and leave the problem ``p' = p off A``, ``q' = q off A``, both
renormalised, with n - m drafts: the acceptance is ``P(A) + (1 - P(A)) alpha'``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import RAISE, draw, fixed_mask, leftover, mark, remainder
from mdsd_bounds.verifiers.base import DraftCounts, Generator, Verifier
from mdsd_bounds.verifiers.kernels.dispatch import compiled_step
from mdsd_bounds.verifiers.rejection_paths import enumerate_paths, sample_paths
from mdsd_bounds.verifiers.schemes.rrs import first_accepted
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, residual


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the drafts, rejection by rejection.  O(nV)."""
    rule, n = get_sampler(sampler), drafts.shape[1]
    probs, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
    drawn = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    for k in range(n):
        draft = rule.conditional(q, drawn, k, n, **options)
        accept = accept_probability(target, draft, drafts[:, k])
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
        # An empty slot rejects nothing and changes nothing: its draft distribution is zero.
        target = residual(target, draft)
        drawn = mark(drawn, drafts[:, k])
    return probs + reach[:, None] * target


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """One step by the excess function, O(V) per rejection.

    Fixed tokens are tried first, with p_a over the mass of p not yet rejected; what is left of p and q off them is
    the same problem again.  Where no compiled loop fits, samplers with fixed tokens go through the distribution.
    """
    split = get_sampler(sampler).split
    assert split is not None
    fixed, _ = split(drafts.shape[1], **options)
    if fixed == 0:
        return first_accepted(p, q, drafts, generator, replacement=False)
    quick = compiled_step("rejection_steps", p, q, drafts, generator, fixed, False)
    if quick is not None:
        return quick
    return draw(output_distribution(p, q, drafts, sampler=sampler, **options), generator)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """Exact acceptance ``[N, B]`` where the paths can be enumerated, NaN elsewhere.  O(V^{n-1}) beyond n = 2."""
    return torch.stack([_rates(p, q, n, None, None, sampler, options)[0] for n in n_drafts])


def estimate_rate(
    p: Tensor, q: Tensor, n_drafts: DraftCounts, samples: int, generator: Generator, *, sampler: str, **options: Option
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` of ``1 - E(tau_n)`` over sampled paths.

    Without fixed tokens one set of paths serves every n.
    """
    rule = get_sampler(sampler)
    if not all(rule.is_random(n, **options) for n in n_drafts):
        pairs = [_rates(p, q, n, samples, generator, sampler, options) for n in n_drafts]
        return torch.stack([value for value, _ in pairs]), torch.stack([error for _, error in pairs])
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    for b in range(p.shape[0]):
        rates = sample_paths(p[b], q[b] * RAISE, max(n_drafts), samples, generator)
        chosen = rates[[n - 1 for n in n_drafts]]
        value[:, b], error[:, b] = chosen.mean(-1), chosen.std(-1) / samples**0.5
    return value, error


def _rates(
    p: Tensor,
    q: Tensor,
    n: int,
    samples: int | None,
    generator: torch.Generator | None,
    sampler: str,
    options: dict[str, Option],
) -> tuple[Tensor, Tensor]:
    """Acceptance and standard error ``[B]``; exact (or NaN) when ``samples`` is None."""
    split = get_sampler(sampler).split
    assert split is not None
    fixed, random = split(n, **options)
    held = fixed_mask(q, fixed)
    certain = torch.where(held, p, torch.zeros_like(p)).sum(-1)
    target, draft = remainder(p, held), leftover(q, held) * RAISE
    # Summed over what is left: one minus P(A) would cancel.
    left = p.masked_fill(held, 0.0).sum(-1)
    value, error = certain.clone(), torch.zeros_like(certain)
    for b in range(p.shape[0]):
        if random == 0 or not bool(left[b] > 0) or not bool(draft[b].sum() > 0):
            continue
        if samples is None:
            value[b] += left[b] * enumerate_paths(target[b], draft[b], random)
        else:
            rates = sample_paths(target[b], draft[b], random, samples, generator)[-1]
            value[b] += left[b] * rates.mean()
            error[b] = left[b] * rates.std() / samples**0.5
    return value, error


VERIFIER = Verifier(
    name="rrs_without_replacement",
    paper="Jeon et al., Recursive Speculative Decoding, arXiv 2402.14160; Chen et al., Sequoia, arXiv 2402.12374",
    lossless=True,
    samplers=("without_replacement", "top_m_plus", "greedy", "top_k"),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    cost="O(V) a rejection, O(nV) with fixed tokens",
)
