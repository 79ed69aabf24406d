"""Documents drawn with replacement, the same ones for everything that is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdsd_bounds.pipeline.tables import BOOTSTRAP


def document_weights(number: int, seed: int = 0) -> np.ndarray:
    """``[1 + resamples, number]``: how often each document counts, once each in the first row.

    A single document says nothing about the next: its resamples are NaN, and so is every interval made of them.
    """
    if number == 1:
        return np.concatenate([np.ones((1, 1)), np.full((BOOTSTRAP, 1), np.nan)])
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=BOOTSTRAP)
    return np.concatenate([np.ones((1, number)), draws])


def weighted_means(values: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means ``[1 + resamples, K]`` of ``values`` ``[N, K]``, row i counted as often as its document ``index[i]``."""
    number = weights.shape[1]
    counts = np.bincount(index, minlength=number).astype(float)
    sums = np.stack([np.bincount(index, weights=column, minlength=number) for column in values.T], 1)
    return np.asarray((weights @ sums) / np.maximum(weights @ counts, 1.0)[:, None])


def mc_stderr_of(rates: pd.DataFrame) -> np.ndarray | None:
    """Monte Carlo standard errors ``[K]`` of the mean acceptances of one rule's rows; None where they are exact."""
    if "mc_stderr" not in rates or not rates["mc_stderr"].any():
        return None
    groups = rates.groupby("drafts")["mc_stderr"]
    squares = groups.agg(lambda one: np.square(one).sum()).to_numpy()
    return np.asarray(np.sqrt(squares) / groups.size().to_numpy())


def with_sampling_error(means: np.ndarray, mc_stderr: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Resampled mean acceptances ``[1 + resamples, K]``, each resample with a draw of the Monte Carlo error ``[K]``.

    Resampling a few documents, in which the error happens to point the same way, would not show it.
    """
    drawn = mc_stderr * np.random.default_rng(seed).standard_normal(means[1:].shape)
    return np.concatenate([means[:1], np.clip(means[1:] + drawn, 0.0, 1.0)])
