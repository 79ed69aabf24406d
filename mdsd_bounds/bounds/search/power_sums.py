"""Numbers behind the power sums of :mod:`.exponential_race_kernel`: weights, truncation, sensitivity."""

from __future__ import annotations

import math

import numpy as np

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
    """Bound on ``|dQ| / r`` when every sum that enters has a relative error r (see Rounding above)."""
    x = np.linspace(0.0, 4.0 * n + 20.0, 4001)
    growth = math.expm1(light) / light
    y = math.expm1(light)
    term, first, second = np.ones_like(x), np.ones_like(x), np.zeros_like(x)
    for k in range(1, n):
        term = term * (x + y * (k - 1)) / k
        first, second = first + term, second + k * term
    # The grid is finer than a percent of the width of the maximum; a tenth is added.
    return 2.0 + 1.1 * float((np.exp(-x / growth) * (x * first + second)).max())
