"""The race among the drafts: the selection rule without replacement, once its two sides and its weights are chosen.

The tokens are split into a left side L (the fixed tokens are in it) and a right side R.  The *active* drafts are those
in R if there are any, else all drafts, which then lie in L.  Among the active drafts token i is picked with probability
``w_i / (sum of the active w)``: the smallest of independent Exp(1)/w_i wins.  The theory is in
:mod:`mdsd_bounds.verifiers.optimal.without_replacement`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds.bounds.search.exponential_race import sum_rounding
from mdsd_bounds.verifiers.optimal.prepared import Prepared, sample_slots


@dataclass(frozen=True)
class Race:
    """The rule itself.

    Attributes
    ----------
    on_right : Tensor
        ``[V]`` bool: the token is in R.
    log_weight : Tensor
        ``[V]`` float64, finite.
    """

    on_right: Tensor
    log_weight: Tensor

    def pick_law(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` ``[T, n]`` is the pick; 0 for empty slots.  O(T n)."""
        token = drafts.clamp(min=0)
        filled = drafts >= 0
        right = self.on_right[token] & filled
        active = torch.where(right.any(-1, keepdim=True), right, filled)
        return torch.softmax(self.log_weight[token].masked_fill(~active, -torch.inf), -1)

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``."""
        return sample_slots(self.pick_law(drafts), generator)

    def summary(self) -> str:
        """Sides and weights."""
        return f"a race of {len(self.log_weight):,} weights, {int(self.on_right.sum()):,} of them on the right"


def prepared_race(p: Tensor, race: Race, r: Tensor, error: float) -> Prepared:
    """The rule with its law and its certificate.

    Parameters
    ----------
    p, r : Tensor
        ``[V]`` target law, and the law of the race's pick.
    error : float
        Bound on ``sum |r - law of the pick|``.

    Notes
    -----
    r(L) = Q(L) for every choice of weights, so that L is its own upper bound: ``alpha* <= 1 + P(L) - r(L)``, and the
    gap is that minus ``sum min(p, r)``, which is ``sum_L (p - r)_+ + sum_R (r - p)_+``.
    """
    right = race.on_right
    short = torch.where(right, r - p, p - r).clamp(min=0.0).sum()
    # Tokens that no draft can be (r = 0) are on the right, where they lose nothing.
    gap = float(short) + error + 2 * sum_rounding(len(p)) + abs(float(r.sum()) - 1.0) + abs(float(p.sum()) - 1.0)
    return Prepared(p, r, gap, race)
