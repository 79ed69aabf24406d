"""The excess function ``E(tau) = sum_i (p_i - tau q_i)_+``: one curve behind recursive rejection and K-SEQ.

**Recursive rejection.**  Write the k-th residual as ``p_k = (p - tau_{k-1} q)_+ / E(tau_{k-1})``, tau_0 = 0, and let
the k-th draft have the distribution ``s_k q`` off the tokens rejected so far (s_k = 1 with replacement, else one over
the mass not yet removed).  A rejected token has ``p_k < s_k q`` there, so it has left every later residual, and

    ``(p_k - s_k q)_+ = (p - tau_k q)_+ / E(tau_{k-1})``  with  ``tau_k = tau_{k-1} + s_k E(tau_{k-1})``.

The k-th draft is rejected with probability ``E(tau_k)/E(tau_{k-1})``; the product telescopes, so along one path of
rejected tokens **the acceptance of n drafts is 1 - E(tau_n)**, averaged over paths that are drawn by the normalised
rejection probabilities.  With replacement the path does not matter and this is exact in O(nV).

**K-SEQ.**  With ``beta = sum min(p/rho, q) = (1 - E(rho))/rho`` the rule's equation ``1 - (1-beta)^n = rho beta`` reads
``(1 - (1-E(rho))/rho)^n = E(rho)``, and the acceptance is ``1 - E(rho)``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads
from mdsd_bounds.verifiers.kernels.dispatch import compiled_for


def excess(p: Tensor, q: Tensor, tau: Tensor) -> Tensor:
    """``E(tau)`` ``[B]`` for rows ``[B, V]`` and ``tau`` ``[B]``.  O(V)."""
    return torch.addcmul(p, tau[:, None], q, value=-1.0).clamp_(min=0.0).sum(-1)


def above_draft(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """p and q on the tokens with p > q in some row ``[B, C]``: the others add nothing to E(tau) for tau >= 1."""
    columns = (p > q).any(0).nonzero()[:, 0]
    return p[:, columns], q[:, columns]


def rejection_taus(p: Tensor, q: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """``tau_n`` and ``E(tau_n)`` ``[most, B]`` of recursive rejection with replacement, n = 1..most.  O(V most)."""
    compiled = compiled_for(p)
    if compiled is not None:
        return _compiled_taus(compiled, p, q, most)
    return torch_taus(p, q, most)


def torch_taus(p: Tensor, q: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """:func:`rejection_taus` in plain torch."""
    above, below = above_draft(p, q)
    tau, left = torch.zeros_like(p[:, 0]), torch.ones_like(p[:, 0])
    taus, lefts = [], []
    for _ in range(most):
        tau = tau + left
        left = excess(above, below, tau)
        taus.append(tau)
        lefts.append(left)
    return torch.stack(taus), torch.stack(lefts)


def _compiled_taus(compiled: ModuleType, p: Tensor, q: Tensor, most: int) -> tuple[Tensor, Tensor]:
    taus, lefts = p.new_empty((p.shape[0], most)), p.new_empty((p.shape[0], most))

    def work(first: int, last: int) -> None:
        space = torch.empty((2, p.shape[1]), dtype=p.dtype).numpy()
        for b in range(first, last):
            count = compiled.above_draft(p[b].numpy(), q[b].numpy(), *space)
            compiled.rejection(*space[:, :count], taus[b].numpy(), lefts[b].numpy())

    in_threads(work, len(p))
    return taus.T, lefts.T


def found_rates(weight: Tensor, q: Tensor, most: int) -> Tensor:
    """``sum_i weight_i (1 - (1 - q_i)^n)`` ``[most, B]``, n = 1..most: mass found among n independent draws of q."""
    compiled = compiled_for(q)
    return torch_found(weight, q, most) if compiled is None else _each_row(compiled.found, weight, q, most)


def found_after_first(p: Tensor, q: Tensor, most: int) -> Tensor:
    """``sum min(p, q) + sum_i (p_i - q_i)_+ (1 - (1 - q_i)^{n-1})`` ``[most, B]``, n = 1..most.

    What speculative sampling of a first draft accepts, and the mass of its residual found among the other drafts.
    """
    compiled = compiled_for(q)
    if compiled is not None:
        return _each_row(compiled.found_after_first, p, q, most)
    kept, left = torch.minimum(p, q).sum(-1), (p - q).clamp(min=0.0)
    found = torch_found(left, q, most - 1) if most > 1 else left.new_empty((0, len(p)))
    return kept + torch.cat([torch.zeros_like(kept)[None], found])


def _each_row(kernel: Callable[..., None], x: Tensor, q: Tensor, most: int) -> Tensor:
    """``[most, B]``: what a kernel makes of each row, rows shared among threads."""
    rates = q.new_empty((q.shape[0], most))
    rows = [y.contiguous().numpy() for y in (x, q, rates)]

    def work(first: int, last: int) -> None:
        for b in range(first, last):
            kernel(*(y[b] for y in rows))

    in_threads(work, len(q))
    return rates.T


def torch_found(weight: Tensor, q: Tensor, most: int) -> Tensor:
    """:func:`found_rates` in plain torch."""
    missed = torch.log1p(-q.clamp(max=1.0))
    return torch.stack([-(weight * torch.expm1(n * missed)).sum(-1) for n in range(1, most + 1)])
