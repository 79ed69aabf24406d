"""How coarsely the probabilities of a log were rounded when they were written, which the tests have to allow for.

A row that was written with three decimals sums to one as often as not, so that the sum says nothing of its digits; the
numbers themselves do (:mod:`mdsd_bounds.dumps.rounding`).  With an error of at most ``e_x`` of each of the numbers
that are not zero, and ``E`` their sum, the others can have hidden no more than E, so that the total variation between
the row as written and the row as sampled from is at most E.  Where a truncated row leaves its tail to be counted from
what it lists, numbers that were cut off instead of rounded make it too large by a whole unit each: 2E.

Rows that were rounded and then made to sum to one are on no grid that all of them share.  They are ``k / K`` with
integers k and K their sum, near a power of ten, which tells them; making the row sum to one has moved it by
``|1 - K / 10^d|`` besides.  In truncated rows the tail is one of the numbers.  Rounded log-probabilities (step logs)
are told by their logarithms, and where rows were made of them by the distances of their logarithms, which are multiples
of ``10^-d``: dividing by the sum moves no distribution by more than the factors ``e^(+-h)`` before it, h half a unit,
which is ``sum of p (e^h - 1)`` at the most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from mdsd_bounds.audit.cells import Floats
from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.dumps.rounding import Grid, rounding_of

#: Different rows with one decimal that are no accident: such numbers are too few to say it themselves.
ROWS = 16
#: Tenths this near to an integer are one.
_CLOSE = 1e-9
#: Decimals that are looked for in rows that were made to sum to one, and how far their sum may have been from it.
_DECIMALS, _FAR = range(1, 6), 0.25
#: How many such rows are looked at, different numbers of each and rows at least, and how seldom one is an accident.
_LOOKED_AT, _NUMBERS, _LEAST_ROWS, _ACCIDENT = 64, 4, 3, 1e-3
#: Rounding of float64 and float32, in which sums may have been made one.
_UNITS = (2.0**-53, 2.0**-24)
#: Numbers with less error than that may have been rounded before, as float32; a tail below it is what sums leave.
_FINE = 1e-6
#: Decimals of logits that are looked for: multiples of 5 units are halves, quarters and so on, and exact.
_LOGIT_DECIMALS, _HALVES = range(1, 5), 5


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
    found = {side: _coarseness(lines, side) for side in ("p", "q")}
    return [replace(line, p=_widened(line.p, found["p"]), q=_widened(line.q, found["q"])) for line in lines]


@dataclass(frozen=True)
class _Coarseness:
    """The grids of the numbers of a log and of their logarithms, and how far from one sums were once."""

    plain: Grid | None
    logs: Grid | None
    sums: float = 0.0


def _coarseness(lines: list[Line], side: str) -> _Coarseness:
    plain = rounding_of(_numbers(lines, side)) or _one_decimal(lines, side)
    if plain is None or float(_errors(plain, np.ones(1))[0]) < _FINE:
        for unit in _UNITS:
            held = _renormalised(lines, side, unit)
            if held is not None:
                return held
    logs = rounding_of(math.log(number) for number in _numbers(lines, side) if 0 < number < 1)
    if logs is None:
        rows = different_rows(row for line in lines if (row := getattr(line, side)) is not None)
        decimals = logit_decimals(rows) if len(rows) >= ROWS else None
        return _Coarseness(plain, None if decimals is None else _half_units(decimals))
    if not (float(logs.bits[0]) or float(logs.digits[0])):
        # Powers of one number have logarithms that are multiples of a step; rounding gives decimals.
        places = -math.log10(2.0 * float(logs.step[0]))
        logs = logs if abs(places - round(places)) < _CLOSE else None
    return _Coarseness(plain, logs)


def _renormalised(lines: list[Line], side: str, unit: float) -> _Coarseness | None:
    """The decimals to which most rows that can say so were rounded before they were made to sum to one."""
    rows = (row for line in lines if (row := getattr(line, side)) is not None)
    different = (
        np.unique(together[together > _FINE]) for row in rows for together in (np.append(row.probs, row.tail),)
    )
    telling = list(itertools.islice((row for row in different if len(row) >= _NUMBERS), _LOOKED_AT))
    for decimals in _DECIMALS:
        sums = [found for row in telling if (found := _sum_before(row, decimals, unit)) is not None]
        if len(sums) >= _LEAST_ROWS and 2 * len(sums) > len(telling):
            return _Coarseness(_half_units(decimals), None, max(abs(1 - x) for x in sums))
    return None


def _half_units(decimals: int) -> Grid:
    none = torch.zeros(1, dtype=torch.float64)
    return Grid(none, none, none + 0.5 * 10.0**-decimals)


def different_rows(rows: Iterable[Distribution]) -> list[Floats]:
    """Up to 64 different rows of a log, as numbers ascending without zeros.  O(probabilities listed)."""
    found: dict[bytes, Floats] = {}
    for row in rows:
        numbers = np.unique(row.probs[row.probs > 0])
        found.setdefault(numbers.tobytes(), numbers)
        if len(found) >= _LOOKED_AT:
            break
    return list(found.values())


def logit_decimals(rows: Iterable[Floats]) -> int | None:
    """Decimals of the logits that most rows of ascending probabilities were made of; None where they had more.

    Examples
    --------
    >>> import numpy as np
    >>> rounded = np.exp(np.array([-3.17, -2.04, -1.51, -0.63, -0.9]))
    >>> logit_decimals([np.sort(rounded / rounded.sum())]), logit_decimals([np.array([0.1, 0.2, 0.3, 0.4])])
    (2, None)
    """
    distances = [np.log(row[-1] / row[:-1]) for row in rows if len(row) >= _NUMBERS]
    for decimals, unit in itertools.product(_LOGIT_DECIMALS, _UNITS):
        near = 8.0 * unit * 10.0**decimals + _CLOSE
        places = [10.0**decimals * apart for apart in distances]
        on = [bool((np.abs(x - x.round()) < near).all()) for x in places]
        halves = all((x.round() % _HALVES == 0).all() for x, held in zip(places, on, strict=True) if held)
        if 2 * sum(on) > len(on) and not halves:
            return decimals
    return None


def _sum_before(row: Floats, decimals: int, unit: float) -> float | None:
    """What a row of ascending numbers summed to before it was made to sum to one; None if it had more decimals."""
    least, most = (float(row[0]) * 10.0**decimals * factor for factor in (1 - _FAR, 1 + _FAR))
    counts = np.arange(max(math.ceil(least), 1), math.floor(most) + 1)
    near = 4.0 * unit * 10.0**decimals + _CLOSE
    if len(counts) * (2.0 * near) ** (len(row) - 1) > _ACCIDENT:
        return None
    for number in row[1:]:
        places = number * (counts / row[0])
        counts = counts[np.abs(places - places.round()) < near]
    return float(counts[0] / row[0]) * 10.0**-decimals if len(counts) else None


def _numbers(lines: list[Line], side: str) -> Iterator[float]:
    for line in lines:
        row = getattr(line, side)
        if row is not None:
            yield from written(row).tolist()


def _one_decimal(lines: list[Line], side: str) -> Grid | None:
    """The grid of one decimal, where many different rows are on it."""
    rows = set()
    for line in lines:
        row = getattr(line, side)
        if row is not None:
            tenths = 10.0 * written(row)
            if np.abs(tenths - tenths.round()).max() > _CLOSE:
                return None
            rows.add((tenths.round().astype(np.int64).tobytes(), b"" if row.tokens is None else row.tokens.tobytes()))
    return _half_units(1) if len(rows) >= ROWS else None


def written(row: Distribution) -> Floats:
    """The probabilities as they stand in the log, before they were made to sum to one."""
    return row.probs if row.total == 1.0 else row.probs * row.total


def _widened(row: Distribution | None, held: _Coarseness) -> Distribution | None:
    if row is None or (held.plain is None and held.logs is None):
        return row
    numbers = written(row)
    numbers = numbers[numbers > 0]
    error = 0.0
    if held.plain is not None:
        error = float(_errors(held.plain, numbers).sum())
    if held.logs is not None:
        error = max(error, float((numbers * np.expm1(_errors(held.logs, -np.log(numbers)))).sum()))
    # A tail that is what the others leave takes all that was cut off from them.
    units = 2.0 if row.tokens is not None and row.total == 1.0 and row.tail > 0 else 1.0
    return replace(row, defect=min(row.defect + units * error + held.sums, 1.0))


def _errors(grid: Grid, sizes: Floats) -> Floats:
    """:meth:`.Grid.error` of arrays."""
    found: Floats = grid.error(torch.from_numpy(sizes)).numpy()
    return found
