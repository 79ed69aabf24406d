"""Logs in which so few different numbers stand that nobody can tell whether they were rounded.

A hundred positions of one pair with p = (0.62, 0.38) are a log of a toy, and exact, or were rounded to two decimals.
In the second case a lossless rule may look lossy: over 100,000 positions an error of 0.004 shows.  The numbers do not
say which of the two it is (:mod:`mdsd_bounds.audit.rounded` needs sixteen), so a verdict that rests on it is none.
Here they are taken to be as coarse as they may be: to the decimals, significant digits or decimals of the logarithm
that all of them have, or to the 16-bit type that holds them all.  The same holds of few different rows whose numbers
have logarithms that lie so many decimals apart: logits of a toy, or log-probabilities that were rounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mdsd_bounds.audit.cells import Floats
from mdsd_bounds.audit.log_lines import Distribution, Line
from mdsd_bounds.audit.rounded import ROWS, different_rows, logit_decimals, written
from mdsd_bounds.dumps.rounding import SEVERAL

#: Decimals and digits that are looked for; finer ones are within what is allowed for at any rate.
_PLACES = range(1, 7)
#: Significant bits of bfloat16 and float16.
_TYPES = (8, 11)
#: Different numbers of a log of few rows, at the most.
_NUMBERS = 4096
#: Places this near to an integer are one, and that for float32.
_CLOSE, _FLOAT32 = 1e-9, 2.0**-22


def perhaps_rounded(lines: Sequence[Line]) -> tuple[list[Line], str] | None:
    """The lines with the ``defect`` of numbers as coarse as they may be, and what they may be.  O(numbers listed).

    Parameters
    ----------
    lines : sequence of Line
        All positions of a log.

    Returns
    -------
    tuple or None
        None where neither p nor q has few different numbers on such a grid.
    """
    errors: dict[str, dict[float, float]] = {}
    told = []
    for side in ("p", "q"):
        found = _errors(row for line in lines if (row := getattr(line, side)) is not None)
        if found is not None:
            errors[side], name = found
            told.append(f"the {len(errors[side])} different numbers of {side} all have {name}")
    if not told:
        return None
    wider = [replace(line, p=_widened(line.p, errors.get("p")), q=_widened(line.q, errors.get("q"))) for line in lines]
    return wider, " and ".join(told)


def say_perhaps_rounded(path: str, told: str, error: float) -> str:
    """What is wrong with a log against which nothing speaks once its numbers are taken to be rounded."""
    return (
        f"{path}: the rule is lossy if the probabilities are exact, and nothing speaks against it if they were "
        f"rounded, which so few numbers do not tell: {told}; give --tolerance 0 if they are exact, or --tolerance "
        f"{error:.2g} if they were rounded"
    )


def _errors(rows: Iterable[Distribution]) -> tuple[dict[float, float], str] | None:
    """By how much each number may be off, and the coarsest grid of all; None for many numbers, or without a grid."""
    rows = list(rows)
    different: dict[float, None] = {}
    for row in rows:
        different.update(dict.fromkeys(number for number in written(row).tolist() if number > 0))
        if len(different) >= _NUMBERS:
            return None
    numbers = np.array(list(different))
    if not len(numbers) or (numbers == 1.0).all():
        # Certainty in every row is what temperature 0 gives.
        return None
    few = len(numbers) < SEVERAL
    held = [(name, error) for name, error in _grids(numbers) if error.max() > 0] if few else []
    decimals = logit_decimals(apart) if len(apart := different_rows(rows)) < ROWS else None
    if decimals is not None:
        error = numbers * math.expm1(0.5 * 10.0**-decimals)
        held.append((f"logarithms that lie {_counted(decimals, 'decimal')} apart", error))
    if not held:
        return None
    together = np.max([error for _, error in held], axis=0)
    name = max(held, key=lambda entry: float(entry[1].sum()))[0]
    return dict(zip(numbers.tolist(), together.tolist(), strict=True)), name


def _grids(numbers: Floats) -> Iterable[tuple[str, Floats]]:
    power = 10.0 ** np.floor(np.log10(numbers))
    logs = -np.log(numbers)
    for d in _PLACES:
        if _integers(numbers * 10.0**d):
            yield _counted(d, "decimal"), np.full(len(numbers), 0.5 * 10.0**-d)
            break
    for d in _PLACES:
        if _integers(numbers / power * 10.0 ** (d - 1)):
            yield _counted(d, "significant digit"), 0.5 * 10.0 ** (1 - d) * power
            break
    for d in _PLACES:
        if _integers(logs * 10.0**d):
            yield f"logarithms of {_counted(d, 'decimal')}", numbers * math.expm1(0.5 * 10.0**-d)
            break
    for bits in _TYPES:
        mantissa = np.frexp(numbers)[0] * 2.0**bits
        if (mantissa == np.round(mantissa)).all():
            yield f"{bits} significant bits", numbers * 2.0**-bits
            break


def _integers(places: Floats) -> bool:
    nearest = places.round()
    return bool((np.abs(places - nearest) <= np.maximum(_CLOSE, _FLOAT32 * places)).all() and (nearest > 0).all())


def _counted(d: int, what: str) -> str:
    return f"{d} {what}{'s' if d > 1 else ''}"


def _widened(row: Distribution | None, errors: dict[float, float] | None) -> Distribution | None:
    if row is None or errors is None:
        return row
    error = math.fsum(itertools.chain([row.defect], (errors.get(number, 0.0) for number in written(row).tolist())))
    return replace(row, defect=min(error, 1.0))
