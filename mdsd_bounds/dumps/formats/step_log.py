"""Step logs of a speculative decoder: what was drafted, accepted, and how probable the tokens were.

One object a line or item of an array, one a step::

    {"step": 0, "drafts": [5, 9], "accepted": 1, "positions": [
        {"token": 5, "p": 0.62, "logprob": -0.48, "candidates": [[5, 0.55], [7, 0.2]],
         "target_candidates": [[5, 0.62], [7, 0.1]]}, ...]}

``positions`` are the positions of the step in order; ``token`` is the committed token, ``p`` the target's probability
of it (``logprob``, its natural logarithm, stands in for it), ``candidates`` the draft's top N and, where the decoder
writes them, ``target_candidates`` the target's, each as ``[token, probability]`` or
``{"token": ..., "p" or "logprob": ...}``.  All at temperature 1.  ``doc`` may number the request.

Such a log knows little of the target: without ``target_candidates`` one probability a row.  The intervals say so.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.containers.records import first_record, records
from mdsd_bounds.dumps.containers.text import integer
from mdsd_bounds.dumps.single_model import Side, file_size, pair_sides
from mdsd_bounds.problem import InputError

Row = dict[int, float]
_REMEDY = (
    "give step, drafts, accepted and positions with token, p and candidates (a log of verification steps is for "
    "mdsd audit)"
)


def is_step_log(path: Path) -> bool:
    """Whether the first record is an object with drafts and accepted."""
    first = first_record(path)
    return isinstance(first, dict) and "drafts" in first and "accepted" in first


def open_step_log(path: Path) -> Dump:
    """Open a step log; the file is parsed whole, memory grows with positions times N.

    Raises
    ------
    InputError
        Naming the line that is damaged.
    """
    targets: list[Row] = []
    drafts: list[Row] = []
    columns: dict[str, list[int]] = {"doc": [], "position": [], "token": []}
    steps = accepted = drafted = 0
    with reading(path, "step of a step log", _REMEDY) as place:
        for record in records(path):
            place.at, step = record.at, record.value
            given, kept = [_token(draft) for draft in _listed(step["drafts"])], integer(step["accepted"])
            if not 0 <= kept <= len(given):
                raise ValueError(f"{kept} of {len(given)} drafts accepted")
            steps, accepted, drafted = steps + 1, accepted + kept, drafted + len(given)
            doc = integer(step.get("doc", 0))
            for position in _listed(step["positions"]):
                token, row = _target(position)
                # A row without the target's probability is no row of a dump; the step still counts.
                if row and position.get("candidates"):
                    targets.append(row)
                    drafts.append(_candidates(position["candidates"]))
                    columns["doc"].append(doc)
                    columns["position"].append(len(columns["position"]))
                    columns["token"].append(token)
    if not targets:
        raise InputError(f"{path}: no position has both p and candidates; log the draft's top candidates")
    notes = {
        "steps": steps,
        "accepted a step, as logged": f"{accepted / steps:.4g}",
        "accepted of drafted, as logged": f"{accepted / max(drafted, 1):.4g}",
    }
    held = {name: torch.tensor(values) for name, values in columns.items()}
    first = _side(path, targets, held, notes, top=False)
    return pair_sides(first, _side(path, drafts, held, {}, top=True), str(path))


def _target(position: dict[str, Any]) -> tuple[int, Row]:
    """The committed token of a position, and what is known of the target's distribution there."""
    token = _token(position["token"])
    row = _candidates(position.get("target_candidates", []))
    if "p" in position or "logprob" in position:
        given = _logprob(position)
        # The committed token may be among the candidates, rounded otherwise.
        if abs(math.exp(row.get(token, given)) - math.exp(given)) > 1e-3:
            raise ValueError(f"token {token} has two probabilities")
        row[token] = given
    return token, row


def _token(value: Any) -> int:
    token = integer(value)
    if token < 0:
        raise ValueError(f"{token} is no token id")
    return token


def _candidates(listed: Any) -> Row:
    row: Row = {}
    for entry in _listed(listed):
        if isinstance(entry, dict):
            token, logprob = _token(entry["token"]), _logprob(entry)
        else:
            name, p = _listed(entry)
            token, logprob = _token(name), _log(float(p))
        if token in row:
            raise ValueError(f"candidate {token} is listed twice")
        row[token] = logprob
    return row


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return value


def _logprob(entry: dict[str, Any]) -> float:
    return _log(float(entry["p"])) if "p" in entry else float(entry["logprob"])


def _log(p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"probability {p}")
    return math.log(p) if p > 0 else -math.inf


def _side(path: Path, rows: list[Row], columns: dict[str, Tensor], notes: dict[str, Any], *, top: bool) -> Side:
    k = max(len(row) for row in rows)
    ids = torch.full((len(rows), k), -1, dtype=torch.int64)
    logprobs = torch.full((len(rows), k), -float("inf"), dtype=torch.float64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row))
        logprobs[number, : len(row)] = torch.tensor(list(row.values()), dtype=torch.float64)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        part = logprobs[start:stop]
        # A top-N bounds the others; a single token's probability bounds them by what it leaves.
        left = (1.0 - part.exp().sum(-1)).clamp(min=0.0).log()
        return dense_top_k(ids[start:stop], part, width, str(path), start, rest=Rest(cap=None if top else left))

    return Side(
        str(path),
        "step-log",
        len(rows),
        None,
        "float64",
        read,
        columns,
        kind="logprobs",
        support="top-k",
        shift="same",
        bytes=file_size(path) if top else 0,
        largest=int(ids.max()),
        notes=notes,
    )
