"""The verifier of the greedy sampler (Hu et al., ICLR 2025): speculative sampling of p against r.

r is q off the n - 1 fixed tokens A, renormalised.  The one random draft is accepted with ``min(1, p/r)``, else the
output is drawn from norm((p - r)_+), which holds all of p on A; those are drafts too.  Acceptance
``P(A) + sum off A of min(p, r)``: optimal for this sampler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import RAISE, draw, fixed_mask, mark, remainder
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.kernels.dispatch import compiled_step
from mdsd_bounds.verifiers.speculative_sampling import at, residual, speculative_distribution


def random_distribution(q: Tensor, drafts: Tensor) -> Tensor:
    """r ``[B, V]``: q off all drafts but the last, renormalised."""
    fixed = torch.zeros(q.shape, dtype=torch.bool, device=q.device)
    for k in range(drafts.shape[1] - 1):
        fixed = mark(fixed, drafts[:, k])
    return remainder(q, fixed)


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Speculative sampling of the last draft against r."""
    return speculative_distribution(p, random_distribution(q, drafts), drafts[:, -1])


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """Accept the last draft or sample the residual; only rows that reject look at all of V."""
    quick = compiled_step("greedy_steps", p, q, drafts, generator)
    if quick is not None:
        return quick
    last = drafts[:, -1]
    fixed = torch.stack([at(q, drafts[:, k]) for k in range(drafts.shape[1] - 1)]).sum(0) if drafts.shape[1] > 1 else 0
    mass = torch.as_tensor(1.0 - fixed, dtype=p.dtype, device=p.device).expand(p.shape[0]).clone()
    for b in (mass < 1e-3).nonzero()[:, 0].tolist():
        rest = q[b].clone()
        rest[drafts[b, :-1][drafts[b, :-1] >= 0]] = 0.0
        mass[b] = rest.sum()
    uniform = torch.rand(last.shape, dtype=p.dtype, device=p.device, generator=generator)
    # Raised: products of subnormal numbers would be rounded to multiples of the smallest.
    kept = (uniform * (at(q, last) * RAISE) < (mass * RAISE) * at(p, last)) & (last >= 0)
    rows = (~kept).nonzero()[:, 0]
    token = last.clone()
    if len(rows):
        token[rows] = draw(residual(p[rows], random_distribution(q[rows], drafts[rows])), generator)
    return token


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``P(A) + sum off A of min(p, r)`` ``[N, B]``."""
    values = []
    for n in n_drafts:
        fixed = fixed_mask(q, n - 1)
        values.append(torch.where(fixed, p, torch.minimum(p, remainder(q, fixed))).sum(-1))
    return torch.stack(values)


VERIFIER = Verifier(
    name="greedy",
    paper="Hu et al., ICLR 2025, arXiv 2502.18779",
    lossless=True,
    samplers=("greedy",),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="O(V)",
)
