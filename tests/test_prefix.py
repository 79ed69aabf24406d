"""The prefix scan and its quadrature against exact values that share no code with them."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.bounds.search import exponential_race as race
from mdsd_bounds.bounds.search.exponential_race import prefix_sum, race_prefix_mass, suffix_sum
from mdsd_bounds.verifiers.optimal.unit_kernels import spare_masses

VOCABULARIES = (151_936, 262_144)


def exact_race(rates: list[Fraction], n: int) -> list[Fraction]:
    """Q(H) of every prefix in exact rational arithmetic, by enumerating ordered draws."""
    total = sum(rates)
    last = [Fraction(0)] * (len(rates) + 1)
    support = [i for i, rate in enumerate(rates) if rate > 0]
    for drafts in itertools.permutations(support, min(n, len(support))):
        mass, left = Fraction(1), total
        for token in drafts:
            mass *= rates[token] / left
            left -= rates[token]
        last[max(drafts) + 1] += mass
    return list(itertools.accumulate(last))


@pytest.mark.parametrize(
    "weights",
    [
        [5, 1, 3, 2, 8, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [10**9, 3, 1, 0, 2, 1],
        [10**15, 10**9, 7, 10**4, 1, 2],
        [0, 0, 4, 0, 1],
        [1],
    ],
)
def test_race_is_exact_within_its_own_bound(weights: list[int]) -> None:
    counts = list(range(0, len(weights) + 2))
    total = sum(weights)
    mass, error = race_prefix_mass(torch.tensor([[w / total for w in weights]], dtype=torch.float64), counts)
    for slot, n in enumerate(counts):
        expected = (
            [float(x) for x in exact_race([Fraction(w) for w in weights], n)] if n else [1.0] * (len(weights) + 1)
        )
        gap = np.abs(mass[slot, 0].numpy() - expected).max()
        # The input was rounded to float64 before the race saw it: a few units beyond the bound are the input's.
        assert gap <= float(error[slot, 0]) + 1e-14, (n, gap)
        assert float(error[slot, 0]) < 5e-9


@pytest.mark.parametrize("size", [6, 300, 5000])
def test_mass_outside_the_largest_is_one_number_for_all(size: int) -> None:
    n = 5
    q = np.random.default_rng(size).exponential(size=size) ** 8
    q[:2] = q.max()
    q = q / q.sum()
    exact = [math.fsum(np.sort(q)[: size - i]) for i in range(n)]
    rows = torch.from_numpy(q)[None]
    np.testing.assert_allclose(spare_masses(q, n), exact, rtol=1e-13, atol=0)
    np.testing.assert_allclose(race.outside_top(rows, rows.topk(n - 1).values, n)[0], exact, rtol=1e-13, atol=0)


@pytest.mark.parametrize("factor", [2.0, 4.0])
@pytest.mark.parametrize("n", [1, 4, 64, 10_000])
def test_the_step_is_the_largest_within_its_tolerance(n: int, factor: float) -> None:
    step, error = race.trapezoid_step(n, 1e-11, factor)
    phi = math.atan(2 * math.pi / (step * n))
    bound = math.log(factor) - n * math.log(math.cos(phi)) - math.log(math.expm1(2 * math.pi * phi / step))
    assert bound == pytest.approx(math.log(error), abs=1e-9)
    assert 0.999e-11 < error <= 1e-11


def test_a_wrong_control_variate_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    right, error = race_prefix_mass(q, [3])
    original = race.outside_top
    monkeypatch.setattr(race, "outside_top", lambda *a: original(*a) * 3)
    wrong, _ = race_prefix_mass(q, [3])
    assert float((right - wrong).abs().max()) > float(error.max())


@pytest.mark.parametrize("size", VOCABULARIES)
def test_race_on_a_uniform_distribution_is_hypergeometric(size: int) -> None:
    counts = [1, 2, 3, 8]
    q = torch.full((1, size), 1.0 / size, dtype=torch.float64)
    mass, error = race_prefix_mass(q, counts)
    h = np.arange(size + 1, dtype=float)
    for slot, n in enumerate(counts):
        expected = np.ones_like(h)
        for k in range(n):
            expected *= np.clip(h - k, 0, None) / (size - k)
        assert np.abs(mass[slot, 0].numpy() - expected).max() <= float(error[slot, 0]) <= 5e-9


@pytest.mark.parametrize("size", VOCABULARIES)
def test_peaked_rows_whose_second_draft_comes_on_time_scales_of_1e9(size: int) -> None:
    """One token holds 1 - 1e-9; with H holding it, the other n - 1 drafts are uniform, up to 64 * 1e-9 of mass."""
    counts = [2, 3, 8]
    q = torch.full((1, size), 1e-9 / (size - 1), dtype=torch.float64)
    q[0, 0] = 1.0 - 1e-9
    mass, error = race_prefix_mass(q, counts)
    h = np.arange(size, dtype=float)
    for slot, n in enumerate(counts):
        # Exact: the heavy token comes at step j (or not at all); the other draws are uniform without replacement.
        others = [np.ones_like(h)]
        for k in range(n):
            others.append(others[-1] * np.clip(h - k, 0, None) / (size - 1 - k))
        expected, reach = np.zeros_like(h), 1.0
        for j in range(n):
            light = 1e-9 * (size - 1 - j) / (size - 1)
            heavy = (1.0 - 1e-9) / (1.0 - 1e-9 + light)
            expected += reach * heavy * others[n - 1]
            reach *= 1.0 - heavy
        expected += reach * others[n]
        assert np.abs(mass[slot, 0, 1:].numpy() - expected).max() <= float(error[slot, 0]) + 1e-15
        assert float(error[slot, 0]) <= 5e-9


def test_quadrature_equals_the_closed_form_for_pairs_at_full_vocabulary() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(1, 151_936, generator=generator, dtype=torch.float64)
    q = torch.softmax(logits, -1)
    closed, _ = race_prefix_mass(q, [2])
    top = q.topk(2, -1).values
    ((_, _, numeric, bound),) = race._quadrature(q, suffix_sum(q), top, (q > 0).sum(-1), [(0, 2)])
    assert float((closed[0] - numeric).abs().max()) <= bound <= 5e-9


@pytest.mark.slow
def test_sixty_four_draws_at_262144_tokens() -> None:
    size, n = 262_144, 64
    q = torch.full((1, size), 1.0 / size, dtype=torch.float64)
    mass, error = race_prefix_mass(q, [n])
    h = np.arange(size + 1, dtype=float)
    expected = np.ones_like(h)
    for k in range(n):
        expected *= np.clip(h - k, 0, None) / (size - k)
    assert np.abs(mass[0, 0].numpy() - expected).max() <= float(error[0, 0]) <= 5e-9


def test_sums_are_accurate_and_suffixes_do_not_cancel() -> None:
    x = torch.full((1, 100_000), 1e-20, dtype=torch.float64)
    x[0, 0] = 1.0
    assert float(suffix_sum(x)[0, 1]) == pytest.approx(99_999e-20, rel=1e-12)
    assert float(prefix_sum(x)[0, 0]) == 0.0
    assert prefix_sum(x).shape == (1, 100_001)


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus"])
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_interval_is_certified_and_the_subset_proves_the_upper_end(sampler: str, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    p, q = (torch.softmax(2 * torch.randn(3, 200, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    bound = optimal_acceptance(p, q, n, sampler)
    assert bool((bound.low <= bound.value).all())
    assert bool((bound.value <= bound.high).all())
    assert float((bound.high - bound.low).max()) <= 1e-8
    subset = bound.subset
    assert torch.equal(subset.sum(-1), bound.subset_size)
    # Any H gives an upper bound; here Q(H) is counted by drawing, so the certificate is checked by another route.
    from mdsd_bounds import SAMPLERS

    rows = 20_000
    drafts = SAMPLERS[sampler].sample(q[:1].expand(rows, -1), n, torch.Generator().manual_seed(0))
    inside = torch.where(drafts >= 0, subset[0][drafts.clamp(min=0)], torch.ones_like(drafts, dtype=torch.bool))
    frequency = float(inside.all(-1).double().mean())
    spread = math.sqrt(max(frequency * (1 - frequency), 1e-9) / rows)
    assert abs(1 + float(p[0, subset[0]].sum()) - frequency - float(bound.value[0])) <= 5 * spread + 1e-9


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy", "top_m_plus"])
def test_identities(sampler: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.softmax(torch.randn(4, 30, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    counts = (1, 2, 3, 5, 8)
    bound = optimal_acceptance(p, q, counts, sampler)
    if sampler not in {"top_m_plus"}:
        assert torch.allclose(bound.value[0], torch.minimum(p, q).sum(-1), atol=1e-12, rtol=0)
        assert torch.allclose(optimal_acceptance(p, p, counts, sampler).value, torch.ones(5, 4).double(), atol=1e-12)
    assert bool((bound.value.diff(dim=0) >= -1e-10).all())
    shuffle = torch.randperm(30, generator=generator)
    assert torch.allclose(
        optimal_acceptance(p[:, shuffle], q[:, shuffle], counts, sampler).value, bound.value, atol=1e-10
    )
    padded = [torch.nn.functional.pad(x, (2, 3)) for x in (p, q)]
    assert torch.allclose(optimal_acceptance(*padded, counts, sampler).value, bound.value, atol=1e-10)
    loop = torch.stack([optimal_acceptance(p[i], q[i], counts, sampler).value for i in range(4)], 1)
    assert torch.allclose(loop, bound.value, atol=1e-13, rtol=0)


def test_without_replacement_dominates_with_replacement() -> None:
    generator = torch.Generator().manual_seed(1)
    p, q = (torch.softmax(3 * torch.randn(50, 40, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    counts = (1, 2, 4, 8)
    without = optimal_acceptance(p, q, counts, "without_replacement")
    assert bool((without.high >= optimal_acceptance(p, q, counts, "with_replacement").low).all())


def test_more_drafts_than_support() -> None:
    p, q = [0.25, 0.25, 0.5, 0.0], [0.9, 0.1, 0.0, 0.0]
    for sampler in ("without_replacement", "greedy", "top_k", "top_m_plus"):
        assert float(optimal_acceptance(p, q, 3, sampler).value) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("tiny", [1e-300, 1e-310, 5e-324])
def test_subnormal_probabilities(tiny: float) -> None:
    p, q = [0.2, 0.3, 0.5, 0.0], [1.0, tiny, tiny, 0.0]
    bound = optimal_acceptance(p, q, (1, 2, 3), "without_replacement")
    # The second draft is either of the two rare tokens, equally likely.
    assert bound.value.tolist() == pytest.approx([0.2, 0.2 + 0.3 + 0.5, 1.0], abs=1e-9)


def test_value_does_not_depend_on_what_else_is_asked() -> None:
    generator = torch.Generator().manual_seed(5)
    p, q = (torch.softmax(3 * torch.randn(2, 5000, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    together = optimal_acceptance(p, q, (1, 2, 3, 4, 6, 8, 16), "without_replacement")
    for slot, n in enumerate((1, 2, 3, 4, 6, 8, 16)):
        alone = optimal_acceptance(p, q, n, "without_replacement")
        assert bool((together.low[slot] <= alone.high).all() & (alone.low <= together.high[slot]).all())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy", "top_k"])
def test_cuda_equals_cpu(sampler: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.softmax(3 * torch.randn(4, 50_000, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    host = optimal_acceptance(p, q, (1, 2, 4, 8), sampler)
    device = optimal_acceptance(p.cuda(), q.cuda(), (1, 2, 4, 8), sampler)
    assert device.value.is_cuda
    assert torch.allclose(device.value.cpu(), host.value, atol=1e-9, rtol=0)
