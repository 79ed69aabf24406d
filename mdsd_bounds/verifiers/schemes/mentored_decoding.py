"""Mentored decoding (Tran-Thien, An optimal lossy variant of speculative decoding, 2023).  LOSSY.

For one draft.  Among all output distributions pi with ``KL(p || pi) <= kl`` the one of greatest acceptance ``sum
min(pi, q)``: with two factors ``alpha <= 1 <= beta``,

    pi_i = p_i / alpha  where q_i > p_i / alpha,    p_i / beta  where q_i < p_i / beta,    q_i  between,

alpha as small as the divergence allows and beta what makes the sum one (the draft is accepted with
``min(1, p_i / (alpha q_i))``, else the output is drawn from ``norm((p / beta - q)_+)``).  Where ``KL(p || q) <= kl``,
pi is q.  Option ``kl`` (0.1), in nats.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, residual
from mdsd_bounds.verifiers.total_variation import total_variation

KL = 0.1
#: Halvings of the interval for log alpha; the divergence is then within its own rounding of what is allowed.
_HALVINGS = 80
#: Smallest log alpha that is tried.
LEAST = -60.0


def mentored_target(p: Tensor, q: Tensor, kl: float = KL) -> Tensor:
    """pi ``[B, V]``, the distribution of the output.

    Raises
    ------
    InputError
        If kl is no finite number of at least 0.

    Notes
    -----
    O(V log V) a row for the sort by p/q; each trial alpha costs O(V).  Where p has zeros that q has not, and kl lies
    between the divergence without them and that of q, their tokens are left out: alpha then stops at its least.
    """
    if not 0 <= kl < float("inf"):
        raise InputError(f"mentored_decoding: kl={kl!r}; give a divergence of at least 0, in nats")
    rows = [_target(a.cpu().numpy(), b.cpu().numpy(), kl) for a, b in zip(p, q, strict=True)]
    return torch.from_numpy(np.stack(rows)).to(p.device) if rows else p


def _target(p: np.ndarray, q: np.ndarray, kl: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0, p / q, np.where(p > 0, np.inf, 0.0))
        terms = np.where((p > 0) & (q > 0), p * np.log(ratio), 0.0)
    order = np.argsort(ratio, kind="stable")
    sums = [np.concatenate([[0.0], np.cumsum(x[order])]) for x in (p, q, terms)]
    sorted_ratio = ratio[order]
    if not bool(((p > 0) & (q <= 0)).any()) and sums[2][-1] <= kl:
        return q.copy()
    low, high = LEAST, 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _factors(sorted_ratio, sums, middle)[1] <= kl:
            high = middle
        else:
            low = middle
    beta = _factors(sorted_ratio, sums, high)[0]
    return np.asarray(np.clip(q, p / beta, p / np.exp(high)))


def _factors(ratio: np.ndarray, sums: list[np.ndarray], log_alpha: float) -> tuple[float, float]:
    """(beta, KL(p || pi)) at one alpha; ``sums`` are cumulative over tokens by p/q ascending: p, q, p log(p/q)."""
    p, q, terms = sums
    alpha = np.exp(log_alpha)
    low = int(np.searchsorted(ratio, alpha, side="left"))
    lacking = q[low] - p[low] / alpha
    # (p / beta - q)_+ summed over the tokens above beta must be what acceptance leaves; it falls as beta grows.
    start = int(np.searchsorted(ratio, 1.0, side="left"))
    with np.errstate(divide="ignore", invalid="ignore"):
        fills = np.where(ratio[start:] > 0, (p[-1] - p[start:-1]) / ratio[start:], 0.0) - (q[-1] - q[start:-1])
    wanted = lacking + (1.0 - q[-1])
    above = min(start + int(np.searchsorted(-fills, -wanted, side="left")), len(ratio) - 1)
    left = wanted + q[-1] - q[above]
    beta = max(float((p[-1] - p[above]) / left), 1.0) if left > 0 else float("inf")
    between = terms[above] - terms[low] if above > low else 0.0
    return beta, float(p[low] * log_alpha + (p[-1] - p[above]) * np.log(beta) + between)


def output_distribution(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, kl: float = KL, **options: Option
) -> Tensor:
    """Speculative sampling against pi."""
    target = mentored_target(p[:1], q[:1], kl).expand_as(p) if p.stride(0) == 0 else mentored_target(p, q, kl)
    accept = accept_probability(target, q, drafts[:, 0])
    return add_at((1.0 - accept)[:, None] * residual(target, q), drafts[:, 0], accept)


def exact_rate(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, kl: float = KL, **options: Option
) -> Tensor:
    """``sum min(pi, q)`` ``[1, B]``."""
    return torch.minimum(mentored_target(p, q, kl), q).sum(-1).clamp(max=1.0)[None]


def distance(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, kl: float = KL, **options: Option
) -> Tensor:
    """``TV(pi, p)`` ``[1, B]``."""
    return total_variation(mentored_target(p, q, kl), p)[None]


VERIFIER = Verifier(
    name="mentored_decoding",
    paper="Tran-Thien, An optimal lossy variant of speculative decoding (mentored decoding), 2023",
    lossless=False,
    samplers=("with_replacement", "without_replacement"),
    output_distribution=output_distribution,
    exact_rate=exact_rate,
    distance=distance,
    options=("kl",),
    drafts_needed=1,
    cost="O(V log V)",
)
