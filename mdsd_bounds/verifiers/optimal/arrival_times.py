"""Nodes of the integral over the time of the last draft, with the proof of its error.

Give token v an exponential arrival time of rate q_v; the drafts are the first n arrivals.  r is an integral over the
time t of the n-th arrival (:mod:`mdsd_bounds.verifiers.optimal.order_sweep`), taken by the trapezoid rule in ``log t``.

**Step.** On the ray ``t e^{i phi}`` the n factors that have arrived, the last one differentiated, grow by at most
``cos^{-n} phi`` over their values at ``t cos phi`` (:mod:`mdsd_bounds.bounds.search.exponential_race`), and r_v is a
sum of such products with positive coefficients: its relative error is at most ``2 cos^{-n}(phi) / (e^{2 pi phi/h} -
1)``.

**Ends.** Left of t_0, ``t`` times the density of the n-th arrival is at most ``n (W_{i+1} t)^{n-i} / (n-i)!`` for any
i < n, W_{i+1} the mass outside the i largest: either the last arrival is one of these i (``q t e^{-qt} <= 1/e`` each)
and n - i others have arrived, or it is another and n - 1 - i others have.  On the right fewer than n have arrived with
at most the probability of a Poisson count of mean ``W_n t``; the end lies 15% and two mean times beyond where that is
below the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import gammainccinv

from mdsd_bounds._backend.lanes import LANES
from mdsd_bounds.bounds.search.exponential_race import trapezoid_step


@dataclass(frozen=True)
class Accuracy:
    """Relative error of the trapezoid rule, and probability of what the ends leave out."""

    step: float
    cut: float


#: For the distribution of the rule that runs, and for a search alone.
FINE, COARSE = Accuracy(1e-14, 1e-16), Accuracy(1e-7, 1e-8)


@njit(cache=True, nogil=True)
def rescaling(least: float) -> float:
    """Power of two by which rates are multiplied so that the mass ``least`` outside the n - 1 largest is near one.

    Drafts depend on the ratios of rates alone.  Nodes far from one would lose digits: ``exp(x)`` has a relative error
    of ``|x|`` units of rounding.
    """
    return math.ldexp(1.0, min(-math.frexp(least)[1], 960))


class Ends(NamedTuple):
    """What the nodes for n draws depend on beside the masses: ``left`` ``[n]`` and ``right`` ends, and the step."""

    left: np.ndarray
    right: float
    step: float


@cache
def ends(n: int, accuracy: Accuracy = FINE) -> Ends:
    """The constants for n draws."""
    missing, cut = n - np.arange(n), accuracy.cut
    left = np.array([(math.log(cut / n) + math.lgamma(k + 1)) / k for k in missing])
    right = math.log(1.15 * float(gammainccinv(n, cut)) + 2.0)
    return Ends(left, right, trapezoid_step(n, accuracy.step, factor=2.0)[0])


def arrival_times(spare: np.ndarray, n: int, accuracy: Accuracy = FINE) -> tuple[np.ndarray, np.ndarray]:
    """Nodes t and weights ``[T]``; T is 56 to 120 on truncated rows at n = 4 to 8.

    ``spare`` comes from :func:`mdsd_bounds.verifiers.optimal.unit_kernels.spare_masses`.  T is a multiple of eight
    (:mod:`mdsd_bounds._backend.lanes`): the last nodes may lie beyond the right end.
    """
    t = nodes(spare, ends(n, accuracy))
    return t, t * ends(n, accuracy).step


@njit(cache=True, nogil=True)
def nodes(spare, given):  # type: ignore[no-untyped-def]
    """The nodes ``[T]``."""
    n, step, first = len(given.left), given.step, -np.inf
    for i in range(n):
        first = max(first, given.left[i] - np.log(spare[i]))
    count = int((given.right - np.log(spare[n - 1]) + step - first) / step) + 1
    t = np.empty(-(-count // LANES) * LANES)
    for j in range(len(t)):
        t[j] = np.exp(first + step * j)
    return t
