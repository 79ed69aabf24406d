"""Rows of probabilities that are added up and looked through right before somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads

#: Narrower rows are checked by torch alone; importing and reading the compiled pass takes half a second.
WIDE = 8192
#: Rows whose sum is this close to one are taken as they are: the defect is rounding, and a copy would cost more than
#: the bound that is computed from it.
ROUNDED_SUM = 1e-12


class RowSums:
    """Sums of wide rows ``[B, V]`` (float64, contiguous, on the CPU), added up when somebody is about to read them.

    A search that does so row by row finds the row in the cache, where a pass over all rows before it would have
    fetched each from memory twice.
    """

    def __init__(self, rows: Tensor) -> None:
        from mdsd_bounds._backend.row_sums import row_sums

        self._pass, self._rows = row_sums, rows.detach().numpy()
        self._bits = self._rows.view(np.int64)
        self.total, self._sign = np.empty(len(rows)), np.empty(len(rows), np.int64)

    @staticmethod
    def takes(rows: Any) -> bool:
        """Whether rows are of the kind that it reads."""
        return (
            isinstance(rows, Tensor | np.ndarray)
            and rows.ndim == 2
            and rows.shape[1] >= WIDE
            and rows.dtype in (torch.float64, np.float64)
            and (not isinstance(rows, Tensor) or (rows.device.type == "cpu" and rows.layout == torch.strided))
            and (rows.is_contiguous() if isinstance(rows, Tensor) else rows.flags.c_contiguous)
        )

    def add(self, first: int, last: int) -> None:
        """Add up rows ``first`` to ``last``."""
        self._pass(self._rows, self._bits, first, last, self.total, self._sign)

    def sound(self) -> bool:
        """Whether all rows, added up before, are finite, and no entry has its sign bit set."""
        return not (self._sign < 0).any() and bool(np.isfinite(self.total).all())

    def is_sound(self, row: int) -> bool:
        """The same of one row."""
        return bool(self._sign[row] >= 0) and math.isfinite(self.total[row])

    def defect(self) -> Tensor | None:
        """``|1 - sum|`` ``[B]`` of all rows; None where a row is not sound, or would have to be normalised."""
        defect = np.abs(1.0 - self.total)
        return torch.from_numpy(defect) if self.sound() and bool((defect <= ROUNDED_SUM).all()) else None


#: Of p and of q.
Sums = tuple[RowSums, RowSums]


def in_checked_threads(work: Callable[[int, int], None], rows: int, sums: Sums | None) -> None:
    """:func:`in_threads`; with ``sums`` row by row, each added up first, and left out where it is not sound."""

    def checked(first: int, last: int) -> None:
        assert sums is not None
        of_p, of_q = sums
        for row in range(first, last):
            of_p.add(row, row + 1)
            of_q.add(row, row + 1)
            if of_p.is_sound(row) and of_q.is_sound(row):
                work(row, row + 1)

    in_threads(work if sums is None else checked, rows)
