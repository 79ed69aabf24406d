"""The same minimum as the prefix scan without sorting the vocabulary: a histogram of ratios, then a few cells.

Let ``w = p/q`` and let f(H) = P(H) - Q(H) run over the prefixes of the tokens by w ascending.  The scan of
:mod:`mdsd_bounds.bounds.search.prefix_scan` evaluates f everywhere; here it is bounded almost everywhere.

**Cells.**  One pass puts every token into a cell of nearly equal w (128 cells per octave, found from the bits of w)
and adds up p and q per cell.  Whatever the order inside, the union of the first cells is a prefix, so P and
``x = q(H)`` are known at every edge between cells.

**Lower bound inside a cell.**  Q is convex in x along the prefixes: with replacement ``Q = x^n`` is convex, and without
replacement :mod:`mdsd_bounds.bounds.search.exponential_race_kernel` proves it.  So between two evaluated prefixes a <
b the chord of Q, of slope s, lies above Q and ``f >= P - chord``.  P is convex too, with slopes w; in a cell of ratios
[w_lo, w_hi] that holds P-mass dP and q-mass dx it lies above ``max(w_lo y, dP - w_hi (dx - y))``, y the q-mass passed,
whose kink is at ``y* = (w_hi dx - dP) / (w_hi - w_lo)``.  If ``w_lo < s < w_hi`` then ``P - chord >= its value at the
cell's left end
+ y* (w_lo - s)``; if s is outside, ``P - chord`` is monotone in the cell and an end is lowest.                      (1)

**Only the cells where (1) leaves room for less than the best edge are opened**: their tokens are gathered, sorted and
scanned.  The bounds of the cells left closed are the lower end of the interval.

**Tokens that never enter H.**  Each of the n draws takes token j with probability at most q_j/W_n given those before
it, W_n the mass outside the n - 1 largest q (with replacement: q_j).  So adding j to H raises Q by at most
``n q_j / W_n`` and P by ``w q_j``: no token with ``w >= n/W_n`` (with replacement ``w >= n``) is needed.

**Greedy** needs no search: one random draw from ``r = q / q(off A)`` gives ``alpha* = P(A) + sum off A of min(p, r)``.

**Rounding.**  Every sum of non-negative terms that passes through at most L additions is right to a relative L u
(u = 2^-53).  A prefix sum passes through at most V + C additions, C the cells: with ``r = (V + C + 16) u`` P is off
by at most r, ``(x/total)^n`` by ``2 n r``, and Q without replacement by r times a number derived in
:mod:`mdsd_bounds.bounds.search.exponential_race_kernel` (16 for eight draws, 151 for 64).  Dividing p by q misorders
tokens only if their ratios agree to 2u; any order within 2u changes a prefix's f by at most 2u, and the subset reported
is a subset whatever its order.  At V = 151,936 r is 1.75e-11: e is 3e-10 for eight draws with replacement and 2.3e-9
for 64.  Without replacement it is 3e-10 for eight; where it would pass 1e-9 (20 draws and more), sums are made of lots
of 32,768 tokens, which leaves 0.9e-9 for 64 draws at V = 262,144, besides the additions inside a cell that is opened.
Nodes, truncation and the recurrence add at most 0.7e-9.  Where rounding would pass 4.5e-9 the prefix scan answers.
Greedy sums go by strips of 2048, which leaves 1e-12.

Interval: ``[1 + LB - e, 1 + UB + e]`` with ``UB - LB <= 2e-10``.

Cost: two passes over p and q and a few thousand operations; without replacement one such search for the numbers of
draws up to 8, and one each for those up to 16, 32 and 64, because the nodes and the tokens that are taken one by one
depend on the largest.  Compiled with Numba and shared among torch's threads; without Numba, on other devices and for
rows outside the limits above the prefix scan answers, row by row.  The subset and prefix theorem are those of Hu et
al., ICLR 2025 (arXiv 2502.18779); the search is ours.
"""

from __future__ import annotations

import functools
import importlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.special import gammainccinv
from torch import Tensor

from mdsd_bounds._backend.checked_rows import RowSums, Sums, in_checked_threads
from mdsd_bounds.bounds.search.exponential_race import trapezoid_step
from mdsd_bounds.bounds.search.prefix_scan import solve_prefix
from mdsd_bounds.bounds.search.records import Answers, Asked, Quadrature
from mdsd_bounds.problem import Bound, Problem, rounding_unit
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import fixed_mask

#: What the search may leave open between its best prefix and its lower bound.
TOLERANCE = 2e-10
#: Error allowed to each cut of the nodes without replacement.
CUT = 2e-11
#: Most random draws of a search without replacement: each serves the numbers of draws above the entry before.
REACHES = (8, 16, 32, 64)
#: Largest rounding error accepted from the searches; beyond it the prefix scan answers.
ROUNDING = 4.5e-9
#: Sums without replacement whose rounding error would pass the first are made of lots of so many tokens (full strips).
_LOTS_FROM, _LOT = 1e-9, 1 << 15
#: ``auto`` takes this route from here on; below, the prefix scan needs no compiled code.
WIDE = 512
#: Largest table that is kept for the rows to come.
_TABLE = 2_000_000
#: What :func:`_kept_room` keeps for its thread.
_kept = threading.local()


@dataclass(frozen=True)
class Found:
    """Answers for some of the numbers of drafts: their ``slots`` among those asked for, and their ``fixed`` tokens."""

    slots: list[int]
    fixed: list[int]
    answers: Answers


def applies(problem: Problem) -> bool:
    """Whether the compiled search takes rows of this problem (what is left over goes to the prefix scan)."""
    return problem.p.device.type == "cpu" and _is_wide(problem) and _kernels() is not None


def _is_wide(problem: Problem) -> bool:
    """From :data:`WIDE` tokens on; without replacement the scan's cost grows as the square of the draws beyond 8."""
    width, sampler = problem.p.shape[-1], get_sampler(problem.sampler)
    if width >= WIDE or sampler.split is None or sampler.replacement:
        return width >= WIDE
    most = max((k for _, k in sampler.splits(problem.n_drafts, problem.options, "the compiled search")), default=0)
    return width * max(most / REACHES[0], 1.0) ** 2 >= WIDE


def solve_unchecked(problem: Problem) -> Bound | None:
    """:func:`solve_fast` of rows that nobody has checked: each is, right before the search reads it.

    Returns
    -------
    Bound or None
        None where any row is not sound or does not sum to one up to rounding, or where the search takes no number of
        drafts; then :func:`mdsd_bounds.distributions.validate_probs` says what is wrong, or normalises the rows.
    """
    if not applies(problem):
        return None
    sums = RowSums(problem.p), RowSums(problem.q)
    results = _search(problem, sums)
    of_p, of_q = (one.defect() if results else None for one in sums)
    if of_p is None or of_q is None:
        return None
    return _bound_of(replace(problem, mass_error=of_p + max(problem.n_drafts) * of_q), results)


def solve_fast(problem: Problem) -> Bound:
    """Optimal acceptance rate by the search described above; the prefix scan where it does not apply.

    Parameters and errors as :func:`mdsd_bounds.bounds.search.prefix_scan.solve_prefix`.

    Returns
    -------
    Bound
        Fields ``[N, B]``, within 1e-9 of the prefix scan, intervals at most 1e-8 wide (before the defect of rows that
        do not sum to one).  The subset is rebuilt from p and q when asked for.
    """
    return _bound_of(problem, _search(problem))


def _bound_of(problem: Problem, results: list[Found]) -> Bound:
    """What was found, and the prefix scan's answers for the rest."""
    shape = (len(problem.n_drafts), problem.p.shape[0])
    # Of single rows the small operations here are a fifth of the time, and numpy's are the quicker ones.
    best, low, high = (np.full(shape, np.nan) for _ in range(3))
    size, solved = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for found in results:
        slots, answers, value = found.slots, found.answers, 1.0 + found.answers.best
        best[slots], size[slots], solved[slots] = value, answers.size, answers.usable
        high[slots] = value + answers.error
        low[slots] = np.minimum(value, 1.0 + answers.low) - answers.error
    error = 0.0 if problem.mass_error is None else problem.mass_error.numpy()
    low, high = low - error, high + error
    for numbers in (best, low, high):
        # alpha* is a probability: cutting the interval to [0, 1] only removes values that cannot be.
        np.minimum(np.maximum(numbers, 0.0, out=numbers), 1.0, out=numbers)
    ends = torch.from_numpy(best), torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(size)
    scans = [] if solved.all() else scan_rest(problem, torch.from_numpy(solved), *ends)

    def make_subset() -> Tensor:
        mask = torch.zeros((*shape, problem.p.shape[1]), dtype=torch.bool, device=problem.p.device)
        for found in results:
            for d, slot in enumerate(found.slots):
                rows = torch.from_numpy(found.answers.usable[d]).nonzero()[:, 0]
                mask[slot, rows] = _subset(problem.p[rows], problem.q[rows], found, d, rows)
        for slots, rows, bound in scans:
            assert bound.make_subset is not None
            mask[torch.tensor(slots)[:, None], rows] = bound.make_subset()
        return mask

    return Bound(*ends, problem, "fast", make_subset=make_subset)


def _subset(p: Tensor, q: Tensor, found: Found, d: int, rows: Tensor) -> Tensor:
    """The minimising subsets ``[R, V]``: the division is repeated bit for bit as the search did it."""
    ratio, token, scale = (
        torch.from_numpy(x[d])[rows, None] for x in (found.answers.ratio, found.answers.token, found.answers.scale)
    )
    w = p / (q * scale)
    index = torch.arange(p.shape[-1])
    # No bound on the ratio: all of the support, also where a ratio overflows.
    below = torch.where(ratio == float("inf"), q > 0, w < ratio)
    return below | ((w == ratio) & (index <= token)) | fixed_mask(q, found.fixed[d])


def scan_rest(
    problem: Problem, solved: Tensor, value: Tensor, low: Tensor, high: Tensor, size: Tensor
) -> list[tuple[list[int], Tensor, Bound]]:
    """Fill in by the prefix scan what was not solved; rows that lack the same numbers of drafts go together."""
    missing: dict[tuple[bool, ...], list[int]] = {}
    for row, lacking in enumerate((~solved).T.tolist()):
        if any(lacking):
            missing.setdefault(tuple(lacking), []).append(row)
    scans = []
    for lacking, held in missing.items():
        slots = [slot for slot, lacks in enumerate(lacking) if lacks]
        rows = torch.tensor(held)
        part = replace(
            problem,
            p=problem.p[rows],
            q=problem.q[rows],
            n_drafts=tuple(problem.n_drafts[slot] for slot in slots),
            mass_error=None if problem.mass_error is None else problem.mass_error[rows],
        )
        bound = solve_prefix(part)
        where = (torch.tensor(slots)[:, None], rows)
        value[where], low[where], high[where], size[where] = bound.value, bound.low, bound.high, bound.subset_size
        scans.append((slots, rows, bound))
    return scans


def _search(problem: Problem, sums: Sums | None = None) -> list[Found]:
    """Everything the compiled searches can answer; rows with ``sums`` are checked by the first of them."""
    sampler, kernels = get_sampler(problem.sampler), _kernels()
    splits = sampler.splits(problem.n_drafts, problem.options, "method 'fast'")
    if problem.p.device.type != "cpu" or kernels is None:
        return []
    p, q = (np.ascontiguousarray(x.detach().numpy()) for x in (problem.p, problem.q))
    if sampler.replacement:
        slots = [i for i, (m, k) in enumerate(splits) if m == 0 and k >= 1 and _power_error(p.shape[1], k) <= ROUNDING]
        return [_with_replacement(kernels, p, q, slots, [splits[i][1] for i in slots], sums)] if slots else []
    # One random draw has a closed form unless all numbers of drafts share their fixed tokens and one pass does all.
    shared = sorted({(m, _reach(k)) for m, k in splits if k >= 2 and _race_error(p.shape[1], k) <= ROUNDING})
    alone = [i for i, (m, k) in enumerate(splits) if k == 0 or (k == 1 and (m, REACHES[0]) not in shared)]
    results = [_greedy(kernels, p, q, alone, [splits[i] for i in alone], sums)] if alone else []
    for m, reach in shared:
        if sums is not None and results and not all(one.sound() for one in sums):
            return results
        slots = [i for i, (f, k) in enumerate(splits) if f == m and k >= 1 and _reach(k) == reach]
        slots = sorted(
            (i for i in slots if _race_error(p.shape[1], splits[i][1]) <= ROUNDING), key=lambda i: splits[i][1]
        )
        results.append(_without_replacement(p, q, m, slots, [splits[i][1] for i in slots], None if results else sums))
    return results


def _reach(draws: int) -> int:
    """The entry of :data:`REACHES` whose search serves a number of draws; 0 where none does."""
    return next((reach for reach in REACHES if draws <= reach), 0)


def _race_error(width: int, draws: int) -> float:
    """Rounding error of the sums without replacement (cells of many tokens apart), and infinite for too many draws."""
    if not _reach(draws):
        return math.inf
    lot = _lot(width, draws)
    steps = width if lot >= width else lot + width / lot + width / 32
    return (1 + _sensitivity_of(draws)) * 1.2 * steps * rounding_unit()


def _lot(width: int, draws: int) -> int:
    """Tokens whose sums are made apart: all of them where their rounding is small."""
    small = (1 + _sensitivity_of(draws)) * 1.2 * width * rounding_unit() <= _LOTS_FROM
    return width if small else _LOT


def _with_replacement(
    kernels: ModuleType, p: np.ndarray, q: np.ndarray, slots: list[int], draws: list[int], sums: Sums | None
) -> Found:
    found = _empty(slots, [0] * len(slots), len(p))
    counts = np.array(draws, dtype=np.int64)

    def work(first: int, last: int) -> None:
        room = _kept_room(kernels.room_for, (p.shape[1], len(counts)))
        kernels.with_replacement(p, q, counts, _edges(), TOLERANCE, (first, last), room, found.answers)

    in_checked_threads(work, len(p), sums)
    found.answers.error[:] = np.array([_power_error(p.shape[1], k) for k in draws])[:, None]
    return found


def _without_replacement(
    p: np.ndarray, q: np.ndarray, m: int, slots: list[int], draws: list[int], sums: Sums | None = None
) -> Found:
    from mdsd_bounds.bounds.search.without_replacement_kernel import without_replacement
    from mdsd_bounds.bounds.search.without_replacement_rows import room_for

    found = _empty(slots, [m] * len(slots), len(p))
    rule = _race_constants(max(draws))
    counts, sensitive = np.array(draws, dtype=np.int64), np.array([_sensitivity_of(n) for n in draws])
    asked = Asked(m, counts, sensitive, _edges(), TOLERANCE, _lot(p.shape[1], max(draws)), ROUNDING)

    def work(first: int, last: int) -> None:
        sizes = (p.shape[1], len(counts), m, draws[-1])
        space = _kept_room(room_for, sizes)
        table = without_replacement(p, q, asked, rule, (first, last), space, found.answers)
        if len(space.table) < len(table) <= _TABLE:
            rooms: dict[Any, Any] = _kept.__dict__
            rooms[sizes] = space._replace(table=table)

    in_checked_threads(work, len(p), sums)
    return found


def _kept_room(make: Callable[..., Any], sizes: tuple[int, ...]) -> Any:
    """Room for a search, kept by each thread: to clear fresh pages for a row can take longer than the row itself."""
    rooms: dict[Any, Any] = _kept.__dict__
    if sizes not in rooms:
        if len(rooms) > len(REACHES):
            rooms.clear()
        rooms[sizes] = make(*sizes)
    return rooms[sizes]


def lowest_prefix(p: np.ndarray, q: np.ndarray, fixed: int, draws: int) -> tuple[float, float, int] | None:
    """Where ``P - Q`` of one row ``[V]`` is least, without checks: the scale, ratio and token of :class:`Answers`.

    None where the search does not take the row, or the number of draws.
    """
    if not 2 <= draws <= REACHES[-1]:
        return None
    found = _without_replacement(p[None], q[None], fixed, [0], [draws])
    if not found.answers.usable[0, 0]:
        return None
    return float(found.answers.scale[0, 0]), float(found.answers.ratio[0, 0]), int(found.answers.token[0, 0])


@functools.cache
def _sensitivity_of(n: int) -> float:
    """:func:`mdsd_bounds.bounds.search.power_sums.sensitivity`, kept."""
    from mdsd_bounds.bounds.search.power_sums import sensitivity

    return sensitivity(n)


@functools.cache
def _race_constants(most: int) -> Quadrature:
    """The quadrature for n up to ``most``."""
    from mdsd_bounds.bounds.search.power_sums import power_weights

    step, trapezoid = trapezoid_step(most)
    right, left = np.ones(most + 1), np.ones((most + 1, most + 1))
    for n in range(3, most + 1):
        right[n] = float(gammainccinv(n, CUT))
        for i in range(n):
            left[n, i] = math.exp(min((math.log(CUT) + math.lgamma(n - i + 1)) / (n - i + 1), 0.0))
    return Quadrature(step, trapezoid + 5 * CUT, right, left, *power_weights())


def _greedy(
    kernels: ModuleType,
    p: np.ndarray,
    q: np.ndarray,
    slots: list[int],
    splits: list[tuple[int, int]],
    sums: Sums | None,
) -> Found:
    found = _empty(slots, [m for m, _ in splits], len(p))
    answers = found.answers
    fixed = np.array([min(m, p.shape[1]) for m, _ in splits], dtype=np.int64)
    drawn = np.array([k for _, k in splits], dtype=np.int64)
    token = np.empty((len(p), max(1, int(fixed.max()))), dtype=np.int64)

    def work(first: int, last: int) -> None:
        kernels.greedy(p, q, fixed, drawn, first, last, token, answers)

    in_checked_threads(work, len(p), sums)
    # A subnormal rest of q has no finite scale; the scan takes such rows.
    answers.usable[:] = np.isfinite(answers.scale)
    answers.best[:] -= 1.0
    answers.low[:] = answers.best
    answers.ratio[:] = drawn[:, None]
    # Two sums by strips, and the normalisation of r by blocks.
    answers.error[:] = 4 * (2048 + p.shape[1] / 512 + len(fixed)) * rounding_unit()
    return found


@functools.cache
def _power_error(width: int, n: int) -> float:
    """Rounding error of ``P - (x / total)^n``; the largest histogram has 128 cells for each octave up to n."""
    cells = 128 * (38 + np.log2(n))
    return float((2 * n + 1) * (width + cells + 8) * rounding_unit())


def _empty(slots: list[int], fixed: list[int], rows: int) -> Found:
    shape = (len(slots), rows)
    best, low, error, ratio = (np.zeros(shape) for _ in range(4))
    token, size = (np.full(shape, fill, dtype=np.int64) for fill in (-1, 0))
    usable = np.ones(shape, dtype=bool)
    return Found(slots, fixed, Answers(best, low, error, ratio, token, np.ones(shape), size, usable))


@functools.cache
def _edges() -> np.ndarray:
    from mdsd_bounds.bounds.search.ratio_cells import cell_edges

    return cell_edges()


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled searches, or None where Numba is not installed."""
    try:
        return importlib.import_module("mdsd_bounds.bounds.search.with_replacement_kernel")
    except ImportError:
        return None
