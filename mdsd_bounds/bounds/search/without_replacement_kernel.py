"""Compiled rows without replacement: classes of tokens, cells, the search between cells, the search inside them.

:mod:`mdsd_bounds.bounds.search.compiled_search` and :mod:`mdsd_bounds.bounds.search.exponential_race_kernel` hold the
proofs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, STRIP
from mdsd_bounds.bounds.search.exponential_race_kernel import (
    COLUMNS,
    INSIDE,
    ODDS,
    OUTSIDE,
    POWERS,
    TARGET,
    evaluate,
    heavy_table,
)
from mdsd_bounds.bounds.search.outer_approximation_kernel import node_range, search, truncation
from mdsd_bounds.bounds.search.power_sums import ORDER
from mdsd_bounds.bounds.search.ratio_cells import (
    BLOCK,
    CELLS,
    add_four,
    block_facts,
    cell_numbers,
    count_below,
    group_by_cell,
    largest,
    last_cell,
    outside_largest,
    ratios,
    sort_by_ratio,
    tokens_in,
)

#: Tokens with ``q T`` above this are heavy; up to the second they keep three powers.
LIGHT = 0.25
LEAST = 1e-3
#: Truncation error above which the classes are moved and the row is read again.
TRUNCATION = 3e-10
#: Nodes and table entries above which a row goes to the prefix scan, and the smallest mass outside the largest tokens.
NODES = 768
TABLE = 6_000_000
SMALLEST_MASS = 2.0**-200
LEAST_SHARE = 5e-324
UNIT = 2.0**-53
#: Quantities kept per cell besides ``mass``: higher powers of medium tokens, then number, mass and odds of heavy ones.
HEAVY, HEAVY_MASS, HEAVY_ODDS, EXTRAS = 5, 6, 7, 8


@njit(**STEP)
def _row_classes(p, q, scale, last, light, least, peaks, fixed, never, top, w, rate, cell, mass, token):  # type: ignore[no-untyped-def]
    """Histogram of one row; lists the tokens with ``q T > least`` and keeps heavy ones out of the power sums."""
    for k in range(never + 1):
        for j in range(4):
            mass[k, j] = 0.0
    listed = 0
    for begin in range(0, p.shape[0], STRIP):
        end = min(begin + STRIP, p.shape[0])
        for i in range(end - begin):
            rate[i] = q[begin + i] * scale
        ratios(p[begin:end], rate, w, top)
        cell_numbers(w.view(np.int64), cell[begin:end])
        for k in range(fixed.shape[0]):
            if begin <= fixed[k] < end:
                cell[fixed[k]] = never
                rate[fixed[k] - begin] = 0.0
        for block in range(begin // BLOCK, -(-end // BLOCK)):
            if peaks[block] * scale * last > least:
                for i in range(block * BLOCK - begin, min((block + 1) * BLOCK, end) - begin):
                    y = rate[i] * last
                    token[listed] = begin + i
                    listed += y > least
                    if y > light:
                        rate[i] = 0.0
        add_four(p[begin:end], rate, cell[begin:end], mass, last)
    return listed


@njit(**STEP)
def _powers_left_out(q, scale, last, light, cell, never, mass, token, listed):  # type: ignore[no-untyped-def]
    """Sums of the eighth powers of the medium tokens and of the cubes of the lightest, in cells that H may hold."""
    eighth, cubes, medium = 0.0, 0.0, 0.0
    for k in range(never):
        cubes += mass[k, 3]
    for i in range(listed):
        y = q[token[i]] * scale * last
        if y <= light and cell[token[i]] != never:
            cube = y * y * y
            eighth += cube * cube * y * y
            medium += cube
    # What the difference may have lost to rounding is added.
    return eighth, max(cubes - medium, 0.0) + 2.0 * q.shape[0] * UNIT * cubes


@njit(**STEP)
def _heavy_tokens(p, q, scale, last, light, largest_token, others, cell, token, listed, extra, ratio, heavy, rate):  # type: ignore[no-untyped-def]
    """Lists the heavy tokens and fills the ``extra`` quantities of the cells; returns how many are heavy."""
    count = 0
    for i in range(listed):
        t = token[i]
        share = q[t] * scale
        y = share * last
        k = np.uint32(cell[t])
        if y > light:
            heavy[count], ratio[count] = t, p[t] / share
            count += 1
            extra[k, HEAVY] += 1.0
            extra[k, HEAVY_MASS] += share
            extra[k, HEAVY_ODDS] += share / (others if t == largest_token else 1.0 - share)
        else:
            value = y * y * y
            for j in range(ORDER - 3):
                value *= y
                extra[k, j] += value
    return count


@njit(**STEP)
def _cell_run(held_before, mass, extra, never, last, edge, name, rank, run, held, w_low, w_high):  # type: ignore[no-untyped-def]
    """The run of edges between the cells that hold anything; returns their number."""
    cells = 0
    held[0] = 0
    for j in range(COLUMNS):
        run[0, j] = 0.0
    run[0, TARGET] = held_before
    for k in range(never):
        if mass[k, 1] > 0.0 or extra[k, HEAVY] > 0.0:
            name[cells], rank[k] = k, cells
            w_low[cells], w_high[cells] = edge[k], edge[k + 1]
            held[cells + 1] = held[cells] + int(extra[k, HEAVY])
            run[cells + 1, TARGET] = run[cells, TARGET] + mass[k, 0]
            run[cells + 1, INSIDE] = run[cells, INSIDE] + (mass[k, 1] / last + extra[k, HEAVY_MASS])
            run[cells + 1, ODDS] = run[cells, ODDS] + extra[k, HEAVY_ODDS]
            for j in range(3):
                run[cells + 1, POWERS + j] = run[cells, POWERS + j] + mass[k, j + 1]
            for j in range(3, ORDER):
                run[cells + 1, POWERS + j] = run[cells, POWERS + j] + extra[k, j - 3]
            cells += 1
    run[cells, OUTSIDE] = mass[never, 1] / last + extra[never, HEAVY_MASS]
    for j in range(cells - 1, -1, -1):
        run[j, OUTSIDE] = run[j + 1, OUTSIDE] + (mass[name[j], 1] / last + extra[name[j], HEAVY_MASS])
    return cells


@njit(**STEP)
def _token_run(p, q, scale, last, light, largest_token, others, token, size, cells, cell_held, j, run, held):  # type: ignore[no-untyped-def]
    """The run of edges between the sorted tokens of cell j."""
    held[0] = cell_held[j]
    for m in range(COLUMNS):
        run[0, m] = cells[j, m]
    for k in range(size):
        share = q[token[k]] * scale
        y = share * last
        held[k + 1] = held[k]
        run[k + 1, TARGET] = run[k, TARGET] + p[token[k]]
        run[k + 1, INSIDE] = run[k, INSIDE] + share
        run[k + 1, ODDS] = run[k, ODDS]
        if y > light:
            held[k + 1] += 1
            run[k + 1, ODDS] += share / (others if token[k] == largest_token else 1.0 - share)
            y = 0.0
        value = y
        for m in range(ORDER):
            run[k + 1, POWERS + m] = run[k, POWERS + m] + value
            value *= y
    run[size, OUTSIDE] = cells[j + 1, OUTSIDE]
    for k in range(size - 1, -1, -1):
        run[k, OUTSIDE] = run[k + 1, OUTSIDE] + q[token[k]] * scale


@njit(**STEP)
def _exhausted(p, q, d, b, best, low, ratio_at, size):  # type: ignore[no-untyped-def]
    """Every token of the support is drafted: H is all of them."""
    everything, tokens = 0.0, 0
    for i in range(q.shape[0]):
        if q[i] > 0.0:
            everything += p[i]
            tokens += 1
    best[d, b], low[d, b], ratio_at[d, b], size[d, b] = everything - 1.0, everything - 1.0, np.inf, tokens


@njit(**STEP)
def _top(q, bits, sums, peak_bits, peaks, fixed_count, value, index, outside, fixed, spare):  # type: ignore[no-untyped-def]
    """Largest tokens, and the share outside the i largest not fixed; returns the number fixed and the mass left."""
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
        spare[i] = max(outside[held + i] / total, LEAST_SHARE) if some else 0.0
    return held, total


@njit(cache=True, nogil=True, error_model="numpy")
def without_replacement(  # type: ignore[no-untyped-def]
    p, q, fixed_count, draws, edge, tolerance, sensitive, right, left, step, cuts, weights, rest,
    first, last_row, best, low, error, ratio_at, token_at, scale_at, size, usable,
):  # fmt: skip
    """Rows ``first`` to ``last_row``: minimum of ``P - Q_n`` with ``fixed_count`` fixed tokens, n = ``draws`` (rising).

    Fills ``best``, ``low``, ``error``, the prefix by its last ``(ratio, token)`` in units of ``scale_at``, its size and
    whether the row could be treated; each ``[N, B]``.
    """
    width, number = p.shape[1], draws.shape[0]
    wide = max(width, CELLS) + 2
    asked_most = draws[number - 1]
    blocks = -(-width // BLOCK)
    sums, peak_bits, peaks = np.empty(blocks), np.empty(blocks, np.int64), np.empty(blocks)
    top_value, top_index = np.empty(fixed_count + asked_most), np.empty(fixed_count + asked_most, np.int64)
    outside_top, spare = np.empty(fixed_count + asked_most + 1), np.empty(asked_most + 1)
    fixed_tokens = np.empty(fixed_count, np.int64)
    mass, extra_of, cell = np.empty((CELLS, 4)), np.zeros((CELLS, EXTRAS)), np.empty(width, np.uint16)
    w, rate = np.empty(STRIP), np.empty(STRIP)
    token, grouped, spare_token = np.empty(wide, np.int64), np.empty(wide, np.int64), np.empty(wide, np.int64)
    ratio, spare_ratio, place = np.empty(wide), np.empty(wide), np.empty(wide, np.int64)
    name, rank, begin = np.empty(CELLS, np.int64), np.empty(CELLS, np.int64), np.empty(CELLS + 1, np.int64)
    wanted, w_low, w_high = np.zeros(CELLS, np.uint8), np.empty(CELLS), np.empty(CELLS)
    run, held = np.empty((CELLS + 1, COLUMNS)), np.empty(CELLS + 1, np.int64)
    token_run, token_held = np.empty((wide, COLUMNS)), np.empty(wide, np.int64)
    stack, stack_left, stack_right = np.empty((wide, 2), np.int64), np.empty((wide, number)), np.empty((wide, number))
    opened, opened_left, opened_right = np.empty(CELLS, np.int64), np.empty((CELLS, number)), np.empty((CELLS, number))
    none, spare_q = np.empty(1, np.int64), np.empty((1, number))
    q_first, q_last, at_end = np.zeros((1, number)), np.empty((1, number)), np.empty(number)
    edge_of, whole, extra = np.empty(number, np.int64), np.empty(number, np.int64), np.empty(number, np.int64)
    times, work = np.empty(NODES), np.empty((2 * asked_most + 1, NODES))
    found, lowest = np.empty(number), np.empty(number)
    table, heavy_rate, beside = np.empty(100_000), np.empty(wide), np.empty(wide)
    bits = q.view(np.int64)
    for b in range(first, last_row):
        row_p, row_q = p[b], q[b]
        held_count, total = _top(
            row_q, bits[b], sums, peak_bits, peaks, fixed_count, top_value, top_index, outside_top, fixed_tokens, spare
        )
        fixed = fixed_tokens[:held_count]
        held_before = 0.0
        for k in range(held_count):
            held_before += row_p[fixed[k]]
        scale = 1.0 / total if total > 0.0 else 0.0
        asked_here = number if total > 0.0 else 0
        while asked_here > 0 and spare[draws[asked_here - 1]] == 0.0:
            asked_here -= 1
        usable_row = total == 0.0 or total >= SMALLEST_MASS
        if asked_here > 0:
            usable_row &= spare[draws[asked_here - 1] - 1] >= SMALLEST_MASS
        for d in range(number):
            usable[d, b], error[d, b], scale_at[d, b] = usable_row, 2.0 * width * UNIT, scale
            # Where nothing is left to draw, A is certainly drafted.
            best[d, b], low[d, b], size[d, b] = held_before - 1.0, held_before - 1.0, held_count
            if d >= asked_here and total > 0.0:
                _exhausted(row_p, row_q, d, b, best, low, ratio_at, size)
        if asked_here == 0 or not usable_row:
            continue
        asked = draws[:asked_here]
        most = asked[asked_here - 1]
        start, nodes = node_range(spare, asked, right, left, step)
        last = 8.0
        usable_row = nodes <= NODES
        if usable_row and nodes > 0:
            for g in range(nodes):
                times[g] = start * math.exp(step * g)
            last = times[nodes - 1]
        slowest = 0.0
        for d in range(asked_here):
            slowest = max(slowest, asked[d] / spare[asked[d] - 1])
        never = last_cell(edge, slowest * 1.001)
        light, least, cut_off = LIGHT, LEAST, np.inf
        listed, tries = 0, 0
        while usable_row and cut_off > TRUNCATION:
            listed = _row_classes(
                row_p, row_q, scale, last, light, least, peaks, fixed, never, edge[never], w, rate, cell, mass, token
            )
            eighth, third = _powers_left_out(row_q, scale, last, light, cell, never, mass, token, listed)
            medium, small = truncation(
                eighth, third, light, least, rest, times[:nodes], last, spare[most - 1], most, step
            )
            cut_off = medium + small
            if cut_off > TRUNCATION:
                light /= 2.0 if medium > TRUNCATION / 2 else 1.0
                least /= 8.0 if small > TRUNCATION / 2 else 1.0
                tries += 1
                usable_row = tries < 12
        heavy = 0
        if usable_row:
            heavy = _heavy_tokens(
                row_p, row_q, scale, last, light, top_index[held_count], spare[1], cell, token, listed, extra_of,
                ratio, grouped, rate,
            )  # fmt: skip
            sort_by_ratio(ratio[:heavy], grouped[:heavy], spare_ratio, spare_token, place)
            usable_row = (heavy + 1) * most * nodes <= TABLE
        if not usable_row:
            for d in range(asked_here):
                usable[d, b] = False
            continue
        cells = _cell_run(held_before, mass, extra_of, never, last, edge, name, rank, run, held, w_low, w_high)
        for i in range(listed):
            for j in range(EXTRAS):
                extra_of[np.uint32(cell[token[i]]), j] = 0.0
        if (heavy + 1) * most * nodes > table.shape[0]:
            table = np.empty((heavy + 1) * most * nodes)
        beside[heavy] = run[cells, POWERS] / last + mass[never, 1] / last
        for i in range(heavy - 1, -1, -1):
            heavy_rate[i] = row_q[grouped[i]] * scale
            beside[i] = beside[i + 1] + heavy_rate[i]
        heavy_table(heavy_rate[:heavy], beside, times[:nodes], step, most, table, work)
        evaluate(run, cells, held[cells], last, times[:nodes], step, weights, table, most, asked, work, at_end)
        for d in range(asked_here):
            q_last[0, d] = at_end[d]
            error[d, b] = cuts + cut_off + 1e-12 + (1.0 + sensitive[d]) * (width + never + 16) * UNIT
            # The fixed tokens alone, or with every cell.
            found[d], edge_of[d] = held_before, 0
            if run[cells, TARGET] - at_end[d] < found[d]:
                found[d], edge_of[d] = run[cells, TARGET] - at_end[d], cells
            lowest[d] = found[d]
        many_opened = search(
            run, held, w_low, w_high, cells, q_first, q_last, 0, last, times[:nodes], step, weights, table, most,
            asked, tolerance, work, stack, stack_left, stack_right, found, lowest, edge_of, opened, opened_left,
            opened_right,
        )  # fmt: skip
        for d in range(asked_here):
            whole[d], extra[d] = name[edge_of[d] - 1] + 1 if edge_of[d] > 0 else 0, 0
            ratio_at[d, b], token_at[d, b] = edge[whole[d]], -1
        for i in range(many_opened):
            wanted[name[opened[i]]] = 1
        many = tokens_in(cell, wanted, token) if many_opened else 0
        group_by_cell(cell, rank, cells, token, many, begin, grouped, place)
        for i in range(many_opened):
            j = opened[i]
            wanted[name[j]] = 0
            here = begin[j + 1] - begin[j]
            part, part_ratio = grouped[begin[j] : begin[j + 1]], ratio[:here]
            for k in range(here):
                part_ratio[k] = row_p[part[k]] / (row_q[part[k]] * scale)
            sort_by_ratio(part_ratio, part, spare_ratio, spare_token, place)
            _token_run(
                row_p, row_q, scale, last, light, top_index[held_count], spare[1], part, here, run, held, j,
                token_run, token_held,
            )  # fmt: skip
            for d in range(asked_here):
                edge_of[d] = 0
            search(
                token_run, token_held, part_ratio, part_ratio, here, opened_left, opened_right, i, last,
                times[:nodes], step, weights, table, most, asked, tolerance, work, stack, stack_left, stack_right,
                found, lowest, edge_of, none, spare_q, spare_q,
            )  # fmt: skip
            for d in range(asked_here):
                if edge_of[d] > 0:
                    whole[d], extra[d] = name[j], edge_of[d]
                    ratio_at[d, b], token_at[d, b] = part_ratio[edge_of[d] - 1], part[edge_of[d] - 1]
        for d in range(asked_here):
            best[d, b], low[d, b] = found[d], min(lowest[d], found[d])
            size[d, b] = held_count + count_below(cell, whole[d]) + extra[d]
