"""Independent drafts from different drafters: ``Q(H) = prod_k q_k(H)``, a certified interval by branch and bound.

Let the distinct drafters be ``q_1 .. q_K``, drafter k used ``a_k`` times, and ``x_k = q_k(H)``.  Wanted is the minimum
of ``f(H) = P(H) - g(x(H))`` with ``g(x) = prod_k x_k^{a_k}``.  No prefix theorem holds for different drafters; f is
submodular.  The search is over boxes ``low <= x <= high`` of the few numbers ``x_k``, never over the 2^V subsets.
Three facts carry the proof.

**1. Tokens decide themselves.**  g is a polynomial with non-negative coefficients, so its gradient grows with x.  Let H
minimise f and ``low <= x(H) <= high``.  If a token i of H had ``p_i > grad g(high) . q_i``, then by the mean value
theorem ``f(H - i) - f(H) = g(x) - g(x - q_i) - p_i <= grad g(x) . q_i - p_i < 0``, against minimality: i is not in H.
Likewise ``p_i < grad g(low) . q_i`` puts i in H.  Decided tokens in turn narrow the box (``x_k`` is at least the mass
of those in, at most one less the mass of those out), which decides more.  A box whose sides cross holds no minimiser.

**2. A linear over-estimator of g.**  On the box ``g(x) <= c + s . x``: each ``x^a`` is convex and lies under its chord,
and products of non-negative factors obey McCormick's inequalities ``w y <= U_w y + L_y w - U_w L_y`` and
``w y <= L_w y + U_y w - L_w U_y``, applied factor by factor (all coefficients are non-negative, so over-estimators may
be put in for w and y).

**3. A separable lower bound.**  With ``P_in``, ``x_in`` the masses of the tokens decided in, and U the undecided
tokens, every minimiser H in the box has

    ``f(H) >= P(H) - c - s . x(H) >= P_in - s . x_in - c + sum over U of min(0, p_i - s . q_i)``

since ``P(H) - s . x(H)`` is a sum over the tokens of H, each term at least its negative part.

Boxes are split best first; one whose bound is within the tolerance of the best H found is closed.  The lower end of the
interval is the least bound of all boxes, closed or open, so it holds whenever the search stops.  The upper end is
attained by the H returned, found by alternating ``H = {p_i < grad g(x) . q_i}`` and ``x = x(H)``, the first-order
condition, and among the sets that the bounds pick.

With all drafters identical this is sampling with replacement, and the exact prefix scan answers.  Cost O(V K) for the
first boxes and less as tokens decide; within a budget counted in passes over the row.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.bounds.search.prefix_scan import solve_prefix
from mdsd_bounds.problem import Bound, InputError, Problem, rounding_unit
from mdsd_bounds.samplers import get_sampler

#: Default of the option ``tolerance``: a row is done when its interval is this narrow.
TOLERANCE = 1e-9
#: Default of the option ``passes``: work after which a row is given up with the interval reached.
PASSES = 1000
#: Rows shorter count as this long, and so do looks at fewer tokens: the fixed cost of a step of the search.
_SHORT_ROW, _SHORT_LOOK = 10_000, 500
#: Sides of boxes and decisions on tokens keep this relative distance, far above what rounding can do to them.
_MARGIN = 1e-12


@dataclass(frozen=True)
class _Box:
    """Masses ``low <= x <= high`` ``[K]``, the undecided tokens, and the masses of the tokens decided in."""

    low: np.ndarray
    high: np.ndarray
    undecided: np.ndarray
    p_in: float
    x_in: np.ndarray
    inside: tuple[np.ndarray, ...]
    bound: float


def solve_product(problem: Problem) -> Bound:
    """Certified interval for the optimal acceptance with independent drafters; ``value`` is attained by the subset.

    Parameters
    ----------
    problem : Problem
        ``q`` is ``[B, V]`` (one drafter for all drafts) or ``[B, K, V]``, n drafts taking the first n drafters.
        Options: ``tolerance`` (width at which a row is done, :data:`TOLERANCE`) and ``passes`` (work per row and n, in
        passes over the V tokens, :data:`PASSES`).

    Raises
    ------
    InputError
        If the sampler is another, or an option is unknown or not a positive number.
    """
    one = get_sampler(problem.sampler).one_drafter
    if one is None:
        raise InputError(f"method 'product' is for independent drafters, not {problem.sampler!r}; use method='auto'")
    tolerance, passes = _options(problem)
    same = dataclasses.replace(problem, sampler=one.name, options={})
    if problem.q.ndim == 2:
        return dataclasses.replace(solve_prefix(same), problem=problem, method="product")
    shape = (len(problem.n_drafts), problem.p.shape[0])
    value, low, high = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    masks = torch.zeros((*shape, problem.p.shape[1]), dtype=torch.bool)
    for i, n in enumerate(problem.n_drafts):
        # Pairwise sums, a few dozen additions deep, of terms with total at most one (P) or n (s . q).
        rounding = 256 * (n + 1) * rounding_unit()
        for b in range(shape[1]):
            distributions, powers = _distinct(problem.q[b, :n])
            if len(distributions) == 1:
                row = dataclasses.replace(same, p=problem.p[b : b + 1], q=distributions, n_drafts=(n,), mass_error=None)
                exact = solve_prefix(row)
                value[i, b], low[i, b], high[i, b] = exact.value[0, 0], exact.low[0, 0], exact.high[0, 0]
                masks[i, b] = exact.subset[0, 0].cpu()
                continue
            search = _Search(problem.p[b].cpu().numpy(), distributions.cpu().numpy(), powers, tolerance, passes)
            lower, upper, subset = search.run()
            value[i, b], low[i, b], high[i, b] = 1.0 + upper, 1.0 + lower - rounding, 1.0 + upper + rounding
            masks[i, b] = torch.from_numpy(subset)
    device = problem.p.device
    value, low, high, masks = value.to(device).clamp(0.0, 1.0), low.to(device), high.to(device), masks.to(device)
    widening = 0.0 if problem.mass_error is None else problem.mass_error
    low, high = (low - widening).clamp(0.0, 1.0), (high + widening).clamp(0.0, 1.0)
    return Bound(value, low, high, masks.sum(-1), problem, "product", make_subset=lambda: masks)


def _options(problem: Problem) -> tuple[float, float]:
    known = {"tolerance": TOLERANCE, "passes": float(PASSES)}
    for name, value in problem.options.items():
        if name not in known:
            raise InputError(f"method 'product': unknown option {name!r}; it takes tolerance and passes")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(f"{name}={value!r}: give a positive number")
        known[name] = float(value)
    return known["tolerance"], known["passes"]


def _distinct(q: Tensor) -> tuple[Tensor, np.ndarray]:
    distributions, index = torch.unique(q, dim=0, return_inverse=True)
    return distributions, torch.bincount(index).cpu().numpy()


class _Search:
    """Branch and bound for one row: ``p`` ``[V]``, distinct drafters ``q`` ``[K, V]``, their ``powers`` ``[K]``."""

    def __init__(self, p: np.ndarray, q: np.ndarray, powers: np.ndarray, tolerance: float, passes: float) -> None:
        self.p, self.q, self.powers = p, q, powers
        self.tolerance = tolerance
        self.work = passes * max(len(p), _SHORT_ROW)
        self.best, self.subset = 0.0, np.zeros(len(p), dtype=bool)
        self.closed = 0.0  # least bound of the boxes closed so far; never above f of the empty set

    def run(self) -> tuple[float, float, np.ndarray]:
        """``(lower, upper, H)`` of the minimum of f."""
        self._local_search()
        count, order = len(self.powers), itertools.count()
        everything = np.arange(len(self.p), dtype=np.int32)
        # One and a margin: the sums of the rows are rounded too.
        first = _Box(np.zeros(count), np.full(count, 1 + _MARGIN), everything, 0.0, np.zeros(count), (), -1.0)
        heap: list[tuple[float, int, _Box]] = []
        waiting = [first]
        while waiting:
            for box in waiting:
                examined = self._examine(box)
                if examined is not None and examined.bound < self.best - self.tolerance:
                    heapq.heappush(heap, (examined.bound, next(order), examined))
                elif examined is not None:
                    self.closed = min(self.closed, examined.bound)
            waiting = []
            if heap and heap[0][0] < self.best - self.tolerance and self.work > 0:
                waiting = self._halves(heapq.heappop(heap)[2])
        lower = min([self.closed, self.best, *(bound for bound, _, _ in heap)])
        return lower, self.best, self.subset

    def _halves(self, box: _Box) -> list[_Box]:
        axis = int(np.argmax((box.high - box.low) * gradient(box.high, self.powers)))
        left, right = box.high.copy(), box.low.copy()
        left[axis] = right[axis] = (box.low[axis] + box.high[axis]) / 2
        return [dataclasses.replace(box, high=left), dataclasses.replace(box, low=right)]

    def _examine(self, box: _Box) -> _Box | None:
        """The box with its tokens decided and its bound raised; None where it can hold no minimiser."""
        decided = self._decide(box)
        if decided is None:
            return None
        box = decided
        p, q = self.p[box.undecided], self.q[:, box.undecided]
        bound = box.bound
        if len(p) == 0:
            self._offer(box, np.zeros(0, dtype=bool))
            value = box.p_in - float(np.prod(box.x_in**self.powers))
            return dataclasses.replace(box, bound=max(bound, value))
        for constant, slope in over_estimators(box.low, box.high, self.powers):
            self._spend(len(p))
            margin = p - slope @ q
            picked = margin < 0
            least = box.p_in - float(slope @ box.x_in) - constant + float(margin[picked].sum())
            bound = max(bound, least)
            self._offer(box, picked)
        return dataclasses.replace(box, bound=bound)

    def _decide(self, box: _Box) -> _Box | None:
        """Fact 1, repeated until it decides few more tokens."""
        low, high, undecided = box.low, box.high, box.undecided
        p_in, x_in, inside = box.p_in, box.x_in, box.inside
        p, q = self.p[undecided], self.q[:, undecided]
        for _ in range(20):
            self._spend(len(p))
            out = p > (1 + _MARGIN) * (gradient(high, self.powers) @ q)
            into = p * (1 + _MARGIN) < gradient(low, self.powers) @ q
            kept = ~(out | into)
            if len(p) and kept.all():
                break
            p_in, x_in = p_in + float(p[into].sum()), x_in + q[:, into].sum(-1)
            if into.any():
                inside = (*inside, undecided[into])
            few = kept.sum() >= 0.9 * len(p)
            undecided, p, q = undecided[kept], p[kept], q[:, kept]
            low = np.maximum(low, x_in * (1 - _MARGIN))
            high = np.minimum(high, (x_in + q.sum(-1)) * (1 + _MARGIN))
            if (low > high).any():
                return None
            if few:
                break
        return dataclasses.replace(box, low=low, high=high, undecided=undecided, p_in=p_in, x_in=x_in, inside=inside)

    def _offer(self, box: _Box, picked: np.ndarray) -> None:
        """The decided tokens and those picked as a candidate for the best subset."""
        x = box.x_in + self.q[:, box.undecided[picked]].sum(-1)
        value = box.p_in + float(self.p[box.undecided[picked]].sum()) - float(np.prod(x**self.powers))
        if value < self.best:
            subset = np.zeros(len(self.p), dtype=bool)
            for tokens in (*box.inside, box.undecided[picked]):
                subset[tokens] = True
            self._take(subset)

    def _take(self, subset: np.ndarray) -> None:
        value = float(self.p[subset].sum()) - float(np.prod(self.q[:, subset].sum(-1) ** self.powers))
        if value < self.best:
            self.best, self.subset = value, subset

    def _local_search(self) -> None:
        for start in (0.25, 0.5, 0.75, 0.9, 1.0):
            x = np.full(len(self.powers), start)
            for _ in range(30):
                subset = self.p < gradient(x, self.powers) @ self.q
                self._take(subset)
                moved = self.q[:, subset].sum(-1)
                if (moved == x).all():
                    break
                x = moved

    def _spend(self, tokens: int) -> None:
        self.work -= max(tokens, _SHORT_LOOK)


def gradient(x: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """``d g / d x_k = a_k x_k^{a_k - 1} prod_{j != k} x_j^{a_j}``, with no division by x."""
    matrix = np.repeat((x**powers)[None], len(x), 0)
    np.fill_diagonal(matrix, powers * x ** (powers - 1))
    slopes: np.ndarray = matrix.prod(-1)
    return slopes


def over_estimators(low: np.ndarray, high: np.ndarray, powers: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Linear over-estimators ``(c, s)`` of ``prod x_k^{a_k}`` on the box, one per McCormick inequality (fact 2)."""
    at_low, at_high = low**powers, high**powers
    wide = high > low
    chord = np.where(wide, (at_high - at_low) / np.where(wide, high - low, 1.0), 0.0)
    intercept = np.where(wide, at_low - chord * low, at_high)
    answers = []
    for first in (True, False):
        constant, slope = float(intercept[0]), np.zeros(len(low))
        slope[0] = chord[0]
        w_low, w_high = float(at_low[0]), float(at_high[0])
        for k in range(1, len(low)):
            of_y, of_w = (w_high, float(at_low[k])) if first else (w_low, float(at_high[k]))
            constant = of_y * float(intercept[k]) + of_w * constant - of_y * of_w
            slope = of_w * slope
            slope[k] = of_y * chord[k]
            w_low, w_high = w_low * float(at_low[k]), w_high * float(at_high[k])
        answers.append((constant, slope))
    return answers
