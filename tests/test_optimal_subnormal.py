"""The optimal rule beside subnormal probabilities, and on flat rows that bins serve badly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.verifiers.optimal import prepare


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_beside_a_subnormal_mass_of_the_fixed_tokens_every_pick_is_a_probability() -> None:
    p, q = row(2e-323, 0.2, 0.8), row(0.4, 0.3, 0.3)
    rule, drafts = prepare(p, q, 2, "greedy"), torch.tensor([[0, 1], [0, 2]])
    picked = rule.pick_distribution(drafts)
    torch.testing.assert_close(picked.sum(-1), torch.ones(2, dtype=torch.float64))
    # The fixed token comes with either of the others, half of the time each.
    torch.testing.assert_close(rule.output_distribution(drafts).mean(0), p, atol=1e-13, rtol=0)
    token = rule.step(drafts.repeat(5000, 1), torch.Generator().manual_seed(0))
    assert np.bincount(token.numpy(), minlength=3)[1] / 10_000 == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("sampler", ["greedy", "top_k", "without_replacement", "top_m_plus"])
def test_an_empty_slot_is_never_picked_beside_a_subnormal_mass(sampler: str) -> None:
    rule = prepare(row(0.764, 1.5e-323, 0.236), row(0, 1, 0), 2, sampler)
    assert rule.pick_distribution(torch.tensor([[1, -1]])).tolist() == [[1.0, 0.0]]


def test_subnormal_draws_beside_fixed_tokens_keep_their_ratios() -> None:
    p, q = row(0.1, 0.2, 0.3, 0.4), row(0.6, 0.4, 5e-324, 1.5e-323)
    rule = prepare(p, q, 3, "top_m_plus", m=1)
    # Token 0 is fixed, 1 is drawn first, and then 3 three times as often as 2.
    drafts, chance = torch.tensor([[0, 1, 2], [0, 1, 3]]), torch.tensor([[0.25], [0.75]], dtype=torch.float64)
    torch.testing.assert_close((chance * rule.output_distribution(drafts)).sum(0), p, atol=1e-13, rtol=0)
    best = optimal_acceptance(p[None], q[None], 3, "top_m_plus", method="subsets", m=1)
    assert rule.acceptance == pytest.approx(float(best.value), abs=1e-12)


@pytest.mark.parametrize(("n", "size"), [(2, 900), (4, 500)])
def test_flat_rows_that_bins_serve_badly_attain_the_bound(n: int, size: int) -> None:
    generator = np.random.default_rng(40)
    q = np.exp(generator.normal(0, 0.5, size))
    p = q * np.exp(generator.normal(0, 0.3, size)) * (generator.random(size) >= 0.05)
    rule = prepare(torch.from_numpy(p / p.sum()), torch.from_numpy(q / q.sum()), n)
    assert rule.gap < 1e-9
