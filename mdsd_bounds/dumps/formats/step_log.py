"""Step logs of a speculative decoder: what was drafted, accepted, and how probable the tokens were.

The format is that of :mod:`mdsd_bounds.dumps.step_schema`; probabilities are read as those at temperature 1.

Such a log knows little of the target: without ``target_candidates`` one probability a row.  The intervals say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import SCORED, Rest, dense_top_k
from mdsd_bounds.dumps.containers.records import first_record, records
from mdsd_bounds.dumps.rounding import Grid, rounding_of
from mdsd_bounds.dumps.single_model import Side, file_size, pair_sides
from mdsd_bounds.dumps.step_schema import Chance, PositionRecord, StepReader
from mdsd_bounds.problem import InputError

Row = Mapping[int, Chance]
#: Rounding errors that a probability must be worth for its logarithm to be stored.
_FAR = 50
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
    # Committed tokens and candidates may be rounded each in their own way.
    written: tuple[list[Chance], list[Chance]] = [], []
    columns: dict[str, list[int]] = {"doc": [], "position": [], "token": []}
    scores: list[Mapping[int, float]] = []
    steps = accepted = drafted = 0
    reader = StepReader()
    with reading(path, "step of a step log", _REMEDY) as place:
        for record in records(path):
            place.at = record.at
            step = reader.read(record.value)
            steps, accepted, drafted = steps + 1, accepted + step.accepted, drafted + len(step.drafts)
            for position in step.positions:
                row = _target(position)
                # A row without the target's probability is no row of a dump; the step still counts.
                if row and position.candidates:
                    targets.append(row)
                    drafts.append(position.candidates)
                    written[0].extend(chance for chance in [position.chance] if chance is not None)
                    written[1].extend((position.target_candidates or {}).values())
                    columns["doc"].append(step.doc)
                    columns["position"].append(len(columns["position"]))
                    columns["token"].append(position.token)
                    scores.append(_few(position.judge_score or {}))
    if not targets:
        raise InputError(f"{path}: no position has both p and candidates; log the draft's top candidates")
    notes = {
        "steps": steps,
        "accepted a step, as logged": f"{accepted / steps:.4g}",
        "accepted of drafted, as logged": f"{accepted / max(drafted, 1):.4g}",
    }
    held = {name: torch.tensor(values) for name, values in columns.items()} | _scored(scores)
    target = _rounded(targets, *written)
    draft = _rounded(drafts, [chance for row in drafts for chance in row.values()])
    first = _side(path, target, held, notes, top=False)
    return pair_sides(first, _side(path, draft, held, {}, top=True), str(path))


@dataclass(frozen=True)
class _Rows:
    """Log-probabilities by token, and the error bound of each row's."""

    logprobs: list[dict[int, float]]
    slack: list[float]


def _rounded(rows: list[Row], *written: Iterable[Chance]) -> _Rows:
    """What is known of rows whose probabilities, or their logarithms, were ``written``, perhaps rounded.

    A token whose probability is not far above the rounding is not stored: it is at most the least that is.
    """
    plain = [grid for chances in written if (grid := rounding_of(chance.p for chance in chances)) is not None]
    logs = [grid for chances in written if (grid := rounding_of(chance.logprob for chance in chances)) is not None]
    error = max((float(grid.step) for grid in plain), default=0.0)
    # Digits are relative to a power of ten that is at most the number.
    share = max((float(torch.maximum(grid.bits, grid.digits)) for grid in plain), default=0.0)
    found = _Rows([], [])
    for row in rows:
        far = {token: chance for token, chance in row.items() if chance.p >= _FAR * error}
        held = far or {token: chance for token, chance in row.items() if chance.p > 2 * error}
        found.logprobs.append({token: chance.logprob for token, chance in held.items()})
        least = min((chance.p for chance in held.values()), default=1.0)
        slack = -math.log1p(-error / least) if error else 0.0
        found.slack.append(slack - math.log1p(-share) + _of_logarithms(logs, found.logprobs[-1]))
    return found


def _of_logarithms(grids: list[Grid], row: Mapping[int, float]) -> float:
    size = torch.tensor([max((-value for value in row.values() if math.isfinite(value)), default=0.0)]).double()
    return max((float(grid.error(size)) for grid in grids), default=0.0)


def _few(score: Mapping[int, float]) -> Mapping[int, float]:
    if len(score) > SCORED:
        raise ValueError(f"judge_score lists {len(score)} tokens; give at most {SCORED}")
    return score


def _scored(scores: list[Mapping[int, float]]) -> dict[str, Tensor]:
    """The columns of a judge's scores; none where nothing was scored."""
    if not any(scores):
        return {}
    token = torch.full((len(scores), SCORED), -1, dtype=torch.int64)
    score = torch.full((len(scores), SCORED), float("nan"), dtype=torch.float64)
    for row, held in enumerate(scores):
        token[row, : len(held)] = torch.tensor(list(held), dtype=torch.int64)
        score[row, : len(held)] = torch.tensor(list(held.values()), dtype=torch.float64)
    return {"judge_token": token, "judge_score": score}


def _target(position: PositionRecord) -> Row:
    """What is known of the target's distribution at a position."""
    known = dict(position.target_candidates or {})
    if position.chance is not None:
        known[position.token] = position.chance
    return known


def _side(path: Path, held: _Rows, columns: dict[str, Tensor], notes: dict[str, object], *, top: bool) -> Side:
    rows, slack = held.logprobs, torch.tensor(held.slack, dtype=torch.float64)
    k = max(1, *(len(row) for row in rows))
    ids = torch.full((len(rows), k), -1, dtype=torch.int64)
    logprobs = torch.full((len(rows), k), -float("inf"), dtype=torch.float64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row))
        logprobs[number, : len(row)] = torch.tensor(list(row.values()), dtype=torch.float64)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        part, error = logprobs[start:stop], slack[start:stop]
        # A top-N bounds the others; a single token's probability bounds them by what it leaves.
        left = (1.0 - part.exp().sum(-1) * (-error).exp()).clamp(min=0.0).log()
        rest = Rest(cap=None if top else left, slack=error)
        return dense_top_k(ids[start:stop], part, width, str(path), start, rest=rest)

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
