"""Rules that look across nodes in the model of the advice: the formula, the simulation, and its control variate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.trees import across
from mdsd_bounds.trees.advise import BEST, Profile, advise
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.builders import chain, rsd_c
from mdsd_bounds.trees.costs import costs_from
from mdsd_bounds.trees.rows import Exchangeable, Rows
from mdsd_bounds.trees.timing import seconds_at_nodes
from mdsd_bounds.trees.verify import expected_emitted, stops
from mdsd_bounds.verifiers import acceptance_rate

SIZE, DRAFTS = 4, (1, 2)


def some_rows(count: int = 3) -> Rows:
    generator = torch.Generator().manual_seed(5)
    p, q = (torch.rand((count, SIZE), dtype=torch.float64, generator=generator) ** 2 for _ in range(2))
    return Rows(p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True), np.arange(count))


def profiles_of(rows: Rows, sampler: str = "without_replacement") -> list[Profile]:
    rule = {"without_replacement": "rrs_without_replacement", "with_replacement": "rrs"}[sampler]
    rates = acceptance_rate(rows.target, rows.draft, n_drafts=DRAFTS, sampler=sampler, verifier=rule).value
    bound = optimal_acceptance(rows.target, rows.draft, n_drafts=DRAFTS, sampler=sampler).value
    return [Profile(sampler, rule, rates.T.numpy()), Profile(sampler, BEST, bound.T.numpy())]


def exactly(rows: Rows, rule: str, levels: int) -> float:
    """Tokens of a chain by adding up every choice of rows and every draft."""
    total = 0.0
    for places in itertools.product(range(len(rows.documents)), repeat=levels + 1):
        for tokens in itertools.product(range(SIZE), repeat=levels):
            chance = len(rows.documents) ** -(levels + 1.0)
            for place, token in zip(places, tokens, strict=False):
                chance *= float(rows.draft[place, token])
            tree = chain(
                lambda paths, at=places: rows.draft[[at[len(path)] for path in paths]],
                lambda path, q, n, sampler, options, drawn=tokens: (drawn[len(path)],),
                levels,
            )
            target = rows.target[[places[depth] for depth in tree.depths]]
            total += chance * expected_emitted(tree, stops(tree, target, rule))
    return total


def test_the_simulation_has_the_mean_of_the_model() -> None:
    rows = some_rows(2)
    found, costs = profiles_of(rows), costs_from(0.1, None)
    one = across.simulated(found, rows.documents, costs, rows, rules=("block",), limits=(2, 2), trees=800)
    (two,) = (s for s in one if len(s.choice.widths) == 2)
    truth = exactly(rows, "block", 2)
    assert truth > exactly(rows, "recursive", 2) + 1e-3
    assert two.tokens[0] == pytest.approx(truth, abs=0.02)
    assert two.seconds > 0


def test_the_control_variate_is_the_formula_on_the_same_trees() -> None:
    rows = some_rows()
    (profile, _) = profiles_of(rows)
    a = profile.rates.mean(0)
    values = []
    for number in range(800):
        model = Exchangeable(rows, number % 3, np.random.default_rng(number))
        tree = rsd_c(model.draft, sampling(torch.Generator().manual_seed(number)), (2, 1))
        values.append(expected_emitted(tree, stops(tree, model.target(tree.paths), "recursive")))
    error = float(np.std(values)) / len(values) ** 0.5
    assert abs(np.mean(values) - (1 + a[1] + a[1] * a[0])) < 4 * error


def test_every_rule_stands_on_the_trees_that_admit_it() -> None:
    rows = some_rows(6)
    found = [*profiles_of(rows), *profiles_of(rows, "with_replacement")]
    costs = costs_from(0.1, "1:1,8:1.2", target_ms=10.0)
    results = across.simulated(found, rows.documents, costs, rows, limits=(6, 3), trees=12)
    named = {(s.choice.profile.sampler, s.choice.profile.verifier) for s in results}
    # Traversal rejects one child at a time, which drafts with replacement do not allow.
    assert named == {
        ("without_replacement", "block"),
        ("without_replacement", "traversal"),
        ("without_replacement", "sweep"),
        ("with_replacement", "sweep"),
    }
    advice = advise(found, rows.documents, costs, 6, 3, results)
    choice = advice[advice["kind"] == "choice"]
    assert {"block", "traversal", "sweep"} <= set(choice["verifier"])
    assert list(choice["speed"]) == sorted(choice["speed"], reverse=True)
    assert (choice["tokens_ci_low"] <= choice["tokens"]).all()
    assert (choice["tokens"] <= choice["tokens_ci_high"]).all()


def test_no_simulation_without_a_rule_whose_formula_is_known() -> None:
    rows = some_rows()
    bound = profiles_of(rows)[1]
    assert across.simulated([bound], rows.documents, costs_from(0.1, None), rows) == []


def test_times_are_of_the_pairs_that_fit() -> None:
    rows = some_rows()
    pairs = {("without_replacement", "rrs_without_replacement"): "recursive", ("top_k", "k_seq"): "k_seq"}
    times = seconds_at_nodes(rows, pairs, 2)
    assert list(times) == [("without_replacement", "rrs_without_replacement")]
    assert times["without_replacement", "rrs_without_replacement"].shape == (2,)
    assert (times["without_replacement", "rrs_without_replacement"] > 0).all()
