"""The optimal rule with replacement: attained, certified, lossless on every kind of row; broken rules must fail."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from exchange_oracle import solve_exchanges
from harness import losslessness_defect, real_rows, row
from hypothesis import given, settings
from hypothesis import strategies as st
from priority_orders_oracle import order_tree_pick
from problems import pairs
from scipy import stats
from torch import Tensor

from mdsd_bounds import SAMPLERS, optimal_acceptance
from mdsd_bounds.verifiers import Verifier, optimal
from mdsd_bounds.verifiers.enumeration import draft_tuples
from mdsd_bounds.verifiers.optimal import with_replacement as rules
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.with_replacement import ExchangeRule, prepare_with_replacement

#: How many drafted tokens are listed one by one: all, or none, so that rows of any width go through cells.
ROUTES = {"few": 1 << 30, "many": 0}


def made(p: Tensor, q: Tensor, n: int, route: str = "few") -> Prepared:
    with mock.patch.object(rules, "FEW", ROUTES[route]):
        prepared = prepare_with_replacement(p, q, n)
    return dataclasses.replace(prepared, n=n)


def rule_of(prepared: Prepared) -> ExchangeRule:
    assert isinstance(prepared.rule, ExchangeRule)
    return prepared.rule


def row_of(weights: Any) -> Tensor:
    weights = torch.as_tensor(weights).double()
    distribution: Tensor = weights / weights.sum()
    return distribution


def close_pair(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Distributions near each other, as those of two models of one family: there is much to exchange."""
    q = row(size, seed, 2.5)
    return torch.softmax(q.log() + 0.4 * row(size, seed + 1, 1.0).log(), -1), q


def check_exchanges(prepared: Prepared) -> None:
    """The exchanges are valid: intervals keep their mass, and none mixes tokens that gain with some that lose."""
    rule, p, q = rule_of(prepared), prepared.p.numpy(), rule_of(prepared).q.numpy()
    drafted = np.flatnonzero(q > 0)
    assert (rule.interval[drafted] > 0).all()
    assert (rule.interval[q == 0] == 0).all()
    for part in np.array_split(drafted, 1 + len(drafted) * len(rule.tables.draft) // 2_000_000):
        shares = rule.shares(part)
        assert shares.min(initial=0.0) >= 0.0
        np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-14)
    if len(drafted) * len(rule.tables.draft) <= 2_000_000:
        mass = (q[drafted] / q.sum()) @ rule.shares(drafted)
        np.testing.assert_allclose(mass, rule.tables.draft, atol=1e-14)
    with np.errstate(over="ignore", under="ignore"):
        ratio = p[drafted] / q[drafted]
        own = rule.interval[drafted]
        worth = rule.tables.worth[own]
        slack = 1e-13 * worth
        above, below = (np.bincount(own, side) > 0 for side in (ratio > worth + slack, ratio < worth - slack))
    assert not (above & below).any()
    # Priorities rise with p/q.
    order = np.argsort(own, kind="stable")
    highest = np.maximum.accumulate(ratio[order])
    first = np.flatnonzero(np.diff(own[order], prepend=0))[1:]
    assert (ratio[order][first] >= highest[first - 1] * (1 - 1e-15)).all()


# --- attained, certified, lossless ------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=80, deadline=None)
@given(pair=pairs(largest=8), n=st.integers(1, 9))
def test_it_attains_the_bound(route: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0], pair[1][0]
    prepared = made(p, q, n, route)
    best = float(optimal_acceptance(p, q, n, "with_replacement", method="subsets").value)
    assert prepared.acceptance == pytest.approx(best, abs=1e-13)
    assert 0.0 <= prepared.gap <= 1e-12
    check_exchanges(prepared)


def small_instance(generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rows of 2 to 6 tokens: apart, near each other, equal, tied, truncated, or over 60 decades."""
    size = int(generator.integers(2, 7))
    p, q = (generator.dirichlet(np.full(size, generator.choice([0.1, 1.0, 10.0]))) for _ in range(2))
    kind = generator.integers(7)
    if kind == 0:
        q = p * np.exp(0.3 * generator.standard_normal(size))
    elif kind == 1:
        q = p.copy()
    elif kind == 2:
        p, q = (1.0 + generator.integers(0, 3, size) for _ in range(2))
    elif kind == 3:
        p, q = (x * np.append(True, generator.random(size - 1) < 0.6) for x in (p, q))
    elif kind == 4:
        q = np.exp(-138 * generator.random(size))
    elif kind == 5:
        p = np.exp(-138 * generator.random(size))
    return row_of(p), row_of(q)


@pytest.mark.parametrize("route", ROUTES)
def test_enumeration_gives_r_and_the_target(route: str) -> None:
    generator = np.random.default_rng(7)
    for _ in range(150):
        (p, q), n = small_instance(generator), int(generator.integers(1, 5))
        prepared = made(p, q, n, route)
        tuples, mass = draft_tuples(q[None], n, len(p), sampler="with_replacement")
        chance = prepared.pick_distribution(tuples)
        picked = torch.bincount(tuples.reshape(-1), (mass[:, None] * chance).reshape(-1), len(p))
        assert float((picked - prepared.r).abs().max()) <= 1e-13
        assert float(((mass[:, None] * prepared.output_distribution(tuples)).sum(0) - p).abs().max()) <= 1e-13


@pytest.mark.parametrize(("size", "n"), [(8, 6), (3, 9)])
def test_enumeration_with_more_drafts(size: int, n: int) -> None:
    p, q = close_pair(size, 5)
    prepared = made(p, q, n)
    assert len(rule_of(prepared).tables.low) > 0
    tuples, mass = draft_tuples(q[None], n, size, sampler="with_replacement")
    assert float(((mass[:, None] * prepared.output_distribution(tuples)).sum(0) - p).abs().max()) <= 1e-13


@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=7), n=st.integers(1, 8))
def test_one_interval_a_token_attains_the_same(pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0], pair[1][0]
    exchanges, prepared = solve_exchanges(p.numpy(), q.numpy(), n), made(p, q, n)
    assert np.minimum(p.numpy()[exchanges.order], exchanges.r).sum() == pytest.approx(prepared.acceptance, abs=1e-13)
    assert min(1.0, exchanges.bound) == pytest.approx(prepared.acceptance + prepared.gap, abs=1e-12)


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60, deadline=None)
@given(pair=pairs(largest=7), n=st.integers(1, 8))
def test_a_tree_of_priority_orders_attains_the_same(route: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0], pair[1][0]
    r, first = order_tree_pick(p.numpy(), q.numpy(), n)
    prepared = made(p, q, n, route)
    assert float(r.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(np.minimum(p.numpy(), r).sum()) == pytest.approx(prepared.acceptance, abs=1e-11)
    # What all optimal picks share: the probability of the set H, r >= p on it and r <= p off it.
    assert float(r[first].sum()) == pytest.approx(float(prepared.r[first].sum()), abs=1e-11)


# --- rows of every kind -----------------------------------------------------------------------------------------------

SIZE = 9000


def uniform(g: torch.Generator) -> Tensor:
    return torch.rand(SIZE, generator=g, dtype=torch.float64)


def peak(place: int, rest: float) -> Tensor:
    return torch.where(torch.arange(SIZE) == place, 1.0, torch.tensor(rest, dtype=torch.float64))


def priority(g: torch.Generator, n: int = 5) -> tuple[Tensor, Tensor]:
    """p is what plain priority picks: p/q and G follow each other token by token."""
    q = row_of(uniform(g))
    edge = torch.cat([torch.zeros(1), q.cumsum(0)]).double()
    return (edge[1:] ** n - edge[:-1] ** n) * (1 + 1e-9 * torch.randn(SIZE, generator=g)), q


ADVERSARIAL: dict[str, Callable[[torch.Generator], tuple[Tensor, Tensor]]] = {
    "three ratios": lambda g: (torch.randint(1, 4, (SIZE,), generator=g), torch.ones(SIZE)),
    "all ratios equal": lambda g: ((u := uniform(g)), 3 * u),
    "equal": lambda g: ((u := uniform(g)), u.clone()),
    "ratios a rounding apart": lambda g: ((u := uniform(g)) * (1 + 3e-16 * uniform(g).round()), u),
    "ratios 1e-9 apart": lambda g: ((u := uniform(g)) * (1 + 1e-9 * uniform(g)), u),
    "zeros in both": lambda g: (uniform(g) * (uniform(g) > 0.5), uniform(g) * (uniform(g) > 0.5)),
    "disjoint": lambda g: (uniform(g) * (torch.arange(SIZE) < 50), uniform(g) * (torch.arange(SIZE) >= 50)),
    "one-hot q": lambda g: (uniform(g), peak(7, 0.0)),
    "one-hot p": lambda g: (peak(7, 0.0), uniform(g)),
    "both one-hot, equal": lambda g: (peak(7, 0.0), peak(7, 0.0)),
    "both one-hot, apart": lambda g: (peak(7, 0.0), peak(8, 0.0)),
    "q near 1e-15": lambda g: (uniform(g), peak(7, 1e-15)),
    "p near 1e-15": lambda g: (peak(7, 1e-15), uniform(g)),
    "two tokens in q": lambda g: (uniform(g), 1.0 * (torch.arange(SIZE) < 2)),
    "subnormal q": lambda g: (uniform(g), peak(7, 5e-324)),
    "subnormal p": lambda g: (peak(7, 5e-324), uniform(g)),
    "both subnormal": lambda g: (peak(7, 5e-324), peak(8, 1e-310)),
    "sixty decades": lambda g: ((-138 * uniform(g)).exp(), (-138 * uniform(g)).exp()),
    "six hundred decades": lambda g: ((-700 * uniform(g)).exp(), (-700 * uniform(g)).exp()),
    "nearly equal": lambda g: ((u := uniform(g)) * (1 + 0.01 * uniform(g)), u),
    "plain priority": priority,
    "made in float32": lambda g: tuple(torch.softmax(4 * torch.randn(2, SIZE, generator=g), -1)),  # type: ignore[return-value]
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(name: str, route: str) -> None:
    p, q = (row_of(x) for x in ADVERSARIAL[name](torch.Generator().manual_seed(0)))
    best = optimal_acceptance(p, q, (2, 5, 8, 64), "with_replacement", method="prefix")
    for i, n in enumerate((2, 5, 8, 64)):
        with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
            warnings.simplefilter("error")
            prepared = made(p, q, n, route)
            check_exchanges(prepared)
        assert abs(prepared.acceptance - float(best.value[i])) <= 1e-11
        assert 0.0 <= prepared.gap <= (1e-12 if n <= 8 else 3e-12)
        assert prepared.acceptance + prepared.gap >= float(best.low[i])
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-13)
        assert float(prepared.r[q == 0].sum()) == 0.0
        drafts = SAMPLERS["with_replacement"].sample(q.expand(50, -1), n, torch.Generator().manual_seed(n))
        token = prepared.step(drafts, torch.Generator().manual_seed(1))
        assert bool((p[token] > 0).all())


def truncated(x: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    x = torch.softmax(x.log() / temperature, -1)
    value, token = x.sort(descending=True)
    kept = token[:top_k][(value.cumsum(0) - value)[:top_k] < top_p]
    return row_of(torch.zeros_like(x).index_put((kept,), x[kept]))


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"),
    [(20, 1.0, 1.0), (50, 1.0, 0.6), (100, 1.0, 1.0), (1000, 1.0, 1.0), (151_936, 0.9, 1.0), (151_936, 0.95, 0.6),
     (151_936, 1.0, 0.6), (151_936, 1.0, 1.0)],
)  # fmt: skip
def test_truncated_real_rows(top_k: int, top_p: float, temperature: float) -> None:
    targets, drafts = real_rows()
    for b in range(len(targets)):
        p, q = (truncated(x[b], top_k, top_p, temperature) for x in (targets, drafts))
        best = optimal_acceptance(p, q, (1, 2, 4, 8), "with_replacement", method="prefix")
        for i, n in enumerate((1, 2, 4, 8)):
            for route in ROUTES:
                prepared = made(p, q, n, route)
                assert abs(prepared.acceptance - float(best.value[i])) <= 1e-12
                assert 0.0 <= prepared.gap <= 1e-12
                assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-13)
                check_exchanges(prepared)


def test_rows_at_the_limit_between_the_routes() -> None:
    for size in (rules.FEW, rules.FEW + 1):
        p, q = close_pair(size, 1)
        best = float(optimal_acceptance(p, q, 4, "with_replacement", method="prefix").value)
        assert prepare_with_replacement(p, q, 4).acceptance == pytest.approx(best, abs=1e-13)


def test_a_pickled_rule_of_a_wide_row_steps_alike() -> None:
    p, q = close_pair(6000, 2)
    rule = optimal.prepare(p, q, 4, "with_replacement")
    again = pickle.loads(pickle.dumps(rule))
    drafts = SAMPLERS["with_replacement"].sample(q.expand(100, -1), 4, torch.Generator().manual_seed(0))
    tokens = (x.step(drafts, torch.Generator().manual_seed(1)) for x in (rule, again))
    assert torch.equal(*tokens)
    # p, q, r and an interval for each token; p of the rule is p of the record.
    assert 6000 * 28 <= rule.nbytes <= 6000 * 28 + 80 * len(rule_of(rule).tables.draft)


# --- the steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_picks_follow_the_pick_distribution(route: str) -> None:
    p, q = close_pair(12, 6)
    prepared = made(p, q, 4, route)
    assert len(rule_of(prepared).tables.low) > 2
    last = int(rule_of(prepared).interval.argmax())
    for drafts in ([0, 1, 2, 3], [4, 4, 5, 4], [7, 8, 9, 10], [last] * 4, [-1, 3, -1, 5]):
        chance = prepared.pick_distribution(torch.tensor([drafts]))[0].numpy()
        assert chance.sum() == pytest.approx(1.0, abs=1e-14)
        many = torch.tensor(drafts).expand(40_000, -1).contiguous()
        counts = np.bincount(prepared.pick(many, torch.Generator().manual_seed(3)), minlength=4)
        kept = chance > 1e-3
        assert counts[~kept].sum() <= 5 * 40_000 * 4e-3
        expected = chance[kept] / chance[kept].sum() * counts[kept].sum()
        assert kept.sum() == 1 or stats.chisquare(counts[kept], expected).pvalue > 1e-5


def test_wide_rows_step_as_the_output_distribution_says() -> None:
    p, q = close_pair(9000, 6)
    # A token that the draft hardly gives: a fifth of the positions are rejected.
    p = 0.8 * p + 0.2 * torch.nn.functional.one_hot(q.argmin(), 9000)
    prepared = made(p, q, 3, "many")
    drafts = (prepared.r - p).topk(3).indices[None]
    given = prepared.output_distribution(drafts)[0]
    assert float(given[drafts[0]].sum()) < 0.95
    assert float(given.sum()) == pytest.approx(1.0, abs=1e-12)
    tokens = prepared.step(drafts.expand(20_000, -1).contiguous(), torch.Generator().manual_seed(5))
    heavy = given.topk(6).indices
    counts = torch.bincount(tokens, minlength=len(p))[heavy].double()
    cells = torch.cat([counts, 20_000 - counts.sum().reshape(1)])
    expected = 20_000 * torch.cat([given[heavy], 1 - given[heavy].sum().reshape(1)])
    held = expected > 5
    expected = expected[held] * (cells[held].sum() / expected[held].sum())
    assert stats.chisquare(cells[held].numpy(), expected.numpy()).pvalue > 1e-5


# --- rules that must fail ---------------------------------------------------------------------------------------------


def with_rates(prepared: Prepared, rate: np.ndarray) -> Prepared:
    rule = rule_of(prepared)
    changed = dataclasses.replace(rule, tables=rule.tables._replace(rate=rate))
    return dataclasses.replace(prepared, rule=changed)


def half_is_exchanged(prepared: Prepared) -> Prepared:
    return with_rates(prepared, rule_of(prepared).tables.rate / 2)


def exchanged_one_way_only(prepared: Prepared) -> Prepared:
    return with_rates(prepared, np.maximum(rule_of(prepared).tables.rate, 0.0))


def claims_the_target(prepared: Prepared) -> Prepared:
    return dataclasses.replace(prepared, r=prepared.p)


def claims_plain_priority(prepared: Prepared) -> Prepared:
    rule = rule_of(prepared)
    return dataclasses.replace(prepared, r=torch.from_numpy(rule.q.numpy() * rule.tables.worth[rule.interval]))


def ties_go_to_the_first(prepared: Prepared) -> Prepared:
    # Not broken: the drafts are exchangeable, so that any way to break ties has the same marginals.
    class FirstOfTies(ExchangeRule):
        def pick_distribution(self, drafts: Tensor) -> Tensor:
            shares = self.shares(drafts.numpy().ravel()).reshape(*drafts.shape, -1)
            below = np.cumsum(shares, -1) - shares
            first = (shares[:, 0] * (below[:, 1] + shares[:, 1])).sum(-1)
            return torch.from_numpy(np.stack([first, 1 - first], -1))

    return dataclasses.replace(prepared, rule=FirstOfTies(**vars(rule_of(prepared))))


def changed(change: Callable[[Prepared], Prepared]) -> Verifier:
    def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
        return change(made(p[0], q[0], drafts.shape[1])).output_distribution(drafts)

    return Verifier("changed", "none", True, ("with_replacement",), output_distribution)


EXCHANGING = row_of([0.05, 0.3, 0.25, 0.4]), row_of([0.3, 0.3, 0.2, 0.2])


@pytest.mark.parametrize(
    "change", [half_is_exchanged, exchanged_one_way_only, claims_the_target, claims_plain_priority]
)
def test_broken_rules_are_not_lossless(change: Callable[[Prepared], Prepared]) -> None:
    assert len(rule_of(made(*EXCHANGING, 2)).tables.low) > 0
    assert losslessness_defect(optimal.VERIFIER, *EXCHANGING, 2, "with_replacement") <= 1e-15
    assert losslessness_defect(changed(change), *EXCHANGING, 2, "with_replacement") > 1e-3


def test_any_way_to_break_ties_is_lossless() -> None:
    assert losslessness_defect(changed(ties_go_to_the_first), *EXCHANGING, 2, "with_replacement") <= 1e-15
