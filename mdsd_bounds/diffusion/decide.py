"""Verification along one line: which of n projected drafts is the output, compiled.

``S_k = (x_k - m_q).e / s``, e the direction of ``m_p - m_q``: N(0, 1) under the draft, N(delta, 1) under the target.
Every rule here looks at the projections alone, so whatever is orthogonal to e is the same under both and independent
of the decision.  ``docs/diffusion.md`` has the optimal rule and its proof.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mdsd_bounds.diffusion.normal import density, ndtr
from mdsd_bounds.diffusion.roots import FAR, capped, deficit, larger_root, smaller_root

#: Steps of Newton's method inside a bracket, each at least a halving: to double precision's spacing at one.
_STEPS = 70


@njit(cache=True, nogil=True, error_model="numpy")
def relative_density(x: float, n: float) -> float:
    """``G(x) = n Phi(x)^(n-1)``: the density of the largest of n draws of q, relative to q."""
    value: float = n * ndtr(x) ** (n - 1.0)
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def partner(goal: float, low: float, high: float, sign: float, delta: float, n: float) -> float:
    """x in (low, high), where ``sign D`` rises, with ``D(x) = goal``: Newton, halving outside the bracket."""
    x = 0.5 * (low + high)
    for _ in range(_STEPS):
        phi = ndtr(x)
        power = phi ** (n - 1.0)
        miss = ndtr(x - delta) - phi * power - goal
        if sign * miss < 0.0:
            low = x
        else:
            high = x
        slope = density(x - delta) - n * power * density(x)
        step = x - miss / slope if slope != 0.0 else math.nan
        # The slope vanishes at both ends, so that steps from near them may go anywhere.
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - x) <= 4e-16 * (1.0 + abs(x)):
            break
        x = new
    return x


@njit(cache=True, nogil=True, error_model="numpy")
def exchange_ends(delta: float, n: float) -> tuple[float, float, float]:
    """``(a, y0, t*)``: drafts below a and in (y0, t*) exchange keys.

    Examples
    --------
    >>> from mdsd_bounds.diffusion import exchange_ends
    >>> [round(x, 4) for x in exchange_ends(1.0, 2)]
    [-1.4863, 0.9186, 1.0284]
    """
    t = larger_root(delta, n)
    a = smaller_root(delta, n, t)
    if n == 1.0:
        return a, t, t
    # Nothing is drawn beyond FAR, where D is zero to double precision as at infinity.
    end = min(t, FAR)
    if a >= end:
        return a, end, t
    return a, partner(deficit(end, delta, n) + deficit(a, delta, n), a, end, -1.0, delta, n), t


@njit(cache=True, nogil=True, error_model="numpy")
def _optimal_one(
    s: np.ndarray, uniform: np.ndarray, delta: float, ends: tuple[float, float, float]
) -> tuple[int, float, float]:
    """``(child, chance of acceptance, t*)`` of the optimal rule."""
    n = float(len(s))
    a, y0, t = ends
    end = min(t, FAR)
    best = int(np.argmax(s))
    if s[best] >= end:
        # Keys move only below t*.
        return best, 1.0, t
    best = _largest_key(s, uniform, delta, n, (a, y0, end))[0]
    x = s[best]
    if a < x < y0:
        return best, math.exp(delta * (x - 0.5 * delta)) / relative_density(x, n), t
    return best, 1.0, t


@njit(cache=True, nogil=True, error_model="numpy")
def _largest_key(
    s: np.ndarray, uniform: np.ndarray, delta: float, n: float, ends: tuple[float, float, float]
) -> tuple[int, float]:
    """The draft with the largest key and that key; partners are solved for only where they can decide."""
    a, y0, end = ends
    total = deficit(end, delta, n) + deficit(a, delta, n)
    density_a, density_y0 = relative_density(a, n), relative_density(y0, n)
    best, best_key = -1, -math.inf
    for k in range(len(s)):
        key = s[k]
        if key < a:
            # It moves up with chance (w - G) / (G(y) - G), at most that with y0 for y.
            own = relative_density(key, n)
            wanted = math.exp(delta * (key - 0.5 * delta)) - own
            if uniform[k] * (density_y0 - own) < wanted:
                other = partner(total - deficit(key, delta, n), y0, end, -1.0, delta, n)
                if uniform[k] * (relative_density(other, n) - own) < wanted:
                    key = other
        elif y0 < key:
            # It moves below a with chance (G - w) / (G - G(x)), at most that with a for x.
            own = relative_density(key, n)
            wanted = own - math.exp(delta * (key - 0.5 * delta))
            if uniform[k] * (own - density_a) < wanted:
                if uniform[k] * own < wanted and best_key >= a:
                    continue
                other = partner(total - deficit(key, delta, n), min(-FAR, a - 1.0), a, 1.0, delta, n)
                if uniform[k] * (own - relative_density(other, n)) < wanted:
                    key = other
        if key > best_key:
            best, best_key = k, key
    return best, best_key


@njit(cache=True, nogil=True, error_model="numpy")
def optimal_rows(s: np.ndarray, uniform: np.ndarray, deltas: np.ndarray, child: np.ndarray, start: np.ndarray) -> None:
    """Children ``[B]``, -1 where rejected, and where the residual starts ``[B]``; ``uniform`` is ``[B, n + 1]``."""
    n = s.shape[1]
    ends = (math.nan, math.nan, math.nan)
    for row in range(s.shape[0]):
        delta = deltas[row]
        if delta == 0.0:
            child[row] = 0
            continue
        if row == 0 or delta != deltas[row - 1]:
            ends = exchange_ends(delta, float(n))
        best, chance, start[row] = _optimal_one(s[row], uniform[row], delta, ends)
        child[row] = best if uniform[row, n] < chance else -1


@njit(cache=True, nogil=True, error_model="numpy")
def recursive_rows(s: np.ndarray, uniform: np.ndarray, deltas: np.ndarray, child: np.ndarray, caps: np.ndarray) -> None:
    """Children ``[B]``, -1 where all are rejected, and ``tau_n - 1`` ``[B]``: recursive rejection in order."""
    n = s.shape[1]
    for row in range(s.shape[0]):
        delta, child[row] = deltas[row], -1
        if delta == 0.0:
            child[row] = 0
            continue
        excess, left = -1.0, 1.0
        for k in range(n):
            # w - tau, to relative precision where w is near one.
            over = math.expm1(min(delta * (s[row, k] - 0.5 * delta), 700.0)) - excess
            if uniform[row, k] * left < over:
                child[row] = k
                break
            excess += left
            left = capped(excess, delta)[1]
        caps[row] = excess
