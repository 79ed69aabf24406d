"""The lossy optimum ``min(1, alpha* + tv)``: against a linear programme, attained, and above every rule there is."""

from __future__ import annotations

import dataclasses
import doctest
from typing import Any

import numpy as np
import pytest
import torch
from harness import SHIPPED, draft_rows, real_rows, row
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FAMILY, pairs
from scipy.optimize import linprog
from torch import Tensor

from mdsd_bounds import InputError, acceptance_rate, open_dump, optimal_acceptance, subset_bound, to_probs
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.verifiers import VERIFIERS, Verifier, enumerate_verifier, output_distance
from mdsd_bounds.verifiers.enumeration import draft_tuples
from mdsd_bounds.verifiers.optimal import prepare
from mdsd_bounds.verifiers.schemes import tv_budget
from mdsd_bounds.verifiers.schemes.tv_budget import moved_target, prepare_within
from mdsd_bounds.verifiers.total_variation import total_variation

BUDGETS = (0.0, 0.01, 0.05, 0.2, 0.5)
#: HiGHS accepts violations of 1e-7; in these units they are 1e-13.
SCALE = 1e6


def lossy_programme(p: Tensor, q: Tensor, n: int, sampler: str, tv: float) -> float:
    """Greatest acceptance of any rule whose output distribution p' is within ``tv`` of p, with p' free.

    Variables: mass f[S, i] that a drafted set S sends to its token i, the output distribution p'_i, and the excess
    t_i >= p'_i - p_i.  Maximise ``sum f`` subject to ``sum_i f[S, i] <= m(S)``, ``sum_S f[S, i] <= p'_i``,
    ``sum p' = 1`` and ``sum t <= tv``.
    """
    problem, *_ = make_problem(p, q, n, sampler)
    sets = draft_sets(problem, 0, n)
    source, token = sets.edges()
    edges, size = len(source), len(p)
    count = len(sets.mass)
    limits = np.zeros((count + 2 * size + 1, edges + 2 * size))
    limits[source, np.arange(edges)] = 1.0
    limits[count + token, np.arange(edges)] = 1.0
    at = np.arange(size)
    limits[count + at, edges + at] = -1.0
    limits[count + size + at, edges + at] = 1.0
    limits[count + size + at, edges + size + at] = -1.0
    limits[-1, edges + size :] = 1.0
    right = np.concatenate([sets.mass, np.zeros(size), p.numpy(), [tv]]) * SCALE
    whole = np.concatenate([np.zeros(edges), np.ones(size), np.zeros(size)])[None]
    gain = np.concatenate([-np.ones(edges), np.zeros(2 * size)])
    found = linprog(gain, limits, right, whole, [SCALE], method="highs")
    assert found.status == 0, found.message
    return float(-found.fun / SCALE)


def test_the_lossy_optimum_is_that_of_the_linear_programme() -> None:
    """1,000 random instances; the programme knows nothing of alpha*, subsets or selection rules."""
    generator = np.random.default_rng(18)
    worst = 0.0
    for seed in range(1000):
        size, n = int(generator.integers(2, 6)), int(generator.integers(1, 4))
        sampler, tv = str(generator.choice(FAMILY[:4])), float(generator.choice(BUDGETS))
        p, q = row(size, 2 * seed, 2.0), row(size, 2 * seed + 1, 2.0)
        bound = optimal_acceptance(p, q, n, sampler, method="subsets", tv=tv)
        worst = max(worst, abs(lossy_programme(p, q, n, sampler, tv) - float(bound.value)))
    assert worst <= 1e-9


def test_the_programme_sees_a_wrong_bound() -> None:
    """Twice the budget, or half of it, is another number."""
    p, q = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    alpha = float(optimal_acceptance(p, q, 2, "with_replacement").value)
    assert lossy_programme(p, q, 2, "with_replacement", 0.1) == pytest.approx(alpha + 0.1, abs=1e-9)
    assert abs(lossy_programme(p, q, 2, "with_replacement", 0.2) - (alpha + 0.1)) > 0.05


def check_rule(p: Tensor, q: Tensor, n: int, sampler: str, budget: float, **options: Any) -> None:
    """By enumeration: the output distribution is the moved target, its TV the budget, the acceptance the optimum."""
    found = enumerate_verifier(VERIFIERS["tv_budget"], p, q, n, sampler=sampler, budget=budget, **options)
    best = optimal_acceptance(p, q, n, sampler, method="subsets", tv=budget, **options)
    rule = prepare_within(p, q, n, sampler, budget, **options)
    lossless = prepare(p, q, n, sampler, **options)
    assert float((found.probs - rule.p).abs().max()) <= 1e-12
    spent = float(total_variation(found.probs, p))
    assert spent == pytest.approx(min(budget, float(total_variation(lossless.r, p))), abs=1e-12)
    assert spent == pytest.approx(min(budget, 1.0 - lossless.acceptance), abs=1e-11)
    # The pick alone reaches it to the certified gap; what a residual token adds can only fill that gap.
    assert rule.acceptance <= found.acceptance + 1e-12 <= float(best.high) + 2e-12
    assert float(best.low) - rule.gap - 1e-12 <= rule.acceptance
    rate = acceptance_rate(p, q, n, sampler, "tv_budget", budget=budget, **options)
    assert rate.exact
    assert not rate.lossless
    assert float(rate.value) == pytest.approx(rule.acceptance, abs=1e-12)
    stated = float(output_distance(p, q, n, sampler, "tv_budget", budget=budget, **options))
    assert stated == pytest.approx(spent, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    pair=pairs(smallest=2, largest=5),
    n=st.integers(1, 3),
    sampler=st.sampled_from(FAMILY),
    budget=st.sampled_from([0.0, 1e-9, 0.02, 0.3, 1.0]),
)
def test_the_rule_attains_the_lossy_optimum(pair: tuple[Tensor, Tensor], n: int, sampler: str, budget: float) -> None:
    options = {"m": min(1, n - 1)} if sampler == "top_m_plus" else {}
    check_rule(pair[0][0], pair[1][0], n, sampler, budget, **options)


@pytest.mark.parametrize("sampler", FAMILY)
def test_budgets_at_the_edges(sampler: str) -> None:
    options = {"m": 1} if sampler == "top_m_plus" else {}
    p, q = row(4, 5), draft_rows(sampler, 4, 2, 6)[0]
    lossless = prepare(p, q, 2, sampler, **options)
    short = 1.0 - lossless.acceptance
    for budget in (0.0, short / 2, np.nextafter(short, 0), short, np.nextafter(short, 1), 1.0):
        check_rule(p, q, 2, sampler, float(budget), **options)
    none = prepare_within(p, q, 2, sampler, 0.0, **options)
    assert torch.equal(none.p, p)
    everything = prepare_within(p, q, 2, sampler, 1.0, **options)
    assert torch.equal(everything.p, lossless.r)
    assert everything.acceptance == pytest.approx(1.0, abs=1e-14)
    # Equal distributions: alpha* = 1, there is nothing to buy and nothing is spent.
    same = prepare_within(p, p, 2, "with_replacement", 0.3)
    assert float(total_variation(same.p, p)) <= 1e-14
    assert same.acceptance == pytest.approx(1.0, abs=1e-14)


def random_rule(seed: int) -> Verifier:
    """A rule without any sense: for every draft tuple some output distribution, here and there on the drafts alone."""

    def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Any) -> Tensor:
        distributions = []
        for draft in drafts.tolist():
            generator = torch.Generator().manual_seed(hash((seed, *draft)) % 2**31)
            weights = torch.rand(p.shape[-1], generator=generator, dtype=torch.float64) ** 4 + 1e-9
            drafted = [x for x in draft if x >= 0]
            share = float(torch.rand((), generator=generator))
            weights = weights / weights.sum() * (1 - share)
            weights[drafted[0]] += share / 2
            weights[drafted[-1]] += share / 2
            distributions.append(weights)
        return torch.stack(distributions)

    return Verifier("nonsense", "", False, tuple(FAMILY), output_distribution)


def test_no_rule_lies_above_the_line() -> None:
    """Random rules, and the known ones with their own distances, enumerated: acceptance <= alpha* + TV, always."""
    closest = 1.0
    for seed in range(150):
        size, n = 2 + seed % 4, 1 + seed % 3
        sampler = FAMILY[seed % 4]
        p, q = row(size, seed), row(size, seed + 1000)
        alpha = float(optimal_acceptance(p, q, n, sampler, method="subsets").high)
        fitting = [rule for rule in VERIFIERS.values() if sampler in rule.samplers and rule.drafts_needed in (None, n)]
        for rule in (random_rule(seed), *(rule for rule in fitting if not rule.lossless)):
            found = enumerate_verifier(rule, p, q, n, sampler=sampler)
            slack = alpha + float(total_variation(found.probs, p)) - found.acceptance
            assert slack >= -1e-12, (rule.name, seed)
            closest = min(closest, slack)
    assert closest <= 1e-9


def test_a_rule_that_moves_the_wrong_way_is_seen() -> None:
    """Moved towards q instead of r, as the rule once did: the budget is kept, the optimum is missed."""
    p, q = row(4, 5), row(4, 6)
    lossless = prepare(p, q, 2, "with_replacement")
    wrong = dataclasses.replace(lossless, p=moved_target(p, q, 0.05))
    assert float(total_variation(wrong.p, p)) == pytest.approx(0.05, abs=1e-12)
    assert wrong.acceptance < lossless.acceptance + 0.05 - 1e-3


def test_shipped_rows() -> None:
    (batch,) = open_dump(SHIPPED).batches(32)
    p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    for sampler, mean in (("with_replacement", 0.96775), ("greedy", 0.97517)):
        rate = acceptance_rate(p, q, 4, sampler, "tv_budget", budget=0.05)
        best = optimal_acceptance(p, q, 4, sampler, tv=0.05)
        alone = optimal_acceptance(p, q, 4, sampler)
        assert float(rate.value.mean()) == pytest.approx(mean, abs=5e-6)
        assert float((rate.value - (alone.value + 0.05).clamp(max=1.0)).abs().max()) <= 1e-9
        assert bool((rate.value >= best.low - 1e-9).all() and (rate.value <= best.high + 1e-9).all())
        assert float((subset_bound(best) - best.high).abs().max()) <= 1e-7
        spent = output_distance(p, q, 4, sampler, "tv_budget", budget=0.05)
        assert float((spent - (1.0 - alone.value).clamp(max=0.05)).abs().max()) <= 1e-9


@pytest.mark.parametrize("warp", [{"top_k": 20}, {"top_p": 0.9}, {"temperature": 0.3}, {"top_k": 1}])
@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy"])
def test_truncated_real_rows(warp: dict[str, Any], sampler: str) -> None:
    (batch,) = open_dump(SHIPPED).batches(4, start=22, stop=26)
    p, q = to_probs(batch.target_logits, **warp), to_probs(batch.draft_logits, **warp)
    for budget in (0.02, 1.0):
        for b in range(len(p)):
            rule = prepare_within(p[b], q[b], 3, sampler, budget)
            best = optimal_acceptance(p[b], q[b], 3, sampler, tv=budget)
            assert float(best.low) - rule.gap - 1e-9 <= rule.acceptance <= float(best.high) + 1e-9
            assert float(total_variation(rule.p, p[b])) <= budget + 1e-12
            assert float(rule.p.sum()) == pytest.approx(1.0, abs=1e-12)
            assert float(rule.p.min()) >= 0.0


def test_steps_follow_the_rule_on_a_real_row() -> None:
    p, q = real_rows(24, 1)
    rule = prepare_within(p[0], q[0], 2, "with_replacement", 0.05)
    generator = torch.Generator().manual_seed(0)
    drafts = torch.multinomial(q[0], 40_000, replacement=True, generator=generator).reshape(-1, 2)
    token, accepted = VERIFIERS["tv_budget"].step(
        p.expand(len(drafts), -1), q.expand(len(drafts), -1), drafts, generator, sampler="with_replacement", budget=0.05
    )
    error = (rule.acceptance * (1 - rule.acceptance) / len(drafts)) ** 0.5
    assert float(accepted.double().mean()) == pytest.approx(rule.acceptance, abs=4 * error)
    top = rule.p.topk(5).indices
    seen = (token[:, None] == top).double().mean(0)
    assert bool(((seen - rule.p[top]).abs() <= 4.5 * (rule.p[top] / len(token)) ** 0.5).all())


@pytest.mark.parametrize("budget", [-0.1, 1.5, float("nan"), "much", None, True])
def test_a_budget_that_is_none(budget: Any) -> None:
    p, q = row(4, 1), row(4, 2)
    with pytest.raises(InputError, match=r"tv_budget: budget=.*; give a total variation in \[0, 1\]"):
        acceptance_rate(p, q, 2, "with_replacement", "tv_budget", budget=budget)
    with pytest.raises(InputError, match=r"tv=.*; give a total variation in \[0, 1\]"):
        optimal_acceptance(p, q, 2, tv=budget)


def test_samplers_without_an_optimal_rule() -> None:
    p, q = row(4, 1), torch.stack([row(4, 2), row(4, 3)])
    with pytest.raises(InputError, match=r"'tv_budget' is not made for the sampler 'independent'; use one of with_rep"):
        acceptance_rate(p, q, 2, "independent", "tv_budget")
    # Its bound is known all the same.
    alone, within = (optimal_acceptance(p, q, 2, "independent", tv=tv) for tv in (0.0, 0.02))
    assert float(within.value) == pytest.approx(float(alone.value) + 0.02, abs=1e-12)
    assert within.tv == 0.02


def test_shapes_and_certificates_of_a_bound_within_a_distance() -> None:
    p, q = torch.stack([row(6, s) for s in range(3)]), torch.stack([row(6, s + 9) for s in range(3)])
    bound = optimal_acceptance(p, q, (1, 2), "with_replacement", tv=0.3)
    assert bound.value.shape == (2, 3)
    assert bound.tv == 0.3
    assert float(bound.high.max()) <= 1.0
    assert torch.allclose(subset_bound(bound), bound.value, atol=1e-9)
    assert float(optimal_acceptance(p[0], q[0], 1, tv=1.0).value) == 1.0


def test_examples() -> None:
    assert doctest.testmod(tv_budget).failed == 0


def test_draft_tuples_of_the_programme_sum_to_one() -> None:
    """The programme's own input, checked apart from it."""
    q = row(5, 3)
    for sampler in FAMILY[:4]:
        assert float(draft_tuples(q[None], 3, 5, sampler=sampler)[1].sum()) == pytest.approx(1.0, abs=1e-12)
