"""Numbers behind the power sums of :mod:`.exponential_race_kernel`: weights, truncation, sensitivity."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaincc

from mdsd_bounds._backend.stirling import surjections

#: Powers kept of the tokens that are not convolved one by one.
ORDER = 8


def power_weights() -> tuple[np.ndarray, np.ndarray]:
    """``[9, 9]`` weights ``m! S(k, m)/k!`` of formula (2), and ``[61]`` coefficients a_k of ``-log(2 - e^x)``."""
    most = 60
    share = (surjections(most) / np.array([[float(math.factorial(k))] for k in range(most + 1)])).T
    rest = np.array([sum(share[m, k] / m for m in range(1, k + 1)) for k in range(most + 1)])
    return share[: ORDER + 1, : ORDER + 1].copy(), rest


def sensitivity(n: int, light: float = 0.25) -> float:
    """Bound on ``|dQ| / r`` when every sum that enters has a relative error r (see Rounding in the kernel).

    ``2 + max over x of (1 - log(1 - y)/light) x B(x)``, x the expected light arrivals, ``y = e^light - 1`` and B the
    smallest of one and two bounds on ``Pr(fewer than n light tokens have rung)``: ``e^-x sum over k < n of (g x)^k/k!``
    with ``g = y/light``, as ``e_k(y) <= (sum y)^k/k!``; and ``Pr(Poisson(x - (n-1) light) < n)``, as the rate still
    running after fewer than n arrivals is at least that.  About 2.4 n.
    """
    x = np.linspace(0.0, 4.0 * n + 20.0, 4001)
    y = math.expm1(light)
    growth = y / light
    # Never above one again once below: the logarithm is concave and starts at zero.
    counted = np.exp((growth - 1.0) * x) * gammaincc(n, growth * x)
    waited = gammaincc(n, np.maximum(x - light * (n - 1), 0.0))
    fewer = np.minimum(np.minimum(counted, waited), 1.0)
    # ``fewer`` does not rise: between two points of the grid x times it is at most this.
    return 2.0 + (1.0 - math.log1p(-y) / light) * float((x[1:] * fewer[:-1]).max())
