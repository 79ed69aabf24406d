"""Advice from a dump: costs, the value of trees under exchangeable positions, the ranking, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from mdsd_bounds.cli import app
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.advice_in_words import in_words
from mdsd_bounds.trees.advise import (
    BEST,
    Choice,
    Costs,
    Profile,
    advise,
    choices,
    costs_from,
    profiles,
    resampled,
)
from mdsd_bounds.trees.bounds import node_optimum
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.enumerate import tree_distribution
from mdsd_bounds.trees.sequoia import best_shape, shaped
from mdsd_bounds.trees.speed_frontier import frontier, speed_by_nodes
from mdsd_bounds.trees.verify import expected_emitted, stops
from mdsd_bounds.verifiers import acceptance_rate

P = torch.tensor([0.5, 0.35, 0.15], dtype=torch.float64)
Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
FLAT = Costs(((1, 1.0),), ((1, 0.1),), "target forward pass")


def same_everywhere(probs):
    """A language model whose positions are exchangeable indeed: one distribution after every path."""
    return lambda paths: probs.expand(len(paths), -1)


def exact(sampler="without_replacement", verifier="rrs_without_replacement", most=3):
    rate = acceptance_rate(P, Q, n_drafts=tuple(range(1, most + 1)), sampler=sampler, verifier=verifier)
    return Profile(sampler, verifier, rate.value.numpy()[None].repeat(4, 0))


@pytest.mark.parametrize("vector", [(1, 1, 1), (2, 2), (3, 1)])
def test_tokens_of_a_branching_vector_are_exact_where_positions_are_exchangeable(vector):
    trees = tree_distribution(lambda m, d: rsd_c(m, d, vector), same_everywhere(Q))
    probs = same_everywhere(P)
    truth = sum(c * expected_emitted(t, stops(t, probs(t.paths), "rrs_without_replacement")) for t, c in trees)
    profile = exact()
    assert float(Choice(profile, vector).tokens(profile.rates[0])) == pytest.approx(truth, abs=1e-9)


def test_tokens_of_a_shape_by_rank_are_exact_where_positions_are_exchangeable():
    profile = exact()
    shape, value = best_shape(np.diff(profile.rates[0], prepend=0.0), 6, 3)
    trees = tree_distribution(lambda m, d: shaped(m, d, shape), same_everywhere(Q))
    probs = same_everywhere(P)
    truth = sum(c * expected_emitted(t, stops(t, probs(t.paths), "rrs_without_replacement")) for t, c in trees)
    choice = Choice(profile, shape=shape)
    assert float(choice.tokens(profile.rates[0])) == pytest.approx(truth, abs=1e-9)
    assert truth == pytest.approx(1 + value, abs=1e-9)
    assert sum(choice.widths) == 6
    # Nothing that decides node by node exceeds the increments of alpha* where earlier children are worth more.
    best = Profile("without_replacement", BEST, bound_rates())
    falling = Choice(best, shape=best_shape(np.diff(best.rates[0], prepend=0.0), 6, 3)[0])
    assert float(falling.tokens(best.rates[0])) >= float(falling.tokens(profile.rates[0]))
    assert float(Choice(best, (2, 2)).tokens(best.rates[0])) == pytest.approx(
        1 + node_optimum(probs, same_everywhere(Q), (2, 2)), abs=1e-8
    )


def bound_rates():
    from mdsd_bounds import optimal_acceptance

    return optimal_acceptance(P, Q, n_drafts=(1, 2, 3), sampler="without_replacement").value.numpy()[None].repeat(4, 0)


def test_costs_are_those_of_every_draft_call_and_one_target_call():
    costs = costs_from(0.2, "1:1,9:1.8,33:3")
    assert costs.of([]) == 1.0
    assert costs.of([1, 1, 1]) == pytest.approx(3 * 0.2 + 1.3)
    assert costs.of([2, 4, 8]) == pytest.approx(3 * 0.2 + 1.8 + 6 * 0.05)
    assert costs.of([40]) == pytest.approx(0.2 + 3)
    assert Choice(exact(), (2, 2, 1)).widths == [2, 4, 4]
    assert Choice(exact(), shape=(((), ()), (), ((),))).widths == [3, 3]


def test_costs_of_a_file_count_the_width_of_each_level(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"target": {"1": 0.5, "31": 2.0}, "draft": {"1": 0.1, "3": 0.2}}))
    costs = costs_from(None, str(file))
    assert costs.unit == "second"
    assert costs.of([2, 4]) == pytest.approx(0.1 + 0.15 + 0.5 + 1.5 * 6 / 30)
    # The option is in target forward passes over one token, of half a second each here.
    assert costs_from(0.3, str(file)).of([2, 4]) == pytest.approx(0.3 + 0.5 + 1.5 * 6 / 30)


@pytest.mark.parametrize(
    ("draft", "target", "message"),
    [
        (None, None, "draft's cost is unknown"),
        (0.0, None, "positive"),
        (0.1, "1:1,0:2", "from 1"),
        (0.1, "1:-1", "positive"),
        (0.1, "1:1,4:0", "positive"),
        (0.1, "1:1,4:2,1:3", "twice"),
        (0.1, "1=1", "nodes:cost pairs"),
        (0.1, "one:1", "numbers of nodes"),
        (0.1, "nowhere.json", r"nowhere\.json: cannot be opened \(No such file"),
    ],
)
def test_costs_that_are_none_are_refused(draft, target, message):
    with pytest.raises(InputError, match=message):
        costs_from(draft, target)


def test_costs_out_of_order_are_sorted():
    costs = costs_from(0.1, "33:3,1:1,9:1.8")
    assert costs.target == ((1, 1.0), (9, 1.8), (33, 3.0))
    assert costs.widest == 33


def test_a_batch_reads_the_nodes_of_all_its_texts_and_verifies_one_after_the_other():
    costs = costs_from(0.2, "1:1,9:1.8,33:3", batch=4, target_ms=20.0)
    # Two levels of 2 nodes: the draft reads 4 and 8 tokens, the target 4 * 5.
    passes = 2 * 0.2 + 1.8 + 1.2 * 11 / 24
    assert costs.of([2, 2]) == pytest.approx(passes / 4)
    assert costs.of([2, 2], verification=0.005) == pytest.approx(passes / 4 + 0.25)
    assert costs.of([]) == pytest.approx((1 + 0.8 * 3 / 8) / 4)
    assert costs_from(0.2, None).of([2], verification=1.0) == costs_from(0.2, None).of([2])
    for wrong in ({"batch": 0}, {"target_ms": 0.0}, {"target_ms": float("nan")}):
        with pytest.raises(InputError, match=r"at least 1|more than 0"):
            costs_from(0.2, None, **wrong)


def test_seconds_say_how_long_a_call_takes_alone(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"target": {"1": 0.5}, "draft": {"1": 0.1}}))
    assert costs_from(None, str(file)).of([1], verification=0.25) == pytest.approx(0.1 + 0.5 + 0.25)
    with pytest.raises(InputError, match="leave out --target-ms"):
        costs_from(None, str(file), target_ms=5.0)


def test_the_time_of_verification_counts_nodes_that_are_come_to():
    profile = Profile("s", "v", np.array([[0.5, 0.8]]).repeat(4, 0))
    times = np.array([1.0, 3.0])
    assert Choice(profile, (2, 1, 1)).seconds(profile.rates[0], times) == pytest.approx(3 + 0.8 + 0.8 * 0.5)
    # By rank: .5 and .3; the second child is a leaf.
    assert Choice(profile, shape=(((),), ())).seconds(profile.rates[0], times) == pytest.approx(3 + 0.5)


def test_a_slow_verification_loses_to_a_worse_rule():
    fast, slow = exact(), Profile("without_replacement", "slow", np.minimum(exact().rates * 1.2, 1.0))
    rows = np.array([0, 0, 1, 1])
    for seconds, first in ((0.0, "slow"), (0.5, "rrs_without_replacement")):
        costs = Costs(
            ((1, 1.0),), ((1, 0.1),), "second", seconds=1.0,
            verification={("without_replacement", "slow"): np.full(3, seconds)},
        )  # fmt: skip
        advice = advise([fast, slow], rows, costs, 6, 3)
        assert advice.iloc[0]["verifier"] == first
        assert np.isnan(advice.set_index(["kind", "verifier"])["verify_ms"]["choice", "rrs_without_replacement"])


def test_the_ranking_is_the_maximum_over_all_trees():
    profile, best = exact(), Profile("without_replacement", BEST, bound_rates())
    documents = np.array([0, 0, 1, 1])
    advice = advise([profile, best], documents, FLAT, 12, 5)
    speeds = [float(c.tokens(profile.rates[0])) / FLAT.of(c.widths) for c in choices(profile, 12, 5)]
    top = advice.iloc[0]
    assert top["kind"] == "choice"
    assert top["speed"] == pytest.approx(max(speeds))
    assert list(advice["kind"]) == ["choice", "better verifier", "better draft", "no drafts"]
    assert advice["speed"].iloc[1] >= top["speed"] - 1e-12
    assert advice["speed"].iloc[2] >= advice["speed"].iloc[1]
    assert advice["speed"].iloc[3] == pytest.approx(1.0)
    assert top["behind"] == 0.0
    assert "better rule" in in_words(advice)


def test_a_dear_draft_is_not_worth_a_call():
    costs = Costs(((1, 1.0),), ((1, 50.0),), "target forward pass")
    advice = advise([exact()], np.array([0, 0, 1, 1]), costs, 6, 3)
    assert advice.iloc[0]["speed"] < 1.0
    assert advice.iloc[0]["behind_ci_low"] == advice.iloc[0]["behind_ci_high"] == 0.0
    assert float(advice[advice["kind"] == "no drafts"]["speed"].iloc[0]) == 1.0
    top = advice.iloc[0]
    tree = f"the best tree ({top['sampler']}, {top['verifier']}, {top['tree']}) reaches only {top['speed']:.2f} times"
    assert in_words(advice).startswith(f"decode without drafts: {tree} that speed; ")
    assert in_words(advice, costs).startswith(f"decode without drafts, even if verification cost nothing: {tree}")
    assert in_words(advice, replace(costs, seconds=0.01)) == in_words(advice)


def test_rules_that_do_the_same_stand_in_one_line_and_others_are_ranked():
    rows = np.array([0, 0, 1, 1])
    one = exact(most=1)
    twin = Profile("with_replacement", "rrs", one.rates)
    worse = Profile("top_k", "slow", one.rates * 0.8)
    advice = advise([worse, one, twin], rows, FLAT, 4, 4)
    real = advice[advice["kind"] == "choice"]
    assert list(real["verifier"]) == ["rrs, rrs_without_replacement", "slow"]
    assert real["behind"].iloc[1] > 0
    with pytest.raises(InputError, match="no verifier fits"):
        advise([Profile("top_k", BEST, one.rates)], rows, FLAT, 4, 4)


def test_the_intervals_are_a_bootstrap_over_documents():
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(20), 5)
    rates = np.clip(generator.normal(np.repeat(generator.uniform(0.5, 0.9, 20), 5), 0.02), 0, 1)[:, None]
    means = resampled(Profile("s", "v", rates), documents)
    assert means[0, 0] == pytest.approx(rates.mean())
    by_document = rates.reshape(20, 5).mean(1)
    assert means[1:, 0].std() == pytest.approx(by_document.std() / 20**0.5, rel=0.08)


def test_profiles_need_every_number_of_drafts():
    table = pd.DataFrame(
        {
            "sampler": "top_k",
            "verifier": "v",
            "drafts": [1, 1, 3, 3],
            "row": [0, 1, 0, 1],
            "doc": [0, 1, 0, 1],
            "acceptance": 0.5,
            "value": 0.6,
        }
    )
    with pytest.raises(InputError, match="without gaps"):
        profiles(table)
    table["drafts"] = [1, 1, 2, 2]
    found, documents = profiles(table)
    assert [(p.verifier, p.rates.shape) for p in found] == [("v", (2, 2)), (BEST, (2, 2))]
    assert documents.tolist() == [0, 1]


def test_the_frontier_holds_the_best_tree_of_each_size():
    table = frontier([exact()], np.array([0, 0, 1, 1]), 8, 8)
    profile = exact()
    sequoia = table[table["family"] == "Sequoia"].set_index("nodes")["tokens"]
    for nodes in (3, 6, 8):
        _, value = best_shape(np.diff(profile.rates[0], prepend=0.0), nodes, 8)
        assert sequoia[nodes] == pytest.approx(1 + value)
    assert (table["ci_low"] <= table["tokens"] + 1e-12).all()


def test_the_command(tmp_path):
    generator = np.random.default_rng(1)
    target = generator.normal(size=(12, 9)).astype(np.float32) * 2
    np.savez(
        tmp_path / "pair.npz",
        target_logits=target,
        draft_logits=target + generator.normal(size=(12, 9)).astype(np.float32),
        doc=np.arange(12) // 3,
    )
    figure = tmp_path / "frontier.png"
    command = ["advise", str(tmp_path / "pair.npz"), "--draft-cost", "0.2", "--nodes", "10", "--depth", "4", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--format", "json", "--figure", str(figure)])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {row["kind"] for row in rows} == {"choice", "better verifier", "better draft", "no drafts"}
    real = [row["speed"] for row in rows if row["kind"] == "choice"]
    assert real == sorted(real, reverse=True)
    assert figure.stat().st_size > 5000
    assert "exchangeable" in result.stderr
    assert {"block", "traversal", "sweep"} <= {row["verifier"] for row in rows if row["kind"] == "choice"}
    assert all(row["verify_ms"] > 0 for row in rows if row["kind"] == "choice")
    without = CliRunner().invoke(
        app, [*command, "--rules", "none", "--batch", "4", "--target-ms", "20", "--format", "json"]
    )
    assert without.exit_code == 0, without.output
    assert not {"block", "traversal", "sweep"} & {row["verifier"] for row in json.loads(without.stdout)}
    assert "4 texts a batch" in without.stderr
    assert "not in the speed" in result.stderr
    assert "not in the speed" not in without.stderr
    for wrong in (
        ["--rules", "speed"],
        ["--batch", "0"],
        ["--draft-cost", "-1"],
        ["--target-cost", "x"],
        ["--verifier", "nonesuch"],
    ):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code != 0


def test_two_rules_that_differ_by_their_samples_alone_are_not_told_apart_for_certain():
    exactly = np.linspace(0.7, 0.9, 12)[:, None].repeat(2, 1)
    sampled = Profile("with_replacement", "sampled", exactly + 0.002, np.full(2, 0.004))
    found = [Profile("with_replacement", "rrs", exactly), Profile("with_replacement", BEST, exactly), sampled]
    advice = advise(found, np.repeat(np.arange(6), 2), FLAT, 4, 4)
    assert advice["verifier"].tolist()[:2] == ["sampled", "rrs"]
    assert "not certain at 95%" in in_words(advice)
    same = [found[0], found[1], Profile("with_replacement", "sampled", exactly + 0.002)]
    assert "behind, certain at 95%" in in_words(advise(same, np.repeat(np.arange(6), 2), FLAT, 4, 4))


def test_a_single_document_makes_nothing_certain():
    rates = np.linspace(0.7, 0.9, 12)[:, None].repeat(2, 1)
    found = [
        Profile("with_replacement", name, rates + add) for name, add in (("rrs", 0.0), (BEST, 0.02), ("k_seq", 0.01))
    ]
    advice = advise(found, np.zeros(12, dtype=int), FLAT, 4, 4)
    assert "behind, from a single document)" in in_words(advice)
    real = advice[advice["kind"] == "choice"]
    assert real[[name for name in advice if "_ci_" in name]].isna().all(axis=None)
    assert frontier(found, np.zeros(12, dtype=int), 4, 4)[["ci_low", "ci_high"]].isna().all(axis=None)
    assert speed_by_nodes(found, np.zeros(12, dtype=int), FLAT, 4, 4)["speed_ci_low"].isna().all()


@pytest.mark.parametrize("cost", ["5e-324", "1e308", "1e-31", "nan"])
def test_costs_of_which_speeds_are_not_finite(cost: str):
    with pytest.raises(InputError, match="1e-30 to 1e\\+30"):
        costs_from(0.3, f"1:{cost}")
    with pytest.raises(InputError, match="1e-30 to 1e\\+30"):
        costs_from(float(cost), None)
    with pytest.raises(InputError, match="milliseconds"):
        costs_from(0.3, None, target_ms=float(cost))


def test_a_truth_value_is_no_cost(tmp_path: Path):
    (tmp_path / "costs.json").write_text('{"target": {"1": true}, "draft": {"1": 1}}')
    with pytest.raises(InputError, match="give numbers of nodes and costs"):
        costs_from(None, str(tmp_path / "costs.json"))


def test_profiles_take_the_monte_carlo_error_of_the_table():
    rows = [
        (r, r // 2, n, v, 0.9, a, e)
        for r in range(4)
        for n in (1, 2)
        for v, a, e in (("rrs", 0.8, 0.0), ("x", 0.7, 0.02))
    ]
    table = pd.DataFrame(rows, columns=["row", "doc", "drafts", "verifier", "value", "acceptance", "mc_stderr"])
    found, _ = profiles(table.assign(sampler="with_replacement"))
    errors = {profile.verifier: profile.mc_stderr for profile in found}
    assert errors["rrs"] is None
    assert errors[BEST] is None
    assert errors["x"] == pytest.approx([0.01, 0.01])
