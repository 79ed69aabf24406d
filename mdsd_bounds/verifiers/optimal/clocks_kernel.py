"""The compiled loop of :mod:`mdsd_bounds.verifiers.optimal.clocks`: one polynomial in z per pair of nodes."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out += a b`` as polynomials, cut at their length."""
    n = out.shape[0]
    for j in range(n):
        if a[j] != 0.0:
            for k in range(n - j):
                out[j + k] += a[j] * b[k]


@njit(cache=True, nogil=True)
def correlate(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """``out_j += sum_k a_k b_{k-j}``: what :func:`product` by b takes derivatives to."""
    n = out.shape[0]
    for k in range(n):
        for j in range(k + 1):
            out[j] += a[k] * b[k - j]


@njit(cache=True, nogil=True)
def elementary(power: np.ndarray, out: np.ndarray) -> None:
    """Elementary symmetric polynomials from power sums (Newton's identities); ``power[0]`` is not used."""
    out[0] = 1.0
    for k in range(1, out.shape[0]):
        value, sign = 0.0, 1.0
        for m in range(1, k + 1):
            value += sign * out[k - m] * power[m]
            sign = -sign
        out[k] = value / k


@njit(cache=True, nogil=True)
def passive(
    power: np.ndarray, last: np.ndarray, ex: np.ndarray, come: np.ndarray, rate: np.ndarray, fade: np.ndarray,
    a0: np.ndarray, b0: np.ndarray,
) -> None:  # fmt: skip
    """A and B ``[T, n]`` of the tokens with c = 1: light ones by power sums ``[T, n]``, heavy ones ``[H, T]``."""
    n = power.shape[1]
    for t in range(power.shape[0]):
        elementary(power[t], a0[t])
        b0[t] = 0.0
        product(last[t], a0[t], b0[t])
        for j in range(n):
            a0[t, j] *= fade[t]
            b0[t, j] *= fade[t]
        for h in range(rate.shape[0]):
            e, y, x = ex[h, t], come[h, t], rate[h] * ex[h, t]
            for m in range(n - 1, 0, -1):
                b0[t, m] = b0[t, m] * e + b0[t, m - 1] * y + a0[t, m] * x
                a0[t, m] = a0[t, m] * e + a0[t, m - 1] * y
            b0[t, 0] = b0[t, 0] * e + a0[t, 0] * x
            a0[t, 0] *= e


@njit(cache=True, nogil=True)
def generating(
    power: np.ndarray, last: np.ndarray, a0: np.ndarray, b0: np.ndarray,
    ex: np.ndarray, come: np.ndarray, rate: np.ndarray, c: np.ndarray, weight: np.ndarray,
    value: np.ndarray, slope: np.ndarray,
) -> None:  # fmt: skip
    """F at every argument, and its derivatives.

    At every node the light tokens' power sums and those of the last arrival give A and B; each heavy token multiplies A
    by ``e + z c (1 - e)`` and takes B to ``B (e + z c (1 - e)) + c q e A``; F is the coefficient ``z^{n-1}`` of B.

    Parameters
    ----------
    power, last : ndarray
        ``[S, T, n]``; replaced by the derivatives of the weighted F with respect to them.
    a0, b0 : ndarray
        ``[T, n]`` from :func:`passive`.
    ex, come : ndarray
        ``[H, T]``: ``e^{-q t}`` and one minus it.
    rate, c : ndarray
        ``[H]`` q, and ``[S, H]``.
    weight : ndarray
        ``[T]``.
    value : ndarray
        ``[S]``: takes F.
    slope : ndarray
        ``[S, H]``: takes ``dF/dc``.
    """
    nodes, times, n = power.shape
    heavy = rate.shape[0]
    kept_a, kept_b = np.empty((heavy + 1, n)), np.empty((heavy + 1, n))
    light, ending = np.empty(n), np.empty(n)
    a, b = np.zeros(n + 1), np.zeros(n + 1)
    by_light, by_ending, by_last = np.empty(n), np.empty(n), np.empty(n)
    for s in range(nodes):
        value[s] = 0.0
        slope[s] = 0.0
        for t in range(times):
            elementary(power[s, t], light)
            ending[:] = 0.0
            product(last[s, t], light, ending)
            kept_a[0] = 0.0
            kept_b[0] = 0.0
            product(a0[t], light, kept_a[0])
            product(b0[t], light, kept_b[0])
            product(a0[t], ending, kept_b[0])
            for h in range(heavy):
                e, y, x = ex[h, t], c[s, h] * come[h, t], c[s, h] * rate[h] * ex[h, t]
                kept_a[h + 1, 0] = kept_a[h, 0] * e
                kept_b[h + 1, 0] = kept_b[h, 0] * e + x * kept_a[h, 0]
                for m in range(1, n):
                    kept_a[h + 1, m] = kept_a[h, m] * e + y * kept_a[h, m - 1]
                    kept_b[h + 1, m] = kept_b[h, m] * e + y * kept_b[h, m - 1] + x * kept_a[h, m]
            value[s] += weight[t] * kept_b[heavy, n - 1]
            a[:] = 0.0
            b[:] = 0.0
            b[n - 1] = weight[t]
            for h in range(heavy - 1, -1, -1):
                e, y, x = ex[h, t], come[h, t], rate[h] * ex[h, t]
                by_y, by_x = 0.0, b[0] * kept_a[h, 0]
                for m in range(1, n):
                    by_y += b[m] * kept_b[h, m - 1] + a[m] * kept_a[h, m - 1]
                    by_x += b[m] * kept_a[h, m]
                slope[s, h] += by_y * y + by_x * x
                y *= c[s, h]
                x *= c[s, h]
                for m in range(n):
                    a[m] = a[m] * e + a[m + 1] * y + b[m] * x
                    b[m] = b[m] * e + b[m + 1] * y
            by_light[:] = 0.0
            by_ending[:] = 0.0
            correlate(a[:n], a0[t], by_light)
            correlate(b[:n], b0[t], by_light)
            correlate(b[:n], a0[t], by_ending)
            by_last[:] = 0.0
            correlate(by_ending, light, by_last)
            correlate(by_ending, last[s, t], by_light)
            sign = 1.0
            power[s, t, 0] = 0.0
            for m in range(1, n):
                total = 0.0
                for k in range(m, n):
                    total += by_light[k] * light[k - m]
                power[s, t, m] = sign * total / m
                sign = -sign
            last[s, t] = by_last


@njit(cache=True, nogil=True)
def prefixes(
    power: np.ndarray, last: np.ndarray, fade: np.ndarray, ex: np.ndarray, come: np.ndarray, rate: np.ndarray,
    held: np.ndarray, weight: np.ndarray, value: np.ndarray,
) -> None:  # fmt: skip
    """Probability ``[K]`` that all drafts lie in each of K nested token sets.

    ``power, last [K, T, n]`` belong to their light tokens, ``held [K]`` counts their heavy ones, the first of ``rate``;
    ``fade [K, T]`` is the chance that no light token and no heavy one outside has arrived.
    """
    count, times, n = power.shape
    heavy_a, heavy_b = np.empty((rate.shape[0] + 1, n)), np.empty((rate.shape[0] + 1, n))
    light, ending = np.empty(n), np.empty(n)
    value[:] = 0.0
    for t in range(times):
        heavy_a[0] = 0.0
        heavy_b[0] = 0.0
        heavy_a[0, 0] = 1.0
        for h in range(rate.shape[0]):
            e, y, x = ex[h, t], come[h, t], rate[h] * ex[h, t]
            heavy_a[h + 1, 0] = heavy_a[h, 0] * e
            heavy_b[h + 1, 0] = heavy_b[h, 0] * e + x * heavy_a[h, 0]
            for m in range(1, n):
                heavy_a[h + 1, m] = heavy_a[h, m] * e + y * heavy_a[h, m - 1]
                heavy_b[h + 1, m] = heavy_b[h, m] * e + y * heavy_b[h, m - 1] + x * heavy_a[h, m]
        for k in range(count):
            elementary(power[k, t], light)
            ending[:] = 0.0
            product(last[k, t], light, ending)
            h = held[k]
            total = 0.0
            for m in range(n):
                total += light[m] * heavy_b[h, n - 1 - m] + ending[m] * heavy_a[h, n - 1 - m]
            value[k] += weight[t] * fade[k, t] * total
