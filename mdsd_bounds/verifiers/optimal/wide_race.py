"""The race without replacement over a whole vocabulary, any number of draws: units, and the convex search by clocks.

L is the minimiser that the bound reports.  Tokens are grouped into units
(:mod:`mdsd_bounds.verifiers.optimal.units`), Phi and r are those of the two clocks
(:mod:`mdsd_bounds.verifiers.optimal.clocks`), and each side's dual is minimised by L-BFGS-B.  The search uses a
coarse quadrature, whose gradient is exact for its own sum; then the weights are frozen and the law of that race is
computed on the fine one.  What the search leaves open is known exactly (``Prepared.gap``)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, minimize
from torch import Tensor

from mdsd_bounds.verifiers.optimal import unit_kernels
from mdsd_bounds.verifiers.optimal.clocks import (
    COARSE,
    FINE,
    MOMENTS,
    Group,
    Times,
    arguments,
    heavy_from,
    make_clocks,
    make_times,
    mass_after,
    prefix_mass,
    race_law,
)
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.race_rule import Race, prepared_race
from mdsd_bounds.verifiers.optimal.units import (
    Units,
    choose_singles,
    make_cells,
    make_units,
    shortage,
    starting_log_weights,
    targets,
)

SINGLES, BINS = 96, 192
#: More bins where the targets fall short of what bins want by more than this, and how many at most.
SHORTAGE, MOST_BINS = 4e-6, 1536
#: What may be left open between law and targets, and evaluations allowed on each side.
TOLERANCE, EVALUATIONS = 1e-7, 100
#: How far the search may move a log-weight.
ROOM = 24.0
#: Allowance for the quadrature of the final law: n and the steps are chosen for a relative error below it.
QUADRATURE = 1e-12
#: Mass after the heaviest tokens below which rates are rescaled, and by how much (exactly: a power of two).
FAINT, RESCALED = 1e-250, 2.0**200


@dataclass(frozen=True)
class Side:
    """One side's units, in the order heavy, light, always drafted.

    Attributes
    ----------
    unit : ndarray
        ``[H + B]`` their numbers among all units.
    group : Group
        Rates and moments.
    p : ndarray
        ``[A]`` targets of the tokens that are always drafted.
    """

    unit: np.ndarray
    group: Group
    p: np.ndarray


def prepare_clocks(
    p: Tensor,
    rates: Tensor,
    held: Tensor,
    draws: int,
    left: Tensor,
    *,
    singles: int = SINGLES,
    bins: int = BINS,
    evaluations: int = EVALUATIONS,
) -> Prepared:
    """The race by clocks.

    Parameters
    ----------
    p, rates : Tensor
        ``[V]`` target, and the law of the draws; more than ``draws`` tokens in its support.
    held : Tensor
        ``[V]`` bool: tokens that are always drafted.
    draws : int
        At least 2.
    left : Tensor
        ``[V]`` bool: side L, with the ``held`` tokens and those of smallest p/q.
    singles, bins, evaluations : int
        Units, and evaluations of each side's search.

    Notes
    -----
    O(V), and ``evaluations`` times the cost of :func:`mdsd_bounds.verifiers.optimal.clocks.race_law`.
    """
    target, q = p.numpy(), rates.numpy()
    # A race depends on the ratios of its rates alone.
    factor = RESCALED if mass_after(q, draws - 1) < FAINT else 1.0
    rate = q * factor
    coarse = make_times(rate, draws, COARSE)
    cells = make_cells(target, q)
    # Tokens are assigned by ratio; those of one ratio that L cuts in two go left together.
    own = choose_singles(target, q, draws, singles, heavy_from(draws) / coarse.scale / factor)
    inside = left.numpy() & (q > 0)
    threshold = float(np.nextafter(cells.ratio[inside].max(), np.inf)) if inside.any() else 0.0
    always = np.flatnonzero(held.numpy())
    for _ in range(2):
        units = make_units(target, q, cells, threshold, own, draws, bins)
        table = np.zeros((len(units.single), MOMENTS + 1))
        unit_kernels.sums_by_group(target, rate, units.unit, coarse.scale, table)
        heavy = (units.single >= 0) & (table[:, 1] > heavy_from(draws))
        mass = table[:, 1] / coarse.scale
        # One token next to a subnormal rest: its x may overflow.
        mass[heavy] = rate[units.single[heavy]]
        goal = unit_targets(table, mass, heavy, units, coarse, factor, target[always])
        # The loss falls like the width of the bins: where the slack is short, make them as narrow as it takes.
        more = min(MOST_BINS, int(bins * shortage(mass / factor, units, goal) / SHORTAGE))
        if more <= 1.2 * bins:
            break
        bins = more
    sides = [
        _side(table, mass, heavy, slice(0, units.left), target[always]),
        _side(table, mass, heavy, slice(units.left, len(table)), np.zeros(0)),
    ]
    fine = make_times(rate, draws, FINE)
    log_weight, law = np.zeros(len(table)), np.zeros(len(table))
    series = np.zeros((len(table), MOMENTS))
    theta_always, law_always = np.zeros(len(always)), np.zeros(len(always))
    for k, sign in ((0, 1.0), (1, -1.0)):
        side, other = sides[k], sides[1 - k]
        if not len(side.unit):
            continue
        passive, absent = (_NOTHING, float(mass[other.unit].sum())) if k == 0 else (other.group, 0.0)
        want = np.concatenate([goal[side.unit], side.p])
        start = (
            np.concatenate([table[side.unit, 0], side.p]),
            np.concatenate([mass[side.unit] / factor, np.ones(len(side.p))]),
        )
        base = starting_log_weights(*start)
        base[len(side.unit) :] = 0.0
        theta = search(side, passive, absent, coarse, want, base, sign, evaluations)
        nodes = arguments(float(theta.min()), _total(theta, draws + len(side.p)), FINE)
        found = race_law(make_clocks(side.group, passive, absent, fine, nodes), theta, by_token=True)
        count = len(side.unit)
        log_weight[side.unit], law[side.unit] = theta[:count], found.r[:count]
        series[side.unit[len(side.group.rate) :]] = found.series
        if k == 0:
            theta_always, law_always = theta[count:], found.r[count:]
    r, weight = np.zeros(len(q)), np.zeros(len(q))
    unit_kernels.series(rate, units.unit, coarse.scale, series, r)
    single = np.flatnonzero(heavy)
    r[units.single[single]] = law[single]
    np.take(log_weight, np.maximum(units.unit, 0), out=weight)
    weight[always], r[always] = theta_always, law_always
    on_right = (units.unit < 0) | (units.unit >= units.left)
    on_right[always] = False
    race = Race(torch.from_numpy(on_right), torch.from_numpy(weight))
    return prepared_race(p, race, torch.from_numpy(np.maximum(r, 0.0)), QUADRATURE)


_NOTHING = Group(np.zeros(0), np.zeros((0, MOMENTS)))


def _side(table: np.ndarray, mass: np.ndarray, heavy: np.ndarray, part: slice, always: np.ndarray) -> Side:
    mine = np.zeros(len(table), dtype=bool)
    mine[part] = True
    first, second = np.flatnonzero(mine & heavy), np.flatnonzero(mine & ~heavy)
    group = Group(mass[first], np.ascontiguousarray(table[second, 1:]))
    return Side(np.concatenate([first, second]), group, always)


def unit_targets(
    table: np.ndarray,
    mass: np.ndarray,
    heavy: np.ndarray,
    units: Units,
    times: Times,
    factor: float,
    always: np.ndarray,
) -> np.ndarray:
    """Targets of the units ``[U]`` inside the slack of their prefixes."""
    group = Group(mass[heavy], table[~heavy, 1:])
    heavy_after = np.concatenate([[0], np.cumsum(heavy)]).astype(np.int64)
    curve = np.concatenate([[0.0], np.cumsum(table[:, 0])]) - prefix_mass(times, group, heavy_after)
    # The empty set stands before the tokens that are always drafted: P - Q is 0 there, and their P later.
    curve += always.sum()
    if len(always):
        curve[0] = min(curve[0], 0.0)
    return targets(table[:, 0], mass / factor, curve, units)


def _total(theta: np.ndarray, drafts: int) -> float:
    """Logarithm of a bound on the total weight of the active drafts."""
    largest = np.sort(theta)[-drafts:]
    return float(largest[-1] + np.log(np.exp(largest - largest[-1]).sum()))


class _CloseEnoughError(Exception):
    """The search has come close enough."""


def search(
    side: Side,
    passive: Group,
    absent: float,
    times: Times,
    goal: np.ndarray,
    base: np.ndarray,
    sign: float,
    evaluations: int,
) -> np.ndarray:
    """Log-weights of one side: minimises ``Phi(b + x) - goal.x`` over ``sign x >= 0``, and keeps the best law seen.

    L-BFGS-B in ``x sqrt(goal)``: the curvature of Phi in the log-weight of a unit is at most its r, which ends near its
    goal.
    """
    span = (float(base.min()) - ROOM * (sign < 0), float(base.max()) + ROOM * (sign > 0))
    nodes = arguments(span[0], span[1] + np.log(times.n + len(side.p)), COARSE)
    clocks = make_clocks(side.group, passive, absent, times, nodes)
    stretch = sign / np.sqrt(np.maximum(goal, 1e-9))
    least, best = np.inf, base

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal least, best
        theta = base + x * stretch
        found = race_law(clocks, theta)
        lost = float(np.maximum(sign * (goal - found.r), 0.0).sum())
        if lost < least:
            least, best = lost, theta
        if lost <= TOLERANCE:
            raise _CloseEnoughError
        return found.phi - float(goal @ (theta - base)), (found.r - goal) * stretch

    bounds = Bounds(np.zeros(len(base)), ROOM / np.abs(stretch))
    options = {"maxfun": evaluations, "maxcor": 20, "gtol": 1e-12, "ftol": 1e-16}
    with contextlib.suppress(_CloseEnoughError):
        minimize(value, np.zeros(len(base)), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return best
