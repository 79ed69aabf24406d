"""What this much data could see: the smallest total variation that a test finds with 80% probability.

"Lossy by how much" needs a direction.  Two are answered, both at the log's own p and q:

* *towards the draft*: the output distribution is ``p + s (q - p)`` at every position, TV(output, p) = s TV(p, q).
Rules that
  skip the residual, accept unseen or accept too eagerly drift this way.
* *towards the probable*: mass is moved from improbable to probable cells (``weights 2^level``, renormalised, mixed in
  with share s): what a temperature too low does.  Needs no q.

For each direction s is solved for; the figure printed is the mean TV over positions at that s.

*Chi-square*: the noncentrality is ``s^2 d' C^+ d`` with d the expected shift of the group counts.  *Wealth*: for every
fixed bet the mean and the variance of its log growth under the alternative are summed exactly over the cells; by the
central limit theorem the bet reaches ``log(1/(alpha w))``, w its weight, with probability
``Phi((mean - threshold) / deviation)``; the best bet is taken.  The learned bets and the freedom to cross early come on
top, so that the stated figure is on the safe side.  Both are checked by simulation in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from mdsd_bounds.audit.cells import LEVEL_OF, SCORES, Floats
from mdsd_bounds.audit.chi_square import ChiSquare, needed_noncentrality
from mdsd_bounds.audit.martingale import FRACTIONS, ODDS

#: Probability of detection that "could see" means.
POWER = 0.8


@dataclass(frozen=True)
class Detectable:
    """Smallest mean TV(output, p) over positions that a test sees with probability :data:`POWER`.

    ``chi_square`` and ``wealth`` are None where even the whole direction (s = 1) would not be seen.
    ``whole`` is the mean TV at s = 1.
    """

    direction: str
    whole: float
    chi_square: float | None
    wealth: float | None


def towards_draft(p_mass: Floats, q_mass: Floats) -> Floats:
    """Alternative ``[N, CELLS]`` at s = 1: the draft's distribution where it is known, p elsewhere."""
    total = q_mass.sum(1, keepdims=True)
    return np.where(total > 0, q_mass / np.where(total > 0, total, 1.0), p_mass)


def towards_probable(p_mass: Floats) -> Floats:
    """Alternative ``[N, CELLS]`` at s = 1: cells weighted by ``2^level``."""
    tilted = p_mass * np.exp2(LEVEL_OF.astype(float))
    return np.asarray(tilted / tilted.sum(1, keepdims=True), dtype=np.float64)


def detectable(
    direction: str,
    p_mass: Floats,
    other: Floats,
    distance: Floats,
    tolerance: Floats,
    found: ChiSquare,
    families: int,
    level: float,
) -> Detectable:
    """Solve for the smallest visible share s of the way from p to ``other``.

    Parameters
    ----------
    p_mass, other : ndarray
        ``[N, CELLS]`` null and alternative at s = 1.
    distance : ndarray
        ``[N]`` total variation between them, over tokens.
    tolerance : ndarray
        ``[N]``.
    found : ChiSquare
        The test made on the same positions: its pooling and covariance are used.
    families : int
        Families of bets that share the wealth.
    level : float
        Level of each of the two tests.
    """
    whole = float(distance.mean()) if len(distance) else 0.0
    by_chi = _chi_square_share(p_mass, other, found, level)
    by_bets = _wealth_share(p_mass, other, tolerance, families, level)
    return Detectable(
        direction,
        whole,
        None if by_chi is None else by_chi * whole,
        None if by_bets is None else by_bets * whole,
    )


def _chi_square_share(p_mass: Floats, other: Floats, found: ChiSquare, level: float) -> float | None:
    if found.freedom == 0:
        return None
    shift = np.zeros(int(found.groups.max()) + 1)
    np.add.at(shift, found.groups, (other - p_mass).sum(0))
    per_unit = float(shift @ found.inverse @ shift)
    need = needed_noncentrality(POWER, level, found.freedom, found.shift)
    share = np.sqrt(need / per_unit) if per_unit > 0 else np.inf
    return float(share) if share <= 1.0 else None


def _wealth_share(p_mass: Floats, other: Floats, tolerance: Floats, families: int, level: float) -> float | None:
    if not _wealth_power(p_mass, other, tolerance, families, level, 1.0) >= POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if _wealth_power(p_mass, other, tolerance, families, level, middle) >= POWER:
            high = middle
        else:
            low = middle
    return high


def _wealth_power(p_mass: Floats, other: Floats, tolerance: Floats, families: int, level: float, share: float) -> float:
    probs = p_mass + share * (other - p_mass)
    best = 0.0
    for score in SCORES.values():
        due = p_mass @ score
        goal = -np.log(level) + np.log(families * 2 * len(FRACTIONS))
        for fraction in (*FRACTIONS, *(-x for x in FRACTIONS)):
            # The log growth of a bet is a function of the cell less a cost known beforehand.
            gain, cost = np.log1p(fraction * score), np.log1p(fraction * due + 2 * abs(fraction) * tolerance)
            best = max(best, _crossing(probs, gain, cost, goal))
    goal = -np.log(level) + np.log(families * len(ODDS))
    impossible = np.zeros(p_mass.shape[1])
    impossible[-1] = 1.0
    for odds in ODDS:
        best = max(best, _crossing(probs, np.log1p(odds * impossible), np.log1p(odds * tolerance), goal))
    return best


def _crossing(probs: Floats, gain: Floats, cost: Floats, goal: float) -> float:
    first, second = probs @ gain, probs @ np.square(gain)
    mean, variance = float((first - cost).sum()), float((second - np.square(first)).sum())
    if variance <= 0:
        return float(mean >= goal)
    return float(stats.norm.cdf((mean - goal) / np.sqrt(variance)))
