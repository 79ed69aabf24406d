"""The optimal rule where at most one draft is random: fixed tokens A, and one draw from q off A (greedy), or none.

Let r' be the distribution of the random draft: q off A, renormalised.  The random draft y is picked with probability
``min(1, p_y / r'_y)``, else a fixed token a with probability ``p_a / P(A)``.  The distribution of the pick is

    ``r_y = min(p_y, r'_y)`` off A,   ``r_a = p_a / P(A) * (1 - sum over y off A of min(p_y, r'_y))`` on A.

``sum off A of min(p, r') <= 1 - P(A)``, so ``r_a >= p_a``, and the acceptance is ``P(A) + sum off A of min(p, r')``:
alpha* of this sampler (Hu et al., ICLR 2025, arXiv 2502.18779); H = A and the tokens off A with p < r' proves it from
above.  With no random draft (top_k) the acceptance is P(A).  Where P(A) = 0 the random draft, or without one any fixed
token, is always picked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.bounds.search import ratio_cells
from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.verifiers.optimal.fixed_kernel import fixed_and_rest, overlap
from mdsd_bounds.verifiers.optimal.intervals_kernel import BLOCK, STRIP
from mdsd_bounds.verifiers.optimal.prepared import Prepared, sample_slots


def prepare_greedy(p: Tensor, q: Tensor, n: int) -> Prepared:
    """n - 1 fixed tokens and one draw from the rest.  Cost O(V)."""
    return prepare_fixed(p, q, n - 1, 1)


def prepare_top_k(p: Tensor, q: Tensor, n: int) -> Prepared:
    """n fixed tokens.  Cost O(V)."""
    return prepare_fixed(p, q, n, 0)


def prepare_fixed(p: Tensor, q: Tensor, fixed: int, random: int) -> Prepared:
    """The optimal rule of ``fixed`` most probable tokens and ``random`` (0 or 1) draws from the rest of q.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.

    Returns
    -------
    Prepared
        With a gap of rounding size.
    """
    p, q = p.contiguous(), q.contiguous()
    target, draft = p.numpy(), q.numpy()
    token, outside = fixed_and_rest(draft, fixed)
    outside = outside if random else 0.0
    r = np.empty(len(draft))
    taken, mass = overlap(target, draft, token, outside, r)
    r[token] = target[token] / mass * (1.0 - taken) if mass > 0.0 else (1.0 - taken) / max(1, len(token))
    accepted = taken + float(np.minimum(target[token], r[token]).sum())
    if not mass > 0.0 and outside > 0.0:
        # Nothing speaks for the fixed tokens: the random draft is always picked.
        r[:] = np.minimum(draft, outside) / outside
        r[token] = 0.0
    # 1 + P(H) - Q(H) for H = A and the tokens with p < r': the same sum again, as r' sums to one.
    high = min(1.0, mass + taken + rounding(len(draft)))
    gap = max(0.0, high - accepted)
    return Prepared(p, torch.from_numpy(r), gap, FixedRule(p, q, random, mass, outside))


def rounding(size: int) -> float:
    """Bound on the rounding of the acceptance, whose sums run over blocks and strips, and of the mass of the rest."""
    return 4 * (ratio_cells.BLOCK + size / ratio_cells.BLOCK + BLOCK + STRIP / BLOCK + size / STRIP) * rounding_unit()


@dataclass(frozen=True)
class FixedRule:
    """The rule that runs: the random draft y with probability ``min(1, p_y / r'_y)``, else a fixed one by share of p.

    Attributes
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.
    random : int
        Whether the last draft is random: 0 or 1.
    mass : float
        P(A), A the fixed tokens.
    rest : float
        1 - q(A), or 0 where no draft is random; ``r' = q / rest`` off A.
    """

    p: Tensor
    q: Tensor
    random: int
    mass: float
    rest: float

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each place of ``drafts`` is the pick.  O(T n)."""
        # NumPy: on the few numbers of a step its operations take a third of the time of torch's.
        token = drafts.numpy()
        is_fixed, is_random = token >= 0, np.zeros(token.shape, dtype=bool)
        if self.random:
            is_random[:, -1], is_fixed[:, -1] = is_fixed[:, -1], False
        p = self.p.numpy()[token]
        if self.mass > 0.0:
            # Only where they are wanted: fixed tokens over a subnormal rest overflow, and so do others over P(A).
            given = np.where(is_random, self.q.numpy()[token], 0.0) / (self.rest or 1.0)
            keep = np.divide(np.minimum(p, given), given, out=np.ones_like(p), where=given > 0.0)
            share = np.where(is_fixed, p, 0.0) / self.mass
        else:
            keep, share = np.ones_like(p), 1.0 / np.maximum(is_fixed.sum(-1, keepdims=True), 1)
        # Without fixed tokens the random draft is all there is.
        by_random = is_random * np.where(is_fixed.any(-1, keepdims=True), keep, 1.0)
        return torch.from_numpy(by_random + (1.0 - by_random.sum(-1, keepdims=True)) * (is_fixed * share))

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``."""
        return sample_slots(self.pick_distribution(drafts), generator)

    def summary(self) -> str:
        """Fixed tokens and random draws."""
        return f"fixed tokens by their share of p, {self.random} random draft by its chance"
