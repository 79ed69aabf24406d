"""Independent drafts from different drafters: ``Q(H) = prod_k q_k(H)``, a certified interval by branch and bound.

Let the distinct drafters be ``q_1 .. q_K``, drafter k used ``a_k`` times, and ``x_k = q_k(H)``.  Wanted is the minimum
of ``f(H) = P(H) - g(x)``, ``g(x) = prod_k x_k^{a_k}``.  No prefix theorem holds; f is submodular.

**Cuts.**  For any ``theta >= 0`` let ``h(theta) = sum_i min(0, p_i - theta . q_i)``.  Every H has
``P(H) >= theta . x + h(theta)``, since ``P(H) - theta . x`` is a sum over the tokens of H, each term at least its
negative part.
**Boxes.**  On a box ``l <= x <= u``, g has a linear over-estimator ``g(x) <= c + lambda . x``: each ``x^a`` is convex
and lies under its chord, and products of non-negative terms obey McCormick's two inequalities
``w y <= U_w y + L_y w - U_w L_y`` and ``w y <= L_w y + U_y w - L_w U_y``, applied term by term (all coefficients are
non-negative, so over-estimators may be put in).  Hence for every H with x in the box and every cut
``f(H) >= h(theta) - c + sum_k (theta_k - lambda_k) (l_k if theta_k >= lambda_k else u_k)``.
Boxes are split best first; a box whose bound exceeds the best H found (less the tolerance) is dropped.  Cuts are kept
and serve all boxes; each box adds the cuts ``theta = lambda``.

**Upper side.**  Alternate ``H = {p_i < theta . q_i}`` and ``theta = grad g(x)``, the condition at a minimum.

With all drafters identical this is sampling with replacement, and the exact prefix scan answers.
Cost O(V K) per cut; the interval's width is what the budget of cuts leaves.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools

import torch
from torch import Tensor

from mdsd_bounds.bounds.prefix import solve_prefix
from mdsd_bounds.problem import Bound, Problem, rounding_unit

#: Width at which a row is done, and the number of cuts after which it is given up with the interval reached.
TOLERANCE = 1e-8
CUTS = 600


def solve_product(problem: Problem) -> Bound:
    """Certified interval for the optimal acceptance with independent drafters; ``value`` is the upper end.

    ``q`` is ``[B, V]`` (one drafter for all drafts) or ``[B, K, V]``, n drafts taking the first n drafters.
    """
    same = dataclasses.replace(problem, sampler="with_replacement")
    if problem.q.ndim == 2:
        return dataclasses.replace(solve_prefix(same), problem=problem, method="product")
    shape = (len(problem.n_drafts), problem.p.shape[0])
    value, low = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    masks = torch.zeros((*shape, problem.p.shape[1]), dtype=torch.bool)
    # Sums of V terms of at most one in all, and the product's own rounding.
    rounding = 8 * rounding_unit() * problem.p.shape[1] ** 0.5 + 64 * rounding_unit()
    for i, n in enumerate(problem.n_drafts):
        for b in range(shape[1]):
            laws, powers = _distinct(problem.q[b, :n])
            if len(laws) == 1:
                one = dataclasses.replace(
                    same, p=problem.p[b : b + 1], q=laws, n_drafts=(n,), options={}, mass_error=None
                )
                exact = solve_prefix(one)
                value[i, b], low[i, b] = exact.high[0, 0], exact.low[0, 0]
                masks[i, b] = exact.subset[0, 0].cpu()
            else:
                lower, upper, mask = _row_interval(problem.p[b].cpu(), laws.cpu(), powers)
                value[i, b], low[i, b], masks[i, b] = 1 + upper + rounding, 1 + lower - rounding, mask
    masks = masks.to(problem.p.device)
    value, low = value.to(problem.p.device), low.to(problem.p.device)
    widening = 0.0 if problem.mass_error is None else problem.mass_error
    low, high = (low - widening).clamp(0.0, 1.0), (value + widening).clamp(0.0, 1.0)
    return Bound(value.clamp(0.0, 1.0), low, high, masks.sum(-1), problem, "product", make_subset=lambda: masks)


def _distinct(q: Tensor) -> tuple[Tensor, list[int]]:
    laws, index = torch.unique(q, dim=0, return_inverse=True)
    return laws, torch.bincount(index).tolist()


def _row_interval(p: Tensor, q: Tensor, powers: list[int]) -> tuple[float, float, Tensor]:
    """``(lower, upper, H)`` of ``min f`` for one row; ``q`` ``[K, V]``."""
    best, mask = _local_search(p, q, powers)
    cuts: list[tuple[list[float], float]] = []
    order = itertools.count()
    corner = ([0.0] * len(powers), [1.0] * len(powers))
    heap = [(-float("inf"), next(order), *corner)]
    while heap and len(cuts) < CUTS:
        bound, _, low, high = heapq.heappop(heap)
        if bound >= best - TOLERANCE:
            heapq.heappush(heap, (bound, next(order), low, high))
            break
        bound = -float("inf")
        estimators = _over_estimators(low, high, powers)
        for _, slope in estimators:
            negative = (p - torch.tensor(slope, dtype=p.dtype) @ q).clamp(max=0.0)
            cuts.append((slope, float(negative.sum())))
            # The set of a cut is a candidate too.
            candidate = negative < 0
            value = _value(p, q, powers, candidate)
            if value < best:
                best, mask = value, candidate
        for constant, slope in estimators:
            bound = max(bound, max(_cut_bound(cut, constant, slope, low, high) for cut in cuts))
        if bound < best - TOLERANCE:
            axis = max(range(len(low)), key=lambda k: high[k] - low[k])
            middle = (low[axis] + high[axis]) / 2
            left, right = list(high), list(low)
            left[axis], right[axis] = middle, middle
            heapq.heappush(heap, (bound, next(order), low, left))
            heapq.heappush(heap, (bound, next(order), right, high))
    # Dropped boxes hold nothing below best - TOLERANCE; the others nothing below their own bounds.
    lower = min([best - TOLERANCE, *(bound for bound, *_ in heap)])
    return max(lower, -1.0), best, mask


def _cut_bound(
    cut: tuple[list[float], float], constant: float, slope: list[float], low: list[float], high: list[float]
) -> float:
    theta, least = cut
    terms = ((t - s) * (a if t >= s else b) for t, s, a, b in zip(theta, slope, low, high, strict=True))
    return least - constant + sum(terms)


def _over_estimators(low: list[float], high: list[float], powers: list[int]) -> list[tuple[float, list[float]]]:
    """Linear over-estimators ``(c, lambda)`` of ``prod x_k^{a_k}`` on the box, one per McCormick inequality."""
    count = len(low)
    answers = []
    for first in (True, False):
        constant, slope = 0.0, [0.0] * count
        w_low = w_high = 1.0
        for k, power in enumerate(powers):
            a, b = low[k] ** power, high[k] ** power
            chord = (b - a) / (high[k] - low[k]) if high[k] > low[k] else 0.0
            y_constant = a - chord * low[k]
            if k == 0:
                constant, slope[0] = y_constant, chord
            else:
                y_weight, w_weight = (w_high, a) if first else (w_low, b)
                constant = y_weight * y_constant + w_weight * constant - y_weight * w_weight
                slope = [w_weight * s for s in slope]
                slope[k] = y_weight * chord
            w_low, w_high = w_low * a, w_high * b
        answers.append((constant, slope))
    return answers


def _local_search(p: Tensor, q: Tensor, powers: list[int]) -> tuple[float, Tensor]:
    best, mask = 0.0, torch.zeros_like(p, dtype=torch.bool)
    for start in (0.25, 0.5, 0.75, 0.9, 1.0):
        x = [start] * len(powers)
        for _ in range(30):
            slope = torch.tensor(_gradient(x, powers), dtype=p.dtype)
            candidate = p < slope @ q
            value = _value(p, q, powers, candidate)
            if value < best:
                best, mask = value, candidate
            moved = q[:, candidate].sum(-1).tolist()
            if moved == x:
                break
            x = moved
    return best, mask


def _gradient(x: list[float], powers: list[int]) -> list[float]:
    gradient = []
    for k in range(len(powers)):
        others = 1.0
        for j, (y, a) in enumerate(zip(x, powers, strict=True)):
            others *= y ** (a - 1) * a if j == k else y**a
        gradient.append(others)
    return gradient


def _value(p: Tensor, q: Tensor, powers: list[int], subset: Tensor) -> float:
    value = 1.0
    for mass, power in zip(q[:, subset].sum(-1).tolist(), powers, strict=True):
        value *= mass**power
    return float(p[subset].sum()) - value
