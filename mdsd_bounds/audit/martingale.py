"""The anytime-valid test: a wager against "the output has distribution p" that no lossless rule lets win.

**Null.**  Given everything before it (earlier outputs, hence p and q of this position), the output token at every
position has distribution p, whatever else the rule does.  The drafts of the *same* position are not given: given the
drafts the output of a lossless rule is not distributed as p, and no bet here looks at them.

**Wager.**  Before the output is seen choose any ``g >= 0`` on the cells and multiply the wealth by
``g(cell of the output) / sup E g``, the supremum over all distributions within ``tolerance`` of p in total variation,
``E_p g + tolerance (max g - min g)``.  Under the null the wealth E_t is a non-negative supermartingale that starts at
one.

**Theorem** (Ville's inequality).  ``Pr(E_t >= 1/alpha for some t) <= alpha``.  So the verdict may be read at any time,
as often as one likes, and the log may end for any reason that looks at the past alone: the false-alarm rate stays
alpha.  A weighted average of such processes is one too, which is how many alternatives are tried at once: each
costs only the logarithm of its weight; which there are, and their weights, are fixed beforehand.  (Ville 1939; Ramdas
et al., "Game-theoretic statistics and safe anytime-valid inference", arXiv 2210.01948.)

**Bets.**  *Fixed*: ``g = 1 + lambda s(cell)`` for the scores of :data:`mdsd_bounds.audit.cells.SCORES` and a grid of
lambda of both signs ("drafted tokens come too often": residual skipped, a draft accepted unseen).  *Learned*: g is the
ratio of what was seen to what was due in the past, ``(O + c)/(E + c)``, by q/p, by p, and by both.  *By place*:
both once more with the intervals of the cumulative distribution as cells.  *Named*: the known
faults, as far as p, q and the sampler say what each would do here (:mod:`mdsd_bounds.audit.faults`).  *Impossible*: a
token with p = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdsd_bounds.audit.cells import CELLS, LEVEL_OF, PLACE_SCORE, PLACES, RATIO_OF, SCORES, Flags, Floats, Ints
from mdsd_bounds.audit.controls import CONTROLS

#: Betting fractions on a score in [-1, 1].
FRACTIONS = (0.03, 0.1, 0.3, 0.6, 0.9)
#: Betting fractions on events that should not happen (or not more often than a bound).
ODDS = tuple(10.0**k for k in range(7))
#: Pseudo-counts that hold a learned bet near one until there is something to learn from.
_PRIOR = 5.0
#: How much of what was learned is wagered.
_TRUST = (0.5, 1.0)


@dataclass(frozen=True)
class Wager:
    """Wealth over a log.

    Attributes
    ----------
    running : ndarray
        ``[N]`` natural logarithm of the wealth after each position.
    bets, wealth : tuple, ndarray
        Names ``[K]`` of the bets and the logarithm of the wealth of each at the end.
    families : int
        Families of bets that shared the wealth.
    """

    running: Floats
    bets: tuple[str, ...]
    wealth: Floats
    families: int

    @property
    def peak(self) -> float:
        """Largest log wealth ever reached, at least 0."""
        return float(max(self.running.max(initial=0.0), 0.0))

    @property
    def leader(self) -> str:
        """The bet with most wealth."""
        return self.bets[int(np.argmax(self.wealth))] if self.bets else "none"

    def crossed(self, level: float) -> int | None:
        """Index of the first position at which the wealth is at least 1/level, None if never."""
        over = np.flatnonzero(self.running >= -np.log(level))
        return int(over[0]) if len(over) else None

    @property
    def steps(self) -> Floats:
        """Log factor ``[N]`` that each position contributed; 0 once the wealth is infinite."""
        before = np.concatenate([[0.0], self.running[:-1]])
        return np.where(before == np.inf, 0.0, self.running - np.where(before == np.inf, 0.0, before))


def wager(
    probs: Floats,
    cell: Ints,
    tolerance: Floats,
    drifts: NDArray[np.float32] | None = None,
    places: tuple[Floats, Ints] | None = None,
) -> Wager:
    """Bet on all alternatives at once.

    Parameters
    ----------
    distribution : ndarray
        ``[N, CELLS]`` masses of the cells under the null.
    cell : ndarray
        ``[N]`` observed cells.
    tolerance : ndarray
        ``[N]`` total variation by which the stated distribution may be off.
    drifts : ndarray, optional
        ``[N, F, CELLS]`` scores in [-1, 1] of the controls (:mod:`mdsd_bounds.audit.faults`).
    places : (ndarray, ndarray), optional
        ``[N, PLACES]`` masses of the intervals of the cumulative distribution under the null, ``[N]`` those observed.

    Notes
    -----
    O(N CELLS) in time and memory.
    """
    families = [
        *(_fixed_bets(name, score, probs, cell, tolerance) for name, score in SCORES.items()),
        _learned_bets("q/p", RATIO_OF, probs, cell, tolerance),
        _learned_bets("p", LEVEL_OF, probs, cell, tolerance),
        _learned_bets("q/p and p", np.arange(CELLS), probs, cell, tolerance),
        event_bets("impossible tokens", probs[np.arange(len(cell)), cell] <= 0, np.zeros(len(cell)), tolerance),
    ]
    if places is not None:
        families += [
            _fixed_bets("late tokens of the vocabulary", PLACE_SCORE, *places, tolerance),
            _learned_bets("place in the vocabulary", np.arange(PLACES), *places, tolerance),
        ]
    if drifts is not None:
        # All of them, also those that this log is never about: shares must not depend on what comes later.
        families += [_fault_bets(name, drifts[:, f], probs, cell, tolerance) for f, name in enumerate(CONTROLS)]
    return join(families)


Bets = list[tuple[str, Floats]]


def join(families: list[Bets]) -> Wager:
    """The wealth shared equally among families of bets, and equally inside each."""
    names = tuple(name for family in families for name, _ in family)
    weights = np.concatenate([np.full(len(family), -np.log(len(families) * len(family))) for family in families])
    running = np.cumsum(np.stack([factors for family in families for _, factors in family]), axis=1)
    total = running + weights[:, None]
    top = total.max(axis=0, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(over="ignore"):
        joined = safe + np.log(np.exp(total - safe).sum(axis=0))
    ends = running[:, -1] if running.shape[1] else np.zeros(len(names))
    return Wager(np.where(top == np.inf, np.inf, joined), names, ends, len(families))


def _fixed_bets(name: str, score: Floats, probs: Floats, cell: Ints, tolerance: Floats) -> Bets:
    """``(1 + lambda s) / (1 + lambda E s + 2 |lambda| tolerance)`` for every betting fraction of both signs."""
    seen, due = score[cell], probs @ score
    bets = []
    for fraction in FRACTIONS:
        for sign, word in ((1.0, "too often"), (-1.0, "too rarely")):
            bet = sign * fraction
            bets.append(
                (
                    f"{name} {word}, betting fraction {fraction}",
                    np.log1p(bet * seen) - np.log1p(bet * due + 2 * fraction * tolerance),
                )
            )
    return bets


def _fault_bets(name: str, score: NDArray[np.float32], probs: Floats, cell: Ints, tolerance: Floats) -> Bets:
    """``(1 + lambda s) / (1 + lambda E s + 2 lambda tolerance)`` with a score of its own at each position."""
    seen, due = score[np.arange(len(cell)), cell].astype(np.float64), np.einsum("nc,nc->n", probs, score)
    return [
        (
            f"as {name} would, betting fraction {fraction}",
            np.log1p(fraction * seen) - np.log1p(fraction * due + 2 * fraction * tolerance),
        )
        for fraction in FRACTIONS
    ]


def _learned_bets(name: str, group_of: Ints, probs: Floats, cell: Ints, tolerance: Floats) -> Bets:
    """``w(cell) / (E w + tolerance (max w - min w))`` with w learned from the positions before."""
    groups = int(group_of.max()) + 1
    sort = np.zeros((len(group_of), groups))
    sort[np.arange(len(group_of)), group_of] = 1.0
    due, seen = probs @ sort, sort[cell]
    before_due, before_seen = (np.cumsum(x, axis=0) - x for x in (due, seen))
    weight = (before_seen + _PRIOR) / (before_due + _PRIOR)
    if len(group_of) == CELLS:
        # The impossible cell has its own bet: nothing is ever due there.
        weight[:, -1] = 1.0
    bets = []
    for trust in _TRUST:
        g = 1.0 + trust * (weight - 1.0)
        cost = (due * g).sum(1) + tolerance * (g.max(1) - g.min(1))
        bets.append((f"learned by {name}, trust {trust}", np.log((seen * g).sum(1)) - np.log(cost)))
    return bets


def event_bets(name: str, happened: Flags, chance: Floats, tolerance: Floats) -> Bets:
    """``(1 + lambda 1[event]) / (1 + lambda chance)`` for every odds; ``chance`` bounds the event's probability.

    With no chance at all one event is a proof: the wealth is infinite.
    """
    bound = np.clip(chance + tolerance, 0.0, 1.0)
    bets = [(f"{name}, odds {odds:g}", np.log1p(odds * happened) - np.log1p(odds * bound)) for odds in ODDS]
    ever = np.where(happened & (bound <= 0), np.inf, 0.0)
    return [(label, factors + ever) for label, factors in bets]
