"""The optimum where target and draft have different variances, from the distribution of one log-likelihood ratio.

H = {p/q <= e^tau}: outside or inside of a ball.  ``alpha*_n = 1 + min over tau of P(L <= tau) - Q(L <= tau)^n``, and
the minimum lies at a root of ``f(tau) = tau - log n - (n-1) log Q(L <= tau)``, at most ``log n``.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from mdsd_bounds.diffusion.contour import LogRatio

#: Places at which the objective is compared before and beside the search for the largest root.
_SCAN = 48


def optimum(ratio: LogRatio, n: int) -> tuple[float, float]:
    """``(alpha*, 1 - alpha*)``, each to its own relative precision."""
    log_n = math.log(n)
    if n == 1:
        return ratio.capped(0.0)
    if ratio.r > 0.0 and ratio.edge <= log_n:
        # p <= n q everywhere: near the top P(H) - Q(H)^n is positive, and the whole space gives 0.  The scan below
        # sees whether a smaller subset gives less.
        accepted, best = 1.0, 0.0
    else:
        accepted, best = _value(ratio, _largest_root(ratio, n), n)
    scan = _scan(ratio, n)
    worst = min(range(len(scan)), key=lambda k: scan[k][1])
    if -scan[worst][1] > best + 1e-12:
        # More than one local minimum (one dimension, wide draft): refine the best of the places compared.
        low, high = scan[max(worst - 1, 0)][0], scan[min(worst + 1, len(scan) - 1)][0]
        tau = brentq(lambda tau: _condition(ratio, tau, n), low, high, xtol=1e-14)
        return _value(ratio, tau, n)
    return accepted, best


def _log_below(ratio: LogRatio, tau: float) -> float:
    """log Q(L <= tau), to relative precision."""
    below, above = ratio.q_tails(tau)
    if above < 0.5:
        return math.log1p(-above)
    return math.log(below) if below > 0.0 else -math.inf


def _condition(ratio: LogRatio, tau: float, n: int) -> float:
    return tau - math.log(n) - (n - 1) * _log_below(ratio, tau)


def _largest_root(ratio: LogRatio, n: int) -> float:
    """The largest root of f, by Newton from log n downwards; the distance from log n is the unknown."""
    log_n = math.log(n)
    back = 0.0
    for _ in range(100):
        tau = log_n - back
        log_mass = _log_below(ratio, tau)
        slope = 1.0 - (n - 1) * ratio.density(tau) * math.exp(-log_mass)
        if slope <= 0.0:
            # Past the place where f turns: the root lies between here and the last step.
            break
        step = (-(n - 1) * log_mass - back) / slope
        back += step
        # In one dimension f need not be convex, and steps may turn back.
        if abs(step) <= 1e-15 * (1.0 + abs(back)):
            break
    return log_n - back


def _scan(ratio: LogRatio, n: int) -> list[tuple[float, float]]:
    """``(tau, P(L <= tau) - Q(L <= tau)^n)`` at places up to log n."""
    low = min(ratio.mean, 0.0) - 2.0 * ratio.spread - 1e-3
    found = []
    for tau in np.linspace(low, math.log(n), _SCAN):
        log_mass = _log_below(ratio, float(tau))
        found.append((float(tau), ratio.p_tails(float(tau))[0] - math.exp(n * log_mass)))
    return found


def _value(ratio: LogRatio, tau: float, n: int) -> tuple[float, float]:
    """Accepted and rejected mass of the subset that ends at a root tau of f."""
    log_mass = _log_below(ratio, tau)
    accepted = ratio.p_tails(tau)[0] - math.expm1(n * log_mass)
    if accepted < 0.5:
        return accepted, 1.0 - accepted
    above, left = ratio.q_tails(tau)[1], ratio.capped(tau)[1]
    if above > 0.0:
        # w = e^tau = n Q^(n-1) at the root, so 1 - Q^n = w Q(L > tau) h with h as in the equal case.
        left -= math.exp(tau) * above * (math.expm1(-n * log_mass) * (1.0 - above) / (n * above) - 1.0)
    rejected = max(left, 0.0)
    return 1.0 - rejected, rejected
