"""Linear programmes whose matrix holds ones alone, solved by HiGHS, which prints a banner that is kept off stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mdsd_bounds.problem import InputError

#: The solver's absolute tolerance of 1e-7 becomes 1e-13 in units of probability.
SCALE = 1e6


@contextmanager
def silent_stdout() -> Iterator[None]:
    """HiGHS greets from C on file descriptor 1 before any option can be set; stdout is data."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed: nothing to keep clean
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def solve_highs(
    cost: np.ndarray, maximise: bool, start: np.ndarray, index: np.ndarray, limit: np.ndarray, *, upper: bool
) -> np.ndarray:
    """Non-negative x with ``A x <= limit`` (or ``>=``); A has ones at ``index[start[j]:start[j+1]]`` of column j."""
    import highspy

    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(cost), len(limit)
    model.col_cost_ = cost
    model.col_lower_ = np.zeros(len(cost))
    model.col_upper_ = np.full(len(cost), highspy.kHighsInf)
    unbounded = np.full(len(limit), highspy.kHighsInf)
    model.row_lower_, model.row_upper_ = (-unbounded, limit) if upper else (limit, unbounded)
    model.sense_ = highspy.ObjSense.kMaximize if maximise else highspy.ObjSense.kMinimize
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = start.astype(np.int32)
    model.a_matrix_.index_ = index.astype(np.int32)
    model.a_matrix_.value_ = np.ones(len(index))
    with silent_stdout():
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.passModel(model)
    solver.run()
    status = solver.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise InputError(f"method 'lp': HiGHS stopped with {solver.modelStatusToString(status)}; try method='maxflow'")
    return np.asarray(solver.getSolution().col_value)
