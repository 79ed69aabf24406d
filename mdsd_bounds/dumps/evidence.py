"""Do the rows, the recorded tokens and the two models belong together?  Looked at on some rows of every dump.

Numbers over wrong rows are exact and worthless: rows one step off, tokens of another tokenizer, a server that answers
log-probability 0.0 to everything.  Rows are read in runs of neighbours spread evenly over the dump, so that a shift can
be seen: the token recorded one row later, or the draft's row one later, fits better than its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump, LogitBatch
from mdsd_bounds.dumps.columns import TWICE_DOUBT
from mdsd_bounds.dumps.swapped_axes import AXES_DOUBT
from mdsd_bounds.dumps.token_map import MAP_DOUBT

#: Rows of a run of neighbours, and runs.
_RUN, _RUNS = 8, 8
#: Bytes of a dump that can be read from its first row on only, up to which all of it is looked through.
_SMALL = 1 << 28
#: A row whose most probable token leaves less than this is one-hot: servers that speculate round, to -1e-8 or so.
_ONE_HOT = 1e-6
#: How many rows apart the two models, or rows and tokens, may have come to be: the order in which they are looked for.
_LAGS = (1, -1, 2, -2, 3, -3)
#: How much better the neighbour must fit: nats for a token, shared mass for two rows; and in standard errors.
_NATS, _MASS, _ERRORS = 1.0, 0.05, 3.0
#: Error bound of stored logarithms from which on it is said that they widen the intervals.
_ROUGH = 1e-3
_ROLES = ("target", "draft")
#: What the recorded tokens are looked at for.
_WHY_RECORDED = " (a check that rows and tokens are aligned; a value far below about -5 suggests a shift)"


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
    slack: Tensor


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
    slack = torch.cat([run.slack for run in held])
    if len(slack) and float(slack.max()) > _ROUGH:
        lines["rounding"] = (
            f"in {int((slack > _ROUGH).sum())} of {seen} rows the log-probabilities are known only to within up to "
            f"{float(slack.max()):.2g}, by their type or because all of a row are so coarse: intervals are wider by it"
        )
    warnings = _one_hot(held, seen, rows) + _same_everywhere(held, seen, rows) + _base_two(held)
    if any(run.token is not None for run in held):
        line, more = _recorded(dump, held, seen, rows)
        lines["log p of the recorded tokens"] = line
        warnings += more
    warnings += _draft_shift(held)
    warnings += [
        str(dump.facts.notes[name]) for name in (MAP_DOUBT, AXES_DOUBT, TWICE_DOUBT) if name in dump.facts.notes
    ]
    return Evidence(lines, warnings)


def _batches(dump: Dump, rows: int) -> Iterator[LogitBatch]:
    whole = _RUN * _RUNS
    starts = [run * (rows - _RUN) // (_RUNS - 1) for run in range(_RUNS)]
    if rows <= whole or (dump.facts.forwards and dump.facts.bytes > _SMALL):
        yield from dump.batches(whole, 0, min(rows, whole))
    else:
        first = next(iter(dump.batches(_RUN, 0, _RUN)))
        if int(_in_texts(first)[1].sum()) < _RUN // 2:
            # Neighbours of one text stand further apart: a batch that was written step by step, or rows in any order.
            small = dump.facts.bytes <= _SMALL
            yield from _neighbours(dump, rows, starts) if small else dump.batches(whole, 0, whole)
            return
        if dump.facts.forwards:
            # Rows that are only read from the first one on are all read, where they are few.
            wanted = {start // _RUN for start in starts}
            yield from (batch for k, batch in enumerate(dump.batches(_RUN, 0, rows)) if k in wanted)
            return
        yield first
        for start in starts[1:]:
            yield from dump.batches(_RUN, start, start + _RUN)


def _neighbours(dump: Dump, rows: int, starts: list[int]) -> Iterator[LogitBatch]:
    """Runs of rows that follow each other in their texts, wherever they stand; all rows are read once for that."""
    order = torch.arange(rows)
    held = [(batch.doc, batch.position) for batch in dump.batches(_RUN * _RUNS, 0, rows)]
    for columns in reversed(list(zip(*held, strict=True))):
        if columns[0] is not None:
            order = order[torch.cat(columns)[order].argsort(stable=True)]
    runs = [set(order[start : start + _RUN].tolist()) for start in starts]
    found: list[list[LogitBatch]] = [[] for _ in runs]
    for block in sorted({row // _RUN for run in runs for row in run}):
        for batch in dump.batches(_RUN, block * _RUN, min(block * _RUN + _RUN, rows)):
            for run, parts in zip(runs, found, strict=True):
                keep = torch.tensor([row in run for row in batch.row.tolist()])
                if bool(keep.any()):
                    parts.append(_part(batch, keep))
    for parts in found:
        yield _together(parts)


def _part(batch: LogitBatch, keep: Tensor) -> LogitBatch:
    held = {name: value[keep] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **held)  # type: ignore[arg-type]


def _together(parts: list[LogitBatch]) -> LogitBatch:
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joined)  # type: ignore[arg-type]


def _run(batch: LogitBatch) -> _Run:
    logp, other, missing = [], [], []
    slack = torch.zeros(len(batch.row), dtype=torch.float64)
    for role in _ROLES:
        rows, cut = getattr(batch, f"{role}_logits").to(torch.float64), getattr(batch, f"{role}_cut")
        if cut is None:
            logp.append(torch.log_softmax(rows, -1))
            # A known zero: as if it had probability 1e-22.
            other.append(torch.full((len(rows),), -50.0, dtype=torch.float64))
            missing.append(torch.zeros(len(rows), dtype=torch.float64))
        else:
            logp.append(rows)
            slack = torch.maximum(slack, cut[:, 3])
            # The best that can be said of a token that is not stored.
            other.append(torch.minimum(cut[:, 2], cut[:, 1].clamp(min=1e-300).log()).clamp(-50.0, 0.0))
            missing.append(cut[:, :2].mean(-1))
    order, joined = _in_texts(batch)
    token = batch.token
    if token is not None:
        token = torch.where(token < logp[0].shape[1], token, -1)[order]
    return _Run(
        (logp[0][order], logp[1][order]), (other[0][order], other[1][order]), (missing[0][order], missing[1][order]),
        token, joined, slack,
    )  # fmt: skip


def _in_texts(batch: LogitBatch) -> tuple[Tensor, Tensor]:
    """The rows in the order of their texts, and whether each is the next one of the same text as the row before it.

    The next one is the usual step further on: rows may lie in any order, and only every other one may be kept.
    """
    order = torch.arange(len(batch.row))
    joined = torch.ones(len(order), dtype=torch.bool)
    if batch.position is not None:
        order = batch.position.argsort(stable=True)
    if batch.doc is not None:
        order = order[batch.doc[order].argsort(stable=True)]
        joined[1:] &= batch.doc[order].diff() == 0
    if batch.position is not None and len(order) > 1:
        steps = batch.position[order].diff()
        forward = steps[joined[1:] & (steps > 0)]
        joined[1:] &= steps == (int(forward.mode().values) if len(forward) else 1)
    joined[:1] = False
    return order, joined


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


def _same_everywhere(held: list[_Run], seen: int, rows: int) -> list[str]:
    """Rows that say nothing, and rows that are all the same one."""
    warnings = []
    for model, role in enumerate(_ROLES):
        rows_of = [run.logp[model] for run in held]
        flat = sum(int((logp.amax(-1) == logp.amin(-1)).sum()) for logp in rows_of if logp.shape[1] > 1)
        if flat and (role == "target" or flat > seen / 2):
            warnings.append(
                f"the {role} gives every token the same probability in {flat} of {_of(seen, rows)}: no language model "
                "does, but memory that was never filled; log again, or leave such rows out"
            )
        elif seen > 3 and all(bool((logp == rows_of[0][:1]).all()) for logp in rows_of):
            warnings.append(
                f"the {role}'s row is the same in all of {_of(seen, rows)}: one answer stored again and again; log the "
                "row of every position"
            )
    return warnings


def _base_two(held: list[_Run]) -> list[str]:
    """Top-k rows to base 2: read as natural logarithms they leave mass missing that is not."""
    warnings = []
    for model, role in enumerate(_ROLES):
        kept = [run.logp[model] for run in held if bool((run.missing[model] > 0).any())]
        sums = torch.cat([(logp * math.log(2.0)).exp().sum(-1) for logp in kept] or [torch.empty(0)])
        # Natural logarithms of a flat row would sum to far more than one, of a sharp one to less than 0.9.
        if len(sums) > 3 and bool((sums < 1 + 1e-4).all()) and float(sums.mean()) > 0.9:
            warnings.append(
                f"the {role}'s stored logarithms look like those to base 2, to which every row makes at most one "
                f"(mean {float(sums.mean()):.3f}); multiply them by ln 2 = 0.693147, natural logarithms are wanted"
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
        lag = _token_lag(held, model)
        if lag:
            warnings.append(
                f"the {role}'s rows fit the token recorded {_apart(lag)}: rows and tokens are {_places(lag)} apart; "
                f"shift the {role}'s rows by {abs(lag)}, or the tokens if both models are off"
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
    line = f"target {means[0]}, draft {means[1]} nats per token in {_of(seen, rows)}"
    line += f" ({'; '.join(notes)})" if notes else ""
    return line + _WHY_RECORDED, warnings


def _apart(lag: int) -> str:
    number = ("one row", "two rows", "three rows")[abs(lag) - 1]
    return f"{number} {'later' if lag > 0 else 'earlier'}"


def _places(lag: int) -> str:
    return ("one position", "two positions", "three positions")[abs(lag) - 1]


def _moved(run: _Run, lag: int) -> tuple[slice, slice, Tensor]:
    """Rows, the rows ``lag`` later beside them, and where both are of one text without a gap."""
    size, steps = len(run.joined), abs(lag)
    near, far = slice(0, max(size - steps, 0)), slice(min(steps, size), size)
    # The breaks up to a row: between two rows of one text there is none.
    breaks = (~run.joined).cumsum(0)
    fits = breaks[near] == breaks[far]
    return (near, far, fits) if lag > 0 else (far, near, fits)


def _token_lag(held: list[_Run], model: int) -> int:
    """How many rows later the token is recorded that fits a row clearly better than its own; 0 where it is its own."""
    best, found = 0.0, 0
    for lag in _LAGS:
        gains = []
        for run in held:
            if run.token is None:
                continue
            row, place, fits = _moved(run, lag)
            token = run.token[place]
            gain = _score(run, model, token, row)[0] - _score(run, model, token, place)[0]
            gains.append(gain[fits & (token >= 0)])
        gain = torch.cat(gains or [torch.empty(0)])
        if _clear(gain, _NATS) and float(gain.mean()) > best:
            best, found = float(gain.mean()), lag
    return found


def _draft_shift(held: list[_Run]) -> list[str]:
    """The draft's rows against the target's neighbours: they share more mass some rows off than side by side?"""
    gains: dict[int, list[Tensor]] = {lag: [] for lag in _LAGS}
    beside: dict[int, list[Tensor]] = {lag: [] for lag in _LAGS}
    for run in held:
        p, q = run.logp[0].exp(), run.logp[1].exp()
        own = torch.minimum(p, q).sum(-1)
        for lag in _LAGS:
            ours, theirs, fits = _moved(run, lag)
            if bool(fits.any()):
                both = ((own[ours] + own[theirs]) / 2)[fits]
                gains[lag].append(torch.minimum(p[ours], q[theirs]).sum(-1)[fits] - both)
                beside[lag].append(both)
    best, warnings = 0.0, []
    for lag in _LAGS:
        if not gains[lag]:
            continue
        gain, base = torch.cat(gains[lag]), torch.cat(beside[lag])
        if _clear(gain, max(_MASS, 0.25 * float(base.mean()))) and float(gain.mean()) > best:
            best = float(gain.mean())
            warnings = [
                f"the draft's rows fit the target's better {_apart(lag)} ({float((base + gain).mean()):.3f} of the "
                f"mass shared, against {float(base.mean()):.3f}): one model's rows are shifted by {abs(lag)}; log both "
                "over the same positions"
            ]
    return warnings


def _clear(gain: Tensor, least: float) -> bool:
    if len(gain) < 3:
        return False
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > least and float(gain.mean()) > _ERRORS * error
