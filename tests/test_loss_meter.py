"""The meter of loss: above the truth no more often than stated, near it where theory says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import row
from scipy.optimize import minimize
from torch import Tensor
from typer.testing import CliRunner

from mdsd_bounds import optimal_acceptance
from mdsd_bounds.audit import judge
from mdsd_bounds.audit.loss_meter import FRACTIONS, Filling, loss_meter, lower_bound
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.audit.render import log_data, log_text
from mdsd_bounds.audit.rule import run_steps
from mdsd_bounds.cli import app
from mdsd_bounds.verifiers import VERIFIERS, Verifier, enumerate_verifier
from mdsd_bounds.verifiers.schemes.tv_budget import prepare_within
from mdsd_bounds.verifiers.total_variation import total_variation


def test_filling_up_is_the_worst_allocation() -> None:
    """Against a numerical minimisation over all losses of one mean, at several betting fractions."""
    random = np.random.default_rng(0)
    most = random.uniform(0.3, 1.0, 6)
    fill = Filling(np.ones(6, dtype=bool), most, 6)
    for loss in (0.0, 0.01, 0.1, 0.2):
        for i in (0, 4, 8):
            fraction = FRACTIONS[i]
            worst = minimize(
                lambda d, s=fraction: -np.log1p(s * (most + d)).sum(),
                np.full(6, loss),
                bounds=[(0.0, 1.0 - x) for x in most],
                constraints={"type": "eq", "fun": lambda d, x=loss: d.sum() - 6 * x},
                options={"ftol": 1e-14, "maxiter": 500},
            )
            assert fill.log_wealth(loss)[i] == pytest.approx(6 * np.log1p(fraction) + worst.fun, abs=1e-6)
    # More loss than there is room for fills everything.
    assert fill.log_wealth(0.9) == pytest.approx(np.zeros(len(FRACTIONS)), abs=1e-12)


@pytest.mark.parametrize(("budget", "spread"), [(0.0, 0.5), (0.03, 0.5), (0.03, 0.0), (1.0, 0.5)])
def test_coverage_over_a_thousand_seeds_at_any_time(budget: float, spread: float) -> None:
    """The optimal lossy rule accepts ``alpha* + tv`` exactly, which no rule of its loss exceeds: the hardest case.

    Read after every 50 of 400 positions: the bound may *ever* exceed the mean loss so far in at most 5% of logs.
    """
    random = np.random.default_rng(int(1000 * budget))
    failures = 0
    for _ in range(1000):
        most = np.clip(0.9 - spread * random.random(400), 0.0, 1.0)
        loss = np.minimum(budget, 1.0 - most) * (random.random(400) < 0.7)
        hits = random.random(400) < most + loss
        everywhere = np.ones(400, dtype=bool)
        failures += any(
            lower_bound([(hits[:t], most[:t], everywhere[:t])], t, 0.05) > loss[:t].mean() for t in range(50, 401, 50)
        )
    assert failures <= 50


def test_a_meter_that_reads_too_much_is_seen() -> None:
    """With alpha* understated by 0.03, as by a wrong sampler, coverage fails: the test above can fail."""
    random = np.random.default_rng(0)
    everywhere = np.ones(2000, dtype=bool)
    failures = sum(
        lower_bound([(random.random(2000) < 0.9, np.full(2000, 0.87), everywhere)], 2000, 0.05) > 0 for _ in range(100)
    )
    assert failures > 50


def test_near_the_truth_where_the_rule_is_optimal() -> None:
    """Single drafts and the optimal lossy rule: the bound tends to the loss; at 20,000 positions it has most of it."""
    random = np.random.default_rng(1)
    most, everywhere = random.beta(8, 0.5, 20_000), np.ones(20_000, dtype=bool)
    loss = np.minimum(0.05, 1.0 - most)
    lows = [lower_bound([(random.random(20_000) < most + loss, most, everywhere)], 20_000, 0.05) for _ in range(20)]
    assert 0.8 * loss.mean() < np.median(lows) < loss.mean()
    # The interval that knows only that indicators lie in [0, 1] would show nothing yet of so small a loss.
    assert (len(most) / 4 * 2 * np.log(1 / 0.05)) ** 0.5 / len(most) > 0.008


def steps(rule: Verifier, n: int, number: int, seed: int = 0) -> tuple[Positions, Tensor, Tensor]:
    """``number`` steps of a rule on each of two rows, as a log, and the rows."""
    p, q = torch.stack([row(5, 3), row(5, 4)]), torch.stack([row(5, 5), row(5, 6)])
    return run_steps(rule, p, q, "with_replacement", n, number, torch.Generator().manual_seed(seed)), p, q


@pytest.mark.parametrize("name", ["rrs", "optimal"])
def test_lossless_rules_show_no_loss(name: str) -> None:
    shown = [loss_meter(steps(VERIFIERS[name], 2, 300, seed)[0]) for seed in range(40)]
    assert sum(meter is not None and meter.low > 0 for meter in shown) <= 6


@pytest.mark.parametrize("n", [1, 2])
def test_rules_of_known_loss(n: int) -> None:
    """Steps of the optimal lossy rule and of typical acceptance, whose losses are enumerated: below, and not far."""
    for name, options in (("tv_budget", {"budget": 0.1}), ("typical_acceptance", {})):
        rule = VERIFIERS[name]
        positions, p, q = steps(rule, n, 4000)
        truth = np.mean(
            [
                float(
                    total_variation(enumerate_verifier(rule, a, b, n, sampler="with_replacement", **options).probs, a)
                )
                for a, b in zip(p, q, strict=True)
            ]
        )
        meter = loss_meter(positions)
        assert meter is not None
        assert meter.positions == 8000
        assert 0.0 <= meter.low <= truth + 1e-9
        if name == "tv_budget":
            assert meter.low > 0.6 * truth
            assert meter.difference == pytest.approx(truth, abs=0.02)


def test_the_first_drafts_show_what_all_of_them_hide() -> None:
    """Always the first of four drafts: the output is q.  All four hide most of it, the first alone nothing."""

    def first(p: torch.Tensor, q: torch.Tensor, drafts: torch.Tensor, *, sampler: str) -> torch.Tensor:
        return torch.zeros_like(p).scatter_(-1, drafts[:, :1], 1.0)

    rule = Verifier("first", "", False, ("with_replacement",), first)
    positions, p, q = steps(rule, 4, 3000)
    truth = float(total_variation(q, p).mean())
    meter = loss_meter(positions)
    assert meter is not None
    assert 0.75 * truth < meter.low <= truth
    assert meter.difference < 0.5 * truth


def test_a_loss_that_acceptance_cannot_show() -> None:
    """A rule that throws its drafts away and outputs another distribution: nothing shown, and that is no proof."""
    tilted = dataclasses.replace(
        VERIFIERS["rrs"],
        name="tilted",
        output_distribution=lambda p, q, drafts, **_: torch.softmax(2 * p.log(), -1),
        fast_step=None,
    )
    meter = loss_meter(steps(tilted, 2, 2000)[0])
    assert meter is not None
    assert meter.low == 0.0


def test_in_the_report(tmp_path: Path) -> None:
    positions, *_ = steps(VERIFIERS["tv_budget"], 2, 4000)
    report = judge(positions)
    assert report.loss is not None
    assert report.loss.low > 0
    assert f"loss: at least {report.loss.low:.4f} of total variation from the target (95%, at any time)" in log_text(
        report
    )
    assert log_data(report)["loss"]["positions"] == 8000
    # Drafts that do not follow the sampler withdraw the meter with the bound test.
    withdrawn = judge(
        dataclasses.replace(positions, draft_cell=np.full(len(positions), int(positions.draft_cell.max())))
    )
    assert withdrawn.loss is None
    # Nothing known of q: no meter.
    assert judge(dataclasses.replace(positions, bound=np.full(len(positions), np.nan))).loss is None


def test_on_the_command_line() -> None:
    result = CliRunner().invoke(app, ["audit", "tests/data/audit-example.jsonl"])
    assert "loss: none shown (95%, at any time); mean acceptance - mean alpha* = " in result.stdout
    result = CliRunner().invoke(app, ["audit", "tests/data/audit-example.jsonl", "--format", "json"])
    held = json.loads(result.stdout)["loss"]
    assert held["low"] == 0.0
    assert held["level"] == 0.05
    assert held["positions"] == 51
    told = ["--verifier", "tv_budget", "--sampler", "with_replacement", "--drafts", "2", "--steps", "20", "--quiet"]
    result = CliRunner().invoke(app, ["audit", *told])
    assert "largest TV" in result.stdout
    assert "acceptance - alpha*" in result.stdout


def test_the_optimum_of_the_rule_behind_the_tests() -> None:
    p, q = row(5, 3), row(5, 5)
    rule = prepare_within(p, q, 2, "with_replacement", 0.1)
    best = optimal_acceptance(p, q, 2, "with_replacement", tv=0.1)
    assert rule.acceptance == pytest.approx(float(best.value), abs=1e-9)
