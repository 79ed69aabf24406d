"""One compiled pass that finds all that can be wrong with probabilities: signs, and sums that are no numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

#: Entries that are added up before they join the rest.
BLOCK = 512


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def row_sums(x, bits, first, last, total, sign):  # type: ignore[no-untyped-def]
    """``total[b]`` of rows ``first`` to ``last`` of float64 ``x``; ``sign[b] < 0`` where any entry's sign bit is set.

    ``bits`` is ``x`` seen as int64.  A NaN or an infinity leaves a total that is not finite.  Sums go by blocks of 512,
    so the relative error of a total of non-negative entries is at most ``(512 + V/512) u``.
    """
    for b in range(first, last):
        everything, signs = 0.0, np.int64(0)
        for start in range(0, x.shape[1], BLOCK):
            part, part_bits = x[b, start : start + BLOCK], bits[b, start : start + BLOCK]
            block = 0.0
            for i in range(part.shape[0]):
                block += part[i]
                signs |= part_bits[i]
            everything += block
        total[b] = everything
        sign[b] = signs
