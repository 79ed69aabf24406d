"""One draw from each of n different drafters: ``Q(H) = prod_k q_k(H)`` (Khisti et al. 2025; multi-drafter ensembles).

``q`` is ``[B, n, V]``.  A plain ``[B, V]`` stands for n copies of one drafter, which is sampling with replacement.
There is no prefix order for different drafters: :mod:`mdsd_bounds.bounds.search.independent_drafts` gives a certified
interval.
"""

from typing import Any

from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import Sampler


def conditional(q: Tensor, drawn: Tensor, k: int, n: int, **_: Any) -> Tensor:
    """Law of draft k: the k-th drafter's, whatever was drawn before."""
    if q.ndim == 2:
        return q
    if k >= q.shape[1]:
        raise InputError(f"independent: {n} drafts asked for but q has laws of {q.shape[1]} drafters; give q [B, n, V]")
    return q[:, k]


SAMPLER = Sampler("independent", conditional)
