"""The audit's statistics: every control is flagged, no lossless rule is, and what it says of its power is so."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mdsd_bounds import VERIFIERS
from mdsd_bounds.audit import CONTROLS, audit_rule, from_arrays, judge, load_rule, self_check
from mdsd_bounds.audit.bound_test import bound_test, radius
from mdsd_bounds.audit.cells import CELLS, IMPOSSIBLE, cell_masses, cells_of
from mdsd_bounds.audit.chi_square import chi_square
from mdsd_bounds.audit.draft_check import draft_check
from mdsd_bounds.audit.martingale import wager
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.audit.render import check_data, check_text, log_data, log_text, rule_data, rule_text
from mdsd_bounds.audit.rule import audit_rows, enumerate_rule
from mdsd_bounds.audit.self_check import Checked, drawn_log, drawn_rows
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers import Verifier
from mdsd_bounds.verifiers.schemes import rrs
from mdsd_bounds.verifiers.speculative_sampling import add_at, at

LOSSLESS = [(name, s) for name, rule in VERIFIERS.items() if rule.lossless for s in rule.samplers if s != "joint"]


def outputs(p: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One draw from each row: what any lossless rule outputs."""
    below = p.cumsum(1)
    goal = (1.0 - generator.random(len(p))) * below[:, -1]
    return np.minimum((below < goal[:, None]).sum(1), p.shape[1] - 1)


# --- controls and lossless rules -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked() -> list[Checked]:
    return self_check(positions=2000)


def test_every_control_is_flagged_and_no_lossless_rule(checked: list[Checked]) -> None:
    assert [row.rule.name for row in checked if not row.rule.lossless] == list(CONTROLS)
    for row in checked:
        assert row.as_known, row.rule.name
        assert (row.counted.defect > 1e-2) == (not row.rule.lossless)
    assert "all as known" in check_text(checked)
    assert check_data(checked)["as_known"]


def test_a_broken_audit_says_so(checked: list[Checked]) -> None:
    wrong = [Checked(row.rule, row.counted, checked[-1].report) for row in checked]
    assert not all(row.as_known for row in wrong)
    assert "NOT all as known" in check_text(wrong)


def test_controls_are_no_verifiers() -> None:
    assert not set(CONTROLS) & set(VERIFIERS)
    assert not any(rule.lossless for rule in CONTROLS.values())


@pytest.mark.parametrize(("name", "sampler"), LOSSLESS)
def test_registered_rules_pass_the_enumeration(name: str, sampler: str) -> None:
    found = enumerate_rule(VERIFIERS[name], sampler, VERIFIERS[name].drafts_needed or 2)
    assert found.lossless
    assert found.excess <= 1e-12
    assert found.rows == len(list(audit_rows()))


def test_false_alarm_rate_of_lossless_rules() -> None:
    """25 logs of each rule at 5%: the count stays below the binomial limit of a rate of 5%."""
    alarms = logs = 0
    for name, sampler, n in [
        ("rrs", "with_replacement", 3),
        ("rrs_without_replacement", "without_replacement", 2),
        ("k_seq", "with_replacement", 2),
        ("greedy", "greedy", 2),
        ("nss", "top_k", 2),
    ]:
        whole = drawn_log(VERIFIERS[name], sampler, n, 25 * 100, seed=7)
        for i in range(25):
            alarms += judge(whole.part(np.arange(100 * i, 100 * (i + 1))), alpha=0.05).lossy
            logs += 1
    assert alarms <= stats.binom.isf(1e-4, logs, 0.05)


def awkward(kind: str, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size = 12
    a = 2 * generator.normal(size=(count, size))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, a + generator.normal(size=a.shape)))
    if kind == "sparse":
        p = np.where(p < 0.1, 0.0, p)
        q = np.where(q < 0.1, 0.0, q)
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    elif kind == "one-hot":
        p = (p == p.max(1, keepdims=True)).astype(float)
    elif kind == "one position again and again":
        p, q = p[:1].repeat(count, 0), q[:1].repeat(count, 0)
    elif kind == "rare":
        p = np.full((count, size), 4.0 / count / size)
        p[:, 0] = 1 - p[:, 1:].sum(1)
    elif kind == "tiny":
        p = np.full((count, size), 1e-13)
        p[:, 0] = 1 - p[:, 1:].sum(1)
    elif kind == "equal":
        q = p.copy()
    return p, q


@pytest.mark.parametrize("kind", ["sparse", "one-hot", "one position again and again", "rare", "tiny", "equal"])
def test_awkward_distributions_raise_no_alarm(kind: str) -> None:
    generator = np.random.default_rng(5)
    p, q = awkward(kind, 150, generator)
    cells = cells_of(p, q)
    probs, none = cell_masses(cells, p), np.zeros(150)
    alarms = 0
    for _ in range(60):
        seen = cells[np.arange(150), outputs(p, generator)]
        alarms += wager(probs, seen, none).crossed(0.025) is not None or chi_square(probs, seen, none).p_value < 0.025
    assert alarms <= stats.binom.isf(1e-4, 60, 0.05)


# --- the wealth ------------------------------------------------------------------------------------------------------


def small_distribution(generator: np.random.Generator, count: int) -> np.ndarray:
    """Distributions on four cells of different q/p and p, not the impossible one."""
    probs = np.zeros((count, CELLS))
    probs[:, [3, 30, 45, 77]] = generator.dirichlet(np.ones(4), size=count)
    return probs


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_the_wealth_is_a_supermartingale_exactly(tolerance: float) -> None:
    """Summed over all sequences of outputs the expected wealth is one, at most one for a distribution within reach."""
    generator = np.random.default_rng(0)
    probs = small_distribution(generator, 5)
    drift = generator.uniform(-1, 1, size=(5, len(CONTROLS), CELLS)).astype(np.float32)
    held = np.flatnonzero(probs[0] > 0)
    moved = probs.copy()
    moved[:, held[0]] -= np.minimum(tolerance, probs[:, held[0]])
    moved[:, IMPOSSIBLE] += probs[:, held[0]] - moved[:, held[0]]
    spoilt = 0.7 * probs
    spoilt[:, IMPOSSIBLE] += 0.3
    expected = {"probs": 0.0, "moved": 0.0, "spoilt": 0.0}
    for cells in itertools.product([*held, IMPOSSIBLE], repeat=5):
        seen = np.array(cells)
        chance = {
            name: x[np.arange(5), seen].prod() for name, x in [("probs", probs), ("moved", moved), ("spoilt", spoilt)]
        }
        if max(chance.values()) > 0:
            wealth = np.exp(wager(probs, seen, np.full(5, tolerance), drift).running[-1])
            for name, weight in chance.items():
                expected[name] += weight * wealth if weight > 0 else 0.0
    assert expected["moved"] <= 1 + 1e-12
    assert expected["probs"] == pytest.approx(1.0, abs=1e-12) if tolerance == 0 else expected["probs"] < 1
    # A distribution beyond the tolerance does win.
    assert expected["spoilt"] > 1.01


def test_one_impossible_token_is_a_proof_only_without_tolerance() -> None:
    probs = small_distribution(np.random.default_rng(1), 30)
    seen = np.array([int(np.argmax(row)) for row in probs])
    seen[20] = IMPOSSIBLE
    assert wager(probs, seen, np.zeros(30)).peak == np.inf
    assert wager(probs, seen, np.zeros(30)).crossed(1e-9) == 20
    assert np.isfinite(wager(probs, seen, np.full(30, 1e-6)).peak)


def test_cells_are_a_partition_of_the_distribution() -> None:
    p, q = (x.numpy() for x in drawn_rows(50, 3, size=40))
    p[:, 7] = 0.0
    cells = cells_of(p, q)
    assert (cells[:, 7] == IMPOSSIBLE).all()
    assert (cells[:, 8] < IMPOSSIBLE).all()
    assert np.allclose(cell_masses(cells, p).sum(1), p.sum(1), atol=1e-14)
    # Without q only p tells cells apart.
    assert len(np.unique(cells_of(p, p))) <= 9


# --- chi-square and power --------------------------------------------------------------------------------------------


def test_like_positions_give_pearsons_statistic() -> None:
    generator = np.random.default_rng(2)
    probs = small_distribution(generator, 1).repeat(2000, 0)
    seen = generator.choice(CELLS, size=2000, p=probs[0] / probs[0].sum())
    found = chi_square(probs, seen, np.zeros(2000))
    reference = stats.chisquare(found.observed, found.expected)
    assert found.freedom == len(found.expected) - 1
    assert found.statistic == pytest.approx(reference.statistic, rel=1e-9)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert chi_square(probs, seen, np.full(2000, 0.01)).p_value > found.p_value


def test_short_logs_have_no_chi_square() -> None:
    probs = small_distribution(np.random.default_rng(2), 12)
    found = chi_square(probs, probs.argmax(1), np.zeros(12))
    assert (found.freedom, found.p_value) == (0, 1.0)


def test_stated_power_by_simulation() -> None:
    """At the stated TV the chi-square finds 80% of the logs, the wealth at least that."""
    generator = np.random.default_rng(3)
    p, q = (x.numpy() for x in drawn_rows(1500, 1))
    none = np.full((1500, 0), 0)
    positions = from_arrays(p, q, none, outputs(p, generator))
    report = judge(positions, alpha=0.06)
    level = 0.02
    found = report.power[0]
    assert found.direction == "towards the draft"
    assert found.chi_square is not None
    assert found.wealth is not None
    for smallest, test in ((found.chi_square, "chi"), (found.wealth, "wealth")):
        mixed = p + smallest / found.whole * (q - p)
        hits = 0
        for _ in range(120):
            cells = cells_of(p, q)[np.arange(1500), outputs(mixed, generator)]
            if test == "chi":
                hits += chi_square(positions.p_mass, cells, positions.tolerance).p_value < level
            else:
                hits += wager(positions.p_mass, cells, positions.tolerance).crossed(level) is not None
        assert hits / 120 == pytest.approx(0.8, abs=0.15) if test == "chi" else hits / 120 >= 0.7


# --- bound and drafts ------------------------------------------------------------------------------------------------


def test_acceptance_above_the_bound_rejects_the_null() -> None:
    report = judge(drawn_log(CONTROLS["last_draft_accepted"], "with_replacement", 2, 300, 0))
    bound = report.tests[2]
    assert bound.name == "acceptance <= alpha*"
    assert bound.refutes
    assert report.bound is not None
    assert report.bound.acceptance == 1.0 > report.bound.bound


def test_the_first_drafts_have_bounds_of_their_own() -> None:
    """Overall acceptance hides what acceptance of the first draft shows."""
    positions = drawn_log(CONTROLS["residual_skipped"], "with_replacement", 3, 1500, 2)
    found = bound_test(positions, 0.01)
    assert found is not None
    assert "of the first 1" in found.wager.leader
    assert found.wager.crossed(0.01) is not None


def test_the_confidence_sequence_is_robbins_mixture() -> None:
    # At the edge the mixture martingale sqrt(r/(v+r)) exp(S^2 / 2(v+r)) equals 1/alpha.
    for count, level in ((10, 0.05), (5000, 0.001)):
        v, edge = count / 4 + 100, count * radius(count, level)
        assert np.sqrt(100 / v) * np.exp(edge**2 / (2 * v)) == pytest.approx(1 / level)


def test_drafts_that_do_not_follow_the_sampler_withdraw_the_bound() -> None:
    p, q = drawn_rows(800, 4)
    generator = torch.Generator().manual_seed(0)
    drafts = get_sampler("without_replacement").sample(q, 3, generator)
    order = q.gather(1, drafts).argsort(-1, descending=True)
    ranked = drafts.gather(1, order)
    token, _ = VERIFIERS["nss"].step(p, q, drafts, generator, sampler="without_replacement")

    def log(offered: Tensor, sampler: str = "without_replacement") -> Positions:
        return from_arrays(p.numpy(), q.numpy(), offered.numpy(), token.numpy(), sampler=sampler)

    fair = draft_check(log(drafts))
    assert fair is not None
    assert fair.crossed(1e-3) is None
    for offered, sampler in ((ranked, "without_replacement"), (drafts, "with_replacement")):
        found = draft_check(log(offered, sampler))
        assert found is not None
        assert found.crossed(1e-3) is not None
        report = judge(log(offered, sampler))
        assert not report.lossy
        assert any("withdrawn" in note for note in report.notes)
        assert [test.outcome for test in report.tests] == ["not refuted", "not refuted", "withdrawn"]
        said = [line for line in log_text(report).splitlines() if line.startswith("  acceptance <= alpha*")]
        assert len(said) == 1
        assert "withdrawn" in said[0]
        assert "refuted" not in said[0].replace("1/level", "")
        assert "p <=" not in said[0]
        test = log_data(report)["tests"][-1]
        assert (test["refutes"], test["value"], test["outcome"]) == (None, None, "withdrawn")
    # One draft a line: nothing is said of equal drafts.
    single = draft_check(log(q.argmax(-1, keepdim=True)))
    assert single is not None
    assert single.crossed(1e-3) is not None
    assert single.leader.startswith("first draft: ")
    # The same draft twice cannot be drawn without replacement.
    twice = drafts[:, [0, 0, 1]]
    found = draft_check(log(twice))
    assert found is not None
    assert found.peak == np.inf


# --- rules -----------------------------------------------------------------------------------------------------------


def test_q_as_one_with_its_own_residual_is_lossless() -> None:
    def probs(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
        found, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
        for k in range(drafts.shape[1]):
            accept = at(target, drafts[:, k])
            found = add_at(found, drafts[:, k], reach * accept)
            reach = reach * (1 - accept)
            left = target.scatter(-1, drafts[:, k : k + 1], 0.0)
            mass = left.sum(-1, keepdim=True)
            target = torch.where(mass > 0, left / mass.clamp(min=1e-300), left)
        return found + reach[:, None] * target

    rule = Verifier("one", "none", True, ("with_replacement",), probs)
    found = enumerate_rule(rule, "with_replacement", 3)
    assert found.lossless
    assert not enumerate_rule(CONTROLS["q_taken_as_one"], "with_replacement", 3).lossless


def test_a_rule_is_judged_by_distribution_and_by_steps() -> None:
    good = audit_rule(VERIFIERS["rrs"], ("with_replacement", "independent"), (1, 2), steps=40)
    assert not good.lossy
    assert "lossless on every enumerated row" in rule_text(good)
    assert rule_data(good)["lossy"] is False

    def first(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **_: Any) -> Tensor:
        return drafts[:, 0]

    sloppy = Verifier("sloppy", "none", True, ("with_replacement",), rrs.output_distribution, first)
    report = audit_rule(sloppy, ("with_replacement",), (1,), steps=40)
    assert report.enumerated[0].lossless
    assert report.lossy
    assert "its steps do not follow it" in rule_text(report)


def test_real_width_rows() -> None:
    p, q = drawn_rows(4, 5, size=3000)
    report = audit_rule(VERIFIERS["rrs"], ("with_replacement",), (2,), rows=(p, q), steps=40)
    assert [name for name, _ in report.steps] == [
        "with_replacement, n=2, small rows",
        "with_replacement, n=2, rows of the dump",
    ]
    assert not report.lossy


def bad_token(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **_: Any) -> Tensor:
    return drafts[:, 0] + p.shape[-1]


def bad_shape(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **_: Any) -> Tensor:
    return drafts


def raises(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **_: Any) -> Tensor:
    raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("probs", "step", "message"),
    [
        (lambda p, q, drafts, **_: p * float("nan"), None, "finite"),
        (lambda p, q, drafts, **_: p[:, :-1], None, "shape"),
        (lambda p, q, drafts, **_: p * 1.1, None, "sum"),
        (lambda p, q, drafts, **_: [][0], None, "raised IndexError"),
        (rrs.output_distribution, bad_token, "no index of a vocabulary"),
        (rrs.output_distribution, bad_shape, "tokens of shape"),
        (rrs.output_distribution, raises, "raised IndexError: list index out of range (step on row 0"),
    ],
)
def test_what_is_no_distribution_and_no_token_is_named(probs: Any, step: Any, message: str) -> None:
    rule = Verifier("theirs", "none", True, ("with_replacement",), probs, step)
    with pytest.raises(InputError, match="verifier 'theirs'") as error:
        audit_rule(rule, ("with_replacement",), (2,), steps=5)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "unknown verifier"),
        ("no_such_module:RULE", "does not load"),
        ("mdsd_bounds.audit.controls:NOTHING", "does not load"),
        ("mdsd_bounds.audit.self_check:SIZE", "neither a mdsd Verifier nor a function"),
    ],
)
def test_rules_that_do_not_load(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_rule(spec)


def test_the_report_reads(checked: list[Checked]) -> None:
    bad, good = checked[0].report, checked[-1].report
    text = log_text(bad)
    assert text.startswith("verdict: LOSSY: refuted by output distribution (any time)")
    assert "positions that weigh most against the rule" in text
    assert log_text(good).startswith("verdict: not refuted")
    data = log_data(bad)
    assert data["lossy"]
    assert len(data["evidence"]) == 5
    assert all(row["evidence"] > 0 for row in data["evidence"])
