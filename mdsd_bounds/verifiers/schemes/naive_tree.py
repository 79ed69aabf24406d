"""Naive tree sampling: speculative sampling of the first draft, then look for the output among the others.

The baseline of the multi-draft literature.  The output is x_1 with ``min(1, p/q)``, else a draw from norm((p-q)_+),
accepted if another draft happens to equal it: ``sum min(p, q) + sum (p-q)_+ (1 - (1-q)^{n-1})``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.verifiers.base import Verifier, draft_distribution
from mdsd_bounds.verifiers.excess_function import found_after_first
from mdsd_bounds.verifiers.schemes.rrs import first_accepted
from mdsd_bounds.verifiers.speculative_sampling import speculative_distribution


def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    """Speculative sampling of the first draft."""
    return speculative_distribution(p, draft_distribution(q, 0), drafts[:, 0])


def fast_step(
    p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *, sampler: str, **options: Option
) -> Tensor:
    """Accept the first draft or sample the residual, which is computed only where it is needed."""
    return first_accepted(p, draft_distribution(q, 0), drafts[:, :1], generator)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``sum min(p, q_1) + sum (p-q_1)_+ (1 - prod_{k>1} (1-q_k))`` ``[N, B]``, O(V) per n."""
    if q.ndim == 2:
        return found_after_first(p, q, max(n_drafts))[[n - 1 for n in n_drafts]]
    first = draft_distribution(q, 0)
    kept, left = torch.minimum(p, first).sum(-1), (p - first).clamp(min=0.0)
    return torch.stack([kept + (left * (1.0 - (1.0 - q[:, 1:n]).prod(1))).sum(-1) for n in n_drafts])


VERIFIER = Verifier(
    name="naive_tree",
    paper="Leviathan et al., ICML 2023, arXiv 2211.17192, for the first draft; the rest looked up",
    lossless=True,
    samplers=("with_replacement", "independent"),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    cost="O(V)",
)
