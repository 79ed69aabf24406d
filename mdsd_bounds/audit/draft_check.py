"""Do the drafts look like those of the stated sampler?  The bound test stands on it.

Where the sampler says that some draft has distribution q (the first one of draws with or without replacement) its cell
is wagered on as the output's is on p; with replacement, also how often the first two drafts are equal (``sum q^2``).
Equal drafts where the sampler draws without replacement are impossible.
"""

from __future__ import annotations

import numpy as np

from mdsd_bounds.audit.martingale import Wager, event_bets, join, wager
from mdsd_bounds.audit.positions import Positions

#: Betting fractions on an equal pair, of both signs.
FRACTIONS = (-0.9, -0.5, -0.2, 0.2, 0.5, 0.9)


def draft_check(positions: Positions) -> Wager | None:
    """Wealth against "the drafts follow the sampler"; None where nothing can be said."""
    tested = positions.part(positions.draft_cell >= 0)
    if len(tested) == 0:
        return None
    probs = tested.q_mass / tested.q_mass.sum(1, keepdims=True)
    tolerance = np.minimum(tested.tolerance + tested.draft_slack, 1.0)
    first = wager(probs, tested.draft_cell, tolerance)
    pairs = np.isfinite(tested.equal_chance)
    if not bool(pairs.any()):
        # One draft a line: nothing can be equal.  The half that was set aside for it stays as it is.
        return join([[("first draft: " + first.leader, first.steps)], [("first draft: none", np.zeros(len(tested)))]])
    seen, due = np.where(pairs, tested.equal, 0.0), np.where(pairs, tested.equal_chance, 0.0)
    slack = np.where(pairs, 2 * tolerance, 0.0)
    bets = [
        (
            f"equal drafts too {'often' if fraction > 0 else 'rarely'}, betting fraction {abs(fraction)}",
            np.log1p(fraction * seen)
            - np.log1p(np.minimum(fraction * due + abs(fraction) * slack, max(fraction, 0.0))),
        )
        for fraction in FRACTIONS
    ]
    zero = np.zeros(len(tested))
    never = pairs & (due <= 0)
    bets_never = event_bets("equal drafts where none may be", never & (seen > 0), zero, zero)
    second = join([bets, bets_never])
    both = join([[("first draft: " + first.leader, first.steps)], [("drafts: " + second.leader, second.steps)]])
    return both
