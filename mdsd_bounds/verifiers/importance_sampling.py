"""Two-step importance sampling (Khisti et al., ICLR 2025): select one draft, then speculative sampling against its law.

Two drafts of laws a and b: from the pair {i, j} token i is selected with probability w_ij = 1 - w_ji, so the selected
law r is known exactly, and speculative sampling of p against it is lossless for any w.  The weights that maximise
``sum min(p, r)`` solve a linear programme over pairs: each pair's mass is shared between its tokens, token i can use
at most p_i.  At most ``tokens`` tokens take part in it (all of them up to 32, which is the full programme; else the 16
with the largest max(p, q): the truncated one); every other pair goes to the token with the larger p/q.  More drafts: a
tournament, the winner so far against the next draft, each match with its own programme.

The acceptance is ``sum min(p, r)`` plus the chance that the winner is refused and the residual gives a draft that had
lost; that chance is averaged over sampled drafts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.bounds.lp import SCALE, _highs
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import draw, whole_option
from mdsd_bounds.verifiers.base import Verifier, draft_law
from mdsd_bounds.verifiers.montecarlo import many_drafts
from mdsd_bounds.verifiers.speculative import residual, speculative_law

#: Vocabularies up to this size get the full programme.
FULL = 32
#: Tokens of the truncated programme.
TRUNCATED = 16
#: Tokens beyond which the programme is refused: it has tokens^2 variables in each match.
MOST = 400


@dataclass(frozen=True)
class Match:
    """One match of the tournament.

    Attributes
    ----------
    rank, place : Tensor
        ``[V]``: rank of each token in the order of p/q, and its row in ``weight`` (-1 outside the programme).
    weight : Tensor
        ``[s, s]``: probability that the first token is selected against the second.
    law : Tensor
        ``[V]`` law of the winner.
    """

    rank: Tensor
    place: Tensor
    weight: Tensor
    law: Tensor

    def stays(self, incumbent: Tensor, newcomer: Tensor) -> Tensor:
        """Probability that ``incumbent`` is selected against ``newcomer``, token indices of one shape."""
        by_rank = (self.rank[incumbent] >= self.rank[newcomer]).to(self.weight.dtype)
        s, t = self.place[incumbent], self.place[newcomer]
        return torch.where((s >= 0) & (t >= 0), self.weight[s, t], by_rank)


def prepare(p: Tensor, q: Tensor, n: int, tokens: int | None = None) -> list[Match]:
    """The n - 1 matches of the tournament for one row; q is ``[V]`` or ``[n, V]``.  One sort, then O(V) a match."""
    size = len(p)
    count = (size if size <= FULL else TRUNCATED) if tokens is None else min(whole_option(tokens, "tokens", 1), size)
    if count > MOST:
        raise InputError(
            f"importance_sampling: tokens={count} makes {count * (count - 1):.0f} variables in each match "
            f"(about {count * count * 200 / 1e9:.2g} GB); at most {MOST}"
        )
    laws = q if q.ndim == 2 else q[None].expand(n, -1)
    matches: list[Match] = []
    winner = laws[0]
    order = chosen = torch.empty(0, dtype=torch.int64)
    for k in range(1, n):
        if k == 1 or q.ndim == 2:
            order = (
                torch.where(laws[k] > 0, p / laws[k].clamp(min=1e-300), p * float("inf"))
                .nan_to_num(0.0)
                .argsort(stable=True)
            )
            chosen = torch.maximum(p, laws[k]).topk(count).indices
        matches.append(_match(p, winner, laws[k], order, chosen))
        winner = matches[-1].law
    return matches


def _match(p: Tensor, a: Tensor, b: Tensor, order: Tensor, chosen: Tensor) -> Match:
    size = len(p)
    rank, place = torch.empty_like(order), torch.full_like(order, -1)
    rank[order] = torch.arange(size, device=p.device)
    place[chosen] = torch.arange(len(chosen), device=p.device)
    # Strict priority among all pairs: an equal or lower newcomer loses, a lower incumbent loses.
    zero = p.new_zeros(1)
    lower_a, lower_b = (torch.cat([zero, law[order].cumsum(0)]) for law in (a, b))
    law = a * lower_b[rank + 1] + b * lower_a[rank]
    # The programme's own pairs are taken out and shared anew; a pair of equal tokens selects that token anyway.
    joint = torch.outer(a[chosen], b[chosen])
    pair = (joint + joint.T).fill_diagonal_(0.0)
    ahead = (rank[chosen][:, None] > rank[chosen][None]).to(p.dtype)
    base = (law[chosen] - (pair * ahead).sum(1)).clamp(min=0.0)
    weight = _programme((p[chosen] - base).clamp(min=0.0).cpu().numpy(), pair.cpu().numpy()).to(p)
    law[chosen] = base + (pair * weight).sum(1)
    return Match(rank, place, weight, law)


def _programme(need: np.ndarray, pair: np.ndarray) -> Tensor:
    """Shares ``[s, s]`` of each pair's mass that use as much of ``need`` as possible; what is not needed is halved."""
    count = len(need)
    first, second = np.nonzero(np.triu(pair, 1) > 0)
    weight = np.full((count, count), 0.5)
    np.fill_diagonal(weight, 1.0)
    if len(first):
        edges = len(first)
        rows = np.column_stack([np.repeat(np.arange(edges), 2), edges + np.column_stack([first, second]).reshape(-1)])
        limits = np.concatenate([pair[first, second], need]) * SCALE
        used = _highs(np.ones(2 * edges), True, 2 * np.arange(2 * edges + 1), rows.reshape(-1), limits, upper=True)
        used = np.maximum(used.reshape(edges, 2) / SCALE, 0.0)
        mass = pair[first, second]
        share = np.clip((used[:, 0] + (mass - used.sum(1)) / 2) / mass, 0.0, 1.0)
        weight[first, second], weight[second, first] = share, 1.0 - share
    return torch.from_numpy(weight)


def _row_groups(p: Tensor, q: Tensor) -> list[slice]:
    """Rows that are one row expanded are prepared once."""
    if p.shape[0] > 1 and p.stride(0) == 0 and q.stride(0) == 0:
        return [slice(0, p.shape[0])]
    return [slice(b, b + 1) for b in range(p.shape[0])]


def _selected_law(q: Tensor, matches: list[Match]) -> Tensor:
    return matches[-1].law if matches else (q if q.ndim == 1 else q[0])


def output_law(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, tokens: int | None = None, **options: Any
) -> Tensor:
    """Law of the output given the drafts: over the winner of the tournament, then over acceptance."""
    n, laws = drafts.shape[1], []
    for rows in _row_groups(p, q):
        target, draft = p[rows.start], q[rows.start]
        matches = prepare(target, draft, n, tokens)
        r = _selected_law(draft, matches).expand(rows.stop - rows.start, -1)
        winner = _winner_law(matches, drafts[rows])
        law = torch.zeros_like(p[rows])
        for k in range(n):
            law = law + winner[:, k : k + 1] * speculative_law(p[rows], r, drafts[rows, k])
        laws.append(law)
    return torch.cat(laws)


def fast_step(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: torch.Generator | None,
    *,
    sampler: str,
    tokens: int | None = None,
    **options: Any,
) -> Tensor:
    """Play the tournament, then accept the winner or sample the residual."""
    uniform = torch.rand(drafts.shape, dtype=p.dtype, device=p.device, generator=generator)
    output = torch.empty_like(drafts[:, 0])
    for b in range(p.shape[0]):
        matches = prepare(p[b], q[b], drafts.shape[1], tokens)
        r = _selected_law(q[b], matches)
        winner = drafts[b, 0]
        for k, match in enumerate(matches, 1):
            if bool(uniform[b, k] >= match.stays(winner, drafts[b, k])):
                winner = drafts[b, k]
        if bool(uniform[b, 0] * r[winner] < p[b, winner]):
            output[b] = winner
        else:
            output[b] = draw(residual(p[b : b + 1], r[None]), generator)[0]
    return output


def _winner_law(matches: list[Match], drafts: Tensor) -> Tensor:
    """Probability ``[S, n]`` that each draft wins the tournament."""
    wins = torch.zeros(drafts.shape, dtype=torch.float64, device=drafts.device)
    wins[:, 0] = 1.0
    for k, match in enumerate(matches, 1):
        stays = match.stays(drafts[:, :k], drafts[:, k : k + 1].expand(-1, k))
        wins[:, k] = (wins[:, :k] * (1.0 - stays)).sum(-1)
        wins[:, :k] = wins[:, :k] * stays
    return wins


def selected_acceptance(p: Tensor, q: Tensor, n: int, tokens: int | None = None) -> Tensor:
    """``sum min(p, r)`` ``[B]``, what the selected draft alone achieves: a lower bound on the acceptance."""
    rows = [torch.minimum(a, _selected_law(b, prepare(a, b, n, tokens))).sum() for a, b in zip(p, q, strict=True)]
    return torch.stack(rows)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Any) -> Tensor:
    """``sum min(p, q)`` for one draft; NaN for more."""
    value = p.new_full((len(n_drafts), p.shape[0]), float("nan"))
    for i, n in enumerate(n_drafts):
        if n == 1:
            value[i] = torch.minimum(p, draft_law(q, 0)).sum(-1)
    return value


def estimate_rate(
    p: Tensor,
    q: Tensor,
    n_drafts: tuple[int, ...],
    samples: int,
    generator: torch.Generator | None,
    *,
    sampler: str,
    tokens: int | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]``: ``sum min(p, r)`` exactly, the drafts that lost by sampling them."""
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    most = max(n_drafts)
    for b in range(p.shape[0]):
        matches = prepare(p[b], q[b], most, tokens)
        drafts = many_drafts(q[b], most, samples, generator, sampler=sampler)
        for i, n in enumerate(n_drafts):
            r = _selected_law(q[b], matches[: n - 1])
            extra = _losers(p[b], r, matches[: n - 1], drafts[:, :n])
            value[i, b] = torch.minimum(p[b], r).sum() + extra.mean()
            error[i, b] = extra.std() / samples**0.5
    return value, error


def _losers(p: Tensor, r: Tensor, matches: list[Match], drafts: Tensor) -> Tensor:
    """Chance ``[S]`` that the winner is refused and the residual gives another of the drafts."""
    left = residual(p[None], r[None])[0]
    ratio = (p[drafts] / r[drafts].clamp(min=torch.finfo(p.dtype).tiny)).clamp(max=1.0)
    refused = (_winner_law(matches, drafts) * (1.0 - ratio)).sum(-1)
    ordered = drafts.sort(-1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # A refused winner has p < r, so the residual never gives it back.
    return refused * (left[ordered] * first).sum(-1)


VERIFIER = Verifier(
    name="importance_sampling",
    paper="Khisti et al., Multi-draft speculative sampling: canonical decomposition, ICLR 2025, arXiv 2410.18234",
    lossless=True,
    samplers=("with_replacement", "independent"),
    output_law=output_law,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    options=("tokens",),
)
