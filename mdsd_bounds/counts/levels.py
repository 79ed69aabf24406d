"""The counts in a JSON value, each once: the same steps may stand at two levels, as requests and as their sum.

What an object counts and what stands inside it must be the same steps; so are two names of one object whose counts are
equal, one name that is the sum of the others, and an entry of a list that is the sum of all others.  Then the finer
counts are taken (by request rather than summed, with steps rather than without).  Where a sum does not add up, or it
cannot be told whether counts are the same, it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdsd_bounds.counts.log_text import DEEPEST
from mdsd_bounds.counts.records import Unit
from mdsd_bounds.counts.stated import require_figures_of_all

#: Accepted tokens from which on a sum that fits is no chance.
_NO_CHANCE = 20
_SUMS = r"summar(?:y|ies)|total|totals|overall|aggregated?|combined|pooled|averages?|means?"
_SUMMARY = re.compile(rf"(?:.*_)?(?:{_SUMS}|metrics|stats|usage)(?:_.*)?", re.IGNORECASE)
#: An entry of a list has ``usage`` and ``metrics`` of its own.
_SUMS_UP = re.compile(rf"(?:.*_)?(?:{_SUMS})(?:_.*)?", re.IGNORECASE)
#: Names under which servers themselves give counts.
_CARRIERS = ("timings", "meta_info")
_FIELDS = ("drafts", "drafted", "accepted")


@dataclass(frozen=True)
class Held:
    """The counts of one object and the number of its form."""

    rank: int
    unit: Unit


@dataclass
class Levels:
    """A walk through JSON values: ``read`` gives the counts of an object in every form that it has."""

    read: Callable[[dict[str, Any]], list[Held]]
    notes: list[str] = field(default_factory=list)

    def of(self, value: Any, depth: int = 0) -> list[Held]:
        """The counts of a value, each once.

        Raises
        ------
        ValueError
            If counts contradict each other, or it cannot be told whether they are the same.
        """
        if depth > DEEPEST:
            return []
        if isinstance(value, list):
            return self.of_entries([part for part in value if isinstance(part, dict | list)], depth)
        return self._of_object(value, depth) if isinstance(value, dict) else []

    def of_entries(self, entries: Sequence[Any], depth: int = 0) -> list[Held]:
        """The counts of the entries of a list; one that is the sum of all others is no entry more."""
        parts = [(entry, held) for entry in entries if (held := self.of(entry, depth + 1))]
        return self.without_sums(parts)

    def without_sums(self, parts: Sequence[tuple[Any, list[Held]]]) -> list[Held]:
        """The counts of entries that were read, but for one that is the sum of the others."""
        everything = [one for _, held in parts for one in held]
        if len(parts) < 3:
            return everything
        whole = _sum(everything)
        if whole is None:
            return everything
        for place, (entry, held) in enumerate(parts):
            part = _sum(held)
            if part is None or (part.unit.accepted or 0) < _NO_CHANCE or not _is_half(part, whole):
                continue
            if not _names_a_summary(entry):
                raise ValueError(
                    f"entry {place + 1} of {len(parts)} counts as much as all others together; leave it out if it is "
                    "their sum"
                )
            self.notes.append("an entry that sums the others up is not counted once more")
            return [one for at, (_, other) in enumerate(parts) if at != place for one in other]
        return everything

    def _of_object(self, value: dict[str, Any], depth: int) -> list[Held]:
        own = self.read(value)
        inside = {name: held for name, part in value.items() if (held := self.of(part, depth + 1))}
        found = self._of_names(inside)
        if not own:
            if (total := _sum(found)) is not None:
                self._require_figures(value, inside, found, total)
            return found
        first = own[0]
        for other in own[1:]:
            if not _agree(first, other):
                raise ValueError(f"one object counts {_said(first)} and, in another form, {_said(other)}")
        if not found:
            return [first]
        total = _sum(found)
        if total is None or not _agree(first, total):
            said = "counts in several forms" if total is None else _said(total)
            raise ValueError(
                f"counts at two levels, {_said(first)} and inside {said} ({', '.join(inside)}); give one level"
            )
        self.notes.append("counts that stand at two levels are counted once")
        finer = len(found) > 1 and _known(total, False) >= _known(first, False)
        return found if finer or _known(total) > _known(first) else [first]

    def _of_names(self, inside: dict[str, list[Held]]) -> list[Held]:
        """The counts under the names of an object, without those that are a sum of others."""
        left = dict(inside)
        for name in inside:
            others = {other: held for other, held in left.items() if other != name}
            if name not in left or not others:
                continue
            mine = _sum(left[name])
            rest = _sum([one for held in others.values() for one in held])
            twins = [
                other for other, held in others.items() if (theirs := _sum(held)) and mine and _agree(mine, theirs)
            ]
            if mine is None:
                continue
            if twins:
                left.pop(_coarser(name, twins[0], left))
                self.notes.append("counts that stand under two names are counted once")
            elif (
                rest is not None and len(others) > 1 and _agree(mine, rest) and (mine.unit.accepted or 0) >= _NO_CHANCE
            ):
                if not _SUMMARY.fullmatch(name):
                    raise ValueError(
                        f"{name!r} counts as much as all other names together; leave it out if it is their sum"
                    )
                left.pop(name)
                self.notes.append("counts that sum others up are not counted once more")
            elif _SUMMARY.fullmatch(name) and not any(map(_SUMMARY.fullmatch, others)):
                said = "counts in several forms" if rest is None else _said(rest)
                raise ValueError(f"{name!r} counts {_said(mine)}, and the rest {said}; give one of them")
        return [one for held in left.values() for one in held]

    @staticmethod
    def _require_figures(
        value: dict[str, Any], inside: dict[str, list[Held]], found: Sequence[Held], total: Held
    ) -> None:
        """Hold the figures of an object, and of objects in it that count nothing, against the counts inside."""
        for part in (value, *(part for name, part in value.items() if isinstance(part, dict) and name not in inside)):
            require_figures_of_all(part, [one.unit for one in found], total.unit)


def _sum(held: Sequence[Held]) -> Held | None:
    """All counts in one; None where there are none or they are of several forms."""
    if not held or len({one.rank for one in held}) > 1:
        return None
    if len(held) == 1:
        return held[0]
    values: list[Any] = []
    for name in _FIELDS:
        parts = [getattr(one.unit, name) for one in held]
        values.append(None if any(part is None for part in parts) else sum(parts))
    return Held(held[0].rank, Unit(*values))


def _agree(one: Held, two: Held) -> bool:
    """Whether two counts may be of the same steps: all that both know is equal, and something was accepted."""
    pairs = [
        (mine, theirs)
        for name in _FIELDS
        if (mine := getattr(one.unit, name)) is not None and (theirs := getattr(two.unit, name)) is not None
    ]
    return bool(pairs) and bool(one.unit.accepted) and all(mine == theirs for mine, theirs in pairs)


def _is_half(part: Held, whole: Held) -> bool:
    values: list[Any] = [None if (one := getattr(part.unit, name)) is None else 2 * one for name in _FIELDS]
    doubled = Unit(*values)
    return _agree(Held(part.rank, doubled), whole)


def _known(held: Held, positions: bool = True) -> int:
    return sum(getattr(held.unit, name) is not None for name in _FIELDS) + (positions and bool(held.unit.accepted_at))


def _coarser(name: str, other: str, held: dict[str, list[Held]]) -> str:
    """Which of two names with the same counts says less of them.

    Raises
    ------
    ValueError
        If neither does, nor is called a summary.
    """
    mine, theirs = held[name], held[other]
    if len(mine) != len(theirs):
        return name if len(mine) < len(theirs) else other
    summaries = [one for one in (name, other) if _SUMMARY.fullmatch(one)]
    carriers = [one for one in (name, other) if one in _CARRIERS]
    if len(carriers) == 1 and mine[0].rank == theirs[0].rank:
        # The whole answer stands beside its counts, as in the __verbose of llama.cpp.
        return other if name in carriers else name
    if len(mine) > 1 and sorted(map(_order, mine)) == sorted(map(_order, theirs)):
        return other
    if mine[0].rank != theirs[0].rank:
        return name if _known(mine[0]) < _known(theirs[0]) else other
    if len(summaries) != 1:
        raise ValueError(
            f"{name!r} and {other!r} count the same, {_said(mine[0])}; leave one out, or give a list "
            "if these are two answers"
        )
    return summaries[0]


def _order(held: Held) -> tuple[float, ...]:
    return tuple(-1.0 if (one := getattr(held.unit, name)) is None else one for name in _FIELDS)


def _names_a_summary(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    return any(
        (_SUMS_UP.fullmatch(name) is not None and (part is True or isinstance(part, dict | list | str)))
        or (isinstance(part, str) and _SUMS_UP.fullmatch(part) is not None)
        for name, part in entry.items()
    )


def _said(held: Held) -> str:
    unit = held.unit
    of = f" of {unit.drafted:g} draft tokens" if unit.drafted is not None else ""
    return f"{unit.accepted or 0:g} accepted{of}" + (f" in {unit.drafts:g} steps" if unit.drafts is not None else "")
