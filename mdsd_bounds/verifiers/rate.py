"""The acceptance rate of a published verifier on given rows: exact where possible, else Monte Carlo with its error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.problem import Acceptance, ArrayLike, Counts, InputError, Option, Problem, squeeze
from mdsd_bounds.verifiers.base import Verifier, require_pair, sampler_options
from mdsd_bounds.verifiers.monte_carlo import HEAVY

#: How far a rate may be outside [0, 1] by rounding.
_RATE_TOLERANCE = 1e-9
#: Bytes of one sample for each draft and each token held one by one (44 measured at eight drafts).
_BYTES = 48


def acceptance_rate(
    p: ArrayLike,
    q: ArrayLike,
    n_drafts: Counts,
    sampler: str = "without_replacement",
    verifier: str | Verifier | Callable[..., Tensor] = "rrs_without_replacement",
    *,
    samples: int = 1000,
    seed: int = 0,
    generator: torch.Generator | None = None,
    **options: Option,
) -> Acceptance:
    """Probability that the verifier's output is one of the n drafts (whichever branch of the rule produced it).

    Parameters
    ----------
    p, q : array
        Target and draft probabilities as for :func:`mdsd_bounds.optimal_acceptance`: ``[V]`` or ``[B, V]``.
    n_drafts : int or sequence of int
        Numbers of drafts; a sequence is answered in one pass.
    sampler : str
        Name in :data:`mdsd_bounds.SAMPLERS`.
    verifier : str, Verifier or callable
        A name in :data:`mdsd_bounds.VERIFIERS`, ``module:NAME``, ``path/to/file.py:NAME``, a
        :class:`~mdsd_bounds.verifiers.Verifier`, or a plain function
        (:func:`mdsd_bounds.verifiers.from_function`).
    samples, seed : int
        Monte Carlo samples per position where no closed form exists, and the seed of their generator.
    generator : torch.Generator, optional
        Used in place of ``seed``.
    **options
        Options of the sampler (``m``, ``table``) and of the verifier (see its file).

    Returns
    -------
    Acceptance
        ``value`` and ``stderr``: ``[B]``, or ``[len(n_drafts), B]`` when a sequence was given; the row axis is dropped
        when p and q are single rows.  ``stderr`` is 0 where the value is a closed form or an enumeration; of
        an estimate it is that of the samples, which knows nothing of drafts that none of them met.

    Raises
    ------
    InputError
        On rows that are no distributions, shapes that do not match, unknown names or options, a pair of sampler and
        verifier that makes no sense, a third-party verifier that returns what is no distribution, or more samples than
        memory holds.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds import acceptance_rate
    >>> p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    >>> rate = acceptance_rate(p, q, 2, "with_replacement", "rrs")
    >>> round(float(rate.value), 4), rate.exact
    (0.68, True)
    """
    from mdsd_bounds.verifiers import get_verifier

    rule = get_verifier(verifier)
    problem, single_n, single_row = make_problem(p, q, n_drafts, sampler, **sampler_options(rule, options))
    require_pair(rule, sampler, problem.n_drafts)
    if isinstance(samples, bool) or int(samples) != samples or samples < 2:
        raise InputError(f"samples={samples!r}: give an integer of at least 2")
    require_memory(
        float(samples) * (HEAVY + max(problem.n_drafts)) * _BYTES,
        f"verifier {rule.name!r}: samples={samples}",
        "take fewer",
    )
    value = rule.exact(problem.p, problem.q, problem.n_drafts, sampler=sampler, **options)
    _check_rates(rule.name, "exact acceptance", value, problem, problem.n_drafts, unknown=True)
    stderr = torch.zeros_like(value)
    unknown = value.isnan().any(-1)
    if bool(unknown.any()):
        if generator is None:
            generator = torch.Generator(device=problem.p.device).manual_seed(seed)
        counts = tuple(n for n, missing in zip(problem.n_drafts, unknown.tolist(), strict=True) if missing)
        mean, error = rule.estimate(problem.p, problem.q, counts, int(samples), generator, sampler=sampler, **options)
        _check_rates(rule.name, "estimated acceptance", mean, problem, counts)
        _check_rates(rule.name, "standard error", error, problem, counts)
        sampled = value[unknown].isnan()
        value[unknown] = torch.where(sampled, mean, value[unknown])
        stderr[unknown] = torch.where(sampled, error, stderr[unknown])
    return Acceptance(
        squeeze(value, single_n, single_row),
        squeeze(stderr, single_n, single_row),
        not bool(unknown.any()),
        rule.name,
        rule.lossless if rule.audited else None,
        problem,
    )


def _check_rates(
    name: str, what: str, rates: Any, problem: Problem, counts: tuple[int, ...], *, unknown: bool = False
) -> None:
    """Refuse rates of another shape than ``[N, B]`` or outside [0, 1]; NaN passes where it stands for unknown."""
    shape = (len(counts), problem.p.shape[0])
    if not isinstance(rates, torch.Tensor) or rates.shape != shape:
        found = tuple(rates.shape) if isinstance(rates, torch.Tensor) else type(rates).__name__
        raise InputError(f"verifier {name!r}: {what} of shape {found}; it must be {shape}, [numbers of drafts, rows]")
    bad = ~((rates >= -_RATE_TOLERANCE) & (rates <= 1.0 + _RATE_TOLERANCE))
    if unknown:
        bad &= ~rates.isnan()
    if bool(bad.any()):
        i, b = bad.nonzero()[0].tolist()
        raise InputError(
            f"verifier {name!r} row {b}, n={counts[i]}: {what} {float(rates[i, b]):.6g}; it must lie between 0 and 1"
        )
