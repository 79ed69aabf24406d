"""The sweep: whole sequences exactly, one layer against enumeration, and versions that are not lossless."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from toy_models import emitted_distribution, sequence_distribution, toy, worst_difference

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.bounds import joint_optimum
from mdsd_bounds.trees.builders import chain, independent_paths, rsd_c
from mdsd_bounds.trees.enumerate import beam_by_arrivals, branching_trees, outcomes, tree_distribution
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.sweep import bins, layer, plan, rule, sweep_stops
from mdsd_bounds.trees.sweep.layer import Drafting, prepare_layer
from mdsd_bounds.trees.verify import expected_accepted, stops

STOP = frozenset({1})
LENGTH = 3

BUILDERS = {
    "chain": lambda m, d, stop: chain(m, d, 3, stop),
    "rsd_c": lambda m, d, stop: rsd_c(m, d, (2, 2), stop),
    "rsd_c_deep": lambda m, d, stop: rsd_c(m, d, (2, 1, 1), stop),
    "rsd_c_three": lambda m, d, stop: rsd_c(m, d, (3, 1), stop),
    "paths": lambda m, d, stop: independent_paths(m, d, 2, 2, stop),
    "iid": lambda m, d, stop: rsd_c(m, d, (2, 2), stop, sampler="with_replacement"),
    "sequoia": lambda m, d, stop: shaped(m, d, (((), ()), ((),)), stop),
    "sequoia_equal": lambda m, d, stop: shaped(m, d, (((),), ((),)), stop),
}


def error(trees, p, verification, stop=frozenset(), length=LENGTH):
    """Largest deviation of the probability of a whole text."""
    found = emitted_distribution(trees, p, verification, length, stop)
    return worst_difference(found, sequence_distribution(p, length, stop))


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(("zeros", "ending"), [(False, True), (True, False), (True, True)])
def test_whole_sequences_have_the_target_distribution(builder, zeros, ending):
    stop = STOP if ending else frozenset()
    length = 4 if builder in ("chain", "rsd_c_deep") else LENGTH
    q, p = toy(7, zeros=zeros), toy(13, zeros=zeros, sharp=2)
    trees = tree_distribution(lambda m, d: BUILDERS[builder](m, d, stop), q)
    for merged in (True, False):
        assert error(trees, p, lambda t, x, m=merged: sweep_stops(t, x, merged=m), stop, length) < 1e-13


def test_a_chain_is_block_verification():
    q, p = toy(8), toy(9, sharp=2)
    for tree, _ in tree_distribution(lambda m, d: chain(m, d, 3), q):
        block = {way.node: way for way in stops(tree, p(tree.paths), "block")}
        sweep = {way.node: way for way in stops(tree, p(tree.paths), "sweep")}
        for node in {*block, *sweep}:
            of_block = block[node].probability if node in block else 0.0
            of_sweep = sweep[node].probability if node in sweep else 0.0
            assert of_sweep == pytest.approx(of_block, abs=1e-12)
            if of_block > 1e-9:
                assert torch.allclose(sweep[node].probs, block[node].probs, atol=1e-12)


@pytest.mark.parametrize(
    ("builder", "vector"),
    [("chain", (1, 1, 1)), ("rsd_c", (2, 2)), ("rsd_c", (3, 1)), ("iid", (2, 2)), ("paths", None)],
)
def test_it_is_close_to_the_joint_optimum_and_never_above(builder, vector):
    for seed in range(3):
        q, p = toy(seed), toy(seed + 50, sharp=2)
        if vector is None:
            trees = tree_distribution(lambda m, d: BUILDERS[builder](m, d, frozenset()), q)
        else:
            sampler = "with_replacement" if builder == "iid" else "without_replacement"
            trees = branching_trees(q, vector, sampler, ordered=False)
        best = joint_optimum(trees, p)
        share = sum(c * expected_accepted(t, stops(t, p(t.paths), "sweep")) for t, c in trees) / best
        assert 0.95 < share < 1 + 1e-8
        if builder == "chain":
            assert share == pytest.approx(1, abs=1e-8)


def test_one_layer_of_one_node_attains_the_optimal_acceptance():
    for seed, sampler in itertools.product(range(4), ("without_replacement", "with_replacement", "greedy", "top_k")):
        q, p = toy(seed, 5), toy(seed + 9, 5)
        trees = tree_distribution(lambda m, d, s=sampler: rsd_c(m, d, (2,), sampler=s), q)
        alpha = float(optimal_acceptance(p([()])[0], q([()])[0], n_drafts=2, sampler=sampler).value)
        found = sum(c * expected_accepted(t, stops(t, p(t.paths), "sweep")) for t, c in trees)
        assert found == pytest.approx(alpha, abs=1e-9), (seed, sampler)


# --- one layer against enumeration -------------------------------------------------------------------------------


def ordered_drafts(drafting):
    """Every outcome of the drafts of one node, with its probability."""
    k = len(drafting.token)
    for slots in itertools.product(range(k), repeat=drafting.draws):
        if not drafting.replacement and len(set(slots)) < len(slots):
            continue
        chance, gone = 1.0, []
        for slot in slots:
            left = 1.0 if drafting.replacement else sum(drafting.probs[i] for i in range(k) if i not in gone)
            chance *= drafting.probs[slot] / left
            gone.append(slot)
        yield slots, chance


def random_layer(seed, kind="plain"):
    """Draftings and targets of one to three nodes."""
    generator = np.random.default_rng(seed)
    draftings, targets = [], []
    for _ in range(generator.integers(1, 4)):
        replacement = bool(generator.integers(2))
        k = int(generator.integers(1, 5))
        draws = int(generator.integers(1, 4)) if replacement else min(int(generator.integers(1, 5)), k)
        q = generator.random(k) ** (1 if kind == "plain" else 12) + 1e-12
        if kind == "hot":
            q[0] = 1e7 * q.sum()
        draftings.append(Drafting(np.arange(k) * 2, q / q.sum(), draws, replacement))
        weight = generator.random(k) ** (4 if kind == "plain" else 1) * (generator.random(k) > 0.2)
        targets.append(q / q.sum() if kind == "equal" else weight)
    total = sum(t.sum() for t in targets) * (1.0 if generator.integers(2) else 1.0 + generator.random())
    return draftings, [t / max(total, 1e-3) for t in targets]


def by_enumeration(found, draftings):
    """Mean of the accepted masses, the largest sum of them, and Q of a subset as a function."""
    mean, most, outcomes = np.zeros(found.first[-1]), 0.0, []
    for choice in itertools.product(*[list(ordered_drafts(d)) for d in draftings]):
        chance = float(np.prod([c for _, c in choice]))
        given = found.accept([d.token[list(slots)] for d, (slots, _) in zip(draftings, choice, strict=True)])
        places = [found.first[v] + np.array(slots) for v, (slots, _) in enumerate(choice)]
        for place, x in zip(places, given, strict=True):
            np.add.at(mean, place, chance * x)
        most = max(most, sum(x.sum() for x in given))
        outcomes.append((frozenset(np.concatenate(places).tolist()), chance))
    return mean, most, outcomes


@pytest.mark.parametrize("kind", ["plain", "peaked", "hot", "equal"])
def test_a_layer_against_enumeration_and_all_subsets(kind):
    for seed in range(12):
        draftings, targets = random_layer(seed, kind)
        found = prepare_layer(draftings, targets)
        mean, most, outcomes = by_enumeration(found, draftings)
        assert most <= 1 + 1e-12
        assert mean == pytest.approx(found.mean, abs=3e-14)
        assert found.pick.sum() == pytest.approx(1, abs=1e-13)
        if found.first[-1] <= 10:
            target = np.concatenate(targets)
            least = min(
                target[list(inside)].sum() - sum(c for drawn, c in outcomes if drawn <= set(inside))
                for size in range(len(target) + 1)
                for inside in itertools.combinations(range(len(target)), size)
            )
            assert found.bound == pytest.approx(1 + min(least, 0.0), abs=1e-12)
        assert -1e-12 <= found.gap <= 1e-9, (seed, found.gap)


def test_wide_nodes_share_bins_and_stay_exact(monkeypatch):
    monkeypatch.setattr(bins, "MOST_ITEMS", 90)
    monkeypatch.setattr(bins, "SINGLES", 15)
    monkeypatch.setattr(bins, "BINS", 30)
    generator = np.random.default_rng(0)
    k = 100
    q, t = generator.random(k) ** 6 + 1e-9, generator.random(k) ** 6
    drafting = Drafting(np.arange(k), q / q.sum(), 2, False)
    found = prepare_layer([drafting], [t / t.sum()])
    assert len(found.components.place) < k
    assert found.pick.sum() == pytest.approx(1, abs=1e-12)
    assert 0 <= found.gap < 1e-2
    mean = np.zeros(k)
    for i, j in itertools.combinations(range(k), 2):
        chance = drafting.probs[i] * drafting.probs[j] * (1 / (1 - drafting.probs[i]) + 1 / (1 - drafting.probs[j]))
        mean[[i, j]] += chance * found.accept([[i, j]])[0]
    assert mean == pytest.approx(found.mean, abs=1e-14)


# --- what is not lossless is seen --------------------------------------------------------------------------------


def test_a_plan_that_looks_at_what_it_is_about_to_draw_is_found_out(monkeypatch):
    # Drafts one by one where the drawn siblings' subtrees differ in size: a stop token cuts its own subtree short.
    def by_drawn_subtrees(tree, node, sampler):
        sizes = {len(tree.drafts[child]) for child in tree.children[node].values()}
        return (1,) * len(tree.drafts[node]) if len(sizes) > 1 else (len(tree.drafts[node]),)

    q, p = toy(5), toy(11, sharp=2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 1), STOP), q)
    assert error(trees, p, sweep_stops, STOP) < 1e-13
    monkeypatch.setattr(plan, "groups_below", by_drawn_subtrees)
    assert error(trees, p, sweep_stops, STOP) > 1e-3


def test_a_mean_that_is_not_exact_is_found_out(monkeypatch):
    q, p = toy(5), toy(11, sharp=2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 1)), q)
    monkeypatch.setattr(layer.LayerRule, "mean", property(lambda self: 0.99 * np.minimum(self.target, self.pick)))
    assert error(trees, p, sweep_stops) > 1e-4


def test_draws_taken_for_independent_are_found_out(monkeypatch):
    q, p = toy(5), toy(11, sharp=2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 1)), q)
    honest = rule.drafting

    def independent(*arguments):
        found = honest(*arguments)
        return None if found is None else dataclasses.replace(found, replacement=True)

    monkeypatch.setattr(rule, "drafting", independent)
    assert error(trees, p, sweep_stops) > 1e-4


def test_a_search_that_stops_early_stays_lossless(monkeypatch):
    q, p = toy(5), toy(11, sharp=2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 2)), q)
    full = sum(c * expected_accepted(t, sweep_stops(t, p(t.paths))) for t, c in trees)
    monkeypatch.setattr("mdsd_bounds.trees.sweep.layer.EXACT", (1.0, 1e-12))
    early = sum(c * expected_accepted(t, sweep_stops(t, p(t.paths))) for t, c in trees)
    assert error(trees, p, sweep_stops) < 1e-13
    assert early < full - 1e-3


def test_one_draft_at_a_time_is_not_lossless_on_a_beam(monkeypatch):
    q, p = toy(7), toy(13, sharp=2)
    trees = outcomes(lambda choose: beam_by_arrivals(q, 2, 2, choose))
    monkeypatch.setattr(rule, "require_sweep", lambda tree: get_sampler(tree.sampler))
    monkeypatch.setattr(plan, "groups_below", lambda tree, node, sampler: (1,) * len(tree.drafts[node]))
    for merged in (True, False):
        assert error(trees, p, lambda t, x, m=merged: sweep_stops(t, x, merged=m)) > 1e-5


def test_trees_that_do_not_fit_are_refused():
    q, p = toy(5), toy(11)
    generator = torch.Generator().manual_seed(0)
    beam = rsd_s(q, generator, 2, 2)
    with pytest.raises(InputError, match="stochastic beam"):
        stops(beam, p(beam.paths), "sweep")
    tree = dataclasses.replace(rsd_c(q, sampling(generator), (2, 1)), sampler="independent")
    with pytest.raises(InputError, match="independent"):
        stops(tree, p(tree.paths), "sweep")


def test_groups_follow_the_planned_shape():
    q = toy(5)
    draw = sampling(torch.Generator().manual_seed(0))
    tree = shaped(q, draw, (((), ()), ((), ()), ()))
    assert tree.groups[0] == (2, 1)
    sampler = plan.require_sweep(tree)
    assert plan.groups_below(tree, 0, sampler) == (2, 1)
    wide = rsd_c(toy(5, 200), draw, (5,))
    assert plan.groups_below(wide, 0, plan.require_sweep(wide)) == (2, 2, 1)
    fixed = rsd_c(q, draw, (3,), sampler="top_m_plus", m=1)
    assert plan.groups_below(fixed, 0, plan.require_sweep(fixed)) == (1, 2)
