"""Many drafts at one position, quickly: what Monte Carlo over drafts needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import NO_DRAFT, RAISE, Sampler, fixed_mask, leftover, place_of, top_tokens

#: Tokens of largest q that are held one by one, at least one more than the drafts.
HEAVY = 16
_ROWS = 64
#: A draw that rounding lets fall on a token without mass is made again, at most so often.
_REDRAWS = 50


def sample_position(
    rule: Sampler, q: Tensor, n: int, samples: int, generator: torch.Generator | None, **options: Option
) -> Tensor:
    """``[samples, n]`` drafts of one position, each row on its own; q without its batch axis.

    O(V + samples n^2 log V) for the samplers of the fixed-plus-random family and those that bring their own way;
    O(samples n V) for others.
    """
    if rule.sample_position is not None:
        return rule.sample_position(q, n, samples, generator, **options)
    if rule.split is None:
        parts = [
            rule.sample(q.expand(min(_ROWS, samples - first), *q.shape), n, generator, **options)
            for first in range(0, samples, _ROWS)
        ]
        return torch.cat(parts)
    fixed, random = rule.split(n, **options)
    head = top_tokens(q[None], fixed).expand(samples, -1)
    # Raised, so that a share of a subnormal mass keeps its digits.
    rest = leftover(q[None], fixed_mask(q[None], fixed))[0] * RAISE
    if random == 0 or not bool(rest.sum() > 0):
        return torch.nn.functional.pad(head, (0, random), value=NO_DRAFT)
    if rule.replacement:
        tail = draw_many(rest, samples * random, generator).reshape(samples, random)
    else:
        tail = draw_many_without(rest, random, samples, generator)
    return torch.cat([head, tail], -1)


def draw_many(probs: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """``[samples]`` draws of one distribution ``[V]``: one cumulative sum, then binary searches."""
    uniform = torch.rand(samples, dtype=probs.dtype, device=probs.device, generator=generator)
    return place_of(probs.cumsum(0), uniform)


def draw_many_without(probs: Tensor, n: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """``[samples, n]`` sequential draws without replacement of one distribution ``[V]``; -1 where nothing is left.

    The heaviest tokens are held one by one and the others cumulated.  While a heavy token remains it outweighs every
    light one drawn, so what remains is never the small difference of large sums.
    """
    heavy = probs.topk(min(max(HEAVY, n + 1), len(probs))).indices
    mass = probs[heavy]
    light = probs.scatter(0, heavy, 0.0)
    below = torch.nn.functional.pad(light.cumsum(0), (1, 0))
    free = (mass > 0).expand(samples, -1).clone()
    drafts = torch.full((samples, n), NO_DRAFT, dtype=torch.int64, device=probs.device)
    for k in range(n):
        # Heavy drafts carry no light mass: theirs is zero there.
        drawn = drafts[:, :k]
        gone = torch.where(drawn >= 0, light[drawn.clamp(min=0)], light.new_zeros(()))
        table = (free * mass).cumsum(-1)
        end = torch.full((samples,), len(probs), dtype=torch.int64, device=probs.device)

        def cumulative(place: Tensor, drawn: Tensor = drawn, gone: Tensor = gone) -> Tensor:
            return (below[place] - (gone * (drawn < place[:, None])).sum(-1)).clamp(min=0.0)

        choice = draw_heavy_or_light(table, cumulative, end, drawn, generator)
        taken = choice < 0
        token = torch.where(taken, heavy[(-1 - choice).clamp(min=0)], choice)
        live = (table[:, -1] > 0) | (cumulative(end) > 0)
        drafts[:, k] = torch.where(live, token, torch.full_like(token, NO_DRAFT))
        rows = (taken & live).nonzero()[:, 0]
        free[rows, -1 - choice[rows]] = False
    return drafts


def draw_heavy_or_light(
    table: Tensor,
    cumulative: Callable[[Tensor], Tensor],
    end: Tensor,
    drawn: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """One draw for each sample ``[S]``: place of a light token, or ``-1 - i`` for heavy token i.

    Parameters
    ----------
    table : Tensor
        ``[S, heavy]`` cumulative weights of the heavy tokens.
    cumulative : callable
        ``place [S] -> [S]``: weight of the light tokens before ``place``, non-decreasing.
    end : Tensor
        ``[S]``: light tokens from here on have no weight.
    drawn : Tensor
        ``[S, k]`` places of light tokens drawn before; they carry no weight, and should rounding hit one, or a token
        without weight, the draw is made again.
    """
    heavy_weight = table[:, -1]
    light_weight = torch.where(end > 0, cumulative(end), torch.zeros_like(heavy_weight))
    total = heavy_weight + light_weight
    answer = torch.full_like(end, -1)
    waiting = total > 0
    for _ in range(_REDRAWS):
        goal = total * (1.0 - torch.rand(total.shape, dtype=total.dtype, device=total.device, generator=generator))
        from_heavy = (goal <= heavy_weight) | (light_weight <= 0)
        among = torch.searchsorted(table, torch.minimum(goal, heavy_weight)[:, None].contiguous())[:, 0]
        rest = goal - heavy_weight
        low, high = torch.zeros_like(end), (end - 1).clamp(min=0)
        while bool((low < high).any()):
            middle = (low + high) // 2
            reached = (cumulative(middle + 1) >= rest) | (low >= high)
            low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
        choice = torch.where(from_heavy, -1 - among.clamp(max=table.shape[1] - 1), low)
        weightless = (choice >= 0) & (cumulative(torch.minimum(low + 1, end)) <= cumulative(low))
        again = ((choice[:, None] == drawn).any(-1) | weightless) & (choice >= 0)
        answer = torch.where(waiting & ~again, choice, answer)
        waiting = waiting & again
        if not bool(waiting.any()):
            break
    return answer
