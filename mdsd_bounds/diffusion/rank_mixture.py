"""Rank mixtures: pick the draft of rank j along ``m_p - m_q`` with probability omega_j, then accept (PAWS).

The draft of rank j (1 is the largest of n) has density ``g_j q``, ``g_j = n C(n-1, j-1) Phi^(n-j) (1 - Phi)^(j-1)``,
so the pick has density ``r = q sum_j omega_j g_j`` and is accepted with probability ``Int min(p, r)``.  The variant is
described in the documentation of Bullo et al.'s code (arXiv 2609.17691); its best weights solve a linear programme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import eye_array, hstack
from scipy.special import betainc, ndtr, ndtri

from mdsd_bounds.diffusion.gaussian import checked
from mdsd_bounds.problem import InputError

#: Bins of the programme, and of the acceptance at given weights.
_BINS, _FINE = 2_000, 100_000
_MOST = 64


@dataclass(frozen=True)
class RankMixture:
    """The best weights found, what they accept, and an upper bound on any weights.

    Attributes
    ----------
    weights : ndarray
        ``[n]``: probability of picking the draft of each rank, the largest first.
    acceptance : float
        ``Int min(p, r)`` at these weights.
    high : float
        Optimum of the programme over bins, at least the best mixture's acceptance.
    """

    weights: np.ndarray
    acceptance: float
    high: float


def best_rank_mixture(delta: float, n: int) -> RankMixture:
    """The best rank mixture of n drafts at shift delta.

    Raises
    ------
    InputError
        If delta is negative, or n is not between 1 and 64.

    Notes
    -----
    Bins of equal mass under ``(p + q)/2``; merging what lies in a bin can only raise ``sum min``, so the programme
    bounds every mixture from above.  Some tenths of a second.

    Examples
    --------
    >>> from mdsd_bounds.diffusion import best_rank_mixture
    >>> mixture = best_rank_mixture(1.0, 2)
    >>> round(mixture.acceptance, 4), mixture.high - mixture.acceptance < 1e-6
    (0.7903, True)
    """
    shift = float(checked(delta, "delta", "best_rank_mixture"))
    count = int(checked(n, "n", "best_rank_mixture", integer=True, least=1.0))
    if count > _MOST:
        raise InputError(f"best_rank_mixture: n={count}; at most {_MOST}")
    edges = _edges(shift, _BINS)
    target, ranks = _masses(edges, shift, count)
    # max sum_b m_b with m_b <= target_b and m_b <= sum_j omega_j ranks_jb.
    result = linprog(
        np.concatenate([np.zeros(count), -np.ones(len(target))]),
        A_ub=hstack([-ranks.T, eye_array(len(target))], format="csr"),
        b_ub=np.zeros(len(target)),
        A_eq=np.concatenate([np.ones(count), np.zeros(len(target))])[None],
        b_eq=[1.0],
        bounds=[(0.0, 1.0)] * count + [(0.0, mass) for mass in target],
        method="highs",
    )
    if not result.success:
        raise InputError(
            f"best_rank_mixture: delta={shift:g}, n={count}: the linear programme failed: {result.message}"
        )
    weights = np.maximum(result.x[:count], 0.0)
    weights /= weights.sum()
    return RankMixture(weights, rank_mixture_acceptance(shift, weights), float(-result.fun))


def rank_mixture_acceptance(delta: float, weights: Sequence[float] | np.ndarray, bins: int = _FINE) -> float:
    """``Int min(p, r)`` of given weights ``[n]``, the largest draft's first.

    By bins, from above; exact but in the bins where p and r cross, so to about 1e-9 with 100,000 of them.

    Examples
    --------
    >>> round(rank_mixture_acceptance(1.0, [1.0]), 6)
    0.617075
    """
    shift = float(checked(delta, "delta", "rank_mixture_acceptance"))
    omega = checked(weights, "weights", "rank_mixture_acceptance")
    if omega.ndim != 1 or not 1 <= len(omega) <= _MOST or abs(omega.sum() - 1.0) > 1e-9:
        raise InputError(f"rank_mixture_acceptance: weights {omega.tolist()}: give 1 to {_MOST} that sum to one")
    target, ranks = _masses(_edges(shift, bins), shift, len(omega))
    return float(np.minimum(target, omega @ ranks).sum())


def _edges(delta: float, bins: int) -> np.ndarray:
    """Inner edges, of equal mass under q and under p by halves, and between the means, where a far shift has none."""
    levels = np.arange(1, bins // 2) / (bins // 2)
    between = np.linspace(0.0, delta, bins // 4)
    edges: np.ndarray = np.unique(np.concatenate([ndtri(levels), delta + ndtri(levels), between]))
    return edges


def _masses(edges: np.ndarray, delta: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mass of each bin under p ``[bins]`` and under every rank ``[n, bins]``."""

    def bins(below: np.ndarray) -> np.ndarray:
        return np.maximum(np.diff(below, prepend=0.0, append=1.0), 0.0)

    phi = ndtr(edges)
    # At most j - 1 of n lie above x: the draft of rank j is at or below x.
    ranks = np.stack([bins(betainc(n - j + 1, j, phi)) for j in range(1, n + 1)])
    return bins(ndtr(edges - delta)), ranks
