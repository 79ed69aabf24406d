"""The race where the drafted sets can be listed: everything by enumeration, so r is exact up to rounding.

Without replacement a set T of k tokens is drafted with probability m(T), where ``m(T) = sum over i in T of
m(T - i) q_i / (mass of q off T - i)``, the chance that the draws so far fill T.  Then, for weights ``w = e^theta``,

    ``Phi(theta) = sum_T m(T) log w(T active)``,  ``r_i = sum over T with i active of m(T) w_i / w(T active)``

is its gradient, and with ``pi_T`` the pick's law given T the Hessian is ``sum_T m(T) (diag pi_T - pi_T pi_T')``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from mdsd_bounds.verifiers.optimal.projected_newton import minimise

#: Drafted sets beyond which the other routes are taken.
MOST_SETS = 2500
TOLERANCE = 1e-12
STEPS = 120


@dataclass(frozen=True)
class Side:
    """One side's active sets.

    Attributes
    ----------
    member : ndarray
        ``[T, U]`` bool: which of the side's tokens are active.
    mass : ndarray
        ``[T]`` their probabilities.
    """

    member: np.ndarray
    mass: np.ndarray

    def evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """``Phi``, its gradient r and its Hessian at ``theta`` ``[U]``."""
        share, log_total = self._share(theta)
        weighted = share * self.mass[:, None]
        r = weighted.sum(0)
        return float(self.mass @ log_total), r, np.diag(r) - share.T @ weighted

    def law(self, theta: np.ndarray) -> np.ndarray:
        """r ``[U]`` alone."""
        return np.asarray((self._share(theta)[0] * self.mass[:, None]).sum(0))

    def _share(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top = np.where(self.member, theta, -np.inf).max(1, keepdims=True)
        weight = np.where(self.member, np.exp(np.minimum(theta - top, 0.0)), 0.0)
        total = weight.sum(1, keepdims=True)
        return weight / total, (top + np.log(total))[:, 0]


def countable(support: int, draws: int) -> bool:
    """Whether the drafted sets are few enough to be listed."""
    return support <= draws or (support <= 62 and math.comb(support, draws) <= MOST_SETS)


def set_masses(q: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """All drafted sets ``[T, U]`` bool of positive rates q ``[U]``, and their probabilities ``[T]``.

    With at most ``draws`` tokens all of them are drafted.
    """
    size = len(q)
    draws = min(draws, size)
    reached = {0: 1.0}
    for count in range(draws):
        following: dict[int, float] = {}
        for held, chance in reached.items():
            outside = [i for i in range(size) if not held >> i & 1]
            # Summed over what is left, never one minus what was drawn.
            left = math.fsum(q[i] for i in outside)
            for i in outside:
                mark = held | 1 << i
                # The last token left is certain, whatever its rate.
                share = q[i] / left if len(outside) > 1 else 1.0
                following[mark] = following.get(mark, 0.0) + chance * share
        reached = following
        assert len(reached) == math.comb(size, count + 1)
    sets = list(itertools.combinations(range(size), draws))
    member = np.zeros((len(sets), size), dtype=bool)
    mass = np.empty(len(sets))
    for row, chosen in enumerate(sets):
        member[row, list(chosen)] = True
        mass[row] = reached[sum(1 << i for i in chosen)]
    return member, mass


def split_by_sets(p: np.ndarray, member: np.ndarray, mass: np.ndarray, fixed: int) -> int:
    """Length h of the prefix that minimises ``P(H) - Q(H)``; the first ``fixed`` tokens are in every H."""
    last = np.where(member, np.arange(member.shape[1]), -1).max(1)
    inside = np.cumsum(np.bincount(last + 1, weights=mass, minlength=len(p) + 1))
    curve = np.concatenate([[0.0], np.cumsum(p)]) - inside
    return fixed + int(np.argmin(curve[fixed:]))


def solve_sets(
    p: np.ndarray, base: np.ndarray, member: np.ndarray, mass: np.ndarray, h: int, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights and r, both ``[U]``, of the race with left side the first ``h`` tokens.

    Parameters
    ----------
    p, base : ndarray
        ``[U]`` targets and starting log-weights b.
    member, mass : ndarray
        Drafted sets with the fixed tokens in all of them.
    """
    theta, r = base.copy(), np.zeros_like(p)
    crosses = member[:, h:].any(1)
    for part, rows, sign in ((slice(0, h), ~crosses, 1.0), (slice(h, len(p)), crosses, -1.0)):
        keep = rows & (mass > 0)
        if not keep.any():
            continue
        side = _merged(member[keep][:, part], mass[keep])
        goal = p[part]

        def loss(law: np.ndarray, goal: np.ndarray = goal, sign: float = sign) -> float:
            return float(np.maximum(sign * (goal - law), 0.0).sum())

        theta[part] = minimise(side.evaluate, base[part], goal, sign, loss, tolerance=TOLERANCE, steps=steps)
        r[part] = side.law(theta[part])
    return theta, r


def _merged(member: np.ndarray, mass: np.ndarray) -> Side:
    """Sets that are active alike are one."""
    unique, index = np.unique(member, axis=0, return_inverse=True)
    return Side(unique, np.bincount(index.reshape(-1), weights=mass, minlength=len(unique)))
