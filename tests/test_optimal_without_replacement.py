"""The optimal rule without replacement on awkward and on real rows, and the bins of wide ones by enumeration."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import losslessness_defect, row
from hypothesis import given, settings
from hypothesis import strategies as st
from orders_by_enumeration import KINDS, drafted, instance
from problems import pairs
from scipy import stats
from test_optimal_orders import errors
from torch import Tensor

from mdsd_bounds import SAMPLERS, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.bounds.search.exponential_race import race_prefix_mass
from mdsd_bounds.samplers.one_position import draw_many_without
from mdsd_bounds.verifiers import Verifier
from mdsd_bounds.verifiers.optimal import PreparedBatch, prepare
from mdsd_bounds.verifiers.optimal.batch_step import flatten
from mdsd_bounds.verifiers.optimal.order_tree import best_side
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityMixture
from mdsd_bounds.verifiers.optimal.whole_support import token_items
from mdsd_bounds.verifiers.optimal.wide_rows import Size, scaled, wide_row
from mdsd_bounds.verifiers.optimal.without_replacement import edge_of, rule_of


def defect(prepared: Prepared, p: Tensor, q: Tensor, n: int, m: int = 0) -> float:
    rule = Verifier("orders", "", True, ("top_m_plus",), lambda p, q, drafts, **_: prepared.output_distribution(drafts))
    return losslessness_defect(rule, p, q, n, "top_m_plus", m=m)


def assert_right(prepared: Prepared, p: Tensor, q: Tensor, n: int, m: int = 0, gap: float = 1.0) -> None:
    """Lossless, below the optimum over all subsets, and within an honest gap of it."""
    assert defect(prepared, p, q, n, m) <= 1e-12
    best = float(optimal_acceptance(p, q, n, "top_m_plus", m=m, method="subsets").value)
    assert best - prepared.gap - 1e-14 <= prepared.acceptance <= best + 1e-12
    assert prepared.gap <= gap


@settings(max_examples=60, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(1, 4), m=st.integers(0, 2))
def test_awkward_small_rows(pair: tuple[Tensor, Tensor], n: int, m: int) -> None:
    p, q = pair[0][0], pair[1][0]
    assert_right(prepare(p, q, n, "top_m_plus", m=m), p, q, n, m, gap=1e-7)


@pytest.mark.parametrize(("size", "n", "m"), [(10, 2, 0), (10, 3, 0), (10, 4, 0), (9, 4, 1), (8, 5, 2)])
def test_within_1e_7_up_to_ten_tokens(size: int, n: int, m: int) -> None:
    for seed in range(3):
        p, q = row(size, seed), row(size, seed + 30)
        prepared = prepare(p, q, n, "top_m_plus", m=m)
        best = optimal_acceptance(p, q, n, "top_m_plus", m=m)
        assert float(best.low) - 1e-7 <= prepared.acceptance <= float(best.high)
        assert prepared.gap <= 1e-7
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-14)


def binned(p: np.ndarray, q: np.ndarray, fixed: int, draws: int, size: Size) -> Prepared:
    """The rule with next to no items of one token."""
    held = np.array([bool(fixed >> i & 1) for i in range(len(p))])
    rates = np.where(held, 0.0, q)
    rates /= rates.sum()
    inside = (rates > 0) | held
    left = np.zeros(len(p), dtype=bool)
    left[inside] = best_side(token_items(rates[inside], held[inside], draws), p[inside])
    rates = scaled(rates, draws)
    found = wide_row(p, rates, (held, edge_of(left, p, rates)), draws, size)
    rule = rule_of(found, np.zeros(0, np.int32))
    return Prepared(torch.from_numpy(p), torch.from_numpy(found.r), found.gap, rule)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "n", "m"), [(6, 2, 0), (7, 3, 0), (8, 5, 0), (6, 2, 1), (7, 3, 2)])
def test_bins_by_enumeration(kind: str, size: int, n: int, m: int) -> None:
    # Bins far too wide: what is lost is stated, and r is still that of the rule that runs.
    rng = np.random.default_rng(size)
    for _ in range(10):
        p, q = instance(kind, size, rng)
        fixed = sum(1 << int(i) for i in np.argsort(-q, kind="stable")[:m] if q[i] > 0)
        if sum(q[i] > 0 and not fixed >> i & 1 for i in range(size)) <= n:
            continue
        rule = binned(p, q, fixed, n, Size(singles=0, bins=2, most_bins=2, trees=1))
        found = errors(rule, p, drafted(q[:, None], n, fixed), n + m)
        assert max(found["r"], found["output"], found["sum"]) <= 1e-13
        assert found["acceptance"] <= rule.gap + 1e-14


def test_further_trees_by_enumeration() -> None:
    # Bins far too wide again: a mixture of trees loses less, states it, and its r is that of what runs.
    rng, mixtures, before, after = np.random.default_rng(2), 0, 0.0, 0.0
    size = Size(singles=0, bins=3, most_bins=3, shared_bins=3, refine=1e-9)
    for kind in KINDS * 3:
        for tokens, n, m in ((7, 2, 0), (8, 3, 0), (8, 5, 0), (7, 2, 1), (8, 3, 2)):
            p, q = instance(kind, tokens, rng)
            fixed = sum(1 << int(i) for i in np.argsort(-q, kind="stable")[:m] if q[i] > 0)
            if sum(q[i] > 0 and not fixed >> i & 1 for i in range(tokens)) <= n:
                continue
            rule = binned(p, q, fixed, n, size)
            found = errors(rule, p, drafted(q[:, None], n, fixed), n + m)
            assert max(found["r"], found["output"], found["sum"]) <= 1e-13
            assert found["acceptance"] <= rule.gap + 1e-14
            mixtures += isinstance(rule.rule, PriorityMixture)
            before += binned(p, q, fixed, n, dataclasses.replace(size, trees=1)).gap
            after += rule.gap
    assert mixtures >= 25
    assert after < 0.6 * before


def test_picks_and_steps_of_further_trees() -> None:
    rng = np.random.default_rng(4)
    p, other, q = rng.dirichlet(np.ones(9), 3)
    trees = [binned(x, q, 0, 3, Size(singles=0, bins=3, most_bins=3, trees=1)) for x in (p, other)]
    r = 0.7 * trees[0].r + 0.3 * trees[1].r
    mixture = PriorityMixture(np.array([0.7, 0.3]), tuple(x.rule for x in trees))  # type: ignore[misc]
    rule = Prepared(trees[0].p, r, 1.0, mixture)
    assert float((trees[0].r - trees[1].r).abs().sum()) > 0.1
    drafts = SAMPLERS["without_replacement"].sample(
        torch.from_numpy(q).expand(60_000, -1), 3, torch.Generator().manual_seed(0)
    )
    slots = rule.pick(drafts, torch.Generator().manual_seed(1))
    picked = torch.bincount(drafts.gather(1, slots[:, None])[:, 0], minlength=9)
    assert stats.chisquare(picked.numpy(), len(drafts) * rule.r.numpy()).pvalue > 1e-4
    # A batch picks from the same trees: its acceptance is theirs, and its output follows p.
    again = pickle.loads(pickle.dumps(rule))
    rows = (rule, again) * (len(drafts) // 2)
    batch = PreparedBatch(rows, flatten(rows))
    assert batch.flat is not None
    tokens = batch.step(drafts, torch.Generator().manual_seed(2))
    assert stats.chisquare(torch.bincount(tokens, minlength=9).numpy(), len(drafts) * p).pvalue > 1e-4
    assert "with probability 0.3" in rule.rule.summary()


def test_a_row_that_one_tree_serves_badly() -> None:
    # Flat rows of 3,000 tokens with few values of p/q, where a bin holds tokens of very different q.
    rng = np.random.default_rng(7)
    q = rng.dirichlet(np.full(3000, 0.3))
    p = q * rng.integers(1, 10, 3000)
    pair = torch.from_numpy(p / p.sum()), torch.from_numpy(q)
    for n in (4, 8):
        prepared = prepare(*pair, n)
        best = optimal_acceptance(*pair, n)
        assert float(best.low) - prepared.gap <= prepared.acceptance <= float(best.high) + 1e-12
        assert prepared.gap <= 2e-6


def test_light_tokens_share_bins_by_enumeration() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 4):
        p, q = rng.dirichlet(np.ones(14), 2)
        q[5:] *= 0.02
        q /= q.sum()
        rule = binned(p, q, 0, n, Size(singles=1, bins=3, most_bins=3, trees=1))
        assert bool((np.bincount(rule.rule.item) > 1).any())  # type: ignore[attr-defined]
        found = errors(rule, p, drafted(q[:, None], n), n)
        assert max(found["r"], found["output"], found["sum"]) <= 1e-14
        assert found["acceptance"] <= rule.gap


@pytest.mark.parametrize("n", [2, 3, 8])
def test_r_from_the_masses_of_prefixes(n: int) -> None:
    # A second way to r for supports that cannot be listed: Q of nested sets by the bound's own integral.
    p, q = row(60, 3), row(60, 8)
    found = prepare(p, q, n, "without_replacement")
    tree = found.rule.tree  # type: ignore[attr-defined]
    at = np.argsort(tree.place)
    r, reached, ends = np.zeros(60), np.ones(len(tree.coin)), np.full(len(tree.coin), 60)
    for node, (start, cut, lower, coin) in enumerate(zip(tree.start, tree.cut, tree.lower, tree.coin, strict=True)):
        end = ends[node]
        if coin > 0:
            rank = tree.rank[tree.offset[node] : tree.offset[node] + end - start]
            order = np.concatenate([at[:start], at[start:end][np.argsort(rank)], at[end:]])
            mass = np.diff(race_prefix_mass(q[torch.from_numpy(order)][None], [n])[0][0, 0].numpy())
            r[order[start:end]] += reached[node] * coin * mass[start:end]
        if cut >= 0:
            for child, stop in ((lower, cut), (lower + 1, end)):
                if stop > (start if child == lower else cut):
                    ends[child], reached[child] = stop, reached[node] * (1 - coin)
    np.testing.assert_allclose(r, found.r.numpy(), atol=1e-11)
    assert found.gap <= 1e-9


@pytest.fixture(scope="module")
def real_rows() -> tuple[Tensor, Tensor]:
    dump = open_dump("data/qwen2.5-coder-humaneval")
    (batch,) = dump.batches(len(dump))
    # One even distribution and one peaked one.
    return to_probs(batch.target_logits[[24, 0]]), to_probs(batch.draft_logits[[24, 0]])


@pytest.mark.parametrize(("n", "m"), [(2, 0), (3, 0), (8, 0), (3, 1)])
def test_real_rows_full_vocabulary(real_rows: tuple[Tensor, Tensor], n: int, m: int) -> None:
    for p, q in zip(*real_rows, strict=True):
        prepared = prepare(p, q, n, "top_m_plus", m=m)
        best = optimal_acceptance(p, q, n, "top_m_plus", m=m)
        assert float(best.low) - prepared.gap <= prepared.acceptance <= float(best.high) + 1e-12
        assert prepared.gap <= 2e-6
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-12)


def test_picks_at_full_vocabulary_follow_r(real_rows: tuple[Tensor, Tensor]) -> None:
    p, q = real_rows[0][0], real_rows[1][0]
    prepared = prepare(p, q, 3, "without_replacement")
    generator = torch.Generator().manual_seed(1)
    drafts = draw_many_without(q, 3, 20_000, generator)
    chance = prepared.pick_distribution(drafts)
    for i in q.topk(6).indices.tolist():
        hits = (chance * (drafts == i)).sum(-1)
        assert abs(float(hits.mean() - prepared.r[i])) <= 4.5 * float(hits.std()) / 20_000**0.5
    slots = prepared.pick(drafts, generator)
    assert bool((chance.gather(-1, slots[:, None]) > 0).all())


WIDE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "three ratios": (lambda u: (3 * u).ceil(), torch.ones_like),
    "equal distributions": (lambda u: u, lambda u: u),
    "disjoint": (lambda u: u * (torch.arange(len(u)) < 50), lambda u: u * (torch.arange(len(u)) >= 50)),
    "zeros in both": (lambda u: u * (u > 0.5), lambda u: u * (u < 0.7)),
    "one-hot p": (lambda u: 1.0 * (torch.arange(len(u)) == 7), lambda u: u),
    "one-hot q": (lambda u: u, lambda u: 1.0 * (torch.arange(len(u)) == 7)),
    "two tokens in q": (lambda u: u, lambda u: 1.0 * (torch.arange(len(u)) < 2)),
    "q near 1e-15": (lambda u: u, lambda u: torch.where(torch.arange(len(u)) == 7, 1.0, 1e-15 * u)),
    "subnormal rest": (lambda u: u, lambda u: torch.where(torch.arange(len(u)) == 7, 1.0, 1e-318 * u)),
    "twelve decades": (lambda u: (28 * u).exp(), lambda u: (28 * u.roll(5)).exp()),
}


@pytest.mark.parametrize("name", WIDE)
def test_adversarial_wide_rows(name: str) -> None:
    u = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = (make(u).double() for make in WIDE[name])
    p, q = p / p.sum(), q / q.sum()
    for n, options in ((2, {}), (5, {}), (4, {"m": 1})):
        prepared = prepare(p, q, n, "top_m_plus" if options else "without_replacement", **options)
        best: Any = optimal_acceptance(p, q, n, "top_m_plus", **(options or {"m": 0}))
        assert float(best.low) - prepared.gap - 1e-9 <= prepared.acceptance <= float(best.high) + 1e-12
        # One ratio for all tokens is what bins are worst at, with a fixed token above all.
        assert prepared.gap <= 2e-4
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.3, 0.3, 0.4], [0.0, 0.9, 0.1]),  # both tokens are always drafted
        ([0.15, 0.25, 0.15, 0.45], [0.05, 0.85, 0.05, 0.05]),
    ],
)
def test_the_search_does_not_come_back_to_where_it_was(p: list[float], q: list[float]) -> None:
    # A step may lessen the loss and raise the objective; if it were taken, the next would undo it, for ever.
    distributions = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    found = prepare(*distributions, 2, "without_replacement")
    assert found.gap < 1e-10
    assert found.acceptance == pytest.approx(
        float(optimal_acceptance(*distributions, 2, method="subsets").value), abs=1e-10
    )


@pytest.mark.parametrize("rest", [1e-2, 1e-6, 1e-9, 1e-12, 1e-15, 1e-30])
@pytest.mark.parametrize("size", [5, 9, 100, 300])
def test_one_token_takes_nearly_all_of_the_draft(size: int, rest: float) -> None:
    generator = np.random.default_rng(size)
    for _ in range(8 if size < 10 else 1):
        p, q = (generator.dirichlet(np.ones(size)) for _ in range(2))
        q *= rest
        q[generator.integers(size)] += 1.0 - rest
        distributions = torch.from_numpy(p), torch.from_numpy(q / q.sum())
        for n in (2, 3) if size < 10 else (2,):
            found = prepare(*distributions, n, "without_replacement")
            bound = optimal_acceptance(*distributions, n, "without_replacement")
            assert found.gap < 1e-7
            assert float(bound.low) <= found.acceptance + found.gap
            assert found.acceptance <= float(bound.high) + 1e-12


def test_sixty_four_drafts() -> None:
    p, q = (torch.from_numpy(x) for x in np.random.default_rng(0).dirichlet(np.ones(100), 2))
    rule = prepare(p, q, 64)
    assert rule.gap <= 1e-9
    assert float(rule.r.sum()) == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_nine_ratios_over_three_thousand_tokens(n: int) -> None:
    # A bin of one ratio holds tokens of different q, whose r is not in proportion to q: some 1e-5 is lost, and stated.
    p, q = (torch.from_numpy(x / x.sum()) for x in np.random.default_rng(0).integers(1, 4, (2, 3000)).astype(float))
    rule = prepare(p, q, n)
    best = optimal_acceptance(p, q, n, "without_replacement")
    assert rule.gap <= (1e-9 if n == 2 else 1e-4)
    assert float(best.value) - rule.acceptance <= rule.gap + 1e-9
