"""Projected Newton for the convex dual of the race: minimise ``Phi(b + s x) - s t.x`` over ``x >= 0``, s = +1 or -1.

The gradient in x is ``s (r - t)``, with r the law of the race's picks, so a shortfall ``(s (t - r))_+`` is a descent
direction that the constraint never blocks: at the minimum there is none (Bertsekas 1982 for the projected method).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

#: Longest step of one log-weight.
_LONGEST = 6.0
#: Relative changes of the objective that are rounding.
UNRESOLVED = 1e-13

#: ``log_weight [U] -> (Phi, r [U], Hessian [U, U])``.
Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


def minimise(
    evaluate: Evaluate,
    start: np.ndarray,
    target: np.ndarray,
    sign: float,
    loss: Callable[[np.ndarray], float],
    *,
    tolerance: float,
    steps: int,
) -> np.ndarray:
    """Log-weights ``[U]`` after at most ``steps`` Newton steps.

    Parameters
    ----------
    evaluate : callable
        Value, gradient and Hessian of Phi.
    start, target : ndarray
        ``[U]``: b, and t.
    sign : float
        +1 where r is to be at least the target (left side), -1 where at most (right side).
    loss : callable
        ``r [U] -> `` acceptance still missing; the search ends when it is at most ``tolerance``.

    Notes
    -----
    Any iterate is a rule, so nothing is lost by stopping early but acceptance.  Cost O(steps U^3).
    """
    x = np.zeros_like(start)
    value, r, hessian = evaluate(start)
    objective, missing = value, loss(r)
    best, least = start, missing
    for _ in range(steps):
        if least <= tolerance:
            break
        slope = sign * (r - target)
        free = (x > 0.0) | (slope < 0.0)
        if not free.any():
            break
        moved = False
        step = _newton_step(hessian, slope, free)
        for direction in (step, np.where(free, -slope / np.maximum(hessian.diagonal(), 1e-12), 0.0)):
            length = 1.0
            for _ in range(12):
                trial = np.maximum(x + length * np.clip(direction, -_LONGEST, _LONGEST), 0.0)
                at = start + sign * trial
                value, r_trial, hessian_trial = evaluate(at)
                objective_trial = value - sign * float(target @ trial)
                lost = loss(r_trial)
                promised = float(slope @ (trial - x))
                # Near the end the objective no longer resolves a step that the loss still does.  A step that raises the
                # objective is never taken for its loss: the next one would come back, and so for ever.
                resolved = objective_trial <= objective + UNRESOLVED * max(1.0, abs(objective))
                if (promised < 0.0 and objective_trial <= objective + 1e-4 * promised) or (
                    resolved and lost < 0.9 * missing
                ):
                    moved = True
                    break
                length /= 2.0
            if moved:
                break
        if not moved:
            break
        x, r, hessian, objective, missing = trial, r_trial, hessian_trial, objective_trial, lost
        if missing < least:
            best, least = at, missing
    return best


def _newton_step(hessian: np.ndarray, slope: np.ndarray, free: np.ndarray) -> np.ndarray:
    step = np.zeros_like(slope)
    part = hessian[np.ix_(free, free)]
    diagonal = part.diagonal()
    # Phi is flat along equal shifts of tokens that never meet others: a ridge relative to each token's own curvature.
    ridge = 1e-10 * diagonal + 1e-14 * max(float(diagonal.max()), 1e-280)
    try:
        step[free] = cho_solve(cho_factor(part + np.diag(ridge), check_finite=False), -slope[free], check_finite=False)
    except LinAlgError:
        step[free] = -slope[free] / np.maximum(diagonal, 1e-12)
    return step
