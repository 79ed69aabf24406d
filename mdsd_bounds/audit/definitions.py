"""The acceptance figures in use, side by side: engines and papers mean different things by "acceptance rate".

All are computed from the same positions.  *Accepted* means that the output token is one of the position's drafts,
whichever branch of the rule produced it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdsd_bounds.audit.positions import DRAFT_COUNTS, Positions


@dataclass(frozen=True)
class Figure:
    """One figure: its name, its value (None where the log does not hold it), its definition."""

    name: str
    value: float | None
    definition: str


@dataclass(frozen=True)
class MarginalGain:
    """Of n drafts: mean alpha* and its gain over n - 1 (None where unknown), and the observed share of the first n."""

    drafts: int
    bound: float | None
    gain: float | None
    observed: float | None
    positions: int


def acceptance_figures(positions: Positions) -> list[Figure]:
    """Every definition, in the order in which they are printed."""
    offered = positions.part(positions.drafts > 0)
    hits = offered.accepted
    count, slots = len(offered), int(offered.drafts.sum())
    figures = [
        Figure(
            "acceptance per position",
            _ratio(float(hits.sum()), count),
            "positions whose output is one of their drafts / positions with drafts (bounded by alpha*)",
        ),
        Figure(
            "accepted per drafted token",
            _ratio(float(hits.sum()), slots),
            "accepted tokens / draft tokens verified; falls as n grows even where acceptance rises",
        ),
    ]
    for k in range(int(offered.drafts.max(initial=0))):
        reached = (offered.drafts > k) & ((offered.rank < 0) | (offered.rank >= k))
        figures.append(
            Figure(
                f"rank {k + 1} given none before",
                _ratio(float((reached & (offered.rank == k)).sum()), int(reached.sum())),
                f"output equals draft {k + 1} / positions with a draft {k + 1} whose output equals none before it",
            )
        )
    return [*figures, *_by_step(positions)]


def _by_step(positions: Positions) -> list[Figure]:
    lengths = "accepted drafts per target forward pass"
    known = positions.step >= 0
    if len(positions) == 0 or not bool(known.all()):
        without = with_bonus = efficiency = None
    else:
        steps = len(np.unique(np.stack([positions.doc, positions.step]), axis=1).T)
        without = float(positions.accepted.sum()) / steps
        with_bonus, efficiency = without + 1.0, len(positions) / steps
    return [
        Figure("mean accepted length, no bonus", without, f"{lengths} (one for each doc and step of the log)"),
        Figure("mean accepted length, with bonus", with_bonus, f"{lengths}, plus the one token that every pass adds"),
        Figure(
            "block efficiency",
            efficiency,
            "tokens output / target forward passes; less than the line above where texts end or are cut inside a step",
        ),
    ]


def marginal_gains(positions: Positions) -> list[MarginalGain]:
    """For n = 1..4: mean alpha* over the positions where it is known, its gain over n - 1, and what was observed."""
    found: list[MarginalGain] = []
    known = np.isfinite(positions.bound_by_n).all(1)
    for i, n in enumerate(DRAFT_COUNTS):
        bound = float(positions.bound_by_n[known, i].mean()) if bool(known.any()) else None
        wide = positions.drafts >= n
        observed = _ratio(float((wide & (positions.rank >= 0) & (positions.rank < n)).sum()), int(wide.sum()))
        before = found[-1].bound if found else None
        gain = None if bound is None or before is None else bound - before
        found.append(MarginalGain(n, bound, gain, observed, int(wide.sum())))
    return found


def _ratio(top: float, bottom: int) -> float | None:
    return top / bottom if bottom else None
