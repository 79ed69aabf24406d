"""The search between cells against the scan, exact values and all subsets; a bound with a term dropped must fail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FAMILY, pairs
from torch import Tensor

from mdsd_bounds import optimal_acceptance, subset_bound, to_probs
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.bounds.search import compiled_search as fast
from mdsd_bounds.bounds.search import exponential_race_kernel as fast_race
from mdsd_bounds.bounds.search.exponential_race_kernel import COLUMNS, POWERS, evaluate, left_nodes
from mdsd_bounds.bounds.search.power_sums import power_weights, sensitivity
from mdsd_bounds.bounds.search.prefix_scan import prefix_curves
from mdsd_bounds.bounds.search.records import Race
from mdsd_bounds.problem import Bound
from mdsd_bounds.samplers import get_sampler

COUNTS = (1, 2, 3, 5, 8)
SAMPLERS = ["with_replacement", "without_replacement", "greedy", "top_m_plus"]


def normal(x: Tensor) -> Tensor:
    return x / x.sum()


def adversarial(size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows ``[V]`` that stress one step each."""
    generator = torch.Generator().manual_seed(size)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    def probs(scale: float) -> Tensor:
        return torch.softmax(noise(scale), -1)

    index = torch.arange(size, dtype=torch.float64)
    uniform = torch.full((size,), 1.0 / size, dtype=torch.float64)
    half = normal((index < size // 2).double())
    hot = (index == 5).double()
    crowd = probs(1.0)
    one_cell = crowd * (0.8 + 1e-3 * torch.rand(size, generator=generator, dtype=torch.float64))
    one_cell[7] += 0.3
    curve = crowd.cumsum(0)
    slopes = normal(4 * curve**3 * crowd + 1e-12)
    decay = torch.full((size,), 1e-26, dtype=torch.float64)
    decay[:8] = 10.0 ** (-3.0 * torch.arange(8, dtype=torch.float64))
    few = torch.zeros(size, dtype=torch.float64)
    few[10:15] = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
    # The second draft comes on a time scale of 1e9; the token between the two is drafted by then for certain.
    late = torch.where(index == 3, torch.ones_like(index), 1e-9 * probs(2.0))
    zipf = -1.1 * (index + 1).log()
    return {
        "apart": (probs(2.0), probs(2.0)),
        "equal": (crowd, crowd),
        "one ratio for all": (uniform, uniform),
        "two ratios": (normal(torch.where(index < size // 2, 0.25, 1.0).double()), uniform),
        "thousands in one cell": (normal(one_cell), crowd),
        "one-hot draft": (probs(1.0), hot),
        "one-hot target": (hot, probs(1.0)),
        "disjoint": (half, normal((index >= size // 2).double())),
        "zeros in q": (uniform, half),
        "zeros in p": (half, uniform),
        "second draft at 1e9": (probs(2.0), normal(late)),
        "each token rarer by 1000": (probs(2.0), normal(decay)),
        "q of 1e-15": (probs(3.0), normal(torch.where(index < size // 2, 1.0, 1e-15).double())),
        "support of five": (probs(2.0), few),
        "flat": (slopes, crowd),
        "many valleys": (normal(slopes * (1 + 0.02 * torch.sin(index * 40 / size))), crowd),
        "cold": (torch.softmax(5 * zipf + noise(2.0), -1), torch.softmax(5 * zipf + noise(2.0), -1)),
    }


def value_of_subset(bound: Bound, slot: int, row: int) -> float:
    """``1 + P(H) - Q(H)`` of the reported subset, Q by the plain scan of an order that begins with H."""
    problem, n = bound.problem, bound.problem.n_drafts[slot]
    subset = bound.subset[slot, row]
    fixed, random = get_sampler(problem.sampler).split(n, **problem.options)  # type: ignore[misc]
    # A target that makes the tokens of H come first: the scan then meets H as one of its prefixes.
    first = torch.where(subset, torch.zeros_like(problem.q[row]), problem.q[row])
    _, mass, _, order = prefix_curves(
        first[None], problem.q[row : row + 1], fixed, [random], get_sampler(problem.sampler).replacement
    )
    held = int((subset & (problem.q[row] > 0)).sum())
    assert bool(subset[order[0, :held]].all())
    return 1.0 + float(problem.p[row, subset].sum() - mass[0, 0, held])


def check(p: Tensor, q: Tensor, counts: tuple[int, ...], sampler: str, method: str = "fast", **options: Any) -> None:
    """Everything a fast answer must satisfy, against the plain scan."""
    found = optimal_acceptance(p, q, counts, sampler, method=method, **options)
    scan = optimal_acceptance(p, q, counts, sampler, method="prefix", **options)
    assert float((found.value - scan.value).abs().max()) <= 1e-9
    assert float((found.high - found.low).max()) <= 1e-8
    assert bool((found.low <= found.value).all() & (found.value <= found.high).all())
    assert bool((found.low <= scan.high).all() & (scan.low <= found.high).all())
    assert torch.equal(found.subset.sum(-1), found.subset_size)
    for slot in range(len(counts)):
        for row in range(p.shape[0]):
            proved = value_of_subset(found, slot, row)
            assert float(found.low[slot, row]) - 1e-12 <= proved <= float(found.high[slot, row]) + 1e-10


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_adversarial_rows(sampler: str) -> None:
    rows = adversarial(1200)
    p, q = (torch.stack([row[side] for row in rows.values()]) for side in range(2))
    check(p, q, COUNTS, sampler)


@pytest.mark.parametrize("sampler", ["without_replacement", "top_m_plus", "with_replacement"])
def test_the_torch_search_on_adversarial_rows(sampler: str) -> None:
    rows = adversarial(700)
    p, q = (torch.stack([row[side] for row in rows.values()]) for side in range(2))
    check(p, q, (1, 2, 4, 8), sampler, "outer")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_torch_search_on_a_gpu() -> None:
    rows = adversarial(9000)
    p, q = (torch.stack([row[side] for row in rows.values()]) for side in range(2))
    host = optimal_acceptance(p, q, COUNTS, "without_replacement", method="fast")
    device = optimal_acceptance(p.cuda(), q.cuda(), COUNTS, "without_replacement")
    assert device.method == "outer"
    assert float((device.value.cpu() - host.value).abs().max()) <= 1e-9


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=30, deadline=None)
@given(pair=pairs(largest=9), n=st.integers(1, 5))
def test_small_problems_by_all_subsets(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair
    found = optimal_acceptance(p, q, n, sampler, method="fast")
    truth = optimal_acceptance(p, q, n, sampler, method="subsets")
    assert float((found.value - truth.value).abs().max()) <= 1e-9
    assert bool((found.low <= truth.high).all() & (truth.low <= found.high).all())
    subset = found.subset[0].numpy()
    inside = draft_sets(found.problem, 0, n).inside(subset)
    assert abs(1 + float(p[0].numpy()[subset].sum()) - inside - float(found.value[0])) <= 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.3, 1.0, 3.0, 8.0]), sampler=st.sampled_from(SAMPLERS))
def test_drawn_rows(seed: int, scale: float, sampler: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, other = (scale * torch.randn(2, 600, generator=generator, dtype=torch.float64) for _ in range(2))
    check(torch.softmax(base + 0.3 * other, -1), torch.softmax(base, -1), (1, 2, 4, 7), sampler)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
def test_real_rows(temperature: float, shipped_rows: tuple[Tensor, Tensor]) -> None:
    p, q = (to_probs(x[:1], temperature=temperature) for x in shipped_rows)
    for sampler in ("with_replacement", "greedy", "top_k"):
        assert optimal_acceptance(p, q, 2, sampler).method == "fast"
        check(p, q, (1, 2, 5, 8), sampler)
    # The plain scan without replacement takes most of a second for each count above two.
    check(p, q, (2, 4), "without_replacement")


@pytest.fixture(scope="module")
def shipped_rows() -> tuple[Tensor, Tensor]:
    from pathlib import Path

    from mdsd_bounds import open_dump

    folder = Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval"
    (batch,) = open_dump(folder).batches(1, stop=1)
    return batch.target_logits, batch.draft_logits


def test_tens_of_thousands_of_tokens_in_one_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    size = 60_000
    q = torch.softmax(torch.randn(1, size, generator=generator, dtype=torch.float64), -1)
    p = q * (0.8 + 1e-3 * torch.rand(1, size, generator=generator, dtype=torch.float64))
    p[0, 7] += 0.25
    check(p / p.sum(), q, (1, 2, 4), "with_replacement")
    check(p / p.sum(), q, (2, 4), "without_replacement")
    # Ratios bunched so that equal stretches do not part them.
    bunch = 0.8 + 1e-3 * torch.rand(1, size, generator=generator, dtype=torch.float64) ** 12
    p = q * bunch
    p[0, 7] += 0.25
    check(p / p.sum(), q, (1, 2, 4), "with_replacement")


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_row_does_not_depend_on_its_batch(rows: int) -> None:
    generator = torch.Generator().manual_seed(4)
    p, q = (torch.softmax(3 * torch.randn(7, 9000, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    for sampler in SAMPLERS:
        whole = optimal_acceptance(p, q, COUNTS, sampler, method="fast")
        part = optimal_acceptance(p[:rows], q[:rows], COUNTS, sampler, method="fast")
        for name in ("value", "low", "high", "subset_size"):
            assert torch.equal(getattr(whole, name)[:, :rows], getattr(part, name))


def test_numbers_of_draws_in_any_order() -> None:
    generator = torch.Generator().manual_seed(6)
    p, q = (torch.softmax(2 * torch.randn(2, 400, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    check(p, q, (2, 9, 1, 20), "without_replacement")
    check(p, q, (64, 3, 200), "with_replacement")
    check(p, q, (30, 3), "greedy")


def test_without_numba_the_scan_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    p, q = (torch.softmax(2 * torch.randn(2, 9000, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    monkeypatch.setattr(fast, "_kernels", lambda: None)
    assert optimal_acceptance(p, q, 2, "with_replacement").method == "prefix"
    check(p, q, (1, 3), "with_replacement")


def test_a_bound_without_its_kink_would_be_seen() -> None:
    """The lower bound of a cell that forgets the kink lies above prefixes inside the cell."""
    from mdsd_bounds.bounds.search.ratio_cells import crossing_bound

    bound = crossing_bound.py_func
    # Two tokens, ratios 0.5 and 1.5, q = 0.1 each, chord of slope 1: P - chord is -0.05 after the first.
    right = bound(0.0, 1.0, 0.2, 0.2, 0.5, 1.5)
    assert right == pytest.approx(-0.05)
    assert bound(0.0, 1.0, 0.2, 0.2, 0.5, 1.0) == np.inf  # the slope that drops the kink
    generator = np.random.default_rng(0)
    deeper = 0
    for _ in range(300):
        w, q = np.sort(generator.uniform(0.3, 2.0, 6)), generator.uniform(0.0, 0.1, 6)
        slope = generator.uniform(0.3, 2.0)
        inside = np.concatenate([[0.0], np.cumsum(w * q)]) - slope * np.concatenate([[0.0], np.cumsum(q)])
        ends = min(inside[0], inside[-1])
        low = bound(0.0, slope, float((w * q).sum()), float(q.sum()), float(w[0]), float(w[-1]))
        assert min(low, ends) <= inside.min() + 1e-15
        deeper += ends > inside.min() + 1e-6
    # Without the kink the bound would be the lower end, which is wrong most of the time.
    assert deeper > 100


def test_cells_that_stay_closed_too_early_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(9)
    base = torch.randn(1, 3000, generator=generator, dtype=torch.float64)
    q = torch.softmax(base, -1)
    p = torch.softmax(base + 0.8 * torch.randn(1, 3000, generator=generator, dtype=torch.float64), -1)
    for sampler in ("with_replacement", "without_replacement"):
        check(p, q, (2,), sampler)
    monkeypatch.setattr(fast, "TOLERANCE", 1e-2)
    for sampler in ("with_replacement", "without_replacement"):
        with pytest.raises(AssertionError):
            check(p, q, (2,), sampler)


def test_evaluation_of_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prefix, light tokens only, against the trapezoid rule in plain numpy with exact products."""
    # Inner steps have no wrapper for Python: run all of it uncompiled.
    monkeypatch.setattr(fast_race, "left_nodes", left_nodes.py_func)
    generator = np.random.default_rng(1)
    q = generator.dirichlet(np.ones(400))
    inside = q[:300]
    draws = np.array([1, 2, 3, 5, 8])
    step, _, right, left, weights, _ = fast._race_constants(8)
    start = min(max(left[n, i] for i in range(n)) for n in (3, 5, 8))
    outside = 1.0 - np.sort(q)[::-1][:7].sum()
    nodes = int(math.ceil(math.log(right[8] / outside / start) / step)) + 1
    times = start * np.exp(step * np.arange(nodes))
    last = times[-1]
    heavy = inside[inside * last > 0.25]
    light = inside[inside * last <= 0.25]
    run = np.zeros((1, COLUMNS))
    run[0, 1], run[0, 2], run[0, 3] = inside.sum(), q[300:].sum(), (heavy / (1 - heavy)).sum()
    run[0, POWERS:] = [((light * last) ** k).sum() for k in range(1, 9)]
    table = np.zeros(8 * nodes)
    for g, t in enumerate(times):
        probs = np.zeros(8)
        probs[0] = 1.0
        for rate in heavy:
            probs = probs * math.exp(-rate * t) + np.concatenate([[0.0], probs[:-1]]) * -math.expm1(-rate * t)
        table[np.arange(8) * nodes + g] = step * t * math.exp(-(light.sum() + q[300:].sum()) * t) * probs.cumsum()
    answer = np.empty(5)
    race = Race(last, times, step, weights, table, 8, draws, np.empty((17, nodes)))
    evaluate.py_func(run, 0, 0, race, answer)
    from mdsd_bounds.bounds.search.exponential_race import race_prefix_mass

    plain, error = race_prefix_mass(torch.from_numpy(q)[None], draws.tolist())
    assert np.abs(plain[:, 0, 300].numpy() - answer).max() <= 1e-9 + float(error.max())
    # A weight of the power sums left out must be seen.
    weights = weights.copy()
    weights[2, 3] = 0.0
    broken = np.empty(5)
    evaluate.py_func(run, 0, 0, race._replace(weights=weights), broken)
    assert np.abs(broken - answer).max() > 1e-7


@pytest.mark.parametrize("u", [1e-12, 1e-3, 0.7, 40.0, 1e5])
def test_nodes_left_of_the_first(u: float) -> None:
    step = 0.24
    v = u * np.exp(-step * np.arange(1, 600))
    assert left_nodes.py_func(u, step) == pytest.approx(float((step * v * np.exp(-v)).sum()), rel=1e-13, abs=1e-300)


def test_constants() -> None:
    weights, rest = power_weights()
    y = math.expm1(0.2)
    series = sum(rest[k] * 0.2**k for k in range(1, 61))
    assert series == pytest.approx(-math.log(1 - y), rel=1e-13)
    assert sum(weights[2, k] * 0.01**k for k in range(9)) == pytest.approx(math.expm1(0.01) ** 2, rel=1e-12)
    assert 5 < sensitivity(3) < sensitivity(8) < 40


def test_compiled_sums_refuse_what_the_slow_ones_refuse() -> None:
    from mdsd_bounds.distributions import validate_probs
    from mdsd_bounds.problem import InputError

    size = 9000
    row = torch.full((3, size), 1.0 / size, dtype=torch.float64)
    probs, defect = validate_probs(row, "p")
    assert probs is row
    assert float(defect.max()) <= 1e-12
    minus_zero = torch.cat([row, torch.full((3, 1), -0.0, dtype=torch.float64)], -1)
    assert torch.equal(validate_probs(minus_zero, "p")[1], validate_probs(minus_zero.abs(), "p")[1])
    for bad, word in ((float("nan"), "NaN"), (float("inf"), "infinite"), (-1e-3, "negative"), (0.5, "sum to")):
        wrong = row.clone()
        wrong[1, 77] = bad
        with pytest.raises(InputError, match=f"p row 1.*{word}"):
            validate_probs(wrong, "p")
    wide = row * (1 + 5e-7)
    probs, defect = validate_probs(wide, "p")
    assert float((probs.sum(-1) - 1).abs().max()) <= 1e-13
    assert float(defect[0]) == pytest.approx(5e-7, rel=1e-6)


def test_minus_zero_is_zero() -> None:
    p, q = torch.zeros(9000, dtype=torch.float64), torch.full((9000,), -0.0, dtype=torch.float64)
    p[:3], q[0], q[3] = torch.tensor([0.5, 0.3, 0.2]), 0.5, 0.5
    for sampler in ("with_replacement", "without_replacement", "greedy"):
        found, plain = (optimal_acceptance(p, probs, (1, 2), sampler) for probs in (q, q + 0.0))
        assert torch.equal(found.value, plain.value)
    assert float(optimal_acceptance(p, q, 1, "with_replacement").value) == pytest.approx(0.5)


@pytest.mark.parametrize("sampler", ["greedy", "top_m_plus"])
def test_a_subnormal_rest_is_left_to_the_scan(sampler: str) -> None:
    p, logits = torch.zeros(9000, dtype=torch.float64), torch.full((9000,), -float("inf"), dtype=torch.float64)
    p[:4], logits[0], logits[1:3] = 0.25, 0.0, -712.5
    q = to_probs(logits)
    assert 0 < float(q[1]) < 1e-308
    wide, narrow = (optimal_acceptance(p[:size], q[:size], 2, sampler) for size in (9000, 4))
    assert float(wide.value) == pytest.approx(float(narrow.value), abs=1e-9)
    assert float(wide.low) <= 0.75 <= float(wide.high)


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus"])
def test_the_subset_holds_tokens_whose_ratio_overflows(sampler: str) -> None:
    p, q = torch.zeros(2, 1, 9000, dtype=torch.float64)
    p[0, :2], q[0, :2] = torch.tensor([[0.9, 0.1], [1.0, 1e-310]], dtype=torch.float64)
    for counts in ([1, 2], [2], [2, 3], [1, 2, 3]):
        bound = optimal_acceptance(p, q, counts, sampler=sampler)
        torch.testing.assert_close(subset_bound(bound), bound.value, atol=1e-12, rtol=0)
        assert torch.equal(bound.subset.sum(-1), bound.subset_size)
