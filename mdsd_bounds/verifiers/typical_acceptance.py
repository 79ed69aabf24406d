"""Typical acceptance (Medusa, Cai et al., ICML 2024).  LOSSY: the output law is not p.

A draft x is accepted when ``p_x > min(epsilon, delta exp(-H(p)))``, H the entropy of p in nats; the first such draft is
output, else a draw from p.  Options ``epsilon`` (0.09) and ``delta`` (0.3), the defaults of the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import draw
from mdsd_bounds.verifiers.base import Verifier, draft_law, drafted_mass
from mdsd_bounds.verifiers.montecarlo import many_drafts
from mdsd_bounds.verifiers.speculative import add_at, at

EPSILON = 0.09
DELTA = 0.3


def threshold(p: Tensor, epsilon: float, delta: float) -> Tensor:
    """``min(epsilon, delta exp(-H(p)))`` ``[B]``."""
    for value, name in ((epsilon, "epsilon"), (delta, "delta")):
        if not 0 <= value <= 1:
            raise InputError(f"typical_acceptance: {name}={value!r}; give a number in [0, 1]")
    return (delta * torch.exp(-torch.special.entr(p).sum(-1))).clamp(max=epsilon)


def output_law(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    *,
    sampler: str,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    **options: Any,
) -> Tensor:
    """Law of the output given the drafts."""
    least = threshold(p, epsilon, delta)
    law, reach = torch.zeros_like(p), torch.ones_like(p[:, 0])
    for k in range(drafts.shape[1]):
        accept = (at(p, drafts[:, k]) > least).to(p.dtype)
        law = add_at(law, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
    return law + reach[:, None] * p


def fast_step(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: torch.Generator | None,
    *,
    sampler: str,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    **options: Any,
) -> Tensor:
    """The first typical draft, else a draw from p."""
    kept = (p.gather(-1, drafts.clamp(min=0)) > threshold(p, epsilon, delta)[:, None]) & (drafts >= 0)
    token = drafts.gather(-1, kept.to(torch.int8).argmax(-1, keepdim=True))[:, 0]
    rows = (~kept.any(-1)).nonzero()[:, 0]
    if len(rows):
        token[rows] = draw(p[rows], generator)
    return token


def exact_rate(
    p: Tensor,
    q: Tensor,
    n_drafts: tuple[int, ...],
    *,
    sampler: str,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    **options: Any,
) -> Tensor:
    """Closed form ``[N, B]`` for independent draws; NaN otherwise.

    With T the typical tokens and c_k = 1 - q_k(T): ``1 - prod c_k + sum off T of p_i (prod c_k - prod (c_k - q_ki))``.
    """
    value = p.new_full((len(n_drafts), p.shape[0]), float("nan"))
    if sampler not in ("with_replacement", "independent"):
        return value
    typical = p > threshold(p, epsilon, delta)[:, None]
    for i, n in enumerate(n_drafts):
        none, missed = torch.ones_like(p[:, :1]), torch.ones_like(p)
        for k in range(n):
            others = draft_law(q, k).masked_fill(typical, 0.0)
            c = others.sum(-1, keepdim=True)
            none, missed = none * c, missed * (c - others).clamp(min=0.0)
        value[i] = 1.0 - none[:, 0] + (p * (none - missed)).masked_fill(typical, 0.0).sum(-1)
    return value.clamp(0.0, 1.0)


def estimate_rate(
    p: Tensor,
    q: Tensor,
    n_drafts: tuple[int, ...],
    samples: int,
    generator: torch.Generator | None,
    *,
    sampler: str,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` over sampled drafts: 1 where one is typical, else their mass under p."""
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    least = threshold(p, epsilon, delta)
    for i, n in enumerate(n_drafts):
        for b in range(p.shape[0]):
            drafts = many_drafts(q[b], n, samples, generator, sampler=sampler, **options)
            typical = (p[b][drafts.clamp(min=0)] > least[b]) & (drafts >= 0)
            mass = drafted_mass(p[b].expand(samples, -1), drafts)
            hits = torch.where(typical.any(-1), torch.ones_like(mass), mass)
            value[i, b], error[i, b] = hits.mean(), hits.std() / samples**0.5
    return value, error


VERIFIER = Verifier(
    name="typical_acceptance",
    paper="Cai et al., Medusa, ICML 2024, arXiv 2401.10774",
    lossless=False,
    samplers=("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus", "independent"),
    output_law=output_law,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    options=("epsilon", "delta"),
)
