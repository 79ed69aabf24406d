"""The bound test: acceptance above alpha* proves a rule lossy, with no need for its code.

A lossless rule accepts at a position with probability at most ``alpha*(p, q, n, sampler)``, whatever it does.  So
``1[accepted] - alpha*_t`` has a conditional mean of at most zero, and a wealth multiplied by
``(1 + lambda 1[accepted]) / (1 + lambda alpha*_t)`` is a supermartingale (:mod:`mdsd_bounds.audit.martingale`).
Rows known to within a total variation e of p and of q move alpha* by at most ``(1 + n) e``, which is added.

Where the first k of n drafts are k drafts of the same sampler (all but greedy and tables of tuples), a rule that sees n
may be looked at as one that sees k: the output is one of the first k with probability at most alpha*(k), for every k.

The test presupposes the *sampler*: drafts that are drawn in another way than stated may be accepted more often by a
lossless rule.  So the drafts are tested first (:mod:`mdsd_bounds.audit.draft_check`).  Passing proves nothing: a
lossy rule may accept little.

**Confidence sequence.**  With a_t the conditional acceptance probabilities, ``S_t = sum (accepted - a)`` is
1/2-sub-Gaussian; Robbins' normal mixture gives, at every t at once with probability 1 - alpha,
``|S_t| <= sqrt((t/4 + r) log((t/4 + r) / (r alpha^2)))`` (Robbins 1970; Howard et al., Annals of Statistics 2021,
arXiv 1810.08240, section 3.2).  If the lower end of mean acceptance lies above mean alpha*, the rule is lossy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdsd_bounds.audit.cells import Flags, Floats, Ints
from mdsd_bounds.audit.martingale import Bets, Wager, join
from mdsd_bounds.audit.positions import DRAFT_COUNTS, Positions
from mdsd_bounds.samplers import get_sampler

#: Betting fractions on an acceptance.
FRACTIONS = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
#: Variance (in positions / 4) at which the confidence sequence is tightest.
_TIGHTEST = 100.0


@dataclass(frozen=True)
class BoundTest:
    """Result over the positions where alpha* is known.

    Attributes
    ----------
    wager : Wager
        Wealth against "acceptance is at most alpha*".
    positions : ndarray
        Their indices in the log.
    acceptance, low, high : float
        Mean acceptance and the ends of its confidence sequence at the end of the log.
    bound : float
        Mean alpha* (upper ends of certified intervals, tolerance included).
    """

    wager: Wager
    positions: Ints
    acceptance: float
    low: float
    high: float
    bound: float


def bound_test(positions: Positions, level: float) -> BoundTest | None:
    """Bet that acceptances come more often than alpha* allows; None where alpha* is known nowhere.

    Half of the wealth is on the whole of the drafts, half on their first k < n, k = 1 to 4 in equal shares, whether
    the log has so many drafts or not.
    """
    known = np.flatnonzero(np.isfinite(positions.bound) & (positions.drafts > 0))
    if len(known) == 0:
        return None
    held = positions.part(known)
    most = most_allowed(held.bound, held.drafts, held.tolerance)
    prefixed = np.array([bool(name) and get_sampler(name).nested for name in held.sampler], dtype=bool)
    firsts: Bets = []
    for i, k in enumerate(DRAFT_COUNTS):
        # Every k has its share, also in a log without so many drafts: shares that changed while a log grows would be
        # no wager, since a system that adapts its number of drafts to what it output decides when they change.
        inner = prefixed & (held.drafts > k) & np.isfinite(held.bound_by_n[:, i])
        hits = (held.rank >= 0) & (held.rank < k)
        firsts += _bets(
            f"acceptance of the first {k}",
            hits,
            most_allowed(held.bound_by_n[:, i], held.drafts, held.tolerance),
            inner,
        )
    families = [_bets("acceptance", held.accepted, most, np.ones(len(held), dtype=bool)), firsts]
    mean = float(held.accepted.mean())
    width = radius(len(known), level)
    return BoundTest(join(families), known, mean, max(mean - width, 0.0), min(mean + width, 1.0), float(most.mean()))


def most_allowed(bound: Floats, drafts: Ints, tolerance: Floats) -> Floats:
    """``[N]`` most that a lossless rule may accept where p and q are known to within ``tolerance``."""
    return np.asarray(np.minimum(bound + (1 + drafts) * tolerance, 1.0), dtype=np.float64)


def _bets(name: str, hits: Flags, most: Floats, where: Flags) -> Bets:
    seen, due = np.where(where, hits, False), np.where(where, most, 0.0)
    proof = np.where(seen & (due <= 0), np.inf, 0.0)
    return [
        (
            f"{name} above alpha*, betting fraction {fraction:g}",
            np.log1p(fraction * seen) - np.log1p(fraction * due) + proof,
        )
        for fraction in FRACTIONS
    ]


def radius(count: int, level: float) -> float:
    """Half-width of the confidence sequence of a mean of ``count`` indicators."""
    v = count / 4.0 + _TIGHTEST
    return float(np.sqrt(v * np.log(v / (_TIGHTEST * level**2)))) / count
