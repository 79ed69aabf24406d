"""Builders: the distributions of the trees they make, their shapes, and what they refuse."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from toy_models import all_paths, sequence_distribution, toy

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers.base import NO_DRAFT
from mdsd_bounds.trees.base import common_randomness, sampling
from mdsd_bounds.trees.beam import child_arrivals, rsd_s
from mdsd_bounds.trees.builders import branchings, chain, independent_paths, nodes_of, rsd_c
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.enumerate import beam_by_arrivals, outcomes, tree_distribution
from mdsd_bounds.trees.sequoia import best_shape, depth_of, shaped, size_of
from mdsd_bounds.trees.verify import stops

SAMPLES = 2000


def leaf_set(tree):
    return frozenset(path for path in tree.paths if len(path) == tree.length)


def farthest(counts, probs, samples):
    """Largest deviation of a count from its mean, in standard deviations and one count (for the rare)."""
    assert set(counts) <= {key for key, chance in probs.items() if chance > 0}
    return max(abs(counts[key] - samples * c) / (math.sqrt(samples * c * (1 - c)) + 1) for key, c in probs.items())


def without_replacement(probs, n):
    """Distribution of the SET of n draws without replacement."""
    found = Counter()
    for order in itertools.permutations(probs, n):
        chance, left = 1.0, 1.0
        for key in order:
            chance, left = chance * probs[key] / left, left - probs[key]
        found[frozenset(order)] += chance
    return found


def beam_times(q, seed, width, length, distort=False):
    """All arrivals of a whole tree, unpruned, from the uniform numbers that rsd_s uses, and the beam's levels."""
    at = common_randomness(seed)
    times, log_q, kept = {(): 0.0}, {(): 0.0}, []
    front = [()]
    for _ in range(length):
        following = []
        for path in front:
            probs = q([path])[0]
            clock = -torch.log1p(-torch.rand(probs.shape, dtype=torch.float64, generator=at(path))) / probs
            scale = 1.0 if distort else math.exp(-log_q[path])
            for token in range(len(probs)):
                child = (*path, token)
                times[child] = times[path] + float(clock[token] - clock.min()) * scale
                log_q[child] = log_q[path] + math.log(float(probs[token]))
                following.append(child)
        front = following
        kept.append(set(sorted(front, key=times.__getitem__)[:width]))
    return kept


def test_stochastic_beam_search_draws_sequences_without_replacement():
    q = toy(21)
    probs = without_replacement(sequence_distribution(q, 2), 2)
    assert sum(probs.values()) == pytest.approx(1)
    counts = Counter(leaf_set(rsd_s(q, common_randomness(seed), 2, 2)) for seed in range(SAMPLES))
    assert farthest(counts, probs, SAMPLES) < 5
    # The discrete twin, which the losslessness tests enumerate, has exactly this distribution.
    exact = Counter()
    for tree, chance in outcomes(lambda choose: beam_by_arrivals(q, 2, 2, choose)):
        exact[leaf_set(tree)] += chance
    assert max(abs(exact[key] - probs[key]) for key in probs) < 1e-12


def test_a_race_that_forgets_the_parents_rate_is_found_out():
    q = toy(21)
    probs = without_replacement(sequence_distribution(q, 2), 2)
    broken = Counter(frozenset(beam_times(q, seed, 2, 2, distort=True)[1]) for seed in range(SAMPLES))
    assert farthest(broken, probs, SAMPLES) > 8


def test_every_tree_of_the_beam_has_its_probability():
    q = toy(4, zeros=True)
    probs = Counter()
    for tree, chance in outcomes(lambda choose: beam_by_arrivals(q, 2, 2, choose)):
        probs[tree.drafts, tree.paths] += chance
    assert sum(probs.values()) == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    drawn = (rsd_s(q, generator, 2, 2) for _ in range(SAMPLES))
    assert farthest(Counter((tree.drafts, tree.paths) for tree in drawn), probs, SAMPLES) < 5


@pytest.mark.parametrize("seed", range(20))
def test_pruning_level_by_level_loses_nothing(seed):
    q = toy(seed, 4)
    tree = rsd_s(q, common_randomness(seed), 3, 3)
    levels = [{path for path in tree.paths if len(path) == depth} for depth in (1, 2, 3)]
    assert levels == beam_times(q, seed, 3, 3)


def test_arrivals_are_gumbel_scores_conditioned_on_their_maximum():
    probs = torch.tensor([0.5, 0.2, 0.0, 0.3], dtype=torch.float64)
    uniform = torch.tensor([0.9, 0.4, 0.1, 0.2], dtype=torch.float64)
    log_q, time = math.log(0.04), 3.0
    arrival, token = child_arrivals(probs, uniform, log_q, math.log(time), 4)
    # Kool et al. 2019, appendix B: G_c = phi_c + Gumbel, pushed under the parent's score G = -log t.
    phi = log_q + probs.log()
    score = phi - torch.log(-torch.log1p(-uniform))
    top, parent = score.max(), -math.log(time)
    v = parent - score + torch.log1p(-torch.exp(score - top))
    pushed = parent - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
    assert token.tolist() == torch.argsort(pushed, descending=True)[:3].tolist()
    torch.testing.assert_close(-arrival, pushed[token], atol=1e-12, rtol=0)
    assert float(arrival[0]) == math.log(time)


def test_common_random_numbers_share_nodes_and_keep_the_distribution():
    q = toy(5, 4)
    for seed in range(20):
        draw = sampling(common_randomness(seed))
        paths = [set(tree.paths) for tree in (chain(q, draw, 2), rsd_c(q, draw, (2, 1)), rsd_c(q, draw, (3, 2)))]
        assert paths[0] <= paths[1] <= paths[2]
        assert rsd_s(q, common_randomness(seed), 1, 2).paths == chain(q, draw, 2).paths
    probs = Counter()
    for tree, chance in tree_distribution(lambda m, d: rsd_c(m, d, (2, 1)), toy(5)):
        probs[tree.drafts] += chance
    counts = Counter(rsd_c(toy(5), sampling(common_randomness(seed)), (2, 1)).drafts for seed in range(SAMPLES))
    assert farthest(counts, probs, SAMPLES) < 5


def test_sizes_of_the_budgets():
    for budget, vectors in {
        6: [(2, 2), (2, 1, 1), (3, 1)],
        10: [(2, 2, 1)],
        14: [(2, 2, 2)],
        21: [(3, 2, 2)],
        30: [(2, 2, 2, 2)],
    }.items():
        assert all(nodes_of(vector) == budget for vector in vectors)
        assert set(vectors) <= set(branchings(budget))
    assert branchings(6, length=2) == [(3, 1), (2, 2)]
    tree = rsd_c(toy(1, 5), sampling(torch.Generator().manual_seed(0)), (3, 2, 2))
    assert (tree.size, tree.length, tree.draft_passes) == (21, 3, 3)
    spread = independent_paths(toy(1, 5), sampling(torch.Generator().manual_seed(0)), 3, 4)
    assert spread.size <= 12
    assert all(sum(len(path) == depth for path in spread.paths) <= 3 for depth in range(1, 5))


def every_shape(budget, ranks):
    if budget == 0:
        return [()]
    found = []
    for first in range(1, budget + 1):
        if ranks:
            found += [
                (below, *beside)
                for below in every_shape(first - 1, RANKS)
                for beside in every_shape(budget - first, ranks - 1)
            ]
    return found


RANKS = 3


def worth(shape, acceptance):
    return sum(a * (1 + worth(child, acceptance)) for a, child in zip(acceptance, shape, strict=False))


@pytest.mark.parametrize("acceptance", [(0.6, 0.2, 0.1), (0.4, 0.35, 0.2), (0.9, 0.0, 0.0), (0.1, 0.3, 0.5)])
@pytest.mark.parametrize("depth", [None, 2])
def test_sequoia_finds_the_best_of_all_shapes(acceptance, depth):
    for budget in (1, 3, 6):
        shape, value = best_shape(acceptance, budget, depth)
        fitting = [s for s in every_shape(budget, RANKS) if depth is None or depth_of(s) <= depth]
        assert value == pytest.approx(max((worth(s, acceptance) for s in fitting), default=value))
        assert value == pytest.approx(worth(shape, acceptance))
        assert size_of(shape) <= budget
    tree = shaped(toy(3, 5), sampling(torch.Generator().manual_seed(1)), shape)
    assert (tree.size, tree.length) == (size_of(shape), depth_of(shape))


def test_dynamic_trees_hold_the_most_probable_nodes():
    q = toy(6, 4)
    tree = dynamic_top_k(q, 7, 4, 3)
    probability = {
        path: math.prod(float(q([path[:k]])[0, path[k]]) for k in range(len(path))) for path in all_paths(4, 3)
    }
    best = sorted(probability, key=probability.__getitem__, reverse=True)[:7]
    # With as many tokens as the vocabulary the beam cuts nothing off that could be among so few.
    assert set(tree.paths[1:]) == set(best)
    assert tree.draft_passes == 3
    narrow = dynamic_top_k(q, 30, 2, 3)
    assert all(len(drafts) <= 2 for drafts in narrow.drafts)
    assert narrow.size == 2 + 4 + 4


@pytest.mark.parametrize(
    "build",
    [
        lambda q, d: rsd_c(q, d, (0, 0)),
        lambda q, d: rsd_c(q, d, (2, 0)),
        lambda q, d: rsd_c(q, d, ()),
        lambda q, d: rsd_c(q, d, (2, 1.5)),
        lambda q, d: rsd_c(q, d, (True,)),
        lambda q, d: chain(q, d, 0),
        lambda q, d: independent_paths(q, d, 0, 2),
        lambda q, d: rsd_s(q, None, 0, 2),
        lambda q, d: rsd_s(q, None, 2, 0),
        lambda q, d: dynamic_top_k(q, 0, 2, 2),
        lambda q, d: shaped(q, d, ()),
        lambda q, d: best_shape((0.7, 0.5), 3),
        lambda q, d: best_shape((), 3),
        lambda q, d: best_shape((0.7,), 0),
        lambda q, d: nodes_of((0,)),
    ],
)
def test_shapes_that_are_none_are_refused(build):
    with pytest.raises(InputError):
        build(toy(1), sampling(torch.Generator().manual_seed(0)))


def narrow(paths):
    """Two tokens of four have mass; below token 0 one alone."""
    rows = {True: [1.0, 0.0, 0.0, 0.0], False: [0.75, 0.0, 0.25, 0.0]}
    return torch.tensor([rows[bool(path) and path[-1] == 0] for path in paths], dtype=torch.float64)


def test_distributions_with_fewer_tokens_than_children():
    generator = torch.Generator().manual_seed(0)
    tree = rsd_c(narrow, sampling(generator), (3, 3))
    assert all(sorted(drafts, reverse=True)[-1] == NO_DRAFT for drafts in tree.drafts if drafts)
    assert tree.size == 2 + 3
    assert rsd_s(narrow, generator, 5, 2).size == 2 + 3
    assert dynamic_top_k(narrow, 9, 3, 2).size == 2 + 3
    assert shaped(narrow, sampling(generator), (((), ()), (), ())).size <= 2 + 2
    p = toy(2, 4)
    for rule in ("recursive", "traversal", "rrs_without_replacement"):
        ways = stops(tree, p(tree.paths), rule)
        assert sum(way.probability for way in ways) == pytest.approx(1, abs=1e-12)


def test_nothing_is_drafted_below_the_end_of_the_text():
    generator = torch.Generator().manual_seed(0)
    for tree in (
        rsd_c(toy(5), sampling(generator), (3, 2), {1}),
        independent_paths(toy(5), sampling(generator), 6, 3, {1}),
        rsd_s(toy(5), generator, 4, 3, {1}),
        dynamic_top_k(toy(5), 9, 3, 3, {1}),
        shaped(toy(5), sampling(generator), (((),), ((),), ((),)), {1}),
    ):
        assert any(tree.ends(v) for v in range(len(tree.tokens)))
        assert all(1 not in path[:-1] for path in tree.paths)
