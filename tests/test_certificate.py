"""Certificates checked apart from the search that found them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CATALOGUE, FAMILY, pairs, set_distribution
from torch import Tensor

from mdsd_bounds import open_dump, optimal_acceptance, to_probs
from mdsd_bounds.bounds.certificate import draft_mass, subset_bound

SHIPPED = Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval"


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(1, 4), bits=st.integers(0, 63))
def test_mass_of_any_subset_is_that_of_the_drafted_sets(
    sampler: str, pair: tuple[Tensor, Tensor], n: int, bits: int
) -> None:
    q = pair[1]
    size = q.shape[1]
    subset = torch.tensor([[bool(bits >> i & 1) for i in range(size)]])
    held = {i for i in range(size) if subset[0, i]}
    expected = sum(mass for tokens, mass in set_distribution(q, n, sampler, size).items() if tokens <= held)
    assert float(draft_mass(q, subset, n, sampler)[0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("known", CATALOGUE, ids=lambda known: known.name)
def test_known_subsets_prove_known_optima(known) -> None:
    bound = optimal_acceptance(known.p, known.q, known.n, known.sampler, **known.options)
    assert float(subset_bound(bound)) == pytest.approx(known.alpha, abs=1e-9)


@pytest.mark.parametrize("sampler", [*FAMILY, "independent"])
def test_subsets_of_real_rows_prove_their_bounds(sampler: str) -> None:
    (batch,) = open_dump(SHIPPED).batches(2, stop=2)
    bound = optimal_acceptance(to_probs(batch.target_logits), to_probs(batch.draft_logits), (1, 3, 5), sampler)
    again = subset_bound(bound)
    assert again.shape == bound.value.shape
    assert float((again - bound.value).abs().max()) <= 1e-9
    assert bool((again <= bound.high + 1e-9).all())


def test_a_worse_subset_proves_only_a_higher_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.softmax(2 * torch.randn(30, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    best = optimal_acceptance(p, q, 3)
    held = best.subset.clone()
    worse = 0
    for token in range(30):
        held[token] = ~held[token]
        mass = draft_mass(q[None], held[None], 3, "without_replacement")[0]
        assert draft_mass(q, held, 3, "without_replacement") == mass  # one position without its axis
        value = 1 + float((p * held).sum()) - float(mass)
        assert value >= float(best.low)
        worse += value > float(best.high) + 1e-6
        held[token] = ~held[token]
    assert worse > 20
