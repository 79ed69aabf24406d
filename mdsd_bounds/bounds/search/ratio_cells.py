"""Compiled steps shared by the fast searches: block sums, the largest entries, cells of the ratio p/q, sorting.

A *cell* holds the tokens whose ratio lies in ``[edge_k, edge_{k+1})``, with 128 edges per octave: the cell number is
the exponent and the first seven bits of the fraction of the float64 ratio, so finding it takes one subtraction and one
shift.  Cell 0 holds all ratios below ``2^-36`` as well; the last one every token that cannot be in the minimising
subset (ratio at or above the cut-off, or q = 0).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, STRIP, SUMS
from mdsd_bounds.bounds.search.records import Tokens

#: Tokens of one block of sums.
BLOCK = 512
#: Bits of the fraction dropped: 2^7 = 128 cells per octave.
SHIFT = 45
SMALLEST = 2.0**-36
#: Most cells: indices are kept in the lower 15 of 16 bits.
CELLS = 1 << 15
#: The lowest and the highest bit of each quarter of a word, where the latter is, and words whose counts fit a quarter.
_ONES, _HIGHS, _TOP, _LANE = np.uint64(0x0001000100010001), np.uint64(0x8000800080008000), np.uint64(15), 1 << 15


def _cell_base() -> int:
    """Bits of the smallest edge as an integer."""
    return int(np.array([SMALLEST]).view(np.int64)[0])


_BASE = _cell_base()


@njit(**STEP, fastmath=SUMS)
def block_facts(x, bits, sums, peaks):  # type: ignore[no-untyped-def]
    """Sum and largest entry (as bits: positive floats are ordered like integers) of every block of 512."""
    for b in range(sums.shape[0]):
        part = x[b * BLOCK : (b + 1) * BLOCK]
        part_bits = bits[b * BLOCK : (b + 1) * BLOCK]
        total, peak = 0.0, np.int64(0)
        for i in range(part.shape[0]):
            total += part[i]
            peak = max(peak, part_bits[i])
        sums[b] = total
        peaks[b] = peak


@njit(**STEP)
def largest(x, bits, peaks, value, index):  # type: ignore[no-untyped-def]
    """The ``len(value)`` largest entries in falling order, lowest index first among equals; returns how many exceed 0.

    Only blocks whose peak exceeds the smallest of those held are looked into.
    """
    many, held = value.shape[0], 0
    for k in range(many):
        value[k], index[k] = 0.0, -1
    if many == 0:
        return 0
    floor = np.int64(0)
    for b in range(peaks.shape[0]):
        if peaks[b] <= floor:
            continue
        stop = min((b + 1) * BLOCK, x.shape[0])
        for i in range(b * BLOCK, stop):
            if bits[i] > floor:
                k = min(held, many - 1)
                while k > 0 and value[k - 1] < x[i]:
                    value[k], index[k] = value[k - 1], index[k - 1]
                    k -= 1
                value[k], index[k] = x[i], i
                held = min(held + 1, many)
                if held == many:
                    floor = bits[index[many - 1]]
    return held


@njit(**STEP, fastmath=SUMS)
def _block_without(x, start, stop, index):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(start, stop):
        skip = False
        for k in range(index.shape[0]):
            skip |= index[k] == i
        total += 0.0 if skip else x[i]
    return total


@njit(**STEP)
def outside_largest(x, sums, value, index, outside):  # type: ignore[no-untyped-def]
    """``outside[i]``, i = 0 .. len(value): mass outside the i largest entries.

    Blocks that hold one of them are added up again without them: one minus what was taken would cancel on peaked rows.
    """
    many = value.shape[0]
    total = 0.0
    for b in range(sums.shape[0]):
        start, stop = b * BLOCK, min((b + 1) * BLOCK, x.shape[0])
        holds = False
        for k in range(many):
            holds |= start <= index[k] < stop
        total += _block_without(x, start, stop, index) if holds else sums[b]
    outside[many] = total
    for k in range(many - 1, -1, -1):
        outside[k] = outside[k + 1] + value[k]


@njit(**STEP)
def ratios(p, rate, w, top):  # type: ignore[no-untyped-def]
    """``p / rate`` cut to [2^-36, top]; 0/0 becomes ``top``."""
    for i in range(p.shape[0]):
        r = p[i] / rate[i]
        r = r if r < top else top
        w[i] = r if r > SMALLEST else SMALLEST


@njit(**STEP)
def cell_numbers(bits, cell):  # type: ignore[no-untyped-def]
    """Cells of ratios given as bits."""
    for i in range(cell.shape[0]):
        cell[i] = np.uint16((bits[i] - _BASE) >> SHIFT)


@njit(**STEP)
def add_two(p, rate, cell, mass, other):  # type: ignore[no-untyped-def]
    """Add p and q to ``mass[cell]`` and, of every second token, to ``other[cell]``.

    Tokens that follow one another are often in one cell, that of the ratios that are too large: each would wait for the
    one before.
    """
    even = p.shape[0] // 2 * 2
    for i in range(0, even, 2):
        k, j = np.uint32(cell[i]), np.uint32(cell[i + 1])
        mass[k, 0] += p[i]
        mass[k, 1] += rate[i]
        other[j, 0] += p[i + 1]
        other[j, 1] += rate[i + 1]
    for i in range(even, p.shape[0]):
        k = np.uint32(cell[i])
        mass[k, 0] += p[i]
        mass[k, 1] += rate[i]


def cell_edges() -> np.ndarray:
    """``[CELLS + 1]``: smallest ratio of each cell; cell 0 reaches down to 0."""
    edge: np.ndarray = (_BASE + (np.arange(CELLS + 1, dtype=np.int64) << SHIFT)).view(np.float64)
    edge[0] = 0.0
    return edge


def room_for_tokens(width: int) -> Tokens:
    """Room for listed and sorted tokens of rows of this width."""
    wide = max(width, CELLS) + 2
    return Tokens(
        np.empty(wide, np.int64), np.empty(wide, np.int64), np.empty(wide, np.int64), np.empty(wide), np.empty(wide),
        np.empty(wide, np.int64), np.empty(STRIP), np.empty(STRIP),
    )  # fmt: skip


@njit(**STEP)
def last_cell(edge, cutoff):  # type: ignore[no-untyped-def]
    """The first cell all of whose ratios are at least ``cutoff``."""
    first, stop = 1, CELLS - 1
    while first < stop:
        middle = (first + stop) // 2
        if edge[middle] < cutoff:
            first = middle + 1
        else:
            stop = middle
    return first


@njit(**STEP)
def crossing_bound(at_left, slope, rise, width, w_low, w_high):  # type: ignore[no-untyped-def]
    """Lower bound of P - chord inside a cell of p-mass ``rise`` and q-mass ``width``; infinite if an end is lowest.

    ``at_left`` is ``P - chord`` at the cell's left end.  P is convex with slopes in [w_low, w_high], so its lowest
    shape is a kink; the bound is the value there.
    """
    if not w_low < slope < w_high:
        return np.inf
    kink = min(max((w_high * width - rise) / (w_high - w_low), 0.0), width)
    return at_left + kink * (w_low - slope)


@njit(**STEP)
def count_below(cell, k):  # type: ignore[no-untyped-def]
    """Number of tokens in cells before cell k.

    Four cells stand in one word: none has the highest of its 16 bits, so that a word with all of these bits set may
    lose k in each of its quarters at once, and a quarter that keeps the bit was not below k.
    """
    words = cell[: cell.shape[0] // 4 * 4].view(np.uint64)
    each, total = np.uint64(k) * _ONES, np.int64(0)
    for start in range(0, words.shape[0], _LANE):
        part, lanes = words[start : start + _LANE], np.uint64(0)
        for i in range(part.shape[0]):
            lanes += (~((part[i] | _HIGHS) - each) >> _TOP) & _ONES
        for quarter in range(4):
            total += np.int64((lanes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF))
    for i in range(4 * words.shape[0], cell.shape[0]):
        total += cell[i] < k
    return total


@njit(**STEP)
def tokens_in(cell, wanted, token):  # type: ignore[no-untyped-def]
    """Indices of the tokens in cells with ``wanted[cell] = 1``, rising; returns how many.  ``token`` holds V + 1."""
    count = 0
    for i in range(cell.shape[0]):
        token[count] = i
        count += wanted[np.uint32(cell[i])]
    return count


@njit(**STEP)
def _insertion(ratio, token, begin, end):  # type: ignore[no-untyped-def]
    for i in range(begin + 1, end):
        r, t = ratio[i], token[i]
        k = i
        while k > begin and ratio[k - 1] > r:
            ratio[k], token[k] = ratio[k - 1], token[k - 1]
            k -= 1
        ratio[k], token[k] = r, t


@njit(**STEP)
def _heap(ratio, token, begin, end):  # type: ignore[no-untyped-def]
    """Heap sort by (ratio, token): never slow, and no order needs to be kept since no two tokens are equal."""
    many = end - begin
    for turn in range(many // 2 - 1, -many, -1):
        root, size = turn, many
        if turn < 0:
            size = many + turn
            ratio[begin], ratio[begin + size] = ratio[begin + size], ratio[begin]
            token[begin], token[begin + size] = token[begin + size], token[begin]
            root = 0
        while 2 * root + 1 < size:
            child = 2 * root + 1
            if child + 1 < size:
                x, y = begin + child, begin + child + 1
                if ratio[x] < ratio[y] or (ratio[x] == ratio[y] and token[x] < token[y]):
                    child += 1
            x, y = begin + root, begin + child
            if not (ratio[x] < ratio[y] or (ratio[x] == ratio[y] and token[x] < token[y])):
                break
            ratio[x], ratio[y] = ratio[y], ratio[x]
            token[x], token[y] = token[y], token[x]
            root = child


@njit(**STEP)
def sort_by_ratio(ratio, token, spare_ratio, spare_token, start):  # type: ignore[no-untyped-def]
    """Sort tokens by ratio in place, lower index first among equals (they come in rising order of index).

    One counting pass into as many equal stretches of ratio as there are tokens, then each stretch by itself: linear
    unless the ratios are bunched, and then a heap sort of the bunch.
    """
    many = ratio.shape[0]
    if many <= 24:
        _insertion(ratio, token, 0, many)
        return
    low, high = ratio[0], ratio[0]
    for i in range(many):
        low, high = min(low, ratio[i]), max(high, ratio[i])
    if not high > low:
        return
    scale = (many - 1) / (high - low)
    if not np.isfinite(scale):
        _heap(ratio, token, 0, many)
        return
    for k in range(many + 1):
        start[k] = 0
    for i in range(many):
        start[min(int((ratio[i] - low) * scale), many - 1) + 1] += 1
    for k in range(many):
        start[k + 1] += start[k]
    for i in range(many):
        k = min(int((ratio[i] - low) * scale), many - 1)
        spare_ratio[start[k]], spare_token[start[k]] = ratio[i], token[i]
        start[k] += 1
    # Now start[k] is the end of stretch k.
    begin = 0
    for k in range(many):
        end = start[k]
        if end - begin > 24:
            _heap(spare_ratio, spare_token, begin, end)
        elif end - begin > 1:
            _insertion(spare_ratio, spare_token, begin, end)
        begin = end
    for i in range(many):
        ratio[i], token[i] = spare_ratio[i], spare_token[i]


@njit(**STEP)
def group_by_cell(cell, rank, groups, token, many, begin, grouped, place):  # type: ignore[no-untyped-def]
    """Counting sort of ``many`` tokens by ``rank[cell]``; group g is ``grouped[begin[g]:begin[g + 1]]``, order kept."""
    begin[: groups + 1] = 0
    for i in range(many):
        begin[rank[np.uint32(cell[token[i]])] + 1] += 1
    for g in range(groups):
        begin[g + 1] += begin[g]
        place[g] = begin[g]
    for i in range(many):
        g = rank[np.uint32(cell[token[i]])]
        grouped[place[g]] = token[i]
        place[g] += 1


@njit(**STEP)
def add_four(p, rate, cell, mass, scale):  # type: ignore[no-untyped-def]
    """Add p and the first three powers of ``scale`` times q to ``mass[cell]``."""
    for i in range(p.shape[0]):
        k = np.uint32(cell[i])
        y = rate[i] * scale
        square = y * y
        mass[k, 0] += p[i]
        mass[k, 1] += y
        mass[k, 2] += square
        mass[k, 3] += square * y
