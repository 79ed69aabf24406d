"""What a draft head is trained on: cross-entropy, total variation, or anything of p and q that falls as q improves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: ``(p [R, C], draft logits [R, C]) -> loss [R]``.
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(p: Tensor, logits: Tensor) -> Tensor:
    """``- sum_x p(x) log q(x)`` of every row: knowledge distillation."""
    return -(p * torch.log_softmax(logits, -1)).sum(-1)


def total_variation(p: Tensor, logits: Tensor) -> Tensor:
    """``1 - alpha*_1 = sum_x |p(x) - q(x)| / 2`` of every row (Zhou et al. 2023, "DistillSpec", arXiv 2310.08461)."""
    return 0.5 * (p - torch.softmax(logits, -1)).abs().sum(-1)


#: Losses by name.
LOSSES: dict[str, Loss] = {"ce": cross_entropy, "tv": total_variation}
