"""How far a lossy verifier's output distribution is from p: total variation, beside the acceptance it buys."""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.bounds import make_problem
from mdsd_bounds.problem import ArrayLike, Counts, Option, Problem, squeeze
from mdsd_bounds.verifiers.base import Verifier, require_pair, sampler_options
from mdsd_bounds.verifiers.enumeration import enumerate_verifier

#: Draft tuples up to which a rule without a closed form is enumerated.
ENUMERATED = 20_000


def output_distance(
    p: ArrayLike,
    q: ArrayLike,
    n_drafts: Counts,
    sampler: str = "without_replacement",
    verifier: str | Verifier = "tv_budget",
    **options: Option,
) -> Tensor:
    """``TV(output probs, p)`` of a verifier: 0 if it is lossless, exact or NaN if it is not.

    Parameters
    ----------
    p, q, n_drafts, sampler, verifier, **options
        As :func:`mdsd_bounds.acceptance_rate`.

    Returns
    -------
    Tensor
        In [0, 1], of the shape of ``acceptance_rate(...).value``.  NaN where the rule states no distance and there are
        more than :data:`ENUMERATED` draft tuples.

    Raises
    ------
    InputError
        As :func:`mdsd_bounds.acceptance_rate`.

    Examples
    --------
    >>> from mdsd_bounds.verifiers import output_distance
    >>> output_distance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 1, "with_replacement", "typical_acceptance")
    tensor(0.4000, dtype=torch.float64)
    """
    from mdsd_bounds.verifiers import get_verifier

    rule = get_verifier(verifier)
    problem, single_n, single_row = make_problem(p, q, n_drafts, sampler, **sampler_options(rule, options))
    require_pair(rule, sampler, problem.n_drafts)
    return squeeze(_distances(rule, problem, options), single_n, single_row)


def _distances(rule: Verifier, problem: Problem, options: dict[str, Option]) -> Tensor:
    shape = (len(problem.n_drafts), problem.p.shape[0])
    if rule.lossless:
        return problem.p.new_zeros(shape)
    if rule.distance is not None:
        return rule.distance(problem.p, problem.q, problem.n_drafts, sampler=problem.sampler, **options)
    values = problem.p.new_full(shape, float("nan"))
    for i, n in enumerate(problem.n_drafts):
        if float(problem.p.shape[1]) ** n <= ENUMERATED:
            for b in range(shape[1]):
                found = enumerate_verifier(rule, problem.p[b], problem.q[b], n, sampler=problem.sampler, **options)
                values[i, b] = total_variation(found.probs, problem.p[b])
    return values


def total_variation(a: Tensor, b: Tensor) -> Tensor:
    """``sum (a - b)_+`` over the last axis."""
    return torch.sub(a, b).clamp_(min=0.0).sum(-1)
