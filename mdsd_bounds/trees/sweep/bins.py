"""Items of one node: single tokens where they are few, bins of tokens with like t/q where they are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Tokens of one node up to which each is an item of its own.
MOST_ITEMS = 384
#: Beyond, so many tokens stay single, those with the largest min(t, q), and the others share so many bins.
SINGLES, BINS = 96, 192


@dataclass(frozen=True)
class Items:
    """The items of one node, and the sums that the search needs (:class:`~.prefixes.Layer`).

    Attributes
    ----------
    item : ndarray
        ``[k]`` int64: item of each token.
    token_odds : ndarray
        ``[k]``: ``q / (1 - q)`` of each token; zeros for independent draws, which do not need it.
    mass, odds, squares, within, target : ndarray
        ``[U]``: sums over the tokens of q, w, q w and t; probability of a pair inside the item.
    hot : int
        Item of the most probable token.
    """

    item: np.ndarray
    token_odds: np.ndarray
    mass: np.ndarray
    odds: np.ndarray
    squares: np.ndarray
    within: np.ndarray
    target: np.ndarray
    hot: int


def bin_tokens(q: np.ndarray, target: np.ndarray, pairs: bool) -> Items:
    """The items of a node with draft probabilities ``q`` ``[k]``, all positive, and targets ``[k]``.  O(k)."""
    hot = int(q.argmax())
    odds = _odds(q, hot) if pairs else np.zeros(len(q))
    if len(q) <= MOST_ITEMS:
        item = np.arange(len(q))
        return Items(item, odds, q, odds, q * odds, np.zeros(len(q)), target, hot)
    item = _like_ratios(q, target, hot)
    sums = [np.bincount(item, value) for value in (q, odds, q * odds, target)]
    mass, total, squares, asked = sums
    # q_i w_j + w_i q_j over the pairs i < j of the item.
    single = np.bincount(item) == 1
    within = np.where(single, 0.0, np.maximum(mass * total - squares, 0.0))
    return Items(item, odds, mass, total, squares, within, asked, int(item[hot]))


def _odds(q: np.ndarray, hot: int) -> np.ndarray:
    """``q / (1 - q)``, with ``1 - q`` of the most probable token as the sum of the others."""
    rest = 1.0 - q
    rest[hot] = q[:hot].sum() + q[hot + 1 :].sum()
    return np.asarray(q / np.maximum(rest, 1e-300))


def _like_ratios(q: np.ndarray, target: np.ndarray, hot: int) -> np.ndarray:
    """Item of each token: the heaviest are single, the others share bins of equal weight in the order of t/q."""
    weight = np.minimum(target, q)
    weight[hot] = np.inf
    alone = np.argpartition(weight, len(q) - SINGLES)[len(q) - SINGLES :]
    item = np.full(len(q), -1)
    item[alone] = np.arange(SINGLES)
    rest = np.flatnonzero(item < 0)
    rest = rest[np.argsort(target[rest] / q[rest])]
    # Equal steps of the mass of q and of the rank together: neither a heavy nor a long bin.
    position = np.cumsum(q[rest]) / q[rest].sum() + np.arange(len(rest)) / len(rest)
    _, held = np.unique(np.minimum((position * (BINS / 2)).astype(np.int64), BINS - 1), return_inverse=True)
    item[rest] = SINGLES + held
    return item
