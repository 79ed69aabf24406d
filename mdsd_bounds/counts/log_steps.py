"""How many verification steps stand behind a line that prints tokens, rates per position and a mean length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mdsd_bounds.counts.records import Unit

#: Numbers of steps that are tried.
_TRIED = 100_000


def steps_of(accepted: float, drafted: float, rates: Sequence[float], length: float | None = None) -> float:
    """The number of verification steps behind a line that prints tokens, rates per position and perhaps a mean length.

    ``n`` steps agree if every rate is a count over n and the counts sum to the accepted tokens, to the printed three
    decimals, and the length (with or without the bonus token) to two.  Taken is ``drafted / K`` if it agrees, else the
    agreeing number closest to ``accepted / sum of rates``, else that quotient itself.

    Examples
    --------
    >>> steps_of(257, 388, [0.804, 0.701, 0.629, 0.515], 3.65)
    97.0
    """
    positions, total = len(rates), sum(rates)
    even = drafted / positions
    if not accepted or total <= 0:
        return max(even, 1.0) if even else even
    quotient = accepted / total
    # The printed rates leave this much open.
    wide = accepted / max(total - 0.0005 * positions, 1e-9) - quotient + 1
    low, high = max(math.ceil(even), math.floor(quotient - wide)), min(math.ceil(quotient + wide), int(drafted))
    if even.is_integer() and _agree(int(even), accepted, rates, length):
        return even
    if high - low > _TRIED:
        return quotient
    found = [n for n in range(max(low, 1), high + 1) if _agree(n, accepted, rates, length)]
    return float(min(found, key=lambda n: abs(n - quotient))) if found else max(quotient, even)


def _agree(steps: int, accepted: float, rates: Sequence[float], length: float | None) -> bool:
    whole = [round(rate * steps) for rate in rates]
    if any(abs(taken / steps - rate) > 0.00051 for taken, rate in zip(whole, rates, strict=True)):
        return False
    if sum(whole) != accepted:
        # Several counts may round to one rate where there are many steps.
        slack = sum(max(0.0, 0.00051 * steps - 0.5) for _ in rates)
        if abs(sum(whole) - accepted) > slack:
            return False
    return length is None or min(abs(offset + accepted / steps - length) for offset in (0, 1)) <= 0.0051


def steps_of_length(accepted: float, drafted: float, printed: str) -> float | None:
    """The number of steps where a line prints tokens and their mean length with the bonus token; None if several agree.

    Raises
    ------
    ValueError
        If no number of steps makes that length.

    Examples
    --------
    >>> steps_of_length(24, 38, "2.85")
    13.0
    """
    length, half = float(printed), half_unit(printed)
    if not accepted:
        if length > 1 + half:
            raise ValueError(f"a mean length of {printed}, but no accepted token")
        return None
    most = accepted / (length - half - 1) if length - half > 1 else drafted
    low, high = math.ceil(accepted / max(length + half - 1, 1e-9) - 1e-9), min(math.floor(most + 1e-9), int(drafted))
    if low > high:
        raise ValueError(f"a mean length of {printed}, which no number of steps makes of {accepted:g} accepted tokens")
    return float(low) if low == high else None


def without_bonus(units: Sequence[Unit]) -> tuple[list[Unit], list[str]]:
    """SGLang's lines with the draft tokens of a step, where the printed figures tell them, and what is to be said.

    An accept rate is the accept len over the draft tokens of a step, with the token that the target adds in both (some
    versions) or in neither.  Where all lines fit one number of draft tokens in one of the two ways alone, it is taken.

    Examples
    --------
    >>> found, notes = without_bonus([Unit(40, 60 / 0.63, 60), Unit(40, 100 / 0.88, 100)])
    >>> found[0].drafted, found[1].drafted, len(notes)
    (120, 120, 1)
    """
    told = [one for one in units if one.drafts and one.drafted and one.accepted]
    fits = {}
    for offset in (0, 1):
        low, high = 0.0, math.inf
        for one in told:
            drafts, drafted, accepted = one.drafts or 0.0, one.drafted or 0.0, one.accepted or 0.0
            length, rate = offset + accepted / drafts, accepted / drafted
            low, high = (
                max(low, (length - 0.0051) / (rate + 0.0051)),
                min(high, (length + 0.0051) / max(rate - 0.0051, 1e-9)),
            )
        fits[offset] = range(max(math.ceil(low), 1), min(math.floor(high), 64) + 1)
    one_way = [(offset, found[0]) for offset, found in fits.items() if len(found) == 1 and not fits[1 - offset]]
    # One line fits by chance where the engine changes how much it drafts.
    if not one_way or len({(one.drafted or 0.0) / (one.drafts or 1.0) for one in told}) < 2:
        return list(units), []
    offset, tokens = one_way[0]
    tokens -= offset
    if tokens < 1:
        return list(units), []
    counted = [
        replace(one, drafted=one.drafts * tokens) if one.drafts and one.accepted is not None else one for one in units
    ]
    said = "with" if offset else "without"
    return counted, [
        f"the accept rates are those of {tokens} draft tokens a step, counted {said} the token of the target"
    ]


def half_unit(printed: str) -> float:
    """Half a unit of the last digit of a printed number, and a little for how it was rounded.

    Examples
    --------
    >>> round(half_unit("2.85"), 5)
    0.0051
    """
    mantissa, _, exponent = printed.lower().partition("e")
    return 0.51 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
