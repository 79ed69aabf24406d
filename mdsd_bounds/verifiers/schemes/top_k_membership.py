"""Top-K membership.  LOSSY: the output distribution is not p.

A draft is accepted when it is among the K most probable tokens of the target (ties with the K-th included); the first
such draft is the output, else a token drawn from p.  Option ``k`` (5).

This is the baseline "top-k" of Hao and Mou, Cactus (ICLR 2026, arXiv 2604.04987), in how drafts are accepted.  Their
code draws the token after a rejection from another distribution (the K tokens alone); here it is p, as in typical
acceptance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.samplers.base import integer_option
from mdsd_bounds.verifiers.schemes.first_above import first_above

K = 5


def threshold(p: Tensor, k: int = K) -> Tensor:
    """The largest number ``[B]`` that all of the K most probable tokens exceed; 0 at least: p = 0 is never a member.

    Raises
    ------
    InputError
        If k is no integer of at least 1.
    """
    k = integer_option(k, "k", 1)
    last = p.topk(min(k, p.shape[-1]), -1).values[:, -1]
    return torch.nextafter(last, torch.full_like(last, -1.0)).clamp(min=0.0)


VERIFIER = first_above(
    "top_k_membership", "baseline in Hao and Mou, Cactus, ICLR 2026, arXiv 2604.04987", threshold, ("k",)
)
