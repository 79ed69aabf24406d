"""The minimum over prefixes without evaluating every prefix: outer approximation of a convex curve.  n up to 8.

Along the prefix order let ``x = q(H)`` and ``f = P - Q``.  **Q is convex in x, along any order of tokens.**  Write
``m_G(i) = Q(G + i) - Q(G)`` for a token i outside G; to be shown is ``m_H(j)/q_j <= m_{H+j}(i)/q_i``.  In the race of
:mod:`mdsd_bounds.bounds.race` let T'_k be the arrivals of the other tokens when token j is left out, T_k those of all.

- ``m_H(j) = Pr(tau_j < T'_n, first n-1 of the others in H) = q_j E[min(tau_j, T'_n) 1{first n-1 of the others in H}]``,
  since ``E min(tau, T) = (1 - e^{-qT})/q`` for an exponential of rate q.
- Put ``kappa_G = E[T_n 1{first n-1 arrivals in G}]``.  If the first n-1 of the others are in H, the first n-1 of all
  are in H + j, and ``min(tau_j, T'_n) <= T_n`` in each of the three places tau_j can have.  So
  ``m_H(j)/q_j <= kappa_{H+j}``.
- If the first n-1 of all are in G and i is outside G, then so are the first n-1 of the others, and
  ``T_n = min(tau_i, T'_n)``.  So ``kappa_G <= m_G(i)/q_i``; with G = H + j the claim follows.

P is convex too, with slopes p/q.  Between two evaluated prefixes a < b the chord of Q lies above Q, so
``f >= P - chord`` there, and the minimum of the right side is where p/q crosses the chord's slope: one binary search
gives a lower bound on the whole block and the place to evaluate next.  A block is dropped when its bound is within
:data:`TOLERANCE` of the best value for every n; the bounds of dropped blocks are the certificate.  Convergence is
quadratic; tens of evaluations serve all n at once.

**One evaluation.**  The quadrature nodes are those of the race.  Tokens with ``q T <= light`` (T the last node) enter
through the power sums ``s_k = sum (q T)^k``, k <= 8, kept at every 64th prefix: with
``Y_m = sum_{k=m}^8 (m! S(k, m)/k!) s_k (t/T)^k`` (S Stirling numbers of the second kind, ``Y_m`` the power sums of
``e^{qt} - 1``), Newton's identities give the counts, ``k E_k = sum_m (-1)^{m-1} Y_m E_{k-m}``, ``E_0 = e^{-s_1 t/T}``.
The other tokens are convolved one by one beforehand.

**Truncation.**  Leaving out k > 8 changes ``log prod (1 + z y_j)`` coefficientwise by at most D(z), so the probability
of fewer than n arrivals changes relatively by at most ``e^{D(1)} - 1``, with
``D(1) <= s_8 (t/T)^8 sum_{k>8} a_k light^{k-8}``, ``a_k = sum_{m<8} m! S(k, m)/(k! m)``.  Summed over the nodes with
the weight ``min(1/e, t Pr(Poisson(W_n t) < n))`` it goes into the interval, as do the quadrature's own errors; where it
would exceed 2e-10 the threshold ``light`` is halved.

The algorithm is ours; see the race for its source.  Compiled with Numba; without Numba the plain scan answers.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.bounds.prefix import prefix_order
from mdsd_bounds.bounds.race import CUT, _node_range, _outside_top, prefix_sum, suffix_sum, trapezoid_step
from mdsd_bounds.problem import rounding_unit
from mdsd_bounds.samplers.base import fixed_mask, remainder

#: Most draws of one evaluation, and the largest ``q T`` treated through power sums.
DRAWS = 8
LIGHT = 0.25
#: Half the width of an interval that the search leaves open.
TOLERANCE = 1e-9
#: Prefixes between two stored power sums.
STRIDE = 64
_EVALUATIONS = 4000


@cache
def stirling_weights() -> tuple[np.ndarray, float]:
    """``C[m, k] = m! S(k, m)/k!`` for m, k <= 8, and the factor of ``s_8 (t/T)^8`` in the truncation bound."""
    most = 60
    stirling = np.zeros((most + 1, most + 1))
    stirling[0, 0] = 1.0
    for k in range(1, most + 1):
        for m in range(1, k + 1):
            stirling[k, m] = m * stirling[k - 1, m] + stirling[k - 1, m - 1]
    weights = np.zeros((DRAWS + 1, DRAWS + 1))
    for m in range(1, DRAWS + 1):
        for k in range(m, DRAWS + 1):
            weights[m, k] = math.factorial(m) * stirling[k, m] / math.factorial(k)
    factor = 0.0
    for k in range(DRAWS + 1, most + 1):
        a_k = sum(math.factorial(m) * stirling[k, m] / math.factorial(k) / m for m in range(1, DRAWS))
        factor += a_k * LIGHT ** (k - DRAWS)
    # Beyond order 60 the series is below LIGHT^52 < 1e-31 of its first term.  Halving LIGHT at least halves the factor.
    return weights, factor * (1 + 1e-12)


def outer_rows(p: Tensor, q: Tensor, m: int, draws: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Minimum of ``P - Q`` for rows without replacement, m fixed tokens and ``draws`` random ones.

    Parameters
    ----------
    p, q : Tensor
        ``[B, V]`` float64.
    m : int
        Fixed tokens.
    draws : list of int
        Each in 2..8.

    Returns
    -------
    best, low, error : Tensor
        ``[N, B]``: the smallest value found, a lower bound on all others, and the error of each evaluation.
    length : Tensor
        ``[N, B]`` int64, tokens of the minimising prefix.
    order : Tensor
        ``[B, V]`` the prefix order.
    usable : Tensor
        ``[B]`` bool: False where the row must go to the plain scan (support of at most ``max(draws)`` tokens, or masses
        below 1e-250).
    """
    kernel = _kernel()
    fixed = fixed_mask(q, m)
    r = remainder(q, fixed)
    order = prefix_order(p, r, fixed)
    rates = r.gather(-1, order)
    target, inside, outside = prefix_sum(p.gather(-1, order)), prefix_sum(rates), suffix_sum(rates)
    most = max(draws)
    top = rates.topk(min(most, rates.shape[1]), -1).values
    support = (rates > 0).sum(-1)
    spare = (
        _outside_top(rates, top, most) if rates.shape[1] >= most else torch.zeros_like(rates[:, :1]).expand(-1, most)
    )
    usable = (support > most) & (spare[:, most - 1] > 1e-250)
    step, trapezoid = trapezoid_step(most)
    shape = (len(draws), p.shape[0])
    best, low, error = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    length = torch.zeros(shape, dtype=torch.int64)
    rows = usable.nonzero()[:, 0]
    if len(rows):
        start, stop = _node_range(spare[rows], support[rows], list(range(2, most + 1)))
        nodes = torch.ceil((stop - start) / step).to(torch.int64) + 2
        grid = start[:, None] + step * torch.arange(int(nodes.max()), dtype=torch.float64)
        times = torch.exp(grid)
        counts = torch.arange(1, most + 1, dtype=torch.float64)
        fewer = torch.special.gammaincc(
            counts.expand(*grid.shape, most), (times[..., None] * spare[rows][:, None, :most]).clamp(max=1e300)
        )
        weights, factor = stirling_weights()
        held = fixed.sum(-1)[rows]
        answer = kernel(
            rates[rows].numpy(),
            (p.gather(-1, order) / rates.clamp(min=torch.finfo(rates.dtype).tiny))[rows].numpy(),
            target[rows].numpy(),
            inside[rows].numpy(),
            outside[rows].numpy(),
            held.numpy(),
            support[rows].numpy(),
            spare[rows].contiguous().numpy(),
            times.numpy(),
            nodes.numpy(),
            fewer.contiguous().numpy(),
            np.array(draws, dtype=np.int64),
            step,
            weights,
            factor,
            TOLERANCE,
        )
        found, certified, places, truncation = (torch.from_numpy(part) for part in answer)
        best[:, rows], low[:, rows], length[:, rows] = found.T, certified.T, places.T
        # Sums over at most 64 + V/64 terms, times the arrivals an evaluation resolves; then P, x and c themselves.
        sums = (STRIDE + rates.shape[1] / STRIDE + 4) * rounding_unit()
        reach = 96 + 4 * most
        error[:, rows] = (trapezoid + 5 * CUT + 4 * sums * reach + 1e-13 + truncation)[None]
    return best, low, error, length, order, usable


@cache
def _kernel() -> Any:
    """The compiled search; imported when first used, so that the package loads without Numba."""
    from mdsd_bounds.bounds.outer_kernel import search

    return search
