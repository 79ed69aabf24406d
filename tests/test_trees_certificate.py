"""The certified bound on trees: never below the joint optimum, exact on chains, and what tempts to go below it."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from toy_models import toy

from mdsd_bounds import draft_mass
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import certificate
from mdsd_bounds.trees.bounds import joint_optimum
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.certificate import CERTIFICATES, Reading, exact_bounds, prefix_chances, sampled_bounds
from mdsd_bounds.trees.enumerate import branching_trees, tree_distribution

WITHOUT, WITH = "without_replacement", "with_replacement"


def instance(seed, vector, sampler=WITHOUT, zeros=False, stop=frozenset()):
    q, p = toy(seed, zeros=zeros), toy(seed + 50, zeros=zeros, sharp=2)
    return branching_trees(q, vector, sampler, stop, ordered=False), Reading(p, q, vector, sampler, stop)


@pytest.mark.parametrize(
    ("vector", "sampler"), [((2, 2), WITHOUT), ((2, 1), WITHOUT), ((2, 1, 1), WITHOUT), ((2, 2), WITH), ((3, 1), WITH)]
)
def test_no_certificate_is_below_the_joint_optimum(vector, sampler):
    for seed in range(3):
        for zeros, stop in ((False, frozenset()), (True, frozenset({1}))):
            trees, reading = instance(seed, vector, sampler, zeros, stop)
            best = joint_optimum(trees, reading.target)
            bounds = exact_bounds(trees, reading)
            assert bounds.shape == (len(CERTIFICATES),)
            assert bounds.min() >= best - 1e-8
            assert bounds.min() <= 1.12 * best


def test_on_a_chain_one_of_them_is_the_joint_optimum():
    for seed in range(4):
        trees, reading = instance(seed, (1, 1, 1))
        best = joint_optimum(trees, reading.target)
        assert exact_bounds(trees, reading).min() == pytest.approx(best, abs=1e-8)


def test_multipliers_that_leave_out_the_levels_below_go_below_the_joint_optimum(monkeypatch):
    # c = 1 off B instead of 1 + g: what a stop set at the last level but one takes from below is forgotten.
    honest = certificate._highest_path
    least = []
    for seed in range(4):
        trees, reading = instance(seed, (2, 2))
        best = joint_optimum(trees, reading.target)
        monkeypatch.setattr(
            certificate, "_highest_path", lambda tree, reading, g: honest(tree, reading, lambda path: np.zeros(8))
        )
        least.append(exact_bounds(trees, reading).min() / best)
        monkeypatch.setattr(certificate, "_highest_path", honest)
    assert min(least) < 1 - 1e-3


def test_two_levels_are_read_from_the_trees_without_bias():
    trees, reading = instance(1, (2, 2), zeros=True, stop=frozenset({1}))
    parts = [reading.target, reading.draft, (2, 2), WITHOUT, frozenset({1})]
    mean = sum(chance * sampled_bounds(tree, reading.target(tree.paths), Reading(*parts)) for tree, chance in trees)
    assert mean == pytest.approx(exact_bounds(trees, reading), abs=1e-12)


def test_three_levels_are_read_with_twin_draws():
    trees, reading = instance(1, (2, 1, 1))
    generator = torch.Generator().manual_seed(0)
    values = np.array(
        [
            sum(
                chance * sampled_bounds(tree, reading.target(tree.paths), Reading(*parts), generator)
                for tree, chance in trees
            )
            for parts in [(reading.target, reading.draft, (2, 1, 1))] * 4
        ]
    )
    error = values.std(0, ddof=1) / len(values) ** 0.5
    low = exact_bounds(trees, reading)
    assert (values.mean(0) > low - 5 * error - 1e-12).all()
    assert (values.mean(0) < low + 0.02 + 5 * error).all()


def test_prefixes_have_the_probability_that_all_drafts_lie_in_them():
    q = toy(3, 6)([()])[0]
    for n, sampler in ((1, WITHOUT), (2, WITHOUT), (3, WITH)):
        found = prefix_chances(q.numpy(), n, sampler == WITH)
        for size in range(7):
            subset = torch.arange(6) < size
            known = float(draft_mass(q[None], subset[None], n, sampler))
            assert found[size] == pytest.approx(known, abs=1e-12)


def test_trees_are_enumerated_as_by_replaying_every_choice():
    q = toy(5)
    slow = {tree.drafts: chance for tree, chance in tree_distribution(lambda m, d: rsd_c(m, d, (2, 1), {1}), q)}
    fast = {tree.drafts: chance for tree, chance in branching_trees(q, (2, 1), stop={1})}
    assert fast.keys() == slow.keys()
    assert all(fast[key] == pytest.approx(slow[key], abs=1e-14) for key in slow)
    sets = branching_trees(q, (2, 1), stop={1}, ordered=False)
    assert sum(chance for _, chance in sets) == pytest.approx(1, abs=1e-12)
    assert joint_optimum(sets, toy(55)) == pytest.approx(
        joint_optimum([(tree, chance) for tree, chance in branching_trees(q, (2, 1), stop={1})], toy(55)), abs=1e-9
    )


def test_what_has_no_certificate_is_refused():
    q, p = toy(1), toy(2)
    with pytest.raises(InputError, match="without_replacement and with_replacement"):
        Reading(p, q, (2, 1), "greedy")
    with pytest.raises(InputError, match="one or two drafts"):
        Reading(p, q, (3, 1)).place(()).inside  # noqa: B018


def test_examples():
    assert doctest.testmod(certificate).failed == 0
