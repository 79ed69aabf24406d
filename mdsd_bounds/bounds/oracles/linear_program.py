"""The optimal transport problem as a linear programme and its dual, one source per drafted set, through HiGHS.

Primal: maximise ``sum r[S, i]`` over pairs i in S, subject to ``sum_i r[S, i] <= m(S)``, ``sum_S r[S, i] <= p_i``,
``r >= 0``: r[S, i] is the probability that set S is drafted and its token i output.
Dual: minimise ``sum_S m(S) u_S + sum_i p_i v_i`` subject to ``u_S + v_i >= 1`` for i in S, ``u, v >= 0``; an optimal v
is the indicator of H, and u_S that of the sets not inside H (Hu et al., ICLR 2025, arXiv 2502.18779, section 3).

Masses near 1e-8 would sit under the solver's feasibility tolerance, so everything is multiplied by :data:`SCALE`.  What
the solver returns is not trusted: the primal plan is cut to exact feasibility (a lower bound), and the dual is rounded
to a subset H that is evaluated exactly (an upper bound).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mdsd_bounds._backend.highs import SCALE, solve_highs
from mdsd_bounds.bounds.oracles.draft_sets import DraftSets, draft_sets, stack_subsets, subset_value
from mdsd_bounds.problem import Bound, InputError, Problem, rounding_unit

#: Pairs (set, token) beyond which a linear programme is refused; at V = 60, n = 3 (100,000) it takes half a minute.
MAX_EDGES = 1_000_000


@dataclass(frozen=True)
class Plan:
    """A feasible transport plan: ``mass[e]`` is moved from set ``sets.tokens[source[e]]`` to token ``token[e]``."""

    sets: DraftSets
    source: np.ndarray
    token: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Dual:
    """Dual solution: ``u`` ``[S]`` per drafted set, ``v`` ``[V]`` per token."""

    u: np.ndarray
    v: np.ndarray


def solve_lp(problem: Problem) -> Bound:
    """Optimal acceptance by the primal and the dual programme, each solved on its own.

    ``low`` comes from the primal plan, ``high`` and the subset from the dual; ``plan[i][b]``, ``dual[i][b]`` keep both.

    Raises
    ------
    InputError
        If the problem has too many drafted sets, or the solver does not reach an optimum.
    """
    return solve_by_programme(problem, "lp", lambda sets, p: (_solve_primal(sets, p), _solve_dual(sets, p)))


#: ``(sets, p) -> (mass of the plan on each edge [E], (u, v))``.
Solve = Callable[[DraftSets, np.ndarray], tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]


def solve_by_programme(problem: Problem, method: str, solve: Solve) -> Bound:
    """Run a solver of plan and dual on every row and certify both."""
    shape = (len(problem.n_drafts), problem.p.shape[0])
    low, high = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    subsets: list[list[np.ndarray]] = []
    plans: list[list[Plan]] = []
    duals: list[list[Dual]] = []
    for i, n in enumerate(problem.n_drafts):
        subsets.append([])
        plans.append([])
        duals.append([])
        for b in range(shape[1]):
            sets = draft_sets(problem, b, n)
            p = problem.p[b].cpu().numpy()
            mass, (u, v) = solve(sets, p)
            plan = feasible_plan(sets, p, mass)
            subset = _best_threshold(problem, b, sets, v)
            rounding = _rounding(plan, n)
            low[i, b] = float(plan.mass.sum()) - rounding
            high[i, b] = subset_value(problem, b, sets, subset) + rounding
            subsets[-1].append(subset)
            plans[-1].append(plan)
            duals[-1].append(Dual(u, v))
    masks = stack_subsets(subsets).to(problem.p.device)
    low, high = low.to(problem.p.device), high.to(problem.p.device)
    widening = torch.zeros(()) if problem.mass_error is None else problem.mass_error
    value = ((low + high) / 2).clamp(0.0, 1.0)
    low, high = (low - widening).clamp(0.0, 1.0), (high + widening).clamp(0.0, 1.0)
    return Bound(value, low, high, masks.sum(-1), problem, method, plans, duals, lambda: masks)


def _rounding(plan: Plan, n: int) -> float:
    """Bound on the rounding of the plan's total, of ``P(H)`` and of ``Q(H)``.

    The flow into each limit is summed in turn (``longest`` additions); a set's mass is a product of n conditional
    probabilities, each normalised by one sum, merged from at most n sets at each step.
    """
    longest = max(int(np.bincount(index).max(initial=0)) for index in (plan.source, plan.token))
    return (longest + n * (n + 64) + 64) * rounding_unit()


def feasible_plan(sets: DraftSets, p: np.ndarray, mass: np.ndarray) -> Plan:
    """The plan cut to exact feasibility: negative entries to zero, then rows and columns scaled under their limits."""
    source, token = sets.edges()
    mass = np.maximum(mass, 0.0)
    for index, limit in ((source, sets.mass), (token, p)):
        used = np.bincount(index, weights=mass, minlength=len(limit))
        factor = np.ones_like(used)
        over = used > limit
        factor[over] = limit[over] / used[over]
        mass = mass * factor[index]
    return Plan(sets, source, token, mass)


def _best_threshold(problem: Problem, row: int, sets: DraftSets, v: np.ndarray) -> np.ndarray:
    """The best subset ``{i: v_i >= t}`` over thresholds t: rounding a dual solution to a vertex loses nothing."""
    candidates = [v > 2.0, v >= 0.5, *(v >= t for t in np.unique(np.round(v, 6))[:16])]
    return min(candidates, key=lambda subset: subset_value(problem, row, sets, subset))


def check_size(sets: DraftSets, method: str) -> None:
    """Refuse a programme of more than :data:`MAX_EDGES` variables."""
    edges = int((sets.tokens >= 0).sum())
    if edges > MAX_EDGES:
        raise InputError(
            f"method {method!r}: a linear programme of {edges} variables, more than {MAX_EDGES} (about "
            f"{edges * 1e-6:.1f} GB in the solver); use method='maxflow' or 'prefix', or fewer tokens"
        )


def _solve_primal(sets: DraftSets, p: np.ndarray) -> np.ndarray:
    check_size(sets, "lp")
    source, token = sets.edges()
    edges = len(source)
    rows = np.column_stack([source, len(sets.mass) + token]).reshape(-1)
    limits = np.concatenate([sets.mass, p]) * SCALE
    solution = solve_highs(np.ones(edges), True, 2 * np.arange(edges + 1), rows, limits, upper=True)
    return solution / SCALE


def _solve_dual(sets: DraftSets, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    source, token = sets.edges()
    count = len(sets.mass)
    columns = np.concatenate([source, count + token])
    order = np.argsort(columns, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=count + len(p)))])
    edge = np.concatenate([np.arange(len(source))] * 2)[order]
    cost = np.concatenate([sets.mass, p]) * SCALE
    solution = solve_highs(cost, False, start, edge, np.ones(len(source)), upper=False)
    return solution[:count], solution[count:]
