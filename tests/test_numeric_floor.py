"""Rows at the floor of float64: subnormal entries, hundreds of decades, supports smaller than the number of drafts.

The problem is the row as it stands.  Everything here is held against exact rational arithmetic.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS, acceptance_rate, optimal_acceptance, subset_bound, to_probs
from mdsd_bounds._backend.underflow import underflows
from mdsd_bounds.bounds.truncated.distributions import whole_distribution
from mdsd_bounds.bounds.truncated.intervals import solve_cut
from mdsd_bounds.cli import app
from mdsd_bounds.samplers.base import NO_DRAFT, draw
from mdsd_bounds.trees.beam import child_arrivals
from mdsd_bounds.trees.bounds import inclusion
from mdsd_bounds.verifiers import enumerate_verifier
from mdsd_bounds.verifiers.monte_carlo import many_drafts
from tests.exact_rational import LEAST, exact_alpha, floor_rows, rejection_rate, set_masses

FAMILY = ("without_replacement", "with_replacement", "greedy", "top_k", "top_m_plus")
#: The row of the report: the order by p/q cannot be found from ratios that overflow.
P, Q = [0.1, 0.6, 0.3], [1.0, 4 * LEAST, LEAST]


def tensor(row: list[float]) -> Tensor:
    return torch.tensor(row, dtype=torch.float64)


@pytest.mark.parametrize("method", ["auto", "fast", "outer", "prefix", "subsets", "lp", "maxflow"])
def test_the_reported_row_by_every_method(method: str) -> None:
    bound = optimal_acceptance(P, Q, 2, method=method)
    assert float(bound.value) == pytest.approx(0.9, abs=1e-9)
    assert float(bound.low) <= 0.9 + 1e-15
    assert float(bound.high) >= 0.9 - 1e-15
    assert bool(bound.high - bound.low < 1e-9)


@pytest.mark.parametrize("sampler", FAMILY)
def test_bounds_and_certificates_against_fractions(sampler: str) -> None:
    for p, q in floor_rows(40, seed=3):
        for n in (1, 2, 3, 5):
            alpha = exact_alpha(p, q, sampler, n)
            for method in ("auto", "fast", "outer", "prefix", "subsets"):
                bound = optimal_acceptance([p], [q], n, sampler, method=method)
                assert float(bound.low) - 1e-15 <= alpha <= float(bound.high) + 1e-15, (method, n, p, q)
                assert float(bound.value) == pytest.approx(alpha, abs=1e-9)
                assert float(subset_bound(bound)) == pytest.approx(alpha, abs=1e-9)


def test_intervals_of_rows_without_anything_missing_against_fractions() -> None:
    for p, q in floor_rows(25, seed=4):
        for sampler, n in itertools.product(("without_replacement", "top_m_plus", "greedy"), (2, 3)):
            options = {"m": 1} if sampler == "top_m_plus" else {}
            bound = solve_cut(
                whole_distribution(tensor(p)[None]), whole_distribution(tensor(q)[None]), n, sampler, options
            )
            alpha = exact_alpha(p, q, sampler, n)
            assert float(bound.low) - 1e-12 <= alpha <= float(bound.high) + 1e-12, (sampler, n, p, q)


def test_a_staircase_of_all_decades() -> None:
    """Every token is 20 decades below the one before: the first n tokens are drafted, up to 1e-19."""
    q = tensor([10.0**-e for e in range(0, 320, 20)] + [5 * LEAST, 2 * LEAST])
    q[0] = 1.0 - float(q[1:].sum())
    p = torch.full_like(q, 1 / len(q))
    counts = (1, 4, 8, 16)
    for method in ("prefix", "outer", "fast"):
        bound = optimal_acceptance(p, q, counts, method=method)
        assert torch.allclose(bound.value, torch.tensor(counts, dtype=torch.float64) / 18, rtol=0, atol=1e-9)
    # Of 17 drafts the last is one of the two subnormal tokens, 5 times in 7 the first: each is there when p asks.
    last = optimal_acceptance(p, q, (17, 18, 64)).value
    assert torch.allclose(last, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_samplers_leave_no_slot_empty_while_support_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    for p, q in floor_rows(30, seed=5):
        del p
        row, support = tensor(q), sum(x > 0 for x in q)
        for sampler in FAMILY:
            for n in (1, 2, 4, 9):
                drafts = SAMPLERS[sampler].sample(row.expand(50, -1).contiguous(), n, generator)
                many = many_drafts(row, n, 50, generator, sampler=sampler)
                for got in (drafts, many):
                    filled = got != NO_DRAFT
                    wanted = n if sampler == "with_replacement" else min(n, support)
                    assert bool((filled.sum(-1) == wanted).all()), (sampler, n, q)
                    assert bool((row[got[filled]] > 0).all())


@pytest.mark.parametrize("sampler", ["without_replacement", "greedy", "top_m_plus"])
def test_frequencies_of_subnormal_drafts(sampler: str) -> None:
    """Both samplers against exact set masses: 5 standard errors, seeds fixed."""
    q = [0.7, 0.3, 2 * LEAST, 4 * LEAST, LEAST]
    rounds, generator = 40_000, torch.Generator().manual_seed(1)
    for n in (2, 3, 4):
        exact = {held: float(chance) for held, chance in set_masses(q, sampler, n).items()}
        for drafts in (
            SAMPLERS[sampler].sample(tensor(q).expand(rounds, -1), n, generator),
            many_drafts(tensor(q), n, rounds, generator, sampler=sampler),
        ):
            counts: dict[frozenset[int], int] = {}
            for row in drafts.tolist():
                counts[frozenset(row)] = counts.get(frozenset(row), 0) + 1
            for held, chance in exact.items():
                error = 5 * (chance * (1 - chance) / rounds) ** 0.5 + 1e-12
                assert abs(counts.get(held, 0) / rounds - chance) <= error, (n, held)


def test_draws_from_a_subnormal_mass() -> None:
    probs = tensor([0.0, 3 * LEAST, LEAST]).expand(20_000, -1)
    token = draw(probs, torch.Generator().manual_seed(0))
    assert bool((token > 0).all())
    assert float((token == 1).double().mean()) == pytest.approx(0.75, abs=0.02)


def test_rates_never_exceed_the_bound() -> None:
    for p, q in floor_rows(25, seed=6, largest=5):
        for sampler, n in itertools.product(FAMILY, (1, 2, 3)):
            alpha = exact_alpha(p, q, sampler, n)
            for name, rule in VERIFIERS.items():
                fits = sampler in rule.samplers and rule.drafts_needed in (None, n)
                if not fits or not rule.lossless:
                    continue
                rate = acceptance_rate(p, q, n, sampler, name, samples=200)
                assert float(rate.value) <= alpha + 6 * float(rate.stderr) + 1e-11, (name, sampler, n, p, q)
                found = enumerate_verifier(rule, tensor(p), tensor(q), n, sampler=sampler)
                assert float((found.probs - tensor(p)).abs().max()) < (1e-8 if name == "gumbel_list" else 1e-12)
                if rate.exact:
                    assert float(rate.value) == pytest.approx(found.acceptance, abs=1e-8)


@pytest.mark.parametrize("pad", [0, 9000])
@pytest.mark.parametrize(
    ("p", "q", "n", "alpha"),
    [
        ([0.1, 0.6, 0.3], [1.0, 4 * LEAST, LEAST], 2, 0.9),
        ([0.05, 0.05, 0.9], [1.0, 2 * LEAST, 6 * LEAST], 2, 0.85),
        ([1.35e-321, 1.23e-311, 1.0], [1.0, 2 * LEAST, LEAST], 2, 1 / 3),
    ],
)
def test_the_optimal_rule_with_one_draw_of_a_subnormal_rest(
    p: list[float], q: list[float], n: int, alpha: float, pad: int
) -> None:
    """The rest has no finite reciprocal: r = q / rest, never q times a reciprocal."""
    wide_p, wide_q = (torch.nn.functional.pad(tensor(row), (0, pad)) for row in (p, q))
    assert float(acceptance_rate(wide_p, wide_q, n, "greedy", "optimal").value) == pytest.approx(alpha, abs=1e-11)
    found = enumerate_verifier(VERIFIERS["optimal"], tensor(p), tensor(q), n, sampler="greedy")
    assert float((found.probs - tensor(p)).abs().max()) < 1e-12


def test_recursive_rejection_against_fractions() -> None:
    rule = VERIFIERS["rrs_without_replacement"]
    for p, q in floor_rows(40, seed=7, largest=5):
        for n in (1, 2, 3, 4):
            exact = rejection_rate(p, q, n)
            assert float(acceptance_rate(p, q, n).value) == pytest.approx(exact, abs=1e-11)
            generator = torch.Generator().manual_seed(0)
            mean, error = rule.estimate(
                tensor(p)[None], tensor(q)[None], (n,), 300, generator, sampler="without_replacement"
            )
            assert abs(float(mean) - exact) <= 6 * float(error) + 2e-2


@pytest.mark.parametrize("pad", [0, 9000])
@pytest.mark.parametrize(
    ("name", "sampler", "n"),
    [
        ("rrs_without_replacement", "without_replacement", 3),
        ("rrs_without_replacement", "top_m_plus", 3),
        ("greedy", "greedy", 2),
        ("optimal", "greedy", 2),
        ("optimal", "top_m_plus", 3),
    ],
)
def test_steps_are_lossless_at_the_floor(name: str, sampler: str, n: int, pad: int) -> None:
    """Torch and compiled steps (rows wider than 8192): output frequencies against p, 5 standard errors."""
    p = torch.nn.functional.pad(tensor([0.1, 0.4, 0.2, 0.3]), (0, pad))
    q = torch.nn.functional.pad(tensor([1.0, 7 * LEAST, LEAST, 3 * LEAST]), (0, pad))
    rounds, generator, rule = (2500 if pad else 40_000), torch.Generator().manual_seed(2), VERIFIERS[name]
    wide_p, wide_q = p.expand(rounds, -1).contiguous(), q.expand(rounds, -1).contiguous()
    drafts = SAMPLERS[sampler].sample(wide_q, n, generator)
    token, accepted = rule.step(wide_p, wide_q, drafts, generator, sampler=sampler)
    for i in range(4):
        chance = float(p[i])
        assert abs(float((token == i).double().mean()) - chance) <= 5 * (chance * (1 - chance) / rounds) ** 0.5
    exact = enumerate_verifier(rule, p[:4], q[:4], n, sampler=sampler).acceptance
    assert abs(float(accepted.double().mean()) - exact) <= 5 * (exact * (1 - exact) / rounds) ** 0.5 + 1e-9


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 64])
def test_wide_rows_of_a_cold_draft(n: int) -> None:
    """T = 0.01: gaps of a few logits are hundreds of decades.  The compiled search, the scan and the torch search."""
    generator = torch.Generator().manual_seed(3)
    q = to_probs(3.0 * torch.randn(2, 8192, generator=generator), temperature=0.01)
    p = to_probs(3.0 * torch.randn(2, 8192, generator=generator), temperature=0.5)
    used = (q > 0).any(0)
    value = optimal_acceptance(p, q, n, method="fast")
    # Tokens with q = 0 are in no H: the support alone, with the rest of p as one token, is the same problem.
    small_q = torch.nn.functional.pad(q[:, used], (0, 1))
    small_p = torch.cat([p[:, used], p[:, ~used].sum(-1, keepdim=True)], -1)
    for method in ("prefix", "outer"):
        other = optimal_acceptance(small_p, small_q, n, method=method)
        assert torch.allclose(value.value, other.value, rtol=0, atol=1e-8)


def test_inclusion_and_beams_at_the_floor() -> None:
    assert float(inclusion(tensor(Q), 1, 2)) == pytest.approx(0.8)
    assert float(inclusion(tensor([LEAST, 4 * LEAST, 1.0]), 2, 2)) == 1.0
    uniform = torch.rand(5_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    second = []
    for row in uniform:
        time, token = child_arrivals(tensor(Q), row, -800.0, -5.0, 3)
        assert token.tolist() in ([0, 1, 2], [0, 2, 1])
        assert bool(torch.isfinite(time).all())
        second.append(int(token[1]))
    assert sum(t == 1 for t in second) / len(second) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 64])
def test_gumbel_list_states_its_error_and_keeps_it(n: int) -> None:
    """p one-hot: acceptance is ``1 - (1 - q)^n``, which is alpha*."""
    for q in (0.5, 0.9, 1e-3, 1 - 1e-9, 1e-12, 1e-200):
        rate = float(acceptance_rate([0.0, 1.0], [1.0 - q, q], n, "with_replacement", "gumbel_list").value)
        assert abs(rate - float(-torch.expm1(n * torch.log1p(-tensor([q])))[0])) <= 1e-12


def test_rows_below_the_smallest_normal_number_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gap of 7.2 at T = 0.01 is e^-720; masked tokens, nuclei and greedy decoding are zeros by intention."""
    logits = torch.tensor([[7.2, 0.0, 3.0], [7.0, 0.0, -float("inf")], [0.0, 0.0, 0.0]])
    assert underflows(logits, 0.01).tolist() == [True, False, False]
    assert underflows(logits, 1.0).tolist() == [False, False, False]
    assert underflows(logits, 0.01, top_k=2).tolist() == [False, False, False]
    assert underflows(logits, 0.001, top_k=2).tolist() == [True, True, False]
    assert not bool(underflows(logits, 0.01, top_p=0.9).any())
    assert not bool(underflows(logits, 0.0).any())

    np.savez(tmp_path / "d.npz", target_logits=logits.numpy(), draft_logits=logits.flip(0).contiguous().numpy())
    app(["bounds", str(tmp_path / "d.npz"), "--temperature", "0.01,1", "--quiet"], standalone_mode=False)
    said = capsys.readouterr()
    assert "2 of 3 positions at temperature 0.01 have tokens below 2.2e-308" in said.err
    assert "temperature 1 " not in said.err
    assert "below 2.2e-308" not in said.out
    app(["inspect", str(tmp_path / "d.npz")], standalone_mode=False)
    assert "in 0 of the first 3 rows at temperature 1; in some below temperature 0.01" in capsys.readouterr().out


def test_an_estimate_near_one_does_not_pass_it() -> None:
    """``sum min(p, r)`` is exact and what it leaves is sampled: their sum was refused as 1.0001."""
    p = [0.3333288889481474, 0.6666577778962948, 0.0, 1.3333155557925896e-05, 0.0]
    q = [[0.2, 0.8, 0.0, 3.2e-10, 0.0], [0.99675, 0.00317, 0.0, 7.1e-05, 0.0], [0.17, 0.12, 0.24, 0.18, 0.29]]
    drafters = torch.tensor(q, dtype=torch.float64)
    drafters = drafters / drafters.sum(-1, keepdim=True)
    target = torch.tensor(p, dtype=torch.float64) / sum(p)
    for tokens in (1, 2, 3, 5):
        rates = [
            float(
                acceptance_rate(target, drafters, 3, "independent", "importance_sampling", tokens=tokens, seed=s).value
            )
            for s in range(10)
        ]
        assert max(rates) <= 1.0
