"""What is stated about samplers, as properties of random instances; linear programmes over all samplers as judges."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from harness import real_rows, row
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import distributions, pairs
from scipy.optimize import linprog
from torch import Tensor

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds.bounds.certificate import draft_mass
from mdsd_bounds.diagnostics import best_fixed_set, quantile_bound, share_in_subset
from mdsd_bounds.samplers.base import fixed_mask, remainder


def subsets(size: int) -> Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=size)))


@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(1, 5))
def test_without_replacement_dominates_with_replacement(pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair
    every = subsets(p.shape[1])
    wide = q.expand(len(every), -1)
    without, with_ = (draft_mass(wide, every, n, f"{name}_replacement") for name in ("without", "with"))
    assert bool((without <= with_ + 1e-10).all())
    values = [float(optimal_acceptance(p, q, n, f"{name}_replacement").value[0]) for name in ("without", "with")]
    assert values[0] >= values[1] - 1e-9


def test_dominance_on_real_rows() -> None:
    p, q = real_rows(26, 2)
    without, with_ = (optimal_acceptance(p, q, 2, f"{name}_replacement") for name in ("without", "with"))
    assert bool((without.high >= with_.low).all())
    assert float(without.low.mean()) > float(with_.high.mean()) + 1e-3


@settings(max_examples=40, deadline=None)
@given(pair=pairs(smallest=2, largest=6), n=st.integers(1, 4), m=st.integers(0, 4))
def test_top_m_plus_formula(pair: tuple[Tensor, Tensor], n: int, m: int) -> None:
    p, q = pair
    m = min(m, n - 1)
    held = fixed_mask(q, m)
    r = remainder(q, held)
    every = subsets(p.shape[1])
    every = every[~(every & held).any(-1)]
    inner = (p * every).sum(-1) - draft_mass(r.expand(len(every), -1), every, n - m, "without_replacement")
    formula = 1.0 + float((p * held).sum()) + float(inner.min())
    assert float(optimal_acceptance(p, q, n, "top_m_plus", m=m).value[0]) == pytest.approx(formula, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 3), share=st.floats(0, 1))
def test_concave_in_both_distributions_and_lipschitz_in_the_target(data: st.DataObject, n: int, share: float) -> None:
    """Joint distributions over pairs of tokens: a mixture of two problems is worth at least the mixture of their values."""
    size = data.draw(st.integers(2, 4))
    table = torch.tensor(list(itertools.product(range(size), repeat=n)))
    p, p2 = (torch.tensor(data.draw(distributions(size)), dtype=torch.float64) for _ in range(2))
    mu, mu2 = (torch.tensor(data.draw(distributions(len(table))), dtype=torch.float64) for _ in range(2))

    def value(target: Tensor, probs: Tensor) -> float:
        return float(optimal_acceptance(target, probs, n, "joint", method="subsets", table=table).value)

    mixed = value(share * p + (1 - share) * p2, share * mu + (1 - share) * mu2)
    assert mixed >= share * value(p, mu) + (1 - share) * value(p2, mu2) - 1e-9
    assert abs(value(p, mu) - value(p2, mu)) <= float((p - p2).clamp(min=0).sum()) + 1e-9


def best_over_samplers(p: Tensor, n: int) -> float:
    """``max over mu of E alpha*(mu, p)`` by one linear programme over distributions of sets and plans; p ``[S, V]``."""
    samples, size = p.shape
    sets = list(itertools.combinations(range(size), min(n, size)))
    moves = [(s, c, i) for s in range(samples) for c, members in enumerate(sets) for i in members]
    width = len(sets) + len(moves)
    above, limit = [], []
    for s in range(samples):
        for c in range(len(sets)):
            line = np.zeros(width)
            line[c] = -1.0
            line[[len(sets) + k for k, move in enumerate(moves) if move[:2] == (s, c)]] = 1.0
            above.append(line)
            limit.append(0.0)
        for i in range(size):
            line = np.zeros(width)
            line[[len(sets) + k for k, move in enumerate(moves) if move[0] == s and move[2] == i]] = 1.0
            above.append(line)
            limit.append(float(p[s, i]))
    cost = np.concatenate([np.zeros(len(sets)), -np.ones(len(moves)) / samples])
    whole = np.concatenate([np.ones(len(sets)), np.zeros(len(moves))])[None]
    return -float(linprog(cost, A_ub=np.array(above), b_ub=limit, A_eq=whole, b_eq=[1.0], method="highs").fun)


def random_targets(samples: int, size: int, seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(scale * torch.randn(samples, size, generator=generator, dtype=torch.float64), -1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_quantile_bound_holds_for_the_best_sampler(n: int) -> None:
    strict = 0
    for seed in range(4):
        p = random_targets(5, 4, seed)
        best, bound = best_over_samplers(p, n), quantile_bound(p, n)
        assert bound >= best - 1e-7
        strict += bound < 1.0 - 1e-6
        if n == 1:
            assert bound == pytest.approx(best, abs=1e-7)
        for q in (p.mean(0), row(4, seed)):
            own = optimal_acceptance(p, q.expand(5, -1), n, "without_replacement").value.mean()
            assert float(own) <= bound + 1e-9
    # A bound that is always one would pass too.
    assert strict > 0 or n == 3


def test_quantile_bound_with_ties_and_by_bonferroni(monkeypatch: pytest.MonkeyPatch) -> None:
    tied = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], dtype=torch.float64)
    assert quantile_bound(tied, 1) == pytest.approx(best_over_samplers(tied, 1), abs=1e-7)
    p = random_targets(6, 5, 1, 4.0)
    exact = quantile_bound(p, 2)
    # The package's function of the same name hides the module.
    monkeypatch.setattr(sys.modules["mdsd_bounds.diagnostics.quantile_bound"], "ENUMERATED", 0)
    assert quantile_bound(p, 2) >= exact - 1e-12
    with pytest.raises(InputError, match=r"give target distributions \[S, V\]"):
        quantile_bound(p[0], 2)


def test_a_fixed_set_is_best_for_one_hot_targets_and_not_in_general() -> None:
    hot = torch.eye(5, dtype=torch.float64)[[0, 0, 1, 2, 2, 2, 4]]
    for n in (1, 2, 3):
        tokens, value = best_fixed_set(hot, n)
        assert float(value) == pytest.approx(best_over_samplers(hot, n), abs=1e-7)
        assert len(tokens) == n
    p = random_targets(4, 5, 0, 0.3)
    own = float(optimal_acceptance(p, p.mean(0).expand(4, -1), 2, "without_replacement").value.mean())
    assert own >= 1 - float((p - p.mean(0)).clamp(min=0).sum(-1).mean())
    assert own > float(best_fixed_set(p, 2)[1]) + 0.1
    with pytest.raises(InputError, match=r"give target distributions \[S, V\]"):
        best_fixed_set(p[0], 2)


def test_equilibrium_condition_of_one_draft() -> None:
    """The best distribution of one draft levels ``Pr(i in H*)``; one that drafts a token too seldom leaves it low."""
    p = random_targets(400, 3, 5, 1.0)
    median = p.quantile(0.5, 0)
    for _ in range(60):
        # mu_i = F_i^{-1}(f) with f such that the masses sum to one.
        share = 0.5 + 0.5 * (1 - float(median.sum()))
        median = torch.stack([p[:, i].quantile(min(max(share, 0.0), 1.0)) for i in range(3)])
        if abs(float(median.sum()) - 1) < 1e-3:
            break
    best = median / median.sum()
    skew = best * torch.tensor([0.6, 1.0, 1.0])
    skew = skew / skew.sum()
    levels = [share_in_subset(p, probs.expand(400, -1), 1, ranks=(1, 2, 3)).mean(0) for probs in (best, skew)]
    assert float(levels[0].max() - levels[0].min()) < 0.08
    assert float(levels[1].max() - levels[1].min()) > 0.2


def test_the_kink_needs_a_mixture_of_minimisers() -> None:
    p = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    chance = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)

    def value(first: float) -> float:
        return float(chance @ torch.minimum(p, torch.tensor([first, 1 - first])).sum(-1))

    assert max(value(x / 100) for x in range(101)) == pytest.approx(value(0.5))
    base = torch.tensor([0.4, 0.25])
    gaps = [base + 0.35 * torch.tensor(held) for held in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0])]
    assert min(abs(float(g[0] - g[1])) for g in gaps) > 0.1
    mixed = 4 / 7 * gaps[0] + 3 / 7 * gaps[2]
    assert float(mixed[0]) == pytest.approx(float(mixed[1]), abs=1e-6)


def test_shares_are_those_of_the_subset_and_bad_ranks_are_refused() -> None:
    p, q = random_targets(3, 6, 1), row(6, 3).expand(3, -1)
    subset = optimal_acceptance(p, q, 2, "without_replacement").subset
    order = q[0].argsort(descending=True)
    assert torch.equal(share_in_subset(p, q, 2, ranks=(1, 4)), subset[:, order[[0, 3]]].double())
    short = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert share_in_subset(p[:1], short, 2, ranks=(2, 3)).isnan().tolist() == [[False, True]]
    with pytest.raises(InputError, match="give ranks from 1 to 6"):
        share_in_subset(p, q, 2, ranks=(7,))
