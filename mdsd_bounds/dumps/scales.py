"""Rows on another scale than natural logarithms: probabilities, percentages, base 2 or 10, negated, never written.

Softmax takes any numbers, so that each of these gives a table of plausible bounds about a distribution that no model
had.  A row of real logits has none of these properties but by intent; subtracting a constant from it, which changes no
probability, takes away every one of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError

#: Columns that are looked at, all over the vocabulary, before a whole row is.
_FEW = 128
#: Rows at least so wide are judged one by one, and not all together.
_WIDE = 32
#: How near a sum of exponentials is to one in logarithms of a model's distribution, half-precision rows included.  One
#: of some hundred rows of real logits is as near by chance, so that fewer than so many rows have to be nearer.
_NEAR, _NEARER, _SEVERAL = 1e-3, 2e-6, 4
_LOGITS = "; if they are logits after all, subtract a constant from every row"


def refuse_other_scales(path: str, role: str, first: int, rows: Tensor) -> None:
    """Raise an error where full rows ``[B, V]`` are clearly no natural logarithms; exact zeros (-inf) do not count.

    O(B) for rows that are logits: some columns all over the vocabulary decide.

    Raises
    ------
    InputError
        With the remedy.
    """
    if not rows.numel():
        return
    few = rows[:, :: -(-rows.shape[-1] // _FEW)].to(torch.float64)
    where = f"{path} {role}_logits"
    known = few > -float("inf")
    # Parts of what sums to a hundred at most, or whose exponentials do to one, sum to no more.
    sums = few.masked_fill(~known, 0.0).sum(-1)
    negated = torch.where(known, (-few).exp(), 0.0).sum(-1)
    suspect = ((few >= 0) | ~known).all(-1) & ((sums < 101.0) | (negated < 1.01))
    if bool(suspect.any() if rows.shape[-1] >= _WIDE else suspect.all()):
        _refuse_positive(where, first, rows, suspect.nonzero()[:, 0])
    if bool((few[:1] <= 0).all()) and float((few[0] * math.log(10.0)).exp().sum()) < 1.01:
        _refuse_bases(where, rows)


def _refuse_positive(where: str, first: int, rows: Tensor, place: Tensor) -> None:
    """Probabilities, percentages and negated log-probabilities: no entry of the rows at ``place`` is negative."""
    # In their own dtype first: of many rows few are left.
    least = torch.where(rows[place] == -float("inf"), 0, rows[place]).amin(-1)
    place = place[least >= 0]
    if not len(place):
        return
    held = rows[place].to(torch.float64)
    known = held > -float("inf")
    count = known.sum(-1)
    sums = held.masked_fill(~known, 0.0).sum(-1)
    # Two tokens of some toy may sum to one by chance, thousands do not.
    rounding = 4e-3 if rows.dtype.itemsize < 4 else 1e-5
    ones = (count > 0) & ((sums - 1.0).abs() < torch.where(count < 8, rounding, 1e-2))
    every = len(held) == len(rows)
    if bool((ones & (count >= _WIDE)).any()) or (every and bool(ones.all())):
        row = first + int(place[ones][0])
        many = "every row is" if every and bool(ones.all()) else f"row {row} is"
        raise InputError(
            f"{where}: {many} non-negative and sums to one: probabilities; save their logarithms instead{_LOGITS}"
        )
    if not every or not bool((count > 0).all()):
        return
    if bool(((sums - 100.0).abs() < 0.5).all()) and (len(held) > 2 or bool((count >= _WIDE).all())):
        raise InputError(
            f"{where}: every row is non-negative and sums to 100: percentages; save the logarithms of the "
            f"probabilities instead{_LOGITS}"
        )
    # Rows of zeros alone are logarithms of one, with their sign as without it.
    if bool((held > 0).any()) and _sum_to_one((-held).masked_fill(~known, -float("inf"))):
        raise InputError(
            f"{where}: the exponentials of minus every row sum to one: negated log-probabilities; save them with their "
            f"sign{_LOGITS}"
        )


def _sum_to_one(logs: Tensor, rows: int | None = None) -> bool:
    """Whether the exponentials of every row sum to one, nearer where they are few (or part of few ``rows``)."""
    limit = _NEAR if (rows or len(logs)) >= _SEVERAL else _NEARER
    return bool((torch.logsumexp(logs, -1).abs() < limit).all())


def _refuse_bases(where: str, rows: Tensor) -> None:
    """Logarithms of probabilities to base 2 or 10: of the first row, and then of all."""
    bases: list[int] = []
    for part in (rows[:1], rows):
        held = part.to(torch.float64)
        # A row of one token is its own logarithm to every base.
        if bool((torch.logsumexp(held, -1).abs() < 1e-3).all()):
            return
        bases = [base for base in (2, 10) if _sum_to_one(held * math.log(base), len(rows))]
        if not bases:
            return
    raise InputError(
        f"{where}: every row holds logarithms of probabilities to base {bases[0]}; multiply by ln {bases[0]} = "
        f"{math.log(bases[0]):.6f}, natural logarithms are wanted{_LOGITS}"
    )


def refuse_unwritten(path: str, first: int, target: Tensor, draft: Tensor) -> None:
    """Raise an error where every logit of both models is exactly zero: memory that was never filled.

    Raises
    ------
    InputError
        Naming the first such row.
    """
    width = min(target.shape[-1], draft.shape[-1])
    if width < 8 or not len(target):
        return
    empty = ((target[:, :_FEW] == 0).all(-1) & (draft[:, :_FEW] == 0).all(-1)).nonzero()[:, 0]
    for row in empty.tolist():
        if bool((target[row] == 0).all()) and bool((draft[row] == 0).all()):
            raise InputError(
                f"{path} row {first + row}: every logit of both models is zero, as in memory that was never written; "
                "leave such rows out, or log them again"
            )
