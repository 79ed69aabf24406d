"""From logged lines to :class:`mdsd_bounds.audit.positions.Positions`: distributions on common columns, cells, alpha*.

Lines that share a row of a dump share all work but the look-up of the output.  A cut distribution is a distribution
over its known tokens and one more column for all others, and an output among the others is an output of that column:
what is known is tested exactly, and the tail is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.audit.cells import CELLS, PLACES, Flags, Floats, Ints
from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.audit.faults import fault_scores
from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.audit.positions import DRAFT_COUNTS, Positions, Rows, bounds_of, sort_rows
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import get_sampler, sampler_options

#: Entries [units, K] held at a time (64 MB of float64 for each of p and q).
ENTRIES = 8_000_000
#: Bytes a position takes at the height of an audit: masses of its cells, scores of the faults, and copies of them.
_BYTES = 3 * CELLS * (2 * 8 + 4 * len(CONTROLS))


@dataclass(frozen=True)
class Unit:
    """A pair of distributions and the lines (by their index in the log) that they belong to."""

    p: Distribution
    q: Distribution | None
    lines: tuple[int, ...]


def assemble(
    lines: list[Line],
    units: Iterator[Unit],
    path: str,
    sampler: str = "",
    options: dict[str, Option] | None = None,
    tolerance: float = 0.0,
) -> Positions:
    """All positions of a log.

    Parameters
    ----------
    lines : list of Line
        As read.
    units : iterable of Unit
        Their distributions; every line belongs to one unit.
    sampler, options : str, dict
        For lines that name no sampler.
    tolerance : float
        Total variation by which p may be off, on top of what the lines themselves show.

    Raises
    ------
    InputError
        If an output or a draft lies outside the vocabulary, a sampler is unknown, or the log needs more memory than
        there is.
    """
    names = tuple(line.sampler or sampler for line in lines)
    for name in dict.fromkeys(name for name in names if name):
        _check_sampler(name, path)
    require_memory(len(lines) * _BYTES, f"{path}: a log of {len(lines)} positions", "audit it in parts")
    table = _Table(len(lines))
    # Bets on faults are for the most drafts that came before: a position's own number might depend on its drafts.
    counts = np.array([len(line.drafts) for line in lines], dtype=np.int64)
    before = np.concatenate([[0], np.maximum.accumulate(counts)[:-1]])
    generator = torch.Generator().manual_seed(0)
    for batch in _batches(units):
        _fill(table, lines, names, batch, path, options or {}, tolerance)
        _fill_leans(table, names, batch, before, generator)
    return Positions(
        **table.columns,
        token=np.array([line.token for line in lines], dtype=np.int64),
        draft_slack=np.zeros(len(lines)),
        drafts=counts,
        rank=np.array([_rank(line) for line in lines], dtype=np.int64),
        sampler=names,
        doc=np.array([line.doc for line in lines], dtype=np.int64),
        position=np.array([line.position for line in lines], dtype=np.int64),
        step=np.array([line.step for line in lines], dtype=np.int64),
        place=np.array([line.place for line in lines], dtype=np.int64),
        flag=np.array([line.flag for line in lines], dtype=np.int64),
    )


class _Table:
    """Columns that are filled batch by batch."""

    def __init__(self, size: int) -> None:
        self.columns: dict[str, Any] = {
            "p_mass": np.zeros((size, CELLS)),
            "q_mass": np.zeros((size, CELLS)),
            "place_mass": np.zeros((size, PLACES)),
            "output_place": np.zeros(size, dtype=np.int64),
            "drifts": np.zeros((size, len(CONTROLS), CELLS), dtype=np.float32),
            "cell": np.zeros(size, dtype=np.int64),
            "draft_cell": np.full(size, -1, dtype=np.int64),
            "bound_by_n": np.full((size, len(DRAFT_COUNTS)), np.nan),
            **{
                name: np.full(size, np.nan)
                for name in ("p_token", "q_token", "distance", "tolerance", "bound", "equal", "equal_chance")
            },
        }


def _rank(line: Line) -> int:
    return line.drafts.index(line.token) if line.token in line.drafts else -1


def _check_sampler(name: str, path: str) -> None:
    rule = get_sampler(name)
    if rule.takes != "one":
        raise InputError(
            f"{path}: sampler {name!r} has several draft distributions; a log holds one q a position: leave the "
            "sampler out "
            "(the output is tested all the same)"
        )


def _batches(units: Iterator[Unit]) -> Iterator[list[Unit]]:
    batch: list[Unit] = []
    width = 0
    for unit in units:
        size = len(unit.p.probs) + 1
        if batch and (len(batch) + 1) * max(width, size) > ENTRIES:
            yield batch
            batch, width = [], 0
        batch.append(unit)
        width = max(width, size)
    if batch:
        yield batch


def _fill(
    table: _Table,
    lines: list[Line],
    names: tuple[str, ...],
    batch: list[Unit],
    path: str,
    options: dict[str, Option],
    tolerance: float,
) -> None:
    rows = _rows(batch, lines, path, tolerance)
    done = sort_rows(rows)
    columns = table.columns
    for b, unit in enumerate(batch):
        where = np.array(unit.lines)
        columns["p_mass"][where], columns["q_mass"][where] = done.p_mass[b], done.q_mass[b]
        columns["place_mass"][where] = done.place_mass[b]
        columns["distance"][where], columns["tolerance"][where] = done.distance[b], rows.tolerance[b]
        squares = float(np.square(unit.q.probs).sum()) if unit.q is not None and unit.q.tokens is None else np.nan
        for i in unit.lines:
            line = lines[i]
            at = _column(unit.p, line.token, path, line.place, "token")
            columns["cell"][i], columns["output_place"][i] = done.cells[b, at], done.places[b, at]
            # A column that stands for many tokens has no probability of one of them.
            if at < len(unit.p.probs):
                columns["p_token"][i] = rows.p[b, at]
                columns["q_token"][i] = rows.q[b, at] if rows.q_known[b] else np.nan
            first = bool(names[i]) and _starts_from_q(names[i], len(line.drafts), options)
            for x in line.drafts:
                if x >= 0:
                    _column(unit.p, x, path, line.place, "draft")
            if not first or line.drafts[0] < 0:
                continue
            if rows.q_exact[b]:
                columns["draft_cell"][i] = done.cells[b, _column(unit.p, line.drafts[0], path, line.place, "draft")]
            if len(line.drafts) > 1 and line.drafts[1] >= 0:
                columns["equal"][i] = float(line.drafts[0] == line.drafts[1])
                columns["equal_chance"][i] = squares if get_sampler(names[i]).replacement else 0.0
    _fill_bounds(table, lines, names, batch, options)


def _fill_leans(
    table: _Table, names: tuple[str, ...], batch: list[Unit], counts: Ints, generator: torch.Generator
) -> None:
    """Scores of the known faults, for rows that are fully known; ``counts[i]`` drafts are supposed at line i."""
    wanted: dict[tuple[str, int, int], list[Unit]] = {}
    for unit in batch:
        if unit.q is not None and unit.p.tokens is None and unit.q.tokens is None:
            first = unit.lines[0]
            wanted.setdefault((names[first], len(unit.p.probs), int(counts[first])), []).append(unit)
    for (name, _, most), units in wanted.items():
        p = torch.from_numpy(np.stack([unit.p.probs for unit in units]))
        q = torch.from_numpy(np.stack([unit.q.probs for unit in units if unit.q is not None]))
        scores = fault_scores(p, q, name, most, generator)
        for unit, score in zip(units, scores, strict=True):
            table.columns["drifts"][np.array(unit.lines)] = score


def _rows(batch: list[Unit], lines: list[Line], path: str, tolerance: float) -> Rows:
    width = max(len(unit.p.probs) + (unit.p.tokens is not None) for unit in batch)
    p, q = np.zeros((len(batch), width)), np.zeros((len(batch), width))
    known: Flags = np.array([unit.q is not None for unit in batch])
    exact = np.zeros(len(batch), dtype=bool)
    slack = np.full(len(batch), tolerance)
    for b, unit in enumerate(batch):
        k = len(unit.p.probs)
        p[b, :k] = unit.p.probs
        if unit.p.tokens is not None:
            p[b, k] = unit.p.tail
        slack[b] += max(unit.p.defect, 0.0 if unit.q is None else unit.q.defect)
        if unit.q is not None:
            aligned, exact[b] = _aligned(unit.p, unit.q, path, lines[unit.lines[0]].place)
            q[b, : len(aligned)] = aligned
    return Rows(p, q, known, exact, slack)


def _aligned(p: Distribution, q: Distribution, path: str, place: int) -> tuple[Floats, bool]:
    """q over the columns of p (its tokens, then the rest), and whether it is exact there.

    Tokens whose q is not known get none of it: a guess, which steers the bets and nothing else.
    """
    if p.tokens is None and q.tokens is None:
        if len(p.probs) != len(q.probs):
            raise InputError(
                f"{path} line {place}: p has {len(p.probs)} tokens and q {len(q.probs)}; log both over one vocabulary"
            )
        return q.probs, True
    if p.tokens is None:
        full = np.zeros(len(p.probs))
        assert q.tokens is not None
        if int(q.tokens.max()) >= len(full):
            raise InputError(f"{path} line {place}: token {int(q.tokens.max())} of q, but p has {len(full)} tokens")
        full[q.tokens] = q.probs
        return full, False
    if q.tokens is None:
        if int(p.tokens.max()) >= len(q.probs):
            raise InputError(f"{path} line {place}: token {int(p.tokens.max())} of p, but q has {len(q.probs)} tokens")
        held, exact = q.probs[p.tokens], True
    else:
        given = dict(zip(q.tokens.tolist(), q.probs.tolist(), strict=True))
        held = np.array([given.get(token, 0.0) for token in p.tokens.tolist()])
        exact = q.tail <= 0 or all(token in given for token in p.tokens.tolist())
    return np.append(held, max(1.0 - float(held.sum()), 0.0)), exact


def _column(probs: Distribution, token: int, path: str, place: int, what: str) -> int:
    if probs.tokens is None:
        if token >= len(probs.probs):
            raise InputError(
                f"{path} line {place}: {what} {token} lies outside the vocabulary of {len(probs.probs)} tokens; log "
                "p over the whole vocabulary, or as {token: probability}"
            )
        return token
    hit = np.flatnonzero(probs.tokens == token)
    return int(hit[0]) if len(hit) else len(probs.probs)


def _starts_from_q(name: str, n: int, options: dict[str, Option]) -> bool:
    rule = get_sampler(name)
    return rule.starts_from_q(n, **rule.own_options(options))


def _fill_bounds(
    table: _Table, lines: list[Line], names: tuple[str, ...], batch: list[Unit], options: dict[str, Option]
) -> None:
    """alpha* of every line whose sampler and q are known, one call for each sampler and kind of row."""
    wanted: dict[tuple[str, bool, int], list[tuple[Unit, list[int]]]] = {}
    for unit in batch:
        if unit.q is None:
            continue
        full = unit.p.tokens is None and unit.q.tokens is None
        width = len(unit.p.probs) if full else 0
        for name in dict.fromkeys(names[i] for i in unit.lines if names[i]):
            wanted.setdefault((name, full, width), []).append((unit, [i for i in unit.lines if names[i] == name]))
    for (name, full, _), pairs in wanted.items():
        own = sampler_options(name, options)
        asked = {len(lines[i].drafts) for _, held in pairs for i in held} | set(DRAFT_COUNTS)
        counts = tuple(sorted(n for n in asked if n > 0))
        if not counts:
            continue
        units = [unit for unit, _ in pairs]
        high = _full_bounds(units, counts, name, own) if full else _cut_bounds(units, counts, name, own)
        place = {n: k for k, n in enumerate(counts)}
        for b, (_, held) in enumerate(pairs):
            for i in held:
                n = len(lines[i].drafts)
                if n in place:
                    table.columns["bound"][i] = high[place[n], b]
                for k, count in enumerate(DRAFT_COUNTS):
                    if count in place:
                        table.columns["bound_by_n"][i, k] = high[place[count], b]


def _full_bounds(units: list[Unit], counts: tuple[int, ...], name: str, own: dict[str, Option]) -> Floats:
    p = np.stack([unit.p.probs for unit in units])
    q = np.stack([unit.q.probs for unit in units if unit.q is not None])
    return bounds_of(p, q, counts, name, own)


def _cut_bounds(units: list[Unit], counts: tuple[int, ...], name: str, own: dict[str, Option]) -> Floats:
    """Upper ends for truncated rows, over the tokens that either side knows and one that neither does."""
    from mdsd_bounds.bounds.truncated.distributions import known_part
    from mdsd_bounds.bounds.truncated.intervals import solve_cut

    pairs = [(unit.p, unit.q) for unit in units if unit.q is not None]
    held: list[Ints] = [np.union1d(_tokens(p), _tokens(q)) for p, q in pairs]
    width = max(len(tokens) for tokens in held) + 1
    p, q = np.zeros((len(pairs), width)), np.zeros((len(pairs), width))
    for b, ((first, second), tokens) in enumerate(zip(pairs, held, strict=True)):
        p[b, np.searchsorted(tokens, _tokens(first))] = first.probs
        q[b, np.searchsorted(tokens, _tokens(second))] = second.probs
    target, draft = (
        known_part(torch.from_numpy(known), torch.tensor([probs.tail for probs in side], dtype=torch.float64), role)
        for role, known, side in zip("pq", (p, q), zip(*pairs, strict=True), strict=True)
    )
    return np.asarray(solve_cut(target, draft, counts, name, own).high.numpy(), dtype=np.float64)


def _tokens(probs: Distribution) -> Ints:
    return np.arange(len(probs.probs)) if probs.tokens is None else probs.tokens
