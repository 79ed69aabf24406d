"""The rules of the frontier: their closed forms against enumeration, and none above the line."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command import load_script
from harness import row
from scipy.optimize import minimize
from torch import Tensor

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds.verifiers import VERIFIERS, Verifier, enumerate_verifier
from mdsd_bounds.verifiers.schemes.mentored_decoding import mentored_target
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, at, residual
from mdsd_bounds.verifiers.total_variation import total_variation

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def frontier() -> ModuleType:
    return load_script(ROOT / "scripts" / "studies" / "frontier.py")


def judged(threshold: float) -> Verifier:
    """Recursive rejection with a judge, draft by draft."""

    def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, **options: Any) -> Tensor:
        probs, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
        for k in range(drafts.shape[1]):
            approved = at(p, drafts[:, k]) >= threshold * p.amax(-1)
            accept = torch.where(approved, 1.0, accept_probability(target, q, drafts[:, k]))
            probs = add_at(probs, drafts[:, k], reach * accept)
            reach, target = reach * (1.0 - accept), residual(target, q)
        return probs + reach[:, None] * target

    return Verifier("judged", "", False, ("with_replacement",), output_distribution)


def gated(threshold: float) -> Verifier:
    """The entropy gate, and an exact match with a token of p behind it."""

    def output_distribution(p: Tensor, q: Tensor, drafts: Tensor, **options: Any) -> Tensor:
        passes = torch.special.entr(p.topk(3, -1).values).sum(-1) >= threshold
        return torch.where(passes[:, None], add_at(torch.zeros_like(p), drafts[:, 0], torch.ones_like(p[:, 0])), p)

    return Verifier("gated", "", False, ("with_replacement",), output_distribution)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_closed_forms_of_the_illustrations(frontier: ModuleType, n: int) -> None:
    for seed in range(8):
        p, q = row(4, seed), row(4, seed + 30)
        cases = [(frontier.judge, judged, x) for x in (0.9, 0.3, 0.05)]
        if n == 1:
            cases += [(frontier.entropy_gate, gated, x) for x in (0.5, 0.9)]
        for closed, made, parameter in cases:
            rate, tv = closed(p[None], q[None], n, parameter)
            found = enumerate_verifier(made(parameter), p, q, n)
            assert float(rate) == pytest.approx(found.acceptance, abs=1e-12)
            assert float(tv) == pytest.approx(float(total_variation(found.probs, p)), abs=1e-12)


def test_every_rule_of_the_page_is_below_the_line(frontier: ModuleType) -> None:
    for seed in range(6):
        p, q = row(7, seed)[None], row(7, seed + 40)[None]
        for n in frontier.COUNTS:
            alpha = float(optimal_acceptance(p, q, n, "with_replacement").value)
            for name, (rule, parameters, counts, _) in frontier.RULES.items():
                for parameter in parameters if n in counts else ():
                    rate, tv = rule(p, q, n, parameter)
                    assert float(rate) <= min(1.0, alpha + float(tv)) + 1e-9, (name, parameter, n)


def test_a_rule_above_the_line_stops_the_script(frontier: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_good(p: Tensor, q: Tensor, n: int, parameter: float) -> tuple[Tensor, Tensor]:
        return optimal_acceptance(p, q, n, "with_replacement").value + 0.01, torch.zeros_like(p[:, 0])

    monkeypatch.setattr(frontier, "RULES", {"too good": (too_good, (0.0,), (1,), "")})
    with pytest.raises(AssertionError, match=r"too good at 0\.0, n=1, lies 0\.01 above the line"):
        list(frontier.measure(row(5, 1)[None], row(5, 2)[None], np.zeros(1, dtype=np.int64)))


def test_the_page_holds_what_was_measured() -> None:
    page = (ROOT / "docs" / "lossy_frontier.md").read_text()
    shown = [line.split(" | ") for line in page.splitlines() if line.startswith(("| 1 | ", "| 2 | ", "| 4 | "))]
    with (ROOT / "docs" / "results" / "lossy" / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(shown) == 138
    for line, cells in zip(lines, shown, strict=True):
        tv, needed, rate, alpha, best = (float(line[x]) for x in ("tv", "tv_needed", "acceptance", "alpha", "line"))
        assert line["rule"] == cells[1]
        assert [float(x) for x in cells[3:8]] == pytest.approx([tv, needed, rate, alpha, best], abs=6e-5)
        assert rate <= best + 1e-6 <= min(1.0, alpha + tv) + 4e-6
        assert needed <= tv + 1e-6


def test_mentored_decoding_is_the_best_within_its_divergence() -> None:
    """Against a numerical solution of its own programme."""
    solved = 0
    for seed in range(12):
        size = 2 + seed % 4
        p, q = row(size, seed), row(size, seed + 60)
        for kl in (0.0, 0.003, 0.05, 0.4):
            target = mentored_target(p[None], q[None], kl)[0]
            assert float(target.sum()) == pytest.approx(1.0, abs=1e-12)
            assert float((p * (p / target).log()).sum()) <= kl + 1e-9
            a, b = p.numpy(), q.numpy()
            limits = [
                {"type": "eq", "fun": lambda x, size=size: x[:size].sum() - 1},
                {"type": "ineq", "fun": lambda x, size=size, a=a, kl=kl: kl - (a * np.log(a / x[:size])).sum()},
                {"type": "ineq", "fun": lambda x, size=size: x[:size] - x[size:]},
            ]
            found = minimize(
                lambda x, size=size: -x[size:].sum(),
                np.concatenate([a, np.minimum(a, b)]),
                bounds=[(1e-9, 1)] * size + [(0, x) for x in b],
                constraints=limits,
                options={"ftol": 1e-12, "maxiter": 500},
            )
            if found.success:
                solved += 1
                assert -found.fun == pytest.approx(float(torch.minimum(target, q).sum()), abs=1e-6)
    assert solved > 30


def test_one_draft_rules_on_the_line() -> None:
    """Cactus, mentored decoding and a target moved towards q gain exactly their TV with one draft."""
    for seed in range(10):
        p, q = row(5, seed), row(5, seed + 70)
        alpha = float(optimal_acceptance(p, q, 1, "with_replacement").value)
        for name in ("cactus", "mentored_decoding", "tv_budget"):
            found = enumerate_verifier(VERIFIERS[name], p, q, 1, sampler="with_replacement")
            assert found.acceptance == pytest.approx(alpha + float(total_variation(found.probs, p)), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cactus", {"delta": -1.0}, "cactus: delta=-1.0; give a divergence of at least 0"),
        ("cactus", {"delta": float("nan")}, "cactus: delta=nan"),
        ("mentored_decoding", {"kl": -0.1}, "mentored_decoding: kl=-0.1; give a divergence of at least 0, in nats"),
        ("top_k_membership", {"k": 0}, "k=0: give an integer of at least 1"),
    ],
)
def test_bad_options(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        enumerate_verifier(VERIFIERS[name], row(4, 1), row(4, 2), 1, sampler="with_replacement", **options)
