"""Do the rows, the recorded tokens and the two models belong together?  Looked at on some rows of every dump.

Numbers over wrong rows are exact and worthless: rows one step off, tokens of another tokenizer, a server that answers
log-probability 0.0 to everything.  Rows are read in runs of neighbours spread evenly over the dump, so that a shift can
be seen: the token recorded one row later, or the draft's row one later, fits better than its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump, LogitBatch

#: Rows of a run of neighbours, and runs.
_RUN, _RUNS = 8, 8
#: A row whose most probable token leaves less than this is one-hot.
_ONE_HOT = 1e-12
#: How much better the neighbour must fit: nats for a token, shared mass for two rows; and in standard errors.
_NATS, _MASS, _ERRORS = 1.0, 0.05, 3.0
_ROLES = ("target", "draft")


@dataclass(frozen=True)
class Evidence:
    """``lines`` are facts by name, ``warnings`` what makes the numbers doubtful, each with its remedy."""

    lines: dict[str, str]
    warnings: list[str]


@dataclass(frozen=True)
class _Run:
    """Neighbouring rows: log-probabilities ``[B, V]``, and for both models the score of any token ``[B]`` of a row."""

    logp: tuple[Tensor, Tensor]
    other: tuple[Tensor, Tensor]
    missing: tuple[Tensor, Tensor]
    token: Tensor | None
    joined: Tensor


def evidence(dump: Dump, limit: int | None = None) -> Evidence:
    """Look at up to 64 of the first ``limit`` rows.

    Raises
    ------
    InputError
        If one of them cannot be read.
    """
    rows = len(dump) if limit is None else min(limit, len(dump))
    held = [_run(batch) for batch in _batches(dump, rows)]
    seen = sum(len(run.joined) for run in held)
    lines: dict[str, str] = {}
    warnings = _one_hot(held, seen, rows)
    if any(run.token is not None for run in held):
        line, more = _recorded(dump, held, seen, rows)
        lines["log p of the recorded tokens"] = line
        warnings += more
    warnings += _draft_shift(held)
    return Evidence(lines, warnings)


def _batches(dump: Dump, rows: int) -> Iterator[LogitBatch]:
    if rows <= _RUN * _RUNS or dump.facts.forwards:
        yield from dump.batches(_RUN * _RUNS, 0, min(rows, _RUN * _RUNS))
        return
    for run in range(_RUNS):
        start = run * (rows - _RUN) // (_RUNS - 1)
        yield from dump.batches(_RUN, start, start + _RUN)


def _run(batch: LogitBatch) -> _Run:
    logp, other, missing = [], [], []
    for role in _ROLES:
        rows, cut = getattr(batch, f"{role}_logits").to(torch.float64), getattr(batch, f"{role}_cut")
        if cut is None:
            logp.append(torch.log_softmax(rows, -1))
            # A known zero: as if it had probability 1e-22.
            other.append(torch.full((len(rows),), -50.0, dtype=torch.float64))
            missing.append(torch.zeros(len(rows), dtype=torch.float64))
        else:
            logp.append(rows)
            # The best that can be said of a token that is not stored.
            other.append(torch.minimum(cut[:, 2], cut[:, 1].clamp(min=1e-300).log()).clamp(-50.0, 0.0))
            missing.append(cut[:, :2].mean(-1))
    joined = torch.ones(len(batch.row), dtype=torch.bool)
    for column, step in ((batch.doc, 0), (batch.position, 1)):
        if column is not None:
            joined[1:] &= column.diff() == step
    joined[:1] = False
    token = batch.token
    if token is not None:
        token = torch.where(token < logp[0].shape[1], token, -1)
    return _Run((logp[0], logp[1]), (other[0], other[1]), (missing[0], missing[1]), token, joined)


def _score(run: _Run, model: int, token: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Log-probability of a token under each row, the best possible where it is not stored; and whether it is stored."""
    found = run.logp[model][rows].gather(-1, token.clamp(min=0)[:, None])[:, 0]
    stored = found > -float("inf")
    return torch.where(stored, found, run.other[model][rows]), stored


def _one_hot(held: list[_Run], seen: int, rows: int) -> list[str]:
    warnings = []
    for model, role in enumerate(_ROLES):
        count = sum(int((run.logp[model].amax(-1).exp() >= 1 - _ONE_HOT).sum()) for run in held)
        if seen > 1 and count > seen / 2:
            warnings.append(
                f"the {role} gives one token all of the mass in {count} of {_of(seen, rows)}: no language model does; "
                "a server that speculates may answer log-probability 0.0 for every token (log again without it), and "
                "temperature 0 is chosen here with --temperature 0, from logits as they were"
            )
    return warnings


def _of(seen: int, rows: int) -> str:
    return f"{rows} rows" if seen == rows else f"{seen} rows looked at (of {rows})"


def _recorded(dump: Dump, held: list[_Run], seen: int, rows: int) -> tuple[str, list[str]]:
    means, notes, warnings = [], [], []
    uniform = -math.log(held[0].logp[0].shape[1])
    for model, role in enumerate(_ROLES):
        scores, stored, mass = [], [], []
        for run in held:
            if run.token is None:
                continue
            known = run.token >= 0
            score, there = _score(run, model, run.token, slice(None))
            scores.append(score[known])
            stored.append(there[known])
            mass.append(1.0 - run.missing[model][known])
        score, there, kept = torch.cat(scores), torch.cat(stored), torch.cat(mass)
        if not len(score):
            means.append("unknown")
            continue
        count, found = len(score), int(there.sum())
        means.append(f"{float(score[there].mean()):.2f}" if found else "none stored")
        if found < count:
            notes.append(f"{role} holds {found} of {count} tokens")
        # Tokens that a mapped or truncated draft cannot give are no sign of anything.
        whole = bool((kept >= 1.0).all())
        judged = score[there] if whole and role == "draft" and found else score
        shift = _token_shift(held, model)
        if shift:
            warnings.append(
                f"the {role}'s rows fit the token recorded one row {shift}: rows and tokens are one position apart; "
                f"shift the {role}'s rows by one, or the tokens if both models are off"
            )
        elif float(judged.mean()) < uniform:
            warnings.append(
                f"the recorded tokens are less probable under the {role} than under a uniform distribution "
                f"({float(judged.mean()):.2f} against {uniform:.2f} nats): rows that belong to other positions, or "
                "tokens of another tokenizer; log rows and tokens in one pass, with the models' own tokenizer"
            )
        elif count >= 8 and found < 0.5 * float(kept.mean()) * count:
            warnings.append(
                f"only {found} of {count} recorded tokens are among those that the {role} can give, though these hold "
                f"{float(kept.mean()):.2f} of its mass: rows of another text or tokenizer; log both over one text"
            )
    line = f"target {means[0]}, draft {means[1]} nats a token in {_of(seen, rows)}"
    return line + (f" ({'; '.join(notes)})" if notes else ""), warnings


def _token_shift(held: list[_Run], model: int) -> str:
    """Where the token of the row ``later`` or ``earlier`` fits a row clearly better than its own, that word."""
    for word, row, place in (("later", slice(None, -1), slice(1, None)), ("earlier", slice(1, None), slice(None, -1))):
        gains = []
        for run in held:
            if run.token is None or len(run.token) < 2:
                continue
            token = run.token[place]
            gain = _score(run, model, token, row)[0] - _score(run, model, token, place)[0]
            gains.append(gain[run.joined[1:] & (token >= 0)])
        if gains and _clear(torch.cat(gains), _NATS):
            return word
    return ""


def _draft_shift(held: list[_Run]) -> list[str]:
    """The draft's rows against the target's neighbours: they share more mass one row off than side by side?"""
    for word, ours, theirs in (
        ("later", slice(None, -1), slice(1, None)),
        ("earlier", slice(1, None), slice(None, -1)),
    ):
        gains, beside = [], []
        for run in held:
            p, q = run.logp[0].exp(), run.logp[1].exp()
            own = torch.minimum(p, q).sum(-1)
            moved = torch.minimum(p[ours], q[theirs]).sum(-1)[run.joined[1:]]
            both = ((own[1:] + own[:-1]) / 2)[run.joined[1:]]
            gains.append(moved - both)
            beside.append(both)
        gain, base = torch.cat(gains), torch.cat(beside)
        if len(gain) and _clear(gain, max(_MASS, 0.25 * float(base.mean()))):
            return [
                f"the draft's rows fit the target's better one row {word} ({float((base + gain).mean()):.3f} of the "
                f"mass shared, against {float(base.mean()):.3f}): one model's rows are shifted by one; log both over "
                "the same positions"
            ]
    return []


def _clear(gain: Tensor, least: float) -> bool:
    if len(gain) < 3:
        return False
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > least and float(gain.mean()) > _ERRORS * error
