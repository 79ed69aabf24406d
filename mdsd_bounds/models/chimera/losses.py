"""What a draft head is trained on: cross-entropy, total variation, or anything of p and q that falls as q improves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: ``(p [R, C], draft logits [R, C]) -> loss [R]``.
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(p: Tensor, logits: Tensor) -> Tensor:
    """``- sum_x p(x) log q(x)`` of every row: knowledge distillation.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.models.chimera import cross_entropy
    >>> cross_entropy(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
    tensor([0.6931])
    """
    return -(p * torch.log_softmax(logits, -1)).sum(-1)


def total_variation(p: Tensor, logits: Tensor) -> Tensor:
    """``1 - alpha*_1 = sum_x |p(x) - q(x)| / 2`` of every row (Zhou et al. 2023, "DistillSpec", arXiv 2310.08461).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.models.chimera import total_variation
    >>> total_variation(torch.tensor([[0.75, 0.25]]), torch.zeros(1, 2))
    tensor([0.2500])
    """
    return 0.5 * (p - torch.softmax(logits, -1)).abs().sum(-1)


#: Losses by name.
LOSSES: dict[str, Loss] = {"ce": cross_entropy, "tv": total_variation}
