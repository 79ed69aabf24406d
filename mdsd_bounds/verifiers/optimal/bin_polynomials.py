"""The polynomials of bins of light tokens, and r of one token of a bin.

With ``g = e^{qt} - 1`` a token's factor is ``e (1 + z g)``.  A bin enters through the power sums ``X_m = sum g^m`` and
``Y_m = sum q g^m``: Newton's identities turn X into the coefficients of ``prod (1 + z g)``, and the last arrival is
``sum q/(1 + z g) = sum_m (-z)^m Y_m``.  X and Y are series in the moments of q, since ``g^m = sum_k m! S(k, m)
(qt)^k/k!`` with Stirling numbers S.  Nothing is approximated but for terms below a stated size: light tokens are not
treated as if they were drawn with replacement.

**One token.** Several drafts in the bin that is picked are equally likely.  With ``a_m`` and ``b_m`` what completes m
arrivals in the bin (:class:`.order_tree.PickSums`), P and L the polynomials of the bin, token i of it is picked with

    ``r_i = sum_t { sum_m [b_m/m [z^{m-1}] g P/(1 + z g) + a_m/(m+1) [z^{m-1}] g L/(1 + z g)]
            + q_i sum_m a_m/(m+1) [z^m] P/(1 + z g)^2 }``,

m arrived drafts of the bin sharing its pick, or m and the last one.  (L counts the last arrival of any token, i among
them; the last term corrects for it and adds the case that i itself comes last.)  Expanded in g this is a power series
in q_i with coefficients that all tokens of the bin share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mdsd_bounds._backend.stirling import surjections
from mdsd_bounds.verifiers.optimal.bin_kernels import coefficients, newton

#: Moments of q kept for a bin: its tokens have ``q t < 1`` wherever anything is left to arrive.
MOMENTS = 18


def heavy_from(n: int) -> float:
    """Share of the mass off the n - 1 heaviest tokens above which a token is an item of its own."""
    return min(0.02, 0.08 / n)


@dataclass(frozen=True)
class Bins:
    """Bins at the nodes of a quadrature.

    Attributes
    ----------
    powers : ndarray
        ``(t / scale)^k / k!``, ``[MOMENTS + 1, T]``.
    scale : float
        Moments are those of ``q scale``.
    degree : ndarray
        ``[B]`` int64: degree kept of each bin's polynomial.
    arrived, closing : ndarray
        ``[sum of (degree + 1), T]``: coefficients of P and L.
    """

    powers: np.ndarray
    scale: float
    degree: np.ndarray
    arrived: np.ndarray
    closing: np.ndarray


def bin_polynomials(moments: np.ndarray, scale: float, t: np.ndarray, draws: tuple[int, float], cut: float) -> Bins:
    """Polynomials of the bins with ``moments`` ``[B, MOMENTS]`` of ``q scale``; terms below ``cut`` are left out.

    ``draws`` is n and the mass off the n - 1 heaviest tokens of the row.
    """
    n = draws[0]
    kept, stirling = min(n, MOMENTS), surjections(MOMENTS)
    powers = (t / scale) ** np.arange(MOMENTS + 1)[:, None] / np.array(
        [float(math.factorial(k)) for k in range(MOMENTS + 1)]
    ).reshape(-1, 1)
    x, y = np.zeros((kept, len(moments), len(t))), np.zeros((kept, len(moments), len(t)))
    last = float(t[-1]) / scale
    for m in range(kept):
        # Powers of g that stay below the cut at the last node stay below it at all of them.
        some = np.flatnonzero(moments[:, m] * last ** (m + 1) > (cut if m else 0.0))
        y[m, some] = moments[some, m:] @ (stirling[m:-1, m, None] * powers[m:-1]) / scale
        if m:
            some = np.flatnonzero(moments[:, m - 1] * last**m > (cut if m > 1 else 0.0))
            x[m, some] = moments[some, m - 1 :] @ (stirling[m:, m, None] * powers[m:])
    degree, arrived, closing = newton(x, y, moments[:, 0] / scale, t, draws, cut)
    return Bins(powers, scale, degree, arrived, closing)


def token_series(bins: Bins, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``[B, MOMENTS]``: r of a token is ``sum_k series_k x^{k+1}``, ``x = q scale``; ``a``, ``b`` as the bins' rows."""
    first = np.concatenate([[0], np.cumsum(bins.degree + 1)])
    plain, doubled = coefficients(first, bins.arrived, bins.closing, a, b)
    orders, stirling = plain.shape[0], surjections(MOMENTS)
    series = np.zeros((len(bins.degree), MOMENTS))
    for power in range(min(orders, MOMENTS)):
        sign = (-1.0) ** power
        # g^{power + 1} of the arrived token, and q g^power of the last one.
        k = np.arange(power + 1, MOMENTS + 1)
        series[:, power:] += sign * plain[power] @ (stirling[k, power + 1, None] * bins.powers[k]).T
        k = np.arange(power, MOMENTS)
        rate = (1.0 + power) * sign / bins.scale
        series[:, power:] += rate * doubled[power] @ (stirling[k, power, None] * bins.powers[k]).T
    return series
