"""How coarsely the probabilities of a log were rounded when they were written, which the tests have to allow for.

A row that was written with three decimals sums to one as often as not, so that the sum says nothing of its digits; the
numbers themselves do (:mod:`mdsd_bounds.dumps.rounding`).  With an error of at most ``e_x`` of each of the numbers
that are not zero, and ``E`` their sum, the others can have hidden no more than E, so that the total variation between
the row as written and the row as sampled from is at most E.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from mdsd_bounds.audit.cells import Floats
from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.dumps.rounding import Grid, rounding_of

#: Different rows with one decimal that are no accident: such numbers are too few to say it themselves.
_ROWS = 16
#: Tenths this near to an integer are one.
_CLOSE = 1e-9


def with_rounding(lines: list[Line]) -> list[Line]:
    """The lines, with what rounding of p and of q leaves open in their ``defect``.  O(probabilities listed).

    Parameters
    ----------
    lines : list of Line
        All positions of a log; those whose rows stand in a dump are left as they are.

    Returns
    -------
    list of Line
        The same lines where the numbers are on no grid, or are too few to tell.
    """
    found = {side: rounding_of(_numbers(lines, side)) or _one_decimal(lines, side) for side in ("p", "q")}
    if not any(found.values()):
        return lines
    return [replace(line, p=_widened(line.p, found["p"]), q=_widened(line.q, found["q"])) for line in lines]


def _numbers(lines: list[Line], side: str) -> Iterator[float]:
    for line in lines:
        row = getattr(line, side)
        if row is not None:
            yield from _written(row).tolist()


def _one_decimal(lines: list[Line], side: str) -> Grid | None:
    """The grid of one decimal, where many different rows are on it."""
    rows = set()
    for line in lines:
        row = getattr(line, side)
        if row is not None:
            tenths = 10.0 * _written(row)
            if np.abs(tenths - tenths.round()).max() > _CLOSE:
                return None
            rows.add((tenths.round().astype(np.int64).tobytes(), b"" if row.tokens is None else row.tokens.tobytes()))
    none = torch.zeros(1, dtype=torch.float64)
    return Grid(none, none, none + 0.05) if len(rows) >= _ROWS else None


def _written(row: Distribution) -> Floats:
    """The probabilities as they stand in the log, before they were made to sum to one."""
    return row.probs if row.total == 1.0 else row.probs * row.total


def _widened(row: Distribution | None, grid: Grid | None) -> Distribution | None:
    if row is None or grid is None:
        return row
    written = _written(row)
    written = written[written > 0]
    power = 10.0 ** np.floor(np.log10(written))
    error = np.maximum(np.maximum(float(grid.bits[0]) * written, float(grid.digits[0]) * power), float(grid.step[0]))
    return replace(row, defect=min(row.defect + float(error.sum()), 1.0))
