"""Tokens grouped into priority intervals without a sort, compiled.

A group of tokens shares the interval ``[a, b]``, a and b the draft mass before and after it in the order of p/q, and
with it ``G = (b^n - a^n) / (b - a)``.  The exchanges of :mod:`.with_replacement` need no finer order inside a group as
long as it does not *straddle*: all its ratios p/q are at least G, or all are at most G.  So a group that straddles is
split at G, again and again; most groups never do.  Tokens of a wide row first go to cells of nearly equal ratio, 32 per
octave, in one pass, and only the few cells that straddle are looked into.

Every split leaves tokens on both sides.  After :data:`SPLITS_AT_G` splits the middle of the ratios, as floating-point
numbers, takes the place of G: at most 64 more splits then end a group, whatever the ratios.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP

#: Sums run over blocks, over the blocks of a strip, and over strips: the rounding of each level is small.
BLOCK, STRIP = 128, 4096
#: Bits of the fraction of a ratio that are dropped: 2^5 = 32 cells per octave.
SHIFT = 47
#: Smaller ratios than this share cell 1; cell 0 holds those that are zero.
SMALLEST = 2.0**-40
_BASE = int(np.array([SMALLEST]).view(np.int64)[0]) - (1 << SHIFT)
_ZERO = float(np.array([_BASE]).view(np.float64)[0])
#: Ratios that differ by less, relatively, count as equal: at most this much acceptance is lost.
_TIED = 1e-14
SPLITS_AT_G = 8
#: A depth-first search holds one waiting group a level.
_LEVELS = SPLITS_AT_G + 68


class Groups(NamedTuple):
    """Intervals in rising order of priority; entry 0 stands for the tokens that are never drafted.

    ``edge``, ``target`` and ``draft`` ``[M + 1]``: upper end, p-mass and q-mass (normalised) of each; ``number``: the
    interval of a cell, and of the codes that tokens in cells that were split have got instead; ``total``: the sum of q.
    """

    edge: np.ndarray
    target: np.ndarray
    draft: np.ndarray
    number: np.ndarray
    total: float


@njit(**STEP)
def worth_of(below, above, n):  # type: ignore[no-untyped-def]
    """``G = sum over k < n of above^(n-1-k) below^k``."""
    total, power = 0.0, 1.0
    for _ in range(n):
        total = total * above + power
        power *= below
    return total


@njit(cache=True, nogil=True)
def drafted_tokens(q: np.ndarray, most: int) -> np.ndarray:
    """Tokens with q > 0, or none if there are more than ``most``."""
    token, count = np.empty(most, np.int32), 0
    for begin in range(0, q.shape[0], 64):
        part = q[begin : begin + 64]
        peak = 0.0
        for i in range(part.shape[0]):
            peak = max(peak, part[i])
        if not peak > 0.0:
            continue
        for i in range(part.shape[0]):
            if part[i] > 0.0:
                if count == most:
                    return token[:0]
                token[count] = begin + i
                count += 1
    return token[:count]


@njit(cache=True, nogil=True, error_model="numpy")
def group_few(p: np.ndarray, q: np.ndarray, n: int, token: np.ndarray, code: np.ndarray) -> Groups:
    """Groups of the drafted tokens ``token`` (which it reorders), starting from a single one; fills ``code``."""
    size = token.shape[0]
    ratio = np.empty(size)
    for i in range(size):
        ratio[i] = p[token[i]] / q[token[i]]
    total = _facts(p, q, token, ratio)[1]
    groups = Groups(np.zeros(size + 1), np.zeros(size + 1), np.zeros(size + 1), np.empty(0, np.int32), total)
    count = _split(p, q, token, ratio, (n, total, 1.0, 0), groups, code)
    kept: Groups = _first(groups, count)
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def group_many(p: np.ndarray, q: np.ndarray, n: int, code: np.ndarray) -> Groups:
    """Groups of a wide row by cells of its ratios; fills ``code`` ``[V]``."""
    cells = _cell(1.001 * n) + 2
    edge = (_BASE + (np.arange(cells + 1) << SHIFT)).view(np.float64)
    mass = np.zeros((cells + 1, 2))
    _histogram(p, q, edge[cells - 1], code, mass)
    above, total = np.empty(cells), 0.0
    for c in range(cells):
        total += mass[c, 1]
        above[c] = total
    is_open, many, below = np.zeros(cells + 1, np.uint8), 0, 0.0
    for c in range(cells):
        above[c] = min(1.0, above[c] / total)
        worth = worth_of(below, above[c], n) / total
        # Cell 1 reaches down to zero; the ratios of cell 0 are zero and those of the last cell exceed n.
        if 0 < c < cells - 1 and mass[c, 1] > 0.0 and (c == 1 or edge[c] < worth) and worth < edge[c + 1]:
            is_open[c], many = 1, many + 1
        below = above[c]
    token, begin = _tokens_in(code, is_open) if many else (np.empty(0, np.int32), np.zeros(cells + 2, np.int64))
    ratio = np.empty(token.shape[0])
    for i in range(token.shape[0]):
        ratio[i] = p[token[i]] / q[token[i]]
    most = cells + token.shape[0] + 1
    groups = Groups(np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(cells + 1 + most, np.int32), total)
    for k in range(most):
        groups.number[cells + 1 + k] = k
    count = 0
    for c in range(cells):
        if is_open[c]:
            part = slice(begin[c], begin[c + 1])
            count = _split(p, q, token[part], ratio[part], (n, total, above[c], count), groups, code)
            for i in range(begin[c], begin[c + 1]):
                code[token[i]] += cells + 1
        elif mass[c, 1] > 0.0:
            count += 1
            groups.edge[count], groups.target[count], groups.draft[count] = above[c], mass[c, 0], mass[c, 1] / total
            groups.number[c] = count
    kept: Groups = _first(groups, count)
    return kept


@njit(**STEP)
def _first(groups, count):  # type: ignore[no-untyped-def]
    kept = count + 1
    return Groups(groups.edge[:kept], groups.target[:kept], groups.draft[:kept], groups.number, groups.total)


@njit(**STEP)
def _cell(ratio):  # type: ignore[no-untyped-def]
    """The first cell all of whose ratios are at least ``ratio``."""
    return ((np.array([ratio]).view(np.int64)[0] - _BASE) >> SHIFT) + 1


@njit(**STEP)
def _histogram(p, q, top, code, mass):  # type: ignore[no-untyped-def]
    """Write the cell of every token to ``code`` and add p and q to ``mass`` ``[cells + 1, 2]``.

    Tokens with q = 0 go to the cell after the last, whose masses mean nothing.
    """
    ratio, part = np.empty(STRIP), np.zeros_like(mass)
    bits = ratio.view(np.int64)
    never = _edge(mass.shape[0] - 1)
    for begin in range(0, p.shape[0], STRIP):
        some_p, some_q = p[begin : begin + STRIP], q[begin : begin + STRIP]
        some_code = code[begin : begin + STRIP]
        for i in range(some_p.shape[0]):
            w = some_p[i] / some_q[i]
            w = w if w < top else top
            w = w if w > SMALLEST else SMALLEST
            w = w if some_p[i] > 0.0 else _ZERO
            ratio[i] = w if some_q[i] > 0.0 else never
        for i in range(some_p.shape[0]):
            some_code[i] = np.int32((bits[i] - _BASE) >> SHIFT)
        for i in range(some_p.shape[0]):
            mine = np.uint32(some_code[i])
            part[mine, 0] += some_p[i]
            part[mine, 1] += some_q[i]
        for c in range(mass.shape[0]):
            mass[c, 0] += part[c, 0]
            mass[c, 1] += part[c, 1]
            part[c, 0], part[c, 1] = 0.0, 0.0


@njit(**STEP)
def _edge(cell):  # type: ignore[no-untyped-def]
    return np.array([_BASE + (np.int64(cell) << SHIFT)]).view(np.float64)[0]


@njit(**STEP)
def _tokens_in(code, is_open):  # type: ignore[no-untyped-def]
    """Tokens of the open cells, cell by cell, and where each cell begins."""
    found, count = np.empty(code.shape[0], np.int32), 0
    begin = np.zeros(is_open.shape[0] + 1, np.int64)
    for i in range(code.shape[0]):
        if is_open[np.uint32(code[i])]:
            found[count] = i
            count += 1
            begin[code[i] + 1] += 1
    begin = np.cumsum(begin)
    place, token = begin.copy(), np.empty(count, np.int32)
    for k in range(count):
        c = code[found[k]]
        token[place[c]] = found[k]
        place[c] += 1
    return token, begin


@njit(**STEP)
def _facts(p, q, token, ratio):  # type: ignore[no-untyped-def]
    """p-mass, q-mass, least and largest ratio of some tokens."""
    target, draft, least, most = 0.0, 0.0, np.inf, 0.0
    for begin in range(0, token.shape[0], BLOCK):
        some_p, some_q = 0.0, 0.0
        for i in range(begin, min(begin + BLOCK, token.shape[0])):
            some_p += p[token[i]]
            some_q += q[token[i]]
            least, most = min(least, ratio[i]), max(most, ratio[i])
        target += some_p
        draft += some_q
    return target, draft, least, most


@njit(**STEP)
def _split(p, q, token, ratio, where, groups, code):  # type: ignore[no-untyped-def]
    """Split tokens until no group straddles; appends the groups and returns how many there are now.

    ``where`` is (n, total of q, upper end of the interval, groups there are).
    """
    n, total, upper, count = where
    waiting, real = np.empty((_LEVELS, 3), np.int64), np.empty((_LEVELS, 5))
    waiting[0, 0], waiting[0, 1], waiting[0, 2] = 0, token.shape[0], 0
    real[0, :4], real[0, 4] = _facts(p, q, token, ratio), upper
    held, below = 1, groups.edge[count]
    scratch = np.empty(2)
    while held:
        held -= 1
        begin, end, depth = waiting[held]
        target, draft, least, most, above = real[held]
        worth = worth_of(below, above, n) / total
        if not least < worth * (1.0 - _TIED) or not worth * (1.0 + _TIED) < most:
            count += 1
            groups.edge[count], groups.target[count], groups.draft[count] = above, target, draft / total
            for i in range(begin, end):
                code[token[i]] = count
            below = above
            continue
        if depth >= SPLITS_AT_G:
            scratch[0], scratch[1] = least, most
            bits = scratch.view(np.int64)
            bits[0] += (bits[1] - bits[0] + 1) // 2
            worth = scratch[0]
        middle = begin + _partition(token[begin:end], ratio[begin:end], worth)
        # The upper part waits below the lower one.
        for first, last in ((middle, end), (begin, middle)):
            waiting[held, 0], waiting[held, 1], waiting[held, 2] = first, last, depth + 1
            real[held, :4] = _facts(p, q, token[first:last], ratio[first:last])
            real[held, 4] = above
            held += 1
        real[held - 1, 4] = min(above, below + real[held - 1, 1] / total)
    return count


@njit(**STEP)
def _partition(token, ratio, split):  # type: ignore[no-untyped-def]
    """Bring the tokens with ratios below ``split`` to the front; returns how many."""
    i, j = 0, token.shape[0] - 1
    while True:
        while i <= j and ratio[i] < split:
            i += 1
        while i <= j and not ratio[j] < split:
            j -= 1
        if i > j:
            return i
        token[i], token[j] = token[j], token[i]
        ratio[i], ratio[j] = ratio[j], ratio[i]
