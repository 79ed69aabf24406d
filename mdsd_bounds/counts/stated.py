"""Figures that a JSON states beside its counts: each must be what the counts make, in one of the definitions in use.

=========  ============================================================================================================
rate       accepted over drafted tokens, as a share (SGLang) or in percent (vLLM); older versions of SGLang count the
           token that the target adds above and below
length     accepted tokens a step, with the token that the target adds (vLLM, SGLang) or without; completion tokens over
           steps (SGLang)
positions  steps that accepted up to a position over all steps (vLLM)
=========  ============================================================================================================

A figure may be off by half a unit of its last digit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mdsd_bounds.counts.log_steps import half_unit
from mdsd_bounds.counts.records import Unit, count

_OF = r"(?:avg|mean|average|spec|decode|overall|draft|token)"
#: Some versions of SGLang count the token that the target adds, in both numbers.
_OF_SGLANG = "spec_accept_rate"
_PRINTED = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)? ?%?", re.IGNORECASE)
_RATE = re.compile(rf"(?:{_OF}_)*accept(?:ance|ed)?_(?:rate|ratio)(?:_(?:pct|percent|mean|avg))?")
_LENGTH = re.compile(rf"(?:{_OF}_)*accept(?:ance|ed)?_len(?:gth)?s?(?:_(?:mean|avg))?")


def figures(held: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The rates and lengths that an object states: ("rate" or "length", name, as printed).

    Examples
    --------
    >>> figures({"accept_rate": "47.5%", "spec_accept_length": 2.9, "accept_lengths": [1, 2]})
    [('rate', 'accept_rate', '47.5%'), ('length', 'spec_accept_length', '2.9')]
    """
    found = []
    for name, value in held.items():
        printed = value.strip() if isinstance(value, str) else repr(value)
        if isinstance(value, bool) or _PRINTED.fullmatch(printed) is None:
            continue
        if _RATE.fullmatch(name):
            found.append(("rate", name, printed))
        elif _LENGTH.fullmatch(name):
            found.append(("length", name, printed))
    return found


def require_figures(held: dict[str, Any], unit: Unit, emitted: float | None = None, ends: int = 0) -> None:
    """Raise a ValueError on a stated figure that is not that of the counts.

    Parameters
    ----------
    held : dict
        The object with the figures.
    unit : Unit
        What it counts.
    emitted : float or None
        Its completion tokens.
    ends : int
        Requests of unknown completion tokens, which a stated length may be made of: a token more from the prompt, or
        a last step cut short.

    Examples
    --------
    >>> require_figures({"spec_decode_acceptance_rate": 47.5}, Unit(1000, 4000, 1900))
    >>> require_figures({"spec_decode_acceptance_rate": 57.5}, Unit(1000, 4000, 1900))
    Traceback (most recent call last):
    ValueError: spec_decode_acceptance_rate is 57.5, but 1900 of 4000 draft tokens are 47.5%
    """
    for kind, name, printed in figures(held):
        if not _near(printed, definitions(name, kind, unit, emitted), _slack(kind, unit, ends)):
            raise ValueError(f"{name} is {printed}, but {made(kind, unit)}")


def require_figures_of_all(held: dict[str, Any], units: Sequence[Unit], total: Unit) -> None:
    """Raise a ValueError on a figure stated above several counts that is neither of their sum nor their mean.

    Examples
    --------
    >>> two = [Unit(10, 40, 30), Unit(30, 120, 10)]
    >>> require_figures_of_all({"accept_rate": 0.25}, two, Unit(40, 160, 40))
    >>> require_figures_of_all({"accept_rate": 0.41667}, two, Unit(40, 160, 40))
    >>> require_figures_of_all({"accept_rate": 0.31}, two, Unit(40, 160, 40))
    Traceback (most recent call last):
    ValueError: accept_rate is 0.31, but 40 of 160 draft tokens are 25%
    """
    for kind, name, printed in figures(held):
        each = [definitions(name, kind, unit, None) for unit in units]
        slack = [_slack(kind, unit, 1) for unit in units]
        means = [(sum(one) / len(each), percent) for *one, percent in _columns(each)] if all(each) else []
        of_sum = _near(printed, definitions(name, kind, total, None), _slack(kind, total, len(units)))
        if not of_sum and not (means and _near(printed, means, sum(slack) / len(slack))):
            raise ValueError(f"{name} is {printed}, but {made(kind, total)}")


def _columns(each: Sequence[Sequence[tuple[float, bool]]]) -> list[tuple[Any, ...]]:
    width = min(map(len, each))
    return [(*(one[place][0] for one in each), each[0][place][1]) for place in range(width)]


def definitions(name: str, kind: str, unit: Unit, emitted: float | None) -> list[tuple[float, bool]]:
    """What the counts make of a figure in every definition, and whether in percent; empty where they do not say."""
    drafts, drafted, accepted = unit.drafts, unit.drafted, unit.accepted
    if accepted is None:
        return []
    if kind == "rate" and drafted:
        found = [(accepted / drafted, False), (100 * accepted / drafted, True)]
        return [*found, ((accepted + drafts) / (drafted + drafts), False)] if drafts and name == _OF_SGLANG else found
    if kind == "length" and drafts:
        found = [(accepted / drafts, False), (1 + accepted / drafts, False)]
        return [*found, (emitted / drafts, False)] if emitted is not None else found
    return []


def _near(printed: str, candidates: Sequence[tuple[float, bool]], slack: float) -> bool:
    """Whether a figure is one of the candidates as printed; a share or length without a fraction is no rounded one."""
    number = printed.rstrip("% ")
    value, half = float(number), half_unit(number)
    fraction = not number.lstrip("-").isdigit()
    return not candidates or any(
        abs(value - one) <= (half if percent or fraction else 0.0) + slack + 1e-9 * abs(one)
        for one, percent in candidates
        if percent or not printed.endswith("%")
    )


def _slack(kind: str, unit: Unit, ends: int) -> float:
    if kind == "rate" or not unit.drafts or unit.accepted is None:
        return 0.0
    return ends * (1 + unit.accepted / unit.drafts) / unit.drafts


def made(kind: str, unit: Unit) -> str:
    """What the counts make, in words."""
    accepted = unit.accepted or 0.0
    if kind == "rate":
        return f"{accepted:g} of {unit.drafted:g} draft tokens are {100 * accepted / (unit.drafted or 1):.4g}%"
    length = 1 + accepted / (unit.drafts or 1)
    return f"{accepted:g} tokens accepted in {unit.drafts:g} steps make {length:.4g} with the bonus"


def steps_at(rates: Any, drafts: float, accepted: float | None) -> tuple[float, ...]:
    """The counts behind rates by position, which must make the accepted tokens.

    Raises
    ------
    ValueError
        If they make others, or are no counts of the steps.

    Examples
    --------
    >>> steps_at([1.0, 0.6, 0.2], 5, 9)
    (5.0, 3.0, 1.0)
    """
    if isinstance(rates, dict):
        rates = [rates[name] for name in sorted(rates, key=int)]
    if not isinstance(rates, list):
        raise ValueError(f"rates by position are {type(rates).__name__}, not a list")
    # The digits of the finest: JSON drops zeros at the end.
    half = min((half_unit(repr(rate)) for rate in rates), default=0.0)
    slack = [half * drafts + 1e-6 for _ in rates]
    at = [count(rate, "a rate by position") * drafts for rate in rates]
    for place, (number, wide) in enumerate(zip(at, slack, strict=True), 1):
        if number > drafts + wide:
            raise ValueError(f"a rate of {rates[place - 1]:g} at position {place}; rates are shares of the steps")
        if wide < 0.49 and abs(number - round(number)) > wide:
            raise ValueError(f"a rate of {rates[place - 1]!r} at position {place} is no number of {drafts:g} steps")
    if at and accepted is not None and abs(sum(at) - accepted) > sum(slack) + 1e-6:
        raise ValueError(f"the rates by position make {sum(at):g} accepted tokens, but {accepted:g} are stated")
    return tuple(float(round(number)) if wide < 0.49 else number for number, wide in zip(at, slack, strict=True))


def histogram_of(
    histogram: Sequence[float], drafts: float, accepted: float | None, emitted: float | None
) -> list[float]:
    """A histogram of accepted draft tokens a step, also where it was made of the emitted ones.

    Raises
    ------
    ValueError
        If it has another number of steps or of accepted tokens than are stated beside it.

    Examples
    --------
    >>> histogram_of([1, 2, 3], 6, 8, None), histogram_of([0, 1, 2, 3], 6, 8, None)
    ([1, 2, 3], [1, 2, 3])
    """
    held = list(histogram)
    total = sum(length * number for length, number in enumerate(held))
    if sum(held) != drafts:
        raise ValueError(f"a histogram of {sum(held):g} steps beside {drafts:g} verification steps")
    most = len(held)
    bonus = bool(held) and held[0] == 0
    if accepted is not None:
        if total == accepted:
            return held
        if bonus and total - drafts == accepted:
            return held[1:]
        raise ValueError(f"a histogram of {total:g} accepted tokens, but {accepted:g} are stated")
    if emitted is None or abs(total + drafts - emitted) <= most + 1:
        return held
    if bonus and abs(total - emitted) <= most + 1:
        return held[1:]
    raise ValueError(f"a histogram of {total:g} accepted tokens in {drafts:g} steps, but {emitted:g} completion tokens")
