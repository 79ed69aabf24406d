"""The race for two draws over a whole vocabulary: everything is elementary, and r is exact up to rounding.

The pair {i, j} is drafted with probability ``q_i q_j (a_i + a_j)``, ``a = 1/(1-q)``.  For units u (tokens of one
weight, :mod:`mdsd_bounds.verifiers.optimal.units`) let ``l, l', l2`` be the sums of q, ``q a`` and ``q^2 a``, and
f_uv the chance that a draft of u is picked against one of v: ``w_u/(w_u + w_v)`` on one side, 1 and 0 across, 1/2
within a unit.  Then token i of unit u is picked with probability

    ``r_i = q_i [ a_i (sum_v f_uv l_v - q_i/2) + sum_v f_uv l'_v - q_i a_i/2 ]``

(without the two corrections where i is alone in its unit and ``f_uu l_u`` is left out).  Units meet with mass ``M_uv
= l_u l'_v + l'_u l_v``; the Hessian of Phi is the Laplacian of the graph with weights ``M_uv f_uv (1 - f_uv)``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdsd_bounds.bounds.search.exponential_race import sum_rounding
from mdsd_bounds.verifiers.optimal import unit_kernels
from mdsd_bounds.verifiers.optimal.projected_newton import minimise
from mdsd_bounds.verifiers.optimal.units import (
    CELLS,
    Cells,
    Units,
    best_threshold,
    choose_singles,
    make_cells,
    make_units,
    starting_log_weights,
    targets,
)

SINGLES = 96
BINS = 192
TOLERANCE = 1e-10
STEPS = 60


@dataclass(frozen=True)
class Meetings:
    """How often units of one side meet.

    Attributes
    ----------
    mass : ndarray
        ``[U, U]`` symmetric, zero diagonal.
    sure : ndarray
        ``[U]``: mass that a unit wins whatever the weights are (pairs within it, or with the other side).
    """

    mass: np.ndarray
    sure: np.ndarray

    def evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """``Phi`` (up to a constant), r ``[U]`` and the Hessian."""
        flow, hessian = np.empty(len(theta)), np.empty(self.mass.shape)
        phi = unit_kernels.meet(self.mass, theta, flow, hessian)
        return phi + float(self.sure @ theta), flow + self.sure, hessian


@dataclass(frozen=True)
class Row:
    """One row, its largest q apart: ``1 - q`` would cancel there, and ``q / (1 - q)`` may overflow.

    Attributes
    ----------
    p, q : ndarray
        ``[V]``.
    largest : int
        Token of the largest q.
    rest : float
        Mass of the others.
    """

    p: np.ndarray
    q: np.ndarray
    largest: int
    rest: float


def prepare_pairs(
    p: np.ndarray, q: np.ndarray, *, singles: int = SINGLES, bins: int = BINS, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The race for two draws.

    Parameters
    ----------
    p, q : ndarray
        ``[V]`` laws; q with more than two tokens in its support.

    Returns
    -------
    on_right, log_weight, r : ndarray
        ``[V]``.
    error : float
        Bound on ``sum |r - law of the pick|``.

    Notes
    -----
    Cost O(V) and O(steps U^3), U units a side.
    """
    grouped = make_cells(p, q)
    own = choose_singles(p, q, 2, singles, heavy=0.01)
    largest = int(np.argmax(q))
    others = q.copy()
    others[largest] = 0.0
    row = Row(p, q, largest, float(others.sum()))
    own = np.union1d(own, [largest])
    units = make_units(p, q, grouped, _split(row, others, grouped), own, 2, bins)
    return _solve(row, units, steps)


def _split(row: Row, others: np.ndarray, grouped: Cells) -> float:
    """Threshold of p/q where ``P - Q`` is least, with ``Q = x - (1 - x) sum_H q/(1-q)``."""
    table = np.zeros((CELLS, 4))
    unit_kernels.pair_sums(row.p, others, grouped.cell, table)
    sums = np.zeros((CELLS + 1, 3))
    np.cumsum(table[:, :3], 0, out=sums[1:])
    hot = row.q[row.largest]

    def curve(target: np.ndarray, x: np.ndarray, odds: np.ndarray, passed: np.ndarray) -> np.ndarray:
        outside = np.maximum(row.rest - x, 0.0)
        drafted = x + passed * hot - (outside + ~passed * hot) * odds - passed * hot * (outside / row.rest)
        return np.asarray(target - drafted)

    def inside(cell: int, tokens: np.ndarray) -> np.ndarray:
        own = others[tokens]
        steps = np.column_stack([row.p[tokens], own, own / (1.0 - own), tokens == row.largest])
        base = np.append(sums[cell], grouped.cell[row.largest] < cell)
        here = base + np.concatenate([np.zeros((1, 4)), np.cumsum(steps, 0)])
        return curve(here[:, 0], here[:, 1], here[:, 2], here[:, 3] > 0)

    passed = np.arange(CELLS + 1) > grouped.cell[row.largest]
    return best_threshold(grouped, curve(sums[:, 0], sums[:, 1], sums[:, 2], passed), inside)


def _solve(row: Row, units: Units, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    count, h = len(units.single), units.left
    sums = np.zeros((count, 4))
    unit = units.unit.copy()
    alone, hot = int(unit[row.largest]), float(row.q[row.largest])
    unit[row.largest] = -1
    unit_kernels.pair_sums(row.p, row.q, unit, sums)
    target, plain, scaled, square = sums.T.copy()
    single = units.single >= 0
    within = np.where(single, 0.0, np.maximum(plain * scaled - square, 0.0))
    # Meetings with the largest: q_i q_j (a_i + a_j) with a = 1/rest for it.
    share = plain / row.rest
    against = hot * (share + scaled)
    x, y, z = (np.concatenate([[0.0], np.cumsum(part)]) for part in (plain, scaled, square))
    drafted = x * y - z + np.where(np.arange(count + 1) > alone, hot * (x / row.rest + y), 0.0)
    target[alone] += row.p[row.largest]
    curve = np.concatenate([[0.0], np.cumsum(target)]) - drafted
    mass = np.outer(plain, scaled)
    mass += mass.T
    mass[alone], mass[:, alone] = against, against
    np.fill_diagonal(mass, 0.0)
    plain[alone] = hot
    goal = targets(target, plain, curve, units)
    theta = np.zeros(count)
    chance = np.zeros((count, count))
    chance[h:, :h] = 1.0
    for part, sign in ((slice(0, h), 1.0), (slice(h, count), -1.0)):
        if part.start == part.stop:
            continue
        meetings = Meetings(np.ascontiguousarray(mass[part, part]), within[part] + mass[part, : part.start].sum(1))
        wanted = goal[part]

        def loss(law: np.ndarray, wanted: np.ndarray = wanted, sign: float = sign) -> float:
            return float(np.maximum(sign * (wanted - law), 0.0).sum())

        base = starting_log_weights(target[part], plain[part])
        theta[part] = minimise(meetings.evaluate, base, wanted, sign, loss, tolerance=TOLERANCE, steps=steps)
        chance[part, part] = win_chance(theta[part, None] - theta[None, part])
    np.fill_diagonal(chance, np.where(single, 0.0, 0.5))
    plain_wins, scaled_wins = chance @ plain, chance @ scaled
    r = np.zeros(len(row.q))
    halves = np.where(single, 0.0, 0.5)
    unit_kernels.pair_law(row.q, unit, plain_wins, scaled_wins, halves, hot * chance[:, alone], row.rest, r)
    r[row.largest] = hot * float(chance[alone] @ (share + scaled))
    on_right = (units.unit < 0) | (units.unit >= h)
    weight = np.where(units.unit >= 0, theta[units.unit], 0.0)
    return on_right, weight, r, 16 * sum_rounding(len(row.q))


def win_chance(apart: np.ndarray) -> np.ndarray:
    """``1 / (1 + e^-x)`` without overflow, and with full relative accuracy on both sides."""
    small = np.exp(-np.abs(apart))
    return np.asarray(np.where(apart >= 0, 1.0, small) / (1.0 + small))
