"""Four independent routes to alpha*: prefix scan, all subsets, linear programmes, maximum flow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CATALOGUE, Known, pairs
from torch import Tensor

from mdsd_bounds import SAMPLERS, InputError, optimal_acceptance
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.draft_sets import draft_sets
from mdsd_bounds.bounds.lp import feasible_plan
from mdsd_bounds.bounds.subsets import set_masses

FAMILY = ["with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus"]
ORACLES = ["subsets", "lp", "maxflow", "cvxpy"]


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


@pytest.mark.parametrize("known", CATALOGUE, ids=lambda known: known.name)
@pytest.mark.parametrize("method", ["prefix", *ORACLES])
def test_catalogue(known: Known, method: str) -> None:
    bound = optimal_acceptance(known.p, known.q, known.n, known.sampler, method=method)
    assert float(bound.value) == pytest.approx(known.alpha, abs=1e-9)
    assert float(bound.low) <= known.alpha + 1e-15
    assert float(bound.high) >= known.alpha - 1e-15
    # The subset may differ where several attain the minimum, but it must attain it.
    problem, *_ = make_problem(known.p, known.q, known.n, known.sampler)
    sets = draft_sets(problem, 0, known.n)
    for subset in (bound.subset.numpy(), np.isin(np.arange(len(known.p)), list(known.subset))):
        assert 1 + np.array(known.p)[subset].sum() - sets.inside(subset) == pytest.approx(known.alpha, abs=1e-9)


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


@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=6), others=st.lists(pairs(6, 6), min_size=2, max_size=2), n=st.integers(1, 3))
def test_different_drafters(pair: tuple[Tensor, Tensor], others: list[tuple[Tensor, Tensor]], n: int) -> None:
    p, size = pair[0], pair[0].shape[1]
    q = torch.stack([pair[1], *(other[1][:, :size] for other in others)], 1)
    q[..., 0] += 1e-3
    q = q / q.sum(-1, keepdim=True)
    bound = optimal_acceptance(p, q, n, "independent")
    reference = optimal_acceptance(p, q, n, "independent", method="subsets")
    assert float(bound.low) <= float(reference.high)
    assert float(bound.high) >= float(reference.low)
    assert float(bound.high - bound.low) <= 1e-6
    flow = optimal_acceptance(p, q, n, "independent", method="maxflow")
    assert float((flow.value - reference.value).abs().max()) <= 1e-9


def test_different_drafters_at_scale() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 20_000, generator=generator, dtype=torch.float64)
    p, q = torch.softmax(logits, -1), torch.softmax(logits + 0.7 * noise, -1)
    bound = optimal_acceptance(p, q, (2, 3), "independent")
    assert float((bound.high - bound.low).max()) <= 1e-6
    same = optimal_acceptance(p, q[:1].repeat(3, 1), 3, "independent")
    assert float(same.value) == pytest.approx(float(optimal_acceptance(p, q[0], 3, "with_replacement").value), abs=1e-9)


def test_joint_law_equals_the_sampler_it_tabulates() -> None:
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
