"""What an engine counted, unit by unit, and what follows from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mdsd_bounds.problem import InputError

Floats = npt.NDArray[np.float64]
#: Counts above this are no counts, and their squares leave float64's integers.
LARGEST = 1e15
#: Draft positions of a counter at most.
MOST_POSITIONS = 4096


@dataclass(frozen=True)
class Counts:
    """Counts of ``U`` independent units: requests, log lines, periods between two snapshots, or one total.

    A *draft* is one verification step: K draft tokens are proposed, the first A <= K of them are accepted, and one more
    token (the correction or the bonus token) is emitted.

    Attributes
    ----------
    engine : str
        Who counted.
    unit : str
        What a unit is, in the singular: ``request``, ``log line``, ``snapshot period``, ``total``.
    drafts, drafted, accepted : ndarray
        ``[U]`` verification steps, draft tokens and accepted draft tokens; NaN where the source does not say.
    accepted_at : ndarray
        ``[U, K]`` steps in which the draft tokens up to this position were all accepted; NaN where unknown.
    drafted_at : ndarray
        ``[U, K]`` steps that had a draft token at this position; NaN where unknown.
    rounding : float
        Half a unit of the last printed digit of a mean length, where lengths and no counts were printed.
    draft_tokens : int
        Draft tokens of a step at most; 0 where unknown.
    notes : tuple of str
        What was assumed or recovered while reading.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, counts
    >>> found = counts("vLLM", "request", [Unit(10, 40, 19), Unit(20, 80, 41)])
    >>> found.drafts, found.accepted
    (array([10., 20.]), array([19., 41.]))
    """

    engine: str
    unit: str
    drafts: Floats
    drafted: Floats
    accepted: Floats
    accepted_at: Floats
    drafted_at: Floats
    rounding: float = 0.0
    draft_tokens: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.drafts)


@dataclass(frozen=True)
class Unit:
    """Counts of one unit as a reader finds them; None where they are unknown.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit
    >>> Unit(drafts=1000, drafted=4000, accepted=1900, accepted_at=(800, 560, 340, 200)).accepted
    1900
    """

    drafts: float | None = None
    drafted: float | None = None
    accepted: float | None = None
    accepted_at: tuple[float, ...] = ()
    drafted_at: tuple[float, ...] = ()


def count(value: object, name: str) -> float:
    """A count: finite, not negative and no text.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {type(value).__name__}, not a count")
    number = float(value) if abs(value) <= LARGEST else float("nan")
    if not 0 <= number <= LARGEST:
        raise ValueError(f"{name} is {value!r:.40}, not a count")
    return number


def accepted_of(emitted: float, steps: float, spare: float = 0.0) -> float:
    """Accepted draft tokens where an engine counts the emitted ones: each step emits one more than it accepts.

    Parameters
    ----------
    emitted, steps : float
        Tokens, and verification steps.
    spare : float
        Steps that may have emitted nothing, as that of a request that was stopped.

    Raises
    ------
    ValueError
        If there are fewer tokens than steps.
    """
    if emitted + spare < steps:
        raise ValueError(f"{emitted:g} emitted tokens in {steps:g} verification steps, of which each gives one")
    return max(emitted - steps, 0.0)


def counts(engine: str, unit: str, units: Sequence[Unit], notes: Sequence[str] = (), rounding: float = 0.0) -> Counts:
    """Units as arrays; those in which nothing was drafted are left out.

    Raises
    ------
    ValueError
        If the numbers of a unit contradict each other.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, counts
    >>> found = counts("vLLM", "request", [Unit(10, 40, 19), Unit(20, 80, 41)])
    >>> found.engine, float(found.accepted.sum())
    ('vLLM', 60.0)
    """
    kept = [one for one in units if any((one.drafts, one.drafted, one.accepted, *one.accepted_at))]
    width = max((max(len(one.accepted_at), len(one.drafted_at)) for one in kept), default=0)
    if width > MOST_POSITIONS:
        raise ValueError(f"{width} draft positions; at most {MOST_POSITIONS} are read")
    for number, one in enumerate(kept):
        _check(one, f"{unit} {number}" if len(kept) > 1 else "the counts")
    if kept and not any(all(getattr(one, name) is not None for one in kept) for name in ("drafted", "drafts")):
        raise ValueError("some counts name draft tokens and others steps, so none can be pooled")
    singles = {
        name: np.array([_number(getattr(one, name)) for one in kept]) for name in ("drafts", "drafted", "accepted")
    }
    tables = {name: _padded([getattr(one, name) for one in kept], width) for name in ("accepted_at", "drafted_at")}
    return Counts(engine, unit, **singles, **tables, rounding=rounding, draft_tokens=width, notes=tuple(notes))


def joined(parts: Sequence[Counts]) -> Counts:
    """The units of several files of one kind.

    Raises
    ------
    InputError
        If their units differ: the same traffic would count twice, or not be comparable.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, counts, joined
    >>> days = [counts("vLLM", "total", [Unit(10, 40, 19)]), counts("vLLM", "total", [Unit(20, 80, 41)])]
    >>> joined(days).accepted
    array([19., 41.])
    """
    first = parts[0]
    for other in parts[1:]:
        if (other.engine, other.unit) != (first.engine, first.unit):
            raise InputError(
                f"counts of {first.engine} by {first.unit} and of {other.engine} by {other.unit} cannot be pooled (the "
                "same traffic may be in both); give files of one kind"
            )
    if len(parts) == 1:
        return first
    width = max(part.accepted_at.shape[1] for part in parts)
    tables = {
        name: np.concatenate([_wider(getattr(part, name), width) for part in parts])
        for name in ("accepted_at", "drafted_at")
    }
    singles = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("drafts", "drafted", "accepted")
    }
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    arrays: dict[str, Any] = singles | tables
    return replace(first, **arrays, draft_tokens=max(part.draft_tokens for part in parts), notes=notes)


def with_draft_tokens(given: Counts, draft_tokens: int) -> Counts:
    """The counts where it is known how many tokens each step drafts: unknown numbers of drafts follow from it.

    Raises
    ------
    InputError
        If the counts contradict it.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, counts, with_draft_tokens
    >>> with_draft_tokens(counts("llama.cpp", "total", [Unit(drafted=40, accepted=19)]), 4).draft_tokens
    4
    """
    if draft_tokens < max(given.draft_tokens, 1):
        raise InputError(
            f"--draft-tokens {draft_tokens}: the counts have {given.draft_tokens} draft positions; give at least as "
            "many"
        )
    drafts = np.where(np.isnan(given.drafts), given.drafted / draft_tokens, given.drafts)
    drafted = np.where(np.isnan(given.drafted), given.drafts * draft_tokens, given.drafted)
    if bool((given.accepted > drafted * (1 + 1e-9)).any()) or bool(
        (drafted > drafts * draft_tokens * (1 + 1e-9)).any()
    ):
        raise InputError(
            f"--draft-tokens {draft_tokens}: more tokens were accepted or drafted than that allows; give the "
            "engine's own number of draft tokens a step"
        )
    return replace(given, drafts=drafts, drafted=drafted, draft_tokens=draft_tokens)


def _check(one: Unit, where: str) -> None:
    drafts, drafted, accepted = one.drafts, one.drafted, one.accepted
    if accepted is None or (drafted is None and drafts is None):
        raise ValueError(f"{where}: no accepted tokens, or neither draft tokens nor steps")
    if drafted is not None and accepted > drafted:
        raise ValueError(f"{where}: {accepted:g} accepted of {drafted:g} drafted tokens")
    if accepted and drafts == 0:
        raise ValueError(f"{where}: {accepted:g} accepted tokens in no draft")
    ends = [*([drafts] if drafts is not None else []), *one.accepted_at]
    for place, (before, after) in enumerate(itertools.pairwise(ends)):
        # Recovered counts of a log line are rounded.
        if after > before + 1:
            raise ValueError(f"{where}: position {place} accepted {before:g} times, the next one {after:g} times")
    for place, (before, after) in enumerate(itertools.pairwise(one.drafted_at), 1):
        if after > before + 1:
            raise ValueError(f"{where}: position {place} drafted {before:g} times, the next one {after:g} times")
    for place, (taken, given) in enumerate(zip(one.accepted_at, one.drafted_at, strict=False), 1):
        if taken > given:
            raise ValueError(f"{where}: position {place} accepted {taken:g} times but drafted {given:g} times")
    total = sum(one.accepted_at)
    if one.accepted_at and abs(total - accepted) > 0.01 * total + len(one.accepted_at):
        raise ValueError(f"{where}: {accepted:g} accepted tokens, but {total:g} over the positions")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _padded(rows: Sequence[tuple[float, ...]], width: int) -> Floats:
    table = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        if row:
            # A unit with fewer positions had no token at the others.
            table[place] = 0.0
            table[place, : len(row)] = row
    return table


def _wider(table: Floats, width: int) -> Floats:
    rest = np.full((len(table), width - table.shape[1]), 0.0)
    if table.shape[1]:
        rest[np.isnan(table[:, 0])] = np.nan
    else:
        rest[:] = np.nan
    return np.concatenate([table, rest], 1)
