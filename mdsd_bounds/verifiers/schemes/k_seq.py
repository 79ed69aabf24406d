"""K-SEQ (SpecTr, Sun et al., NeurIPS 2023): accept x_k with ``min(1, p/(rho q))``, one rho for all drafts.

rho* in [1, n] solves ``1 - (1-beta)^n = rho beta``, ``beta = sum min(p/rho, q)``; the residual is norm((p - rho* q)_+).
Acceptance ``1 - E(rho*)`` (:mod:`mdsd_bounds.verifiers.excess_function`), at least ``1 - (1-1/n)^n`` of the optimum
(SpecTr,
theorem 2).
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads
from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import draw
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.excess_function import above_draft, excess
from mdsd_bounds.verifiers.kernels.dispatch import compiled_for, compiled_step
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, residual

#: Newton steps, halved where they leave the bracket; a handful is enough.
_STEPS = 80


def solve_rho(p: Tensor, q: Tensor, n: int) -> Tensor:
    """rho* ``[B]`` within rounding, from above, so that the residual is a distribution.

    ``F(rho) = E(rho) - (1 - (1-E(rho))/rho)^n`` is at least 0 at rho = 1, at most 0 at rho = n (Sun et al., lemma
    3); the root is found by Newton steps inside a bracket.  O(V) per step.
    """
    return solve_all(p, q, (n,))[0][0]


def solve_all(p: Tensor, q: Tensor, n_drafts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """rho* and ``E(rho*)`` ``[N, B]``; in order of n, each root starts from the one before."""
    compiled = compiled_for(p)
    return torch_roots(p, q, n_drafts) if compiled is None else _compiled_roots(compiled, p, q, n_drafts)


def torch_roots(p: Tensor, q: Tensor, n_drafts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """:func:`solve_all` in plain torch."""
    above, below = above_draft(p, q)
    rho, roots = torch.ones_like(p[:, 0]), {}
    for n in sorted(set(n_drafts)):
        rho = _solve(above, below, n, rho)
        roots[n] = rho, excess(above, below, rho)
    return torch.stack([roots[n][0] for n in n_drafts]), torch.stack([roots[n][1] for n in n_drafts])


def _compiled_roots(compiled: ModuleType, p: Tensor, q: Tensor, n_drafts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    roots, left = p.new_empty((p.shape[0], len(n_drafts))), p.new_empty((p.shape[0], len(n_drafts)))
    counts = torch.tensor(n_drafts).numpy()

    def work(first: int, last: int) -> None:
        space = torch.empty((2, p.shape[1]), dtype=p.dtype).numpy()
        for b in range(first, last):
            count = compiled.above_draft(p[b].numpy(), q[b].numpy(), *space)
            compiled.k_seq_roots(*space[:, :count], counts, roots[b].numpy(), left[b].numpy())

    in_threads(work, len(p))
    return roots.T, left.T


def _solve(above: Tensor, below: Tensor, n: int, start: Tensor) -> Tensor:
    low, high = torch.ones_like(start), torch.full_like(start, float(n))
    rho = torch.minimum(torch.maximum(start, low), high)
    for _ in range(_STEPS):
        left = torch.addcmul(above, rho[:, None], below, value=-1.0)
        slope = -(below * (left > 0)).sum(-1)
        value = left.clamp_(min=0.0).sum(-1)
        beta = (1.0 - value) / rho
        gap = value - (1.0 - beta).clamp(min=0.0).pow(n)
        low, high = torch.where(gap > 0, rho, low), torch.where(gap > 0, high, rho)
        rate = slope - n * (1.0 - beta).clamp(min=0.0).pow(n - 1) * (slope + beta) / rho
        step = rho - gap / torch.where(rate < 0, rate, -torch.ones_like(rate))
        inside = (step > low) & (step < high) & (rate < 0)
        following = torch.where(inside, step, (low + high) / 2)
        done = (high - low <= 4e-16 * high) | ((following - rho).abs() <= 2e-16 * rho)
        rho = torch.where(done, rho, following)
        if bool(done.all()):
            break
    return torch.minimum(rho * (1.0 + 4e-16), torch.full_like(rho, float(n)))


def _residual(p: Tensor, q: Tensor, rho: Tensor, n: int) -> Tensor:
    """norm(p - m): m_x is the probability that x is output from a draft, ``min(p/rho, q) (1 - (1-beta)^n) / beta``.

    This is norm((p - rho q)_+) at rho*, and keeps the output distribution at p for any rho above it.
    """
    kept = torch.minimum(p / rho[:, None], q)
    beta = kept.sum(-1, keepdim=True).clamp(max=1.0)
    some = beta > 0
    times = -torch.expm1(n * torch.log1p(-beta)) / torch.where(some, beta, torch.ones_like(beta))
    return residual(p, kept * torch.where(some, times, torch.full_like(beta, float(n))))


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the drafts."""
    n = drafts.shape[1]
    rho = solve_rho(p, q, n)
    probs, reach = torch.zeros_like(p), torch.ones_like(p[:, 0])
    for k in range(n):
        accept = accept_probability(p / rho[:, None], q, drafts[:, k])
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
    return probs + reach[:, None] * _residual(p, q, rho, n)


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """Solve for rho, try the drafts in turn, and form the residual only for rows that reject all of them."""
    quick = compiled_step("k_seq_steps", p, q, drafts, generator)
    if quick is not None:
        return quick
    n = drafts.shape[1]
    rho = solve_rho(p, q, n)
    uniform = torch.rand(drafts.shape, dtype=p.dtype, device=p.device, generator=generator)
    index = drafts.clamp(min=0)
    kept = (uniform * rho[:, None] * q.gather(-1, index) < p.gather(-1, index)) & (drafts >= 0)
    first = kept.to(torch.int8).argmax(-1, keepdim=True)
    token = drafts.gather(-1, first)[:, 0]
    lost = (~kept.any(-1)).nonzero()[:, 0]
    if len(lost):
        token[lost] = draw(_residual(p[lost], q[lost], rho[lost], n), generator)
    return token


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``1 - E(rho*)`` ``[N, B]``."""
    return (1.0 - solve_all(p, q, n_drafts)[1]).clamp(min=0.0)


VERIFIER = Verifier(
    name="k_seq",
    paper="Sun et al., SpecTr, NeurIPS 2023, arXiv 2310.15141",
    lossless=True,
    samplers=("with_replacement",),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="O(V) a Newton step for rho",
)
