"""Typical acceptance (Medusa, Cai et al., ICML 2024).  LOSSY: the output distribution is not p.

A draft x is accepted when ``p_x > min(epsilon, delta exp(-H(p)))``, H the entropy of p in nats; the first such draft is
output, else a draw from p.  Options ``epsilon`` (0.09) and ``delta`` (0.3), the defaults of the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers.kernels.dispatch import WIDE
from mdsd_bounds.verifiers.schemes.first_above import first_above

_EPSILON = 0.09
DELTA = 0.3


def threshold(p: Tensor, epsilon: float = _EPSILON, delta: float = DELTA) -> Tensor:
    """``min(epsilon, delta exp(-H(p)))`` ``[B]``."""
    for value, name in ((epsilon, "epsilon"), (delta, "delta")):
        if not 0 <= value <= 1:
            raise InputError(f"typical_acceptance: {name}={value!r}; give a number in [0, 1]")
    # Wide rows one by one: their memory is used again.
    blocks = [p[b : b + 1] for b in range(len(p))] if p.shape[-1] >= WIDE else [p]
    entropy = torch.cat([torch.special.entr(rows).sum(-1) for rows in blocks])
    return (delta * torch.exp(-entropy)).clamp(max=epsilon)


VERIFIER = first_above(
    "typical_acceptance", "Cai et al., Medusa, ICML 2024, arXiv 2401.10774", threshold, ("epsilon", "delta")
)
