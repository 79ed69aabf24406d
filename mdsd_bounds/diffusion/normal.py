"""Normal tails to full relative precision, compiled: the scalars that every equal-variance formula is built from.

Phi is the standard normal distribution function, phi its density, and ``R(y) = Phi(-y) / phi(y)`` Mills' ratio.
Differences of tails are taken through ``R(x - delta) - R(x)``, which is positive and needs no cancellation of terms
near one; where delta is small it is the integral of ``-R'(y) = 1 - y R(y)``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_ROOT_HALF = math.sqrt(0.5)
#: log sqrt(2 pi).
LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)
#: From here on the asymptotic series of R reaches 1e-16 within ten terms.
_SERIES_FROM = 25.0
_TERMS = 10
#: Below this delta the difference of Mills' ratios is an integral.
_SHORT = 0.5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(14)


@njit(cache=True, nogil=True, error_model="numpy")
def ndtr(x: float) -> float:
    """Phi(x)."""
    return 0.5 * math.erfc(-x * _ROOT_HALF)


@njit(cache=True, nogil=True, error_model="numpy")
def density(x: float) -> float:
    """phi(x)."""
    return math.exp(-0.5 * x * x - LOG_ROOT_2PI)


@njit(cache=True, nogil=True, error_model="numpy")
def mills(y: float) -> float:
    """``R(y)``; overflows to infinity below y = -37.5."""
    if y < _SERIES_FROM:
        return math.exp(0.5 * y * y + LOG_ROOT_2PI) * 0.5 * math.erfc(y * _ROOT_HALF)
    term, total = 1.0 / y, 0.0
    for k in range(_TERMS):
        total += term
        term *= -(2 * k + 1) / (y * y)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def log_ndtr(x: float) -> float:
    """log Phi(x), to relative precision on both sides."""
    if x > -1.0:
        return math.log1p(-0.5 * math.erfc(x * _ROOT_HALF))
    return math.log(mills(-x)) - 0.5 * x * x - LOG_ROOT_2PI


@njit(cache=True, nogil=True, error_model="numpy")
def mills_gap(x: float, delta: float) -> float:
    """``R(x - delta) - R(x)`` for delta >= 0, to relative precision."""
    if x - delta >= _SERIES_FROM:
        total, coefficient = 0.0, 1.0
        shrink = math.log1p(-delta / x)
        for k in range(_TERMS):
            power = 2 * k + 1
            # Beyond x = 1e100 or so later terms underflow to zero, which is right.
            total += coefficient * x ** (-power) * math.expm1(-power * shrink)
            coefficient *= -power
        return total
    if delta > _SHORT:
        return mills(x - delta) - mills(x)
    total = 0.0
    for node, weight in zip(_NODES, _WEIGHTS):  # noqa: B905 (compiled code has no strict zip)
        y = x - 0.5 * delta * (1.0 + node)
        total += weight * (1.0 - y * mills(y))
    return 0.5 * delta * total
