"""Speculative sampling of one draft: the piece that most rules are made of.

A draft x of distribution q is kept with ``min(1, p_x / q_x)``; otherwise the output comes from the residual ``norm((p -
q)_+)``. The output distribution is p (Leviathan et al. 2023; Chen et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor


def at(probs: Tensor, token: Tensor) -> Tensor:
    """``probs[b, token[b]]`` ``[B]``; 0 for an empty slot."""
    return probs.gather(-1, token.clamp(min=0)[:, None])[:, 0] * (token >= 0)


def add_at(probs: Tensor, token: Tensor, mass: Tensor) -> Tensor:
    """``probs`` with ``mass`` ``[B]`` added at ``token`` ``[B]``; empty slots must carry no mass."""
    return probs.scatter_add(-1, token.clamp(min=0)[:, None], mass[:, None])


def accept_probability(p: Tensor, q: Tensor, token: Tensor) -> Tensor:
    """``min(1, p_x / q_x)`` ``[B]``; 0 for an empty slot, 1 where q_x = 0 < p_x (a draft that q cannot give)."""
    target, draft = at(p, token), at(q, token)
    ratio = target / torch.where(draft > 0, draft, torch.ones_like(draft))
    return torch.where(draft > 0, ratio.clamp(max=1.0), (target > 0).to(p.dtype))


def residual(p: Tensor, q: Tensor) -> Tensor:
    """``norm((p - q)_+)`` ``[B, V]``; p itself where nothing is left over, for then it is reached by rounding alone."""
    left = (p - q).clamp(min=0.0)
    mass = left.sum(-1, keepdim=True)
    return torch.where(mass > 0, left / torch.where(mass > 0, mass, torch.ones_like(mass)), p)


def speculative_distribution(p: Tensor, q: Tensor, token: Tensor) -> Tensor:
    """Distribution of the output ``[B, V]`` given the one draft ``token`` ``[B]`` of distribution q."""
    accept = accept_probability(p, q, token)
    return add_at((1.0 - accept)[:, None] * residual(p, q), token, accept)
