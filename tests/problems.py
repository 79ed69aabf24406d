"""Small problems with known answers, and hypothesis strategies that draw awkward ones.

Every known answer carries both halves of its proof: a subset H with ``alpha* = 1 + P(H) - Q(H)`` (nothing can do
better) and a transport plan of that total (it can be done).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mdsd_bounds import SAMPLERS
from mdsd_bounds.bounds.truncated.distributions import truncated_distribution
from mdsd_bounds.bounds.truncated.intervals import solve_cut
from mdsd_bounds.dumps import LogitBatch
from mdsd_bounds.problem import Bound, Counts
from mdsd_bounds.samplers import NO_DRAFT

FAMILY = ["with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus"]

#: How much of the target a drafted set outputs through one of its tokens: (set, token, mass).
Move = tuple[set[int], int, float]


@dataclass(frozen=True)
class Known:
    """A problem with its optimal acceptance, a subset that proves it and a plan that attains it."""

    name: str
    p: Sequence[float]
    q: Sequence[float] | Sequence[Sequence[float]]
    n: int
    sampler: str
    alpha: float
    subset: set[int]
    plan: Sequence[Move] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


#: Worked by hand.
CATALOGUE = [
    Known(
        "one draft is total variation", [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 1, "with_replacement", 0.7, {2},
        [({0}, 0, 0.2), ({1}, 1, 0.3), ({2}, 2, 0.2)],
    ),
    Known(
        "one draft, any sampler", [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 1, "without_replacement", 0.7, {2},
        [({0}, 0, 0.2), ({1}, 1, 0.3), ({2}, 2, 0.2)],
    ),
    Known("disjoint supports", [1.0, 0.0], [0.0, 1.0], 3, "with_replacement", 0.0, {1}),
    Known(
        "equal distributions", [0.6, 0.4], [0.6, 0.4], 2, "with_replacement", 1.0, set(),
        [({0}, 0, 0.36), ({1}, 1, 0.16), ({0, 1}, 0, 0.24), ({0, 1}, 1, 0.24)],
    ),
    # Draft always token 0; accepted with its mass p_0 = 1/4.
    Known("one-hot draft", [0.25, 0.75], [1.0, 0.0], 4, "with_replacement", 0.25, {0}, [({0}, 0, 0.25)]),
    # Sets {0}: 9/16, {1}: 1/16, {0, 1}: 6/16.  H = {0}: 1 + 1/2 - 9/16 = 15/16.
    Known(
        "coin, two draws", [0.5, 0.5], [0.75, 0.25], 2, "with_replacement", 15 / 16, {0},
        [({0}, 0, 8 / 16), ({1}, 1, 1 / 16), ({0, 1}, 1, 6 / 16)],
    ),
    # Two draws without replacement from two tokens are both tokens.
    Known(
        "coin, both faces", [0.5, 0.5], [0.75, 0.25], 2, "without_replacement", 1.0, set(),
        [({0, 1}, 0, 0.5), ({0, 1}, 1, 0.5)],
    ),
    # Q({0, 1}) = 1/2 * (1/4)/(1/2) + 1/4 * (1/2)/(3/4) = 5/12; P = 0: alpha* = 7/12.  {0, 2}: 5/12, {1, 2}: 1/6.
    Known(
        "pair without replacement", [0, 0, 1.0], [0.5, 0.25, 0.25], 2, "without_replacement", 7 / 12, {0, 1},
        [({0, 2}, 2, 5 / 12), ({1, 2}, 2, 1 / 6)],
    ),
    # A = {0}, r = (0, 1/2, 1/2): P(A) + min(p, r) = 0.2 + 0.5 + 0.1.
    Known(
        "greedy pair", [0.2, 0.7, 0.1], [0.5, 0.25, 0.25], 2, "greedy", 0.8, {0, 2},
        [({0, 1}, 1, 0.5), ({0, 2}, 0, 0.2), ({0, 2}, 2, 0.1)],
    ),
    Known(
        "two most probable", [0.2, 0.7, 0.1], [0.5, 0.2, 0.3], 2, "top_k", 0.3, {0, 2},
        [({0, 2}, 0, 0.2), ({0, 2}, 2, 0.1)],
    ),
    Known(
        "support smaller than n", [0.2, 0.3, 0.5], [0.9, 0.1, 0.0], 3, "without_replacement", 0.5, {0, 1},
        [({0, 1}, 0, 0.2), ({0, 1}, 1, 0.3)],
    ),
    # A = {0}, r = (0, 1/2, 1/3, 1/6), two draws: {1, 2}: 7/12, {1, 3}: 4/15, {2, 3}: 3/20.
    Known(
        "one fixed and two drawn", [0, 0, 0, 1.0], [0.4, 0.3, 0.2, 0.1], 3, "top_m_plus", 5 / 12, {0, 1, 2},
        [({0, 1, 3}, 3, 4 / 15), ({0, 2, 3}, 3, 3 / 20)], {"m": 1},
    ),
    # Tuples (0,1), (0,2), (1,1), (1,2), a quarter each.  H = {1}: 1 + 0 - 1/4.
    Known(
        "two drafters", [0.5, 0.0, 0.5], [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], 2, "independent", 0.75, {1},
        [({0, 1}, 0, 0.25), ({0, 2}, 0, 0.25), ({1, 2}, 2, 0.25)],
    ),
    Known(
        "joint table", [0.5, 0.5], [0.7, 0.3], 2, "joint", 0.8, {0},
        [({0}, 0, 0.5), ({0, 1}, 1, 0.3)], {"table": [[0, 0], [0, 1]]},
    ),
]  # fmt: skip


def set_distribution(q: Tensor, n: int, sampler: str, size: int, **options: Any) -> dict[frozenset[int], float]:
    """Distribution of the drafted set from ``log_prob`` of all ordered tuples: none of the package's set machinery."""
    drafts = torch.tensor(list(itertools.product([NO_DRAFT, *range(size)], repeat=n)))
    mass = SAMPLERS[sampler].log_prob(q.expand(len(drafts), *q.shape[1:]), drafts, **options).exp()
    probs: dict[frozenset[int], float] = {}
    for draft, weight in zip(drafts.tolist(), mass.tolist(), strict=True):
        if weight > 0:
            key = frozenset(draft) - {NO_DRAFT}
            probs[key] = probs.get(key, 0.0) + weight
    return probs


def distributions(size: int) -> st.SearchStrategy[list[float]]:
    """Distributions over ``size`` tokens with zeros, ties and peaks: small whole weights, powers of ten, normalised."""
    weight = st.one_of(
        st.integers(0, 4).map(float),
        st.integers(-12, 0).map(lambda e: 10.0**e),
        st.floats(0.0, 1.0, allow_subnormal=False),
    )
    rows = st.lists(weight, min_size=size, max_size=size).filter(lambda row: sum(row) > 1e-6)
    return rows.map(lambda row: [x / sum(row) for x in row])


@st.composite
def pairs(draw: st.DrawFn, smallest: int = 1, largest: int = 7) -> tuple[Tensor, Tensor]:
    """A target and a draft ``[1, V]``: drawn apart, equal, disjoint, one-hot, or in two groups of constant p/q."""
    size = draw(st.integers(smallest, largest))
    p, q = draw(distributions(size)), draw(distributions(size))
    kind = draw(st.sampled_from(["apart", "apart", "equal", "disjoint", "one-hot", "two ratios"]))
    if kind == "equal":
        q = list(p)
    elif kind == "disjoint" and size > 1:
        p = [1.0 / (size // 2) if i < size // 2 else 0.0 for i in range(size)]
        q = [0.0 if i < size // 2 else 1.0 / (size - size // 2) for i in range(size)]
    elif kind == "one-hot":
        hot = draw(st.integers(0, size - 1))
        q = [1.0 if i == hot else 0.0 for i in range(size)]
    elif kind == "two ratios" and size > 1:
        split = draw(st.integers(1, size - 1))
        p = [0.25 * x if i < split else x for i, x in enumerate(q)]
        p[-1] += 1.0 - sum(p)
    return torch.tensor([p], dtype=torch.float64), torch.tensor([q], dtype=torch.float64)


@st.composite
def drafters(draw: st.DrawFn, size: int, n: int) -> Tensor:
    """Draft distributions ``[1, n, V]`` of n drafters, some of them possibly the same."""
    rows = [draw(distributions(size)) for _ in range(n)]
    return torch.tensor([[rows[draw(st.integers(0, k))] for k in range(n)]], dtype=torch.float64)


@st.composite
def planted(draw: st.DrawFn, samplers: Sequence[str] = (*FAMILY, "independent"), largest: int = 5) -> Known:
    """A problem built around its optimum, so that the answer is known without solving anything.

    Draw q and a subset H, then a plan: a drafted set that is not inside H puts all its mass out through a token off
    H; one inside H only a part, and p on H is exactly what arrives there.  What is left of p goes off H.  The plan's
    total is ``1 - Q(H) + P(H)``: no plan does better (weak duality), whatever the sampler.
    """
    sampler = draw(st.sampled_from(list(samplers)))
    size, n = draw(st.integers(2, largest)), draw(st.integers(1, 3))
    q = (
        draw(drafters(size, n))
        if sampler == "independent"
        else torch.tensor([draw(distributions(size))], dtype=torch.float64)
    )
    subset = set(draw(st.lists(st.integers(0, size - 1), max_size=size - 1, unique=True)))
    outside = [token for token in range(size) if token not in subset]
    p, plan = [0.0] * size, list[Move]()
    for tokens, mass in set_distribution(q, n, sampler, size).items():
        off = sorted(tokens - subset)
        token = draw(st.sampled_from(off or sorted(tokens)))
        part = mass if off else mass * draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
        p[token] += part
        plan.append((set(tokens), token, part))
    alpha = sum(part for _, _, part in plan)
    p[draw(st.sampled_from(outside))] += max(0.0, 1.0 - sum(p))
    return Known("planted", p, q[0].tolist(), n, sampler, alpha, subset, plan)


def batch_bound(batch: LogitBatch, n_drafts: Counts, sampler: str) -> Bound:
    """Bounds of a batch of dump rows at temperature 1, of which some may be truncated; fields [N, B]."""
    first = int(batch.row[0])
    p = truncated_distribution(batch.target_logits, batch.target_cut, name="dump target_logits", first_row=first)
    q = truncated_distribution(batch.draft_logits, batch.draft_cut, name="dump draft_logits", first_row=first)
    return solve_cut(p, q, n_drafts, sampler)
