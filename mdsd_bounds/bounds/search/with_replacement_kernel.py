"""Compiled searches that need no quadrature: draws with replacement, greedy, fixed tokens only.

The proofs are in :mod:`mdsd_bounds.bounds.search.compiled_search`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, STRIP, SUMS
from mdsd_bounds.bounds.search.ratio_cells import (
    BLOCK,
    CELLS,
    add_two,
    block_facts,
    cell_numbers,
    count_below,
    crossing_bound,
    group_by_cell,
    largest,
    last_cell,
    outside_largest,
    ratios,
    room_for_tokens,
    sort_by_ratio,
    tokens_in,
)
from mdsd_bounds.bounds.search.records import Edges, Room


@njit(**STEP)
def _power(x, n):  # type: ignore[no-untyped-def]
    result = 1.0
    while n > 0:
        if n & 1:
            result *= x
        x *= x
        n >>= 1
    return result


def room_for(width: int, number: int) -> Room:
    """Room for rows of ``width`` tokens and ``number`` numbers of draws."""
    target, inside, drop, value, power = (np.empty(CELLS + 1) for _ in range(5))
    edges = Edges(target, inside, drop, value, power, np.empty(CELLS, np.int64))
    return Room(
        np.empty((CELLS, 2)), np.empty((CELLS, 2)), np.empty(width, np.uint16), np.empty(CELLS, np.int64),
        np.empty(CELLS + 1, np.int64), edges, np.zeros(CELLS, np.uint8), np.empty((number, CELLS), np.uint8),
        room_for_tokens(width),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def with_replacement(p, q, counts, edge, tolerance, rows, room, answers):  # type: ignore[no-untyped-def]
    """Rows ``rows[0]`` to ``rows[1]``: ``min over prefixes of P(H) - q(H)^n`` for every n in ``counts``.

    Fills of :class:`.records.Answers` ``best`` (the smallest value found), ``low`` (a lower bound of all), the prefix
    by its last ``(ratio, token)`` (token -1: all smaller ratios) and its number of tokens.
    """
    best, low, ratio_at, token_at, size = answers.best, answers.low, answers.ratio, answers.token, answers.size
    mass, other, cell, rank, begin, edges, wanted, is_open, tokens = room
    token, grouped, spare_token, ratio, spare_ratio, place, w, _ = tokens
    name, target, inside, number = edges.name, edges.target, edges.inside, counts.shape[0]
    whole, extra = np.empty(number, np.int64), np.empty(number, np.int64)
    # A margin for rows that sum to one only up to rounding.
    most = 1
    for d in range(number):
        most = max(most, counts[d])
    never = last_cell(edge, most * 1.001)
    for b in range(rows[0], rows[1]):
        row_p, row_q = p[b], q[b]
        _histogram(row_p, row_q, edge[never], never, w, cell, mass, other)
        cells, total = _sum_cells(mass, never, edge, rank, edges)
        flagged, held_power = False, 0
        for d in range(number):
            held_power = _raise(edges, cells, held_power, counts[d])
            best[d, b], low[d, b], whole[d] = _scan_cells(edges, cells, total, tolerance, edge, is_open[d])
            ratio_at[d, b], token_at[d, b], extra[d] = edge[whole[d]], -1, 0
            for j in range(cells):
                wanted[name[j]] |= is_open[d, j]
                flagged |= is_open[d, j] > 0
        if flagged:
            many = tokens_in(cell, wanted, token)
            group_by_cell(cell, rank, cells, token, many, begin, grouped, place)
        for j in range(cells if flagged else 0):
            if not wanted[name[j]]:
                continue
            wanted[name[j]] = 0
            part, part_ratio = grouped[begin[j] : begin[j + 1]], ratio[: begin[j + 1] - begin[j]]
            for i in range(part.shape[0]):
                part_ratio[i] = row_p[part[i]] / row_q[part[i]]
            sort_by_ratio(part_ratio, part, spare_ratio, spare_token, place)
            held, x = target[j], inside[j]
            for i in range(part.shape[0]):
                held += row_p[part[i]]
                x += row_q[part[i]] / total
                for d in range(number):
                    if is_open[d, j]:
                        now = held - _power(x, counts[d])
                        if now < best[d, b]:
                            best[d, b], ratio_at[d, b], token_at[d, b] = now, part_ratio[i], part[i]
                            whole[d], extra[d] = name[j], i + 1
        for d in range(number):
            low[d, b] = min(low[d, b], best[d, b])
            size[d, b] = count_below(cell, whole[d]) + extra[d]


@njit(**STEP)
def _sum_cells(mass, never, edge, rank, edges):  # type: ignore[no-untyped-def]
    """Fills the edges between the cells that hold anything; returns the number of cells and the total of q."""
    target, inside, drop, name = edges.target, edges.inside, edges.drop, edges.name
    cells = 0
    target[0], inside[0] = 0.0, 0.0
    for k in range(never):
        if mass[k, 1] > 0.0:
            name[cells], rank[k] = k, cells
            target[cells + 1] = target[cells] + mass[k, 0]
            inside[cells + 1] = inside[cells] + mass[k, 1]
            # P - Q falls by less than this inside the cell.
            drop[cells] = 1.001 * mass[k, 1] * (edge[k + 1] - edge[k])
            cells += 1
    total = inside[cells] + mass[never, 1]
    for j in range(cells + 1):
        inside[j] /= total
    return cells, total


@njit(**STEP)
def _raise(edges, cells, held, n):  # type: ignore[no-untyped-def]
    """Bring ``power``, ``inside`` to the power of ``held`` (0: nothing yet), to the power of n; returns n."""
    power, inside = edges.power[: cells + 1], edges.inside[: cells + 1]
    if held == 0 or held > n:
        held = 1
        for j in range(cells + 1):
            power[j] = inside[j]
    # One product after another, over all edges at once: numbers of drafts that follow one another share them.
    while held < n:
        held += 1
        for j in range(cells + 1):
            power[j] *= inside[j]
    return n


@njit(**STEP)
def _scan_cells(edges, cells, total, tolerance, edge, is_open):  # type: ignore[no-untyped-def]
    """Best edge between cells, a lower bound over all cells that stay closed, and how many cells the best edge holds.

    Opens the cells whose chord and kink leave room for less than the best edge minus ``tolerance``.
    """
    target, inside, drop, value, power, name = edges
    found, best = 0.0, 0
    for j in range(cells + 1):
        value[j] = target[j] - power[j]
    for j in range(cells + 1):
        if value[j] < found:
            found, best = value[j], j
    lowest = found
    for j in range(cells):
        is_open[j] = 0
        if value[j] - drop[j] >= lowest:
            continue
        span, rise = inside[j + 1] - inside[j], target[j + 1] - target[j]
        slope = (value[j] - value[j + 1] + rise) / span if span > 0.0 else 0.0
        # Edges are ratios to q as given, slopes are to q / total.
        bound = crossing_bound(value[j], slope, rise, span, edge[name[j]] * total, edge[name[j] + 1] * total)
        if bound < found - tolerance:
            is_open[j] = 1
        elif bound < lowest:
            lowest = bound
    return found, lowest, name[best - 1] + 1 if best else 0


@njit(**STEP)
def _histogram(p, q, top, never, w, cell, mass, other):  # type: ignore[no-untyped-def]
    for k in range(never + 1):
        mass[k, 0], mass[k, 1], other[k, 0], other[k, 1] = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, p.shape[0], STRIP):
        end = min(begin + STRIP, p.shape[0])
        ratios(p[begin:end], q[begin:end], w, top)
        cell_numbers(w.view(np.int64), cell[begin:end])
        add_two(p[begin:end], q[begin:end], cell[begin:end], mass, other)
    for k in range(never + 1):
        mass[k, 0] += other[k, 0]
        mass[k, 1] += other[k, 1]


@njit(cache=True, nogil=True, error_model="numpy")
def greedy(p, q, fixed, drawn, first, last, token, answers):  # type: ignore[no-untyped-def]
    """Rows ``first`` to ``last``: ``P(A) + sum off A of min(p, r)``, A the ``fixed`` largest q, r = ``scale`` times q.

    ``drawn`` is 1, or 0 for P(A) alone.  ``token`` ``[B, max(fixed)]`` receives the largest tokens; ``size`` counts A
    and the tokens off A with ``p < r``.
    """
    best, scale, size = answers.best, answers.scale, answers.size
    width, number = p.shape[1], fixed.shape[0]
    sums, peaks = np.empty(-(-width // BLOCK)), np.empty(-(-width // BLOCK), np.int64)
    value, outside = np.empty(token.shape[1]), np.empty(token.shape[1] + 1)
    bits = q.view(np.int64)
    for b in range(first, last):
        block_facts(q[b], bits[b], sums, peaks)
        held = largest(q[b], bits[b], peaks, value, token[b])
        outside_largest(q[b], sums, value, token[b], outside)
        for d in range(number):
            m = min(fixed[d], held)
            scale[d, b] = 1.0 / outside[m] if drawn[d] and outside[m] > 0.0 else 0.0
            best[d, b], size[d, b] = 0.0, m
        _overlaps(p[b], q[b], scale[:, b], best[:, b], size[:, b])
        for d in range(number):
            for k in range(min(fixed[d], held)):
                x, r = p[b, token[b, k]], q[b, token[b, k]] * scale[d, b]
                best[d, b] += x - min(x, r)
                size[d, b] -= x < r


@njit(**STEP)
def _overlaps(p, q, scale, total, hits):  # type: ignore[no-untyped-def]
    """Add ``sum min(p, s q)`` and the number of tokens with ``p < s q`` for every s in ``scale``; zero adds nothing."""
    last = scale.shape[0] - 1
    for begin in range(0, p.shape[0], STRIP):
        part_p, part_q = p[begin : begin + STRIP], q[begin : begin + STRIP]
        for d in range(0, scale.shape[0], 2):
            e = min(d + 1, last)
            if scale[d] == 0.0 and scale[e] == 0.0:
                continue
            first, second, hit, other = _two_overlaps(part_p, part_q, scale[d], scale[e])
            total[d] += first
            hits[d] += hit
            if e > d:
                total[e] += second
                hits[e] += other


@njit(**STEP, fastmath=SUMS)
def _two_overlaps(p, q, s, t):  # type: ignore[no-untyped-def]
    """Both sums of a strip for two scales at once: it is read once for two."""
    first, second, hit, other = 0.0, 0.0, np.int64(0), np.int64(0)
    for i in range(p.shape[0]):
        x, y = q[i] * s, q[i] * t
        first += min(p[i], x)
        second += min(p[i], y)
        hit += p[i] < x
        other += p[i] < y
    return first, second, hit, other
