"""The optimal rule where at most one draft is random: fixed tokens A, and one draw from q off A (greedy), or none.

Let r' be the law of the random draft: q off A, renormalised.  The random draft y is picked with probability
``min(1, p_y / r'_y)``, else a fixed token a with probability ``p_a / P(A)``.  The law of the pick is

    ``r_y = min(p_y, r'_y)`` off A,   ``r_a = p_a / P(A) * (1 - sum over y off A of min(p_y, r'_y))`` on A.

``sum off A of min(p, r') <= 1 - P(A)``, so ``r_a >= p_a``, and the acceptance is ``P(A) + sum off A of min(p, r')``:
alpha* of this sampler (Hu et al., ICLR 2025, arXiv 2502.18779); H = A and the tokens off A with p < r' proves it from
above.  With no random draft (top_k) the acceptance is P(A).  Where P(A) = 0 the random draft, or without one any fixed
token, is always picked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.exponential_race import sum_rounding
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
        ``[V]`` float64 laws.

    Returns
    -------
    Prepared
        With a gap of rounding size.
    """
    held = fixed_tokens(q, fixed)
    draft = q.clone()
    draft[held] = 0.0
    total = float(draft.sum()) if random else 0.0
    if total > 0.0:
        draft /= total
    else:
        draft.zero_()
    target = p[held]
    mass = float(target.sum())
    share = target / mass if mass > 0.0 else torch.full_like(target, 1.0 / max(1, len(held)))
    # Nothing speaks for the fixed tokens where P(A) = 0: the random draft is always picked.
    r = torch.minimum(p, draft) if mass > 0.0 or total == 0.0 else draft.clone()
    taken = float(r.sum())
    r[held] = share * (1.0 - taken)
    # 1 + P(H) - Q(H) for H = A and the tokens with p < r': the same sum again, as r' sums to one.
    kept = taken if mass > 0.0 or total == 0.0 else float(torch.minimum(p, draft).sum())
    high = min(1.0, mass + kept + 4 * sum_rounding(len(p)))

    always_random = not (mass > 0.0)
    chance = torch.where(draft > 0, p / torch.where(draft > 0, draft, 1.0), 1.0).clamp_(max=1.0)
    chance[held] = share
    if always_random:
        chance[draft > 0] = 1.0
    return Prepared(p, r, max(0.0, high - float(torch.minimum(p, r).sum())), FixedRule(chance, random))


@dataclass(frozen=True)
class FixedRule:
    """The rule that runs: the random draft with a chance of its own, else a fixed one by its share.

    Attributes
    ----------
    chance : Tensor
        ``[V]``: shares of the fixed tokens, and for the others the chance to be picked once drawn.
    random : int
        Whether the last draft is random: 0 or 1.
    """

    chance: Tensor
    random: int

    def pick_law(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` is the pick.  O(T n)."""
        given, filled = self.chance[drafts.clamp(min=0)], drafts >= 0
        is_random = (torch.arange(drafts.shape[1]) >= drafts.shape[1] - self.random) & filled
        by_random = torch.where(is_random, given, 0.0)
        fixed = torch.where(filled & ~is_random, given, 0.0)
        # Without fixed tokens the random draft is all there is.
        by_random = torch.where(fixed.sum(-1, keepdim=True) > 0.0, by_random, 1.0 * is_random)
        return by_random + (1.0 - by_random.sum(-1, keepdim=True)) * fixed

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``."""
        return sample_slots(self.pick_law(drafts), generator)

    def summary(self) -> str:
        """Fixed tokens and random draws."""
        return f"fixed tokens by their share of p, {self.random} random draft by its chance"


def fixed_tokens(q: Tensor, m: int) -> Tensor:
    """The ``m`` most probable tokens of q ``[V]``, fewer where the support is smaller; lowest index first at the edge.

    As :func:`mdsd_bounds.samplers.base.top_tokens`, without sorting the row where there are ties.
    """
    if m <= 0:
        return torch.zeros(0, dtype=torch.int64)
    edge = q.topk(min(m, len(q))).values[-1]
    above = (q > edge).nonzero()[:, 0]
    tied = (q == edge).nonzero()[: min(m, len(q)) - len(above), 0] if bool(edge > 0) else above[:0]
    return torch.cat([above, tied])
