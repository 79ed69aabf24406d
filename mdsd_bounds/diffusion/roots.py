"""Where the optimal subset of a Gaussian step ends, and the accepted and rejected mass there, compiled.

q = N(0, 1) and p = N(delta, 1) along the line through both means.  ``f(t) = delta t - delta^2/2 - log n - (n-1) log
Phi(t)`` is the log of ``w(t) / G(t)``, with w = p/q and ``G = n Phi^(n-1)`` the density of the largest of n drafts
relative to q.  f is convex; its larger root t* ends the optimal subset, its smaller root is a.
"""

from __future__ import annotations

import math

from numba import njit

from mdsd_bounds.diffusion.normal import LOG_ROOT_2PI, density, log_ndtr, mills, mills_gap, ndtr

#: Draws of a standard normal lie within this, and what lies beyond has no mass in double precision.
FAR = 38.0


@njit(cache=True, nogil=True, error_model="numpy")
def log_ratio(t: float, delta: float, n: float) -> float:
    """f(t)."""
    return delta * (t - 0.5 * delta) - math.log(n) - (n - 1.0) * log_ndtr(t)


@njit(cache=True, nogil=True, error_model="numpy")
def larger_root(delta: float, n: float) -> float:
    """t*; infinity where delta = 0 < n - 1.

    Newton from ``t = log(n)/delta + delta/2``, where f >= 0: convexity makes it monotone.  The unknown is the distance
    from there, so that no digits are lost where it is small.
    """
    if n == 1.0:
        return 0.5 * delta
    if delta == 0.0:
        return math.inf
    start = math.log(n) / delta + 0.5 * delta
    back = 0.0
    for _ in range(200):
        t = start - back
        log_mass = log_ndtr(t)
        slope = delta - (n - 1.0) * math.exp(-0.5 * t * t - LOG_ROOT_2PI - log_mass)
        step = (-(n - 1.0) * log_mass - delta * back) / slope
        back += step
        if not abs(step) > 1e-16 * abs(start):
            break
    return start - back


@njit(cache=True, nogil=True, error_model="numpy")
def smaller_root(delta: float, n: float, larger: float) -> float:
    """a, by bisection; minus infinity for n = 1, where every draft below t* keeps its key."""
    if n == 1.0:
        return -math.inf
    low, high = -(1.0 + math.sqrt(2.0)) * delta - math.sqrt(2.0 * math.log(n)) - 3.0, larger
    if delta == 0.0:
        high = FAR
    else:
        # The minimum of f separates its roots: bisect on the slope first.
        left = low
        for _ in range(80):
            middle = 0.5 * (left + high)
            slope = delta - (n - 1.0) * math.exp(-0.5 * middle * middle - LOG_ROOT_2PI - log_ndtr(middle))
            if slope < 0.0:
                left = middle
            else:
                high = middle
    for _ in range(100):
        middle = 0.5 * (low + high)
        if log_ratio(middle, delta, n) > 0.0:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True, error_model="numpy")
def deficit(x: float, delta: float, n: float) -> float:
    """``D(x) = Phi(x - delta) - Phi(x)^n``: what p has more than the largest of n drafts, up to x."""
    below: float = ndtr(x - delta) - ndtr(x) ** n
    return below


@njit(cache=True, nogil=True, error_model="numpy")
def optimum(delta: float, n: float) -> tuple[float, float, float]:
    """``(alpha*, 1 - alpha*, log(1 - alpha*))``, each to its own relative precision.

    ``1 - alpha* = phi(t - delta) [R(t - delta) - R(t) h]`` at t*, where ``h = (1 - Phi^n) / (n Phi^(n-1) (1 - Phi))``.
    """
    if delta == 0.0:
        return 1.0, 0.0, -math.inf
    t = larger_root(delta, n)
    tail = ndtr(-t)
    log_none = n * log_ndtr(t)
    accepted = -math.expm1(log_none) + ndtr(t - delta)
    if accepted < 0.5:
        return accepted, 1.0 - accepted, math.log1p(-accepted)
    scaled = mills_gap(t, delta)
    if n > 1.0 and tail > 0.0:
        scaled -= mills(t) * (math.expm1(-log_none) * (1.0 - tail) / (n * tail) - 1.0)
    log_rejected = math.log(scaled) - 0.5 * (t - delta) ** 2 - LOG_ROOT_2PI
    rejected = math.exp(log_rejected)
    return 1.0 - rejected, rejected, log_rejected


@njit(cache=True, nogil=True, error_model="numpy")
def capped(excess: float, delta: float) -> tuple[float, float]:
    """``E_q min(w, tau)`` and ``E_q (w - tau)_+`` for tau = 1 + excess: what is accepted and left at a cap tau on w.

    With ``x = log(tau)/delta + delta/2`` the second is ``phi(x - delta) [R(x - delta) - R(x)]``.
    """
    x = math.log1p(excess) / delta + 0.5 * delta
    accepted = ndtr(x - delta) + (1.0 + excess) * ndtr(-x)
    if accepted < 0.5:
        return accepted, 1.0 - accepted
    left = density(x - delta) * mills_gap(x, delta)
    return 1.0 - left, left


@njit(cache=True, nogil=True, error_model="numpy")
def recursive_cap(delta: float, drafts: int) -> float:
    """``tau - 1`` after ``drafts`` rounds of recursive rejection: ``tau <- tau + E_q (w - tau)_+``, from tau = 0."""
    excess = 0.0
    for _ in range(1, drafts):
        excess += capped(excess, delta)[1]
    return excess
