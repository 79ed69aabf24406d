"""Rows cut to their k most probable tokens, with what is known of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from mdsd_bounds.distributions import peak_of
from mdsd_bounds.problem import rounding_unit

#: Rows of one model, with what is known of their missing mass where they are truncated.
Rows: TypeAlias = tuple[Tensor, Tensor | None]
#: What is said of dropped mass that underflows: not nothing.
LEAST = 1e-300


def top_k_rows(logits: Tensor, cut: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k most probable tokens of full or truncated rows ``[B, V]``: ids ``[B, k]``, log-probabilities float64, cut.

    Empty slots (rows with fewer known tokens) have id -1.  What is dropped joins the missing mass.  The logarithms of
    full rows are kept in float64: then equal logits stay equal and the order among tokens stays certain, on which the
    samplers with fixed tokens depend.
    """
    if cut is None:
        peak_of(logits, "logits")
        # Not the logarithm of the distribution, which is zero for tokens that a high temperature brings back.
        logprobs = torch.log_softmax(logits.to(torch.float64), -1)
        cut = torch.zeros((logits.shape[0], 4), dtype=torch.float64)
        cut[:, 2] = -float("inf")
    else:
        logprobs, cut = logits.to(torch.float64), cut.clone()
    k = min(k, logprobs.shape[1])
    value, ids = logprobs.topk(min(k + 1, logprobs.shape[1]), -1)
    # No dropped token is more probable than the first of them.
    first = value[:, k] if value.shape[1] > k else torch.full_like(value[:, 0], -float("inf"))
    value, ids = value[:, :k], ids[:, :k]
    dropped = (logprobs.exp().scatter(-1, ids, 0.0)).sum(-1)
    slack = cut[:, 3].clone()
    held = torch.isfinite(value)
    cut[:, 0] += dropped * (-slack).exp()
    cut[:, 1] += torch.where(torch.isfinite(first), (dropped * slack.exp()).clamp(min=LEAST), 0.0)
    cut[:, 2] = torch.maximum(cut[:, 2], first + slack)
    return torch.where(held, ids, torch.full_like(ids, -1)), value, cut


def top_k_arrays(target: Rows, draft: Rows, k: int) -> dict[str, Tensor]:
    """The arrays of a top-k dump of some rows: ids (int32), log-probabilities and cuts of both models.

    Each side is ``(logits [B, V], cut [B, 4] or None)`` as for :func:`top_k_rows`.
    """
    arrays: dict[str, Tensor] = {}
    for role, (logits, cut) in (("target", target), ("draft", draft)):
        ids, value, rest = top_k_rows(logits, cut, k)
        arrays |= {f"{role}_ids": ids.to(torch.int32), f"{role}_logprobs": value, f"{role}_cut": rest}
    return arrays


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Arrays of several blocks of rows, one below the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def to_float32(logprobs: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Truncated rows in float32; what that rounds off is added to the error bound, and to the cap."""
    largest = torch.where(torch.isfinite(logprobs), logprobs.abs(), torch.zeros_like(logprobs)).amax(-1)
    rounding = rounding_unit(torch.float32) * (largest + 1.0)
    cut = cut.clone()
    cut[:, 2] += rounding
    cut[:, 3] += rounding
    return logprobs.to(torch.float32), cut
