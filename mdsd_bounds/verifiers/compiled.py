"""Loops over one row, compiled by numba: excess functions and the race of Gumbel list matching."""

from __future__ import annotations

import numpy as np
from numba import njit

#: Sums may be reordered (that is what lets them run in vector registers); NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True)
def above_draft(p: np.ndarray, q: np.ndarray, above: np.ndarray, below: np.ndarray) -> int:
    """Copy p and q where p > q to the front of ``above`` and ``below``; returns how many."""
    count = 0
    for i in range(p.shape[0]):
        above[count] = p[i]
        below[count] = q[i]
        count += p[i] > q[i]
    return count


@njit(cache=True, nogil=True, fastmath=_FAST)
def excess(above: np.ndarray, below: np.ndarray, tau: float) -> float:
    """``E(tau)``."""
    total = 0.0
    for i in range(above.shape[0]):
        total += max(above[i] - tau * below[i], 0.0)
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _excess_and_mass(above: np.ndarray, below: np.ndarray, tau: float) -> tuple[float, float]:
    total, mass = 0.0, 0.0
    for i in range(above.shape[0]):
        left = above[i] - tau * below[i]
        total += max(left, 0.0)
        mass += below[i] if left > 0.0 else 0.0
    return total, mass


@njit(cache=True, nogil=True)
def rejection(above: np.ndarray, below: np.ndarray, taus: np.ndarray, lefts: np.ndarray) -> None:
    """``tau_n`` and ``E(tau_n)`` of recursive rejection with replacement, n = 1..len(taus)."""
    tau, left = 0.0, 1.0
    for k in range(taus.shape[0]):
        tau += left
        left = excess(above, below, tau)
        taus[k], lefts[k] = tau, left


@njit(cache=True, nogil=True)
def k_seq_rho(above: np.ndarray, below: np.ndarray, n: int, start: float) -> float:
    """Root in [1, n] of ``E(rho) = (1 - (1 - E(rho)) / rho)^n``: Newton steps inside a bracket."""
    low, high = 1.0, float(n)
    rho = min(max(start, low), high)
    for _ in range(80):
        value, mass = _excess_and_mass(above, below, rho)
        miss = max(1.0 - (1.0 - value) / rho, 0.0)
        gap = value - miss**n
        if gap > 0.0:
            low = rho
        else:
            high = rho
        rate = -mass - n * miss ** (n - 1) * ((1.0 - value) / rho - mass) / rho
        following = rho - gap / rate if rate < 0.0 else low
        if not low < following < high:
            following = (low + high) / 2.0
        if high - low <= 4e-16 * high or abs(following - rho) <= 2e-16 * rho:
            break
        rho = following
    return min(rho * (1.0 + 4e-16), float(n))


@njit(cache=True, nogil=True, fastmath={"contract"})
def gumbel_rates(
    c: np.ndarray,
    slope: np.ndarray,
    q: np.ndarray,
    p: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray,
    most: int,
    rates: np.ndarray,
) -> None:
    """Add to ``rates[n - 1]``, n <= most, the integral of ``n e^{-nt} sum_i p_i [1 - (1-e^{-tc_i})(1-q_i G_i)^{n-1}]``.

    A difference of exponentials over its slope is off by rounding / slope, and slope >= q_i wherever q_i multiplies it.
    """
    missed = np.empty(most)
    everything = p.sum()
    for node in range(t.shape[0]):
        missed[:] = 0.0
        end = np.searchsorted(c, 40.0 / t[node])
        later, curve = 0.0, 0.0
        for k in range(end - 1, -1, -1):
            stay = np.exp(-t[node] * c[k])
            curve += (stay - later) / slope[k]
            later = stay
            power = p[k] * (1.0 - stay)
            each = max(1.0 - q[k] * curve, 0.0)
            for n in range(most):
                missed[n] += power
                power *= each
        beyond = p[end:].sum()
        for n in range(most):
            found = everything - missed[n] - beyond
            rates[n] += weight[node] * (n + 1) * np.exp(-(n + 1) * t[node]) * found
