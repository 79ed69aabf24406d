"""The tree of strict priority orders against drafted sets, listed, and all subsets; broken trees that must fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from orders_by_enumeration import KINDS, as_drafts, best_acceptance, drafted, drafted_by_orders, instance

from mdsd_bounds.verifiers.optimal import Prepared, prepare
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityRule

#: Instances of each kind in one test; `--instances` of scripts/optimal_enumeration.py runs as many as wanted.
EACH = 24
BATCH = 24


def check(kind: str, size: int, n: int, m: int, seed: int, count: int = EACH) -> dict[str, float]:
    """Largest errors over ``count`` instances: of r, of the output, of sum r, of the acceptance, and of the gap."""
    rng = np.random.default_rng(seed)
    rows = [instance(kind, size, rng) for _ in range(count)]
    worst = dict.fromkeys(("r", "output", "sum", "acceptance", "gap"), 0.0)
    for p, q in rows:
        fixed = sum(1 << int(i) for i in np.argsort(-q, kind="stable")[:m] if q[i] > 0)
        mass = drafted(q[:, None], n, fixed)
        rule = prepare(torch.from_numpy(p), torch.from_numpy(q), n + m, "top_m_plus", m=m)
        found = errors(rule, p, mass, n + m)
        for name, value in found.items():
            worst[name] = max(worst[name], value)
    return worst


def errors(rule: Prepared, p: np.ndarray, mass: np.ndarray, n: int) -> dict[str, float]:
    """What the definition says of a prepared rule."""
    drafts, chance = as_drafts(mass[:, 0], n)
    picked = rule.pick_distribution(torch.from_numpy(drafts)).numpy()
    r = np.zeros(len(p))
    np.add.at(r, np.maximum(drafts, 0).ravel(), (picked * chance[:, None]).ravel())
    output = chance @ rule.output_distribution(torch.from_numpy(drafts)).numpy()
    best = float(best_acceptance(p[:, None], mass)[0])
    return {
        "r": float(np.abs(r - rule.r.numpy()).max()),
        "output": float(np.abs(output - p).max()),
        "sum": abs(float(rule.r.sum()) - 1.0),
        "acceptance": abs(min(best, 1.0) - rule.acceptance),
        "gap": rule.gap,
    }


def test_two_ways_to_list_the_drafted_sets() -> None:
    rng = np.random.default_rng(0)
    for kind in ("even", "peaked q", "sixty decades"):
        _, q = instance(kind, 6, rng)
        mass = drafted(q[:, None], 3)[:, 0]
        for chosen, value in drafted_by_orders(q, 3).items():
            assert mass[chosen] == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "n", "m"), [(4, 2, 0), (5, 3, 0), (7, 2, 0), (7, 4, 0), (8, 6, 0), (3, 4, 0)])
def test_without_replacement(kind: str, size: int, n: int, m: int) -> None:
    worst = check(kind, size, n, m, seed=size)
    assert worst["r"] <= 1e-13
    assert worst["output"] <= 1e-13
    assert worst["sum"] <= 1e-13
    assert worst["acceptance"] <= 1e-10
    assert worst["gap"] <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "n", "m"), [(5, 2, 1), (6, 2, 2), (6, 3, 1), (8, 3, 3), (8, 4, 2), (4, 3, 2)])
def test_top_m_plus(kind: str, size: int, n: int, m: int) -> None:
    worst = check(kind, size, n, m, seed=size)
    assert worst["r"] <= 1e-13
    assert worst["output"] <= 1e-13
    assert worst["acceptance"] <= 1e-10
    assert worst["gap"] <= 1e-9


def a_coin_is_off(rule: PriorityRule) -> PriorityRule:
    coin = rule.tree.coin.copy()
    coin[1:] = np.where(rule.tree.cut[1:] >= 0, coin[1:] * 0.999, coin[1:])
    return dataclasses.replace(rule, tree=rule.tree._replace(coin=coin))


def an_order_is_reversed(rule: PriorityRule) -> PriorityRule:
    rank = rule.tree.rank.copy()
    rank[:] = rank.max() - rank
    return dataclasses.replace(rule, tree=rule.tree._replace(rank=rank))


def two_tokens_change_sides(rule: PriorityRule) -> PriorityRule:
    place, cut = rule.tree.place.copy(), rule.tree.cut[0]
    low, high = int(np.flatnonzero(place == cut - 1)[0]), int(np.flatnonzero(place == cut)[0])
    place[low], place[high] = cut, cut - 1
    return dataclasses.replace(rule, tree=rule.tree._replace(place=place))


@pytest.mark.parametrize("change", [a_coin_is_off, an_order_is_reversed, two_tokens_change_sides])
def test_broken_rules_are_seen(change: Callable[[Any], PriorityRule]) -> None:
    p, q = instance("even", 7, np.random.default_rng(1))
    rule = prepare(torch.from_numpy(p), torch.from_numpy(q), 3, "without_replacement")
    mass = drafted(q[:, None], 3)
    assert errors(rule, p, mass, 3)["output"] <= 1e-13
    broken = errors(dataclasses.replace(rule, rule=change(rule.rule)), p, mass, 3)
    assert broken["r"] > 1e-8
    assert broken["output"] > 1e-8
