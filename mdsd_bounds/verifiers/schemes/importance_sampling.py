"""Two-step importance sampling (Khisti et al., ICLR 2025): select one draft, then speculative sampling against it.

Two drafts of distributions a and b: from the pair {i, j} token i is selected with probability w_ij = 1 - w_ji, so the
selected distribution r is known exactly, and speculative sampling of p against it is lossless for any w.  The weights
that maximise ``sum min(p, r)`` solve a linear programme over pairs: each pair's mass is shared between its tokens,
token i can use at most p_i.  Up to 32 tokens (:data:`FULL`) that is the full programme.  The truncated one treats
``tokens`` of the largest max(p, q) one by one, and the others in classes of like p/q; within a class both drafts are as
good.  More drafts: a tournament, the winner so far against the next draft, each match with its own programme.

The acceptance is ``sum min(p, r)`` plus the chance that the winner is refused and the residual gives a draft that had
lost; that chance is averaged over sampled drafts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.highs import SCALE, solve_highs
from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.problem import Option
from mdsd_bounds.samplers.base import draw, integer_option
from mdsd_bounds.verifiers.base import Verifier, draft_distribution, equal_rows
from mdsd_bounds.verifiers.monte_carlo import many_drafts
from mdsd_bounds.verifiers.speculative_sampling import residual, speculative_distribution

#: Vocabularies up to this size get the full programme.
FULL = 32
#: Tokens that the truncated programme treats one by one.
_TRUNCATED = 16
#: Edges of p/q between the classes of the other tokens.
_EDGES = (0.25, 0.5, 0.75, 0.95, 1.05, 1.25, 1.5, 2.0, 4.0)
#: Bytes of the solver for each pair of tokens (measured at 200 to 400 tokens).
_BYTES = 2500


@dataclass(frozen=True)
class Match:
    """One match of the tournament.

    Attributes
    ----------
    unit : Tensor
        ``[V]``: the token's row in ``weight``, its own or that of its class.
    weight : Tensor
        ``[U, U]``: probability that a token of the first unit is selected against one of the second; 1/2 within one.
    distribution : Tensor
        ``[V]`` distribution of the winner.
    """

    unit: Tensor
    weight: Tensor
    probs: Tensor

    def stays(self, incumbent: Tensor, newcomer: Tensor) -> Tensor:
        """Probability that ``incumbent`` is selected against ``newcomer``, token indices of one shape."""
        return self.weight[self.unit[incumbent], self.unit[newcomer]]


def prepare(p: Tensor, q: Tensor, n: int, tokens: int | None = None) -> list[Match]:
    """The n - 1 matches of the tournament for one row; q is ``[V]`` or ``[n, V]``.  O(V) a match and the programmes."""
    size = len(p)
    count = (size if size <= FULL else _TRUNCATED) if tokens is None else min(integer_option(tokens, "tokens", 1), size)
    require_memory(
        float(count) * count * _BYTES,
        f"importance_sampling: tokens={count} makes {count * (count - 1):.0f} variables in each match, which",
        "give fewer tokens",
    )
    distributions = q if q.ndim == 2 else q[None].expand(n, -1)
    mean = q if q.ndim == 1 else q[:n].mean(0)
    chosen = torch.maximum(p, mean).topk(count).indices
    ratio = torch.where(mean > 0, p / torch.where(mean > 0, mean, torch.ones_like(mean)), torch.zeros_like(p))
    unit = count + torch.bucketize(ratio, torch.tensor(_EDGES, dtype=p.dtype, device=p.device))
    unit[chosen] = torch.arange(count, device=p.device)
    units = count if count == size else count + len(_EDGES) + 1
    needed = _by_unit(p, unit, units)
    matches: list[Match] = []
    winner = distributions[0]
    for k in range(1, n):
        # Masses of the units under both distributions; a pair within one unit selects either draft with probability
        # 1/2.
        a, b = _by_unit(winner, unit, units), _by_unit(distributions[k], unit, units)
        pair = torch.outer(a, b)
        weight = _programme((needed - a * b).clamp(min=0.0).cpu().numpy(), (pair + pair.T).cpu().numpy()).to(p)
        winner = winner * (weight @ b)[unit] + distributions[k] * (weight @ a)[unit]
        matches.append(Match(unit, weight, winner))
    return matches


def _by_unit(probs: Tensor, unit: Tensor, units: int) -> Tensor:
    return torch.bincount(unit, weights=probs, minlength=units)


def _programme(need: np.ndarray, pair: np.ndarray) -> Tensor:
    """Shares ``[U, U]`` of each pair's mass that use as much of ``need`` as possible; what is not needed is halved."""
    first, second = np.nonzero(np.triu(pair, 1) > 0)
    weight = np.full(pair.shape, 0.5)
    if len(first):
        edges = len(first)
        rows = np.column_stack([np.repeat(np.arange(edges), 2), edges + np.column_stack([first, second]).reshape(-1)])
        limits = np.concatenate([pair[first, second], need]) * SCALE
        used = solve_highs(np.ones(2 * edges), True, 2 * np.arange(2 * edges + 1), rows.reshape(-1), limits, upper=True)
        used = np.maximum(used.reshape(edges, 2) / SCALE, 0.0)
        mass = pair[first, second]
        share = np.clip((used[:, 0] + (mass - used.sum(1)) / 2) / mass, 0.0, 1.0)
        weight[first, second], weight[second, first] = share, 1.0 - share
    return torch.from_numpy(weight)


def _selected_distribution(q: Tensor, matches: list[Match]) -> Tensor:
    return matches[-1].probs if matches else (q if q.ndim == 1 else q[0])


def output_distribution(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, tokens: int | None = None, **options: Option
) -> Tensor:
    """Distribution of the output given the drafts: over the winner of the tournament, then over acceptance."""
    n, distributions = drafts.shape[1], []
    for rows in equal_rows(p, q):
        target, draft = p[rows.start], q[rows.start]
        matches = prepare(target, draft, n, tokens)
        r = _selected_distribution(draft, matches).expand(rows.stop - rows.start, -1)
        winner = _winner_distribution(matches, drafts[rows])
        probs = torch.zeros_like(p[rows])
        for k in range(n):
            probs = probs + winner[:, k : k + 1] * speculative_distribution(p[rows], r, drafts[rows, k])
        distributions.append(probs)
    return torch.cat(distributions)


def fast_step(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: torch.Generator | None,
    *,
    sampler: str,
    tokens: int | None = None,
    **options: Option,
) -> Tensor:
    """Play the tournament, then accept the winner or sample the residual."""
    uniform = torch.rand(drafts.shape, dtype=p.dtype, device=p.device, generator=generator)
    output = torch.empty_like(drafts[:, 0])
    for b in range(p.shape[0]):
        matches = prepare(p[b], q[b], drafts.shape[1], tokens)
        r = _selected_distribution(q[b], matches)
        winner = drafts[b, 0]
        for k, match in enumerate(matches, 1):
            if bool(uniform[b, k] >= match.stays(winner, drafts[b, k])):
                winner = drafts[b, k]
        if bool(uniform[b, 0] * r[winner] < p[b, winner]):
            output[b] = winner
        else:
            output[b] = draw(residual(p[b : b + 1], r[None]), generator)[0]
    return output


def _winner_distribution(matches: list[Match], drafts: Tensor) -> Tensor:
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
    rows = [
        torch.minimum(a, _selected_distribution(b, prepare(a, b, n, tokens))).sum() for a, b in zip(p, q, strict=True)
    ]
    return torch.stack(rows)


def exact_rate(p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, **options: Option) -> Tensor:
    """``sum min(p, q)`` for one draft; NaN for more."""
    value = p.new_full((len(n_drafts), p.shape[0]), float("nan"))
    for i, n in enumerate(n_drafts):
        if n == 1:
            value[i] = torch.minimum(p, draft_distribution(q, 0)).sum(-1)
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
    **options: Option,
) -> tuple[Tensor, Tensor]:
    """Mean and standard error ``[N, B]``: ``sum min(p, r)`` exactly, the drafts that lost by sampling them."""
    value, error = p.new_empty((len(n_drafts), p.shape[0])), p.new_empty((len(n_drafts), p.shape[0]))
    most = max(n_drafts)
    for b in range(p.shape[0]):
        matches = prepare(p[b], q[b], most, tokens)
        drafts = many_drafts(q[b], most, samples, generator, sampler=sampler)
        for i, n in enumerate(n_drafts):
            r = _selected_distribution(q[b], matches[: n - 1])
            extra = _losers(p[b], r, matches[: n - 1], drafts[:, :n])
            # The first is exact and the second an estimate: together they may pass one where nearly all is accepted.
            value[i, b] = (torch.minimum(p[b], r).sum() + extra.mean()).clamp(max=1.0)
            error[i, b] = extra.std() / samples**0.5
    return value, error


def _losers(p: Tensor, r: Tensor, matches: list[Match], drafts: Tensor) -> Tensor:
    """Chance ``[S]`` that the winner is refused and the residual gives another of the drafts."""
    left = residual(p[None], r[None])[0]
    chance = r[drafts]
    ratio = (p[drafts] / torch.where(chance > 0, chance, torch.ones_like(chance))).clamp(max=1.0)
    refused = (_winner_distribution(matches, drafts) * (1.0 - ratio)).sum(-1)
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
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    estimate_rate=estimate_rate,
    options=("tokens",),
    cost="n - 1 matches, each O(V) and a linear programme",
)
