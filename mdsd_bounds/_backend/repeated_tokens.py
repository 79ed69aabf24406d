"""Tokens that stand twice in a row of token ids."""

from __future__ import annotations

import torch
from torch import Tensor


def repeated_token(ids: Tensor) -> Tensor:
    """Of each row of integers ``[B, K]`` the least token that stands there twice, -1 where none does.

    Slots of -1 are empty.

    Examples
    --------
    >>> repeated_token(torch.tensor([[3, 1, 3], [-1, 2, -1]]))
    tensor([ 3, -1])
    """
    ranked = ids.sort(-1).values
    twice = (ranked.diff(dim=-1) == 0) & (ranked[:, 1:] >= 0)
    none = torch.iinfo(ids.dtype).max
    least = torch.cat([torch.where(twice, ranked[:, 1:], none), ids.new_full((len(ids), 1), none)], -1).amin(-1)
    return torch.where(twice.any(-1), least, -1)
