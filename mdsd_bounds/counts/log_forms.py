"""The forms of line in which servers report acceptance: how each is found in a text, and what it counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mdsd_bounds.counts.log_steps import half_unit, steps_of, steps_of_length
from mdsd_bounds.counts.records import Unit, accepted_of, count

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_WHOLE = r"([0-9]+(?:,[0-9]{3})*)"
_LIST = r"[\[(]?\s*([0-9][0-9.]*(?:\s*,\s*[0-9][0-9.]*)*)\s*[\])]?"
_VLLM = re.compile(rf"SpecDecoding metrics: (?:.*?, )?Accepted: {_WHOLE} tokens, Drafted: {_WHOLE} tokens")
_VLLM_LENGTH = re.compile(rf"Mean acceptance length: {_NUMBER}")
_VLLM_RATE = re.compile(rf"[Dd]raft acceptance rate: {_NUMBER}%")
_VLLM_POSITIONS = re.compile(rf"Per-position acceptance rate: {_LIST}(?=,? *(?:Avg|$))")
_OLD_VLLM = re.compile(
    rf"Number of speculative tokens: {_WHOLE}, Number of accepted tokens: {_WHOLE}, Number of draft tokens: {_WHOLE}, "
    rf"Number of emitted tokens: {_WHOLE}"
)
_OLD_VLLM_RATE = re.compile(rf"Draft acceptance rate: {_NUMBER}, System")
_SGLANG = re.compile(rf"#running-req: ([0-9]+).*?accept len: {_NUMBER}(?:,|$)(?: accept rate: {_NUMBER})?")
_LLAMA = re.compile(rf"draft acceptance(?: rate)? = ([0-9.]+) \(\s*{_WHOLE} accepted /\s*{_WHOLE} generated\)")
_LLAMA_LENGTH = re.compile(rf"mean (?:acceptance length|len) =\s*{_NUMBER}")
_LLAMA_POSITIONS = re.compile(rf"acceptance rate per position = {_LIST}")
_LLAMA_TOTAL = re.compile(
    r"#gen drafts =\s*([0-9]+), #acc drafts =\s*([0-9]+), #gen tokens =\s*([0-9]+), #acc tokens =\s*([0-9]+)"
)
_LLAMA_CALLS = re.compile(r"#calls\(b,g,a\) =\s*[0-9]+\s+[0-9]+\s+([0-9]+)")
_LLAMA_TOTAL_LENGTH = re.compile(rf"#mean acc len =\s*{_NUMBER}")
_LLAMA_TOTAL_POSITIONS = re.compile(rf"#acc rate/pos = {_LIST}")
_LLAMA_NAME = re.compile(r"statistics\s+([^\s:]+):")
#: Steps up to which rates of three decimals give the counts.
EXACT = 980
#: Decoding steps between two lines of SGLang, unless the server was started with another --decode-log-interval.
_SGLANG_INTERVAL = 40


@dataclass(frozen=True)
class LineForm:
    """A form of line: how it is found in a text, and what its units are.  ``total`` lines count since the start."""

    engine: str
    unit: str
    found: re.Pattern[str]
    read: Callable[[str, re.Match[str]], Unit]
    total: bool = False
    note: str = ""
    rounding: float = 0.0


def _whole(text: str) -> float:
    return count(int(text.replace(",", "")), "a count")


def _vllm(text: str, match: re.Match[str]) -> Unit:
    accepted, drafted = _whole(match[1]), _whole(match[2])
    if (rate := _VLLM_RATE.search(text, match.start())) is not None:
        _require_rate(rate[1], accepted, drafted, 100)
    return _with_positions(text, accepted, drafted, _VLLM_LENGTH, _VLLM_POSITIONS)


def _llama(text: str, match: re.Match[str]) -> Unit:
    accepted, drafted = _whole(match[2]), _whole(match[3])
    _require_rate(match[1], accepted, drafted)
    return _with_positions(text, accepted, drafted, _LLAMA_LENGTH, _LLAMA_POSITIONS)


def _require_rate(printed: str, accepted: float, drafted: float, whole: float = 1.0) -> None:
    """Hold the printed share of accepted tokens (of ``whole``) against the counts beside it."""
    if drafted > 0 and abs(float(printed) - accepted / drafted * whole) > half_unit(printed):
        raise ValueError(
            f"an acceptance rate of {printed}, but {accepted:g} of {drafted:g} are {accepted / drafted * whole:.4g}"
        )


def _llama_total(text: str, match: re.Match[str]) -> Unit:
    drafts, once, drafted, accepted = (_whole(match[place]) for place in (1, 2, 3, 4))
    if once > drafts or once > accepted:
        raise ValueError(
            f"{once:g} drafts with an accepted token of {drafts:g} drafts and {accepted:g} accepted tokens"
        )
    if (calls := _LLAMA_CALLS.search(text)) is not None and (printed := _LLAMA_TOTAL_LENGTH.search(text)) is not None:
        # A draft may be dropped before it is verified; the printed means are of those that were.
        verified = _whole(calls[1])
        fit = [
            n for n in (verified, drafts) if n and abs(1 + accepted / n - float(printed[1])) <= half_unit(printed[1])
        ]
        if not fit and (verified or drafts):
            raise ValueError(
                f"a mean length of {printed[1]}, but {accepted:g} accepted tokens in {verified:g} drafts make "
                f"{1 + accepted / max(verified, 1):.2f}"
            )
        drafts = fit[0] if fit else drafts
    rates = _numbers(_LLAMA_TOTAL_POSITIONS.search(text))
    at = tuple(float(round(rate * drafts)) for rate in rates)
    if at and drafts <= EXACT and at[0] != once:
        raise ValueError(
            f"{once:g} of {drafts:g} drafts had an accepted token, but the first position's rate is {rates[0]}"
        )
    # Longer drafts than positions are listed: the listed ones do not make the whole.
    return Unit(drafts, drafted, accepted, at if sum(at) + 0.0005 * drafts * len(at) >= accepted else ())


def _old_vllm(text: str, match: re.Match[str]) -> Unit:
    tokens, accepted, drafted, emitted = (_whole(match[place]) for place in (1, 2, 3, 4))
    if tokens == 0:
        raise ValueError("0 speculative tokens")
    if (rate := _OLD_VLLM_RATE.search(text)) is not None:
        _require_rate(rate[1], accepted, drafted)
    drafts = drafted / tokens
    return Unit(drafts, drafted, accepted_of(emitted, drafts))


def _sglang(text: str, match: re.Match[str]) -> Unit:
    running, length = count(int(match[1]), "#running-req"), count(float(match[2]), "accept len")
    rate = None if match[3] is None else count(float(match[3]), "accept rate")
    last = match[2] if match[3] is None else match[3]
    if match.end() == len(text) and len(last.partition(".")[2]) < 2:
        raise ValueError(f"the line ends within a number ({last})")
    if rate is not None and (rate > 1 or (rate < 0.005 and length > 1.005)):
        raise ValueError(f"an accept rate of {match[3]} beside an accept len of {match[2]}")
    drafts = _SGLANG_INTERVAL * running
    # An idle line.
    if not drafts or length == 0:
        return Unit()
    accepted = accepted_of(drafts * length, drafts)
    return Unit(drafts, accepted / rate if rate else None, accepted)


def _numbers(match: re.Match[str] | None) -> list[float]:
    if match is None:
        return []
    parts = [part.strip() for part in match[1].split(",")]
    if len({len(part.partition(".")[2]) for part in parts}) > 1:
        raise ValueError("acceptance rates per position of unequal digits; the line was cut short")
    rates = [float(part) for part in parts]
    if not all(0 <= rate <= 1 for rate in rates):
        raise ValueError("an acceptance rate per position outside [0, 1]")
    return rates


def _with_positions(
    text: str, accepted: float, drafted: float, length: re.Pattern[str], positions: re.Pattern[str]
) -> Unit:
    rates = _numbers(positions.search(text))
    printed = length.search(text)
    if not rates or not drafted:
        return Unit(steps_of_length(accepted, drafted, printed[1]) if printed and drafted else None, drafted, accepted)
    drafts = steps_of(accepted, drafted, rates, float(printed[1]) if printed else None)
    if printed and drafts:
        length_found = accepted / drafts
        off = min(abs(offset + length_found - float(printed[1])) for offset in (0, 1))
        # The rates leave the number of steps open by as much as they were rounded.
        if off > half_unit(printed[1]) + length_found * 0.0006 * len(rates) / max(sum(rates), 0.0006 * len(rates)):
            raise ValueError(
                f"a mean length of {printed[1]}, but {accepted:g} accepted tokens and the rates by position make "
                f"{1 + length_found:.2f}"
            )
    whole = float(drafts).is_integer()
    at = tuple(float(round(rate * drafts)) if whole else rate * drafts for rate in rates)
    return Unit(drafts, drafted, accepted, at)


#: In the order in which they are tried.
LINE_FORMS = (
    LineForm("vLLM", "log line", _VLLM, _vllm),
    LineForm("llama.cpp", "request", _LLAMA, _llama),
    LineForm(
        "SGLang",
        "log line",
        _SGLANG,
        _sglang,
        note=f"SGLang prints no counts: a line is weighed by its running requests, with {_SGLANG_INTERVAL} steps of "
        "each (the default --decode-log-interval); accepted/drafted is its accept rate, in which some versions count "
        "the bonus token and others do not",
        rounding=0.005,
    ),
    LineForm(
        "vLLM before V1",
        "log line",
        _OLD_VLLM,
        _old_vllm,
        total=True,
        note="the lines count since the start; accepted is emitted tokens less steps, for the engine's own number of "
        "accepted tokens counts also those after the first rejection",
    ),
    LineForm("llama.cpp", "log line", _LLAMA_TOTAL, _llama_total, True, "the lines count since the start"),
)


def counter(text: str) -> str:
    """Which of an engine's counters a line gives: the implementation that it names, or its number of draft tokens."""
    found = _LLAMA_NAME.search(text) or _OLD_VLLM.search(text)
    return found[1] if found else ""
