"""Compiled rows without replacement: classes of tokens, cells, the search between cells, the search inside them.

:mod:`mdsd_bounds.bounds.search.compiled_search` and :mod:`mdsd_bounds.bounds.search.exponential_race_kernel` hold the
proofs.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mdsd_bounds._backend.borrowed import borrowed
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
from mdsd_bounds.bounds.search.outer_approximation_kernel import (
    UNIT,
    node_range,
    recurrence_rounding,
    search,
    truncation,
)
from mdsd_bounds.bounds.search.power_sums import ORDER
from mdsd_bounds.bounds.search.ratio_cells import (
    BLOCK,
    add_four,
    cell_numbers,
    count_below,
    group_by_cell,
    last_cell,
    ratios,
    sort_by_ratio,
    tokens_in,
)
from mdsd_bounds.bounds.search.records import Classes, Race, Row, Run
from mdsd_bounds.bounds.search.without_replacement_rows import (
    EXTRAS,
    HEAVY,
    HEAVY_MASS,
    HEAVY_ODDS,
    NODES,
    before_search,
    largest_tokens,
)

#: Tokens with ``q T`` above this are heavy; up to the second they keep three powers.
LIGHT = 0.25
LEAST = 1e-3
#: Truncation error, and error of the recurrence, above which the classes are moved and the row is read again.
TRUNCATION = 3e-10
#: Tokens of a block that are looked at together: few of them are listed.
_GROUP = 16
#: Entries of the table of heavy tokens above which a row goes to the prefix scan.
TABLE = 12_000_000


@njit(**STEP, fastmath={"nnan", "nsz", "reassoc"})
def _largest_rate(rate, start, stop):  # type: ignore[no-untyped-def]
    most = 0.0
    for i in range(start, stop):
        most = max(most, rate[i])
    return most


@njit(**STEP)
def _row_classes(row, classes, last, lot, space):  # type: ignore[no-untyped-def]
    """Histogram of one row; lists the tokens with ``q T > least`` and keeps heavy ones out of the power sums.

    Sums of ``lot`` tokens at a time are made apart and then added up.
    """
    p, q, fixed, scale = row.p, row.q, row.fixed, row.scale
    light, least, never, top = classes
    peaks, cell, mass = space.top.peaks, space.cells.of, space.cells.mass
    token, w, rate = space.tokens.listed, space.tokens.strip_ratio, space.tokens.strip_rate
    whole = lot >= p.shape[0]
    part = mass if whole else space.cells.lot
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
                for start in range(block * BLOCK - begin, min((block + 1) * BLOCK, end) - begin, _GROUP):
                    stop = min(start + _GROUP, end - begin)
                    if _largest_rate(rate, start, stop) * last > least:
                        for i in range(start, stop):
                            y = rate[i] * last
                            token[listed] = begin + i
                            listed += y > least
                            if y > light:
                                rate[i] = 0.0
        add_four(p[begin:end], rate, cell[begin:end], part, last)
        if not whole and (end % lot == 0 or end == p.shape[0]):
            for k in range(never + 1):
                for j in range(4):
                    mass[k, j] += part[k, j]
                    part[k, j] = 0.0
    return listed


@njit(**STEP)
def _powers_left_out(row, classes, last, listed, space):  # type: ignore[no-untyped-def]
    """Sums of the eighth powers of the medium tokens and of the cubes of the lightest, in cells that H may hold.

    Also the sums of the first three powers of both.
    """
    q, scale, light, never = row.q, row.scale, classes.light, classes.never
    cell, mass, token = space.cells.of, space.cells.mass, space.tokens.listed
    eighth, rates, squares, cubes, medium = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(never):
        rates += mass[k, 1]
        squares += mass[k, 2]
        cubes += mass[k, 3]
    for i in range(listed):
        y = q[token[i]] * scale * last
        if y <= light and cell[token[i]] != never:
            cube = y * y * y
            eighth += cube * cube * y * y
            medium += cube
    # What the difference may have lost to rounding is added.
    return eighth, max(cubes - medium, 0.0) + 2.0 * q.shape[0] * UNIT * cubes, (rates, squares, cubes)


@njit(**STEP)
def _heavy_tokens(row, light, last, listed, space):  # type: ignore[no-untyped-def]
    """Lists the heavy tokens by ratio and fills the ``extra`` quantities of the cells; returns how many are heavy."""
    p, q, scale, largest_token, others = row.p, row.q, row.scale, row.largest, row.others
    cell, extra = space.cells.of, space.cells.extra
    token, ratio, heavy = space.tokens.listed, space.tokens.ratio, space.tokens.grouped
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
    sort_by_ratio(ratio[:count], heavy[:count], space.tokens.spare_ratio, space.tokens.spare, space.tokens.place)
    return count


@njit(**STEP)
def _cell_run(held_before, never, last, edge, space):  # type: ignore[no-untyped-def]
    """The run of edges between the cells that hold anything; returns their number."""
    mass, extra, name, rank = space.cells.mass, space.cells.extra, space.cells.name, space.cells.rank
    w_low, w_high = space.cells.low, space.cells.high
    run, held = space.runs.cells, space.runs.cells_held
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
def _token_run(row, light, last, token, j, runs):  # type: ignore[no-untyped-def]
    """The run of edges between the sorted tokens of cell j."""
    p, q, scale, largest_token, others = row.p, row.q, row.scale, row.largest, row.others
    cells, cell_held, run, held, size = runs.cells, runs.cells_held, runs.tokens, runs.tokens_held, token.shape[0]
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
def _classify(row, race, never, asked, rest, space):  # type: ignore[no-untyped-def]
    """Classes fine enough for :data:`TRUNCATION`: them, the number of listed tokens, and the errors they leave."""
    light, least, cut_off, rounding, listed = LIGHT, LEAST, np.inf, np.inf, 0
    rate = space.top.spare[race.most - 1]
    classes = Classes(light, least, never, asked.edge[never])
    for _ in range(12):
        classes = Classes(light, least, never, asked.edge[never])
        listed = _row_classes(row, classes, race.last, asked.lot, space)
        eighth, third, sums = _powers_left_out(row, classes, race.last, listed, space)
        medium, small = truncation(eighth, third, classes, rest, race, rate)
        cut_off, rounding = medium + small, recurrence_rounding(sums, light, rest, race)
        if not max(cut_off, rounding) > TRUNCATION:
            break
        light /= 2.0 if medium > TRUNCATION / 2 or rounding > TRUNCATION else 1.0
        least /= 8.0 if small > TRUNCATION / 2 else 1.0
    return classes, listed, cut_off, rounding


@njit(**STEP)
def _fill_table(row, race, heavy, light_outside, space):  # type: ignore[no-untyped-def]
    """The table of heavy tokens, which stand sorted in ``space.tokens.grouped``."""
    rate, beside, token = space.nodes.heavy_rate, space.nodes.beside, space.tokens.grouped
    beside[heavy] = light_outside
    for i in range(heavy - 1, -1, -1):
        rate[i] = row.q[token[i]] * row.scale
        beside[i] = beside[i + 1] + rate[i]
    heavy_table(rate[:heavy], beside, race.times, race.step, race.most, race.table, race.work)


@njit(**STEP)
def _search_cells(row, race, cells, asked, space, answers):  # type: ignore[no-untyped-def]
    """The search between cells; returns how many it leaves open, with the best prefix of whole cells noted."""
    runs, name, best = space.runs, space.cells.name, space.runs.best
    evaluate(runs.cells, cells, runs.cells_held[cells], race, runs.at_end)
    for d in range(race.draws.shape[0]):
        runs.ends.right[0, d] = runs.at_end[d]
        # The fixed tokens alone, or with every cell.
        best.value[d], best.edge[d] = row.held, 0
        if runs.cells[cells, TARGET] - runs.at_end[d] < best.value[d]:
            best.value[d], best.edge[d] = runs.cells[cells, TARGET] - runs.at_end[d], cells
        best.low[d] = best.value[d]
    run = Run(runs.cells, runs.cells_held, space.cells.low, space.cells.high, cells)
    many = search(run, runs.ends, 0, race, asked.tolerance, runs.stack, best, runs.opened)
    for d in range(race.draws.shape[0]):
        runs.whole[d], runs.more[d] = name[best.edge[d] - 1] + 1 if best.edge[d] > 0 else 0, 0
        answers.ratio[d, row.place], answers.token[d, row.place] = asked.edge[runs.whole[d]], -1
    return many


@njit(**STEP)
def _search_tokens(row, race, light, cells, opened, tolerance, space, answers):  # type: ignore[no-untyped-def]
    """The search between the tokens of every open cell; returns how many the largest of them holds."""
    runs, wanted, name = space.runs, space.cells.wanted, space.cells.name
    begin, best, open_cell = space.cells.begin, space.runs.best, space.runs.opened.edge
    listed, grouped, ratio, place = space.tokens.listed, space.tokens.grouped, space.tokens.ratio, space.tokens.place
    crowd = 0
    for i in range(opened):
        wanted[name[open_cell[i, 0]]] = 1
    many = tokens_in(space.cells.of, wanted, listed) if opened else 0
    group_by_cell(space.cells.of, space.cells.rank, cells, listed, many, begin, grouped, place)
    for i in range(opened):
        j = open_cell[i, 0]
        wanted[name[j]] = 0
        here = begin[j + 1] - begin[j]
        crowd = max(crowd, here)
        part, part_ratio = grouped[begin[j] : begin[j + 1]], ratio[:here]
        for k in range(here):
            part_ratio[k] = row.p[part[k]] / (row.q[part[k]] * row.scale)
        sort_by_ratio(part_ratio, part, space.tokens.spare_ratio, space.tokens.spare, place)
        _token_run(row, light, race.last, part, j, runs)
        for d in range(race.draws.shape[0]):
            best.edge[d] = 0
        run = Run(runs.tokens, runs.tokens_held, part_ratio, part_ratio, here)
        search(run, runs.opened, i, race, tolerance, runs.stack, best, runs.none)
        for d in range(race.draws.shape[0]):
            if best.edge[d] > 0:
                runs.whole[d], runs.more[d] = name[j], best.edge[d]
                last_token = best.edge[d] - 1
                answers.ratio[d, row.place] = part_ratio[last_token]
                answers.token[d, row.place] = part[last_token]
    return crowd


@njit(**STEP)
def _search_row(row, left, asked, rule, space, table, answers):  # type: ignore[no-untyped-def]
    """The search for the first ``left`` numbers of draws; returns whether it could be made, and the table (grown)."""
    draws, spare, edge, last = asked.draws[:left], space.top.spare, asked.edge, 8.0
    start, nodes = node_range(spare, draws, rule.right, rule.left, rule.step)
    if nodes > NODES:
        return False, table
    times = space.nodes.times[:nodes]
    if nodes > 0:
        for g in range(nodes):
            times[g] = start * math.exp(rule.step * g)
        last = times[nodes - 1]
    slowest, most = 0.0, draws[left - 1]
    for d in range(left):
        slowest = max(slowest, draws[d] / spare[draws[d] - 1])
    never = last_cell(edge, slowest * 1.001)
    race = Race(last, times, rule.step, rule.weights, table, most, draws, space.nodes.work)
    classes, listed, cut_off, rounding = _classify(row, race, never, asked, rule.rest, space)
    if max(cut_off, rounding) > TRUNCATION:
        return False, table
    heavy = _heavy_tokens(row, classes.light, last, listed, space)
    entries = (heavy + 1) * most * nodes
    fits = entries <= TABLE
    cells = _cell_run(row.held, never, last, edge, space) if fits else 0
    # The next row finds the extra quantities at zero, also after a row that does not fit.
    for i in range(listed):
        for j in range(EXTRAS):
            space.cells.extra[np.uint32(space.cells.of[space.tokens.listed[i]]), j] = 0.0
    if not fits:
        return False, table
    if entries > table.shape[0]:
        table = np.empty(entries)
        race = Race(last, times, rule.step, rule.weights, table, most, draws, space.nodes.work)
    light_outside = space.runs.cells[cells, POWERS] / last + space.cells.mass[never, 1] / last
    _fill_table(row, race, heavy, light_outside, space)
    opened = _search_cells(row, race, cells, asked, space, answers)
    crowd = _search_tokens(row, race, classes.light, cells, opened, asked.tolerance, space, answers)
    best = space.runs.best
    rounding += (5 * heavy + most * nodes + 1000) * UNIT
    width = row.p.shape[0]
    # Additions that a sum passes through.  In lots, powers beyond the third are not: they weigh less than a 32nd.
    steps = width if asked.lot >= width else asked.lot + width // asked.lot + width // 32 + heavy + crowd
    for d in range(left):
        sums = (1.0 + asked.sensitivity[d]) * (steps + never + 16) * UNIT
        if sums > asked.rounding:
            return False, table
        answers.error[d, row.place] = rule.error + cut_off + rounding + sums
        answers.best[d, row.place], answers.low[d, row.place] = best.value[d], min(best.low[d], best.value[d])
        answers.size[d, row.place] = (
            row.fixed.shape[0] + count_below(space.cells.of, space.runs.whole[d]) + space.runs.more[d]
        )
    return True, table


@njit(cache=True, nogil=True, error_model="numpy")
def without_replacement(p, q, asked, rule, rows, space, answers):  # type: ignore[no-untyped-def]
    """Rows ``rows[0]`` to ``rows[1]``: minimum of ``P - Q_n`` with ``asked.fixed`` fixed tokens, n = ``asked.draws``.

    ``rule`` is a :class:`.records.Quadrature`, ``space`` a :class:`.records.Space`.  Fills all of
    :class:`.records.Answers`: the prefix by its last ``(ratio, token)`` in units of ``scale``, and whether the row
    could be treated.  Returns the table of heavy tokens, grown where a row needed more.
    """
    own = space.table
    p, q, asked, rule, space, answers = borrowed((p, q, asked, rule, space, answers))
    top, table, bits = space.top, space.table, q.view(np.int64)
    for b in range(rows[0], rows[1]):
        count, total = largest_tokens(q[b], bits[b], asked.fixed, top)
        fixed, held = top.fixed[:count], 0.0
        for k in range(count):
            held += p[b, fixed[k]]
        scale = 1.0 / total if total > 0.0 else 0.0
        row = Row(b, p[b], q[b], fixed, held, total, scale, top.token[count], top.spare[1])
        left = before_search(row, asked, top.spare, answers)
        if left == 0:
            continue
        usable, table = _search_row(row, left, asked, rule, space, table, answers)
        for d in range(0 if usable else left):
            answers.usable[d, b] = False
    # Never the borrowed one: it has no owner.
    return table if len(table) > len(own) else own
