"""Probability that a token is among a few draws without replacement, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.samplers.base import RAISE


def inclusion_probabilities(r: Tensor, draws: int) -> Tensor | None:
    """Probability ``[B, V]`` that each token is among draws without replacement at rates r; None beyond two draws."""
    r = r * RAISE
    total = r.sum(-1, keepdim=True)
    share = r / torch.where(total > 0, total, torch.ones_like(total))
    if draws == 0:
        return torch.zeros_like(r)
    if draws == 1:
        return share
    if draws == 2:
        # r_i + sum_{j != i} r_j r_i / (1 - r_j); the largest token's 1 - r is summed from the others.
        largest = r.argmax(-1, keepdim=True)
        others = r.scatter(-1, largest, 0.0)
        rest = others.sum(-1, keepdim=True)
        odds = others / torch.where(total > 0, total - others, torch.ones_like(total))
        # A largest token that holds everything leaves nothing for a second draw.
        after = share.gather(-1, largest) * others / torch.where(rest > 0, rest, torch.ones_like(rest))
        second = (odds.sum(-1, keepdim=True) - odds).scatter(-1, largest, odds.sum(-1, keepdim=True))
        return share * (1.0 + second) + after
    return None
