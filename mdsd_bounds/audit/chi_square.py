"""Chi-square test of the output's cells over a whole log, with the exact covariance of different positions.

Cells are pooled, in the order of q/p and then of p, into groups of about equal expectation: at most :data:`GROUPS`,
none expected fewer than :data:`LEAST` times or with a variance below that.  What is pooled is fixed by p and q alone.
With O the counts seen, ``E = sum_t pi_t`` and ``C = sum_t (diag pi_t - pi_t pi_t')`` over the positions' group masses,
``X = (O - E)' C^+ (O - E)`` is asymptotically chi-square with rank(C) degrees of freedom (the central limit theorem
for martingale differences); for like positions it is Pearson's statistic.

If the stated distributions may be off by ``tolerance_t`` in total variation, E moves by at most ``2 (sum tolerance)^2``
in squared length, and the p-value is that of the noncentral distribution with that much noncentrality at C's least
eigenvalue.

Unlike the wealth of :mod:`mdsd_bounds.audit.martingale` this is a test of a log of fixed length: a p-value looked at
again and again until it is small means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from mdsd_bounds.audit.cells import CELLS, Flags, Floats, Ints

#: Most groups, and the least expected count and variance of one.
GROUPS = 10
LEAST = 20.0
#: Eigenvalues of C below this share of the largest are rounding.
_RANK = 1e-9


@dataclass(frozen=True)
class ChiSquare:
    """Result of the test.

    Attributes
    ----------
    statistic, freedom, p_value : float, int, float
        ``freedom`` is 0 and ``p_value`` 1 where the log is too short to fill two groups.
    groups : ndarray
        ``[CELLS]`` group of each cell.
    observed, expected : ndarray
        ``[G]``.
    inverse : ndarray
        ``[G, G]`` pseudo-inverse of C.
    shift : float
        Noncentrality that the tolerance allows.
    """

    statistic: float
    freedom: int
    p_value: float
    groups: Ints
    observed: Floats
    expected: Floats
    inverse: Floats
    shift: float


def chi_square(probs: Floats, cell: Ints, tolerance: Floats) -> ChiSquare:
    """Test ``cell`` ``[N]`` against ``probs`` ``[N, CELLS]``; the distributions may be off by ``tolerance`` ``[N]``."""
    groups = pool(probs)
    count = int(groups.max()) + 1
    sort = np.zeros((CELLS, count))
    sort[np.arange(CELLS), groups] = 1.0
    mass = probs @ sort
    expected = mass.sum(0)
    observed = np.bincount(groups[cell], minlength=count).astype(float)
    covariance = np.diag(expected) - mass.T @ mass
    values, vectors = np.linalg.eigh(covariance)
    held: Flags = values > max(_RANK * values.max(initial=0.0), 1e-6)
    freedom = int(held.sum()) if count > 1 else 0
    if freedom == 0:
        empty = np.zeros((count, count))
        return ChiSquare(0.0, 0, 1.0, groups, observed, expected, empty, 0.0)
    inverse = (vectors[:, held] / values[held]) @ vectors[:, held].T
    gap = observed - expected
    statistic = float(gap @ inverse @ gap)
    shift = 2.0 * float(tolerance.sum()) ** 2 / float(values[held].min())
    return ChiSquare(
        statistic, freedom, _upper_tail(statistic, freedom, shift), groups, observed, expected, inverse, shift
    )


def pool(probs: Floats) -> Ints:
    """Group ``[CELLS]`` of each cell, from the masses ``[N, CELLS]`` alone."""
    due, spread = probs.sum(0), (probs * (1.0 - probs)).sum(0)
    aim = max(LEAST, float(due.sum()) / GROUPS)
    groups = np.zeros(CELLS, dtype=np.int64)
    here, filled, varied = 0, 0.0, 0.0
    for c in range(CELLS):
        groups[c] = here
        filled, varied = filled + float(due[c]), varied + float(spread[c])
        if filled >= aim and varied >= LEAST:
            here, filled, varied = here + 1, 0.0, 0.0
    # A last group that did not fill joins the one before.
    if here > 0 and (filled < LEAST or varied < LEAST):
        groups[groups == here] = here - 1
    return groups


def _upper_tail(statistic: float, freedom: int, shift: float) -> float:
    """``Pr(X >= statistic)`` under the noncentral chi-square distribution; central where the shift is negligible."""
    if shift <= 1e-9:
        return float(stats.chi2.sf(statistic, freedom))
    return float(stats.ncx2.sf(statistic, freedom, shift))


def _critical_value(level: float, freedom: int, shift: float) -> float:
    """Statistic beyond which the p-value is below ``level``."""
    if shift <= 1e-9:
        return float(stats.chi2.isf(level, freedom))
    return float(stats.ncx2.isf(level, freedom, shift))


def needed_noncentrality(power: float, level: float, freedom: int, shift: float) -> float:
    """Noncentrality at which the test at ``level`` rejects with probability ``power``."""
    critical = _critical_value(level, freedom, shift)

    def short(noncentrality: float) -> float:
        return float(stats.ncx2.sf(critical, freedom, noncentrality)) - power

    high = 1.0
    while short(high) < 0:
        high *= 2.0
    return float(optimize.brentq(short, 1e-12, high))
