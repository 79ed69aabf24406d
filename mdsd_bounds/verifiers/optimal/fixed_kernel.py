"""The distribution of the pick with fixed tokens and at most one random draft, compiled: two passes over the row."""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS
from mdsd_bounds.bounds.search import ratio_cells
from mdsd_bounds.verifiers.optimal.intervals_kernel import BLOCK, STRIP

#: By masses below this every entry is divided: a subnormal one has no finite reciprocal.
_SMALL = 1e-280


@njit(cache=True, nogil=True)
def fixed_and_rest(q: np.ndarray, fixed: int) -> tuple[np.ndarray, float]:
    """The ``fixed`` most probable tokens in falling order, fewer on a smaller support, and the mass of the rest.

    Among equals the lowest index is first.
    """
    blocks = -(-q.shape[0] // ratio_cells.BLOCK)
    sums, peaks = np.empty(blocks), np.empty(blocks, np.int64)
    bits = q.view(np.int64)
    ratio_cells.block_facts(q, bits, sums, peaks)
    value, token, outside = np.empty(fixed), np.empty(fixed, np.int64), np.empty(fixed + 1)
    held = ratio_cells.largest(q, bits, peaks, value, token)
    ratio_cells.outside_largest(q, sums, value[:held], token[:held], outside[: held + 1])
    return token[:held], outside[held]


@njit(cache=True, nogil=True)
def overlap(p: np.ndarray, q: np.ndarray, token: np.ndarray, rest: float, r: np.ndarray) -> tuple[float, float]:
    """Write ``min(p, q / rest)`` off ``token`` to r; returns its sum, and the sum of p over ``token``.

    With ``rest`` = 0 there is no random draft, and r is zero.  On ``token`` r is left as it is.
    """
    small = 0.0 < rest < _SMALL
    scale = 1.0 / rest if rest > 0.0 and not small else 0.0
    total, fixed, first = 0.0, 0.0, 0
    for i in token:
        fixed += p[i]
    # Stretches between the fixed tokens.
    for i in np.append(np.sort(token), p.shape[0]):
        for strip in range(first, i, STRIP):
            subtotal = 0.0
            for begin in range(strip, min(strip + STRIP, i), BLOCK):
                end = min(begin + BLOCK, i)
                if small:
                    subtotal += _block_overlap_divided(p[begin:end], q[begin:end], rest, r[begin:end])
                else:
                    subtotal += _block_overlap(p[begin:end], q[begin:end], scale, r[begin:end])
            total += subtotal
        first = i + 1
    return total, fixed


@njit(**STEP, fastmath=SUMS)
def _block_overlap(p, q, scale, r):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(p.shape[0]):
        r[i] = min(p[i], q[i] * scale)
        total += r[i]
    return total


@njit(**STEP)
def _block_overlap_divided(p, q, rest, r):  # type: ignore[no-untyped-def]
    # Never with reordered products: a compiler that may do so multiplies by the reciprocal, which is infinite here.
    total = 0.0
    for i in range(p.shape[0]):
        r[i] = min(p[i], q[i] / rest)
        total += r[i]
    return total
