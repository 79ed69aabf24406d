"""How coarsely numbers were rounded before they were stored, told from the numbers themselves.

Programs take log-probabilities in bfloat16 or float16 and widen them before they save them, or write a few decimals or
significant digits.  Then the type of the array says nothing of their error, and an interval that trusts it is untrue.
Every number on the same coarse grid is no accident: of those that were not rounded one in a thousand is on it.

The grids are numbers of so many significant bits (every floating-point type), of so many significant digits, of so
many decimals, multiples of one step, and numbers that lie multiples of one step apart (``least + code * step``).  Of
the last a step of few bits does not count: the logarithms of the softmax of bfloat16 logits lie so, and are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: Decimals, and significant digits, that are looked for: with more, numbers are nearly as fine as float64.
_DECIMALS, _DIGITS = torch.arange(12), torch.arange(1, 15)
#: Into how many parts the least distance of two numbers may be divided to find the step that they are multiples of.
_PARTS = torch.arange(1, 13)
#: How seldom a number is on a grid by accident, at best: numbers of toys are rounder than those of models.
_LEAST = 1e-3
#: How seldom all numbers of a row may be on a grid by accident for the row to count as rounded to it.
_ACCIDENT = 1e-8
#: The same of one number alone: logits of few bits leave all numbers of a row with the same last digits.
_ALONE = 2e-2
#: Numbers of a row that are looked at before the others are.
_FIRST = 8
#: Rounding of float64, which the arithmetic here has; the least distance from a grid that counts as one.
_FLOAT64, _CLOSE = 2.0**-50, 1e-9
#: Numbers of a row, from the least to the largest, whose distances are looked at; fewer than five say nothing.
_RANKS, _DISTANT = 96, 5
#: Codes of which the least and the largest number of a row may be the first and the last.
_CODES = 2 ** torch.arange(2, 17) - 1
#: Steps that are an integer multiple of this part of a power of two are those of logits of few bits.
_FEW_BITS = 32
#: How seldom one number of a whole file may be on a grid by accident, and how many are looked at first: no file has
#: the same last digits everywhere.
_ALONE_IN_A_FILE, _FIRST_IN_A_FILE = 0.5, 128
#: Different numbers of a whole file that say how they were rounded, and how many of them are looked at.
SEVERAL, _LOOKED_AT = 16, 65_536
#: Numbers of the first rows of an array file that say how all of it was rounded.
FIRST_NUMBERS = 16_384


@dataclass(frozen=True)
class Grid:
    """Half the distance between neighbours of the grids that rows of numbers are on; all zero where they are on none.

    Attributes
    ----------
    bits, digits : Tensor
        ``[B]`` of numbers of so many bits, relative to them, and of so many digits, relative to their power of ten.
    step : Tensor
        ``[B]`` of decimals and multiples, absolute; of numbers that lie multiples of a step apart the whole step, since
        codes are often cut off and their step rounded.
    codes : Tensor or None
        ``[B]``: into how many steps the numbers of each row are divided, from its least to its largest.
    """

    bits: Tensor
    digits: Tensor
    step: Tensor
    codes: Tensor | None = None

    def error(self, size: Tensor) -> Tensor:
        """Largest rounding error of numbers up to ``size`` (at most that of each of the rows)."""
        power = torch.where(size > 0, 10.0 ** torch.floor(size.clamp(min=1e-300).log10()), 0.0)
        return torch.maximum(torch.maximum(self.bits * size, self.digits * power), self.step)

    def of_rows(self, values: Tensor, held: Tensor) -> Tensor:
        """Largest rounding error ``[B]`` of the numbers ``[B, k]`` that are ``held``."""
        held = held & torch.isfinite(values)
        size = torch.where(held, values.abs(), 0.0)
        if not size.shape[-1]:
            return self.error(size.sum(-1))
        if self.codes is None:
            return self.error(size.amax(-1))
        span = torch.where(held, values, -math.inf).amax(-1) - torch.where(held, values, math.inf).amin(-1)
        return torch.maximum(self.error(size.amax(-1)), span.clamp(min=0.0) / self.codes)


def coarse_rounding(values: Tensor, held: Tensor, unit: float) -> Tensor:
    """Error bound ``[B]`` of rows that are stored more coarsely than their type; zero for all others.  O(Bk log k).

    Parameters
    ----------
    values : Tensor
        ``[B, k]`` float64; only those where ``held`` ``[B, k]`` count.
    unit : float
        Relative rounding of the type they are stored in.

    Examples
    --------
    >>> rows = torch.tensor([[0.1234567, 1.2345678, 2.3456789], [0.12, 1.23, 2.35]], dtype=torch.float64)
    >>> coarse_rounding(rows, rows > 0, 1e-16)
    tensor([5.0000e-08, 5.0000e-03], dtype=torch.float64)
    """
    return grid_of(values, held, unit).of_rows(values, held)


def grid_of(values: Tensor, held: Tensor, unit: float, *, first: int = _FIRST, alone: float = _ALONE) -> Grid:
    """The coarsest grids that all numbers of a row are on; parameters as of :func:`coarse_rounding`.

    ``first`` numbers of a row are looked at before the others are; ``alone`` is how seldom one number may be on it.
    """
    order, new = _different(torch.where(held & torch.isfinite(values), values, 0.0))
    found = Grid(*(torch.zeros(len(values), dtype=torch.float64) for _ in range(3)))
    if not new.shape[-1]:
        return found
    some = (torch.arange(first) * new.sum(-1, keepdim=True)).div(first, rounding_mode="floor")
    few = min(first, new.shape[-1])
    some = some if few == first else torch.arange(few).expand(len(new), few)
    likely = _grid(order.gather(-1, some), new.gather(-1, some), unit, _ACCIDENT**0.5, alone)
    rows = (likely.bits + likely.digits + likely.step > 0).nonzero()[:, 0]
    if len(rows):
        part = _grid(order[rows], new[rows], unit, _ACCIDENT, alone)
        found.bits[rows], found.digits[rows], found.step[rows] = part.bits, part.digits, part.step
    rows = (found.digits + found.step == 0).nonzero()[:, 0]
    if len(rows):
        found.step[rows] = _apart(order[rows], new[rows], found.bits[rows].clamp(min=unit))
    return found


def _different(values: Tensor) -> tuple[Tensor, Tensor]:
    """The different numbers of each row, ascending and in the first places, and where they are; zero counts as none."""
    order = values.sort(-1).values
    new = torch.ones_like(order, dtype=torch.bool)
    # A number that stands there twice is no second sign.
    new[:, 1:] = order.diff(dim=-1) != 0
    order = torch.where(new & (order != 0), order, math.inf).sort(-1).values
    new = torch.isfinite(order)
    return torch.where(new, order, 0.0), new


def _grid(order: Tensor, new: Tensor, unit: float, accident: float, alone: float) -> Grid:
    """The grids of ascending numbers ``[B, k]``, of which those that are ``new`` count."""
    bits = torch.where(new, _bits(order), 0.0).amax(-1)
    chance = 2.0**bits * unit
    sure = (chance.clamp(min=_LEAST) ** new.sum(-1) < accident) & (chance < alone)
    power = 10.0 ** torch.floor(torch.where(new, order.abs(), 1.0).log10())
    step, tried = _steps(order, new), torch.cat([torch.ones(len(_DIGITS) + len(_DECIMALS)), 10.0 * _PARTS]).double()
    places = torch.cat(
        [
            (order / power)[:, None] * 10.0 ** (_DIGITS.double() - 1)[:, None],
            order[:, None] * 10.0 ** _DECIMALS.double()[:, None],
            order[:, None] / step[..., None],
        ],
        1,
    )
    on = _on_grid(places, new[:, None], unit, accident, tried, alone)
    halves = [0.5 * 10.0 ** (1 - _DIGITS.double()), 0.5 * 10.0 ** -_DECIMALS.double()]
    first, second = len(_DIGITS), len(_DIGITS) + len(_DECIMALS)
    digits, decimals = (on[:, :first] * halves[0]).amax(-1), (on[:, first:second] * halves[1]).amax(-1)
    return Grid(
        torch.where(sure, 2.0**-bits, 0.0), digits, torch.maximum(decimals, (on[:, second:] * step / 2).amax(-1))
    )


def _bits(values: Tensor) -> Tensor:
    """Significant bits of float64 numbers, as float64."""
    mantissa = torch.frexp(values).mantissa.abs()
    whole = (mantissa * 2.0**53).to(torch.int64)
    return 53.0 - (whole & -whole).clamp(min=1).to(torch.float64).log2()


def _on_grid(places: Tensor, new: Tensor, unit: float, accident: float, tried: Tensor, alone: float) -> Tensor:
    """Where ``[B, G]`` all ``new`` numbers ``[B, 1, k]`` have integers other than zero as ``places`` ``[B, G, k]``.

    Only where that is no accident.  ``unit`` is the relative error of the numbers, ``tried`` ``[G]`` as how many grids
    each of them counts: more than one were made from two of the numbers.
    """
    tolerance = ((unit * (1 + (tried > 1))[:, None] + _FLOAT64) * places.abs()).clamp(min=_CLOSE)
    nearest = places.round()
    on = (((places - nearest).abs() <= tolerance) & (nearest != 0)) | ~new
    chance = torch.where(new, (2 * tried[:, None] * tolerance).clamp(max=1.0), 1.0)
    count = new.sum(-1).clamp(min=1)
    free = torch.where(tried > 1, 2, 0)
    together = chance.clamp(min=_LEAST).log().sum(-1) * (count - free).clamp(min=0) / count
    return on.all(-1) & (together.exp() < accident) & (chance.amin(-1) < alone)


def _steps(order: Tensor, new: Tensor) -> Tensor:
    """Steps ``[B, G]`` of which all numbers of a row may be multiples: the least distance of two, in some parts."""
    none = torch.full_like(order[:, :1], math.inf)
    gaps = torch.where(new[:, 1:] & (order.diff(dim=-1) > 0), order.diff(dim=-1), math.inf)
    least = torch.cat([gaps, torch.where(new, order.abs(), math.inf), none], -1).amin(-1)
    size = torch.where(new, order.abs(), 0.0).amax(-1)
    # The largest number tells the step better than the least distance does.
    count = ((size / least)[:, None] * _PARTS).round()
    return torch.where(count > 0, size[:, None] / count.clamp(min=1), 1.0)


def _apart(order: Tensor, new: Tensor, unit: Tensor) -> Tensor:
    """The step ``[B]`` of which all distances in a row are multiples; zero where that may be an accident, or exact.

    ``unit`` ``[B]`` is the relative error of the numbers.
    """
    result, count = torch.zeros(len(order), dtype=torch.float64), new.sum(-1)
    rows = (count >= _DISTANT).nonzero()[:, 0]
    if not len(rows):
        return result
    ranks = torch.arange(min(_RANKS, order.shape[-1])).expand(len(rows), -1)
    last = count[rows, None] - 1
    # Of rows with more numbers the least, the largest, and some between them.
    spread = (ranks * last).div(max(ranks.shape[-1] - 1, 1), rounding_mode="floor")
    ranks = torch.where(last < ranks.shape[-1], ranks, spread)
    order, new = order[rows].gather(-1, ranks.clamp(max=order.shape[-1] - 1)), new[rows].gather(-1, ranks)
    top, apart, span = _distances(order, new)
    steps = _steps_apart(order, new, span[:, 0])
    # Where the first code is not the least number of the row, it may lie as far below it again.
    below = torch.cat([span.expand(-1, len(_PARTS)), torch.zeros(len(span), len(_CODES))], -1)
    error = _errors_apart(order, top, apart, below, unit[rows, None, None])
    places, tolerance = apart[:, None] / steps[..., None], (error / steps[..., None]).clamp(min=_CLOSE)
    on = ((places - places.round()).abs() <= tolerance).all(-1)
    # The largest number lies at zero in any case, and the step was made from another.
    counted = (apart > 0)[:, None]
    chance = torch.where(counted, (2 * tolerance).clamp(_LEAST / 2, 1.0), 1.0).log()
    sure = chance.sum(-1) - chance.amin(-1) + math.log(steps.shape[-1]) < math.log(_ACCIDENT)
    parts = torch.frexp(steps).mantissa * _FEW_BITS
    inexact = (parts - parts.round()).abs() > parts * (error.amax(-1) / span).clamp(min=_CLOSE)
    # The coarsest says what it is: a third of a step of few bits has many.
    coarsest = torch.where(on & sure, steps, 0.0).max(-1)
    exact = ~inexact.gather(-1, coarsest.indices[:, None])[:, 0]
    result[rows] = torch.where(exact, 0.0, coarsest.values)
    return result


def _distances(order: Tensor, new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest number ``[B, 1]``, the distance of each number to it ``[B, k]``, and the largest distance."""
    top = torch.where(new, order, -math.inf).amax(-1, keepdim=True)
    apart = torch.where(new, top - order, 0.0)
    return top, apart, apart.amax(-1, keepdim=True)


def _errors_apart(order: Tensor, top: Tensor, apart: Tensor, below: Tensor, unit: Tensor) -> Tensor:
    """Errors ``[B, G, k]`` of the distances to the largest number, where the offset lies ``below`` the least number.

    Code times step was rounded, and its sum with the offset; the same of the largest, and of what says the step.
    """
    span, below = apart.amax(-1, keepdim=True), below[..., None]
    of_top = _power_of_two(top)[:, None] + _power_of_two(below + span[:, None])
    of_step = of_top + _power_of_two(top - span)[:, None] + below
    each = _power_of_two(order)[:, None] + _power_of_two(below + (span - apart)[:, None])
    part = (apart / span.clamp(min=1e-300))[:, None]
    return (unit + _FLOAT64) * torch.where((apart > 0)[:, None], each + of_top + of_step * part, 0.0)


def _file_codes(order: Tensor, new: Tensor, unit: float) -> Tensor | None:
    """Into how many steps ``[1]`` all rows are divided, from the least to the largest number of each."""
    rows = (new.sum(-1) > 2).nonzero()[:, 0]
    if not len(rows):
        return None
    order, new = order[rows], new[rows]
    top, apart, span = _distances(order, new)
    step = (span / _CODES)[..., None]
    bits = torch.where(new, _bits(order), 0.0).amax()
    # Codes are often made to numbers in fewer bits than they are stored in.
    unit = max(unit, 2.0 ** -float(bits)) if bits < -math.log2(unit) - math.log2(1 / _ALONE) else unit
    error = _errors_apart(order, top, apart, torch.zeros(len(rows), len(_CODES)), torch.tensor(unit).double())
    tolerance = (error / step).clamp(min=_CLOSE)
    places = apart[:, None] / step
    between = ((apart > 0) & (apart < span))[:, None]
    on = ((places - places.round()).abs() <= tolerance).all(-1).all(0)
    chance = torch.where(between, (2 * tolerance).clamp(_LEAST, 1.0), 1.0).log().sum((0, 2))
    good = (on & (chance + math.log(len(_CODES)) < math.log(_ACCIDENT))).nonzero()[:, 0]
    return _CODES[good[:1]].double() if len(good) else None


def _power_of_two(values: Tensor) -> Tensor:
    """The largest power of two that is not above each number in size; zero for zero."""
    return torch.where(values != 0, torch.ldexp(torch.ones_like(values), torch.frexp(values).exponent - 1), 0.0)


def _steps_apart(order: Tensor, new: Tensor, span: Tensor) -> Tensor:
    """Steps ``[B, G]`` of which the distances of ascending numbers may be multiples."""
    count = new.sum(-1)
    step, window = torch.zeros(len(order), len(_PARTS), dtype=torch.float64), 1
    while window < order.shape[-1]:
        gaps = torch.where(new[:, window:], order[:, window:] - order[:, :-window], math.inf)
        least = gaps.amin(-1)[:, None]
        # Each longer distance tells the step better, as long as the one before tells how many steps it has.
        step = least / _PARTS if window == 1 else _nearer(step, torch.where(window < count[:, None], least, math.inf))
        window *= 2
    return torch.cat([_nearer(step, span[:, None]), span[:, None] / _CODES], -1)


def _nearer(step: Tensor, distance: Tensor) -> Tensor:
    number = (distance / step).round()
    return torch.where(torch.isfinite(distance) & (number > 0), distance / number, step)


def rounding_of(numbers: Iterable[float], unit: float = 2.0**-53) -> Grid | None:
    """The grid ``[1]`` that all numbers of a file are on; None where they are on none, or are few.

    Examples
    --------
    >>> found = rounding_of(place / 100 for place in range(1, 100))
    >>> float(found.step)
    0.005
    >>> rounding_of(1 / place for place in range(3, 100)) is None
    True
    """
    different = list(dict.fromkeys(number for number, _ in zip(numbers, range(_LOOKED_AT), strict=False) if number))
    if len(different) < SEVERAL:
        return None
    values = torch.tensor([different], dtype=torch.float64)
    found = grid_of(values, torch.isfinite(values), unit, first=_FIRST_IN_A_FILE, alone=_ALONE_IN_A_FILE)
    return found if bool((found.bits + found.digits + found.step > 0).any()) else None


def rounding_of_rows(values: Tensor, held: Tensor, unit: float) -> Grid | None:
    """As :func:`rounding_of`, of the first rows of a file ``[B, k]``; parameters as of :func:`coarse_rounding`.

    Where half of those that can say so are on grids of their own, every row is as coarse as the coarsest.

    Examples
    --------
    >>> rows = torch.arange(1, 41, dtype=torch.float64).reshape(20, 2) / 100
    >>> float(rounding_of_rows(rows, rows > 0, 2.0**-24).step)
    0.005
    """
    values, held = values.to(torch.float64), held & torch.isfinite(values)
    together = rounding_of(values[held].tolist(), unit)
    nothing = torch.zeros(1, dtype=torch.float64)
    codes = _file_codes(*_different(torch.where(held, values, 0.0)), unit)
    if together is not None or codes is not None:
        return replace(together or Grid(nothing, nothing, nothing), codes=codes)
    telling = held.sum(-1) >= _DISTANT
    step = grid_of(values, held, unit).step[telling]
    return Grid(nothing, nothing, step.max()[None]) if len(step) and step.median() > 0 else None
