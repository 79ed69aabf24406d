"""How far a rule is from the bound on real rows: what a better rule could still add, beside lossless or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdsd_bounds.bounds import optimal_acceptance
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.problem import Option
from mdsd_bounds.verifiers import Verifier, acceptance_rate
from mdsd_bounds.verifiers.base import sampler_options


@dataclass(frozen=True)
class BoundGap:
    """A rule's mean acceptance on real rows beside the mean bound alpha*, for one sampler and number of drafts.

    ``gap = bound - acceptance`` is paired by position; ``ci_low`` to ``ci_high`` is its 95% interval with documents as
    the unit (NaN with a single document).  ``mc_stderr`` is the Monte Carlo standard error of ``acceptance``, 0 where
    it is exact.  Acceptances and gaps are probabilities in [0, 1] and their differences.
    """

    sampler: str
    drafts: int
    positions: int
    acceptance: float
    bound: float
    gap: float
    ci_low: float
    ci_high: float
    mc_stderr: float


def bound_gap(
    rule: Verifier, p: Tensor, q: Tensor, sampler: str, n: int, *, documents: Tensor, samples: int, **options: Option
) -> BoundGap:
    """Measure one pair of sampler and number of drafts on rows p ``[B, V]`` and q (``[B, n, V]`` for ``independent``).

    Raises
    ------
    InputError
        As :func:`mdsd_bounds.acceptance_rate`.
    """
    given: dict[str, Any] = {"samples": max(2, samples)} | options
    rate = acceptance_rate(p, q, n, sampler, rule, **given)
    best = optimal_acceptance(p, q, n, sampler, **sampler_options(rule, options))
    gaps = (best.value - rate.value).cpu().numpy()
    low, high = bootstrap_interval(gaps[:, None], documents.cpu().numpy())
    error = float(rate.stderr.square().sum().sqrt()) / len(gaps)
    return BoundGap(
        sampler, n, len(gaps), float(rate.value.mean()), float(best.value.mean()), float(gaps.mean()),
        float(low[0]), float(high[0]), error,
    )  # fmt: skip


def in_words(gaps: tuple[BoundGap, ...]) -> str:
    """One sentence over all pairs."""
    least, most = min(gaps, key=lambda x: x.gap), max(gaps, key=lambda x: x.gap)
    rows = f"on {most.positions} real rows its acceptance is"
    if least.ci_high < -1e-9:
        return (
            f"{rows} {-100 * least.gap:.2f} percentage points above the bound ({least.sampler}, n={least.drafts}), "
            "which no lossless rule can reach"
        )
    if round(100 * least.gap, 2) < 0:
        # An estimate above the bound, as its error allows; a negative number is not "below".
        furthest = max(abs(least.gap), abs(most.gap))
        each = [least] if most is least else [least, most]
        ends = "; ".join(f"{_points(x)} ({x.sampler}, n={x.drafts}{_interval(x)})" for x in each)
        return f"{rows} within {100 * furthest:.2f} percentage points of the bound; bound minus acceptance: {ends}"
    if most.gap - least.gap < 5e-5:
        return f"{rows} {_points(most)} percentage points below the bound"
    return (
        f"{rows} {_points(least)} ({least.sampler}, n={least.drafts}) to {_points(most)} ({most.sampler}, "
        f"n={most.drafts}) percentage points below the bound"
    )


def _points(found: BoundGap) -> str:
    return _signed(found.gap)


def _interval(found: BoundGap) -> str:
    known = found.ci_low == found.ci_low
    return f", 95% interval {_signed(found.ci_low)} to {_signed(found.ci_high)}" if known else ""


def _signed(gap: float) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return f"{round(100 * gap, 2) + 0.0:.2f}"
