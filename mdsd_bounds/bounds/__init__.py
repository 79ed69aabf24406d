"""Routes to the optimal acceptance rate.  Each takes a validated problem and returns a bound of shape [N, B]."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.checked_rows import RowSums
from mdsd_bounds.distributions import as_rows, as_tensor, validate_probs
from mdsd_bounds.problem import ArrayLike, Bound, Counts, InputError, Option, Problem, checked_tv, draft_counts, squeeze
from mdsd_bounds.samplers import get_sampler

if TYPE_CHECKING:
    from mdsd_bounds.bounds.gradient import acceptance_loss, differentiable_acceptance

#: On a GPU the outer search is taken from here on.
_WIDE_ON_CUDA = 8192
#: Name of a route -> (module, function).  Looked up when used: no route needs the packages of another.
METHODS: dict[str, tuple[str, str]] = {
    "fast": ("mdsd_bounds.bounds.search.compiled_search", "solve_fast"),
    "outer": ("mdsd_bounds.bounds.search.torch_search", "solve_outer"),
    "prefix": ("mdsd_bounds.bounds.search.prefix_scan", "solve_prefix"),
    "subsets": ("mdsd_bounds.bounds.oracles.subset_enumeration", "solve_subsets"),
    "lp": ("mdsd_bounds.bounds.oracles.linear_program", "solve_lp"),
    "cvxpy": ("mdsd_bounds.bounds.oracles.linear_program_cvxpy", "solve_cvxpy"),
    "maxflow": ("mdsd_bounds.bounds.oracles.max_flow", "solve_maxflow"),
    "product": ("mdsd_bounds.bounds.search.independent_drafts", "solve_product"),
}

__all__ = [
    "METHODS",
    "acceptance_loss",
    "differentiable_acceptance",
    "make_problem",
    "optimal_acceptance",
    "solve",
    "within",
]


def __getattr__(name: str) -> object:
    # The gradient stands on the search, which is defined below.
    if name in ("acceptance_loss", "differentiable_acceptance"):
        return getattr(importlib.import_module("mdsd_bounds.bounds.gradient"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def optimal_acceptance(
    p: ArrayLike,
    q: ArrayLike,
    n_drafts: Counts,
    sampler: str = "without_replacement",
    *,
    method: str = "auto",
    tv: float = 0.0,
    **options: Option,
) -> Bound:
    """Best acceptance rate that any multi-draft verifier can reach, with a certified interval.

    ``alpha* = 1 + min over token sets H of (P(H) - Q(H))``, where ``P(H)`` is the target's mass on H and ``Q(H)`` the
    probability that all n drafts lie in H.  This is the bound of every lossless verifier; one whose output distribution
    may be a total variation ``tv`` from p can reach ``min(1, alpha* + tv)`` and no more (docs/lossy.md).

    Parameters
    ----------
    p, q : array
        Target and draft probabilities, ``[V]`` or ``[B, V]``, numpy or torch, any float dtype and device; rows sum to
        one (see :func:`mdsd_bounds.to_probs` for logits).  For ``sampler="independent"`` q may be ``[n, V]`` or
        ``[B, n, V]``, one distribution per drafter; for ``"joint"`` it is ``[T]`` or ``[B, T]``, one probability per
        tuple.
    n_drafts : int or sequence of int
        Numbers of drafts; a sequence is answered in one pass.
    sampler : str
        One of :data:`mdsd_bounds.samplers.SAMPLERS`.
    method : str
        One of :data:`METHODS`; ``"auto"`` takes the fastest that is exact for the sampler.
    tv : float
        In [0, 1]: total variation allowed between the output distribution and p; 0 means lossless.
    **options
        Options of the sampler: ``m`` for top_m_plus, ``table`` ``[T, n]`` for joint, ``tolerance`` and ``passes`` (the
        work allowed per row) for independent.

    Returns
    -------
    Bound
        ``value``, ``low``, ``high``, ``subset_size``: ``[B]``, or ``[len(n_drafts), B]`` when a sequence was given; the
        row axis is dropped when p and q are single rows.  ``low <= alpha* <= high`` always.

    Raises
    ------
    InputError
        On rows that are no distributions, shapes that do not match, n < 1, a tv outside [0, 1], or an unknown sampler,
        method or option.

    Notes
    -----
    Cost per row: a few passes over p and q (``fast``, up to 64 draws without replacement; see
    :mod:`mdsd_bounds.bounds.search.compiled_search`); by the scan O(V log V) with replacement, greedy and top_k and
    O(V n G) without replacement, G about 100.
    Source: Hu et al., "Towards optimal multi-draft speculative decoding", ICLR 2025, arXiv 2502.18779 (dual and prefix
    theorem); the quadrature without replacement is described in :mod:`mdsd_bounds.bounds.search.exponential_race`.

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance
    >>> [round(float(optimal_acceptance([0.5, 0.5], [0.75, 0.25], 1, tv=tv).value), 3) for tv in (0.0, 0.1, 0.5)]
    [0.75, 0.85, 1.0]
    """
    tv = checked_tv(tv)
    found = _solve_unchecked(p, q, n_drafts, sampler, **options) if method in ("auto", "fast") else None
    if found is None:
        problem, single_n, single_row = make_problem(p, q, n_drafts, sampler, defects=None, **options)
        bound = solve(problem, method)
    else:
        bound, single_n, single_row = found
        problem = bound.problem
    bound = within(bound, tv)
    if not (single_n or single_row):
        return bound
    make = bound.make_subset
    return Bound(
        value=squeeze(bound.value, single_n, single_row),
        low=squeeze(bound.low, single_n, single_row),
        high=squeeze(bound.high, single_n, single_row),
        subset_size=squeeze(bound.subset_size, single_n, single_row),
        problem=problem,
        method=bound.method,
        plan=bound.plan,
        dual=bound.dual,
        make_subset=None if make is None else lambda: squeeze(make(), single_n, single_row),
        tv=bound.tv,
    )


def _solve_unchecked(
    p: ArrayLike, q: ArrayLike, n_drafts: Counts, sampler: str, **options: Option
) -> tuple[Bound, bool, bool] | None:
    """The bound of wide rows that are checked while they are searched; None where these are no such rows."""
    rule = get_sampler(sampler)
    if rule.split is None or rule.method is not None or not (RowSums.takes(p) and RowSums.takes(q)):
        return None
    # Nothing is said of the rows yet.
    none = torch.zeros(np.shape(p)[0], dtype=torch.float64)
    problem, single_n, single_row = make_problem(p, q, n_drafts, sampler, defects=(none, none), **options)
    from mdsd_bounds.bounds.search.compiled_search import solve_unchecked

    bound = solve_unchecked(problem)
    return None if bound is None else (bound, single_n, single_row)


def within(bound: Bound, tv: float) -> Bound:
    """The bound of rules whose output distribution is within a total variation ``tv`` of p: ``min(1, alpha* + tv)``.

    Parameters
    ----------
    bound : Bound
        Of lossless rules (``bound.tv == 0``).
    tv : float
        In [0, 1].

    Raises
    ------
    InputError
        If tv is no number in [0, 1].

    Examples
    --------
    >>> from mdsd_bounds import optimal_acceptance
    >>> from mdsd_bounds.bounds import within
    >>> bound = optimal_acceptance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "with_replacement")
    >>> [round(float(within(bound, tv).value), 4) for tv in (0.0, 0.05, 0.5)]
    [0.76, 0.81, 1.0]
    """
    tv = checked_tv(tv)
    if tv == 0:
        return bound
    value, low, high = ((end + tv).clamp(max=1.0) for end in (bound.value, bound.low, bound.high))
    return replace(bound, value=value, low=low, high=high, tv=tv)


def make_problem(
    p: ArrayLike,
    q: ArrayLike,
    n_drafts: Counts,
    sampler: str,
    *,
    defects: tuple[Tensor, Tensor] | None = None,
    **options: Option,
) -> tuple[Problem, bool, bool]:
    """Check p, q and ``n_drafts`` and put them in a :class:`Problem`; the flags say which axes were single.

    Parameters
    ----------
    defects : (Tensor, Tensor) or None
        Of p and of q, where :func:`mdsd_bounds.distributions.probs_and_defect` has made and checked them.

    Raises
    ------
    InputError
        As :func:`optimal_acceptance`.

    Examples
    --------
    >>> from mdsd_bounds.bounds import make_problem, solve
    >>> problem, *_ = make_problem([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "with_replacement")
    >>> round(float(solve(problem).value), 4)
    0.76
    """
    rule = get_sampler(sampler)
    counts, single_n = draft_counts(n_drafts)
    target, single_row = as_rows(p, "p")
    draft = as_tensor(q, "q")
    drafters_apart = rule.takes == "drafters" and draft.ndim == (2 if single_row else 3)
    draft = draft[None] if single_row and draft.ndim == (2 if drafters_apart else 1) else draft
    if drafters_apart:
        if draft.ndim != 3 or draft.shape[1] < max(counts):
            raise InputError(
                f"q: shape {tuple(as_tensor(q, 'q').shape)} gives fewer drafters than n_drafts={max(counts)}; "
                "give q [B, n, V], one distribution per drafter"
            )
    elif draft.ndim != 2 or 0 in draft.shape:
        raise InputError(f"q: shape {tuple(as_tensor(q, 'q').shape)}; give the same [V] or [B, V] as p")
    if rule.takes != "table" and target.shape[-1] != draft.shape[-1]:
        raise InputError(
            f"p has {target.shape[-1]} tokens and q {draft.shape[-1]}; "
            "give both over one vocabulary first (mdsd_bounds.dumps.widths.align_widths)"
        )
    if target.shape[0] != draft.shape[0]:
        raise InputError(f"p has {target.shape[0]} rows and q {draft.shape[0]}; give one draft row for each target row")
    if target.device != draft.device:
        raise InputError(f"p is on {target.device} and q on {draft.device}; move both to one device")
    unknown = set(options) - set(rule.options)
    if unknown:
        raise InputError(f"sampler {sampler!r} does not take the options {sorted(unknown)}")
    if rule.split is not None:
        # Values of the options are checked where they are read.
        rule.splits(counts, options, "make_problem")
    if defects is None:
        (probs_p, defect_p), (probs_q, defect_q) = validate_probs(target, "p"), validate_probs(draft, "q")
    else:
        (probs_p, probs_q), (defect_p, defect_q) = (target, draft), defects
    if rule.check is not None:
        rule.check(probs_q, counts, probs_p.shape[1], **options)
    defect_q = defect_q.amax(-1) if defect_q.ndim == 2 else defect_q
    mass_error = defect_p + max(counts) * defect_q
    return Problem(probs_p, probs_q, counts, sampler, options, mass_error), single_n, single_row


def solve(problem: Problem, method: str = "auto") -> Bound:
    """Answer a problem by the route named ``method``; all fields ``[N, B]``.

    Raises
    ------
    InputError
        If the method is unknown, needs a package that is absent, or cannot treat the sampler.

    Examples
    --------
    >>> from mdsd_bounds.bounds import make_problem, solve
    >>> problem, *_ = make_problem([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2, "without_replacement")
    >>> [round(float(solve(problem, method).value), 6) for method in ("auto", "subsets", "lp")]
    [0.885714, 0.885714, 0.885714]
    """
    if method == "auto":
        method = _choose(problem)
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; choose auto or one of {', '.join(METHODS)}")
    module, name = METHODS[method]
    try:
        route = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"method {method!r} needs the package {error.name!r}: pip install 'mdsd-bounds[lp]'") from None
    bound: Bound = route(problem)
    return bound


def _choose(problem: Problem) -> str:
    rule = get_sampler(problem.sampler)
    if rule.method is not None:
        return rule.method
    if rule.split is None:
        return "maxflow" if importlib.util.find_spec("ortools") else "lp"
    from mdsd_bounds.bounds.search.compiled_search import applies

    if applies(problem):
        return "fast"
    return "outer" if problem.p.is_cuda and problem.p.shape[-1] >= _WIDE_ON_CUDA else "prefix"
