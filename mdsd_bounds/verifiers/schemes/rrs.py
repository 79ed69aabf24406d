"""Recursive rejection sampling with replacement (SpecInfer, Miao et al. 2024; MCSD, Yang et al. 2024).

Draft x_k is accepted with ``min(1, p_k/q)``; on rejection ``p_{k+1} = norm((p_k - q)_+)``; after n rejections the
output is drawn from p_{n+1}.  Acceptance ``1 - E(tau_n)`` with ``tau_k = tau_{k-1} + E(tau_{k-1})``
(:mod:`mdsd_bounds.verifiers.excess_function`).  With different drafters q_k takes the place of q in round k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import RAISE, draw
from mdsd_bounds.verifiers.base import Verifier, draft_distribution
from mdsd_bounds.verifiers.excess_function import excess, rejection_taus
from mdsd_bounds.verifiers.kernels.dispatch import compiled_step
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, at, residual


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the drafts, rejection by rejection.  O(nV)."""
    probs, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
    for k in range(drafts.shape[1]):
        draft = draft_distribution(q, k)
        accept = accept_probability(target, draft, drafts[:, k])
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
        target = residual(target, draft)
    return probs + reach[:, None] * target


def first_accepted(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: torch.Generator | None,
    *,
    replacement: bool = True,
) -> Tensor:
    """One step ``[B]`` of recursive rejection by the excess function: only rows that reject look at all of V.

    The k-th draft is kept with ``(p_x - tau_{k-1} q_x)_+ / (s_k E(tau_{k-1}) q_x)``.  ``replacement=False`` removes
    each rejected draft from the draft distribution; its rates are then raised, which keeps s_k and tau finite where
    what is left of q is subnormal.  O(B n), and O(V) per rejection.
    """
    quick = compiled_step("rejection_steps", p, q, drafts, generator, 0, replacement)
    if quick is not None:
        return quick
    token = torch.full_like(drafts[:, 0], -1)
    rows = torch.arange(p.shape[0], device=p.device)
    tau, left = torch.zeros_like(p[:, 0]), torch.ones_like(p[:, 0])
    uniform = torch.rand(drafts.shape, dtype=p.dtype, device=p.device, generator=generator)
    whole = 1.0 if replacement else RAISE
    target, draft = p, q
    for k in range(drafts.shape[1]):
        x = drafts[rows, k]
        first = replacement or k == 0
        scale = torch.full_like(tau, 1.0 / whole) if first else _scale(draft, drafts[rows, :k], whole)
        mass_p, mass_q = at(target, x), at(draft, x) * (whole if k == 0 else 1.0)
        limit = scale * left * mass_q
        # Compared without a division: u < min(1, excess / limit); a draft that q cannot give is kept if p can.
        kept = (uniform[rows, k] * limit < mass_p - tau * mass_q) & (x >= 0)
        token[rows[kept]] = x[kept]
        rejected = ~kept
        rows, tau, left, scale = rows[rejected], tau[rejected], left[rejected], scale[rejected]
        if len(rows) == 0:
            return token
        target, draft = p[rows], q[rows] if replacement else q[rows] * whole
        drawable = x[rejected] >= 0
        tau = torch.where(drawable, tau + scale * left, tau)
        left = torch.where(drawable, excess(target, draft, tau), left)
    last = torch.addcmul(target, tau[:, None], draft, value=-1.0).clamp_(min=0.0)
    # Nothing left over: the rejection itself was rounding.
    last = torch.where(last.sum(-1, keepdim=True) > 0, last, target)
    token[rows] = draw(last, generator)
    return token


def _scale(q: Tensor, drawn: Tensor, whole: float) -> Tensor:
    """One over the mass not yet drawn ``[B]`` of rates of total ``whole``; summed where most of it is gone."""
    mass = whole - torch.stack([at(q, drawn[:, k]) for k in range(drawn.shape[1])]).sum(0)
    for b in (mass < 1e-3 * whole).nonzero()[:, 0].tolist():
        rest = q[b].clone()
        rest[drawn[b][drawn[b] >= 0]] = 0.0
        mass[b] = rest.sum()
    return torch.where(mass > 0, 1.0 / torch.where(mass > 0, mass, torch.ones_like(mass)), torch.zeros_like(mass))


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """One step by the excess function; different drafters go through the distribution."""
    if q.ndim == 3:
        return draw(output_distribution(p, q, drafts, sampler=sampler), generator)
    return first_accepted(p, q, drafts, generator)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``1 - E(tau_n)`` ``[N, B]`` for all n in one pass over the recursion.  O(V max n)."""
    if q.ndim == 3:
        return _different_drafters(p, q, n_drafts)
    _, left = rejection_taus(p, q, max(n_drafts))
    return torch.stack([1.0 - left[n - 1] for n in n_drafts]).clamp(min=0.0)


def _different_drafters(p: Tensor, q: Tensor, n_drafts: tuple[int, ...]) -> Tensor:
    refused, target = torch.ones_like(p[:, 0]), p
    values = {}
    for k in range(max(n_drafts)):
        refused = refused * (target - q[:, k]).clamp(min=0.0).sum(-1)
        target = residual(target, q[:, k])
        values[k + 1] = 1.0 - refused
    return torch.stack([values[n] for n in n_drafts])


VERIFIER = Verifier(
    name="rrs",
    paper="Miao et al., SpecInfer, ASPLOS 2024, arXiv 2305.09781; Yang et al., MCSD, arXiv 2401.06706",
    lossless=True,
    samplers=("with_replacement", "independent"),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="O(V) a rejection",
)
