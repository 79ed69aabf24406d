"""Running totals in a log: what each line adds to the one before of the same source.

Several sources may write one log: engines and workers that count apart, or implementations of drafting that run side
by side.  A total that falls is a restart, after which the lines go on from what was counted anew.  Where totals fall
and then jump back above what they had fallen from, sources take turns that nothing on the lines tells apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mdsd_bounds.counts.log_forms import EXACT
from mdsd_bounds.counts.records import Unit

#: After a restart no line adds more than this many times what any other does, where a total passes its former height.
_JUMP = 3
#: Lines between restarts, where there are several and totals pass their former height.
_FEW = 16
#: A day and a time; where it goes back, lines are out of order.
_DATE = re.compile(r"(?:\d{4}-)?\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?")
_SLOT = re.compile(r"\bid +(\d+) \| task")


@dataclass(frozen=True)
class Total:
    """The totals of one line: where it stands, who wrote it, what may name that too, and its text."""

    place: str
    source: str
    unit: Unit
    hint: str = ""
    text: str = ""


def added(totals: Sequence[Total]) -> tuple[list[Unit], list[str]]:
    """What each line adds to the one before of the same source, and what is to be said of it.

    Raises
    ------
    ValueError
        If totals of several sources take turns, and nothing says which is whose.

    Examples
    --------
    >>> lines = [Total("line 1", "a", Unit(10, 40, 20)), Total("line 2", "b", Unit(5, 20, 8))]
    >>> found, notes = added([*lines, Total("line 3", "a", Unit(30, 120, 50))])
    >>> [one.accepted for one in found], notes
    ([20, 30, 8], ['totals of 2 sources, each counted by itself'])
    """
    by_source = _grouped(totals, lambda one: one.source)
    if len(by_source) > 2 and len(by_source) == len(totals) and all(map(_rises, totals, totals[1:])):
        raise ValueError(
            f"{totals[0].place}: every line of totals begins otherwise, and the totals rise from each to the next: one "
            "source or several; give the lines of each source in a file of its own"
        )
    found: list[Unit] = []
    resets = 0
    for held in by_source.values():
        units, falls = _told_apart(held)
        found += units
        resets += falls
    notes = [f"totals of {len(by_source)} sources, each counted by itself"] if len(by_source) > 1 else []
    notes += [f"counters were reset {resets} times: a restart of the server"] if resets else []
    if any(one.unit.accepted_at and (one.unit.drafts or 0) > EXACT for one in totals) and len(totals) > len(by_source):
        found = [replace(one, accepted_at=()) for one in found]
        notes.append(
            "rates by position are left out: their three decimals do not give what was added between two lines (a file "
            "of the last line alone gives those since the start)"
        )
    return found, notes


def _told_apart(held: Sequence[Total]) -> tuple[list[Unit], int]:
    """One source, or several that only hints tell apart: names of pods, labels, or slots of older engines."""
    hints = _grouped(held, lambda one: one.hint)
    ways = [hints, _grouped(held, _slot)]
    try:
        found = _of_one_source(held)
    except ValueError as error:
        for way in ways:
            if len(way) > 1 and "" not in way:
                parts = [_of_one_source(one) for one in way.values()]
                if not any(falls for _, falls in parts):
                    return [unit for units, _ in parts for unit in units], 0
        raise ValueError(str(error)) from error
    if len(hints) < 2:
        return found
    parts = [_of_one_source(one) for one in hints.values()]
    if found[1] and not any(falls for _, falls in parts):
        return [unit for units, _ in parts for unit in units], 0
    names = ", ".join(repr(name) for name in list(hints)[:3])
    raise ValueError(
        f"{held[0].place}: whether {names} are sources that count apart cannot be told from the totals; give the lines "
        "of each in a file of its own, or without these names"
    )


def _slot(one: Total) -> str:
    found = _SLOT.search(one.text)
    return found[1] if found else ""


def _grouped(totals: Sequence[Total], key: Callable[[Total], str]) -> dict[str, list[Total]]:
    found: dict[str, list[Total]] = {}
    for one in totals:
        found.setdefault(key(one), []).append(one)
    return found


def _values(one: Total) -> tuple[float, ...]:
    return (one.unit.drafts or 0.0, one.unit.drafted or 0.0, one.unit.accepted or 0.0)


def _rises(before: Total, after: Total) -> bool:
    return all(new >= old for old, new in zip(_values(before), _values(after), strict=True))


def _of_one_source(held: Sequence[Total]) -> tuple[list[Unit], int]:
    found, falls = [held[0].unit], list[int]()
    for place, (before, after) in enumerate(itertools.pairwise(held), 1):
        if not _rises(before, after):
            if any(new > old for old, new in zip(_values(before), _values(after), strict=True)):
                raise ValueError(
                    f"{after.place}: some totals rise from {before.place} and others fall: several engines write this "
                    "log, or a line was cut; give whole lines, those of each engine in a file of its own"
                )
            found.append(after.unit)
            falls.append(place)
            continue
        drafts, drafted, accepted = (new - old for old, new in zip(_values(before), _values(after), strict=True))
        old_at, new_at = before.unit.accepted_at, after.unit.accepted_at
        width = max(len(old_at), len(new_at))
        old, new = (row + (0.0,) * (width - len(row)) for row in (old_at, new_at))
        at = (
            tuple(max(b - a, 0.0) for a, b in zip(old, new, strict=True))
            if new_at and (old_at or not before.unit.drafts)
            else ()
        )
        found.append(Unit(drafts, drafted, accepted, at))
    _require_restarts(held, falls)
    return found, len(falls)


def _require_restarts(held: Sequence[Total], falls: Sequence[int]) -> None:
    """Raise a ValueError where totals that fell are above their former height again sooner than a restart explains."""
    passed: list[tuple[int, int, int]] = []
    runs = [end - start for start, end in itertools.pairwise([0, *falls, len(held)])]
    for number, place in enumerate(falls):
        before, after = (_DATE.search(held[at].text) for at in (place - 1, place))
        newest_first = number + 1 < len(falls) and falls[number + 1] == place + 1
        if newest_first or (before and after and len(before[0]) == len(after[0]) and after[0] < before[0]):
            raise ValueError(
                f"{held[place].place}: the totals fall from line to line, or as time goes back: newest first, or "
                "joined out of order; give the lines in the order in which they were written"
            )
        high, end = held[place - 1], falls[number + 1] if number + 1 < len(falls) else len(held)
        back = next((at for at in range(place, len(held)) if _rises(high, held[at])), None)
        if back is None:
            continue
        if back > end:
            # A run that was short, and one after it that was long.
            continue
        passed.append((end - place, place, back))
        start = falls[number - 1] if number else 0
        steps = [
            _step(held[at - 1], held[at]) for at in (*range(start + 1, place), *range(place + 1, end)) if at != back
        ]
        # The largest step may be that from one source to the other.
        usual = sorted(steps)[-2] if len(steps) > 3 else max([*steps, _values(held[place])[1]])
        if back == end or _step(held[back - 1], held[back]) > _JUMP * usual:
            _turns(held, place, back)
    if passed and ((len(falls) > 1 and min(passed)[0] < _FEW) or max(runs) < 3):
        _turns(held, *min(passed)[1:])


def _step(before: Total, after: Total) -> float:
    return _values(after)[1] - _values(before)[1]


def _turns(held: Sequence[Total], fall: int, back: int) -> None:
    raise ValueError(
        f"{held[fall].place}: the totals fall from {_values(held[fall - 1])[1]:g} to {_values(held[fall])[1]:g} "
        f"draft tokens and are at {_values(held[back])[1]:g} on {held[back].place}: several engines write this log, or "
        "it was joined out of order; give the lines of each engine in a file of its own"
    )
