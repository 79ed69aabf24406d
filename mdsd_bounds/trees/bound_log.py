"""The certified bound in logs of tree decoding: its estimates at each step, and their summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mdsd_bounds.dumps.step_schema import BoundRecord, StepRecord
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.trees.base import Distributions
from mdsd_bounds.trees.bounds import sampled_full_information
from mdsd_bounds.trees.certificate import CERTIFICATES, Reading, sampled_bounds
from mdsd_bounds.trees.decode import Reader, Step
from mdsd_bounds.trees.real import TreeReader

#: Taken where there are no two halves of the documents to choose on.
DEFAULT = CERTIFICATES.index(("loc", 1.0))


def step_bounds(
    step: Step,
    target: TreeReader,
    draft: Reader,
    branching: tuple[int, ...],
    generator: torch.Generator | None = None,
    stop: frozenset[int] = frozenset(),
) -> BoundRecord:
    """Estimates of the certified bound and of full information at one step, for its line in a log.

    Parameters
    ----------
    step : Step
        On a chain or an RSD-C tree with the given branching vector.
    target, draft : readers
        Still at the text before the step; they read the twin draws of trees with three levels and more.
    branching : tuple of int
        One or two drafts a node.
    generator : torch.Generator, optional
        Draws the twins; another one than the decoder's, which must not depend on them.
    stop : frozenset of int
        Tokens that end the text.
    """
    asked: tuple[Distributions, Distributions] = target.distributions, draft.distributions
    reading = Reading(*asked, branching, step.tree.sampler, stop)
    bounds = sampled_bounds(step.tree, step.target, reading, generator)
    full = sampled_full_information(step.tree, step.target, branching=branching)
    return BoundRecord(tuple(float(f"{value:.9g}") for value in bounds), full)


def check_bounds(line: StepRecord) -> None:
    """Raise a ValueError unless the line has no bounds, or as many as :func:`step_bounds` writes."""
    if line.tree.bound is not None and len(line.tree.bound.bounds) != len(CERTIFICATES):
        raise ValueError(f"bounds are {len(CERTIFICATES)} numbers, with full_information beside them")


def chosen_crosswise(estimates: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Of estimates ``[N, 8]`` those ``[N]`` of one certificate for either half: the least on the other half.

    ``odd`` ``[N]`` says which half; where all are of one half it is the certificate :data:`DEFAULT`.
    """
    chosen = np.full(len(estimates), DEFAULT)
    if odd.any() and not odd.all():
        chosen[odd], chosen[~odd] = estimates[~odd].mean(0).argmin(), estimates[odd].mean(0).argmin()
    return np.asarray(estimates[np.arange(len(estimates)), chosen])


def summarise_bounds(lines: Sequence[StepRecord], accepted: np.ndarray) -> dict[str, Any]:
    """Means of the bound and of full information, and the share of the bound that a rule accepts; 95% intervals.

    Parameters
    ----------
    lines : sequence of StepRecord
        Of a log; without bounds on all of them the answer is empty.
    accepted : ndarray
        ``[N]`` accepted tokens of each line, expected where they are known.

    Notes
    -----
    Every certificate bounds every lossless rule at the places of these lines.  The one taken for documents of even
    number is the least on those of odd number, and the other way round: a choice on the same lines would be biased
    downwards.  The interval of the share is that of the linearised ratio.
    """
    held = [line.tree.bound for line in lines if line.tree.bound is not None]
    if len(held) < len(lines):
        return {}
    documents = np.array([line.doc for line in lines])
    bound = chosen_crosswise(np.array([estimates.bounds for estimates in held]), documents % 2 == 1)
    full = np.array([estimates.full_information for estimates in held])
    share = float(accepted.mean() / bound.mean()) if bound.mean() > 0 else math.nan
    ratio = (accepted - share * bound) / bound.mean() if bound.mean() > 0 else np.full(len(lines), math.nan)
    low, high = bootstrap_interval(np.stack([bound, full, ratio], 1), documents)
    means = (("bound", bound.mean(), 0.0), ("full_information", full.mean(), 0.0), ("share", share, share))
    return {
        name: {"mean": float(mean), "ci_low": float(low[k] + shift), "ci_high": float(high[k] + shift)}
        for k, (name, mean, shift) in enumerate(means)
    }
