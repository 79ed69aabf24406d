"""Many drafts at one position, quickly: what Monte Carlo over drafts needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import fixed_mask, remainder, sample_law, top_tokens

_ROWS = 64


def many_drafts(
    q: Tensor, n: int, samples: int, generator: torch.Generator | None, *, sampler: str, **options: Any
) -> Tensor:
    """``[samples, n]`` drafts of one position, each row on its own.

    Parameters
    ----------
    q : Tensor
        ``[V]`` (``[n, V]`` for ``independent``, ``[T]`` for ``joint``).

    Notes
    -----
    O(V + samples n^2 log V) for the samplers of the fixed-plus-random family and for independent drafters.
    """
    rule = get_sampler(sampler)
    if sampler == "independent":
        laws = q if q.ndim == 2 else q.expand(n, -1)
        return torch.cat([sample_law(law, 1, samples, generator) for law in laws[:n]], -1)
    if rule.split is None or q.device.type != "cpu":
        parts = [
            rule.sample(q.expand(min(_ROWS, samples - first), *q.shape), n, generator, **options)
            for first in range(0, samples, _ROWS)
        ]
        return torch.cat(parts)
    fixed, random = rule.split(n, **options)
    head = top_tokens(q[None], fixed).expand(samples, -1)
    rest = remainder(q[None], fixed_mask(q[None], fixed))[0]
    if not bool(rest.sum() > 0):
        return torch.nn.functional.pad(head, (0, random), value=-1)
    if rule.replacement:
        tail = sample_law(rest, 1, samples * random, generator).reshape(samples, random)
    else:
        tail = sample_law(rest, random, samples, generator)
    return torch.cat([head, tail], -1)
