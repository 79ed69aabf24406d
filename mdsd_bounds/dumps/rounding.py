"""How coarsely numbers were rounded before they were stored, told from the numbers themselves.

Programs take log-probabilities in bfloat16 or float16 and widen them before they save them, or write two or three
decimals.  Then the type of the array says nothing of their error, and an interval that trusts it is untrue.  Every
number on the same coarse grid is no accident: of those that were not rounded one in a thousand is on it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mdsd_bounds.problem import rounding_unit

#: Decimals that are looked for; more are finer than float32 at the size of a log-probability.
_DECIMALS = range(2, 7)
#: How seldom a number is on a grid by accident, at best: numbers of toys are rounder than those of models.
_LEAST = 1e-3
#: How seldom all numbers of a row may be on a grid by accident for the row to count as rounded to it.
_ACCIDENT = 1e-8
#: Decimals from which on a probability counts as written in full.
_FULL = 8
#: Different probabilities that say to how many decimals they were rounded.
_SEVERAL = 16


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
    tensor([0.0000, 0.0050], dtype=torch.float64)
    """
    used = held & torch.isfinite(values) & (values != 0)
    # A number that stands there twice is no second sign.
    order = torch.where(used, values, 0.0).sort(-1).values
    new = torch.ones_like(order, dtype=torch.bool)
    new[:, 1:] = order.diff(dim=-1) != 0
    new &= order != 0
    found = torch.zeros(len(values), dtype=torch.float64)
    size = order.abs().amax(-1) if order.shape[-1] else found
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if rounding_unit(dtype) > unit:
            on = (order.to(dtype).to(torch.float64) == order) | ~new
            sure = on.all(-1) & (_LEAST ** new.sum(-1).double() < _ACCIDENT)
            found = torch.where(sure, rounding_unit(dtype) * size, found)
    for decimals in _DECIMALS:
        places = order * 10.0**decimals
        tolerance = (unit * places.abs()).clamp(min=1e-9)
        on = ((places - places.round()).abs() <= tolerance) | ~new
        chance = (2 * tolerance).clamp(_LEAST, 1.0).log()
        sure = on.all(-1) & (torch.where(new, chance, 0.0).sum(-1).exp() < _ACCIDENT)
        found = torch.where(sure, found.clamp(min=0.5 * 10.0**-decimals), found)
    return found


def decimals_error(numbers: Iterable[float]) -> float:
    """Half a unit of the last decimal that any of the numbers is written with; zero where they are written in full.

    Of a few different numbers it cannot be told, and they count as exact.

    Examples
    --------
    >>> decimals_error(place / 100 for place in range(100)), decimals_error(1 / place for place in range(3, 100))
    (0.005, 0.0)
    """
    decimals, different = 0, set(numbers)
    if len(different) < _SEVERAL:
        return 0.0
    for number in different:
        while decimals < _FULL and round(number, decimals) != number:
            decimals += 1
        if decimals == _FULL:
            return 0.0
    return 0.5 * 10.0**-decimals
