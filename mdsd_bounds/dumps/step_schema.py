"""What one step of a step log is: its record, its reader and its writer.  Dumps, audits and trees read it here.

One object a line or item of an array, one a verification step::

    {"step": 0, "doc": 0, "drafts": [5, 9], "accepted": 1, "positions": [
        {"token": 5, "p": 0.62, "logprob": -0.48, "candidates": [[5, 0.55], [7, 0.2]],
         "target_candidates": [[5, 0.62], [7, 0.1]]}, ...]}

``positions`` are the positions of the step in order; ``token`` is the committed token, ``p`` the target's probability
of it (``logprob``, its natural logarithm, stands in for it), ``candidates`` the draft's top N and, where the decoder
writes them, ``target_candidates`` the target's, each as ``[token, probability]`` or
``{"token": ..., "p" or "logprob": ...}``.  A decoder with a judge adds ``judge_score``, the drafted tokens that its
head scored at this position, as ``[token, score]``.  ``doc`` may number the request.

A step that verified a tree holds more (:class:`TreeRecord`): at least ``slots`` and ``path``, which an audit needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.dumps.containers.text import integer
from mdsd_bounds.dumps.tree_facts import check_tree

#: Fields of a tree that :func:`read_step` asks for where the whole tree is wanted.
TREE_FIELDS = ("parents", "path", "tokens", "reach", "expected", "emitted", "draft_passes", "seconds")
#: How far rounding may carry a logged log-probability above zero.
_ABOVE = 0.01
#: By which factor a probability and the exponential of its logarithm may differ: numbers of eight bits.
_SAME = 1.15
#: How far two statements of one probability may differ, and how much of a sum rounding may add a candidate.
_TWICE, _CENT = 1e-3, 0.005


class Chance(NamedTuple):
    """A probability and its natural logarithm; the one that was logged is kept to the last digit."""

    p: float
    logprob: float


Candidates = Mapping[int, Chance]


@dataclass(frozen=True)
class PositionRecord:
    """One position of a step.

    Attributes
    ----------
    token : int
        The committed token.
    chance : Chance or None
        The target's probability of it, where logged.
    candidates, target_candidates : mapping or None
        Most probable tokens of draft and target with their probabilities, where logged.
    judge_score : mapping or None
        Tokens that a judge scored, with scores from 0 to 1, where logged.
    """

    token: int
    chance: Chance | None = None
    candidates: Candidates | None = None
    target_candidates: Candidates | None = None
    judge_score: Mapping[int, float] | None = None


@dataclass(frozen=True)
class BoundRecord:
    """Estimates ``[8]`` of the certified bound at a step, one for each certificate, and of full information."""

    bounds: tuple[float, ...]
    full_information: float


@dataclass(frozen=True)
class TreeRecord:
    """The tree of a step, node by node in level order, so that others can count anew.

    Attributes
    ----------
    slots : mapping
        Drafts below each expanded node in draw order, repeats and empty slots (-1) included.
    path : tuple of int
        The accepted nodes.
    parents : tuple of int
        Node above each draft: 0 is the root, the text so far; draft i is node i + 1.
    tokens : tuple of int
        What was emitted: the accepted drafts and one more.
    q, p : tuple of float
        Probability of each draft below its parent, under the draft and under the target.
    reach : tuple of float or None
        Probability that each draft is accepted, given the tree and all distributions (None for coupled rules).
    expected, emitted : float or None
        Tokens expected given the tree: accepted; accepted and one more.
    sampler, rule : str
        What drew the drafts and what verified them.
    draft_passes : float
        Forward passes of the draft.
    seconds : tuple of float
        Of drafting, of the target, of verification.
    bound : BoundRecord or None
        With ``mdsd tree --bound``.
    """

    slots: Mapping[int, tuple[int, ...]]
    path: tuple[int, ...]
    parents: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    q: tuple[float, ...] = ()
    p: tuple[float, ...] = ()
    reach: tuple[float, ...] | None = None
    expected: float | None = None
    emitted: float | None = None
    sampler: str = ""
    rule: str = ""
    draft_passes: float = 0
    seconds: tuple[float, ...] = (0.0, 0.0, 0.0)
    bound: BoundRecord | None = None


@dataclass(frozen=True)
class StepRecord:
    """One verification step; ``step`` is -1 where not logged, ``tree`` is empty unless ``is_tree``."""

    step: int
    doc: int
    drafts: tuple[int, ...]
    accepted: int
    positions: tuple[PositionRecord, ...] = ()
    tree: TreeRecord = TreeRecord({}, ())
    is_tree: bool = False


class StepReader:
    """The steps of one log, one after another: those of a text come once each, in the order in which they were taken.

    A log that was appended to itself counts its steps twice, and one that was sorted by what came out makes any rule
    look lossy.  Only steps that name their text (``doc``) and their number can be held against each other.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def read(self, entry: object, *, whole_tree: bool = False) -> StepRecord:
        """As :func:`read_step`; a ValueError as well where the step is out of order."""
        found = read_step(entry, whole_tree=whole_tree)
        if isinstance(entry, dict) and "doc" in entry and found.step >= 0:
            last = self._last.get(found.doc, -1)
            if found.step <= last:
                raise ValueError(
                    f"step {found.step} of doc {found.doc} comes after its step {last}; log each step once and in "
                    "order, and give each run docs of its own"
                )
            self._last[found.doc] = found.step
        return found


def read_step(entry: object, *, whole_tree: bool = False) -> StepRecord:
    """The step that a parsed JSON value holds.

    Parameters
    ----------
    entry : object
        As parsed; fields that the format does not have are passed over.
    whole_tree : bool
        Ask for every field that :func:`mdsd_bounds.trees.log.summarise_log` counts.

    Raises
    ------
    KeyError, ValueError
        Saying which field is missing or damaged; readers add the file and the line.

    Examples
    --------
    >>> line = {"drafts": [5, 9], "accepted": 1, "positions": [{"token": 5, "p": 0.5}]}
    >>> read_step(line).positions[0].chance.p
    0.5
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{entry!r} is no step: an object with drafts, accepted and positions")
    if "draft_calls" in entry:
        raise ValueError("draft_calls has a new name: rename it to draft_passes")
    missing = {"doc", "drafts", "accepted", *TREE_FIELDS} - set(entry) if whole_tree else set()
    if missing:
        raise ValueError(f"lacks {', '.join(sorted(missing))}")
    drafts, accepted = tuple(_token(draft) for draft in _listed(entry["drafts"])), integer(entry["accepted"])
    if not 0 <= accepted <= len(drafts):
        raise ValueError(f"{accepted} of {len(drafts)} drafts accepted")
    is_tree = whole_tree or "slots" in entry
    if len(_listed(entry["positions"])) > accepted + 1:
        raise ValueError(f"{len(entry['positions'])} positions, but {accepted} accepted drafts give at most one more")
    found = StepRecord(
        step=integer(entry.get("step", -1)),
        doc=integer(entry.get("doc", 0)),
        drafts=drafts,
        accepted=accepted,
        positions=tuple(_position(position) for position in _listed(entry["positions"])),
        tree=_tree(entry, len(drafts), accepted) if is_tree else TreeRecord({}, ()),
        is_tree=is_tree,
    )
    if is_tree and "parents" in entry:
        check_tree(found)
    return found


def write_step(step: StepRecord) -> dict[str, object]:
    """The step as it stands in a log, ready for JSON; :func:`read_step` gives it back."""
    tree = step.tree
    entry: dict[str, object] = {"step": step.step, "doc": step.doc}
    if step.is_tree:
        entry |= {"rule": tree.rule, "sampler": tree.sampler}
    entry |= {"drafts": list(step.drafts), "accepted": step.accepted}
    if step.is_tree:
        entry |= {
            "parents": list(tree.parents),
            "slots": {str(node): list(drafts) for node, drafts in tree.slots.items()},
            "q": list(tree.q),
            "p": list(tree.p),
            "reach": None if tree.reach is None else list(tree.reach),
            "path": list(tree.path),
            "tokens": list(tree.tokens),
            "expected": tree.expected,
            "emitted": tree.emitted,
            "draft_passes": tree.draft_passes,
            "seconds": list(tree.seconds),
        }
        if tree.bound is not None:
            entry |= {"bounds": list(tree.bound.bounds), "full_information": tree.bound.full_information}
    return entry | {"positions": [_written(position) for position in step.positions]}


def _written(position: PositionRecord) -> dict[str, object]:
    entry: dict[str, object] = {"token": position.token}
    if position.chance is not None:
        entry["p"] = position.chance.p
    for name in ("target_candidates", "candidates"):
        held: Candidates | None = getattr(position, name)
        if held is not None:
            entry[name] = [[token, chance.p] for token, chance in held.items()]
    if position.judge_score is not None:
        entry["judge_score"] = [[token, score] for token, score in position.judge_score.items()]
    return entry


def _position(entry: Any) -> PositionRecord:
    found = PositionRecord(
        token=_token(entry["token"]),
        chance=_chance(entry) if "p" in entry or "logprob" in entry else None,
        candidates=_candidates(entry["candidates"]) if "candidates" in entry else None,
        target_candidates=_candidates(entry["target_candidates"]) if "target_candidates" in entry else None,
        judge_score=_scores(entry["judge_score"]) if "judge_score" in entry else None,
    )
    # The committed token may be among the candidates, rounded otherwise.
    listed = (found.target_candidates or {}).get(found.token)
    if found.chance is not None and listed is not None and abs(listed.p - found.chance.p) > _TWICE:
        raise ValueError(f"token {found.token} has two probabilities, {found.chance.p:.6g} and {listed.p:.6g}")
    return found


def _scores(listed: Any) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in _listed(listed):
        name, score = _listed(entry)
        token = _token(name)
        if token in found:
            raise ValueError(f"judge_score lists token {token} twice")
        found[token] = _amounts([score], "judge_score", 1.0)[0]
    return found


def _candidates(listed: Any) -> Candidates:
    found: dict[int, Chance] = {}
    for entry in _listed(listed):
        if isinstance(entry, dict):
            token, chance = _token(entry["token"]), _chance(entry)
        else:
            name, p = _listed(entry)
            token, chance = _token(name), _chance({"p": p})
        if token in found:
            raise ValueError(f"candidate {token} is listed twice")
        found[token] = chance
    total = math.fsum(chance.p for chance in found.values())
    if total > 1.0 + 1e-3 + _CENT * len(found):
        raise ValueError(f"candidates have {total:.6g} of the mass together, more than all of it")
    return found


def _chance(entry: Mapping[str, Any]) -> Chance:
    logprob = _number(entry, "logprob") if "logprob" in entry or "p" not in entry else 0.0
    if not logprob <= _ABOVE:
        raise ValueError(f"log-probability {logprob}, above 0")
    if "p" in entry:
        p = _number(entry, "p")
        if not 0 <= p <= 1:
            raise ValueError(f"probability {p}")
        if "logprob" in entry and not p / _SAME - 1e-6 <= math.exp(logprob) <= p * _SAME + 1e-6:
            raise ValueError(f"p is {p} and logprob {logprob}, which is {math.exp(logprob):.6g}; keep the right one")
        return Chance(p, math.log(p) if p > 0 else -math.inf)
    return Chance(math.exp(logprob), logprob)


def _number(entry: Mapping[str, Any], name: str) -> float:
    value = entry[name]
    if isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; give a number")
    return float(value)


def _tree(entry: Mapping[str, Any], drafts: int, accepted: int) -> TreeRecord:
    """The tree of a step; fields that are absent keep their defaults."""
    reach = entry.get("reach")
    seconds = _listed(entry.get("seconds", [0.0, 0.0, 0.0]))
    if len(seconds) != 3:
        raise ValueError("seconds are drafting, target, verification")
    tree = TreeRecord(
        slots={integer(node): tuple(map(integer, held)) for node, held in entry.get("slots", {}).items()},
        path=_integers(entry, "path"),
        parents=_integers(entry, "parents"),
        tokens=_integers(entry, "tokens"),
        q=_amounts(entry.get("q", []), "q", 1.0 + 1e-6),
        p=_amounts(entry.get("p", []), "p", 1.0 + 1e-6),
        reach=None if reach is None else _amounts(reach, "reach", 1.0 + 1e-6),
        expected=_expectation(entry, "expected"),
        emitted=_expectation(entry, "emitted"),
        # Half of a pair of surrogates has no encoding: no table could hold such a name.
        sampler=printable(entry.get("sampler", "")),
        rule=printable(entry.get("rule", "")),
        draft_passes=_amounts([entry.get("draft_passes", 0)], "draft_passes")[0],
        seconds=_amounts(seconds, "seconds"),
        bound=_bound(entry) if "bounds" in entry else None,
    )
    if tree.reach is not None and len(tree.reach) != drafts:
        raise ValueError("reach has another length than drafts")
    if any(not 1 <= node <= drafts for node in tree.path) or len(tree.tokens) > accepted + 1:
        raise ValueError("the path leaves the tree, or there are more tokens than were accepted and one")
    if ("parents" in entry and len(tree.parents) != drafts) or len(tree.path) != accepted:
        raise ValueError("lengths disagree")
    if any(not 0 <= parent <= place for place, parent in enumerate(tree.parents)):
        raise ValueError("a parent comes after its child")
    if "expected" in entry and "emitted" in entry and (tree.expected is None) != (tree.emitted is None):
        raise ValueError("expected and emitted are both numbers, or both null")
    return tree


def _expectation(entry: Mapping[str, Any], name: str) -> float | None:
    """None is for rules coupled to their drafts, which have no ``reach`` either."""
    value = entry.get(name)
    return None if value is None and entry.get("reach") is None else _amounts([value], name)[0]


def _bound(entry: Mapping[str, Any]) -> BoundRecord:
    if "full_information" not in entry:
        raise ValueError("bounds stand beside full_information; it is missing")
    bounds = _amounts(entry["bounds"], "bounds")
    return BoundRecord(bounds, _amounts([entry["full_information"]], "full_information")[0])


def _token(value: Any) -> int:
    token = integer(value)
    if token < 0:
        raise ValueError(f"{token} is no token id")
    return token


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return value


def _integers(entry: Mapping[str, Any], name: str) -> tuple[int, ...]:
    held = entry.get(name, [])
    if not isinstance(held, list) or [integer(value) for value in held] != held:
        raise ValueError(f"{name} is no list of integers")
    return tuple(held)


def _amounts(values: Iterable[Any], name: str, most: float = math.inf) -> tuple[float, ...]:
    """The values, if all of them are finite numbers from 0 to ``most``."""
    found = tuple(values)
    for value in found:
        number = not isinstance(value, bool) and isinstance(value, int | float)
        # An integer beyond 64 bits is no number to numpy.
        if not number or not 0 <= value <= min(most, 2.0**63) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}")
    return found
