"""Acceptance within a budget of total variation (mentored decoding).  LOSSY by at most ``budget`` in total variation.

The target is moved towards the draft as far as the budget allows, ``p' = p + s (q - p)`` with
``s = min(1, budget / TV(p, q))``, and p' is verified losslessly by recursive rejection, with or without replacement.
So ``TV(output, p) = min(budget, TV(p, q))`` exactly, and a single draft is accepted with
``min(1, 1 - TV(p, q) + budget)``, the most that any rule within the budget can reach.  Option ``budget`` (0.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.kernels.dispatch import WIDE
from mdsd_bounds.verifiers.schemes import rrs, rrs_without_replacement

BUDGET = 0.1
_RULES = {"with_replacement": rrs.VERIFIER, "without_replacement": rrs_without_replacement.VERIFIER}


def moved_target(p: Tensor, q: Tensor, budget: float) -> Tensor:
    """p' ``[B, V]``: p moved towards q by ``min(budget, TV(p, q))``."""
    if not 0 <= budget <= 1:
        raise InputError(f"tv_budget: budget={budget!r}; give a total variation in [0, 1]")
    distance = (q - p).clamp(min=0.0).sum(-1, keepdim=True)
    share = torch.where(distance > budget, budget / torch.where(distance > 0, distance, torch.ones_like(distance)), 1.0)
    return torch.lerp(p, q, share.expand_as(p))


def output_law(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, budget: float = BUDGET, **options: Any) -> Tensor:
    """Recursive rejection against the moved target."""
    return _RULES[sampler].output_law(moved_target(p, q, budget), q, drafts, sampler=sampler)


def fast_step(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: torch.Generator | None,
    *,
    sampler: str,
    budget: float = BUDGET,
    **options: Any,
) -> Tensor:
    """One step of recursive rejection against the moved target; wide rows one by one, in memory used again."""
    if p.shape[-1] >= WIDE and p.shape[0] > 1:
        rows = [slice(b, b + 1) for b in range(p.shape[0])]
        parts = [fast_step(p[b], q[b], drafts[b], generator, sampler=sampler, budget=budget) for b in rows]
        return torch.cat(parts)
    return _RULES[sampler].step(moved_target(p, q, budget), q, drafts, generator, sampler=sampler)[0]


def exact_rate(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, budget: float = BUDGET, **options: Any
) -> Tensor:
    """Acceptance ``[N, B]`` of recursive rejection against the moved target."""
    return _RULES[sampler].exact(moved_target(p, q, budget), q, n_drafts, sampler=sampler)


def estimate_rate(
    p: Tensor,
    q: Tensor,
    n_drafts: tuple[int, ...],
    samples: int,
    generator: torch.Generator | None,
    *,
    sampler: str,
    budget: float = BUDGET,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` over paths of rejected tokens (without replacement)."""
    return rrs_without_replacement.estimate_rate(
        moved_target(p, q, budget), q, n_drafts, samples, generator, sampler=sampler
    )


def distance(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, budget: float = BUDGET, **options: Any
) -> Tensor:
    """``min(budget, TV(p, q))`` ``[N, B]``, whatever n is."""
    return (q - p).clamp(min=0.0).sum(-1).clamp(max=budget).expand(len(n_drafts), -1).clone()


VERIFIER = Verifier(
    name="tv_budget",
    paper="Tran-Thien, An optimal lossy variant of speculative decoding (mentored decoding), 2023",
    lossless=False,
    samplers=("with_replacement", "without_replacement"),
    output_law=output_law,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    distance=distance,
    options=("budget",),
)
