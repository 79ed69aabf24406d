"""Distribution of the log-likelihood ratio of two round Gaussians, by integrals along saddle-point contours.

Let ``L = log p/q`` for ``p = N(m_p, s_p^2 I_d)`` and ``q = N(m_q, s_q^2 I_d)``, ``delta = |m_p - m_q|`` and ``r =
s_q^2/s_p^2 - 1``.  Its cumulant function is elementary,

    ``K(s) = log E_q e^{sL} = (d/2) [s log(1+r) - log(1 + s r)] - s (1 - s) delta^2 / (2 s_p^2 (1 + s r))``,

and smooth through ``r = 0``, where the noncentral chi-square distribution of ``|X - c|^2`` has parameters that run off
to infinity.  Tail probabilities and expectations of capped ratios are ``1/(2 pi i)`` times the integral of ``e^{K(s) -
s tau}`` over one or two poles, 0 and 1, along any upward contour that leaves them on the right sides:

    ``Q(L > tau)``: 1/s, 0 on the left;   ``E_q (e^L - e^tau)_+``: e^tau / (s (s - 1)), both on the left;
    ``P(L <= tau)``: e^tau / (1 - s), 1 on the right;   and so on.

Each contour passes through the real minimum of its integrand and bends along the branch cut of K, so that the
integrand falls off like a normal density: nothing cancels, small tails keep their relative precision, and the
trapezoidal rule converges geometrically (Rice 1980 and Helstrom 1996 integrate chi-square tails in this way).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

#: Step of the trapezoidal rule in units of the integrand's width, halved until two results agree to the tolerance.
_STEP, _TOLERANCE, _HALVINGS = 0.25, 2e-13, 7
#: Nodes that are evaluated at once, and the most that one integral may take.
_NODES, _MOST = 64, 1 << 16


#: Integrals smaller than e to this are zero in double precision.
_UNDERFLOW = -760.0


@dataclass(frozen=True)
class LogRatio:
    """``L = log p/q``: dimension, delta / s_p, and ``r = s_q^2 / s_p^2 - 1``."""

    dimension: int
    shift: float
    r: float

    @property
    def mean(self) -> float:
        """``E_q L``."""
        return self._slope(0.0)

    @property
    def spread(self) -> float:
        """Standard deviation of L under q."""
        return math.sqrt(self._bend(0.0))

    @property
    def edge(self) -> float:
        """The least upper bound of L where r > 0, the largest lower bound where r < 0; infinity where r = 0."""
        if self.r == 0.0:
            return math.inf
        return 0.5 * self.dimension * math.log1p(self.r) + 0.5 * self.shift**2 / self.r

    @property
    def domain(self) -> tuple[float, float]:
        """Where K is finite on the real axis."""
        low = -1.0 / self.r if self.r > 0.0 else -math.inf
        return low, -1.0 / self.r if self.r < 0.0 else math.inf

    def cumulant(self, s: np.ndarray) -> np.ndarray:
        """K(s) of complex s."""
        z = s * self.r
        grown = 1.0 + z
        # log(1 + z) without loss where z is small, which numpy's complex log1p does not promise.
        log = 0.5 * np.log1p(2.0 * z.real + z.real**2 + z.imag**2) + 1j * np.arctan2(z.imag, grown.real)
        noncentral = 0.5 * self.shift**2 * s * (1.0 - s) / grown
        value: np.ndarray = 0.5 * self.dimension * (s * math.log1p(self.r) - log) - noncentral
        return value

    def _slope(self, s: float) -> float:
        r, grown = self.r, 1.0 + s * self.r
        central = 0.5 * self.dimension * ((math.log1p(r) - r) + r * (s * r) / grown)
        return central - 0.5 * self.shift**2 * (1.0 - 2.0 * s - r * s * s) / grown**2

    def _bend(self, s: float) -> float:
        r, grown = self.r, 1.0 + s * self.r
        return 0.5 * self.dimension * (r / grown) ** 2 + self.shift**2 * (1.0 + r) / grown**3

    def _twist(self, s: float) -> float:
        r, grown = self.r, 1.0 + s * self.r
        return -self.dimension * (r / grown) ** 3 - 3.0 * self.shift**2 * r * (1.0 + r) / grown**4

    def integral(self, tau: float, interval: tuple[float, float], poles: Sequence[float]) -> float:
        """``1/(2 pi) Int e^{K(s) - s tau} / prod |s - pole|`` along the contour through the real interval.

        The denominator is taken with the sign that makes the integrand positive on the real interval.
        """
        low, high = max(interval[0], self.domain[0]), min(interval[1], self.domain[1])

        def slope(s: float) -> float:
            return self._slope(s) - tau - sum(1.0 / (s - pole) for pole in poles)

        s0 = _minimum(slope, low, high)
        bend = self._bend(s0) + sum(1.0 / (s0 - pole) ** 2 for pole in poles)
        turn = self._twist(s0) / (6.0 * bend)
        width = 1.0 / math.sqrt(bend)
        start = self.cumulant(np.array([complex(s0)]))[0].real
        log = start - s0 * tau
        if log < _UNDERFLOW:
            return 0.0

        def terms(y: np.ndarray) -> np.ndarray:
            u = width * y
            s = s0 + 1j * u + turn * u * u
            value = np.exp(self.cumulant(s) - start - (s - s0) * tau) * (1.0 - 2j * turn * u)
            for pole in poles:
                value = value * ((s0 - pole) / (s - pole))
            real: np.ndarray = value.real
            return real

        total, step = _trapezoid(terms, _STEP), _STEP
        for _ in range(_HALVINGS):
            step *= 0.5
            coarse, total = total, _trapezoid(terms, step)
            if abs(total - coarse) <= _TOLERANCE * abs(total):
                break
        scale = width / math.pi
        for pole in poles:
            scale /= abs(s0 - pole)
        return total * scale * math.exp(log)

    def q_tails(self, tau: float) -> tuple[float, float]:
        """``Q(L <= tau)`` and ``Q(L > tau)``; the smaller to its own relative precision."""
        return self._tails(tau, 0.0)

    def p_tails(self, tau: float) -> tuple[float, float]:
        """``P(L <= tau)`` and ``P(L > tau)``; the smaller to its own relative precision."""
        return self._tails(tau, 1.0)

    def _tails(self, tau: float, pole: float) -> tuple[float, float]:
        if self.r > 0.0 and tau >= self.edge:
            return 1.0, 0.0
        if self.r < 0.0 and tau <= self.edge:
            return 0.0, 1.0
        # The larger side's integrand is squeezed against its pole, where the trapezoidal rule needs many nodes.
        above = tau > self._slope(pole)
        interval = (pole, math.inf) if above else (-math.inf, pole)
        tail = min(1.0, self.integral(tau, interval, (pole,)) * math.exp(pole * tau))
        return (1.0 - tail, tail) if above else (tail, 1.0 - tail)

    def density(self, tau: float) -> float:
        """Density of L under q."""
        if (self.r > 0.0 and tau >= self.edge) or (self.r < 0.0 and tau <= self.edge):
            return 0.0
        return self.integral(tau, (-math.inf, math.inf), ())

    def capped(self, tau: float) -> tuple[float, float]:
        """``E_q min(e^L, e^tau)`` and ``E_q (e^L - e^tau)_+``, which sum to one; the smaller to relative precision."""
        if self.r > 0.0 and tau >= self.edge:
            return 1.0, 0.0
        if self.r < 0.0 and tau <= self.edge:
            return math.exp(tau), -math.expm1(tau)
        left = self.integral(tau, (1.0, math.inf), (0.0, 1.0)) * math.exp(tau)
        if left <= 0.5:
            return 1.0 - left, left
        within = self.integral(tau, (0.0, 1.0), (0.0, 1.0)) * math.exp(tau)
        return within, 1.0 - within


def _trapezoid(terms: Callable[[np.ndarray], np.ndarray], step: float) -> float:
    """``step (terms(0)/2 + terms(step) + ...)``, until a run of terms vanishes."""
    total = -0.5 * float(terms(np.zeros(1))[0])
    for first in range(0, _MOST, _NODES):
        values = terms(step * np.arange(first, first + _NODES))
        total += float(values.sum())
        if np.abs(values[-_NODES // 4 :]).max() < 1e-18:
            break
    return total * step


def _minimum(slope: Callable[[float], float], low: float, high: float) -> float:
    """The root of an increasing function on an open interval, each end of which may be infinite."""
    if math.isinf(low) and math.isinf(high):
        middle = 0.5
    elif math.isinf(high):
        middle = low + 1.0
    elif math.isinf(low):
        middle = high - 1.0
    else:
        middle = 0.5 * (low + high)

    def bracket(end: float) -> float:
        """From the middle towards one end, until the slope changes its sign."""
        sign = 1.0 if end > middle else -1.0
        place = middle
        for k in range(1, 1100):
            place = middle + sign * 2.0**k if math.isinf(end) else end - (end - middle) * 0.5**k
            if sign * slope(place) >= 0.0:
                break
        return place

    here = slope(middle)
    if here == 0.0:
        return middle
    other = bracket(high) if here < 0.0 else bracket(low)
    found: float = brentq(slope, min(middle, other), max(middle, other), xtol=1e-300, rtol=1e-12)
    return found
