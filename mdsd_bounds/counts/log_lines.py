"""What servers print about speculative decoding, line by line.

=====================  ===============================================================================================
vLLM                   ``SpecDecoding metrics: Mean acceptance length: 2.90, ..., Accepted: 190 tokens, Drafted: 400
                       tokens, Per-position acceptance rate: 0.800, 0.560, ...``, of the time since the line before
vLLM before V1         ``Speculative metrics: ... Number of speculative tokens: 5, Number of accepted tokens: 8547,
                       Number of draft tokens: 13311, Number of emitted tokens: 10616.``, since the start
SGLang                 ``Decode batch. #running-req: 1, ..., accept len: 2.50, accept rate: 0.50``, without counts
llama.cpp              ``draft acceptance rate = 0.57576 (  171 accepted /   297 generated)``, one request; later
                       ``draft acceptance = ..., mean acceptance length = 2.92, acceptance rate per position = ...``,
                       or ``mean len = 2.85``
llama.cpp statistics   ``statistics NAME: ... #gen drafts = 134, #acc drafts = 109, #gen tokens = 536, #acc tokens =
                       354``, since the start, for each implementation; read only where no line of a request is there,
                       for the tokens are the same
=====================  ===============================================================================================

Where a line prints rates per position and no number of steps, the number that agrees with every printed figure is
taken.  Every report is read or is an error: one that is cut short, two on one line, or reports of several engines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdsd_bounds.counts.log_forms import LINE_FORMS, counter
from mdsd_bounds.counts.log_steps import without_bonus
from mdsd_bounds.counts.log_text import Line, log_lines, may_report
from mdsd_bounds.counts.log_totals import Total, added
from mdsd_bounds.counts.records import Counts, Unit, counts
from mdsd_bounds.dumps.boundary import Place, reading
from mdsd_bounds.problem import InputError

_REMEDY = "give the server's log as it was written"
#: How a report begins; other texts may speak of acceptance.
_BEGINS = re.compile(
    r"SpecDecoding metrics: |Speculative metrics: |Decode batch\b.*?accept len: |draft acceptance(?: rate)? = |"
    r"#gen drafts = "
)
#: A time of day, or that of llama.cpp since its start: no two lines of one server with the same figures share it.
_TIME = re.compile(r"\d\d:\d\d:\d\d|\b\d+\.\d\d\.\d{3}\.\d{3}\b")
_REPEATED = re.compile(r"\[repeated (\d+)x across cluster\]")
_RANK = re.compile(r"\b(DP|PP|TP)(\d+)\b")


@dataclass
class _Found:
    """The reports of one form, in their order."""

    lines: list[Line] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def source(self, place: int) -> str:
        line, start = self.lines[place], self.starts[place]
        return " ".join(filter(None, (line.source(start), counter(line.text))))


def is_log(text: str) -> bool:
    """Whether a text holds a report of acceptance in one of the forms."""
    return may_report(text) and (
        _BEGINS.search(text) is not None or any(form.found.search(text) for form in LINE_FORMS)
    )


def read_log(path: Path) -> Counts:
    """All reports of a log.

    Raises
    ------
    InputError
        If a report contradicts itself, is cut, stands on a line with others or twice, if those of several engines
        are there, or none reports drafted tokens.
    """
    with reading(path, "server log", _REMEDY) as place:
        found = _reports(path, place)
        if not found:
            raise InputError(f"{path}: no line reports accepted tokens; {_REMEDY}")
        place.at = ""
        engines = {LINE_FORMS[rank].engine: held.lines[0].place for rank, held in sorted(found.items(), reverse=True)}
        if len(engines) > 1:
            named = ", ".join(f"{engine} ({first})" for engine, first in sorted(engines.items()))
            raise InputError(
                f"{path}: reports of several engines, {named}, which may be of the same traffic; give the lines of "
                "each in a file of its own"
            )
        form, held = LINE_FORMS[min(found)], found[min(found)]
        sources = sorted({source for at in range(len(held.lines)) if (source := held.source(at))})
        listed, notes = held.units, [form.note] if form.note else []
        if form.total:
            totals = [
                Total(line.place, held.source(at), held.units[at], line.hint(held.starts[at]), line.text)
                for at, line in enumerate(held.lines)
            ]
            try:
                listed, more = added(totals)
            except ValueError as error:
                raise InputError(f"{path} {error}") from error
            notes += more
        elif form.engine == "SGLang":
            listed, more = _of_first_ranks(held)
            listed, again = without_bonus(listed)
            notes += more + again
        if left := sum(int(match[1]) for line in held.lines for match in _REPEATED.finditer(line.text)):
            notes.append(f"{left} lines that Ray left out as repeated are not counted")
        if len(sources) > 1 and not form.total:
            notes.append(
                f"lines of {len(sources)} sources are pooled ({', '.join(sources[:3])}): engines of one model?"
            )
        result = counts(form.engine, form.unit, listed, [*notes, *_notes(listed)], form.rounding)
    if len(result) == 0:
        raise InputError(f"{path}: the lines report no drafted token; give a log of a time with requests")
    return result


def _reports(path: Path, place: Place) -> dict[int, _Found]:
    found: dict[int, _Found] = {}
    known: dict[str, str] = {}
    for line in log_lines(path):
        where, place.at = f"{path} {line.place}", line.place
        held = [(rank, match) for rank, form in enumerate(LINE_FORMS) for match in form.found.finditer(line.text)]
        begun = len(_BEGINS.findall(line.text))
        if max(len(held), begun) > 1:
            raise InputError(
                f"{where}: {max(len(held), begun)} reports on one line; give the log as it was written, a report a line"
            )
        if not held:
            if begun:
                raise InputError(
                    f"{where}: a report without its counts ({line.text.strip()[-60:]!r}): it was cut short, broken "
                    "over two lines, or is of a version that is not known; give whole lines"
                )
            continue
        (rank, match) = held[0]
        form = LINE_FORMS[rank]
        unit = form.read(line.text, match)
        _refuse_copy(where, line, unit, known)
        of_form = found.setdefault(rank, _Found())
        of_form.lines.append(line)
        of_form.units.append(unit)
        of_form.starts.append(match.start())
        # The next line may lie far on.
        place.at = ""
    return found


def _refuse_copy(where: str, line: Line, unit: Unit, known: dict[str, str]) -> None:
    text = f"{line.context} {line.text.strip()}"
    if unit.drafted and _TIME.search(text):
        if text in known:
            raise InputError(
                f"{where}: the same as {known[text]}, its time included: a log that was joined to a copy of itself, or "
                "a line kept twice; leave one out"
            )
        known[text] = line.place


def _of_first_ranks(held: _Found) -> tuple[list[Unit], list[str]]:
    """The lines of SGLang's first tensor and pipeline rank; those of one data-parallel rank run the same batches."""
    keys = []
    for line, start in zip(held.lines, held.starts, strict=True):
        ranks = {name: int(number) for name, number in _RANK.findall(line.text[:start])}
        keys.append((line.source(start), (ranks.get("PP", 0), ranks.get("TP", 0))))
    first: dict[str, tuple[int, int]] = {}
    for source, rank in keys:
        first[source] = min(rank, first.get(source, rank))
    kept = [unit for unit, (source, rank) in zip(held.units, keys, strict=True) if rank == first[source]]
    left = len(held.units) - len(kept)
    return kept, [f"{left} lines of further ranks, which run the same batches, are left out"] if left else []


def _notes(listed: Sequence[Unit]) -> list[str]:
    notes = []
    if any(one.drafts is not None and not float(one.drafts).is_integer() for one in listed):
        notes.append("the printed figures agree with no integer number of steps; a fraction is taken")
    if any(one.drafts is None for one in listed if one.drafted):
        notes.append("some lines print no number of steps, so the lengths are not given (--draft-tokens gives it)")
    return notes
