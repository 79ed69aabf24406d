"""Read the log of a running system: JSONL (or a JSON array, or either compressed) or parquet, one position a line.

    {"doc": 0, "position": 5, "step": 2, "p": [0.5, 0.3, 0.2], "q": [0.2, 0.3, 0.5], "drafts": [2, 0], "token": 0,
     "accepted": true, "sampler": "with_replacement"}

``token`` is the output and the one field that is always needed; ``drafts`` are in draw order, empty or absent where
none were verified (the bonus token), -1 for an empty slot.  The distributions are given in one of three ways:

* full: ``"p": [probabilities]``;
* cut: ``"p": {"17": 0.62, "5": 0.2}``, the most probable tokens, with ``"p_tail"`` the mass of all others (what is left
  to one unless given); in parquet the columns ``p_tokens``, ``p_probs``, ``p_tail``;
* ``"row": 12``, a row of the dump given beside the log.

``q`` likewise, or absent.  Which tokens a truncated row holds must not depend on the output or the drafts.  Step logs
(:mod:`mdsd_bounds.dumps.step_schema`) with ``target_candidates`` are read as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.audit.cells import Floats, Ints
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.compressed import refuse_other_text
from mdsd_bounds.dumps.containers.files import beginning
from mdsd_bounds.dumps.containers.parquet import MAGIC, open_parquet
from mdsd_bounds.dumps.containers.records import is_json, records
from mdsd_bounds.dumps.containers.text import integer
from mdsd_bounds.dumps.step_schema import Candidates, StepReader, StepRecord
from mdsd_bounds.problem import InputError

#: How far the probabilities of a line may be from summing to one; the difference widens the tolerance.
SUM_TOLERANCE = 1e-3
#: Rows of a parquet log that are turned into Python objects at once.
_BATCH = 1024
#: Bytes that a position takes once it is read.
_LINE = 1000
_REMEDY = "see docs/audit.md for the format"


@dataclass(frozen=True)
class Distribution:
    """A distribution as logged: ``probs`` of ``tokens`` (None: of all tokens in order), ``tail`` for all others.

    ``defect`` is the total variation by which it may be off: how far it was from summing to one before it was
    normalised, and what rounding leaves open; ``total`` is what it summed to.
    """

    tokens: Ints | None
    probs: Floats
    tail: float
    defect: float
    total: float = 1.0


@dataclass(frozen=True)
class Line:
    """One position as logged.  ``position`` and ``step`` are -1, ``flag`` -1, ``sampler`` empty where absent."""

    place: int
    doc: int
    position: int
    step: int
    token: int
    drafts: tuple[int, ...]
    flag: int
    sampler: str
    row: int | None
    p: Distribution | None
    q: Distribution | None


def read_log(path: str) -> list[Line]:
    """All positions of a log, in order.

    Raises
    ------
    InputError
        Naming the file, the line (or row) that is damaged or repeats a position, and the remedy.
    """
    file = Path(path)
    if not file.is_file():
        what = "is no regular file" if file.exists() else "no such file"
        raise InputError(f"{path}: {what}; give a log in JSONL or parquet, or --verifier NAME to audit a rule")
    head = beginning(file, 64)
    lines: list[Line] = []
    seen: dict[tuple[int, int], int] = {}
    furthest: dict[int, int] = {}
    reader = StepReader()
    with reading(path, "log of positions", _REMEDY) as place:
        for label, number, entry in _parquet(file) if head.startswith(MAGIC) else _json(file):
            place.at = f"{label} {number}"
            for line in _step(reader.read(entry), number) if "positions" in entry else [_line(entry, number)]:
                key = (line.doc, line.position)
                if line.position >= 0 and key in seen:
                    raise InputError(
                        f"{path} {label} {number}: doc {line.doc} position {line.position} was logged before, at "
                        f"{label} {seen[key]}; one output counts once: remove the repeat, or give each run a doc of "
                        "its own"
                    )
                if line.position >= 0:
                    if line.position < furthest.get(line.doc, 0):
                        raise InputError(
                            f"{path} {label} {number}: doc {line.doc} position {line.position} comes after its "
                            f"position {furthest[line.doc]}; a log that was sorted makes any rule look lossy: write "
                            "the lines in the order of their outputs"
                        )
                    furthest[line.doc] = line.position
                seen[key] = number
                lines.append(line)
    if not lines:
        raise InputError(f"{path}: the log holds no position; {_REMEDY}")
    return lines


Entries = Iterator[tuple[str, int, dict[str, Any]]]


def _json(file: Path) -> Entries:
    if not is_json(file):
        refuse_other_text(file)
        raise InputError(f"{file}: neither JSON (an object a line, or an array) nor parquet; {_REMEDY}")
    for record in records(file):
        if not isinstance(record.value, dict):
            raise InputError(f"{file} {record.at}: {type(record.value).__name__}, not an object; {_REMEDY}")
        yield "item" if record.array >= 0 else "line", record.number, record.value


def _parquet(file: Path) -> Entries:
    held = open_parquet(file)
    rows = held.metadata.num_rows
    require_memory(_LINE * rows, f"{file}: a log of {rows} positions", "split the log")
    batches = held.iter_batches(batch_size=_BATCH)
    for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
        entry = {name: value for name, value in row.items() if value is not None}
        for side in ("p", "q"):
            if f"{side}_tokens" in entry:
                tokens, probs = entry.pop(f"{side}_tokens"), entry.pop(f"{side}_probs", [])
                if len(tokens) != len(probs):
                    raise InputError(
                        f"{file} row {number}: {len(tokens)} {side}_tokens but {len(probs)} {side}_probs; "
                        "give one probability a token"
                    )
                entry[side] = dict(zip(tokens, probs, strict=True))
        yield "row", number, entry


def _line(entry: dict[str, Any], number: int) -> Line:
    if "row" not in entry and "p" not in entry:
        raise ValueError("neither p nor row is given")
    flag = entry.get("accepted", -1)
    if flag not in (True, False, -1):
        raise ValueError(f"accepted is {flag!r}; give true or false")
    return Line(
        place=number,
        doc=_whole(entry.get("doc", 0), "doc"),
        position=_whole(entry.get("position", -1), "position", -1),
        step=_whole(entry.get("step", -1), "step", -1),
        token=_whole(entry["token"], "token"),
        drafts=_drafts(entry.get("drafts", ())),
        flag=int(flag),
        sampler=str(entry.get("sampler", "")),
        row=_whole(entry["row"], "row") if "row" in entry else None,
        p=None if "row" in entry else _distribution(entry["p"], entry.get("p_tail"), "p"),
        q=None if "row" in entry or "q" not in entry else _distribution(entry["q"], entry.get("q_tail"), "q"),
    )


def _drafts(given: Any) -> tuple[int, ...]:
    """Drafts in order; samplers run out of tokens, so that empty slots (-1) come last, and never first."""
    drafts = tuple(_whole(x, "drafts", -1) for x in given)
    held = len([x for x in drafts if x >= 0])
    if any(x < 0 for x in drafts[: max(held, 1)]):
        raise ValueError(
            f"drafts is {list(drafts)}, with an empty slot (-1) before the first or another draft; give the drafts in "
            "order, and [] where none were verified"
        )
    return drafts


def _step(step: StepRecord, number: int) -> list[Line]:
    """The positions of one line of a step log.

    A chain's position i verifies draft i; a tree's (``slots``, ``path``) the drafts below the node it has come to.
    """
    nodes = (0, *step.tree.path)
    lines = []
    for i, position in enumerate(step.positions):
        if position.target_candidates is None:
            raise ValueError(
                f"position {i} of the step has no target_candidates: the probability of the output alone cannot be "
                "tested; log the target's most probable tokens"
            )
        offered = step.tree.slots.get(nodes[i], ()) if step.is_tree else step.drafts[i : i + 1]
        if i < step.accepted and position.token not in offered:
            raise ValueError(
                f"position {i} of the step accepts a draft, but its token {position.token} is none of its drafts "
                f"{list(offered)}; drafts of a chain stand for one position each: log a tree, or a line a position"
            )
        lines.append(
            Line(
                place=number,
                doc=step.doc,
                position=-1,
                step=step.step,
                token=position.token,
                drafts=_drafts(offered),
                flag=int(i < step.accepted) if offered else -1,
                sampler="",
                row=None,
                p=_of_candidates(position.target_candidates, "target_candidates"),
                q=None if position.candidates is None else _of_candidates(position.candidates, "candidates"),
            )
        )
    return lines


def _of_candidates(candidates: Candidates, name: str) -> Distribution:
    return _distribution({token: chance.p for token, chance in candidates.items()}, None, name)


def _distribution(given: Any, tail: Any, name: str) -> Distribution:
    if isinstance(given, dict):
        tokens = np.array([_whole(integer(key), f"a token of {name}") for key in given], dtype=np.int64)
        probs = np.array(list(given.values()), dtype=np.float64)
        if len(np.unique(tokens)) < len(tokens):
            raise ValueError(f"{name} holds a token twice")
    elif isinstance(given, list):
        tokens, probs = None, np.array(given, dtype=np.float64)
        if tail is not None:
            raise ValueError(f"{name}_tail beside a full {name}; give {name} as {{token: probability}} if it is cut")
    else:
        raise ValueError(f"{name} is {type(given).__name__}; give a list of probabilities or {{token: probability}}")
    if tokens is not None and len(probs) == len(tokens):
        # In the order of their ids: servers list the output itself first or last.
        order = np.argsort(tokens)
        tokens, probs = tokens[order], probs[order]
    if probs.ndim != 1 or len(probs) == 0:
        raise ValueError(f"{name} has shape {probs.shape}; give one probability a token, at least one")
    if not np.isfinite(probs).all() or (probs < 0).any():
        raise ValueError(f"{name} holds {probs[~(np.isfinite(probs) & (probs >= 0))][0]}; give probabilities")
    known = float(probs.sum())
    rest = 0.0 if tokens is None else max(1.0 - known, 0.0) if tail is None else float(tail)
    total = known + rest
    if not abs(total - 1.0) <= SUM_TOLERANCE or rest < 0 or total <= 0:
        raise ValueError(f"{name} sums to {total:.6g}; log the distribution after temperature and cuts, in full digits")
    return Distribution(tokens, probs / total, rest / total, abs(total - 1.0), total)


def _whole(value: Any, name: str, least: int = 0) -> int:
    try:
        if isinstance(value, str):
            raise ValueError
        found = integer(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}; give an integer") from None
    if found < least:
        raise ValueError(f"{name} is {found}; the least is {least}")
    return found
