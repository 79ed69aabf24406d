"""One draw from each of n different drafters: ``Q(H) = prod_k q_k(H)`` (Khisti et al. 2025; multi-drafter ensembles).

``q`` is ``[B, n, V]``.  A plain ``[B, V]`` stands for n copies of one drafter, which is sampling with replacement.
There is no prefix order for different drafters: :mod:`mdsd_bounds.bounds.search.independent_drafts` gives a certified
interval.
"""

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers.base import Sampler
from mdsd_bounds.samplers.one_position import draw_many
from mdsd_bounds.samplers.with_replacement import SAMPLER as WITH_REPLACEMENT


def conditional(q: Tensor, drawn: Tensor, k: int, n: int, **_: Option) -> Tensor:
    """Distribution of draft k: the k-th drafter's, whatever was drawn before."""
    if q.ndim == 2:
        return q
    if k >= q.shape[1]:
        raise InputError(
            f"independent: {n} drafts asked for but q has distributions of {q.shape[1]} drafters; give q [B, n, V]"
        )
    return q[:, k]


def subset_mass(q: Tensor, subset: Tensor, n: int, **_: Option) -> Tensor:
    """``Q(H) = prod_k q_k(H)`` ``[B]``."""
    each = q[:, None].expand(-1, n, -1) if q.ndim == 2 else q[:, :n]
    return (each * subset[:, None]).sum(-1).prod(-1)


def sample_position(q: Tensor, n: int, samples: int, generator: torch.Generator | None, **_: Option) -> Tensor:
    """``[samples, n]`` drafts at one position, q ``[V]`` or ``[n, V]``."""
    each = q if q.ndim == 2 else q.expand(n, -1)
    return torch.stack([draw_many(probs, samples, generator) for probs in each[:n]], -1)


SAMPLER = Sampler(
    "independent",
    conditional,
    replacement=True,
    options=("tolerance", "passes"),
    takes="drafters",
    independent=True,
    nested=True,
    one_drafter=WITH_REPLACEMENT,
    subset_mass=subset_mass,
    sample_position=sample_position,
    method="product",
    cost="bound by branch and bound; depends on the instance",
)
