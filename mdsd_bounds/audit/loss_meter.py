"""The meter: by how much the output differs from the target at the least, from acceptances alone.

**What acceptance says of the loss.**  A rule whose output at position t is a total variation d_t from p accepts with
probability at most ``alpha*_t + d_t`` (docs/lossy.md).  So ``d_t >= a_t - alpha*_t``, a_t the probability that the
output is a draft, and the mean total variation is at least mean acceptance minus mean alpha*.  This holds for any rule,
fault or system, and needs neither its code nor its output distribution.

**Wager.**  Given the past, and whatever the rule does, ``1[accepted]`` has the mean ``a_t <= c_t = min(1, alpha*_t +
d_t)``; so for a betting fraction s > 0 the wealth ``prod (1 + s 1[accepted]) / (1 + s c_t)`` is a non-negative
supermartingale, and a mixture over betting fractions exceeds ``1/level`` at any time with probability at most ``level``
(Ville).  The d_t are not known.  For a supposed mean x of them the wealth is at least what the *worst* d_t of that mean
leave of it: those that maximise ``sum log(1 + s c_t)`` subject to ``mean d_t = x``.  The logarithm is concave, so the
worst d_t fill up the smallest alpha*_t to one level w (water-filling), ``c_t = max(alpha*_t, w)``, and w does not
depend on the betting fraction.  Every x at which the mixture still exceeds ``1/level`` is too small.  The least x that
is left is a lower confidence bound for the mean total variation, valid at whatever moment the log is read or ends.

To second order in the betting fraction the width is that of a mean of independent indicators with the variances
``alpha*_t (1 - alpha*_t)``: much narrower, at acceptances near one, than an interval that knows only that indicators
lie between 0 and 1.

**First drafts.**  Where the first k of n drafts are k drafts of the sampler, ``d_t >= Pr(output among the first k) -
alpha*_t(k)`` as well, with a smaller alpha*: a rule that always takes the first draft shows nearly all of its loss
here.  Half of the wealth is on all drafts, half on their first k < n, k = 1 to 4, whether the log has so many or not:
shares that changed while a log grows would be no wager.

Rows known to within a total variation e of p and of q are allowed for by ``alpha* + (1 + n) e``, as in
:mod:`mdsd_bounds.audit.bound_test`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from mdsd_bounds.audit.bound_test import most_allowed
from mdsd_bounds.audit.cells import Flags, Floats
from mdsd_bounds.audit.positions import DRAFT_COUNTS, Positions
from mdsd_bounds.samplers import get_sampler

#: Betting fractions on an acceptance: an excess d over alpha* is bet on best with ``d / (alpha* (1 - alpha* - d))``.
FRACTIONS = np.geomspace(0.01, 100.0, 9)
#: One minus the confidence of the lower bound.
LEVEL = 0.05


@dataclass(frozen=True)
class LossMeter:
    """Lower confidence bound on the mean total variation between output and target.

    Attributes
    ----------
    low : float
        Lower end, in [0, 1], for the positions so far; valid at any time with probability ``1 - level``.
    level : float
        See above.
    difference : float
        Mean acceptance minus mean alpha*: what is estimated by ``low``, not itself a bound.  Negative where the rule
        accepts less than the lossless optimum.
    positions : int
        Positions at which alpha* is known.
    """

    low: float
    level: float
    difference: float
    positions: int


def loss_meter(positions: Positions, level: float = LEVEL) -> LossMeter | None:
    """Read the meter at the end of a log; None where alpha* is known nowhere.

    Parameters
    ----------
    positions : Positions
        A log, in order.
    level : float
        Probability, in (0, 1), with which ``low`` may ever exceed the mean total variation.

    Notes
    -----
    O(N) for each of some 40 trial levels and 9 betting fractions, after a sort.
    """
    known = np.flatnonzero(np.isfinite(positions.bound) & (positions.drafts > 0))
    if len(known) == 0:
        return None
    held = positions.part(known)
    most = most_allowed(held.bound, held.drafts, held.tolerance)
    everywhere = np.ones(len(held), dtype=bool)
    families = [(held.accepted, most, everywhere)]
    prefixed = np.array([bool(name) and get_sampler(name).nested for name in held.sampler], dtype=bool)
    for i, k in enumerate(DRAFT_COUNTS):
        inner = prefixed & (held.drafts > k) & np.isfinite(held.bound_by_n[:, i])
        hits = (held.rank >= 0) & (held.rank < k)
        families.append((hits, most_allowed(held.bound_by_n[:, i], held.drafts, held.tolerance), inner))
    low = lower_bound(families, len(held), level)
    return LossMeter(low, level, float(held.accepted.mean() - most.mean()), len(held))


def lower_bound(families: list[tuple[Flags, Floats, Flags]], positions: int, level: float) -> float:
    """The least mean total variation that the wagers leave possible.

    Parameters
    ----------
    families : list of (hits, most, where)
        ``[N]`` each: acceptances, the most that a lossless rule may accept, and the positions it is about.  The first
        has half of the wealth, the others share the other half.  Which there are must not depend on the log: one
        that is about no position keeps its wealth.
    positions : int
        N: the mean is over all of them; positions that a family is not about are taken to have no loss.
    level : float
        One minus the confidence.
    """
    share = np.array([1.0] if len(families) == 1 else [0.5] + [0.5 / (len(families) - 1)] * (len(families) - 1))
    fills = [Filling(hits[where], most[where], positions) for hits, most, where in families]

    def over(loss: float) -> float:
        """Log of the mixture at a supposed mean loss, less the threshold."""
        logs = np.concatenate([fill.log_wealth(loss) + np.log(part) for fill, part in zip(fills, share, strict=True)])
        top = float(logs.max())
        return top + float(np.log(np.exp(logs - top).sum())) - float(np.log(len(FRACTIONS) / level))

    if over(0.0) <= 0.0:
        return 0.0
    # At a loss of one the wealth is at most one.  What rounding of the root may add is taken off.
    return max(float(brentq(over, 0.0, 1.0, xtol=1e-12)) - 2e-12, 0.0)


class Filling:
    """Acceptances of one family, and its wealth against a supposed mean loss, at every betting fraction."""

    def __init__(self, hits: Flags, most: Floats, positions: int) -> None:
        self.accepted = int(hits.sum())
        self.most = np.sort(np.clip(most, 0.0, 1.0))
        self.below = np.concatenate([[0.0], np.cumsum(self.most)])
        self.logs = np.log1p(FRACTIONS[:, None] * self.most)
        #: Sum of the logarithms of the k-th and all larger ``most``, for each betting fraction.
        self.above = np.concatenate([np.cumsum(self.logs[:, ::-1], axis=1)[:, ::-1], np.zeros((len(FRACTIONS), 1))], 1)
        self.positions = positions

    def log_wealth(self, loss: float) -> Floats:
        """``[9]``: log of ``prod (1 + s hit) / (1 + s max(most, w))`` with w filled up to a total of N loss."""
        total, count = loss * self.positions, len(self.most)
        if total >= count - self.below[-1]:
            level, filled = 1.0, count
        else:
            # What it costs to lift the k smallest to the k-th of them.
            cost = np.arange(count) * self.most - self.below[:-1]
            filled = int(np.searchsorted(cost, total, side="right"))
            level = (total + self.below[filled]) / filled
        due = filled * np.log1p(FRACTIONS * min(level, 1.0)) + self.above[:, filled]
        return np.asarray(self.accepted * np.log1p(FRACTIONS) - due, dtype=np.float64)
