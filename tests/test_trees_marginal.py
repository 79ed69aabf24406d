"""One-pass drafters: every builder takes them for one forward pass; levels that share drafts admit fewer rules."""

from __future__ import annotations

import dataclasses
import doctest

import pytest
import torch
from toy_models import emitted_distribution, sequence_distribution, toy, worst_difference

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import marginal as marginal_module
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.bounds import joint_optimum
from mdsd_bounds.trees.builders import chain, independent_paths, rsd_c
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.enumerate import tree_distribution
from mdsd_bounds.trees.marginal import MarginalDraft, product_tree
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.verify import expected_accepted, stops

STOP = frozenset({1})
LENGTH = 3


def marginal(seed=5, size=3, length=2):
    return MarginalDraft(torch.stack([toy(seed + k, size)([()])[0] for k in range(length)]))


def error(trees, p, rule, stop=frozenset()):
    found = emitted_distribution(trees, p, lambda tree, x: stops(tree, x, rule), LENGTH, stop)
    return worst_difference(found, sequence_distribution(p, LENGTH, stop))


def test_every_builder_takes_it_for_one_call():
    draft, source = marginal(), torch.Generator().manual_seed(0)
    draw = sampling(source)
    for tree in (
        chain(draft, draw, 2),
        rsd_c(draft, draw, (2, 2)),
        independent_paths(draft, draw, 3, 2),
        rsd_s(draft, source, 2, 2),
        shaped(draft, draw, (((), ()), ())),
        dynamic_top_k(draft, 4, 2, 2),
        product_tree(draft, draw, (2, 2)),
    ):
        assert tree.length == 2
        assert tree.draft_passes == 1
    assert rsd_c(toy(5), draw, (2, 2)).draft_passes == 2


@pytest.mark.parametrize("rule", ["recursive", "traversal", "sweep", "optimal", "nss"])
def test_nodes_that_draw_for_themselves_admit_every_rule(rule):
    p, draft = toy(11, sharp=2), marginal()
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 1), STOP), draft)
    assert error(trees, p, rule, STOP) < 1e-12


@pytest.mark.parametrize("sampler", ["without_replacement", "with_replacement", "top_k"])
@pytest.mark.parametrize("rule", ["recursive", "optimal", "nss"])
def test_levels_that_share_drafts_admit_rules_node_by_node(rule, sampler):
    p, draft = toy(11, sharp=2), marginal()
    trees = tree_distribution(lambda m, d: product_tree(m, d, (2, 2), STOP, sampler=sampler), draft)
    assert sum(chance for _, chance in trees) == pytest.approx(1, abs=1e-12)
    assert all(
        len({tree.drafts[v] for v in range(len(tree.tokens)) if tree.depths[v] == 1 and tree.drafts[v]}) <= 1
        for tree, _ in trees
    )
    assert error(trees, p, rule, STOP) < 1e-12
    best = joint_optimum(trees, p)
    assert (
        sum(chance * expected_accepted(tree, stops(tree, p(tree.paths), rule)) for tree, chance in trees) <= best + 1e-8
    )


@pytest.mark.parametrize("rule", ["traversal", "sweep"])
def test_rules_that_look_across_nodes_are_refused_there_and_would_be_wrong(rule):
    p, draft = toy(11, sharp=2), marginal()
    trees = tree_distribution(lambda m, d: product_tree(m, d, (2, 1)), draft)
    with pytest.raises(InputError, match="share their drafts"):
        stops(trees[0][0], p(trees[0][0].paths), rule)
    unmarked = [(dataclasses.replace(tree, shared=False), chance) for tree, chance in trees]
    assert error(unmarked, p, rule) > 1e-4


def test_bad_input_is_refused():
    draw = sampling(torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="position 3"):
        chain(marginal(), draw, 3)
    with pytest.raises(InputError, match="sum to one"):
        MarginalDraft(torch.tensor([[0.5, 0.4]], dtype=torch.float64))
    with pytest.raises(InputError, match="sum to one"):
        MarginalDraft(torch.zeros((0, 3), dtype=torch.float64))
    with pytest.raises(InputError, match="needs a MarginalDraft"):
        product_tree(toy(5), draw, (2, 2))


def test_examples():
    assert doctest.testmod(marginal_module).failed == 0
