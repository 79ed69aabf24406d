"""SpecHub (Sun et al., EMNLP 2024): two drafts, the most probable token (the hub) and one other.

With hub a and r = q off a, renormalised: output the other draft x with ``min(1, p_x/r_x)``, else the hub with
probability ``p_a / (1 - sum off a of min(p, r))``, else a draw from norm((p - r)_+) off the hub.  Optimal for its
distribution: acceptance ``p_a + sum off a of min(p_x, r_x)``.  The paper draws its pairs in two orders; given the pair,
both orders together accept x with the probability above, so the order is not needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import mark
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.schemes import greedy
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, at, residual


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Distribution of the output given the hub and its partner."""
    hub, partner = drafts[:, 0], drafts[:, 1]
    r = greedy.random_distribution(q, drafts)
    others = p.masked_fill(mark(torch.zeros_like(p, dtype=torch.bool), hub), 0.0)
    accept = accept_probability(others, r, partner)
    # What no partner is accepted for: the hub's own mass and the residual, summed rather than taken from one.
    hub_mass, unmet = at(p, hub), (others - r).clamp(min=0.0).sum(-1)
    total = hub_mass + unmet
    take_hub = torch.where(total > 0, hub_mass / torch.where(total > 0, total, torch.ones_like(total)), hub_mass)
    probs = add_at(add_at(torch.zeros_like(p), partner, accept), hub, (1.0 - accept) * take_hub)
    return probs + ((1.0 - accept) * (1.0 - take_hub))[:, None] * residual(_proper(others, p), r)


def _proper(others: Tensor, p: Tensor) -> Tensor:
    """``others``; p itself where all of p sits on the hub (the residual is then never drawn from)."""
    return torch.where(others.sum(-1, keepdim=True) > 0, others, p)


VERIFIER = Verifier(
    name="spechub",
    paper="Sun et al., SpecHub, EMNLP 2024, arXiv 2411.05289",
    lossless=True,
    samplers=("greedy",),
    output_distribution=output_distribution,
    fast_step=greedy.fast_step,
    exact_rate=greedy.exact_rate,
    drafts_needed=2,
    cost="O(V)",
)
