"""Acceptance rates in every definition in use, pooled from counts, with intervals.

With A accepted draft tokens in D verification steps of T draft tokens, and A_i steps in which all tokens up to position
i were accepted (``A = A_1 + ... + A_K``):

============================  =====================  =========================================================
accepted/drafted              ``A / T``              vLLM's draft acceptance rate, llama.cpp's
length without bonus          ``A / D``              accepted draft tokens a step
length with bonus             ``1 + A / D``          vLLM's and SGLang's mean acceptance length; block efficiency
position i                    ``A_i / D``            vLLM's rate per position, cumulative
conditional i                 ``A_i / A_(i-1)``      given that all earlier ones were accepted (``A_0 = D``)
============================  =====================  =========================================================

All are ratios of sums, never means of ratios: a unit weighs as much as it counts.

Intervals (95%).  Where there are several units (requests, log lines, periods), the unit is the cluster: with ratio
``r = sum y / sum x``, ``stderr^2 = U/(U-1) sum (y_u - r x_u)^2 / (sum x)^2`` (linearised ratio estimator), and the
quantile is Student's t with U - 1 degrees of freedom.  A single total says nothing of how its parts vary; its interval
takes the *steps* as independent, which they are not quite, and says so: Wilson's score interval, for the lengths with
the variance ``sum (2i - 1) A_i/D - (A/D)^2`` of the accepted length, which the counts per position give exactly, and
where those are missing with the largest variance that any distribution on 0..K of that mean has (``m (K - m)``, Bhatia
and Davis, 2000).  An interval of units is never narrower than that of independent steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mdsd_bounds._backend.printable import counted
from mdsd_bounds.counts.records import Counts, Floats
from mdsd_bounds.problem import InputError

LEVEL = 0.95
#: Draft tokens a step where neither the counts nor the user say how many: more than engines draft in a chain.
ASSUMED_DRAFT_TOKENS = 16
#: Units below which the interval is stated beside that of independent steps.
FEW = 8

RATE, LENGTH, LENGTH_WITH_BONUS = "accepted/drafted", "length without bonus", "length with bonus"
POSITION, CONDITIONAL = "position", "conditional"


@dataclass(frozen=True)
class AcceptanceSummary:
    """Every definition side by side, ``R`` rows.

    Attributes
    ----------
    counts : Counts
        What was counted.
    quantity : tuple of str
        ``[R]`` the definition (module docstring).
    position : ndarray
        ``[R]`` draft position from 1; 0 for rows over all positions.
    value, low, high : ndarray
        ``[R]`` the ratio and its 95% interval; NaN where the counts do not give it.
    steps_low, steps_high : ndarray
        ``[R]`` the interval if the verification steps were independent.
    numerator, denominator : ndarray
        ``[R]`` the pooled counts.
    basis : str
        What the intervals rest on, in one sentence.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, acceptance, counts
    >>> found = acceptance(counts("vLLM", "total", [Unit(1000, 4000, 1900, (800, 560, 340, 200))]))
    >>> row = found.row("accepted/drafted")
    >>> round(float(found.value[row]), 3), bool(found.low[row] <= found.value[row])
    (0.475, True)
    """

    counts: Counts
    quantity: tuple[str, ...]
    position: np.ndarray
    value: Floats
    low: Floats
    high: Floats
    steps_low: Floats
    steps_high: Floats
    numerator: Floats
    denominator: Floats
    basis: str

    def row(self, quantity: str, position: int = 0) -> int:
        """Number of the row of a definition; -1 where the counts do not give it."""
        for place, name in enumerate(self.quantity):
            if name == quantity and self.position[place] == position:
                return place
        return -1


@dataclass(frozen=True)
class _Ratio:
    quantity: str
    position: int
    above: Floats
    below: Floats
    #: Variance of one step's contribution over the binomial one, and what a value of one stands for.
    spread: float = 1.0
    scale: float = 1.0
    offset: float = 0.0
    most: float = 1.0


def acceptance(counts: Counts) -> AcceptanceSummary:
    """Rates in every definition that the counts allow, with 95% intervals.

    Parameters
    ----------
    counts : Counts
        From :func:`mdsd_bounds.counts.read_counts`, or made by hand.

    Returns
    -------
    AcceptanceSummary

    Raises
    ------
    InputError
        If nothing was drafted.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, acceptance, counts
    >>> total = Unit(drafts=1000, drafted=4000, accepted=1900, accepted_at=(800, 560, 340, 200))
    >>> found = acceptance(counts("vLLM", "total", [total]))
    >>> [round(float(found.value[found.row(name)]), 4) for name in ("accepted/drafted", "length with bonus")]
    [0.475, 2.9]
    """
    ratios = [ratio for ratio in _ratios(counts) if _known(ratio)]
    if not ratios:
        raise InputError("the counts hold no drafted token; take them while the engine speculates")
    rows = [_row(ratio, counts) for ratio in ratios]
    value, low, high, steps_low, steps_high, above, below = (np.array(column) for column in zip(*rows, strict=True))
    names = tuple(ratio.quantity for ratio in ratios)
    places = np.array([ratio.position for ratio in ratios])
    return AcceptanceSummary(
        counts, names, places, value, low, high, steps_low, steps_high, above, below, basis_of(counts)
    )


def basis_of(counts: Counts) -> str:
    """What the intervals rest on."""
    number = len(counts)
    if number == 1:
        text = (
            "one total, so the intervals take the verification steps as independent; steps of one request are alike, "
            "and the true uncertainty is larger (counts by request, or several snapshots, give it)"
        )
        if _most(counts) == ASSUMED_DRAFT_TOKENS > counts.draft_tokens:
            text += f"; steps of at most {ASSUMED_DRAFT_TOKENS} draft tokens are assumed (--draft-tokens says how many)"
        return text
    return (
        f"{counted(number, counts.unit)} as independent units (linearised ratio, Student's t with {number - 1} degrees "
        "of freedom)"
    )


def _most(counts: Counts) -> int:
    """Draft tokens of a step at most; assumed where some unit says neither its steps nor its positions."""
    if bool(np.isnan(counts.drafts).any()) and bool(np.isnan(counts.accepted_at).any() or not counts.accepted_at.size):
        return max(counts.draft_tokens, ASSUMED_DRAFT_TOKENS)
    drafted, drafts = float(np.nansum(counts.drafted)), float(counts.drafts.sum())
    least = math.ceil(drafted / drafts - 1e-9) if drafts > 0 else 0
    return max(counts.draft_tokens, least) or ASSUMED_DRAFT_TOKENS


def _ratios(counts: Counts) -> list[_Ratio]:
    drafts, drafted, accepted = counts.drafts, counts.drafted, counts.accepted
    most = _most(counts)
    spread = _spread(counts, most)
    found = [
        _Ratio(RATE, 0, accepted, drafted, spread),
        _Ratio(LENGTH, 0, accepted, drafts, spread, scale=most, most=most),
        _Ratio(LENGTH_WITH_BONUS, 0, accepted, drafts, spread, scale=most, offset=1.0, most=most),
    ]
    whole = counts.drafted_at
    for place in range(counts.accepted_at.shape[1]):
        found.append(_Ratio(POSITION, place + 1, counts.accepted_at[:, place], _unless_known(whole, place, drafts)))
    for place in range(counts.accepted_at.shape[1]):
        before = counts.accepted_at[:, place - 1] if place else _unless_known(whole, 0, drafts)
        found.append(_Ratio(CONDITIONAL, place + 1, counts.accepted_at[:, place], before))
    return found


def _unless_known(table: Floats, place: int, drafts: Floats) -> Floats:
    column = table[:, place]
    return np.where(np.isnan(column), drafts, column)


def _spread(counts: Counts, most: int) -> float:
    """Variance of the share of a step's tokens that are accepted, times K, over that of K independent ones.

    K where the counts per position are missing: all tokens of a step accepted or none (Bhatia and Davis' maximum).
    """
    reached, drafts = counts.accepted_at.sum(0), float(counts.drafts.sum())
    if not (len(reached) and drafts > 0 and np.isfinite(reached).all()):
        return float(most)
    survival = reached / drafts
    mean = float(survival.sum())
    variance = float(((2 * np.arange(len(survival)) + 1) * survival).sum()) - mean**2
    share = mean / most
    binomial = share * (1 - share) * most
    return max(variance / binomial, 0.0) if binomial > 0 else float(most)


def _known(ratio: _Ratio) -> bool:
    both = np.isfinite(ratio.above) & np.isfinite(ratio.below)
    return bool(both.all()) and len(both) > 0 and float(ratio.below.sum()) > 0


def _row(ratio: _Ratio, counts: Counts) -> tuple[float, ...]:
    above, below = float(ratio.above.sum()), float(ratio.below.sum())
    value = above / below
    steps = _independent(ratio, value, below)
    low, high = _clustered(ratio, value, below, steps)
    pairs = []
    for ends in ((low, high), steps):
        wide = counts.rounding if ratio.quantity in (LENGTH, LENGTH_WITH_BONUS) else 0.0
        first = max(ends[0] - wide, 0.0) + ratio.offset
        pairs += [first, min(ends[1] + wide, ratio.most) + ratio.offset]
    return (value + ratio.offset, *pairs, above, below)


def _independent(ratio: _Ratio, value: float, below: float) -> tuple[float, float]:
    """Wilson's score interval with the number of independent tokens that the variance stands for."""
    share = min(value / ratio.scale, 1.0)
    number = below * ratio.scale / max(ratio.spread, 1e-9)
    return tuple(ratio.scale * end for end in wilson(share, number))  # type: ignore[return-value]


def _clustered(ratio: _Ratio, value: float, below: float, steps: tuple[float, float]) -> tuple[float, float]:
    number = len(ratio.above)
    if number < 2:
        return steps
    from scipy.stats import t

    residual = ratio.above - value * ratio.below
    error = math.sqrt(number / (number - 1) * float(np.square(residual).sum())) / below
    half = float(t.ppf((1 + LEVEL) / 2, number - 1)) * error
    return max(min(value - half, steps[0]), 0.0), min(max(value + half, steps[1]), ratio.most)


def wilson(share: float, number: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, 95%, from a share of ``number`` trials.

    Examples
    --------
    >>> tuple(round(end, 3) for end in wilson(0.8, 1000))
    (0.774, 0.824)
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + LEVEL) / 2))
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return max(middle - half, 0.0), min(middle + half, 1.0)
