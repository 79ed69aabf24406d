"""Independent solvers of one small problem beside the prefix scan: HiGHS, cvxpy, scipy, OR-tools, POT.

Each solver is left out at the sizes that it would not finish.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.timing import medians
from torch import Tensor

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets

TITLE = "n = 2 without replacement, one position"
SAMPLER = "without_replacement"

#: Largest vocabulary that each solver is asked for.
LIMITS = {"lp": 200, "cvxpy": 200, "linprog": 200, "maxflow": 1000, "min_cost_flow": 200, "emd": 100, "prefix": 1000}


def table(runs: int) -> list[dict[str, Any]]:
    """Independent solvers at n = 2 without replacement, beside the prefix scan on the same row."""
    rows = []
    for size in (20, 50, 100, 200, 1000):
        generator = torch.Generator().manual_seed(size)
        p, q = (torch.softmax(2 * torch.randn(1, size, generator=generator, dtype=torch.float64), -1) for _ in range(2))
        truth = float(optimal_acceptance(p, q, 2, SAMPLER).value[0])
        problem, *_ = make_problem(p, q, 2, SAMPLER)
        sets = draft_sets(problem, 0, 2)
        for name, largest in LIMITS.items():
            if size > largest:
                continue
            print(f"V={size} {name}", file=sys.stderr)
            call = _call(name, p, q, sets)
            subject, reference = medians(call, lambda p=p, q=q: optimal_acceptance(p, q, 2, SAMPLER), runs)  # type: ignore[misc]
            rows.append(
                {
                    "vocabulary": size,
                    "sets": len(sets.mass),
                    "solver": name,
                    "ms": 1e3 * subject,
                    "times_prefix": subject / reference,
                    "difference": call() - truth,
                }
            )
    return rows


def _call(name: str, p: Tensor, q: Tensor, sets: Any) -> Callable[[], float]:
    if name in PEERS:
        return lambda: PEERS[name](p[0].numpy(), sets)
    return lambda: float(optimal_acceptance(p, q, 2, SAMPLER, method=name).value[0])


def min_cost_flow(p: np.ndarray, sets: Any) -> float:
    """Acceptance by OR-tools' minimum-cost flow: what cannot be accepted pays one."""
    from ortools.graph.python import min_cost_flow as flow

    scale = 1e12
    source, token = sets.edges()
    count, size = len(sets.mass), len(p)
    supply = np.floor(sets.mass * scale).astype(np.int64)
    room = np.floor(p * scale).astype(np.int64)
    spill = count + size
    graph = flow.SimpleMinCostFlow()
    graph.add_arcs_with_capacity_and_unit_cost(source, count + token, supply[source], np.zeros(len(source), np.int64))
    graph.add_arcs_with_capacity_and_unit_cost(
        np.arange(count), np.full(count, spill), supply, np.ones(count, np.int64)
    )
    graph.add_arcs_with_capacity_and_unit_cost(
        count + np.arange(size), np.full(size, spill), room, np.zeros(size, np.int64)
    )
    graph.set_nodes_supplies(np.arange(count), supply)
    graph.set_nodes_supplies(np.array([spill]), np.array([-int(supply.sum())]))
    if graph.solve() != graph.OPTIMAL:
        raise RuntimeError("min-cost flow found no optimum")
    return float(1.0 - graph.optimal_cost() / scale)


def emd(p: np.ndarray, sets: Any) -> float:
    """Acceptance by POT's exact transport on the dense cost matrix sets x (tokens + nothing)."""
    import ot

    cost = np.ones((len(sets.mass), len(p)))
    source, token = sets.edges()
    cost[source, token] = 0.0
    return 1.0 - float(ot.emd2(sets.mass / sets.mass.sum(), p / p.sum(), cost, numItermax=2_000_000))


def linprog(p: np.ndarray, sets: Any) -> float:
    """Acceptance by scipy's linear programme: most mass along the edges that no set and no token overfills."""
    from scipy.optimize import linprog as solve
    from scipy.sparse import csr_array, vstack

    source, token = sets.edges()
    edges = np.arange(len(source))
    ones = np.ones(len(source))
    leaves = csr_array((ones, (source, edges)), shape=(len(sets.mass), len(source)))
    enters = csr_array((ones, (token, edges)), shape=(len(p), len(source)))
    found = solve(-ones, A_ub=vstack([leaves, enters]), b_ub=np.concatenate([sets.mass, p]), method="highs")
    if found.status != 0:
        raise RuntimeError(f"linprog: {found.message}")
    return -float(found.fun)


PEERS = {"min_cost_flow": min_cost_flow, "emd": emd, "linprog": linprog}
