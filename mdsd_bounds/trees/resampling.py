"""Documents drawn with replacement, the same ones for everything that is compared."""

from __future__ import annotations

import numpy as np

from mdsd_bounds.pipeline.tables import BOOTSTRAP


def document_weights(number: int, seed: int = 0) -> np.ndarray:
    """``[1 + resamples, number]``: how often each document counts, once each in the first row."""
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=BOOTSTRAP)
    return np.concatenate([np.ones((1, number)), draws])


def weighted_means(values: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means ``[1 + resamples, K]`` of ``values`` ``[N, K]``, row i counted as often as its document ``index[i]``."""
    number = weights.shape[1]
    counts = np.bincount(index, minlength=number).astype(float)
    sums = np.stack([np.bincount(index, weights=column, minlength=number) for column in values.T], 1)
    return np.asarray((weights @ sums) / np.maximum(weights @ counts, 1.0)[:, None])
