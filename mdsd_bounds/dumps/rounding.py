"""How coarsely numbers were rounded before they were stored, told from the numbers themselves.

Programs take log-probabilities in bfloat16 or float16 and widen them before they save them, or write a few decimals or
significant digits.  Then the type of the array says nothing of their error, and an interval that trusts it is untrue.
Every number on the same coarse grid is no accident: of those that were not rounded one in a thousand is on it.

The grids are numbers of so many significant bits (every floating-point type), of so many significant digits, of so
many decimals, and multiples of one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
#: Different numbers of a whole file that say how they were rounded, and how many of them are looked at.
_SEVERAL, _LOOKED_AT = 16, 65_536


@dataclass(frozen=True)
class Grid:
    """Half the distance between neighbours of the grids that rows of numbers are on; all zero where they are on none.

    Attributes
    ----------
    bits, digits : Tensor
        ``[B]`` of numbers of so many bits, relative to them, and of so many digits, relative to their power of ten.
    step : Tensor
        ``[B]`` of decimals and multiples, absolute.
    """

    bits: Tensor
    digits: Tensor
    step: Tensor

    def error(self, size: Tensor) -> Tensor:
        """Largest rounding error of numbers up to ``size`` (at most that of each of the rows)."""
        power = torch.where(size > 0, 10.0 ** torch.floor(size.clamp(min=1e-300).log10()), 0.0)
        return torch.maximum(torch.maximum(self.bits * size, self.digits * power), self.step)


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
    size = torch.where(held & torch.isfinite(values), values.abs(), 0.0)
    return grid_of(values, held, unit).error(size.amax(-1) if size.shape[-1] else size.sum(-1))


def grid_of(values: Tensor, held: Tensor, unit: float) -> Grid:
    """The coarsest grids that all numbers of a row are on; parameters as of :func:`coarse_rounding`."""
    order, new = _different(torch.where(held & torch.isfinite(values), values, 0.0))
    found = Grid(*(torch.zeros(len(values), dtype=torch.float64) for _ in range(3)))
    if not new.shape[-1]:
        return found
    some = (torch.arange(_FIRST) * new.sum(-1, keepdim=True)).div(_FIRST, rounding_mode="floor")
    few = min(_FIRST, new.shape[-1])
    some = some if few == _FIRST else torch.arange(few).expand(len(new), few)
    likely = _grid(order.gather(-1, some), new.gather(-1, some), unit, _ACCIDENT**0.5)
    rows = (likely.bits + likely.digits + likely.step > 0).nonzero()[:, 0]
    if len(rows):
        part = _grid(order[rows], new[rows], unit, _ACCIDENT)
        found.bits[rows], found.digits[rows], found.step[rows] = part.bits, part.digits, part.step
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


def _grid(order: Tensor, new: Tensor, unit: float, accident: float) -> Grid:
    """The grids of ascending numbers ``[B, k]``, of which those that are ``new`` count."""
    bits = torch.where(new, _bits(order), 0.0).amax(-1)
    chance = 2.0**bits * unit
    sure = (chance.clamp(min=_LEAST) ** new.sum(-1) < accident) & (chance < _ALONE)
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
    on = _on_grid(places, new[:, None], unit, accident, tried)
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


def _on_grid(places: Tensor, new: Tensor, unit: float, accident: float, tried: Tensor) -> Tensor:
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
    return on.all(-1) & (together.exp() < accident) & (chance.amin(-1) < _ALONE)


def _steps(order: Tensor, new: Tensor) -> Tensor:
    """Steps ``[B, G]`` of which all numbers of a row may be multiples: the least distance of two, in some parts."""
    none = torch.full_like(order[:, :1], math.inf)
    gaps = torch.where(new[:, 1:] & (order.diff(dim=-1) > 0), order.diff(dim=-1), math.inf)
    least = torch.cat([gaps, torch.where(new, order.abs(), math.inf), none], -1).amin(-1)
    size = torch.where(new, order.abs(), 0.0).amax(-1)
    # The largest number tells the step better than the least distance does.
    count = ((size / least)[:, None] * _PARTS).round()
    return torch.where(count > 0, size[:, None] / count.clamp(min=1), 1.0)


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
    if len(different) < _SEVERAL:
        return None
    values = torch.tensor([different], dtype=torch.float64)
    found = grid_of(values, torch.isfinite(values), unit)
    return found if bool((found.bits + found.digits + found.step > 0).any()) else None
