"""The rules along one line, behind one interface: projections in, the child and the output's projection out.

Each rule picks a draft whose density is ``rho(S) q(S)``, accepts it with probability ``min(1, w/rho)``, and draws the
output from ``norm((p - rho q)_+)`` otherwise (recursive rejection does so in every round).  The residual is drawn
by rejection: S from p, kept with probability ``(1 - rho/w)_+``.  A state comes to that with the probability that it is
rejected at all, so a step costs one proposal on average; where rho/w falls, proposals start where it reaches one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import comb, ndtr, ndtri

from mdsd_bounds.diffusion import gaussian
from mdsd_bounds.diffusion.decide import optimal_rows, recursive_rows
from mdsd_bounds.diffusion.rank_mixture import best_rank_mixture, rank_mixture_acceptance

#: ``uniform(rows, columns)``: numbers in [0, 1).
Uniform = Callable[[int, int], np.ndarray]
#: What a rule returns: child ``[B]`` (-1 where rejected) and the projection of the output ``[B]``.
Decided = tuple[np.ndarray, np.ndarray]
#: Best weights are kept for shifts on a geometric grid of this ratio; any weights are lossless.
_GRID = 1.1
#: Rounds of proposals, twice as many in each, up to so many at once: ten million for a state that is never kept.  A
#: state comes to that only where all of its rejected mass is of that order, or where rounding alone rejected it.
_ROUNDS, _MOST = 160, 1 << 16
#: Bins of the rule that the discrete verifier picks for.
_BINS = 1_000


@dataclass(frozen=True)
class Rule:
    """One rule: ``decide(S [B, n], delta [B], uniform)`` and ``acceptance(delta, n)``."""

    decide: Callable[[np.ndarray, np.ndarray, Uniform], Decided]
    acceptance: Callable[[Any, Any], Any]


def residual(
    deltas: np.ndarray, start: np.ndarray, log_rho: Callable[[np.ndarray, np.ndarray], np.ndarray], uniform: Uniform
) -> np.ndarray:
    """Draws of ``norm((p - rho q)_+)`` on ``S > start``; ``log_rho(S, rows)`` is the log of rho at S of those rows."""
    out = np.empty(len(deltas))
    left = np.arange(len(deltas))
    mass = ndtr(deltas - start)
    tries = 1
    for _ in range(_ROUNDS):
        if not len(left):
            break
        u = 1.0 - uniform(len(left), 2 * tries).reshape(len(left), tries, 2)
        shift, edge, tail = deltas[left, None], start[left, None], mass[left, None]
        with np.errstate(divide="ignore"):
            # Where the tail underflows, a rejection has no probability either; the edge stands for it.
            s = np.maximum(shift - ndtri(u[..., 0] * tail), edge)
            s = np.where(np.isfinite(s), s, edge)
        rho = log_rho(s.ravel(), np.repeat(left, tries)).reshape(s.shape)
        kept = (u[..., 1] <= -np.expm1(np.minimum(rho - shift * (s - 0.5 * shift), 0.0))) | (tail == 0.0)
        # The first that is kept; the last proposal stands until one is.
        place = np.where(kept.any(-1), kept.argmax(-1), tries - 1)
        out[left] = s[np.arange(len(left)), place]
        left = left[~kept.any(-1)]
        tries = int(min(2 * tries, max(1, _MOST // max(len(left), 1)), _MOST))
    return out


def optimal(s: np.ndarray, deltas: np.ndarray, uniform: Uniform) -> Decided:
    """The rule that attains alpha*_n (docs/diffusion.md, theorem 2)."""
    n = s.shape[1]
    child, start = np.empty(len(s), np.int64), np.empty(len(s))
    optimal_rows(s, uniform(len(s), n + 1), deltas, child, start)

    def log_largest(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        value: np.ndarray = math.log(n) + (n - 1) * np.log(ndtr(x))
        return value

    return _finish(s, deltas, child, start, log_largest, uniform)


def recursive(s: np.ndarray, deltas: np.ndarray, uniform: Uniform) -> Decided:
    """Recursive rejection in the order of the drafts (D-GRS)."""
    child, caps = np.empty(len(s), np.int64), np.zeros(len(s))
    recursive_rows(s, uniform(len(s), s.shape[1]), deltas, child, caps)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where a draft was accepted the cap is that of its round, -1 in the first, and is not used.
        log_caps = np.log1p(caps)
        start = np.where(deltas > 0.0, log_caps / deltas + 0.5 * deltas, math.inf)
    return _finish(s, deltas, child, start, lambda x, rows: log_caps[rows], uniform)


def reflection(s: np.ndarray, deltas: np.ndarray, uniform: Uniform) -> Decided:
    """The reflection coupling of the first draft; on rejection its mirror image between the two means."""
    first = s[:, 0]
    kept = uniform(len(s), 1)[:, 0] < np.exp(np.minimum(deltas * (first - 0.5 * deltas), 0.0))
    return np.where(kept, 0, -1), np.where(kept, first, deltas - first)


def rank_mixture(s: np.ndarray, deltas: np.ndarray, uniform: Uniform) -> Decided:
    """The draft of a random rank, with the best weights for a shift near delta (PAWS)."""
    rows, n = s.shape
    weights = np.stack([_weights(_grid(delta), n) for delta in deltas]) if rows else np.empty((0, n))
    u = uniform(rows, 2)
    rank = np.minimum((u[:, :1] >= weights.cumsum(-1)).sum(-1), n - 1)
    child = np.argsort(-s, axis=-1)[np.arange(rows), rank]

    def log_density(x: np.ndarray, which: np.ndarray) -> np.ndarray:
        phi, above = ndtr(x)[:, None], ndtr(-x)[:, None]
        j = np.arange(n)
        with np.errstate(divide="ignore"):
            value: np.ndarray = np.log((weights[which] * n * comb(n - 1, j) * phi ** (n - 1 - j) * above**j).sum(-1))
        return value

    everyone = np.arange(rows)
    x = s[everyone, child]
    chance = np.exp(np.minimum(deltas * (x - 0.5 * deltas) - log_density(x, everyone), 0.0))
    child = np.where(u[:, 1] < chance, child, -1)
    return _finish(s, deltas, child, np.full(rows, -math.inf), log_density, uniform)


def binned(s: np.ndarray, deltas: np.ndarray, uniform: Uniform) -> Decided:
    """The discrete optimal verifier picks by bins of p/q, exact densities accept; bins cost acceptance only.

    The second implementation of the optimum.  Made for few distinct deltas: each takes a preparation.
    """
    child, output = np.empty(len(s), np.int64), np.empty(len(s))
    for delta in np.unique(deltas):
        rows = np.flatnonzero(deltas == delta)
        part = s[rows]
        if delta == 0.0:
            child[rows], output[rows] = 0, part[:, 0]
            continue
        edges, rule, log_ratio = _prepared(float(delta), s.shape[1])
        seed = int(uniform(1, 1)[0, 0] * 2**52)
        tokens = torch.from_numpy(np.searchsorted(edges, part))
        slot = rule.pick(tokens, torch.Generator().manual_seed(seed)).numpy()

        def log_rho(
            x: np.ndarray, which: np.ndarray, edges: np.ndarray = edges, table: np.ndarray = log_ratio
        ) -> np.ndarray:
            found: np.ndarray = table[np.searchsorted(edges, x)]
            return found

        x = part[np.arange(len(part)), slot]
        chance = np.exp(np.minimum(delta * (x - 0.5 * delta) - log_rho(x, rows), 0.0))
        slot = np.where(uniform(len(part), 1)[:, 0] < chance, slot, -1)
        start = np.full(len(part), -math.inf)
        child[rows], output[rows] = _finish(part, deltas[rows], slot, start, log_rho, uniform)
    return child, output


@lru_cache(maxsize=64)
def _prepared(delta: float, n: int) -> tuple[np.ndarray, Any, np.ndarray]:
    """Edges of bins, the discrete rule over them, and the log of ``r/q`` of each."""
    from mdsd_bounds.verifiers.optimal import prepare

    levels = np.arange(1, _BINS // 2) / (_BINS // 2)
    edges = np.unique(np.concatenate([ndtri(levels), delta + ndtri(levels)]))
    p, q = (np.diff(ndtr(edges - mean), prepend=0.0, append=1.0) for mean in (delta, 0.0))
    rule = prepare(torch.from_numpy(p / p.sum()), torch.from_numpy(q / q.sum()), n, "with_replacement")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(q > 0.0, rule.r.numpy() / q, 0.0)
        return edges, rule, np.log(ratio)


def _finish(
    s: np.ndarray,
    deltas: np.ndarray,
    child: np.ndarray,
    start: np.ndarray,
    log_rho: Callable[[np.ndarray, np.ndarray], np.ndarray],
    uniform: Uniform,
) -> Decided:
    """The output's projection: the child's, or a draw of the residual where it was rejected."""
    output = s[np.arange(len(s)), child]
    rejected = np.flatnonzero(child < 0)
    if len(rejected):
        output[rejected] = residual(
            deltas[rejected], start[rejected], lambda x, rows: log_rho(x, rejected[rows]), uniform
        )
    return child, output


def _grid(delta: float) -> int:
    return round(math.log(max(delta, 1e-4)) / math.log(_GRID))


@lru_cache(maxsize=4096)
def _weights(place: int, n: int) -> np.ndarray:
    if _GRID**place < 1e-3:
        # Equal weights have the draft's own density, and lose less than half of delta.
        return np.full(n, 1.0 / n)
    # Beyond 12 the largest draft is the best by far more digits than the programme has.
    return best_rank_mixture(min(_GRID**place, 12.0), n).weights


def _rank_acceptance(delta: Any, n: Any) -> Any:
    pairs = np.broadcast_arrays(np.asarray(delta, np.float64), np.asarray(n))
    found = np.empty(pairs[0].shape)
    for i, (shift, count) in enumerate(zip(pairs[0].ravel(), pairs[1].ravel(), strict=True)):
        found.reshape(-1)[i] = rank_mixture_acceptance(shift, _weights(_grid(shift), int(count)), _BINS)
    return float(found) if found.ndim == 0 else found


#: Rules by name, and what each accepts at (delta, n).
RULES: dict[str, Rule] = {
    "optimal": Rule(optimal, gaussian.optimal_acceptance),
    "reflection": Rule(reflection, lambda delta, n: gaussian.reflection(delta)),
    "d_grs": Rule(recursive, gaussian.d_grs),
    "rank_mixture": Rule(rank_mixture, _rank_acceptance),
    "binned": Rule(binned, gaussian.optimal_acceptance),
}
