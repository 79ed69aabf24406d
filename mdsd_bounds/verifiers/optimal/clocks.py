"""The law of a race among drafts without replacement, for any vocabulary: one integral over two clocks.

Give token v an exponential clock of rate q_v: the drafts are the first n arrivals.  For marks c,

    ``F(c) = E[ prod over drafts v of c_v ]
           = Int_0^inf [z^{n-1}] sum_j c_j q_j e^{-q_j t} prod_{v != j} (e^{-q_v t} + z c_v (1 - e^{-q_v t})) dt``,

j being the n-th arrival.  In a race of weights ``w = e^theta`` the racing tokens have ``c_v = e^{-s w_v}``; c = 1 on
the left side when the right one races, and c = 0 on the right one when the left races.  Since ``log x = Int (e^{-s} -
e^{-sx}) ds/s``,

    ``Phi(theta) = const - Int_0^inf F(e^{-s w}) ds/s``,   ``r_v = dPhi/dtheta_v = Int w_v c_v dF/dc_v ds``.

Tokens that are drafted for certain (the fixed ones of top_m_plus) multiply F by ``e^{-s w}``.

**Heavy and light.** Heavy tokens are factors of their own.  The others enter through the power sums ``X_m = sum (e^{q
t} - 1)^m`` and ``Y_m = sum q (e^{q t} - 1)^m`` of the units that share a mark: Newton's identities turn X into the
coefficients of ``prod (1 + z c (e^{q t} - 1))``, and the last arrival is ``sum_v c q_v / (1 + z c (e^{q_v t} - 1)) =
sum_m (-z)^m c^{m+1} Y_m``.  X and Y are series in the moments of q (Stirling numbers), and r of one token of a unit
is a series in its own q.  Only terms below a stated size are left out: light tokens are not treated as if drawn with
replacement.

**Error in t** (trapezoid rule in ``log t``).  On the ray ``t e^{i phi}`` the n factors that have arrived, the last
one differentiated, grow by at most ``cos^{-n} phi`` over their values at ``t cos phi``
(:mod:`mdsd_bounds.bounds.search.exponential_race`), and r_v is a sum of such products with positive coefficients: its
relative error is
at most ``2 cos^{-n}(phi) / (e^{2 pi phi/h} - 1)``.  Left of t_0, ``t`` times the density of the n-th arrival is at
most ``n (W_{i+1} t)^{n-i} / (n-i)!`` for any i < n, W_{i+1} the mass off the i heaviest: either the last arrival is
one of these i (``q t e^{-qt} <= 1/e`` each) and n - i others have arrived, or it is another and n - 1 - i others
have.  On the right fewer than n have arrived with at most the probability of a Poisson count of mean ``W_n t``; the
end lies 15% and two mean times beyond where that is below the cut.

**Error in s.** A set of total weight x enters r through ``Int e^{-sx} ds = 1/x`` alone, so that the rule in s is
wrong by a relative error that depends on x only.  The substitution is ``s = exp(y - e^{-y}/2)``: like ``log s`` on
the right, where small x need many octaves, and at its end after a few units on the left.  At the fine step the
relative error is below 1e-13 for all x in range: seen on a dense grid of x (it is smooth and periodic in log x), not
proved.

Every set's shares sum to one, so that ``sum r`` differs from one by the mean of both relative errors;
that is part of the certificate.  A search may use coarse steps, for its gradient is that of the sum itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import gammainccinv

from mdsd_bounds.verifiers.optimal import clocks_kernel

#: Moments of q kept for a unit: its tokens have ``q t < 1`` wherever anything is left to arrive.
MOMENTS = 18


def heavy_from(n: int) -> float:
    """Share of the mass left after the n - 1 heaviest tokens above which a token is a factor of its own."""
    return min(0.02, 0.08 / n)


@dataclass(frozen=True)
class Group:
    """Tokens of one side: rates ``[H]`` of heavy ones, moments ``[B, MOMENTS]`` of ``q scale`` of light units."""

    rate: np.ndarray
    moments: np.ndarray


@dataclass(frozen=True)
class Grid:
    """How fine: steps in log t (times :func:`time_step`) and in y, and the size of what is left out."""

    time_step: float
    argument_step: float
    cut: float


#: For a search, and for the law of the rule that runs.
COARSE, FINE = Grid(2.0, 0.55, 1e-8), Grid(1.0, 0.22, 1e-16)


@dataclass(frozen=True)
class Times:
    """Nodes of the first clock.

    Attributes
    ----------
    t, weight : ndarray
        ``[T]``.
    powers : ndarray
        ``(t / scale)^k / k!``, ``[MOMENTS + 1, T]``.
    n : int
        Number of draws.
    scale : float
        One over the mass that is left after the n - 1 heaviest tokens.
    cut : float
        Size of what is left out.
    """

    t: np.ndarray
    weight: np.ndarray
    powers: np.ndarray
    n: int
    scale: float
    cut: float


@cache
def time_step(n: int) -> float:
    """Step of ``log t`` for which the trapezoid rule's relative error is at most 1e-14."""

    def exponent(h: float) -> float:
        phi = math.atan(2 * math.pi / (h * n))
        return math.log(2.0) - n * math.log(math.cos(phi)) - 2 * math.pi * phi / h

    low, high = 0.001, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exponent(middle) <= math.log(1e-14) else (low, middle)
    return low


def mass_after(q: np.ndarray, count: int) -> float:
    """Mass of q off its ``count`` heaviest tokens, summed over what is left: one minus the rest would cancel."""
    return float(np.partition(q, len(q) - count - 1)[: len(q) - count].sum()) if count < len(q) else 0.0


def make_times(q: np.ndarray, n: int, grid: Grid) -> Times:
    """Nodes for rates ``q`` ``[V]`` with more than n positive ones."""
    heaviest = np.sort(np.partition(q, len(q) - n)[len(q) - n :])
    # W_1 .. W_n, each a sum of what is left.
    spare = (mass_after(q, n) + np.cumsum(heaviest))[::-1]
    left = [(math.log(grid.cut / n) + math.lgamma(n - i + 1)) / (n - i) - math.log(spare[i]) for i in range(n)]
    right = math.log(1.15 * float(gammainccinv(n, grid.cut)) + 2.0) - math.log(spare[n - 1])
    step = time_step(n) * grid.time_step
    t = np.exp(np.arange(max(left), right + step, step))
    scale = 1.0 / float(spare[n - 1])
    powers = np.array([(t / scale) ** k / float(math.factorial(k)) for k in range(MOMENTS + 1)])
    return Times(t, t * step, powers, n, scale, grid.cut)


def arguments(lowest: float, total: float, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights ``[S]`` of ``Int e^{-sx} ds`` for x from ``e^lowest`` to ``e^total``."""
    y = np.arange(-8.0, math.log(-math.log(grid.cut)) + total - lowest + 0.5, grid.argument_step)
    s = np.exp(y - np.exp(-y) / 2)
    weight = s * (1.0 + np.exp(-y) / 2) * grid.argument_step
    keep = weight > grid.cut / 8
    return s[keep] * math.exp(-total), weight[keep] * math.exp(-total)


@cache
def _arrivals() -> np.ndarray:
    """``m! S(k, m)``: ``(e^y - 1)^m = sum_k m! S(k, m) y^k / k!``.  ``[MOMENTS + 1, MOMENTS + 1]``."""
    table = np.zeros((MOMENTS + 1, MOMENTS + 1))
    table[0, 0] = 1.0
    for k in range(1, MOMENTS + 1):
        for m in range(1, k + 1):
            table[k, m] = m * (table[k - 1, m] + table[k - 1, m - 1])
    return table


@dataclass(frozen=True)
class PowerSums:
    """``X_m`` and ``Y_m`` ``[units, T]`` for m < n, each for the units in which it is not negligible."""

    x_units: list[np.ndarray]
    x: list[np.ndarray]
    y_units: list[np.ndarray]
    y: list[np.ndarray]


def power_sums(group: Group, times: Times) -> PowerSums:
    """Power sums of the light units at every time."""
    stirling, last = _arrivals(), float(times.t[-1]) / times.scale
    sums = PowerSums([], [], [], [])
    none = np.zeros(0, dtype=np.int64)
    for m in range(times.n):
        # Orders that the moments do not reach are far below the cut.
        x_units = y_units = none
        if 0 < m < MOMENTS:
            x_units = np.flatnonzero(group.moments[:, m - 1] * last**m > (times.cut if m > 1 else 0.0))
        if m < MOMENTS:
            y_units = np.flatnonzero(group.moments[:, m] * last ** (m + 1) > (times.cut if m else 0.0))
        k, j = min(max(m, 1), MOMENTS), min(m, MOMENTS)
        sums.x_units.append(x_units)
        sums.x.append(group.moments[x_units, k - 1 :] @ (stirling[k:, k, None] * times.powers[k:]))
        sums.y_units.append(y_units)
        sums.y.append(group.moments[y_units, j:] @ (stirling[j:-1, j, None] * times.powers[j:-1]) / times.scale)
    return sums


@dataclass(frozen=True)
class Clocks:
    """One side's race on fixed nodes.

    Attributes
    ----------
    times : Times
        Nodes t.
    s, ds : ndarray
        ``[S]`` nodes of the second clock.
    group : Group
        The racing tokens.
    sums : PowerSums
        Of its light units.
    ex, come : ndarray
        ``[H, T]`` survival and arrival of its heavy tokens.
    a0, b0 : ndarray
        ``[T, n]``: the tokens with c = 1 or 0.
    """

    times: Times
    s: np.ndarray
    ds: np.ndarray
    group: Group
    sums: PowerSums
    ex: np.ndarray
    come: np.ndarray
    a0: np.ndarray
    b0: np.ndarray


def make_clocks(
    own: Group, passive: Group, absent: float, times: Times, nodes: tuple[np.ndarray, np.ndarray]
) -> Clocks:
    """Clocks of the race of ``own``, with ``passive`` tokens of c = 1 and the mass ``absent`` of those with c = 0."""
    other = power_sums(passive, times)
    power, last = np.zeros((len(times.t), times.n)), np.zeros((len(times.t), times.n))
    for m in range(times.n):
        power[:, m] = other.x[m].sum(0)
        last[:, m] = (-1.0) ** m * other.y[m].sum(0)
    a0, b0 = np.empty_like(power), np.empty_like(power)
    light = (own.moments[:, 0].sum() + passive.moments[:, 0].sum()) / times.scale
    ex, come = _survival(passive.rate, times.t)
    clocks_kernel.passive(power, last, ex, come, passive.rate, _nobody(light + absent, times.t), a0, b0)
    return Clocks(times, *nodes, own, power_sums(own, times), *_survival(own.rate, times.t), a0, b0)


def _survival(rate: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        expected = np.outer(rate, t)
    return np.exp(-expected), -np.expm1(-expected)


def _nobody(rate: float | np.ndarray, t: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(-rate * t))


@dataclass(frozen=True)
class Law:
    """What a race does.

    Attributes
    ----------
    phi : float
        Phi up to a constant.
    r : ndarray
        ``[H + B + A]``: law of the heavy tokens, the light units and the tokens that are always drafted.
    series : ndarray
        ``[B, MOMENTS]``: r of a light token is ``sum_k series_k x^{k+1}``, ``x = q scale``; empty unless asked for.
    """

    phi: float
    r: np.ndarray
    series: np.ndarray


def race_law(clocks: Clocks, theta: np.ndarray, by_token: bool = False) -> Law:
    """Phi, its gradient and, if asked for, the series of r within units.

    Parameters
    ----------
    theta : ndarray
        ``[H + B + A]`` log-weights of heavy tokens, light units and tokens that are always drafted.

    Notes
    -----
    O(S T (H n + n^2)) and matrix products of S T B for each power of a unit that is not negligible.
    """
    n, times, s = clocks.times.n, clocks.times, clocks.s
    heavy, bins = len(clocks.group.rate), len(clocks.group.moments)
    weight = np.exp(theta)
    marks = np.exp(-weight[:, None] * s)
    sure = marks[heavy + bins :].prod(0)
    power, last = np.zeros((len(s), len(times.t), n)), np.zeros((len(s), len(times.t), n))
    raised = marks[heavy : heavy + bins]
    powers = [raised]
    for m in range(n):
        if m and len(clocks.sums.x_units[m]):
            power[:, :, m] = powers[m - 1][clocks.sums.x_units[m]].T @ clocks.sums.x[m]
        if len(clocks.sums.y_units[m]):
            last[:, :, m] = (-1.0) ** m * (powers[m][clocks.sums.y_units[m]].T @ clocks.sums.y[m])
        powers.append(powers[m] * raised)
    value, slope = np.empty(len(s)), np.empty((len(s), heavy))
    every = np.ascontiguousarray(marks[:heavy].T)
    clocks_kernel.generating(
        power, last, clocks.a0, clocks.b0, clocks.ex, clocks.come, clocks.group.rate, every, times.weight, value, slope
    )
    r = np.zeros(len(theta))
    moved = sure * clocks.ds
    r[:heavy] = weight[:heavy] * (moved @ (slope * every))
    r[heavy + bins :] = weight[heavy + bins :] * float(moved @ value)
    series = np.zeros((bins if by_token else 0, MOMENTS))
    stirling = _arrivals()
    light = weight[heavy : heavy + bins, None] * moved
    for m in range(n):
        units = clocks.sums.y_units[m]
        if len(units):
            part = (light[units] * powers[m][units]) @ np.ascontiguousarray(last[:, :, m]) * ((m + 1) * (-1.0) ** m)
            r[heavy + units] += (part * clocks.sums.y[m]).sum(1)
            if by_token:
                series[units, m:] += part @ (stirling[m:-1, m, None] * times.powers[m:-1]).T / times.scale
        units = clocks.sums.x_units[m]
        if m and len(units):
            part = (light[units] * powers[m - 1][units]) @ np.ascontiguousarray(power[:, :, m]) * m
            r[heavy + units] += (part * clocks.sums.x[m]).sum(1)
            if by_token:
                series[units, m - 1 :] += part @ (stirling[m:, m, None] * times.powers[m:]).T
    return Law(-float((clocks.ds / s) @ (sure * value)), r, series)


def prefix_mass(times: Times, group: Group, heavy_after: np.ndarray) -> np.ndarray:
    """``Q`` of the nested sets that hold the first b light units and the heavy tokens before them.

    Parameters
    ----------
    group : Group
        All tokens, in order.
    heavy_after : ndarray
        ``[H + B + 1]`` int64, how many of the tokens of each prefix of all units are heavy.

    Returns
    -------
    ndarray
        ``[H + B + 1]``.
    """
    sums, n = power_sums(group, times), times.n
    light_after = np.arange(len(heavy_after)) - heavy_after
    power, last = (np.zeros((len(heavy_after), len(times.t), n)) for _ in range(2))
    for m in range(n):
        for out, units, values, sign in (
            (power, sums.x_units[m], sums.x[m], 1.0),
            (last, sums.y_units[m], sums.y[m], (-1.0) ** m),
        ):
            total = np.zeros((len(group.moments) + 1, len(times.t)))
            total[units + 1] = values
            out[:, :, m] = sign * np.cumsum(total, 0)[light_after]
    ex, come = _survival(group.rate, times.t)
    # Heavy tokens outside the set must not have arrived; those inside are counted.
    outside = np.concatenate([np.cumsum(group.rate[::-1])[::-1], [0.0]])[heavy_after]
    light = group.moments[:, 0].sum() / times.scale
    value = np.empty(len(heavy_after))
    fade = _nobody(light + outside[:, None], times.t)
    clocks_kernel.prefixes(power, last, fade, ex, come, group.rate, heavy_after, times.weight, value)
    return value
