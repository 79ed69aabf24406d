"""Many drafts at one position, quickly: what Monte Carlo over drafts needs."""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.one_position import (
    HEAVY,
    draw_heavy_or_light,
    draw_many,
    draw_many_without,
    sample_position,
)

__all__ = ["HEAVY", "draw_heavy_or_light", "draw_many", "draw_many_without", "many_drafts"]


def many_drafts(
    q: Tensor, n: int, samples: int, generator: torch.Generator | None, *, sampler: str, **options: Option
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
    return sample_position(get_sampler(sampler), q, n, samples, generator, **options)
