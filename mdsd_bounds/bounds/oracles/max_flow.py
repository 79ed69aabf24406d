"""The transport problem as a maximum flow: source -> drafted sets -> their tokens -> sink, in integers.

Capacities are masses times 2^60, rounded *down*, so the flow is a feasible plan (a lower bound).  Tokens on the source
side of the minimum cut form H, evaluated in floating point (an upper bound).  The large oracle: n = 2
at V = 1,000 has half a million sets.
"""

from __future__ import annotations

import numpy as np

from mdsd_bounds.bounds.oracles.draft_sets import DraftSets
from mdsd_bounds.bounds.oracles.linear_program import solve_by_programme
from mdsd_bounds.problem import Bound, InputError, Problem

#: All capacities together stay under the solver's 63 bits, and a million sets lose at most 1e-12 to rounding down.
_CAPACITY = 2.0**60


def solve_maxflow(problem: Problem) -> Bound:
    """Optimal acceptance by maximum flow (OR-tools); fields as
    :func:`mdsd_bounds.bounds.oracles.linear_program.solve_lp`.

    Raises
    ------
    InputError
        If OR-tools is not installed or there are too many drafted sets.
    """
    return solve_by_programme(problem, "maxflow", _maximum_flow)


def _maximum_flow(sets: DraftSets, p: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Flow on each (set, token) edge ``[E]`` and the cut as indicators ``u [S]``, ``v [V]``."""
    try:
        from ortools.graph.python import max_flow
    except ModuleNotFoundError:
        raise InputError("method 'maxflow' needs OR-tools: pip install 'mdsd-bounds[lp]'") from None
    source, token = sets.edges()
    count, size = len(sets.mass), len(p)
    start, end = 0, 1
    graph = max_flow.SimpleMaxFlow()
    set_node, token_node = 2 + np.arange(count), 2 + count + np.arange(size)
    capacity = np.floor(sets.mass * _CAPACITY).astype(np.int64)
    graph.add_arcs_with_capacity(np.full(count, start), set_node, capacity)
    middle = graph.add_arcs_with_capacity(set_node[source], token_node[token], capacity[source])
    graph.add_arcs_with_capacity(token_node, np.full(size, end), np.floor(p * _CAPACITY).astype(np.int64))
    if graph.solve(start, end) != graph.OPTIMAL:
        raise InputError("method 'maxflow': the flow solver did not reach an optimum; use method='lp'")
    plan = np.asarray(graph.flows(middle)) / _CAPACITY
    # A set on the source side sends no more than its tokens take: those tokens are cut (v = 1) and form H.
    reached = np.zeros(2 + count + size, dtype=bool)
    reached[graph.get_source_side_min_cut()] = True
    return plan, ((~reached[set_node]).astype(float), reached[token_node].astype(float))
