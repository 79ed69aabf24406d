"""The race without replacement: by drafted sets, by pairs and by clocks, each against the others and enumeration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import losslessness_defect, row
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import pairs, set_law
from torch import Tensor

from mdsd_bounds import SAMPLERS, draft_mass, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.samplers.base import fixed_mask, remainder
from mdsd_bounds.samplers.one_position import draw_many_without
from mdsd_bounds.verifiers import Verifier
from mdsd_bounds.verifiers.optimal import prepare, wide_race
from mdsd_bounds.verifiers.optimal.clocks import (
    COARSE,
    FINE,
    MOMENTS,
    Group,
    arguments,
    heavy_from,
    make_clocks,
    make_times,
    prefix_mass,
    race_law,
)
from mdsd_bounds.verifiers.optimal.pairs import prepare_pairs
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.race_rule import Race, prepared_race
from mdsd_bounds.verifiers.optimal.wide_race import prepare_clocks

NOTHING = Group(np.zeros(0), np.zeros((0, MOMENTS)))


def by_pairs(p: Tensor, q: Tensor, **options: int) -> Prepared:
    on_right, log_weight, r, error = prepare_pairs(p.numpy(), q.numpy(), **options)
    return prepared_race(p, Race(torch.from_numpy(on_right), torch.from_numpy(log_weight)), torch.from_numpy(r), error)


def by_clocks(p: Tensor, q: Tensor, n: int, m: int = 0, **options: int) -> Prepared:
    held = fixed_mask(q[None], m)[0]
    rates = remainder(q[None], held[None])[0] if m else q
    left = optimal_acceptance(p, q, n, "top_m_plus", m=m).subset
    left = held | (rates > 0) if bool((held & ~left).any()) else left
    return prepare_clocks(p, rates, held, n - m, left, **options)


def defect(prepared: Prepared, p: Tensor, q: Tensor, n: int, m: int = 0) -> float:
    rule = Verifier("race", "", True, ("top_m_plus",), lambda p, q, drafts, **_: prepared.output_law(drafts))
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


@settings(max_examples=25, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(2, 4), early=st.booleans(), coarse=st.booleans())
def test_wide_routes_on_awkward_small_rows(pair: tuple[Tensor, Tensor], n: int, early: bool, coarse: bool) -> None:
    # Far from converged, and with next to no unit of one token: still lossless, and the gap still honest.
    p, q = pair[0][0], pair[1][0]
    units = {"singles": 0, "bins": 2} if coarse else {}
    support = int((q > 0).sum())
    if support > 2:
        assert_right(by_pairs(p, q, steps=1 if early else 60, **units), p, q, 2)
    if support > n:
        assert_right(by_clocks(p, q, n, evaluations=2 if early else 40, **units), p, q, n)


@pytest.mark.parametrize(("size", "n", "m"), [(10, 2, 0), (10, 3, 0), (10, 4, 0), (9, 4, 1), (8, 5, 2)])
def test_within_1e_7_up_to_ten_tokens(size: int, n: int, m: int) -> None:
    for seed in range(3):
        p, q = row(size, seed), row(size, seed + 30)
        prepared = prepare(p, q, n, "top_m_plus", m=m)
        best = optimal_acceptance(p, q, n, "top_m_plus", m=m)
        assert float(best.low) - 1e-7 <= prepared.acceptance <= float(best.high)
        assert prepared.gap <= 1e-7
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("size", "n", "m"), [(8, 2, 0), (9, 3, 0), (8, 4, 0), (12, 2, 0), (7, 4, 1), (7, 5, 2)])
def test_clocks_and_pairs_against_drafted_sets(size: int, n: int, m: int) -> None:
    p, q = row(size, 3), row(size, 40)
    sets = prepare(p, q, n, "top_m_plus", m=m)
    routes = [by_clocks(p, q, n, m)] + ([by_pairs(p, q)] if n == 2 else [])
    law = set_law(q[None], n, "top_m_plus", size, m=m) if size**n <= 4096 else {}
    for other in routes:
        assert other.acceptance == pytest.approx(sets.acceptance, abs=3e-6)
        # r is that of each route's own weights, by enumeration of the drafted sets.
        truth = torch.zeros(size, dtype=torch.float64)
        for tokens, mass in law.items():
            chosen = torch.tensor(sorted(tokens))
            truth[chosen] += mass * other.pick_law(chosen[None])[0]
        if law:
            torch.testing.assert_close(other.r, truth, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("size", "n", "light"), [(6, 3, 0), (8, 4, 2), (7, 2, 2), (6, 5, 0), (8, 3, 3)])
def test_law_of_the_race_by_clocks(size: int, n: int, light: int) -> None:
    q, left = row(size, 1), np.arange(size) < 3
    if light:
        q[-light:] *= 0.003
        q = q / q.sum()
    theta = np.random.default_rng(2).standard_normal(size)
    theta[size - light :] = theta[-1]
    truth = np.zeros(size)
    for tokens, mass in set_law(q[None], n, "without_replacement", size).items():
        active = [i for i in tokens if not left[i]] or list(tokens)
        weight = np.exp(theta[active])
        truth[active] += mass * weight / weight.sum()
    rate = q.numpy()
    times = make_times(rate, n, FINE)
    nodes = arguments(float(theta.min()), float(np.log(np.exp(theta).sum())), FINE)
    x = rate[size - light :] * times.scale
    assert (x <= heavy_from(n)).all()
    moments = np.array([[(x**k).sum() for k in range(1, MOMENTS + 1)]])[: int(light > 0)]
    heavy = np.flatnonzero(~left)[: size - 3 - light]
    own, other = Group(rate[heavy], moments), Group(rate[left], NOTHING.moments)
    law = race_law(
        make_clocks(own, other, 0.0, times, nodes), np.append(theta[heavy], theta[-1:] if light else []), True
    )
    np.testing.assert_allclose(law.r[: len(heavy)], truth[heavy], atol=1e-13)
    for one, exact in zip(x, truth[size - light :], strict=True):
        assert float(law.series[0] @ one ** np.arange(1, MOMENTS + 1)) == pytest.approx(exact, abs=1e-13)
    behind = make_clocks(other, NOTHING, float(rate[~left].sum()), times, nodes)
    np.testing.assert_allclose(race_law(behind, theta[left]).r, truth[left], atol=1e-13)


def test_gradient_of_the_coarse_sum() -> None:
    q = row(9, 5).numpy()
    q[-3:] *= 0.002
    q = q / q.sum()
    times = make_times(q, 4, COARSE)
    x = q[-3:] * times.scale
    own = Group(q[:6], np.array([[(x**k).sum() for k in range(1, MOMENTS + 1)]]))
    clocks = make_clocks(own, NOTHING, 0.0, times, arguments(-4.0, 4.0, COARSE))
    theta = np.random.default_rng(0).standard_normal(7)
    exact = race_law(clocks, theta).r
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-5
        slope = (race_law(clocks, theta + step).phi - race_law(clocks, theta - step).phi) / 2e-5
        assert slope == pytest.approx(exact[k], abs=1e-9)


def test_rule_in_s_is_one_over_x() -> None:
    # Every octave of x that a race can meet, densely within the period of the rule's error.
    s, ds = arguments(-40.0, 5.0, FINE)
    x = np.exp(np.arange(-40.0, 5.0, 0.013))
    assert np.abs(x * (np.exp(-np.outer(x, s)) @ ds) - 1.0).max() <= 1e-13


def test_prefix_mass_is_the_bounds_q() -> None:
    q = row(9, 4)
    times = make_times(q.numpy(), 4, FINE)
    mass = prefix_mass(times, Group(q.numpy(), NOTHING.moments), np.arange(10))
    subsets = torch.arange(9) < torch.arange(10)[:, None]
    truth = draft_mass(q.expand(10, -1), subsets, 4, "without_replacement")
    np.testing.assert_allclose(mass, truth.numpy(), atol=1e-12)


@pytest.fixture(scope="module")
def real_rows() -> tuple[Tensor, Tensor]:
    dump = open_dump("data/qwen2.5-coder-humaneval")
    (batch,) = dump.batches(len(dump))
    # One even law and one peaked one.
    return to_probs(batch.target_logits[[24, 0]]), to_probs(batch.draft_logits[[24, 0]])


@pytest.mark.parametrize(("n", "m"), [(2, 0), (3, 0), (8, 0), (3, 1)])
def test_real_rows_full_vocabulary(real_rows: tuple[Tensor, Tensor], n: int, m: int) -> None:
    for p, q in zip(*real_rows, strict=True):
        prepared = prepare(p, q, n, "top_m_plus", m=m)
        best = optimal_acceptance(p, q, n, "top_m_plus", m=m)
        assert float(best.low) - prepared.gap <= prepared.acceptance <= float(best.high) + 1e-12
        assert prepared.gap <= 2e-5
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-12)


def test_two_draws_by_pairs_and_by_clocks(real_rows: tuple[Tensor, Tensor]) -> None:
    # Same weights, two formulas for r at full vocabulary.
    p, q = real_rows[0][0], real_rows[1][0]
    prepared = by_clocks(p, q, 2)
    drafts = SAMPLERS["without_replacement"].sample(q.expand(4, -1), 2, torch.Generator().manual_seed(0))
    assert float(prepared.pick_law(drafts).sum()) == pytest.approx(4.0)
    weight, right = prepared.pick_law.__self__.log_weight, prepared.pick_law.__self__.on_right  # type: ignore[attr-defined]
    a = 1.0 / (1.0 - q)
    for i in (int(q.argmax()), int(q.sort().indices[-40]), int(q.sort().indices[-5000])):
        wins = torch.where(right == right[i], torch.sigmoid(weight[i] - weight), 1.0 * right[i])
        wins[i] = 0.0
        exact = q[i] * (a[i] * (wins * q).sum() + (wins * q * a).sum())
        assert float(prepared.r[i]) == pytest.approx(float(exact), rel=1e-11)


def test_picks_at_full_vocabulary_follow_r(real_rows: tuple[Tensor, Tensor]) -> None:
    p, q = real_rows[0][0], real_rows[1][0]
    prepared = prepare(p, q, 3, "without_replacement")
    generator = torch.Generator().manual_seed(1)
    drafts = draw_many_without(q, 3, 20_000, generator)
    chance = prepared.pick_law(drafts)
    for i in q.topk(6).indices.tolist():
        hits = (chance * (drafts == i)).sum(-1)
        assert abs(float(hits.mean() - prepared.r[i])) <= 4.5 * float(hits.std()) / 20_000**0.5
    slots = prepared.pick(drafts, generator)
    assert bool((chance.gather(-1, slots[:, None]) > 0).all())


def _coarse_law(monkeypatch: pytest.MonkeyPatch, p: Tensor, q: Tensor) -> Prepared:
    monkeypatch.setattr(wide_race, "FINE", COARSE)
    return by_clocks(p, q, 3)


def _moved_weights(_: pytest.MonkeyPatch, p: Tensor, q: Tensor) -> Prepared:
    prepared = by_clocks(p, q, 3)
    race = prepared.pick_law.__self__  # type: ignore[attr-defined]
    moved = Race(race.on_right, race.log_weight + 1e-6 * torch.arange(len(p)))
    return dataclasses.replace(prepared, pick_law=moved.pick_law)


def _wrong_side(_: pytest.MonkeyPatch, p: Tensor, q: Tensor) -> Prepared:
    prepared = by_clocks(p, q, 3)
    race = prepared.pick_law.__self__  # type: ignore[attr-defined]
    moved = race.on_right.clone()
    moved[(p / q).argmax()] = False
    return dataclasses.replace(prepared, pick_law=Race(moved, race.log_weight).pick_law)


@pytest.mark.parametrize("broken", [_coarse_law, _moved_weights, _wrong_side])
def test_wrong_laws_are_not_lossless(
    broken: Callable[[pytest.MonkeyPatch, Tensor, Tensor], Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    p, q = row(7, 4), row(7, 35)
    assert defect(by_clocks(p, q, 3), p, q, 3) <= 1e-12
    assert defect(broken(monkeypatch, p, q), p, q, 3) > 1e-12


WIDE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "three ratios": (lambda u: (3 * u).ceil(), torch.ones_like),
    "equal laws": (lambda u: u, lambda u: u),
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
    laws = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    found = prepare(*laws, 2, "without_replacement")
    assert found.gap < 1e-10
    assert found.acceptance == pytest.approx(float(optimal_acceptance(*laws, 2, method="subsets").value), abs=1e-10)


@pytest.mark.parametrize("rest", [1e-2, 1e-6, 1e-9, 1e-12, 1e-15, 1e-30])
@pytest.mark.parametrize("size", [5, 9, 100, 300])
def test_one_token_takes_nearly_all_of_the_draft(size: int, rest: float) -> None:
    generator = np.random.default_rng(size)
    for _ in range(8 if size < 10 else 1):
        p, q = (generator.dirichlet(np.ones(size)) for _ in range(2))
        q *= rest
        q[generator.integers(size)] += 1.0 - rest
        laws = torch.from_numpy(p), torch.from_numpy(q / q.sum())
        for n in (2, 3) if size < 10 else (2,):
            found = prepare(*laws, n, "without_replacement")
            bound = optimal_acceptance(*laws, n, "without_replacement")
            assert found.gap < 1e-7
            assert float(bound.low) <= found.acceptance + found.gap
            assert found.acceptance <= float(bound.high) + 1e-12
