"""Steps of whole batches of wide rows, compiled by numba: a row is read only where its drafts are rejected.

Each kernel writes one output token for each row.  ``uniform`` ``[B, n + 2]`` holds the random numbers of a row: one
for each draft, and two for the residual.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mdsd_bounds.verifiers.kernels.single_row import above_draft, excess, k_seq_root

#: What is left of q is raised by ``_RAISE`` where it is less than ``_SMALL``: its reciprocal would be infinite.
_SMALL, _RAISE = 1e-290, 2.0**64
#: Tokens whose weights are summed together; a draw finds its block first, and then looks at one block only.
_BLOCK = 1024


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _mass(weight: np.ndarray) -> float:
    total = 0.0
    for i in range(weight.shape[0]):
        total += weight[i]
    return total


@njit(cache=True, nogil=True)
def draw_excess(p: np.ndarray, q: np.ndarray, tau: float, spared: np.ndarray, uniform: float) -> int:
    """A token drawn in proportion to ``(p - tau q)_+``; for the tokens ``spared`` in proportion to p.

    Rows with nothing left over come here by rounding alone: they are drawn from p.
    """
    size = p.shape[0]
    blocks = (size + _BLOCK - 1) // _BLOCK
    sums = np.empty(blocks)
    total = 0.0
    for block in range(blocks):
        first, last = block * _BLOCK, min((block + 1) * _BLOCK, size)
        sums[block] = _mass(p[first:last]) if tau == 0.0 else excess(p[first:last], q[first:last], tau)
    for token in spared:
        if token >= 0:
            sums[token // _BLOCK] += min(p[token], tau * q[token])
    for block in range(blocks):
        total += sums[block]
    if not total > 0.0:
        return draw_excess(p, q, 0.0, spared, uniform) if tau > 0.0 else 0
    goal = (1.0 - uniform) * total
    chosen, before = -1, 0.0
    for block in range(blocks):
        if sums[block] > 0.0:
            chosen = block
            if before + sums[block] >= goal:
                break
            before += sums[block]
    held = -1
    for i in range(chosen * _BLOCK, min((chosen + 1) * _BLOCK, size)):
        weight = p[i] - tau * q[i]
        for token in spared:
            if token == i:
                weight = p[i]
        if weight > 0.0:
            held = i
            before += weight
            if before >= goal:
                return i
    # The sums of the block by pairs and in order differ by rounding.
    return held


@njit(cache=True, nogil=True)
def target_steps(p: np.ndarray, q: np.ndarray, drafts: np.ndarray, uniform: np.ndarray, token: np.ndarray) -> None:
    """One draw from each row of p; q and the drafts are not read."""
    nothing = np.empty(0, np.int64)
    for b in range(p.shape[0]):
        token[b] = draw_excess(p[b], p[b], 0.0, nothing, uniform[b, 0])


@njit(cache=True, nogil=True)
def _left_of(q: np.ndarray, drawn: np.ndarray, total: float) -> float:
    """Mass off the tokens ``drawn`` of a q of that total; summed over what is left where most of it is gone."""
    gone = 0.0
    for token in drawn:
        if token >= 0:
            gone += q[token]
    if gone < 0.999 * total:
        return total - gone
    left = 0.0
    for first in range(0, q.shape[0], _BLOCK):
        last = min(first + _BLOCK, q.shape[0])
        whole = True
        for token in drawn:
            whole &= not first <= token < last
        if whole:
            left += _mass(q[first:last])
            continue
        for i in range(first, last):
            held = q[i]
            for token in drawn:
                if token == i:
                    held = 0.0
            left += held
    return left


@njit(cache=True, nogil=True)
def rejection_steps(
    p: np.ndarray,
    q: np.ndarray,
    drafts: np.ndarray,
    fixed: int,
    replacement: bool,
    uniform: np.ndarray,
    token: np.ndarray,
) -> None:
    """Recursive rejection by the excess function; the first ``fixed`` drafts are drafts of a one-hot distribution.

    A fixed draft a is kept with p_a over the mass of p not yet rejected.  Once all of them are rejected they leave p,
    and the other drafts see ``left = 1 - P(A)`` at tau = 0.
    """
    nothing = np.empty(0, np.int64)
    n = drafts.shape[1]
    for b in range(p.shape[0]):
        target, draft = p[b], q[b]
        token[b] = -1
        left = 1.0
        for k in range(fixed):
            x = drafts[b, k]
            if x >= 0:
                if uniform[b, k] * left < target[x]:
                    token[b] = x
                    break
                left -= target[x]
        if token[b] >= 0:
            continue
        if fixed > 0:
            target = target.copy()
            for k in range(fixed):
                if drafts[b, k] >= 0:
                    target[drafts[b, k]] = 0.0
            left = _mass(target)
        tau, total = 0.0, 1.0
        for k in range(fixed, n):
            x = drafts[b, k]
            if x < 0:
                continue
            mass = 1.0
            if k > 0 and not replacement:
                mass = _left_of(draft, drafts[b, :k], total)
                if mass < _SMALL and total == 1.0:
                    draft, mass, tau, total = draft * _RAISE, mass * _RAISE, tau / _RAISE, _RAISE
            scale = 1.0 / mass if mass > 0.0 else 0.0
            # Compared without a division: u < min(1, excess / limit); a draft that q cannot give is kept if p can.
            if uniform[b, k] * scale * left * draft[x] < target[x] - tau * draft[x]:
                token[b] = x
                break
            tau += scale * left
            left = excess(target, draft, tau)
        if token[b] < 0:
            token[b] = draw_excess(target, draft, tau, nothing, uniform[b, n])


@njit(cache=True, nogil=True)
def greedy_steps(p: np.ndarray, q: np.ndarray, drafts: np.ndarray, uniform: np.ndarray, token: np.ndarray) -> None:
    """Speculative sampling of the last draft against q off the others, renormalised."""
    n = drafts.shape[1]
    for b in range(p.shape[0]):
        last = drafts[b, n - 1]
        draft = q[b]
        mass = _left_of(draft, drafts[b, : n - 1], 1.0)
        if mass < _SMALL:
            draft, mass = draft * _RAISE, mass * _RAISE
        if last >= 0 and uniform[b, 0] * draft[last] < mass * p[b, last]:
            token[b] = last
        else:
            tau = 1.0 / mass if mass > 0.0 else 0.0
            token[b] = draw_excess(p[b], draft, tau, drafts[b, : n - 1], uniform[b, n])


@njit(cache=True, nogil=True)
def k_seq_steps(p: np.ndarray, q: np.ndarray, drafts: np.ndarray, uniform: np.ndarray, token: np.ndarray) -> None:
    """Try the drafts in turn, and draw from ``(p - rho q)_+`` when all of them are rejected.

    rho lies in [1, n]: it is solved for only where that leaves a draft undecided.
    """
    n = drafts.shape[1]
    nothing = np.empty(0, np.int64)
    above, below = np.empty(p.shape[1]), np.empty(p.shape[1])
    for b in range(p.shape[0]):
        token[b], rho = -1, 0.0
        for k in range(n + 1):
            x = drafts[b, k] if k < n else -1
            bar = uniform[b, k] * q[b, x] if x >= 0 else 0.0
            if x >= 0 and bar * n < p[b, x]:
                token[b] = x
                break
            if k < n and (x < 0 or bar >= p[b, x]):
                continue
            if rho == 0.0:
                count = above_draft(p[b], q[b], above, below)
                rho = k_seq_root(above[:count], below[:count], n)
            if x >= 0 and bar * rho < p[b, x]:
                token[b] = x
                break
        if token[b] < 0:
            token[b] = draw_excess(p[b], q[b], rho, nothing, uniform[b, n])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _hazard(p: np.ndarray, q: np.ndarray, t: float, first: float) -> tuple[float, float]:
    """``sum_i (p_i t - q_i first)_+`` and its slope in t."""
    total, slope = 0.0, 0.0
    for i in range(p.shape[0]):
        past = p[i] * t - q[i] * first
        total += max(past, 0.0)
        slope += p[i] if past > 0.0 else 0.0
    return total, slope


@njit(cache=True, nogil=True)
def gumbel_steps(p: np.ndarray, q: np.ndarray, drafts: np.ndarray, uniform: np.ndarray, token: np.ndarray) -> None:
    """The target's race given the drafts, without drawing an arrival time for every token.

    Column k was won at time M_k ~ Exp(1): its other times are ``q_i M_k + Exp(1)``, the winner's is ``q_x M_k``.  On
    the target's scale, time over p, the others arrive together with cumulative hazard ``sum_i (p_i t - q_i M_k)_+``,
    convex and piecewise linear in t, and the winners at ``q_x M_k / p_x``.  The first arrival is a winner, or the
    point where the total hazard reaches an Exp(1), found by Newton steps from above; its token has distribution p over
    those that can have arrived.  Winners add no hazard before their own time.
    """
    n = drafts.shape[1]
    for b in range(p.shape[0]):
        first = -np.log1p(-uniform[b, :n])
        goal = -np.log1p(-uniform[b, n])
        latest, winner = np.inf, -1
        for k in range(n):
            x = drafts[b, k]
            if p[b, x] > 0.0 and q[b, x] * first[k] < latest * p[b, x]:
                latest, winner = q[b, x] * first[k] / p[b, x], x
        # The hazard is at least n t - sum M_k.
        t = min(latest, (goal + first.sum()) / n)
        slopes = np.zeros(n)
        for step in range(100):
            total = 0.0
            for k in range(n):
                value, slopes[k] = _hazard(p[b], q[b], t, first[k])
                total += value
            if step == 0 and t == latest and total <= goal:
                t = -1.0
                break
            if not total > goal * (1.0 + 1e-14) or not slopes.sum() > 0.0:
                break
            following = t - (total - goal) / slopes.sum()
            if not following < t:
                break
            t = following
        if t < 0.0:
            token[b] = winner
            continue
        left = (1.0 - uniform[b, n + 1]) * slopes.sum()
        token[b] = max(winner, 0)
        for k in range(n):
            if left > slopes[k] and k < n - 1:
                left -= slopes[k]
                continue
            for i in range(p.shape[1]):
                if p[b, i] * t > q[b, i] * first[k]:
                    token[b] = i
                    left -= p[b, i]
                    if left <= 0.0:
                        break
            break
