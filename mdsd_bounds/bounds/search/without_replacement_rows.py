"""Rows without replacement before the search: room for it, the largest tokens, rows that need no search."""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.bounds.search.exponential_race_kernel import COLUMNS
from mdsd_bounds.bounds.search.outer_approximation_kernel import UNIT
from mdsd_bounds.bounds.search.ratio_cells import BLOCK, CELLS, block_facts, largest, outside_largest, room_for_tokens
from mdsd_bounds.bounds.search.records import Best, Cells, Nodes, Runs, Space, Spans, Top

#: Nodes above which a row goes to the prefix scan, and the smallest mass outside the largest tokens.
NODES = 768
_SMALLEST_MASS = 2.0**-200
_LEAST_SHARE = 5e-324
#: Quantities kept per cell besides ``mass``: higher powers of medium tokens, then number, mass and odds of heavy ones.
HEAVY, HEAVY_MASS, HEAVY_ODDS, EXTRAS = 5, 6, 7, 8


@njit(**STEP)
def _exhausted(row, d, answers):  # type: ignore[no-untyped-def]
    """Every token of the support is drafted: H is all of them."""
    everything, tokens, b = 0.0, 0, row.place
    for i in range(row.q.shape[0]):
        if row.q[i] > 0.0:
            everything += row.p[i]
            tokens += 1
    answers.best[d, b], answers.low[d, b] = everything - 1.0, everything - 1.0
    answers.ratio[d, b], answers.size[d, b] = np.inf, tokens


@njit(**STEP)
def largest_tokens(q, bits, fixed_count, top):  # type: ignore[no-untyped-def]
    """Largest tokens, and the share outside the i largest not fixed; returns the number fixed and the mass left."""
    sums, peak_bits, peaks, value, index, outside, fixed, spare = top
    block_facts(q, bits, sums, peak_bits)
    for k in range(peaks.shape[0]):
        peaks[k] = peak_bits.view(np.float64)[k]
    positive = largest(q, bits, peak_bits, value, index)
    outside_largest(q, sums, value, index, outside)
    held = min(fixed_count, positive)
    for k in range(held):
        fixed[k] = index[k]
    total = outside[held]
    # From the size of the support on nothing is left outside.
    for i in range(spare.shape[0]):
        some = held + i <= positive and outside[held + i] > 0.0
        # A share that underflows is still a share: the row is not exhausted, and goes to the scan.
        spare[i] = max(outside[held + i] / total, _LEAST_SHARE) if some else 0.0
    return held, total


def room_for(width: int, number: int, fixed: int, most: int) -> Space:
    """Room for rows of ``width`` tokens and ``number`` numbers of draws up to ``most`` beside ``fixed`` tokens."""
    wide, blocks, held = max(width, CELLS) + 2, -(-width // BLOCK), fixed + most
    top = Top(
        np.empty(blocks), np.empty(blocks, np.int64), np.empty(blocks), np.empty(held), np.empty(held, np.int64),
        np.empty(held + 1), np.empty(fixed, np.int64), np.empty(most + 1),
    )  # fmt: skip
    cells = Cells(
        np.empty((CELLS, 4)), np.zeros((CELLS, 4)), np.zeros((CELLS, EXTRAS)), np.empty(width, np.uint16),
        np.empty(CELLS, np.int64), np.empty(CELLS, np.int64), np.empty(CELLS + 1, np.int64), np.zeros(CELLS, np.uint8),
        np.empty(CELLS), np.empty(CELLS),
    )  # fmt: skip
    none = np.empty((1, 1), np.int64)
    stack = Spans(np.empty((wide, 2), np.int64), np.empty((wide, number)), np.empty((wide, number)))
    opened = Spans(np.empty((CELLS, 1), np.int64), np.empty((CELLS, number)), np.empty((CELLS, number)))
    ends = Spans(none, np.zeros((1, number)), np.empty((1, number)))
    nothing = Spans(none, np.empty((1, number)), np.empty((1, number)))
    best = Best(np.empty(number), np.empty(number), np.empty(number, np.int64))
    runs = Runs(
        np.empty((CELLS + 1, COLUMNS)), np.empty(CELLS + 1, np.int64), np.empty((wide, COLUMNS)),
        np.empty(wide, np.int64), stack, opened, ends, nothing, best, np.empty(number), np.empty(number, np.int64),
        np.empty(number, np.int64),
    )  # fmt: skip
    nodes = Nodes(np.empty(NODES), np.empty((2 * most + 1, NODES)), np.empty(wide), np.empty(wide))
    return Space(top, cells, room_for_tokens(width), runs, nodes, np.empty(100_000))


@njit(**STEP)
def before_search(row, asked, spare, answers):  # type: ignore[no-untyped-def]
    """Answers that need no search; returns how many numbers of draws are left for one (0: none, or an unusable row)."""
    b, total, draws, number = row.place, row.total, asked.draws, asked.draws.shape[0]
    left = number if total > 0.0 else 0
    while left > 0 and spare[draws[left - 1]] == 0.0:
        left -= 1
    usable = total == 0.0 or total >= _SMALLEST_MASS
    if left > 0:
        usable &= spare[draws[left - 1] - 1] >= _SMALLEST_MASS
    for d in range(number):
        answers.usable[d, b], answers.error[d, b] = usable, 2.0 * row.q.shape[0] * UNIT
        answers.scale[d, b] = row.scale
        # Where nothing is left to draw, A is certainly drafted.
        answers.best[d, b], answers.low[d, b], answers.size[d, b] = row.held - 1.0, row.held - 1.0, row.fixed.shape[0]
        if d >= left and total > 0.0:
            _exhausted(row, d, answers)
    return left if usable else 0
