"""What servers print about speculative decoding, line by line.

=====================  ===============================================================================================
vLLM                   ``SpecDecoding metrics: Mean acceptance length: 2.90, ..., Accepted: 190 tokens, Drafted: 400
                       tokens, Per-position acceptance rate: 0.800, 0.560, ...``, of the time since the line before
vLLM before V1         ``Speculative metrics: ... Number of speculative tokens: 5, Number of accepted tokens: 8547,
                       Number of draft tokens: 13311, Number of emitted tokens: 10616.``, since the start
SGLang                 ``Decode batch. #running-req: 1, ..., accept len: 2.50, accept rate: 0.50``, without counts
llama.cpp              ``draft acceptance rate = 0.57576 (  171 accepted /   297 generated)``, one request; later
                       ``draft acceptance = ..., mean acceptance length = 2.92, acceptance rate per position = ...``
llama.cpp statistics   ``#gen drafts = 134, #acc drafts = 109, #gen tokens = 536, #acc tokens = 354``, since the start;
                       read only where no line of a request is there, for the tokens are the same
=====================  ===============================================================================================

Where a line prints rates per position and no number of steps, the number that agrees with every printed figure is
taken.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdsd_bounds.counts.records import Counts, Unit, accepted_of, count, counts
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.text import lines
from mdsd_bounds.problem import InputError

_REMEDY = "give the server's log as it was written"
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_LIST = r"[\[(]?\s*([0-9][0-9.]*(?:\s*,\s*[0-9][0-9.]*)*)\s*[\])]?"
_VLLM_COUNTS = re.compile(r"Accepted: ([0-9]+) tokens, Drafted: ([0-9]+) tokens")
_VLLM_LENGTH = re.compile(rf"Mean acceptance length: {_NUMBER}")
_VLLM_RATE = re.compile(rf"Avg Draft acceptance rate: {_NUMBER}%")
_VLLM_POSITIONS = re.compile(rf"Per-position acceptance rate: {_LIST}(?=,? *(?:Avg|$))")
_OLD_VLLM = re.compile(
    r"Number of speculative tokens: ([0-9]+), Number of accepted tokens: ([0-9]+), Number of draft tokens: ([0-9]+), "
    r"Number of emitted tokens: ([0-9]+)"
)
_SGLANG = re.compile(rf"#running-req: ([0-9]+).*?accept len: {_NUMBER}(?:, accept rate: {_NUMBER})?")
_LLAMA = re.compile(r"draft acceptance(?: rate)? = ([0-9.]+) \(\s*([0-9]+) accepted /\s*([0-9]+) generated\)")
_LLAMA_LENGTH = re.compile(rf"mean acceptance length =\s*{_NUMBER}")
_LLAMA_POSITIONS = re.compile(rf"acceptance rate per position = {_LIST}")
#: How far a printed share may be from its counts.
_RATE_OFF = 0.002
#: How far a printed mean length may be from what the other figures make, absolute and relative.
_LENGTH_OFF = 0.1
_LLAMA_TOTAL = re.compile(
    r"#gen drafts =\s*([0-9]+), #acc drafts =\s*[0-9]+, #gen tokens =\s*([0-9]+), #acc tokens =\s*([0-9]+)"
)
_LLAMA_TOTAL_POSITIONS = re.compile(rf"#acc rate/pos = {_LIST}")
#: Decoding steps between two lines of SGLang, unless the server was started with another --decode-log-interval.
_SGLANG_INTERVAL = 40
#: Numbers of steps that are tried.
_TRIED = 100_000


@dataclass(frozen=True)
class LineForm:
    """A form of line: how it is found in a text, and what its units are.  ``total`` lines count since the start."""

    engine: str
    unit: str
    read: Callable[[str], Unit | None]
    total: bool = False
    note: str = ""
    rounding: float = 0.0


def _vllm(text: str) -> Unit | None:
    match = _VLLM_COUNTS.search(text) if "SpecDecoding metrics" in text else None
    if match is None:
        return None
    accepted, drafted = count(int(match[1]), "accepted"), count(int(match[2]), "drafted")
    if (rate := _VLLM_RATE.search(text)) is not None:
        _require_rate(rate[1], accepted, drafted, 100)
    return _with_positions(text, accepted, drafted, _VLLM_LENGTH, _VLLM_POSITIONS)


def _llama(text: str) -> Unit | None:
    match = _LLAMA.search(text)
    if match is None:
        return None
    accepted, drafted = count(int(match[2]), "accepted"), count(int(match[3]), "generated")
    _require_rate(match[1], accepted, drafted)
    return _with_positions(text, accepted, drafted, _LLAMA_LENGTH, _LLAMA_POSITIONS)


def _require_rate(printed: str, accepted: float, drafted: float, whole: float = 1.0) -> None:
    """Hold the printed share of accepted tokens (of ``whole``) against the counts beside it."""
    rate = float(printed) / whole
    if drafted > 0 and abs(rate - accepted / drafted) > _RATE_OFF:
        raise ValueError(
            f"an acceptance rate of {printed}, but {accepted:g} of {drafted:g} are {accepted / drafted * whole:.4g}"
        )


def _llama_total(text: str) -> Unit | None:
    match = _LLAMA_TOTAL.search(text)
    if match is None:
        return None
    drafts, drafted, accepted = (count(int(match[place]), "a count") for place in (1, 2, 3))
    rates = _numbers(_LLAMA_TOTAL_POSITIONS.search(text))
    return Unit(drafts, drafted, accepted, tuple(float(round(rate * drafts)) for rate in rates))


def _old_vllm(text: str) -> Unit | None:
    match = _OLD_VLLM.search(text)
    if match is None:
        return None
    tokens, _, drafted, emitted = (count(int(match[place]), "a count") for place in (1, 2, 3, 4))
    if tokens == 0:
        raise ValueError("0 speculative tokens")
    drafts = drafted / tokens
    return Unit(drafts, drafted, accepted_of(emitted, drafts))


def _sglang(text: str) -> Unit | None:
    match = _SGLANG.search(text)
    if match is None:
        return None
    running, length = count(int(match[1]), "#running-req"), count(float(match[2]), "accept len")
    rate = None if match[3] is None else count(float(match[3]), "accept rate")
    drafts = _SGLANG_INTERVAL * running
    # An idle line.
    if not drafts or length == 0:
        return Unit()
    accepted = accepted_of(drafts * length, drafts)
    return Unit(drafts, accepted / rate if rate else None, accepted)


#: In the order in which they are tried; a log is read in the first form that one of its lines has.
_LINE_FORMS = (
    LineForm("vLLM", "log line", _vllm),
    LineForm("llama.cpp", "request", _llama),
    LineForm(
        "SGLang",
        "log line",
        _sglang,
        note=f"SGLang prints no counts: a line is weighed by its running requests, with {_SGLANG_INTERVAL} steps of "
        "each (the default --decode-log-interval); accepted/drafted is its accept rate, in which some versions count "
        "the bonus token and others do not",
        rounding=0.005,
    ),
    LineForm(
        "vLLM before V1",
        "log line",
        _old_vllm,
        total=True,
        note="the lines count since the start; accepted is emitted tokens less steps, for the engine's own number of "
        "accepted tokens counts also those after the first rejection",
    ),
    LineForm("llama.cpp", "log line", _llama_total, total=True, note="the lines count since the start"),
)


def is_log(text: str) -> bool:
    """Whether a line reports acceptance in one of the forms."""
    return any(_is(form, text) for form in _LINE_FORMS)


def _is(form: LineForm, text: str) -> bool:
    try:
        return form.read(text) is not None
    except (ValueError, OverflowError):
        return True


def read_log(path: Path) -> Counts:
    """All lines of the first form that the log has.

    Raises
    ------
    InputError
        If a line contradicts itself, or no line reports drafted tokens.
    """
    units: dict[int, list[Unit]] = {}
    with reading(path, "server log", _REMEDY) as place:
        for number, text in lines(path):
            place.at = f"line {number}"
            for rank, form in enumerate(_LINE_FORMS):
                found = form.read(text)
                if found is not None:
                    units.setdefault(rank, []).append(found)
                    break
        if not units:
            raise InputError(f"{path}: no line reports accepted tokens; {_REMEDY}")
        place.at = ""
        form = _LINE_FORMS[min(units)]
        listed, notes = units[min(units)], [form.note] if form.note else []
        if form.total:
            listed, resets = _added(listed)
            notes += [f"counters were reset {resets} times: a restart of the server"] if resets else []
        if any(one.drafts is not None and not float(one.drafts).is_integer() for one in listed):
            notes.append("the printed figures agree with no integer number of steps; a fraction is taken")
        if any(one.drafts is None for one in listed):
            notes.append("some lines print no number of steps, so the lengths are not given (--draft-tokens gives it)")
        found_counts = counts(form.engine, form.unit, listed, notes, form.rounding)
    if len(found_counts) == 0:
        raise InputError(f"{path}: the lines report no drafted token; give a log of a time with requests")
    return found_counts


def _added(listed: Sequence[Unit]) -> tuple[list[Unit], int]:
    """What each line of running totals adds to the one before; a total that falls began anew."""
    found, resets = [listed[0]], 0
    for before, after in itertools.pairwise(listed):
        pairs = [(before.drafts, after.drafts), (before.drafted, after.drafted), (before.accepted, after.accepted)]
        if any((new or 0) < (old or 0) for old, new in pairs):
            found.append(after)
            resets += 1
            continue
        drafts, drafted, accepted = ((new or 0) - (old or 0) for old, new in pairs)
        width = max(len(before.accepted_at), len(after.accepted_at))
        old, new = (row + (0.0,) * (width - len(row)) for row in (before.accepted_at, after.accepted_at))
        at = tuple(max(b - a, 0.0) for a, b in zip(old, new, strict=True)) if after.accepted_at else ()
        found.append(Unit(drafts, drafted, accepted, at))
    return found, resets


def _numbers(match: re.Match[str] | None) -> list[float]:
    if match is None:
        return []
    rates = [float(part) for part in match[1].split(",")]
    if not all(0 <= rate <= 1 for rate in rates):
        raise ValueError("an acceptance rate per position outside [0, 1]")
    return rates


def _with_positions(
    text: str, accepted: float, drafted: float, length: re.Pattern[str], positions: re.Pattern[str]
) -> Unit:
    rates = _numbers(positions.search(text))
    printed = length.search(text)
    if not rates or not drafted:
        mean = float(printed[1]) if printed else 0.0
        return Unit(accepted / (mean - 1) if mean > 1 and accepted else None, drafted, accepted)
    drafts = steps_of(accepted, drafted, rates, float(printed[1]) if printed else None)
    if printed and drafts:
        length_found = accepted / drafts
        off = min(abs(offset + length_found - float(printed[1])) for offset in (0, 1))
        if off > max(_LENGTH_OFF, _LENGTH_OFF * length_found):
            raise ValueError(
                f"a mean length of {printed[1]}, but {accepted:g} accepted tokens and the rates by position make "
                f"{1 + length_found:.2f}"
            )
    whole = float(drafts).is_integer()
    at = tuple(float(round(rate * drafts)) if whole else rate * drafts for rate in rates)
    return Unit(drafts, drafted, accepted, at)


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
