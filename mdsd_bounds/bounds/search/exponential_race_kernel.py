"""Compiled evaluation of ``Q_n(H)`` without replacement for one prefix H and several n at once.

**The race.**  Token i rings after an exponential time of rate q_i (the q here sum to one); the drafts are the first n
to ring.  With c the mass outside H and N_H(t) the tokens of H that have rung by t,

    ``1 - Q_n(H) = integral of c t e^{-ct} Pr(N_H(t) < n)  over  s = log t``.                                      (1)

**Trapezoid rule**, nodes ``t_g = t_0 e^{gh}`` shared by every n and H, error by formula (3) of
:mod:`mdsd_bounds.bounds.search.exponential_race`.  Right cut: formula (4) there.  Left of t_0 the probability in (1)
is one up to the left cut (5) there, so the nodes on the left add up to ``L(c t_0)``, ``L(u) = h sum_{k>=1} u e^{-kh}
exp(-u e^{-kh})``, a function of one number, which is added up exactly (terms while ``u e^{-kh} > 1/4``, then its power
series).  All terms are positive: no control variate is needed and nothing cancels, however peaked q is.

**Counts.**  T is the last node.  *Heavy* tokens, ``q T > LIGHT``, are convolved one by one in prefix order.  The
others enter through the power sums ``s_k = sum over H of (qT)^k``: with y = e^{qt} - 1,

    ``X_m = sum y^m = sum_{k>=m} (m! S(k, m)/k!) s_k (t/T)^k``   (S the Stirling numbers of the second kind),
    ``Pr(k light tokens have rung) = e^{-s_1 t/T} E_k,   k E_k = sum_{m=1..k} (-1)^{m-1} X_m E_{k-m},  E_0 = 1``.  (2)

The exponentials of light tokens inside and outside H and of heavy tokens outside H multiply to one factor that
depends only on how many heavy tokens H holds, so an evaluation calls exp nowhere at the nodes.  n = 1 is
``Q = x``, n = 2 is ``Q = x - c sum over H of q/(1-q)``, light tokens by ``sum_k s_k / T^k``.

**Truncation.**  Medium tokens, ``TAU < qT <= LIGHT``, keep k <= 8, the rest k <= 3.  Leaving out the powers beyond K
changes ``log prod (1 + z y)`` coefficientwise by at most ``D = s_K (t/T)^{K+1} sum_{k>K} a_k b^{k-K}`` (b the largest
qT of the class, a_k the coefficients of ``-log(2 - e^x)``, that is of ``sum_m y^m/m``), hence (2) relatively by at
most ``e^D - 1``.  Summed over the nodes with a weight that bounds ``h c t e^{-ct} Pr(N_H(t) < n)``, it goes into the
interval.  The weight is ``h min(1/e, t)`` and, where ``x = W_n t >= n``, at most ``h x Pr(Poisson(x) < n)``: for c
below W_n by the right cut (4), for the others because ``u e^{-u}`` falls.  It holds for fewer draws as well, whose
x is no less: ``y Pr(Poisson(y) < n)`` falls from y = n on.

**Rounding of the sums.**  Let all sums that enter (c, s_k, q outside) be right to a relative r.  (1) is linear in c
and its factor ``e^{-ct}`` adds ``integral of (ct)^2 e^{-ct} ds = 1``: 2r.  With x the expected number of light arrivals
in H, ``e^{-s_1 t/T}`` moves relatively by ``x r``.  By (2) ``sum_k E_k z^k = exp(sum_m (-1)^{m-1} X_m z^m / m)``, so
what moves each X_m by at most ``r X_m`` multiplies this series by ``exp(sum_m d_m z^m)`` with ``|d_m| <= r X_m / m``.
The E_k that belong to the tokens are not negative: their sums over k < n, with any falling weights, move relatively by
at most ``e^D - 1``, ``D = r sum_m X_m / m = -r sum log(1 - y) <= 1.34 r x``.  All of it is multiplied by the
probability that fewer than n light tokens have rung, which falls as x grows; the largest product is what
:func:`mdsd_bounds.bounds.search.power_sums.sensitivity` finds.

**Rounding of the recurrence.**  Write h_k for E_k with all signs in (2) positive.  A step leaves at most
``31 u h_j`` in E_j, and what is left there comes to at most ``h_k / h_j`` times as much in E_k (the recurrence with
positive signs, begun at j, never overtakes the one begun at 0): together ``31 u k h_k``.
:func:`mdsd_bounds.bounds.search.outer_approximation_kernel.recurrence_rounding` bounds their sum for each row, by
``sum_k h_k z^k = exp(sum_m X_m z^m / m)``; where it is too large, tokens are moved from the light to the heavy ones.
The other operations are on positive terms: fewer than ``5 K + n G + 1000`` of them, K the heavy tokens, G the nodes.

**Q is convex in x along any order of tokens.**  Write ``m_G(i) = Q(G + i) - Q(G)`` for a token i outside G; to be
shown is ``m_H(j)/q_j <= m_{H+j}(i)/q_i``.  Let T'_k be the arrivals when token j is left out, T_k those of all.

- ``m_H(j) = Pr(tau_j < T'_n, first n-1 of the others in H) = q_j E[min(tau_j, T'_n) 1{first n-1 of the others in H}]``,
  since ``E min(tau, T) = (1 - e^{-qT})/q`` for an exponential of rate q.
- Put ``kappa_G = E[T_n 1{first n-1 arrivals in G}]``.  If the first n-1 of the others are in H, the first n-1 of all
  are in H + j, and ``min(tau_j, T'_n) <= T_n`` in each of the three places tau_j can have.  So
  ``m_H(j)/q_j <= kappa_{H+j}``.
- If the first n-1 of all are in G and i is outside G, then so are the first n-1 of the others of i, and
  ``T_n = min(tau_i, T'_n)``.  So ``kappa_G <= m_G(i)/q_i``; with G = H + j the claim follows.

All of this is ours; the sampler is Gumbel top-n, the subset theorem Hu et al., ICLR 2025 (arXiv 2502.18779).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from mdsd_bounds._backend.numba_options import STEP, SUMS
from mdsd_bounds.bounds.search.power_sums import ORDER

#: Columns of a run, one line for each edge between cells or tokens: P(H), q(H), q off H, sum of q/(1-q) of the heavy
#: tokens of H, and the eight power sums of its light ones.
TARGET, INSIDE, OUTSIDE, ODDS, POWERS = 0, 1, 2, 3, 4
COLUMNS = POWERS + ORDER


@njit(**STEP)
def left_nodes(u, step):  # type: ignore[no-untyped-def]
    """``L(u) = h sum_{k>=1} u e^{-kh} exp(-u e^{-kh})``."""
    shrink = math.exp(-step)
    total = 0.0
    v = u * shrink
    while v > 0.25:
        if v < 700.0:
            total += step * v * math.exp(-v)
        v *= shrink
    # sum over k >= 0 of v e^{-kh} exp(-v e^{-kh}), power by power: below 0.25^16/15! < 1e-21 after fifteen.
    term = step * v
    for j in range(1, 16):
        total += term / -math.expm1(-j * step)
        term *= -v / j
    return total


@njit(**STEP, fastmath=SUMS)
def heavy_table(rate, outside, times, step, most, table, probs):  # type: ignore[no-untyped-def]
    """``table[(i most + j) G + g]``: ``h t_g e^{-outside_i t_g} Pr(at most j of the first i heavy tokens have rung)``.

    ``rate`` ``[K]`` in prefix order, ``outside`` ``[K + 1]`` the rates still running beside H's light ones: all light
    tokens and the heavy ones from i on.
    """
    nodes = times.shape[0]
    for j in range(most):
        for g in range(nodes):
            probs[j, g] = 0.0 if j else 1.0
    stay = probs[most, :nodes]
    for i in range(rate.shape[0] + 1):
        if i > 0:
            for g in range(nodes):
                stay[g] = math.exp(-rate[i - 1] * times[g])
            for j in range(most - 1, 0, -1):
                now, before = probs[j, :nodes], probs[j - 1, :nodes]
                for g in range(nodes):
                    now[g] = now[g] * stay[g] + before[g] * (1.0 - stay[g])
            none = probs[0, :nodes]
            for g in range(nodes):
                none[g] *= stay[g]
        part = table[i * most * nodes : (i * most + 1) * nodes]
        none = probs[0, :nodes]
        for g in range(nodes):
            stay[g] = step * times[g] * math.exp(-outside[i] * times[g])
        for g in range(nodes):
            part[g] = stay[g] * none[g]
        for j in range(1, most):
            before = table[(i * most + j - 1) * nodes : (i * most + j) * nodes]
            part = table[(i * most + j) * nodes : (i * most + j + 1) * nodes]
            now = probs[j, :nodes]
            for g in range(nodes):
                part[g] = before[g] + stay[g] * now[g]


@njit(**STEP, fastmath=SUMS)
def evaluate(run, edge, heavy_held, race, answer):  # type: ignore[no-untyped-def]
    """``answer[d] = Q_n(H)``, n = ``race.draws[d]``, for the prefix at ``edge`` of a run.

    Parameters
    ----------
    run : ndarray
        ``[M + 1, 12]``, columns as named below.
    heavy_held : int
        Heavy tokens of H.
    race : Race
        What all evaluations of the row share (:class:`.records.Race`).
    """
    last, times, step, weights, table, most, draws, work = race
    nodes = times.shape[0]
    x, c, odds = run[edge, INSIDE], run[edge, OUTSIDE], run[edge, ODDS]
    if nodes > 0 and c > 0.0:
        coefficient = np.empty(ORDER + 1)
        reach = work[0, :nodes]
        for g in range(nodes):
            reach[g] = times[g] / last
        # Rows 1 .. most - 1: X_m; rows most .. 2 most - 1: E_0 .. E_{most - 1}.
        for m in range(1, min(most - 1, ORDER) + 1):
            now = work[m, :nodes]
            for k in range(m, ORDER + 1):
                coefficient[k] = weights[m, k] * run[edge, POWERS + k - 1]
            for g in range(nodes):
                r = reach[g]
                total = coefficient[ORDER]
                for k in range(ORDER - 1, m - 1, -1):
                    total = total * r + coefficient[k]
                for _ in range(m):
                    total *= r
                now[g] = total
        one = work[most, :nodes]
        for g in range(nodes):
            one[g] = 1.0
        for k in range(1, most):
            now = work[most + k, :nodes]
            for g in range(nodes):
                now[g] = 0.0
            for m in range(1, min(k, ORDER) + 1):
                sign = (1.0 if m & 1 else -1.0) / k
                x_m, before = work[m, :nodes], work[most + k - m, :nodes]
                for g in range(nodes):
                    now[g] += sign * x_m[g] * before[g]
        left = left_nodes(c * times[0], step)
    for d in range(draws.shape[0]):
        n = draws[d]
        if c <= 0.0:
            answer[d] = 1.0
        elif n == 1:
            answer[d] = x
        elif n == 2:
            light, scale = 0.0, 1.0
            for k in range(ORDER):
                scale /= last
                light += run[edge, POWERS + k] * scale
            answer[d] = x - c * (light + odds)
        else:
            total = 0.0
            for k in range(n):
                rung = work[most + k, :nodes]
                start = (heavy_held * most + n - 1 - k) * nodes
                heavy = table[start : start + nodes]
                for g in range(nodes):
                    total += rung[g] * heavy[g]
            answer[d] = 1.0 - (left + c * total)
