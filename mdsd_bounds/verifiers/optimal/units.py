"""Units: tokens that share one weight of the race, so that a row of any width becomes a problem of a few hundred.

Tokens that matter most, by ``min(p, k q)`` with k the number of draws, are units of their own; the others are binned by
the logarithm of p/q.  Nothing is sorted: the leading bits of the float64 ratio are its cell (512 to an octave), and
bins are runs of cells.

**Bins.**  Inside a bin r/q is all but constant while p/q is not, so that a bin whose sums match would still lose the
mean deviation of p.  Two things keep the loss small.  The edges lie at equal increments of the cumulative square root
of the cells' weight, which minimises the sum of mass times width; where further trees follow (:mod:`.wide_rows`) the
loss is of second order, and lower powers serve better (the cube root minimises the sum of mass times squared width).
And the targets are moved: on the left a bin is asked for ``q_u max p/q`` instead of p_u, on the right for ``q_u min
p/q``, as far as the *slack* allows.  A rule with
``r >= t`` on the left exists if ``t(L - H) <= Q(L) - Q(H)`` for the prefixes H (the t/q being sorted like p/q), that is
if what has been added to the targets behind H is at most ``D(H) - D(L)``, ``D = P - Q``; on the right likewise.  At
h itself the slack vanishes to first order just as the deviations do, D being stationary there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from mdsd_bounds.verifiers.optimal import unit_kernels

#: Leading bits of a float64: sign, exponent and 9 bits of the mantissa.
_SHIFT = 43
_FIRST = int(np.array(2.0**-24).view(np.int64)) >> _SHIFT
_LAST = int(np.array(2.0**24).view(np.int64)) >> _SHIFT
#: Share of the slack that targets may use.
SLACK = 0.9


@dataclass(frozen=True)
class Cells:
    """A row by cells of p/q, those of side L first.

    Attributes
    ----------
    cell : ndarray
        ``[V]`` int32, -1 where q = 0.
    low, high : ndarray
        ``[C]``: the edges of the cells; each side has those from its first to its last that holds a token.
    on_left : int
        Cells of side L.
    ratio : ndarray
        ``[V]`` p/q.
    left : ndarray
        ``[V]`` bool: the tokens of side L.
    edge : float or None
        Number that parts the ratios of side L from those of side R, None where the ratios of the two overlap.
    """

    cell: np.ndarray
    low: np.ndarray
    high: np.ndarray
    on_left: int
    ratio: np.ndarray
    left: np.ndarray
    edge: float | None


@dataclass(frozen=True)
class Units:
    """Units of a row, in the order of p/q; the first ``left`` of them are side L.

    Attributes
    ----------
    unit : ndarray
        ``[V]`` int32 unit of each token; -1 where q = 0.
    single : ndarray
        ``[U]`` int64: the token of a unit of one, -1 for bins.
    low, high : ndarray
        ``[U]`` bounds of p/q in the unit.
    """

    unit: np.ndarray
    single: np.ndarray
    low: np.ndarray
    high: np.ndarray
    left: int


def make_cells(p: np.ndarray, q: np.ndarray, left: np.ndarray, edge: float | None = None) -> Cells:
    """Cells of one row with these tokens on side L.  One pass."""
    cell, ratio = np.empty(len(q), dtype=np.int32), np.empty(len(q))
    places = unit_kernels.cells(p, q, left, (_FIRST, _LAST, _SHIFT), cell, ratio)
    ours, theirs = slice(*places[:2]), slice(*places[2:])
    low, high = (np.concatenate([x[ours], x[theirs]]) for x in (_edges()[:-1], _edges()[1:]))
    return Cells(cell, low, high, places[1] - places[0], ratio, left, edge)


@cache
def _edges() -> np.ndarray:
    """Lower edges of all cells and the upper edge of the last; the outer cells are open."""
    inner = (np.arange(_FIRST, _LAST + 2, dtype=np.int64) << _SHIFT).view(np.float64)
    inner[0], inner[-1] = 0.0, np.inf
    return inner


def make_units(
    p: np.ndarray, q: np.ndarray, grouped: Cells, singles: np.ndarray, draws: int, bins: int, even: bool = False
) -> Units:
    """Singles, and about ``bins`` bins of the others; where ``even``, more of them where weights are small."""
    unit = np.full(len(q), -1, dtype=np.int32)
    # Singles are marked for now by a number that no bin has.
    unit[singles] = -2
    table = np.zeros((len(grouped.low), 2))
    unit_kernels.cell_weights(p, q, grouped.cell, unit, draws, table)
    number, ends = np.empty(len(table), dtype=np.int32), (grouped.low, grouped.high)
    bounds, on_left = unit_kernels.spread_bins(table, grouped.on_left, bins, even, ends, number)
    bin_left = np.arange(len(bounds)) < on_left
    low, high = np.ascontiguousarray(bounds.T)
    if grouped.edge is not None:
        high = np.where(bin_left, np.minimum(high, grouped.edge), high)
        low = np.where(bin_left, low, np.maximum(low, grouped.edge))
    own, single_left = grouped.ratio[singles], grouped.left[singles]
    # Bins are placed by the middle of their range; only the two sides must not mix.
    key = np.concatenate([np.where(np.isfinite(high), (low + high) / 2, low), own])
    on_right = np.concatenate([~bin_left, ~single_left])
    order = np.lexsort((key, on_right))
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    unit[singles] = rank[len(bounds) :]
    unit_kernels.assign(grouped.cell, number, rank, unit)
    token = np.concatenate([np.full(len(bounds), -1), singles])[order]
    return Units(
        unit,
        token,
        np.concatenate([low, own])[order],
        np.concatenate([high, own])[order],
        int(len(order) - on_right.sum()),
    )


def targets(p: np.ndarray, q: np.ndarray, curve: np.ndarray, units: Units, share: float = SLACK) -> np.ndarray:
    """Targets ``[U]``: p of each unit, moved towards its extreme ratio as far as the slack of the prefixes allows.

    Parameters
    ----------
    p, q : ndarray
        ``[U]`` masses of the units.
    curve : ndarray
        ``[U + 1]``: ``P - Q`` of the prefixes of units.
    """
    return unit_kernels.moved_targets(p, q, curve, (units.low, units.high), units.left, share)


def shortage(q: np.ndarray, units: Units, goal: np.ndarray) -> float:
    """What the bins lack of their extreme ratios ``[U]``; about a quarter of it is lost where targets are just met."""
    on_left = np.arange(len(q)) < units.left
    want = np.where(on_left, np.minimum(q * units.high, 1.0) - goal, goal - q * units.low)
    return float(np.maximum(want, 0.0)[units.single < 0].sum())
