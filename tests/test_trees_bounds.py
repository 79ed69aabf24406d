"""Bounds on trees: every rule stays below the joint optimum, that below full information; what is no rule does not."""

from __future__ import annotations

import itertools

import pytest
import torch
from toy_models import toy

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import bounds
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.bounds import (
    full_information,
    inclusion,
    joint_optimum,
    node_optimum,
    sampled_full_information,
)
from mdsd_bounds.trees.builders import chain, independent_paths, rsd_c
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.enumerate import beam_by_arrivals, outcomes, tree_distribution
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.verify import ONE_BY_ONE, expected_accepted, stops
from mdsd_bounds.verifiers import VERIFIERS

SLACK = 1e-8


def constant(*probs):
    row = torch.tensor([probs], dtype=torch.float64)
    return lambda paths: row.repeat(len(paths), 1)


def accepted(trees, p, rule):
    return sum(chance * expected_accepted(tree, stops(tree, p(tree.paths), rule)) for tree, chance in trees)


def families(q):
    return {
        "chain": tree_distribution(lambda m, d: chain(m, d, 2), q),
        "paths": tree_distribution(lambda m, d: independent_paths(m, d, 2, 2), q),
        "rsd_c": tree_distribution(lambda m, d: rsd_c(m, d, (2, 2)), q),
        "rsd_c_iid": tree_distribution(lambda m, d: rsd_c(m, d, (2, 1), sampler="with_replacement"), q),
        "rsd_c_greedy": tree_distribution(lambda m, d: rsd_c(m, d, (2, 1), sampler="greedy"), q),
        "rsd_s": outcomes(lambda choose: beam_by_arrivals(q, 2, 2, choose)),
        "sequoia": tree_distribution(lambda m, d: shaped(m, d, (((), ()), ())), q),
        "dynamic": [(dynamic_top_k(q, 4, 2, 2), 1.0)],
    }


def fitting_rules(name, trees):
    sampler = trees[0][0].sampler
    widths = {len(d) for tree, _ in trees for d in tree.drafts if d}
    found = ["recursive"]
    found += ["block"] * (name == "chain") + ["traversal"] * (sampler != "with_replacement")
    return found + [
        v.name
        for v in VERIFIERS.values()
        if v.lossless
        and v.output_distribution is not None
        and sampler in v.samplers
        and (v.drafts_needed is None or widths == {v.drafts_needed})
        and (name != "rsd_s" or v.name in ONE_BY_ONE)
    ]


@pytest.mark.parametrize("seed", [3])
def test_every_rule_stays_below_the_joint_optimum_and_that_below_full_information(seed):
    q, p = toy(seed, zeros=seed == 3), toy(seed + 50, sharp=2)
    for name, trees in families(q).items():
        best, full = joint_optimum(trees, p), full_information(trees, p)
        assert best <= full + SLACK, name
        for rule in fitting_rules(name, trees):
            assert accepted(trees, p, rule) <= best + SLACK, (name, rule)


@pytest.mark.parametrize("sampler", ["without_replacement", "with_replacement", "greedy"])
@pytest.mark.parametrize("seed", [0])
def test_the_node_optimum_lies_between_the_rules_and_the_joint_optimum(seed, sampler):
    q, p = toy(seed), toy(seed + 50, sharp=2)
    vector = (2, 1) if sampler == "with_replacement" else (2, 2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, vector, sampler=sampler), q)
    best = node_optimum(p, q, vector, sampler)
    assert best <= joint_optimum(trees, p) + SLACK
    for rule in fitting_rules("rsd_c", trees):
        if rule != "traversal":
            assert accepted(trees, p, rule) <= best + SLACK, rule


def test_one_level_is_the_optimal_acceptance():
    for seed, sampler in itertools.product(range(3), ("without_replacement", "with_replacement", "greedy")):
        q, p = toy(seed, 4), toy(seed + 9, 4)
        trees = tree_distribution(lambda m, d, s=sampler: rsd_c(m, d, (2,), sampler=s), q)
        alpha = float(optimal_acceptance(p([()])[0], q([()])[0], n_drafts=2, sampler=sampler).value)
        assert joint_optimum(trees, p) == pytest.approx(alpha, abs=1e-8)
        assert node_optimum(p, q, (2,), sampler) == pytest.approx(alpha, abs=1e-8)


def test_block_verification_is_the_joint_optimum_of_a_path():
    # p = (1/3, 2/3), q = (2/3, 1/3): token level 10/9, block 11/9, full information 4/3 (Sun et al. 2024).
    q, p = constant(2 / 3, 1 / 3), constant(1 / 3, 2 / 3)
    trees = tree_distribution(lambda m, d: chain(m, d, 2), q)
    assert node_optimum(p, q, (1, 1)) == pytest.approx(10 / 9, abs=1e-8)
    assert joint_optimum(trees, p) == pytest.approx(11 / 9, abs=1e-8)
    assert full_information(trees, p) == pytest.approx(4 / 3, abs=1e-12)
    for seed in range(4):
        trees = tree_distribution(lambda m, d, s=seed: chain(m, d, 3), toy(seed))
        best = joint_optimum(trees, toy(seed + 50, sharp=2))
        assert accepted(trees, toy(seed + 50, sharp=2), "block") == pytest.approx(best, abs=1e-8)


def test_what_is_no_lossless_rule_exceeds_the_joint_optimum():
    # Accepting whatever was drafted; and the published sum q (1 - (1 - min(p/q, 1))^K) at K = 2: .75 against 1/2.
    q, p = constant(1.0, 0.0), constant(0.5, 0.5)
    trees = tree_distribution(lambda m, d: independent_paths(m, d, 2, 1), q)
    assert joint_optimum(trees, p) == pytest.approx(0.5, abs=1e-8)
    assert joint_optimum(trees, p) + 0.2 < 0.75
    greedy = [(dynamic_top_k(toy(1), 4, 2, 2), 1.0)]
    assert greedy[0][0].length > joint_optimum(greedy, toy(60)) + 0.1


def test_estimates_of_full_information_are_unbiased():
    q, p = toy(5, 4), toy(55, 4)
    for trees, known in (
        (tree_distribution(lambda m, d: chain(m, d, 3), q), {"branching": (1, 1, 1)}),
        (tree_distribution(lambda m, d: independent_paths(m, d, 3, 2), q), {"paths": 3}),
        (tree_distribution(lambda m, d: rsd_c(m, d, (2, 1)), q), {"branching": (2, 1)}),
    ):
        mean = sum(chance * sampled_full_information(tree, p(tree.paths), **known) for tree, chance in trees)
        assert mean == pytest.approx(full_information(trees, p), abs=1e-10)


def test_inclusion_probabilities_keep_their_digits():
    q = torch.tensor([1e-13, 1 - 3e-13, 2e-13], dtype=torch.float64)
    # After the certain first draw the second falls on the others by their shares.
    assert float(inclusion(q, 0, 2)) == pytest.approx(1 / 3, rel=1e-9)
    assert float(inclusion(q, 2, 2)) == pytest.approx(2 / 3, rel=1e-9)
    assert float(inclusion(q, 1, 2)) == pytest.approx(1, abs=1e-12)
    probs = toy(3, 5)([()])[0]
    assert float(sum(inclusion(probs, i, 2) for i in range(5))) == pytest.approx(2, abs=1e-12)


def test_bad_input_is_refused(monkeypatch):
    q, p = toy(1), toy(2)
    tree = rsd_c(q, sampling(torch.Generator().manual_seed(0)), (3, 1))
    with pytest.raises(InputError, match="one or two drafts"):
        sampled_full_information(tree, p(tree.paths), branching=(3, 1))
    with pytest.raises(InputError, match="give the branching vector"):
        sampled_full_information(tree, p(tree.paths))
    top = dynamic_top_k(q, 3, 2, 2)
    with pytest.raises(InputError, match="top_k"):
        sampled_full_information(top, p(top.paths), branching=(2, 1))
    monkeypatch.setattr(bounds, "MAX_VARIABLES", 10)
    with pytest.raises(InputError, match="more than 10"):
        joint_optimum(tree_distribution(lambda m, d: rsd_c(m, d, (2, 2)), q), p)


def test_beam_trees_of_a_real_generator_fit_the_programme():
    q, p = toy(8), toy(58)
    generator = torch.Generator().manual_seed(0)
    sample = [(rsd_s(q, generator, 2, 2), 1 / 50) for _ in range(50)]
    assert joint_optimum(sample, p) <= full_information(sample, p) + SLACK
