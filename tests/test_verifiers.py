"""Every registered verifier, with every sampler it names, through one harness; and broken ones that must fail it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from harness import (
    FALSE_ALARM,
    draft_rows,
    excess_over_bound,
    float32_gap,
    losslessness_defect,
    rate_gap,
    real_rows,
    row,
    step_p_value,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import pairs
from torch import Tensor

from mdsd_bounds import VERIFIERS, acceptance_rate
from mdsd_bounds.verifiers import Verifier, enumerate_verifier
from mdsd_bounds.verifiers.enumeration import draft_tuples
from mdsd_bounds.verifiers.schemes import rrs, rrs_without_replacement
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, residual, speculative_distribution

PAIRS = [(name, sampler) for name, rule in VERIFIERS.items() for sampler in rule.samplers]
LOSSLESS = [(name, sampler) for name, sampler in PAIRS if VERIFIERS[name].lossless]
#: Rates that are a quadrature rather than a finite sum.
QUADRATURE = {"gumbel_list": 1e-8, "optimal": 1e-8}


def counts(name: str, most: int = 3) -> list[int]:
    needed = VERIFIERS[name].drafts_needed
    return list(range(1, most + 1)) if needed is None else [needed]


def shaped(q: Tensor, sampler: str, n: int) -> tuple[Tensor, dict[str, Any]]:
    """One draft distribution ``[V]`` as the sampler wants it; different drafters are its rotations."""
    if sampler == "independent":
        return torch.stack([q.roll(k) for k in range(n)]), {}
    if sampler == "joint":
        return q, {"table": torch.tensor([[(i * (k + 1)) % len(q) for k in range(n)] for i in range(len(q))])}
    return q, {}


@pytest.mark.parametrize(("name", "sampler"), LOSSLESS)
@settings(max_examples=15, deadline=None)
@given(pair=pairs(largest=4), pick=st.integers(0, 2))
def test_lossless_and_below_the_bound(name: str, sampler: str, pair: tuple[Tensor, Tensor], pick: int) -> None:
    n = counts(name)[pick % len(counts(name))]
    p, (q, options) = pair[0][0], shaped(pair[1][0], sampler, n)
    assert losslessness_defect(VERIFIERS[name], p, q, n, sampler, **options) <= 1e-12
    assert excess_over_bound(VERIFIERS[name], p, q, n, sampler, **options) <= 1e-12


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
def test_stated_rate_is_the_enumerated_one(name: str, sampler: str) -> None:
    for seed, n in itertools.product(range(3), counts(name, 4)):
        q, options = draft_rows(sampler, 4, n, seed)
        gap, stderr, exact = rate_gap(VERIFIERS[name], row(4, seed + 9), q, n, sampler, **options)
        if exact:
            assert stderr == 0.0
            assert gap <= QUADRATURE.get(name, 1e-12)
        assert gap <= 4 * stderr + QUADRATURE.get(name, 1e-9)


@pytest.mark.parametrize(("name", "sampler"), PAIRS)
def test_steps_follow_the_distribution(name: str, sampler: str) -> None:
    n = counts(name)[-1]
    q, options = draft_rows(sampler, 5, n, 3)
    rows = {"importance_sampling": 500, "optimal": 500, "mentored_decoding": 2_000}.get(name, 20_000)
    assert step_p_value(VERIFIERS[name], row(5, 4), q, n, sampler, rows=rows, **options) > FALSE_ALARM


@pytest.mark.parametrize(("name", "sampler"), [pair for pair in PAIRS if pair[1] != "joint"])
def test_batch_permutation_padding_and_float32(name: str, sampler: str) -> None:
    n, size = counts(name)[-1], 6
    p = torch.stack([row(size, seed) for seed in range(3)])
    q = torch.stack([draft_rows(sampler, size, n, seed + 20)[0] for seed in range(3)])
    whole = acceptance_rate(p, q, n, sampler, name)

    def close(other: Any, rows: Any = slice(None), tolerance: float = 0.0) -> bool:
        spread = (whole.stderr[rows] ** 2 + other.stderr**2).sqrt()
        allowed = 4 * spread + QUADRATURE.get(name, 1e-12) + tolerance
        return bool(((other.value - whole.value[rows]).abs() <= allowed).all())

    for i in range(3):
        assert close(acceptance_rate(p[i], q[i], n, sampler, name, seed=7 + i), i)
    turned = torch.tensor([3, 0, 5, 1, 4, 2])
    assert close(acceptance_rate(p[:, turned], q[..., turned], n, sampler, name, seed=5))
    wide = [torch.nn.functional.pad(x, (1, 2)) for x in (p, q)]
    assert close(acceptance_rate(*wide, n, sampler, name, seed=6))
    assert close(acceptance_rate(p.float(), q.float(), n, sampler, name, seed=0), tolerance=1e-4)


@pytest.mark.parametrize(("name", "sampler"), [pair for pair in PAIRS if pair[1] != "joint"])
def test_float32_on_real_rows(name: str, sampler: str) -> None:
    p, q = real_rows()
    n = counts(name)[-1]
    q = torch.stack([q.roll(k, 0) for k in range(n)], 1) if sampler == "independent" else q
    assert float32_gap(VERIFIERS[name], p, q, n, sampler) <= 1e-4


@pytest.mark.parametrize(("name", "sampler"), [pair for pair in PAIRS if pair[1] != "joint"])
def test_a_sequence_of_counts_equals_each_alone(name: str, sampler: str) -> None:
    if VERIFIERS[name].drafts_needed is not None:
        pytest.skip("made for one number of drafts")
    p, (q, _) = row(5, 1), draft_rows(sampler, 5, 3, 2)
    together = acceptance_rate(p, q, (3, 1, 3, 2), sampler, name)
    assert together.value.shape == together.stderr.shape == (4,)
    for i, n in enumerate((3, 1, 3, 2)):
        alone = acceptance_rate(p, q, n, sampler, name, seed=1)
        allowed = 4 * float((together.stderr[i] ** 2 + alone.stderr**2).sqrt()) + 1e-9
        assert abs(float(together.value[i] - alone.value)) <= allowed


# --- the harness itself: rules broken as shipped ones are -------------------------------------------------------------


def skips_the_residual(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
    accept = accept_probability(p, q, drafts[:, 0])
    return add_at((1 - accept)[:, None] * p, drafts[:, 0], accept)


def reuses_a_rejected_token(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
    accept = accept_probability(p, q, drafts[:, 0])
    second = accept_probability(p, q, drafts[:, 1])
    probs = add_at(torch.zeros_like(p), drafts[:, 0], accept + (1 - accept) * (1 - second))
    return add_at(probs, drafts[:, 1], (1 - accept) * second)


def always_accepts_the_last(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
    accept = accept_probability(p, q, drafts[:, 0])
    return add_at(add_at(torch.zeros_like(p), drafts[:, 0], accept), drafts[:, -1], 1 - accept)


def takes_q_as_one(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
    accept = p.gather(-1, drafts[:, :1])[:, 0]
    return add_at((1 - accept)[:, None] * residual(p, q), drafts[:, 0], accept)


BROKEN = [
    (skips_the_residual, "with_replacement"),
    (reuses_a_rejected_token, "with_replacement"),
    (always_accepts_the_last, "with_replacement"),
    (takes_q_as_one, "with_replacement"),
    (rrs.output_distribution, "without_replacement"),
]


@pytest.mark.parametrize(("probs", "sampler"), BROKEN, ids=[f"{probs.__name__}-{sampler}" for probs, sampler in BROKEN])
def test_broken_rules_fail_enumeration(probs: Any, sampler: str) -> None:
    rule = Verifier("broken", "none", True, (sampler,), probs)
    assert losslessness_defect(rule, row(4, 3), row(4, 4), 2, sampler) > 1e-2


def test_without_replacement_rule_on_draws_with_replacement_fails() -> None:
    def probs(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **_: Any) -> Tensor:
        return rrs_without_replacement.output_distribution(p, q, drafts, sampler="without_replacement")

    rule = Verifier("mismatched", "none", True, ("with_replacement",), probs)
    assert losslessness_defect(rule, row(4, 3), row(4, 4), 2, "with_replacement") > 1e-2


def test_a_rule_that_accepts_too_much_exceeds_the_bound() -> None:
    rule = Verifier("eager", "none", True, ("with_replacement",), always_accepts_the_last)
    assert excess_over_bound(rule, row(4, 1), row(4, 2), 2, "with_replacement") > 1e-2


def test_a_step_that_does_not_follow_its_distribution_is_seen() -> None:
    def step(p: Tensor, q: Tensor, drafts: Tensor, generator: Any, **_: Any) -> Tensor:
        return drafts[:, 0]

    rule = Verifier("sloppy", "none", True, ("with_replacement",), rrs.output_distribution, step)
    assert step_p_value(rule, row(5, 4), row(5, 3), 2, "with_replacement") < FALSE_ALARM


def test_draft_tuples_are_a_distribution() -> None:
    for sampler in ("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus", "independent"):
        q, options = draft_rows(sampler, 4, 3, 0)
        _, mass = draft_tuples(q[None], 3, 4, sampler=sampler, **options)
        assert float(mass.sum()) == pytest.approx(1.0, abs=1e-12)


def test_speculative_distribution_with_zeros() -> None:
    p, q = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    assert speculative_distribution(p, q, torch.tensor([0])).tolist() == [[0.0, 1.0]]
    assert speculative_distribution(p, p, torch.tensor([1])).tolist() == [[0.0, 1.0]]


def test_enumeration_of_one_known_case() -> None:
    # p = (1/2, 1/2), q = (3/4, 1/4), rrs, n = 2: tau = 1, E(1) = 1/4, tau = 5/4, E = 1/2 - 5/16 = 3/16.
    p, q = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.75, 0.25]).double()
    found = enumerate_verifier(VERIFIERS["rrs"], p, q, 2)
    assert found.acceptance == pytest.approx(13 / 16, abs=1e-15)
    assert torch.allclose(found.probs, p, atol=1e-15)
