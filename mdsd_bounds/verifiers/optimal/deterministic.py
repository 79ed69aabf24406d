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

import torch
from torch import Tensor

from mdsd_bounds.bounds.race import sum_rounding
from mdsd_bounds.samplers.base import fixed_mask, remainder
from mdsd_bounds.verifiers.optimal.prepared import Prepared


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
    held = fixed_mask(q[None], fixed)[0]
    draft = remainder(q[None], held[None])[0] if random else torch.zeros_like(q)
    drawn = bool(draft.sum() > 0)
    on_fixed = torch.where(held, p, 0.0)
    mass = on_fixed.sum()
    if not bool(mass > 0):
        # Nothing speaks for the fixed tokens: pick the random draft, or any fixed token where there is none.
        keep = torch.ones_like(p)
        share = held / held.sum().clamp(min=1)
        r = draft if drawn else share
    else:
        keep = torch.where(draft > 0, (p / torch.where(draft > 0, draft, 1.0)).clamp(max=1.0), 0.0)
        share = on_fixed / mass
        taken = draft * keep
        r = torch.where(held, share * (1.0 - taken.sum()), taken)
    accepted = float(torch.minimum(p, r).sum())
    below = held | (p < draft)
    within = float(torch.where(held, 0.0, draft)[below].sum()) if drawn else 1.0
    high = min(1.0, 1.0 + float(p[below].sum()) - within + 4 * sum_rounding(len(p)))

    def pick_law(drafts: Tensor) -> Tensor:
        slots = torch.arange(drafts.shape[1])
        token = drafts.clamp(min=0)
        filled = drafts >= 0
        is_random = (slots >= drafts.shape[1] - random) & filled
        by_random = torch.where(is_random, keep[token], 0.0)
        others = torch.where(filled & ~is_random, share[token], 0.0)
        return by_random + (1.0 - by_random.sum(-1, keepdim=True)) * others

    def pick(drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        table = pick_law(drafts).cumsum(-1)
        goal = table[:, -1:] * (1.0 - torch.rand((len(drafts), 1), dtype=table.dtype, generator=generator))
        return torch.searchsorted(table, goal)[:, 0].clamp_(max=drafts.shape[1] - 1)

    return Prepared(p, r, max(0.0, high - accepted), pick_law, pick)
