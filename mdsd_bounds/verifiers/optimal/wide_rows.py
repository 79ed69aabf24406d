"""The tree of priority orders over a wide support: tokens that matter most are items of their own, others share bins.

L is the minimiser that the bound reports.  The tree is searched at few nodes of the quadrature, for targets moved
inside the slack of the prefixes (:mod:`.units`); then its orders and coins are frozen, and r is summed for that tree
at fine nodes, token by token.  Bins, stopping and the coarse search cost acceptance, which the certificate states;
they do not touch losslessness.  Where a row loses more than a stated size, further trees follow, each taken by a
small share of the steps, for what is missing of p.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mdsd_bounds._backend import lanes
from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.verifiers.optimal.arrival_times import (
    COARSE,
    FINE,
    Accuracy,
    arrival_times,
    rescaling,
)
from mdsd_bounds.verifiers.optimal.bin_kernels import overshoot, shortfall, token_distribution
from mdsd_bounds.verifiers.optimal.bin_polynomials import (
    MOMENTS,
    Bins,
    bin_polynomials,
    heavy_from,
    token_series,
)
from mdsd_bounds.verifiers.optimal.order_distribution import pick_sums
from mdsd_bounds.verifiers.optimal.order_sweep import Items, given_order, token_polynomials
from mdsd_bounds.verifiers.optimal.order_tree import Tree, build_tree
from mdsd_bounds.verifiers.optimal.unit_kernels import (
    below_edge,
    pair_distribution,
    pair_sums,
    single_tokens,
    spare_masses,
    sums_by_group,
)
from mdsd_bounds.verifiers.optimal.units import Cells, Units, make_cells, make_units, shortage, targets
from mdsd_bounds.verifiers.optimal.whole_support import ALWAYS, rounding

#: Shares of the steps that a further tree may be given.
_SHARES = 2.0 ** -np.arange(1.0, 15.0)


@dataclass(frozen=True)
class Size:
    """Single tokens and bins; more bins where the targets fall short of what bins want by more than ``shortage``.

    A row that asks for more than ``most_bins`` gets ``shared_bins``, and further trees, ``trees`` in all at most, as
    long as more than ``refine`` of acceptance is lost.
    """

    singles: int = 48
    bins: int = 96
    most_bins: int = 224
    shared_bins: int = 144
    shortage: float = 4e-6
    tolerance: float = 1e-8
    slack: float = 1e-10
    refine: float = 1e-6
    trees: int = 4


@dataclass(frozen=True)
class Row:
    """One row as it is searched.

    Attributes
    ----------
    p, q : ndarray
        ``[V]`` target, and rates of the draws times a power of two.
    always : ndarray
        Tokens that are always drafted.
    draws : int
        Random drafts.
    spare : ndarray
        Masses of q off the 0, 1, .. n - 1 heaviest tokens.
    """

    p: np.ndarray
    q: np.ndarray
    always: np.ndarray
    draws: int
    spare: np.ndarray


@dataclass(frozen=True)
class Grouped:
    """Items of a row: the tokens that are always drafted, then the units in the order of p/q.

    Attributes
    ----------
    item : ndarray
        ``[V]`` int32, -1 where nothing is drafted.
    token : ndarray
        ``[k]``: the token of an item of one, -1 for bins.
    left : int
        Items on side L, the first ones.
    target : ndarray
        ``[k]`` p of each item.
    sums : ndarray
        ``[k, MOMENTS]``: moments of ``q scale``; for two draws the sums of q, ``w = q/(1-q)`` and ``q w``.
    scale : float
        One over the mass off the n - 1 heaviest tokens.
    """

    item: np.ndarray
    token: np.ndarray
    left: int
    target: np.ndarray
    sums: np.ndarray
    scale: float


class OrdersOfBins(NamedTuple):
    """A tree, and the item ``[V]`` int32 of each token in it, -1 where nothing is drafted."""

    tree: Tree
    item: np.ndarray


@dataclass(frozen=True)
class Found:
    """The rule of one row: one of some trees, by a first coin.

    Attributes
    ----------
    orders : tuple of OrdersOfBins
        The trees.
    chance : ndarray
        Their probabilities.
    r : ndarray
        ``[V]`` distribution of the pick.
    lost : float
        ``sum_L (p - r)_+ + sum_R (r - p)_+``, at most.
    error : float
        Bound on ``sum |r - distribution of the pick|``.
    """

    orders: tuple[OrdersOfBins, ...]
    chance: np.ndarray
    r: np.ndarray
    lost: float
    error: float

    @property
    def gap(self) -> float:
        """Certified upper bound on alpha* minus ``sum min(p, r)``, but for what p is off from summing to one."""
        return self.lost + self.error


def wide_row(p: np.ndarray, q: np.ndarray, sides: tuple[np.ndarray, float], draws: int, size: Size) -> Found:
    """The rule over a wide support.

    Parameters
    ----------
    p, q : ndarray
        ``[V]`` target, and the rates of the draws (:func:`scaled`); more than ``draws`` tokens have one.
    sides : tuple of ndarray and float
        ``[V]`` bool: tokens that are always drafted; these and the tokens with p/q below the number are side L.
    draws : int
        At least 2.
    size : Size
        Items.

    Notes
    -----
    For each tree O(V), some thirty sweeps of the items at coarse nodes, and one of every order of the tree at fine
    ones.  One tree is usual.
    """
    held, edge = sides
    row, left = Row(p, q, np.flatnonzero(held), draws, spare_masses(q, draws)), held.copy()
    below_edge(p, q, edge, left)
    left |= held
    own = single_tokens(p, q, draws, size.singles, heavy_from(draws) * float(row.spare[-1]))
    found = _one_tree(row, make_cells(p, q, left, edge), own, size)
    return _refined(row, left, own, found, size)


def _one_tree(row: Row, cells: Cells, own: np.ndarray, size: Size) -> Found:
    """A tree for the targets of the row."""
    grouped, goal = group(row, cells, own, size)
    tree, _, _ = build_tree(_items_of(row, grouped, COARSE)[0], goal, size.tolerance, size.slack, grouped.left)
    r = distribution(row, grouped, tree)
    error = rounding(len(grouped.token), row.draws) + abs(float(r.sum()) - 1.0)
    lost = float(shortfall(row.p, r, cells.left)) * (1.0 + len(r) * rounding_unit())
    return Found((OrdersOfBins(tree, grouped.item),), np.ones(1), r, lost, error)


def _refined(row: Row, left: np.ndarray, own: np.ndarray, found: Found, size: Size) -> Found:
    """Further trees while too much is lost: each has a share of the steps, and what is missing of p for its target.

    In the bins of one tree r/q is all but constant; in their mixture it is not.  With r the distribution so far and s
    the share, a tree that met its target ``(p - (1 - s) r) / s`` would make up for all that is lost.  It loses about
    what the first tree did, of which a share s counts; and where ``(1 - s) r > p`` there is nothing to ask for less.
    """
    first = lost = found.lost
    while lost > size.refine and len(found.orders) < size.trees:
        cost = first * _SHARES + overshoot(row.p, found.r, _SHARES)
        share = float(_SHARES[np.argmin(cost)])
        target = np.maximum((row.p - (1.0 - share) * found.r) / share, 0.0)
        other = _one_tree(replace(row, p=target), make_cells(target, row.q, left), own, size)
        r = (1.0 - share) * found.r + share * other.r
        after = float(shortfall(row.p, r, left)) * (1.0 + len(r) * rounding_unit())
        if after >= lost:
            break
        chance = np.append((1.0 - share) * found.chance, share)
        error = max(found.error, other.error) + 4 * rounding_unit()
        found = Found(found.orders + other.orders, chance, r, after, error)
        if after > lost / 2:
            break
        lost = after
    return found


def scaled(q: np.ndarray, draws: int) -> np.ndarray:
    """The rates times the power of two that brings the mass off the n - 1 heaviest near one."""
    return q * rescaling(float(spare_masses(q, draws)[-1]))


def group(row: Row, cells: Cells, own: np.ndarray, size: Size) -> tuple[Grouped, np.ndarray]:
    """Items, and their targets inside the slack of the prefixes; twice where the first bins are too wide."""
    scale = 1.0 / float(row.spare[-1])
    bins, even = size.bins, False
    for _ in range(2):
        units = make_units(row.p, row.q, cells, own, row.draws, bins, even)
        grouped = _with_fixed(row, units, scale)
        items, goal = _items_of(row, grouped, COARSE)[0], grouped.target.copy()
        curve, fixed = np.concatenate([[0.0], np.cumsum(goal - given_order(items))]), len(row.always)
        # The empty set stands before the tokens that are always drafted: its P - Q is 0.
        curve[fixed] = min(curve[fixed], 0.0)
        goal[fixed:] = targets(goal[fixed:], items.mass[fixed:], curve[fixed:], units)
        more = int(bins * shortage(items.mass[fixed:], units, goal[fixed:]) / size.shortage)
        if more > size.most_bins or cells.edge is None:
            # Further trees take less time than so many bins.
            more, even = min(more, size.shared_bins), cells.edge is not None
        if more <= 1.2 * bins:
            break
        bins = more
    return grouped, goal


def _with_fixed(row: Row, units: Units, scale: float) -> Grouped:
    """The units behind the tokens that are always drafted, with their sums."""
    fixed, count = len(row.always), len(units.single)
    table = np.zeros((count, MOMENTS + 1))
    if row.draws == 2:
        heaviest = int(np.argmax(row.q))
        pair_sums(row.p, row.q, units.unit, row.spare[0], heaviest, row.spare[1], table)
    else:
        sums_by_group(row.p, row.q, units.unit, scale, table)
    item = units.unit
    if fixed:
        item = np.where(units.unit >= 0, units.unit + fixed, -1).astype(np.int32)
        item[row.always] = np.arange(fixed)
    return Grouped(
        item,
        np.concatenate([row.always, units.single]),
        fixed + units.left,
        np.concatenate([row.p[row.always], table[:, 0]]),
        np.concatenate([np.zeros((fixed, MOMENTS)), table[:, 1:]]),
        scale,
    )


def _items_of(row: Row, grouped: Grouped, accuracy: Accuracy) -> tuple[Items, Bins | None]:
    """The items at the nodes of one accuracy, and their bins (None for two draws, which need no nodes)."""
    size, single = len(grouped.token), grouped.token >= 0
    fixed = np.arange(size) < len(row.always)
    mass = np.where(single & ~fixed, row.q[grouped.token], grouped.sums[:, 0] / grouped.scale)
    if row.draws == 2:
        mass, odds, squares = np.ascontiguousarray(grouped.sums[:, :3].T)
        # Only bins: for the heaviest token the product may overflow.
        within = np.zeros(size)
        within[~single] = np.maximum(mass[~single] * odds[~single] - squares[~single], 0.0)
        divisor, one = np.where(fixed, ALWAYS, mass), np.zeros((1, 1))
        return Items(2, mass, odds, within, fixed, divisor, np.arange(0, 2 * size + 1, 2), one, one, one[0]), None
    t, weight = arrival_times(row.spare, row.draws, accuracy)
    bins = bin_polynomials(
        grouped.sums[~single], grouped.scale, t, (row.draws, float(row.spare[-1])), accuracy.cut / 10
    )
    rows = np.full(size, 2)
    rows[~single] = bins.degree + 1
    first = np.concatenate([[0], np.cumsum(rows)])
    arrived, closing = lanes.rows(first[-1], len(t)), lanes.rows(first[-1], len(t))
    of_bin = np.repeat(~single, rows)
    arrived[of_bin], closing[of_bin] = bins.arrived, bins.closing
    arrived[~of_bin], closing[~of_bin] = token_polynomials(np.where(fixed[single], 0.0, mass[single]), t)
    divisor = np.where(fixed, ALWAYS, mass)
    items = Items(row.draws, mass, 0.0 * mass, 1.0 * ~single, fixed, divisor, first, arrived, closing, weight)
    return items, bins


def distribution(row: Row, grouped: Grouped, tree: Tree) -> np.ndarray:
    """r ``[V]`` of the rule with this tree: what runs."""
    items, bins = _items_of(row, grouped, FINE)
    found, single = pick_sums(items, tree), grouped.token >= 0
    r = np.zeros(len(row.q))
    if bins is None:
        heaviest = int(np.argmax(row.q))
        pair_distribution(
            row.q, grouped.item, (row.spare[0], heaviest, row.spare[1]), items.mass, items.odds, found.pairs, r
        )
        r[grouped.token[single]] = found.r[single]
        return r
    of_bin = np.repeat(~single, np.diff(items.first))
    series = token_series(bins, found.a[of_bin], found.b[of_bin])
    number = np.where(single, -1, np.cumsum(~single) - 1)
    token_distribution(row.q, grouped.item, number, series, grouped.scale, found.r, r)
    return np.maximum(r, 0.0, out=r)
