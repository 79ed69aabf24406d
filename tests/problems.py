"""Small problems with known answers, and hypothesis strategies that draw awkward ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Known:
    """A problem worked by hand: the optimal acceptance and a subset that proves it."""

    name: str
    p: list[float]
    q: list[float]
    n: int
    sampler: str
    alpha: float
    subset: set[int]


#: Each answer follows from alpha* = 1 + P(H) - Q(H) with the subset given, and a plan that attains it.
CATALOGUE = [
    Known("one draft is total variation", [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 1, "with_replacement", 0.7, {2}),
    Known("one draft, any sampler", [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 1, "without_replacement", 0.7, {2}),
    Known("disjoint supports", [1.0, 0.0], [0.0, 1.0], 3, "with_replacement", 0.0, {1}),
    Known("equal laws", [0.6, 0.4], [0.6, 0.4], 2, "with_replacement", 1.0, set()),
    # Draft always token 0; accepted with its mass p_0 = 1/4.
    Known("one-hot draft", [0.25, 0.75], [1.0, 0.0], 4, "with_replacement", 0.25, {0}),
    # p = (1/2, 1/2), q = (3/4, 1/4), n = 2: H = {0}: 1 + 1/2 - 9/16 = 15/16.
    Known("coin, two draws", [0.5, 0.5], [0.75, 0.25], 2, "with_replacement", 15 / 16, {0}),
    # Two draws without replacement from two tokens are both tokens.
    Known("coin, both faces", [0.5, 0.5], [0.75, 0.25], 2, "without_replacement", 1.0, set()),
    # Q({0, 1}) = 1/2 * (1/4)/(1/2) + 1/4 * (1/2)/(3/4) = 5/12; P = 0: alpha* = 7/12.
    Known("pair without replacement", [0, 0, 1.0], [0.5, 0.25, 0.25], 2, "without_replacement", 7 / 12, {0, 1}),
    # A = {0}, r = (0, 1/2, 1/2): P(A) + min(p, r) = 0.2 + 0.5 + 0.1.
    Known("greedy pair", [0.2, 0.7, 0.1], [0.5, 0.25, 0.25], 2, "greedy", 0.8, {0, 2}),
    Known("two most probable", [0.2, 0.7, 0.1], [0.5, 0.2, 0.3], 2, "top_k", 0.3, {0, 2}),
    Known("support smaller than n", [0.2, 0.3, 0.5], [0.9, 0.1, 0.0], 3, "without_replacement", 0.5, {0, 1}),
]


def laws(size: int) -> st.SearchStrategy[list[float]]:
    """Laws over ``size`` tokens with zeros, ties and peaks: small whole weights and powers of ten, normalised."""
    weight = st.one_of(
        st.integers(0, 4).map(float),
        st.integers(-12, 0).map(lambda e: 10.0**e),
        st.floats(0.0, 1.0, allow_subnormal=False),
    )
    rows = st.lists(weight, min_size=size, max_size=size).filter(lambda row: sum(row) > 1e-6)
    return rows.map(lambda row: [x / sum(row) for x in row])


@st.composite
def pairs(draw: st.DrawFn, smallest: int = 1, largest: int = 7) -> tuple[Tensor, Tensor]:
    """A target and a draft ``[1, V]``: drawn apart, equal, disjoint, one-hot, or with a planted optimum."""
    size = draw(st.integers(smallest, largest))
    p, q = draw(laws(size)), draw(laws(size))
    kind = draw(st.sampled_from(["apart", "apart", "equal", "disjoint", "one-hot", "planted"]))
    if kind == "equal":
        q = list(p)
    elif kind == "disjoint" and size > 1:
        p = [1.0 / (size // 2) if i < size // 2 else 0.0 for i in range(size)]
        q = [0.0 if i < size // 2 else 1.0 / (size - size // 2) for i in range(size)]
    elif kind == "one-hot":
        q = [1.0 if i == draw(st.integers(0, size - 1)) else 0.0 for i in range(size)]
        if sum(q) == 0:
            q[0] = 1.0
        q = [x / sum(q) for x in q]
    elif kind == "planted" and size > 1:
        # Inside H the target is a fixed fraction of the draft, outside it takes the rest: H must be the minimiser.
        split = draw(st.integers(1, size - 1))
        p = [0.25 * x if i < split else x for i, x in enumerate(q)]
        p[-1] += 1.0 - sum(p)
    return torch.tensor([p], dtype=torch.float64), torch.tensor([q], dtype=torch.float64)
