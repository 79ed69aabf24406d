"""The same linear programme as :mod:`mdsd_bounds.bounds.oracles.linear_program`, written to be read, in cvxpy.

cvxpy's own solver hands back the primal plan and, as multipliers of its two constraints, the dual solution.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsd_bounds._backend.highs import SCALE, silent_stdout
from mdsd_bounds.bounds.oracles.draft_sets import DraftSets
from mdsd_bounds.bounds.oracles.linear_program import check_size, solve_by_programme
from mdsd_bounds.problem import Bound, InputError, Problem


def solve_cvxpy(problem: Problem) -> Bound:
    """Optimal acceptance by cvxpy; fields and certificate as
    :func:`mdsd_bounds.bounds.oracles.linear_program.solve_lp`."""
    return solve_by_programme(problem, "cvxpy", transport)


def transport(sets: DraftSets, p: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The plan ``[E]`` and the dual ``(u [S], v [V])`` of one position."""
    check_size(sets, "cvxpy")
    import cvxpy
    import scipy.sparse as sp

    cp: Any = cvxpy

    source, token = sets.edges()
    edges = np.arange(len(source))
    leaving = sp.csr_array((np.ones(len(edges)), (source, edges)), shape=(len(sets.mass), len(edges)))
    arriving = sp.csr_array((np.ones(len(edges)), (token, edges)), shape=(len(p), len(edges)))

    plan = cp.Variable(len(edges), nonneg=True)
    from_sets = leaving @ plan <= SCALE * sets.mass
    to_tokens = arriving @ plan <= SCALE * p
    programme = cp.Problem(cp.Maximize(cp.sum(plan)), [from_sets, to_tokens])
    with silent_stdout():
        programme.solve(solver=cp.HIGHS)
    if programme.status != cp.OPTIMAL:
        raise InputError(f"method 'cvxpy': the solver stopped with {programme.status}; try method='maxflow'")

    return np.asarray(plan.value) / SCALE, (np.asarray(from_sets.dual_value), np.asarray(to_tokens.dual_value))
