"""Check a certificate with nothing but the distributions and the subset: ``alpha* <= 1 + P(H) - Q(H)`` for every H.

Independent of how the subset was found: no order of tokens is used, and the tokens outside H enter only through their
total mass.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.bounds.search.exponential_race import race_prefix_mass
from mdsd_bounds.problem import Bound, Option, Problem
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import fixed_mask, leftover


def subset_bound(bound: Bound) -> Tensor:
    """``1 + P(H) - Q(H)`` (plus ``bound.tv``) of a bound's own subset, computed afresh: shape of ``bound.value``.

    Parameters
    ----------
    bound : Bound
        Answer of any method that records its subset.

    Returns
    -------
    Tensor
        An upper bound on alpha* whatever the subset is; equal to ``bound.high`` up to ``bound.high - bound.low`` where
        the subset is optimal.

    Raises
    ------
    InputError
        If the method records no subset.

    Notes
    -----
    Cost per row: O(V), and O(k n G) for a subset of k tokens without replacement for n > 2, G quadrature nodes.
    Source: weak duality, Hu et al., ICLR 2025, arXiv 2502.18779.

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance, subset_bound
    >>> bound = optimal_acceptance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "with_replacement")
    >>> round(float(subset_bound(bound)), 6), round(float(bound.value), 6)
    (0.76, 0.76)
    """
    problem = bound.problem
    counts, rows, size = len(problem.n_drafts), problem.p.shape[0], problem.p.shape[1]
    subset = bound.subset.reshape(counts, rows, size)
    values = [
        1.0 + (problem.p * held).sum(-1) - draft_mass(problem.q, held, n, problem.sampler, problem.options)
        for held, n in zip(subset, problem.n_drafts, strict=True)
    ]
    certificate = torch.stack(values).reshape(bound.value.shape)
    return (certificate + bound.tv).clamp(max=1.0) if bound.tv > 0 else certificate


def draft_mass(q: Tensor, subset: Tensor, n: int, sampler: str, options: Mapping[str, Option] | None = None) -> Tensor:
    """``Q(H) = Pr(every one of n drafts lies in H)``, for any subset H and any registered sampler.

    Parameters
    ----------
    q : Tensor
        ``[B, V]`` float64 distributions (``[B, n, V]`` for ``independent``, ``[B, T]`` for ``joint``).
    subset : Tensor
        ``[B, V]`` bool; for a single position ``[V]``, and ``q`` without its first axis.
    n : int
        Number of drafts, at least 1.
    sampler : str
        Name in :data:`mdsd_bounds.samplers.SAMPLERS`.
    options : mapping, optional
        Options of the sampler.

    Returns
    -------
    Tensor
        ``[B]``; ``[]`` for a single position.

    Raises
    ------
    InputError
        If the sampler is unknown, or its ``Q(H)`` must be enumerated and there are too many drafted sets.

    Notes
    -----
    Without replacement the tokens outside H are one exponential arrival of rate ``1 - q(H)``: only its first arrival
    matters (:mod:`mdsd_bounds.bounds.search.exponential_race`).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds import draft_mass
    >>> q, subset = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[False, True, True]])
    >>> [round(float(draft_mass(q, subset, 2, name)), 4) for name in ("with_replacement", "without_replacement")]
    [0.64, 0.5143]
    """
    rule, options = get_sampler(sampler), dict(options or {})
    if subset.ndim == 1:
        # One position, as Bound.subset has it.
        return draft_mass(q[None], subset[None], n, sampler, options)[0]
    if rule.subset_mass is not None:
        return rule.subset_mass(q, subset, n, **options)
    if rule.split is None:
        # Only the size of the vocabulary is read of the target.
        problem = Problem(subset.to(torch.float64), q, (n,), sampler, options)
        found = [draft_sets(problem, b, n).inside(held) for b, held in enumerate(subset.cpu().numpy())]
        return torch.tensor(found, dtype=q.dtype, device=q.device)
    m, draws = rule.split(n, **options)
    fixed = fixed_mask(q, m)
    rest = leftover(q, fixed)
    holds_fixed = (subset | ~fixed).all(-1)
    inside = rest * subset
    if rule.replacement:
        return holds_fixed * _share(inside, rest).pow(draws)
    mass = [
        _race_mass(row[held], float(all_[~held].sum()), draws)
        for row, all_, held in zip(inside, rest, subset, strict=True)
    ]
    return holds_fixed * torch.stack(mass)


def _share(inside: Tensor, probs: Tensor) -> Tensor:
    """Mass of H under the distribution; 1 where the distribution is empty, for then nothing is drawn outside H."""
    total = probs.sum(-1)
    return torch.where(
        total > 0, inside.sum(-1) / torch.where(total > 0, total, torch.ones_like(total)), torch.ones_like(total)
    ).clamp(max=1.0)


def _race_mass(rates: Tensor, outside: float, draws: int) -> Tensor:
    """``Q`` of the tokens with the given rates against one arrival of rate ``outside``."""
    rates = rates[rates > 0]
    if outside == 0.0:
        return torch.ones((), dtype=rates.dtype, device=rates.device)
    merged = torch.cat([rates, rates.new_tensor([outside])])
    mass, _ = race_prefix_mass(merged[None], [draws])
    return mass[0, 0, len(rates)]
