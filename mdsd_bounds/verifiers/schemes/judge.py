"""Judge Decoding (Bachmann et al., ICLR 2025).  LOSSY: the output distribution is not p.

A judge gives each token a score in [0, 1]: how surely the token does no harm.  With ``J(x) = 1`` where the score is
above the threshold, a draft x is accepted when ``J(x) = 1`` or ``U < p_x / q_x``, else the output comes from the usual
residual ``norm((p - q)_+)``.  For one draft the output distribution differs from p by

    TV = sum_x J(x) (q_x - p_x)_+ ,

which is exactly what acceptance gains over speculative sampling, ``1 - TV(p, q) + TV``, whatever the judge is.  A
threshold of 1 is speculative sampling (no score exceeds it); below the least score everything is accepted, at a
distance ``TV(p, q)``.

**Several drafts** are not in the paper.  Here each round of recursive rejection has the judge beside it: draft k is
accepted when ``J(x_k) = 1`` or ``U < p_k(x_k) / q_k(x_k)``, and the next target is ``norm((p_k - q_k)_+)`` as ever.
Its distance is exact with replacement (a recursion of length n), and by enumeration where the drafted tuples are few.

Options: ``threshold`` (0.5); ``judge_score`` ``[V]`` or ``[B, V]``, the judge's score of each token, NaN where it gave
none (such a token is never approved); or ``judge_token`` and ``judge_score`` ``[B, K]``, the tokens that have a score
and the scores, as dumps hold them.  Without any the judge is the training-free score ``p_x / max p``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.repeated_tokens import repeated_token
from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import mark
from mdsd_bounds.verifiers.base import CHUNK_ENTRIES, DraftCounts, Generator, Verifier, draft_distribution, drafted_mass
from mdsd_bounds.verifiers.enumeration import enumerate_verifier
from mdsd_bounds.verifiers.monte_carlo import many_drafts
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, at, residual
from mdsd_bounds.verifiers.total_variation import ENUMERATED, total_variation

THRESHOLD = 0.5
#: The rule's own options; all others belong to the sampler.
_OPTIONS = ("threshold", "judge_score", "judge_token")


def approved(p: Tensor, judge_score: Option = None, judge_token: Option = None, threshold: float = THRESHOLD) -> Tensor:
    """Which tokens the judge approves ``[B, V]`` (bool): those whose score is above the threshold.

    Raises
    ------
    InputError
        If the threshold or a score is outside [0, 1], or the scores have another shape than p.
    """
    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise InputError(f"judge: threshold={threshold!r}; give a number in [0, 1]")
    if judge_score is None:
        return p / p.amax(-1, keepdim=True) > threshold
    if not isinstance(judge_score, Tensor | np.ndarray):
        raise InputError(f"judge: judge_score is a {type(judge_score).__name__}; give an array [V] or [rows, V]")
    scores = torch.as_tensor(judge_score, device=p.device)
    if judge_token is not None:
        scores = _spread(scores, torch.as_tensor(judge_token, device=p.device), p.shape[-1])
    if scores.shape[-1:] != p.shape[-1:] or scores.ndim > 2 or (scores.ndim == 2 and len(scores) not in (1, len(p))):
        raise InputError(
            f"judge: judge_score has shape {tuple(scores.shape)}; give [{p.shape[-1]}] or {tuple(p.shape)}"
        )
    if not scores.is_floating_point() or bool(((scores < 0) | (scores > 1)).any()):
        raise InputError(
            "judge: judge_score holds a number outside [0, 1]; give probabilities, NaN where there is none"
        )
    return (scores > threshold).expand(p.shape)


def _spread(scores: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Scores ``[B, V]`` of the ``[B, K]`` tokens that have one, NaN for the others; a token of -1 stands for none."""
    if tokens.shape != scores.shape or tokens.ndim != 2 or tokens.is_floating_point() or bool((tokens >= size).any()):
        raise InputError(
            f"judge: judge_token has shape {tuple(tokens.shape)} {tokens.dtype} for scores {tuple(scores.shape)}; give "
            "integers of the same shape [rows, K], each below the vocabulary"
        )
    if bool((repeated_token(tokens) >= 0).any()):
        raise InputError("judge: judge_token names a token twice in a row; give one score a token")
    spread = scores.new_full((len(scores), size + 1), float("nan"))
    return spread.scatter_(-1, torch.where(tokens < 0, size, tokens), scores)[:, :size]


def output_distribution(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    *,
    sampler: str,
    judge_score: Option = None,
    judge_token: Option = None,
    threshold: float = THRESHOLD,
    **options: Option,
) -> Tensor:
    """Distribution of the output given the drafts, round by round.  O(nV)."""
    passes = approved(p, judge_score, judge_token, threshold).to(p.dtype)
    rule, n = get_sampler(sampler), drafts.shape[1]
    probs, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
    drawn = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    for k in range(n):
        draft = draft_distribution(q, k) if rule.independent else rule.conditional(q, drawn, k, n, **options)
        accept = torch.maximum(accept_probability(target, draft, drafts[:, k]), at(passes, drafts[:, k]))
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
        target = residual(target, draft)
        drawn = mark(drawn, drafts[:, k])
    return probs + reach[:, None] * target


def exact_rate(p: Tensor, q: Tensor, n_drafts: DraftCounts, *, sampler: str, **options: Option) -> Tensor:
    """Acceptance ``[N, B]``: a closed form for one draft and independent ones, an enumeration where tuples are few.

    A token that round k rejects has ``p_k < q_k``, so that no later target holds it: the last token is no draft, and
    the mass accepted in the rounds is the acceptance.
    """
    return _both(p, q, n_drafts, sampler, options)[0]


def distance(p: Tensor, q: Tensor, n_drafts: DraftCounts, *, sampler: str, **options: Option) -> Tensor:
    """Total variation ``[N, B]`` between the output distribution and p, exact where :func:`exact_rate` is."""
    return _both(p, q, n_drafts, sampler, options)[1]


def estimate_rate(
    p: Tensor, q: Tensor, n_drafts: DraftCounts, samples: int, generator: Generator, *, sampler: str, **options: Option
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]`` of the accepted probability over sampled drafts."""
    value, error = (p.new_empty((len(n_drafts), p.shape[0])) for _ in range(2))
    passes = _approved_by(p, options).to(p.dtype)
    for i, n in enumerate(n_drafts):
        for b in range(p.shape[0]):
            drafts = many_drafts(q[b], n, samples, generator, sampler=sampler, **options)
            hits = []
            given: dict[str, Any] = {**options, "judge_score": passes[b]}
            for part in torch.split(drafts, max(1, CHUNK_ENTRIES // p.shape[-1])):
                wide = p[b].expand(len(part), -1), q[b].expand(len(part), *q.shape[1:])
                probs = output_distribution(*wide, part, sampler=sampler, **given)
                hits.append(drafted_mass(probs, part))
            every = torch.cat(hits)
            value[i, b], error[i, b] = every.mean(), every.std() / samples**0.5
    return value, error


def _approved_by(p: Tensor, options: dict[str, Option]) -> Tensor:
    """:func:`approved` with the options of the judge, which are taken out of ``options``; the sampler's are left."""
    own: dict[str, Any] = {name: options.pop(name) for name in _OPTIONS if name in options}
    return approved(p, **own)


def _both(
    p: Tensor, q: Tensor, n_drafts: DraftCounts, sampler: str, options: dict[str, Option]
) -> tuple[Tensor, Tensor]:
    """Acceptance and distance ``[N, B]``; NaN where there is neither a closed form nor a feasible enumeration."""
    passes = _approved_by(p, options)
    rate, far = (p.new_full((len(n_drafts), p.shape[0]), float("nan")) for _ in range(2))
    rule = get_sampler(sampler)
    for i, n in enumerate(n_drafts):
        if n == 1 or rule.independent or sampler == "with_replacement":
            rate[i], far[i] = _round_by_round(p, q, n, passes, sampler, options)
        elif float(p.shape[1]) ** n <= ENUMERATED:
            for b in range(p.shape[0]):
                scores = passes[b].to(p.dtype)
                found = enumerate_verifier(VERIFIER, p[b], q[b], n, sampler=sampler, judge_score=scores, **options)
                rate[i, b], far[i, b] = found.acceptance, total_variation(found.probs, p[b])
    return rate, far


def _round_by_round(
    p: Tensor, q: Tensor, n: int, passes: Tensor, sampler: str, options: dict[str, Option]
) -> tuple[Tensor, Tensor]:
    """Acceptance and distance ``[B]`` of drafts that do not depend on each other: ``max(J q, min(p_k, q))`` a round."""
    rule = get_sampler(sampler)
    output, reach, target = torch.zeros_like(p), torch.ones_like(p[:, :1]), p
    nothing = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
    for k in range(n):
        draft = draft_distribution(q, k) if rule.independent else rule.conditional(q, nothing, k, n, **options)
        taken = torch.where(passes, draft, torch.minimum(target, draft))
        output = output + reach * taken
        reach = reach * (draft - taken).clamp(min=0.0).sum(-1, keepdim=True)
        target = residual(target, draft)
    return output.sum(-1).clamp(0.0, 1.0), total_variation(output + reach * target, p)


VERIFIER = Verifier(
    name="judge",
    paper="Bachmann et al., Judge Decoding, ICLR 2025, arXiv 2501.19309 (one draft); more drafts: new",
    lossless=False,
    cost="O(V)",
    samplers=("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus", "independent"),
    output_distribution=output_distribution,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    distance=distance,
    options=_OPTIONS,
    needs=("judge_score", "judge_token"),
)
