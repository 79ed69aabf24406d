"""Sequence-level losslessness of every builder x verifier that makes sense, exactly; broken rules must fail."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import pytest
import torch
from toy_models import emitted_distribution, sequence_distribution, toy, worst_difference

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees import greedy_path
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.bounds import joint_optimum
from mdsd_bounds.trees.builders import chain, independent_paths, rsd_c
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.enumerate import beam_by_arrivals, outcomes, tree_distribution
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.verify import ONE_BY_ONE, Stop, expected_emitted, stops, verify
from mdsd_bounds.verifiers import VERIFIERS
from mdsd_bounds.verifiers.base import Verifier

STOP = frozenset({1})
LENGTH = 3


def builders(q, stop=()):
    """Name -> (sampler, every tree with its probability); depth 2, vocabulary 3."""
    return {
        "chain": ("without_replacement", lambda: tree_distribution(lambda m, d: chain(m, d, 2, stop), q)),
        "paths": ("with_replacement", lambda: tree_distribution(lambda m, d: independent_paths(m, d, 2, 2, stop), q)),
        "paths3": ("with_replacement", lambda: tree_distribution(lambda m, d: independent_paths(m, d, 3, 2, stop), q)),
        "rsd_c": ("without_replacement", lambda: tree_distribution(lambda m, d: rsd_c(m, d, (2, 2), stop), q)),
        "rsd_c_wide": ("without_replacement", lambda: tree_distribution(lambda m, d: rsd_c(m, d, (3, 1), stop), q)),
        "rsd_c_iid": (
            "with_replacement",
            lambda: tree_distribution(lambda m, d: rsd_c(m, d, (2, 2), stop, sampler="with_replacement"), q),
        ),
        "rsd_c_greedy": (
            "greedy",
            lambda: tree_distribution(lambda m, d: rsd_c(m, d, (2, 2), stop, sampler="greedy"), q),
        ),
        "top_m_plus": (
            "top_m_plus",
            lambda: tree_distribution(lambda m, d: rsd_c(m, d, (2, 2), stop, sampler="top_m_plus", m=1), q),
        ),
        "rsd_s": ("without_replacement", lambda: outcomes(lambda c: beam_by_arrivals(q, 2, 2, c, stop))),
        "sequoia": (
            "without_replacement",
            lambda: tree_distribution(lambda m, d: shaped(m, d, (((), ()), ()), stop), q),
        ),
        "dynamic": ("top_k", lambda: [(dynamic_top_k(q, 4, 2, 2, stop), 1.0)]),
    }


@cache
def case(builder, zeros, ending):
    q = toy(5, zeros=zeros)
    sampler, make = builders(q, STOP if ending else ())[builder]
    return sampler, make()


def fits_two_drafts(verifier, builder):
    return verifier.drafts_needed is None or builder == "rsd_c_greedy"


def rules_for(sampler, builder):
    names = [
        name
        for name, v in VERIFIERS.items()
        if sampler in v.samplers and v.lossless and v.output_distribution is not None and fits_two_drafts(v, builder)
        if builder != "rsd_s" or name in ONE_BY_ONE
    ]
    names.append("recursive")
    if builder != "rsd_s":
        names.append("sweep")
    if builder == "chain":
        names.append("block")
    if sampler != "with_replacement":
        names.append("traversal")
    return names


PAIRS = [(name, rule) for name, (sampler, _) in builders(toy(5)).items() for rule in rules_for(sampler, name)]


@pytest.mark.parametrize(("builder", "rule"), PAIRS)
@pytest.mark.parametrize(("zeros", "ending"), [(False, False), (True, False), (False, True)])
def test_every_builder_and_rule_is_lossless_over_whole_sequences(builder, rule, zeros, ending):
    stop = STOP if ending else frozenset()
    sampler, trees = case(builder, zeros, ending)
    assert sum(chance for _, chance in trees) == pytest.approx(1, abs=1e-12)
    p = toy(11, zeros=zeros, sharp=2)
    found = emitted_distribution(trees, p, lambda tree, distributions: stops(tree, distributions, rule), LENGTH, stop)
    # importance_sampling takes its weights from a linear programme; the distribution is exact whatever they are.
    assert worst_difference(found, sequence_distribution(p, LENGTH, stop)) < 1e-12, sampler


@pytest.mark.parametrize("rule", ["recursive", "traversal"])
def test_deeper_and_shaped_trees_are_lossless(rule):
    q, p = toy(2, 2), toy(3, 2)
    trees = tree_distribution(lambda m, d: rsd_c(m, d, (2, 1, 2)), q)
    assert (
        worst_difference(emitted_distribution(trees, p, lambda t, x: stops(t, x, rule), 4), sequence_distribution(p, 4))
        < 1e-12
    )
    beams = outcomes(lambda c: beam_by_arrivals(q, 2, 3, c))
    assert (
        worst_difference(emitted_distribution(beams, p, lambda t, x: stops(t, x, rule), 4), sequence_distribution(p, 4))
        < 1e-12
    )


def test_block_and_traversal_agree_on_a_path():
    q, p = toy(8), toy(9)
    for tree, _ in tree_distribution(lambda m, d: chain(m, d, 3), q):
        distributions = p(tree.paths)
        block = {way.node: way for way in stops(tree, distributions, "block")}
        for way in stops(tree, distributions, "traversal"):
            assert way.probability == pytest.approx(block[way.node].probability, abs=1e-12)
            assert torch.allclose(way.probs, block[way.node].probs, atol=1e-12)


def test_block_verification_toy_of_the_paper():
    # p = (1/3, 2/3), q = (2/3, 1/3), length 2: token level 10/9 accepted tokens, block 11/9.
    q, p = (lambda paths: torch.tensor([[2 / 3, 1 / 3]] * len(paths), dtype=torch.float64)), None
    p = lambda paths: torch.tensor([[1 / 3, 2 / 3]] * len(paths), dtype=torch.float64)  # noqa: E731
    trees = tree_distribution(lambda m, d: chain(m, d, 2), q)

    def emitted(rule):
        return sum(chance * expected_emitted(tree, stops(tree, p(tree.paths), rule)) for tree, chance in trees)

    assert emitted("recursive") == pytest.approx(1 + 10 / 9, abs=1e-12)
    assert emitted("block") == pytest.approx(1 + 11 / 9, abs=1e-12)
    assert emitted("traversal") == pytest.approx(1 + 11 / 9, abs=1e-12)


def forget_to_remove(p, q, drafts, *, sampler, **options):
    # The rejected token stays in the draft distribution: right with replacement only.
    r, left, probs = p, torch.ones(1, dtype=p.dtype), torch.zeros_like(p)
    for k in range(drafts.shape[1]):
        accept = left * (r.gather(-1, drafts[:, k : k + 1]) / q.gather(-1, drafts[:, k : k + 1])).clamp(max=1)[:, 0]
        probs = probs.scatter_add(-1, drafts[:, k : k + 1], accept[:, None])
        left, r = left - accept, (r - q).clamp(min=0)
        r = r / r.sum()
    return probs + left[:, None] * r


def emit_from_p(p, q, drafts, *, sampler, **options):
    # After a rejection the last token is drawn from p, not from the residual.
    accept = (p.gather(-1, drafts[:, :1]) / q.gather(-1, drafts[:, :1])).clamp(max=1)
    return torch.zeros_like(p).scatter_add(-1, drafts[:, :1], accept) + (1 - accept) * p


BROKEN = {
    probs.__name__: Verifier(probs.__name__, "none", True, ("without_replacement",), probs)
    for probs in (forget_to_remove, emit_from_p)
}


def test_the_published_rule_of_several_paths_that_overstates_is_found_out():
    # One draft is given the K chances of K paths: sum q (1 - (1 - min(p/q, 1))^K), more than any lossless rule accepts.
    def several_chances(tree, target):
        p, q = target[0], tree.distributions[0]
        token, count = tree.drafts[0][0], len(tree.drafts[0])
        accepted = 1 - (1 - min(1.0, float(p[token] / q[token]))) ** count
        left = (p - q).clamp(min=0)
        child = tree.children[0][token]
        return [Stop(child, accepted, target[child]), Stop(0, 1 - accepted, left / left.sum())]

    above = 0
    for seed in range(6):
        q, p = toy(seed), toy(seed + 50, sharp=2)
        trees = tree_distribution(lambda m, d: independent_paths(m, d, 2, 1), q)
        rows = p([()])[0], q([()])[0]
        formula = float(sum(b * (1 - (1 - min(1.0, float(a / b))) ** 2) for a, b in zip(*rows, strict=True)))
        emitted = sum(chance * expected_emitted(tree, several_chances(tree, p(tree.paths))) for tree, chance in trees)
        assert emitted == pytest.approx(1 + formula, abs=1e-12)
        found = emitted_distribution(trees, p, several_chances, 2)
        assert worst_difference(found, sequence_distribution(p, 2)) > 1e-4
        above += formula > joint_optimum(trees, p) + 1e-6
    assert above > 0


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_verifiers_are_found_out(name):
    _, trees = case("rsd_c", False, False)
    p = toy(11, sharp=2)
    found = emitted_distribution(trees, p, lambda tree, distributions: stops(tree, distributions, BROKEN[name]), LENGTH)
    assert worst_difference(found, sequence_distribution(p, LENGTH)) > 1e-4


def test_block_verification_with_token_level_residual_is_found_out():
    _, trees = case("chain", False, False)
    # A target whose residual holds two tokens behind a weight below one: elsewhere both residuals are the same
    # distribution.
    p = toy(17, sharp=2)

    def broken(tree, distributions):
        ways = []
        for way in stops(tree, distributions, "block"):
            q = tree.distributions[tree.probs_row[way.node]] if tree.probs_row[way.node] >= 0 else None
            left = way.probs if q is None else (distributions[way.node] - q).clamp(min=0)
            ways.append(Stop(way.node, way.probability, left / left.sum()))
        return ways

    assert worst_difference(emitted_distribution(trees, p, broken, LENGTH), sequence_distribution(p, LENGTH)) > 1e-4


def test_children_sorted_by_score_are_found_out():
    # Draw order matters: verifying the drafts in order of probability breaks losslessness.
    _, trees = case("rsd_c", False, False)
    p = toy(11, sharp=2)
    resorted = [
        (
            dataclasses.replace(
                tree,
                drafts=tuple(
                    tuple(sorted(d, key=lambda x, row=tree.probs_row[v]: -float(tree.distributions[row, x])))
                    for v, d in enumerate(tree.drafts)
                ),
            ),
            chance,
        )
        for tree, chance in trees
    ]
    found = emitted_distribution(resorted, p, lambda t, x: stops(t, x, "recursive"), LENGTH)
    assert worst_difference(found, sequence_distribution(p, LENGTH)) > 1e-4


def mean_over_the_next_draft(verifier, p, q, drafts):
    """Largest change of the output distribution when one more draft is drawn, on average over that draft."""
    now = verifier.probs(p, q, torch.tensor([drafts]), sampler="without_replacement")[0]
    left = q[0].clone()
    left[list(drafts)] = 0.0
    mean = torch.zeros_like(now)
    for token in left.nonzero()[:, 0].tolist():
        probs = verifier.probs(p, q, torch.tensor([[*drafts, token]]), sampler="without_replacement")[0]
        mean += left[token] / left.sum() * probs
    return float((mean - now).abs().max())


@pytest.mark.parametrize(
    "name", [n for n, v in VERIFIERS.items() if "without_replacement" in v.samplers and v.lossless]
)
def test_rules_are_taken_on_a_beam_exactly_where_their_distribution_is_a_martingale(name):
    worst = 0.0
    for seed in range(4):
        p, q = toy(seed, 4, sharp=2)([()]), toy(seed + 20, 4)([()])
        for first in range(4):
            worst = max(worst, mean_over_the_next_draft(VERIFIERS[name], p, q, (first,)))
    assert (worst < 1e-12) == (name in ONE_BY_ONE), worst


def last_draft(p, q, drafts, *, sampler, **options):
    """Verify the last of n drafts against its marginal distribution: lossless for every n that is fixed beforehand."""
    n, size = drafts.shape[1], q.shape[1]
    marginal = torch.zeros_like(q)
    for order in itertools.permutations(range(size), n):
        chance, left = 1.0, 1.0
        for token in order:
            chance, left = chance * float(q[0, token]) / left, left - float(q[0, token])
        marginal[0, order[-1]] += chance
    token = drafts[:, -1:]
    accept = (p.gather(-1, token) / marginal.gather(-1, token)).clamp(max=1)
    rest = (p - marginal).clamp(min=0)
    rest = rest / rest.sum() if float(rest.sum()) > 0 else p
    return torch.zeros_like(p).scatter_(-1, token, accept) + (1 - accept) * rest


def test_a_rule_that_counts_the_drafts_is_not_lossless_on_a_beam_and_is_refused():
    rule = Verifier("last_draft", "none", True, ("without_replacement",), last_draft)
    p = toy(11, sharp=2)
    _, fixed = case("rsd_c", False, False)
    found = emitted_distribution(fixed, p, lambda tree, distributions: stops(tree, distributions, rule), LENGTH)
    assert worst_difference(found, sequence_distribution(p, LENGTH)) < 1e-12
    _, trees = case("rsd_s", False, False)
    with pytest.raises(InputError, match="stochastic beam"):
        stops(trees[0][0], p(trees[0][0].paths), rule)
    plain = [(dataclasses.replace(tree, adaptive=False), chance) for tree, chance in trees]
    found = emitted_distribution(plain, p, lambda tree, distributions: stops(tree, distributions, rule), LENGTH)
    assert worst_difference(found, sequence_distribution(p, LENGTH)) > 1e-6


@pytest.mark.parametrize(("count", "length"), [(2, 2), (3, 2), (2, 3)])
def test_the_greatest_of_independent_paths_is_verified_without_loss(count, length, monkeypatch):
    for zeros, ending in ((False, False), (True, True)):
        stop = STOP if ending else frozenset()
        q, p = toy(5, zeros=zeros), toy(11, zeros=zeros, sharp=2)
        trees = tree_distribution(lambda m, d, s=stop: independent_paths(m, d, count, length, s), q)
        found = emitted_distribution(trees, p, lambda t, x: stops(t, x, "greedy_multi_path"), LENGTH + 1, stop)
        assert worst_difference(found, sequence_distribution(p, LENGTH + 1, stop)) < 1e-13
        best = joint_optimum(trees, p)
        assert (
            sum(c * expected_emitted(t, stops(t, p(t.paths), "greedy_multi_path")) for t, c in trees) <= 1 + best + 1e-8
        )
    # The greatest of several paths taken for a path drawn from q is seen.
    monkeypatch.setattr(greedy_path, "_power_sum", lambda high, low, count: torch.ones_like(high))
    wrong = emitted_distribution(trees, p, lambda t, x: stops(t, x, "greedy_multi_path"), LENGTH + 1, stop)
    assert worst_difference(wrong, sequence_distribution(p, LENGTH + 1, stop)) > 1e-6


def test_one_path_is_its_own_greatest():
    q, p = toy(8), toy(9, sharp=2)
    for tree, _ in tree_distribution(lambda m, d: independent_paths(m, d, 1, 3), q):
        for one, other in zip(
            stops(tree, p(tree.paths), "block"), stops(tree, p(tree.paths), "greedy_multi_path"), strict=True
        ):
            assert (one.node, one.probability) == (other.node, pytest.approx(other.probability, abs=1e-13))


def test_sampled_verification_follows_the_stops():
    q, p = toy(5), toy(11)
    generator = torch.Generator().manual_seed(0)
    tree = rsd_c(q, sampling(generator), (2, 2))
    distributions = p(tree.paths)
    for rule in ("recursive", "nss", "optimal", "traversal", "sweep"):
        found = stops(tree, distributions, rule)
        ways = {way.node: way.probability for way in found}
        drawn = [verify(tree, distributions, rule, generator) for _ in range(1000)]
        # The token after the path, too: rules that go down node by node draw it another way than the stops do.
        last = torch.bincount(torch.tensor([v.tokens[-1] for v in drawn]), minlength=3) / len(drawn)
        assert (last - sum(way.probability * way.probs for way in found)).abs().max() < 5 * 0.5 / len(drawn) ** 0.5
        for node, probability in ways.items():
            share = sum((v.nodes[-1] if v.nodes else 0) == node for v in drawn) / len(drawn)
            assert abs(share - probability) < 5 * (probability * (1 - probability) / len(drawn)) ** 0.5 + 1e-9
        assert all(v.tokens[: len(v.nodes)] == tree.paths[v.nodes[-1] if v.nodes else 0] for v in drawn)


def test_rules_coupled_to_their_drafts_are_stepped_and_refused_where_a_distribution_is_needed():
    def step(p, q, drafts, generator, *, sampler, **options):
        return torch.multinomial(p, 1, generator=generator)[:, 0]

    coupled = Verifier("coupled", "none", True, ("with_replacement",), None, fast_step=step)
    q, p = toy(5), toy(11)
    generator = torch.Generator().manual_seed(1)
    count, samples = torch.zeros(3), 2000
    for _ in range(samples):
        tree = independent_paths(q, sampling(generator), 2, 1)
        count[verify(tree, p(tree.paths), coupled, generator).tokens[0]] += 1
    assert (count / samples - p([()])[0]).abs().max() < 5 * 0.5 / samples**0.5
    with pytest.raises(InputError, match="coupled"):
        stops(tree, p(tree.paths), coupled)


def test_rules_that_do_not_fit_are_refused():
    q, p = toy(5), toy(11)
    draw = sampling(torch.Generator().manual_seed(0))
    tree = rsd_c(q, draw, (2, 2))
    with pytest.raises(InputError, match="one path"):
        stops(tree, p(tree.paths), "block")
    with pytest.raises(InputError, match="sampler"):
        stops(tree, p(tree.paths), "k_seq")
    with pytest.raises(InputError, match="one distribution for each"):
        stops(tree, p(tree.paths)[:2], "recursive")
    iid = independent_paths(q, draw, 3, 2)
    with pytest.raises(InputError, match="draw without replacement"):
        stops(iid, p(iid.paths), "traversal")
    # Two different drafts below the root, so that no two paths can run through one of them.
    twice = rsd_c(q, lambda path, *_: (0, 2), (2, 2), sampler="with_replacement")
    for other in (tree, twice):
        with pytest.raises(InputError, match="independent paths"):
            stops(other, p(other.paths), "greedy_multi_path")
    with pytest.raises(InputError, match="unknown rule"):
        stops(tree, p(tree.paths), "nonesuch")


def test_a_stop_token_inside_the_tree_ends_the_text():
    q, p = toy(5), toy(11)
    generator = torch.Generator().manual_seed(3)
    ended = 0
    for _ in range(200):
        tree = rsd_s(q, generator, 2, 3, STOP)
        assert all(not tree.drafts[v] for v in range(len(tree.tokens)) if tree.ends(v))
        result = verify(tree, p(tree.paths), "recursive", generator)
        assert 1 not in result.tokens[:-1]
        ended += bool(result.nodes) and tree.ends(result.nodes[-1])
    assert ended > 0
