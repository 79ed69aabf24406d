"""The distribution of the drafted *set*: what every linear programme and every enumeration needs, for any sampler.

The verifier sees an ordered tuple of drafts, but acceptance depends on it only through the set S of its tokens.  So the
transport problem has one source per set, with mass ``m(S)``, instead of one per tuple.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Problem
from mdsd_bounds.samplers import NO_DRAFT, get_sampler

#: Sets beyond which the grouped problem is refused (V = 2,000 at n = 2 has two million).
MAX_SETS = 4_000_000
_CHUNK_ENTRIES = 20_000_000


@dataclass(frozen=True)
class DraftSets:
    """The possible drafted sets of one position.

    Attributes
    ----------
    tokens : ndarray
        ``[S, n]`` int64, each row sorted ascending, padded on the right with -1.
    mass : ndarray
        ``[S]`` float64, positive, summing to one.
    """

    tokens: np.ndarray
    mass: np.ndarray

    def inside(self, subset: np.ndarray) -> float:
        """``Q(H)``: probability that the drafted set lies in the boolean mask ``subset`` ``[V]``."""
        held = np.append(subset, True)[self.tokens]  # -1 picks the appended entry: an empty slot is inside anything
        return float(self.mass[held.all(-1)].sum())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs (set, token in it): two index arrays ``[E]``."""
        source, slot = np.nonzero(self.tokens >= 0)
        return source, self.tokens[source, slot]


def draft_sets(problem: Problem, row: int, n: int) -> DraftSets:
    """Distribution of the drafted set at one row, from the sampler's conditional distributions alone.

    Parameters
    ----------
    problem : Problem
        Any sampler, the joint table included.
    row, n : int
        Which position, and how many drafts.

    Raises
    ------
    InputError
        If there would be more than :data:`MAX_SETS` sets; the message says how many.
    """
    sampler = get_sampler(problem.sampler)
    size = problem.p.shape[1]
    if sampler.tuples is not None:
        listed, weight = sampler.tuples(problem.q[row : row + 1], **problem.options)
        return _group(listed.cpu().numpy(), weight[0].cpu().numpy(), size)
    q = problem.q[row : row + 1]
    tokens, mass = np.empty((1, 0), dtype=np.int64), np.ones(1)
    for k in range(n):
        if len(mass) * size > 3 * MAX_SETS:
            raise InputError(
                f"{problem.sampler}: about {len(mass) * size / (k + 1):.0f} drafted sets at n={k + 1}, V={size} "
                f"({len(mass) * size * 8 * (k + 3) / 1e9:.0f} GB); use method='prefix', or fewer tokens"
            )
        grown, weights = [], []
        step = max(1, _CHUNK_ENTRIES // size)
        for first in range(0, len(mass), step):
            part = tokens[first : first + step]
            drawn = torch.zeros((len(part), size + 1), dtype=torch.bool)
            drawn.scatter_(1, torch.from_numpy(np.where(part < 0, size, part)), True)
            probs = sampler.conditional(
                q.expand(len(part), *q.shape[1:]).cpu(), drawn[:, :size], k, n, **problem.options
            ).numpy()
            source, token = np.nonzero(probs)
            grown.append(np.column_stack([part[source], token]))
            weights.append(mass[first + source] * probs[source, token])
            exhausted = np.nonzero(probs.sum(-1) == 0)[0]
            grown.append(np.column_stack([part[exhausted], np.full(len(exhausted), NO_DRAFT)]))
            weights.append(mass[first + exhausted])
        sets = _group(np.concatenate(grown), np.concatenate(weights), size)
        tokens, mass = sets.tokens, sets.mass
    if len(mass) > MAX_SETS:
        raise InputError(f"{problem.sampler}: {len(mass)} drafted sets, more than {MAX_SETS}; use method='prefix'")
    return DraftSets(tokens, mass)


def _group(tuples: np.ndarray, weight: np.ndarray, size: int) -> DraftSets:
    """Merge tuples that hold the same set of tokens."""
    ordered = np.sort(np.where(tuples < 0, size, tuples), -1)
    repeated = np.zeros_like(ordered, dtype=bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = np.sort(np.where(repeated, size, ordered), -1)
    if (size + 1.0) ** ordered.shape[1] < 2.0**62:
        key = np.zeros(len(ordered), dtype=np.int64)
        for column in ordered.T:
            key = key * (size + 1) + column
        _, first, index = np.unique(key, return_index=True, return_inverse=True)
        sets = ordered[first]
    else:
        sets, index = np.unique(ordered, axis=0, return_inverse=True)
    mass = np.bincount(index.reshape(-1), weights=weight, minlength=len(sets))
    kept = mass > 0
    return DraftSets(np.where(sets == size, -1, sets)[kept], mass[kept])


def subset_value(problem: Problem, row: int, sets: DraftSets, subset: np.ndarray) -> float:
    """``1 + P(H) - Q(H)``, an upper bound on the optimal acceptance for any H ``[V]``."""
    return 1.0 + float(problem.p[row].cpu().numpy()[subset].sum()) - sets.inside(subset)


def stack_subsets(subsets: list[list[np.ndarray]]) -> Tensor:
    """``[N, B, V]`` boolean from nested lists of masks."""
    return torch.from_numpy(np.stack([np.stack(row) for row in subsets]))
