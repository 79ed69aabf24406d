"""Audit the log of a running system: read it, find its distributions, judge it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.audit.assemble import Unit, assemble
from mdsd_bounds.audit.cells import Floats, Ints
from mdsd_bounds.audit.few_numbers import perhaps_rounded, say_perhaps_rounded
from mdsd_bounds.audit.left_out import Expected, given_others, require_left_out, say_left_out, without_them
from mdsd_bounds.audit.listed_tokens import refuse_chosen_rows
from mdsd_bounds.audit.log_lines import Distribution, Line, read_log
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.audit.report import LogReport, judge
from mdsd_bounds.audit.rounded import with_rounding
from mdsd_bounds.distributions import Warp
from mdsd_bounds.dumps.rounding import grid_of
from mdsd_bounds.problem import InputError, Option

#: Total variation by which a logged p may be off where nothing else is said: digits lost in writing it.
TOLERANCE = 1e-6
#: Logits of a row that are looked at for how they were rounded.
_LOOKED_AT = 4096


def audit_log(
    path: str,
    *,
    dump: str | None = None,
    sampler: str = "",
    alpha: float = 0.01,
    tolerance: float | None = None,
    blockwise: bool = False,
    warps: tuple[Warp, Warp] | None = None,
    left_out: Sequence[int] | None = None,
    **options: Option,
) -> LogReport:
    """Is the rule that wrote this log lossless?

    Parameters
    ----------
    path : str
        JSONL or parquet (:mod:`mdsd_bounds.audit.log_lines`).
    dump : str, optional
        Where lines with ``row`` find their distributions.
    sampler : str
        For lines that name none.
    alpha : float
        False-alarm rate.
    tolerance : float, optional
        Total variation by which p may be off.  Default: :data:`TOLERANCE`, and what rounding leaves open: of the
        numbers in the log, or in the dtype of a dump.
    blockwise : bool
        The rule decides over whole blocks or trees (block, traversal verification): see :func:`first_of_steps`.
    warps : pair of Warp, optional
        Temperature and cuts of the rows of the dump, of the target and of the draft, as the running system applied
        them.
    left_out : sequence of int, optional
        Tokens whose lines are not in the log, as of an end token: outputs and bound are tested given that the output is
        none of these.  None of them (``()``) makes a token that never comes up count against the
        rule; where nothing is said and nothing else speaks against the rule, that is an error.
    **options
        Options of the sampler (``m``).

    Raises
    ------
    InputError
        On a damaged log, naming file, line and remedy, and on one that may lack lines or digits, where nothing else
        speaks against the rule.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.audit import audit_log
    >>> file = Path(tempfile.mkdtemp()) / "log.json"
    >>> line = {"p": [0.5, 0.5], "q": [0.9, 0.1], "sampler": "with_replacement", "drafts": [0], "token": 0}
    >>> _ = file.write_text(json.dumps([line] * 40))
    >>> report = audit_log(str(file))
    >>> report.lossy, report.positions
    (True, 40)
    """
    how = _How(dump, sampler, tolerance, blockwise, warps or (Warp(), Warp()), tuple(left_out or ()))
    lines, expected = _lines(path, how, options), Expected()
    positions = _positions(lines, path, how, options, expected)
    report = judge(positions, alpha, _notes(positions, blockwise, left_out))
    if not report.lossy:
        return report
    perhaps = perhaps_rounded(lines) if tolerance is None else None
    if perhaps is not None:
        wider = _positions(perhaps[0], path, how, options)
        if not judge(wider, alpha).lossy:
            raise InputError(say_perhaps_rounded(path, perhaps[1], float(wider.tolerance.max())))
    never = expected.never_output(positions.token, positions.doc) if left_out is None else {}
    if never and not judge(_positions(lines, path, replace(how, left_out=tuple(never)), options), alpha).lossy:
        raise InputError(say_left_out(path, never))
    return report


def _notes(positions: Positions, blockwise: bool, left_out: Sequence[int] | None) -> tuple[str, ...]:
    notes = []
    if not bool((positions.position >= 0).all()):
        notes.append(
            "lines carry no doc and position: an output logged twice would count twice and is not noticed; log both"
        )
    elif (np.diff(np.array(list(dict.fromkeys(positions.doc.tolist())))) < 0).any():
        notes.append(
            "the texts (doc) do not begin in the order of their numbers: a log that was sorted, or written text by "
            "text as they ended, can make a lossless rule look lossy; log each output when it is made"
        )
    if blockwise:
        notes.append("blockwise: the bound and the drafts are tested at the first position of each step only")
    if left_out:
        tokens = ", ".join(map(str, left_out))
        notes.append(
            f"outputs are tested given that they are none of the tokens left out ({tokens}), and so is the bound"
        )
    return tuple(notes)


def read_positions(
    path: str,
    *,
    dump: str | None = None,
    sampler: str = "",
    tolerance: float | None = None,
    blockwise: bool = False,
    warps: tuple[Warp, Warp] | None = None,
    left_out: Sequence[int] = (),
    **options: Option,
) -> Positions:
    """The positions of a log, for tests of one's own; parameters and errors as :func:`audit_log`.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.audit import read_positions
    >>> file = Path(tempfile.mkdtemp()) / "log.json"
    >>> line = {"p": [0.5, 0.5], "q": [0.9, 0.1], "sampler": "with_replacement", "drafts": [0], "token": 1}
    >>> _ = file.write_text(json.dumps(line))
    >>> positions = read_positions(str(file))
    >>> positions.token.tolist(), positions.p_token.tolist()
    ([1], [0.5])
    """
    how = _How(dump, sampler, tolerance, blockwise, warps or (Warp(), Warp()), tuple(left_out))
    return _positions(_lines(path, how, options), path, how, options)


@dataclass(frozen=True)
class _How:
    """How a log is read: the parameters of :func:`read_positions`."""

    dump: str | None
    sampler: str
    tolerance: float | None
    blockwise: bool
    warps: tuple[Warp, Warp]
    left_out: tuple[int, ...]


def _lines(path: str, how: _How, options: dict[str, Option]) -> list[Line]:
    """The lines of a log, with what rounding leaves open."""
    if how.tolerance is not None and not 0 <= how.tolerance < 1:
        raise InputError(f"--tolerance {how.tolerance}: give a total variation in [0, 1)")
    lines = read_log(path)
    rows = [line.row for line in lines if line.row is not None]
    if rows and how.dump is None:
        raise InputError(f"{path} line {_first_with_row(lines)}: row {rows[0]} of a dump; name the dump with --dump")
    refuse_chosen_rows(lines, path, how.sampler, **options)
    if how.tolerance is None:
        lines = with_rounding(lines)
    if how.blockwise and any(line.row is None and line.q is None for line in lines):
        # Whether a line has q may tell what became of later drafts: then no bet may look at any q.
        lines = [replace(line, q=None) for line in lines]
    return lines


def _positions(
    lines: list[Line], path: str, how: _How, options: dict[str, Option], expected: Expected | None = None
) -> Positions:
    """The positions of the lines; how often each token was to come up is added to ``expected``."""
    units = _units(lines, path, how.dump, how.warps, how.tolerance)
    slack, gone = TOLERANCE if how.tolerance is None else how.tolerance, np.zeros(len(lines))
    if how.left_out:
        require_left_out(lines, how.left_out, path)
        units = given_others(units, how.left_out, slack, gone)
    units = units if expected is None else expected.counted(units)
    positions = assemble(lines, units, path, how.sampler, options, slack)
    positions = without_them(positions, gone) if how.left_out else positions
    return first_of_steps(positions, path) if how.blockwise else positions


def first_of_steps(positions: Positions, path: str = "log") -> Positions:
    """Forget bounds and drafts at all but the first position of each step.

    Block and traversal verification are lossless as a whole, but whether a draft is kept there depends on the drafts
    after it.  So beyond the first position of a step the drafts, given that they were reached, no longer follow the
    sampler, and a lossless rule may accept more often than alpha*.  The outputs follow p all the same.

    Raises
    ------
    InputError
        If the steps are not logged.
    """
    if not bool((positions.step >= 0).all()):
        raise InputError(f"{path}: --blockwise needs the step of every line; log it, or leave --blockwise out")
    keys = np.stack([positions.doc, positions.step], 1)
    _, first = np.unique(keys, axis=0, return_index=True)
    later = np.ones(len(positions), dtype=bool)
    later[first] = False
    bound, bound_by_n, pair = positions.bound.copy(), positions.bound_by_n.copy(), positions.equal_chance.copy()
    cells = positions.draft_cell.copy()
    bound[later], bound_by_n[later], pair[later], cells[later] = np.nan, np.nan, np.nan, -1
    return replace(positions, bound=bound, bound_by_n=bound_by_n, equal_chance=pair, draft_cell=cells)


def from_arrays(
    p: Floats,
    q: Floats | None,
    drafts: Ints,
    token: Ints,
    *,
    row: Ints | None = None,
    sampler: str = "",
    tolerance: float = 0.0,
    **options: Option,
) -> Positions:
    """Positions of a log held in arrays.

    Parameters
    ----------
    p, q : ndarray
        ``[B, V]`` float64 distributions; q None where it is not known.
    drafts, token : ndarray
        ``[N, n]`` drafts in draw order (-1 empty) and ``[N]`` outputs.
    row : ndarray, optional
        ``[N]`` row of p and q that each position belongs to, in order; position i has row i unless given.
    sampler, tolerance, **options :
        As :func:`audit_log`.

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.audit import from_arrays, judge
    >>> rng = np.random.default_rng(0)
    >>> p, q = np.tile([0.6, 0.4], (200, 1)), np.tile([0.5, 0.5], (200, 1))
    >>> drafts, token = rng.integers(0, 2, (200, 1)), (rng.random(200) < 0.4).astype(int)
    >>> judge(from_arrays(p, q, drafts, token)).lossy
    False
    """
    rows = np.arange(len(token)) if row is None else row
    offered, outputs = drafts.tolist(), token.tolist()
    lines = [
        Line(i, int(rows[i]), -1, -1, outputs[i], tuple(offered[i]), -1, sampler, None, None, None)
        for i in range(len(token))
    ]
    order = np.argsort(rows, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
    units = (
        Unit(
            Distribution(None, p[rows[held[0]]], 0.0, 0.0),
            None if q is None else Distribution(None, q[rows[held[0]]], 0.0, 0.0),
            tuple(held.tolist()),
        )
        for held in groups
    )
    return assemble(lines, units, "arrays", sampler, options, tolerance)


def _first_with_row(lines: list[Line]) -> int:
    return next(line.place for line in lines if line.row is not None)


def _units(
    lines: list[Line], path: str, dump: str | None, warps: tuple[Warp, Warp], tolerance: float | None
) -> Iterator[Unit]:
    by_row: dict[int, list[int]] = {}
    for i, line in enumerate(lines):
        if line.row is not None:
            by_row.setdefault(line.row, []).append(i)
        else:
            assert line.p is not None
            yield Unit(line.p, line.q, (i,))
    if by_row and dump is not None:
        yield from _dump_units(by_row, lines, path, dump, warps, tolerance)


def _dump_units(
    by_row: dict[int, list[int]],
    lines: list[Line],
    path: str,
    dump: str,
    warps: tuple[Warp, Warp],
    tolerance: float | None,
) -> Iterator[Unit]:
    from mdsd_bounds.dumps import open_dump

    held = open_dump(dump)
    last = max(by_row)
    if last >= len(held):
        place = lines[by_row[last][0]].place
        raise InputError(f"{path} line {place}: row {last}, but {dump} has {len(held)} rows; give the right dump")
    for row in sorted(by_row):
        batch = next(iter(held.batches(1, row, row + 1)))
        p = distribution_of(batch.target_logits, batch.target_cut, f"{dump} target_logits", row, tolerance, warps[0])
        q = distribution_of(batch.draft_logits, batch.draft_cut, f"{dump} draft_logits", row, tolerance, warps[1])
        yield Unit(p, q, tuple(by_row[row]))


def distribution_of(
    logits: Tensor, cut: Tensor | None, name: str, row: int, tolerance: float | None, warp: Warp
) -> Distribution:
    """One row ``[1, V]`` of a dump as a distribution; ``defect`` is what its dtype, or its cut, leaves open."""
    from mdsd_bounds.bounds.truncated.distributions import truncated_distribution

    found = truncated_distribution(logits, cut, name=name, first_row=row, **asdict(warp))
    probs = found.probs[0].numpy()
    if cut is None:
        return Distribution(
            None, probs, 0.0, 0.0 if tolerance is not None else rounding(logits[0], found.probs[0], warp.temperature)
        )
    kept = np.flatnonzero(probs > 0)
    low, high = float(found.low[0]), float(found.high[0])
    middle = (low + high) / 2
    open_mass = (high - low) / 2 + float(torch.tanh(found.slack[0]))
    return Distribution(kept.astype(np.int64), (1.0 - middle) * probs[kept], middle, open_mass)


def rounding(logits: Tensor, probs: Tensor, temperature: float) -> float:
    """Total variation by which rounding of the stored logits may have moved their distribution.

    With ``|delta_i| <= e_i = eps |l_i| / (2 T)`` and ``w = sum p_i (exp(e_i) - 1)``, ``TV <= w / (1 - w)``: both the
    weights and their sum move by at most w.  Logits that all have so many decimals or digits were rounded to them;
    those of few bits are what an engine in that type has itself.  A cut (top-k, top-p) whose edge rounding moves is not
    covered.
    """
    if not logits.is_floating_point() or temperature == 0:
        return 0.0
    unit = torch.finfo(logits.dtype).eps / 2
    exact, finite = logits.double(), torch.isfinite(logits)
    some = exact[finite][None, :_LOOKED_AT]
    grid = replace(grid_of(some, torch.ones_like(some, dtype=torch.bool), unit), bits=torch.zeros(1).double())
    error = (unit * exact.abs() + grid.error(exact.abs().masked_fill(~finite, 0.0))) / temperature
    moved = float((probs * torch.expm1(error.masked_fill(probs <= 0, 0.0))).sum())
    return min(moved / (1.0 - moved), 1.0) if moved < 1 else 1.0
