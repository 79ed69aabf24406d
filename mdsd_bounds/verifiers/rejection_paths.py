"""Paths of rejected drafts under recursive rejection without replacement: enumerated, or drawn.

State of a path: tau, ``left = E(tau)`` and the draft mass c not yet rejected.  The next draft moves tau to ``tau' =
tau + left / c``; it is token i and rejected with probability proportional to

    ``w_i = min(q_i left / c, (tau' q_i - p_i)_+)``  off the tokens already rejected

(the first where the residual has no mass on i), and these weights sum to ``E(tau')``.

q need not sum to one: tau is counted in units of one over its total.  A q raised by a power of two keeps ``left / c``
finite where what is left of q is subnormal.

Masses that remain are summed over what remains: on peaked rows one minus the rejected mass has no digits left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds.verifiers.monte_carlo import HEAVY, draw_heavy_or_light

#: Weights ``[paths, V]`` that one row may need in all before enumeration gives way to sampling.
_MAX_WEIGHTS = 1_000_000


def enumerate_paths(p: Tensor, q: Tensor, n: int) -> Tensor:
    """Exact acceptance (0-dim) of n drafts for one row ``[V]``; NaN where the paths are too many.

    One level holds every sequence of distinct rejected tokens, V^{n-1} of them at the last; O(V log V) for n = 2.
    """
    size = int((q > 0).sum())
    n = min(n, size)
    if n > 2 and float(size) ** (n - 1) > _MAX_WEIGHTS:
        return p.new_full((), float("nan"))
    if n == 1:
        return torch.minimum(p, q / q.sum()).sum()
    light = _Light(p, q)
    # Tokens without draft probability are never rejected: tables [paths, V] need only the others.
    p, q = p[q > 0], q[q > 0]
    weight, tau, left, mass = p.new_ones(1), p.new_zeros(1), p.new_ones(1), q.sum()[None]
    drawn = torch.zeros((1, len(q)), dtype=torch.bool, device=q.device)
    for k in range(n):
        scale = left / mass
        after = tau + scale
        if k == n - 1:
            return (1.0 - weight @ light.excess(after)).clamp(0.0, 1.0)
        held = torch.where(drawn, torch.zeros_like(q), q)
        chance = torch.minimum(held * scale[:, None], torch.addcmul(-p, after[:, None], q).clamp_(min=0.0))
        total = chance.sum(-1, keepdim=True)
        chance = chance / torch.where(total > 0, total, torch.ones_like(total))
        following = light.excess(after)
        path, token = (chance > 0).nonzero(as_tuple=True)
        # Taking the largest token away cancels; any other leaves at least as much as it took.
        largest = held.argmax(-1)
        rest = mass[path] - q[token]
        top = (token == largest[path]).nonzero()[:, 0]
        others = held.scatter(-1, largest[:, None], 0.0).sum(-1)
        rest[top] = others[path[top]]
        live = rest > 0
        path, token, rest = path[live], token[live], rest[live]
        weight, tau, left, mass = weight[path] * chance[path, token], after[path], following[path], rest
        if k + 2 < n:
            drawn = drawn[path].scatter(-1, token[:, None], True)
    raise AssertionError("the loop returns at its last draft")


class _Light:
    """Tokens sorted by p/q with both masses cumulated: E(tau) and the rejection weights by binary search."""

    def __init__(self, p: Tensor, q: Tensor) -> None:
        held = (q > 0).nonzero()[:, 0]
        self.never = p.sum() - p[held].sum() if len(held) < len(q) else p.new_zeros(())
        ratio, order = (p[held] / q[held]).sort(stable=True)
        self.ratio, self.p, self.q = ratio, p[held][order], q[held][order]
        zero = p.new_zeros(1)
        self.below_p, self.below_q = torch.cat([zero, self.p.cumsum(0)]), torch.cat([zero, self.q.cumsum(0)])
        self.above_p = torch.cat([self.p.flip(0).cumsum(0).flip(0), zero])
        self.above_q = torch.cat([self.q.flip(0).cumsum(0).flip(0), zero])

    def excess(self, tau: Tensor) -> Tensor:
        """``E(tau)``; tokens with q = 0 always count in full."""
        place = torch.searchsorted(self.ratio, tau.contiguous())
        return self.never.clamp(min=0.0) + (self.above_p[place] - tau * self.above_q[place]).clamp(min=0.0)


def sample_paths(p: Tensor, q: Tensor, n: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """``1 - E(tau_k)`` ``[n, samples]``, k = 1..n, along sampled paths of one row ``[V]``.

    The tokens of largest q are held one by one, so that what remains after any n rejections is summed without
    cancellation: while one of them remains it outweighs any light token rejected.  The others are sorted by p/q, and
    their cumulative rejection weight is monotone, so a draw is a bisection.  O(V log V + samples n (n + log V)).
    """
    count = min(max(HEAVY, n + 1), len(q))
    heavy = q.topk(count).indices
    heavy_p, heavy_q = p[heavy], q[heavy]
    light = _Light(p.scatter(0, heavy, 0.0), q.scatter(0, heavy, 0.0))
    tau, left = p.new_zeros(samples), p.new_ones(samples)
    free = (heavy_q > 0).expand(samples, -1).clone()
    places = torch.full((samples, 0), -1, dtype=torch.int64, device=q.device)
    light_total = light.below_q[-1]
    answers = []
    for k in range(n):
        gone = places.new_zeros(places.shape, dtype=p.dtype)
        if len(light.q):
            gone = torch.where(places >= 0, light.q[places.clamp(min=0)], gone)
        mass = (free * heavy_q).sum(-1) + (light_total - gone.sum(-1)).clamp(min=0.0)
        scale = torch.where(mass > 0, left / torch.where(mass > 0, mass, torch.ones_like(mass)), torch.zeros_like(mass))
        before, tau = tau, tau + scale
        above = torch.addcmul(heavy_p, tau[:, None], heavy_q, value=-1.0).clamp_(min=0.0).sum(-1)
        left = torch.where(mass > 0, above + light.excess(tau), left)
        answers.append(1.0 - left)
        if k + 1 < n:
            # Not times ``free``: the weight of a token already rejected may be infinite.
            single = _rejection_weights(heavy_p, heavy_q, tau, scale).masked_fill(~free, 0.0)
            step = _Step(before, tau, scale, places, gone)
            place = _draw_rejected(light, step, single.cumsum(-1), generator)
            picked = place < 0
            free[picked, -1 - place[picked]] = False
            places = torch.cat([places, torch.where(picked, torch.full_like(place, -1), place)[:, None]], -1)
    return torch.stack(answers).clamp(0.0, 1.0)


def _rejection_weights(p: Tensor, q: Tensor, tau: Tensor, scale: Tensor) -> Tensor:
    """``w_i`` ``[S, V]`` of tokens not yet rejected, after tau has moved by ``scale``."""
    return torch.minimum(q * scale[:, None], torch.addcmul(-p, tau[:, None], q).clamp_(min=0.0))


@dataclass(frozen=True)
class _Step:
    """One rejection of every sample: tau ``before`` and after it, ``scale`` by which it moved ``[S]``, and of the light
    tokens rejected so far their ``places`` and masses ``gone`` ``[S, k]``.
    """

    before: Tensor
    tau: Tensor
    scale: Tensor
    places: Tensor
    gone: Tensor


def _draw_rejected(light: _Light, step: _Step, table: Tensor, generator: torch.Generator | None) -> Tensor:
    """A rejected token for each sample ``[S]``: its place among the light ones, or ``-1 - i`` for heavy token i.

    ``table`` ``[S, heavy]`` are the cumulative weights of the heavy tokens.
    """
    cut = torch.searchsorted(light.ratio, step.before.contiguous(), right=True)
    end = torch.searchsorted(light.ratio, step.tau.contiguous())

    def cumulative(place: Tensor) -> Tensor:
        inner = torch.minimum(place, cut)
        missing = (step.gone * (step.places < inner[:, None])).sum(-1)
        full = step.scale * (light.below_q[inner] - missing).clamp(min=0.0)
        beyond = light.below_p[place] - light.below_p[inner]
        partial = step.tau * (light.below_q[place] - light.below_q[inner]) - beyond
        return full + partial.clamp(min=0.0)

    return draw_heavy_or_light(table, cumulative, end, step.places, generator)
