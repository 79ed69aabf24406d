"""Four independent routes to alpha*: prefix scan, all subsets, linear programmes, maximum flow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CATALOGUE, FAMILY, Known, distributions, drafters, pairs, planted, set_distribution
from torch import Tensor

from mdsd_bounds import SAMPLERS, InputError, optimal_acceptance
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.oracles import subset_enumeration as subsets
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.bounds.oracles.linear_program import feasible_plan
from mdsd_bounds.bounds.oracles.subset_enumeration import set_masses
from mdsd_bounds.bounds.search import independent_drafts as product


def by_tuples(p: Tensor, q: Tensor, n: int, sampler: str) -> float:
    """alpha* from ordered tuples and ``log_prob`` alone: nothing of the package's set machinery is used."""
    size = p.shape[1]
    slots = [-1, *range(size)]
    drafts = torch.tensor(list(itertools.product(slots, repeat=n)))
    mass = SAMPLERS[sampler].log_prob(q.expand(len(drafts), -1), drafts).exp().numpy()
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    best = 1.0
    for bits in itertools.product([False, True], repeat=size):
        inside = np.append(np.array(bits), True)[drafts.numpy()].all(-1)
        best = min(best, 1.0 + float(p[0, list(bits)].sum()) - float(mass[inside].sum()))
    return best


def check_proof(known: Known) -> None:
    """The plan moves no more than there is and totals alpha; the subset gives alpha.  Both from ``log_prob`` alone."""
    size, arrived = len(known.p), [0.0] * len(known.p)
    left = set_distribution(torch.tensor([known.q], dtype=torch.float64), known.n, known.sampler, size, **known.options)
    q_inside = sum(mass for tokens, mass in left.items() if tokens <= known.subset)
    for tokens, token, part in known.plan:
        assert token in tokens
        left[frozenset(tokens)] -= part
        arrived[token] += part
    assert min(left.values()) >= -1e-15
    assert all(got <= p + 1e-15 for got, p in zip(arrived, known.p, strict=True))
    assert sum(arrived) == pytest.approx(known.alpha, abs=1e-14)
    assert 1 + sum(known.p[token] for token in known.subset) - q_inside == pytest.approx(known.alpha, abs=1e-14)


def check_answer(known: Known, method: str) -> None:
    bound = optimal_acceptance(known.p, known.q, known.n, known.sampler, method=method, **known.options)
    assert float(bound.value) == pytest.approx(known.alpha, abs=1e-9)
    assert float(bound.low) <= known.alpha + 1e-15
    assert float(bound.high) >= known.alpha - 1e-15
    # The subset may differ where several attain the minimum, but it must attain it.
    problem, *_ = make_problem(known.p, known.q, known.n, known.sampler, **known.options)
    sets = draft_sets(problem, 0, known.n)
    subset = bound.subset.numpy()
    assert int(bound.subset_size) == subset.sum()
    assert 1 + np.array(known.p)[subset].sum() - sets.inside(subset) == pytest.approx(known.alpha, abs=1e-9)


def routes(sampler: str) -> list[str]:
    own = {"independent": ["product"], "joint": []}.get(sampler, ["prefix"])
    return [*own, "subsets", "lp", "maxflow"]


@pytest.mark.parametrize("known", CATALOGUE, ids=lambda known: known.name)
def test_catalogue(known: Known) -> None:
    check_proof(known)
    for method in [*routes(known.sampler), "cvxpy", "auto"]:
        check_answer(known, method)


@settings(max_examples=150, deadline=None)
@given(known=planted())
def test_planted_optima_are_found(known: Known) -> None:
    check_proof(known)
    for method in routes(known.sampler):
        check_answer(known, method)


@pytest.mark.parametrize("broken", [-1, 1])
def test_a_wrong_number_of_draws_would_be_seen(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "set_masses", lambda problem, n: set_masses(problem, n + broken))
    with pytest.raises(AssertionError):
        check_answer(next(known for known in CATALOGUE if known.name == "coin, two draws"), "subsets")


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=60, deadline=None)
@given(pair=pairs(), n=st.integers(1, 4))
def test_routes_agree(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair
    answers = {
        name: optimal_acceptance(p, q, n, sampler, method=name) for name in ["prefix", "subsets", "lp", "maxflow"]
    }
    reference = answers["subsets"].value
    for bound in answers.values():
        assert float((bound.value - reference).abs().max()) <= 1e-9
        assert float((bound.high - bound.low).max()) <= 1e-9
        assert bool((bound.low <= answers["subsets"].high).all() & (answers["subsets"].low <= bound.high).all())


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=12, deadline=None)
@given(pair=pairs(largest=5), n=st.integers(1, 3))
def test_readable_programme_agrees(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair
    bound = optimal_acceptance(p, q, n, sampler, method="cvxpy")
    assert float((bound.value - optimal_acceptance(p, q, n, sampler, method="subsets").value).abs().max()) <= 1e-9


@pytest.mark.parametrize("sampler", [*FAMILY, "independent"])
@settings(max_examples=15, deadline=None)
@given(pair=pairs(largest=4), n=st.integers(1, 3))
def test_subset_enumeration_against_ordered_tuples(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair
    bound = optimal_acceptance(p, q, n, sampler, method="subsets")
    assert float(bound.value[0]) == pytest.approx(by_tuples(p, q, n, sampler), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(1, 7), n=st.integers(1, 4))
def test_different_drafters(data: st.DataObject, size: int, n: int) -> None:
    p = torch.tensor([data.draw(distributions(size))], dtype=torch.float64)
    q = data.draw(drafters(size, n))
    bound = optimal_acceptance(p, q, n, "independent")
    reference = optimal_acceptance(p, q, n, "independent", method="subsets")
    flow = optimal_acceptance(p, q, n, "independent", method="maxflow")
    for other in (reference, flow):
        assert float((bound.value - other.value).abs()) <= 1e-9
        assert float(bound.low) <= float(other.high)
        assert float(other.low) <= float(bound.high)
    assert float(bound.high - bound.low) <= 2e-9
    subset = bound.subset[0]
    attained = 1 + p[0, subset].sum() - q[0][:, subset].sum(-1).prod()
    assert float(attained) == pytest.approx(float(bound.value), abs=1e-13)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), powers=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_over_estimators_and_gradient(data: st.DataObject, powers: list[int]) -> None:
    unit = st.floats(0.0, 1.0, allow_subnormal=False)
    points = st.lists(unit, min_size=len(powers), max_size=len(powers)).map(np.array)
    ends = data.draw(points), data.draw(points)
    low, high, a = np.minimum(*ends), np.maximum(*ends), np.array(powers)
    x = low + data.draw(points) * (high - low)
    for constant, slope in product.over_estimators(low, high, a):
        assert constant + slope @ x >= np.prod(x**a) - 1e-14
    point = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad((point ** torch.tensor(powers)).prod(), point)
    assert product.gradient(x, a) == pytest.approx(slope.numpy(), abs=1e-14)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_bound_stands_without_a_lucky_start(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No local search: honest estimators still lead to the truth; estimators that lie under g do not."""
    honest = product.over_estimators
    monkeypatch.setattr(product, "over_estimators", lambda *box: [(c - shift, s) for c, s in honest(*box)])
    monkeypatch.setattr(product._Search, "_local_search", lambda self: None)
    generator = torch.Generator().manual_seed(1)
    missed = 0
    for _ in range(30):
        rows = torch.softmax(2 * torch.randn(4, 8, generator=generator, dtype=torch.float64), -1)
        bound = optimal_acceptance(rows[0], rows[1:], 3, "independent")
        reference = optimal_acceptance(rows[0], rows[1:], 3, "independent", method="subsets")
        missed += bool((bound.low > reference.high) | (bound.high < reference.low))
    assert (missed > 0) == (shift > 0)


def test_different_drafters_at_scale() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 20_000, generator=generator, dtype=torch.float64)
    p, q = torch.softmax(logits, -1), torch.softmax(logits + 0.7 * noise, -1)
    bound = optimal_acceptance(p, q, (2, 3), "independent")
    assert float((bound.high - bound.low).max()) <= 2e-9
    same = optimal_acceptance(p, q[:1].repeat(3, 1), 3, "independent")
    assert float(same.value) == pytest.approx(float(optimal_acceptance(p, q[0], 3, "with_replacement").value), abs=1e-9)
    # Eight drafts from three drafters; order of the drafters does not matter.
    mixed = q[[0, 1, 2, 0, 1, 0, 1, 2]]
    bound, shuffled = (
        optimal_acceptance(p, distributions, 8, "independent") for distributions in (mixed, mixed.flip(0))
    )
    assert float(bound.high - bound.low) <= 2e-9
    assert float((bound.value - shuffled.value).abs()) <= 2e-9


def test_a_spent_budget_leaves_a_wider_interval_that_still_holds() -> None:
    generator = torch.Generator().manual_seed(3)
    widths = []
    for _ in range(10):
        rows = torch.softmax(3 * torch.randn(7, 12, generator=generator, dtype=torch.float64), -1)
        reference = optimal_acceptance(rows[0], rows[1:], 6, "independent", method="subsets")
        bound = optimal_acceptance(rows[0], rows[1:], 6, "independent", passes=1e-3)
        assert bool((bound.low <= reference.value) & (reference.value <= bound.high))
        widths.append(float(bound.high - bound.low))
    assert max(widths) > 1e-3


def test_options_of_the_search_are_checked() -> None:
    q = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)
    for options, message in (
        ({"width": 1}, "does not take the options"),
        ({"tolerance": 0}, "positive"),
        ({"passes": "9"}, "pos"),
    ):
        with pytest.raises(InputError, match=message):
            optimal_acceptance(q[0], q, 2, "independent", **options)
    for sampler in FAMILY:
        with pytest.raises(InputError, match="for independent drafters"):
            optimal_acceptance(q[0], q[1], 2, sampler, method="product")


def test_joint_distribution_equals_the_sampler_it_tabulates() -> None:
    p, q = torch.tensor([[0.1, 0.6, 0.3]]).double(), torch.tensor([[0.5, 0.2, 0.3]]).double()
    drafts = torch.tensor(list(itertools.product(range(3), repeat=2)))
    mass = SAMPLERS["without_replacement"].log_prob(q.expand(9, -1), drafts).exp()[None]
    expected = optimal_acceptance(p, q, 2, "without_replacement").value
    for method in ["subsets", "lp", "maxflow", "auto"]:
        bound = optimal_acceptance(p, mass, 2, "joint", method=method, table=drafts)
        assert float((bound.value - expected).abs().max()) <= 1e-9


def test_plan_and_dual_prove_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.softmax(2 * torch.randn(1, 30, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    bound = optimal_acceptance(p, q, (2,), "without_replacement", method="lp")
    plan, dual = bound.plan[0][0], bound.dual[0][0]
    assert plan.mass.min() >= 0
    assert (np.bincount(plan.source, plan.mass) <= plan.sets.mass + 1e-15).all()
    assert (np.bincount(plan.token, plan.mass, 30) <= p[0].numpy() + 1e-15).all()
    assert plan.mass.sum() == pytest.approx(float(bound.value[0, 0]), abs=1e-10)
    assert (dual.u[plan.source] + dual.v[plan.token] >= 1 - 1e-9).all()
    value = dual.u @ plan.sets.mass + dual.v @ p[0].numpy()
    assert value == pytest.approx(float(bound.value[0, 0]), abs=1e-9)


def test_an_infeasible_plan_is_cut_not_believed() -> None:
    problem, *_ = make_problem([0.5, 0.5], [0.75, 0.25], 2, "with_replacement")
    sets = draft_sets(problem, 0, 2)
    source, _ = sets.edges()
    assert feasible_plan(sets, np.array([0.5, 0.5]), np.full(len(source), 9.0)).mass.sum() <= 1.0


def test_large_oracles_against_the_scan() -> None:
    generator = torch.Generator().manual_seed(4)
    for size, method in ((100, "lp"), (1000, "maxflow")):
        p, q = (torch.softmax(2 * torch.randn(1, size, generator=generator, dtype=torch.float64), -1) for _ in range(2))
        for sampler in ("with_replacement", "without_replacement"):
            oracle = optimal_acceptance(p, q, 2, sampler, method=method)
            scan = optimal_acceptance(p, q, 2, sampler)
            assert float(oracle.high - oracle.low) <= 1e-9
            assert float((oracle.value - scan.value).abs().max()) <= 1e-9


def test_twenty_tokens_by_enumeration() -> None:
    generator = torch.Generator().manual_seed(6)
    p, q = (torch.softmax(2 * torch.randn(1, 20, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    for sampler in FAMILY:
        oracle = optimal_acceptance(p, q, (2, 5), sampler, method="subsets")
        assert float((oracle.value - optimal_acceptance(p, q, (2, 5), sampler).value).abs().max()) <= 1e-9


def test_set_masses_sum_to_one() -> None:
    problem, *_ = make_problem([0.2, 0.8, 0.0], [0.0, 1.0, 0.0], 2, "without_replacement")
    assert float(set_masses(problem, 2).sum()) == pytest.approx(1.0, abs=1e-15)


def test_requests_too_large_are_refused_with_their_size() -> None:
    p = torch.full((1, 21), 1 / 21, dtype=torch.float64)
    with pytest.raises(InputError, match=r"2\^21 subsets"):
        optimal_acceptance(p, p, 2, method="subsets")
    p = torch.full((1, 5000), 1 / 5000, dtype=torch.float64)
    with pytest.raises(InputError, match="GB"):
        optimal_acceptance(p, p, 3, method="lp")
    p = torch.full((1, 1100), 1 / 1100, dtype=torch.float64)
    for method in ("lp", "cvxpy"):
        with pytest.raises(InputError, match="1208900 variables"):
            optimal_acceptance(p, p, 2, method=method)


def test_batches_equal_their_rows() -> None:
    generator = torch.Generator().manual_seed(8)
    p, q = (torch.softmax(2 * torch.randn(3, 9, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    several = torch.stack([q, q.flip(-1), q.roll(1, -1)], 1)
    for sampler, draft in (("without_replacement", q), ("independent", several)):
        for method in routes(sampler):
            batch = optimal_acceptance(p, draft, (1, 3), sampler, method=method)
            assert batch.value.shape == batch.low.shape == batch.high.shape == batch.subset_size.shape == (2, 3)
            assert batch.subset.shape == (2, 3, 9)
            for b in range(3):
                one = optimal_acceptance(p[b], draft[b], 3, sampler, method=method)
                assert float((one.value - batch.value[1, b]).abs()) <= 1e-13
                assert bool((one.subset == batch.subset[1, b]).all())


def test_slices_of_rows_do_not_change_an_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(9)
    p, q = (torch.softmax(2 * torch.randn(7, 6, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    whole = optimal_acceptance(p, q, (2, 4), method="subsets")
    monkeypatch.setattr(subsets, "_SLICE", 128)
    monkeypatch.setattr(subsets, "_CHUNK", 100)
    cut = optimal_acceptance(p, q, (2, 4), method="subsets")
    assert float((whole.value - cut.value).abs().max()) <= 1e-15
    assert bool((whole.subset == cut.subset).all())


@pytest.mark.parametrize("method", ["lp", "cvxpy", "maxflow"])
def test_solvers_leave_standard_output_alone(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    optimal_acceptance([0.5, 0.5], [0.75, 0.25], 2, "with_replacement", method=method)
    assert capfd.readouterr().out == ""
