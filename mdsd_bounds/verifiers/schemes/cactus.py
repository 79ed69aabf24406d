"""Cactus, constrained acceptance speculative sampling (Hao and Mou, ICLR 2026, arXiv 2604.04987).  LOSSY.

For one draft x of q.  The target's probability of x is raised within a divergence budget ``delta`` (to second order),

    h_x = min(1, p_x + sqrt(2 delta p_x (1 - p_x))),

and all others are scaled by ``s_x = (1 - h_x) / (1 - p_x)``.  The draft is accepted with ``min(1, h_x / q_x)``; after
a rejection the output is drawn from ``norm((s_x p - q)_+)``, which depends on the rejected draft.  As in the authors'
code (`cactus/cactus.py`).  Option ``delta`` (0.25); 0 is speculative sampling.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.speculative_sampling import add_at, at

DELTA = 0.25


def raised(p: Tensor, delta: float) -> Tensor:
    """``h``, elementwise.

    Raises
    ------
    InputError
        If delta is no finite number of at least 0.
    """
    if not 0 <= delta < float("inf"):
        raise InputError(f"cactus: delta={delta!r}; give a divergence of at least 0")
    return (p + torch.sqrt(2 * delta * p * (1 - p).clamp(min=0.0))).clamp(max=1.0)


def output_distribution(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, delta: float = DELTA, **options: Option
) -> Tensor:
    """Distribution of the output given the draft."""
    x = drafts[:, 0]
    mass_p, mass_q = at(p, x), at(q, x)
    high = raised(mass_p, delta)
    accept = torch.where(high >= mass_q, 1.0, high / torch.where(mass_q > 0, mass_q, 1.0))
    scale = torch.where(mass_p < 1, (1 - high) / torch.where(mass_p < 1, 1 - mass_p, 1.0), 0.0)
    rest = (scale[:, None] * p - q).clamp(min=0.0)
    total = rest.sum(-1, keepdim=True)
    # Nothing left over: the draft is then accepted for certain.
    rest = torch.where(total > 0, rest / torch.where(total > 0, total, 1.0), p)
    return add_at((1.0 - accept)[:, None] * rest, x, accept)


def exact_rate(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, delta: float = DELTA, **options: Option
) -> Tensor:
    """``sum min(h, q)`` ``[1, B]``: a token drawn after a rejection is never the draft, whose mass was above h."""
    return torch.minimum(raised(p, delta), q).sum(-1).clamp(max=1.0)[None]


def distance(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, delta: float = DELTA, **options: Option
) -> Tensor:
    """Exact total variation ``[1, B]``, all rejected drafts summed over in O(V log V).

    A token y is in the residual of the rejected draft x where ``p_y / q_y > 1 / s_x``.  With the tokens sorted by p/q,
    the residual of x is a prefix, its mass ``s_x P - Q`` over the prefix, and the shares of all x add up from the end.
    """
    rows = [output(a.cpu().numpy(), b.cpu().numpy(), raised(a, delta).cpu().numpy()) for a, b in zip(p, q, strict=True)]
    distributions = torch.from_numpy(np.stack(rows)).to(p.device)
    return (distributions - p).clamp(min=0.0).sum(-1)[None]


def output(p: np.ndarray, q: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Distribution of the output ``[V]`` over all drafts of one row."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0, p / q, np.where(p > 0, np.inf, 0.0))
    order = np.argsort(-ratio, kind="stable")
    mass_p, mass_q = (np.concatenate([[0.0], np.cumsum(x[order])]) for x in (p, q))
    rejected = np.flatnonzero(q > high)
    probs = np.asarray(np.minimum(high, q))
    if len(rejected) == 0:
        return probs
    scale = (1.0 - high[rejected]) / (1.0 - p[rejected])
    length = np.searchsorted(-ratio[order], -1.0 / scale, side="left")
    weight = (q - high)[rejected] / (scale * mass_p[length] - mass_q[length])
    shares = [np.bincount(length, weights=x, minlength=len(p) + 1) for x in (weight * scale, weight)]
    more_p, more_q = (x[::-1].cumsum()[::-1][1:] for x in shares)
    probs[order] += more_p * p[order] - more_q * q[order]
    return probs


VERIFIER = Verifier(
    name="cactus",
    paper="Hao and Mou, Cactus, ICLR 2026, arXiv 2604.04987",
    lossless=False,
    samplers=("with_replacement", "without_replacement"),
    output_distribution=output_distribution,
    exact_rate=exact_rate,
    distance=distance,
    options=("delta",),
    drafts_needed=1,
    cost="O(V)",
)
