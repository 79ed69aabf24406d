"""Rows of logits whose probabilities float64 cannot hold in full: subnormal, or rounded to zero."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Logarithm of the smallest normal float64: what is less probable than that is subnormal, or zero.
LOG_NORMAL = math.log(torch.finfo(torch.float64).tiny)


def log_range(logits: Tensor) -> Tensor:
    """Distance ``[B]`` of the smallest finite logit of each row ``[B, V]`` from the largest, at most 0, float64.

    Divided by the temperature and held against :data:`LOG_NORMAL` it says whether some token's probability falls below
    the smallest normal number, where float64 holds fewer digits, or none, of what the logits say.
    """
    peak, least = logits.amax(-1).to(torch.float64), logits.amin(-1).to(torch.float64)
    # Masked tokens are exact zeros by intention.
    masked = (least == -float("inf")).nonzero()[:, 0]
    if len(masked):
        rows = logits[masked]
        least[masked] = rows.masked_fill(rows == -float("inf"), float("inf")).amin(-1).to(torch.float64)
    return least - peak


def underflows(
    logits: Tensor,
    temperature: float,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    **_: Any,
) -> Tensor:
    """Whether some kept token of each row ``[B]`` has a probability that is subnormal or underflows to zero.

    Counted against the largest probability, so that a row within a factor V of the edge may not be.  A nucleus keeps
    no such tokens, and greedy decoding means its zeros.  O(V) a row.
    """
    # A minimum of 1e-300 of the largest probability keeps no subnormal one either.
    if temperature == 0 or (top_p is not None and top_p < 1) or (min_p is not None and min_p > 1e-300):
        return torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    found = log_range(logits) / temperature < LOG_NORMAL
    rows = found.nonzero()[:, 0]
    if top_k is not None and top_k < logits.shape[-1] and len(rows):
        kept = logits[rows].topk(top_k, -1).values
        found[rows] = log_range(kept) / temperature < LOG_NORMAL
    return found
