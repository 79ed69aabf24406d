"""Loops over one row, compiled by numba: excess functions and the race of Gumbel list matching."""

from __future__ import annotations

import numpy as np
from numba import njit

#: Sums may be reordered (that is what lets them run in vector registers); NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
#: Bins of p/q in [1, n] that bracket the roots of K-SEQ.
BINS = 1024
#: Parts into which one root's bracket is divided at a time.
PARTS = 8


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
def _gap(value: float, rho: float, n: int) -> float:
    """``E(rho) - (1 - (1 - E(rho)) / rho)^n``: not negative below the root, not positive above it."""
    return value - max(1.0 - (1.0 - value) / rho, 0.0) ** n


@njit(cache=True, nogil=True)
def _root(
    above: np.ndarray, below: np.ndarray, more: float, slope: float, n: int, low: float, high: float
) -> tuple[float, float]:
    """Root in [low, high] and ``E`` there: Newton steps inside a bracket.

    ``E(rho) = more - slope rho`` plus the excess of the given tokens.
    """
    rho = low
    for _ in range(80):
        value, mass = _excess_and_mass(above, below, rho)
        value, mass = value + more - slope * rho, mass + slope
        gap = _gap(value, rho, n)
        if gap > 0.0:
            low = rho
        else:
            high = rho
        miss = max(1.0 - (1.0 - value) / rho, 0.0)
        rate = -mass - n * miss ** (n - 1) * ((1.0 - value) / rho - mass) / rho
        following = rho - gap / rate if rate < 0.0 else low
        if not low < following < high:
            following = (low + high) / 2.0
        if high - low <= 4e-16 * high or abs(following - rho) <= 2e-16 * rho:
            break
        rho = following
    rho = min(rho * (1.0 + 4e-16), float(n))
    return rho, excess(above, below, rho) + more - slope * rho


@njit(cache=True, nogil=True)
def k_seq_roots(above: np.ndarray, below: np.ndarray, counts: np.ndarray, rhos: np.ndarray, lefts: np.ndarray) -> None:
    """rho* and ``E(rho*)`` for every number of drafts in ``counts``, from the tokens with p > q.

    The ratios p/q are binned over [1, n] once: at the edges of the bins E is known from sums over bins, so each root
    is bracketed by one bin, and only the tokens of these bins are looked at again.
    """
    most = float(counts.max())
    edge = max(most - 1.0, 1e-300) / BINS
    held_p, held_q = np.zeros(BINS + 2), np.zeros(BINS + 2)
    place = np.empty(above.shape[0], np.int32)
    for i in range(above.shape[0]):
        steps = BINS if above[i] >= most * below[i] else int((above[i] / below[i] - 1.0) / edge)
        place[i] = min(steps, BINS)
        held_p[place[i]] += above[i]
        held_q[place[i]] += below[i]
    for j in range(BINS, -1, -1):
        held_p[j] += held_p[j + 1]
        held_q[j] += held_q[j + 1]
    wanted = np.zeros(BINS + 1, np.bool_)
    bins = np.empty(counts.shape[0], np.int64)
    for c in range(counts.shape[0]):
        low, high = 0, BINS
        while high - low > 1:
            middle = (low + high) // 2
            rho = 1.0 + middle * edge
            if _gap(held_p[middle] - rho * held_q[middle], rho, counts[c]) > 0.0:
                low = middle
            else:
                high = middle
        bins[c] = low
        # A ratio beside an edge may have been rounded across it.
        wanted[max(low - 1, 0) : low + 2] = True
    kept = 0
    few_p, few_q, few_place = np.empty_like(above), np.empty_like(above), np.empty_like(place)
    for i in range(above.shape[0]):
        few_p[kept], few_q[kept], few_place[kept] = above[i], below[i], place[i]
        kept += wanted[place[i]]
    near_p, near_q = np.empty(kept), np.empty(kept)
    for c in range(counts.shape[0]):
        first, last, near = max(bins[c] - 1, 0), min(bins[c] + 1, BINS - 1), 0
        for i in range(kept):
            if first <= few_place[i] <= last:
                near_p[near], near_q[near] = few_p[i], few_q[i]
                near += 1
        low, high = 1.0 + first * edge, min(1.0 + (last + 1) * edge, float(counts[c]))
        more, slope = held_p[last + 1], held_q[last + 1]
        rhos[c], lefts[c] = _root(near_p[:near], near_q[:near], more, slope, counts[c], low, max(high, low))


@njit(cache=True, nogil=True)
def k_seq_root(above: np.ndarray, below: np.ndarray, n: int) -> float:
    """rho* for one number of drafts; the two arrays are written over.

    E at the edges of eight equal parts of the bracket says in which of them the root lies.  The tokens whose ratio lies
    above that part add a line to E, those below add nothing, and only the others are kept for the next round.
    """
    low, high, more, slope, count = 1.0, float(n), 0.0, 0.0, above.shape[0]
    for _ in range(6):
        if count <= 64:
            break
        width, values = (high - low) / PARTS, np.zeros(PARTS)
        for first in range(0, count, 512):
            part_p, part_q = above[first : min(first + 512, count)], below[first : min(first + 512, count)]
            for j in range(1, PARTS):
                values[j] += excess(part_p, part_q, low + j * width)
        part = 0
        for j in range(1, PARTS):
            rho = low + j * width
            if _gap(values[j] + more - slope * rho, rho, n) > 0.0:
                part = j
        if part < PARTS - 1:
            high = low + (part + 1) * width
        low = low + part * width
        kept = 0
        for i in range(count):
            p, q = above[i], below[i]
            above[kept], below[kept] = p, q
            over, under = p > high * q, p <= low * q
            more += p if over else 0.0
            slope += q if over else 0.0
            kept += not (over or under)
        count = kept
    return _root(above[:count], below[:count], more, slope, n, low, high)[0]


@njit(cache=True, nogil=True, fastmath=_FAST)
def found(weight: np.ndarray, q: np.ndarray, rates: np.ndarray) -> None:
    """``rates[n - 1] = sum_i weight_i (1 - (1 - q_i)^n)``: mass of the tokens found among n independent draws.

    ``h_{n+1} = h_n + q (1 - h_n)`` keeps the digits of small q; blocks keep it in registers and cache.
    """
    rates[:] = 0.0
    seen = np.empty(512)
    for first in range(0, q.shape[0], 512):
        _add_found(weight[first : first + 512], q[first : first + 512], seen, rates)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_found(weight: np.ndarray, q: np.ndarray, seen: np.ndarray, rates: np.ndarray) -> None:
    for i in range(q.shape[0]):
        seen[i] = 0.0
    for n in range(rates.shape[0]):
        total = 0.0
        for i in range(q.shape[0]):
            seen[i] += q[i] * (1.0 - seen[i])
            total += weight[i] * seen[i]
        rates[n] += total


@njit(cache=True, nogil=True, fastmath=_FAST)
def found_after_first(p: np.ndarray, q: np.ndarray, rates: np.ndarray) -> None:
    """``rates[n - 1] = sum min(p, q) + sum_i (p_i - q_i)_+ (1 - (1 - q_i)^{n-1})``."""
    rates[:] = 0.0
    seen, left, kept = np.empty(512), np.empty(512), 0.0
    for first in range(0, q.shape[0], 512):
        part_p, part_q = p[first : first + 512], q[first : first + 512]
        for i in range(part_q.shape[0]):
            left[i] = max(part_p[i] - part_q[i], 0.0)
            kept += min(part_p[i], part_q[i])
        _add_found(left[: part_q.shape[0]], part_q, seen, rates[1:])
    rates += kept


@njit(cache=True, nogil=True, fastmath={"contract"})
def gumbel_missed(
    c: np.ndarray,
    slope: np.ndarray,
    q: np.ndarray,
    p: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray,
    most: int,
    rates: np.ndarray,
) -> None:
    """Add to ``rates[n - 1]``, n <= most, the integral of ``n e^{-nt} sum_i p_i (1-e^{-tc_i})(1-q_i G_i)^{n-1}``.

    A difference of exponentials over its slope is off by rounding / slope, and slope >= q_i wherever q_i multiplies it.
    """
    missed = np.empty(most)
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
            rates[n] += weight[node] * (n + 1) * np.exp(-(n + 1) * t[node]) * (missed[n] + beyond)
