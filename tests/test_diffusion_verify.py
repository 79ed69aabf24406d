"""Rules for n proposed states: lossless, and accepting what their closed forms say."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, kstest, norm

import mdsd_bounds.diffusion.verify
from mdsd_bounds import InputError
from mdsd_bounds.diffusion import decide as kernels
from mdsd_bounds.diffusion import gaussian
from mdsd_bounds.diffusion.roots import deficit
from mdsd_bounds.diffusion.rules import RULES
from mdsd_bounds.diffusion.verify import decide, project, verify

SETTINGS = [(d, n) for d in (0.25, 1.0, 2.0, 3.0, 6.0) for n in (1, 2, 4, 16)]


def drawn(rows: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, n, generator=generator, dtype=torch.float64), generator


def z_score(child: torch.Tensor, expected: float) -> float:
    rows = len(child)
    spread = math.sqrt(max(expected * (1.0 - expected), 1.0 / rows) / rows)
    return (float((child >= 0).double().mean()) - expected) / spread


@pytest.mark.parametrize("rule", sorted(RULES))
def test_accepts_what_it_states_and_is_lossless(rule: str) -> None:
    rows = 20_000
    pvalues = []
    for seed, (delta, n) in enumerate(SETTINGS[:: 1 if rule not in ("binned", "rank_mixture") else 3]):
        s, generator = drawn(rows, n, seed)
        child, output = decide(s, delta, rule, generator)
        expected = RULES[rule].acceptance(delta, n)
        if rule == "binned":
            # The ratio inside a bin is not constant: that costs acceptance, nothing else.
            found = float((child >= 0).double().mean())
            assert expected - 1e-3 < found + 4.0 * math.sqrt(expected * (1.0 - expected) / rows)
            assert found < expected + 4.0 * math.sqrt(expected * (1.0 - expected) / rows) + 1e-12
        else:
            assert abs(z_score(child, expected)) < 4.0
        accepted = child >= 0
        assert torch.equal(output[accepted], s[accepted, child[accepted]])
        pvalues.append(kstest(output.numpy() - delta, "norm").pvalue)
    assert min(pvalues) > 1e-3 / len(pvalues)


@pytest.mark.slow
def test_optimal_rule_at_a_million_draws() -> None:
    for seed, (delta, n) in enumerate(SETTINGS):
        # Near drafts exchange mass often, and every exchange searches for its partner.
        s, generator = drawn(100_000 if n > 2 and delta <= 1.0 else 1_000_000, n, 100 + seed)
        child, output = decide(s, delta, "optimal", generator)
        assert abs(z_score(child, gaussian.optimal_acceptance(delta, n))) < 3.0
        assert kstest(output.numpy() - delta, "norm").pvalue > 1e-3


def test_the_tests_can_fail() -> None:
    # A rule run for another shift than the drafts have is not lossless, and the test sees it.
    s, generator = drawn(100_000, 4, 5)
    _, output = decide(s, 1.1, "optimal", generator)
    assert kstest(output.numpy() - 1.0, "norm").pvalue < 1e-9
    # Accepting the largest draft always gives the distribution of the largest.
    assert kstest(s.max(-1).values.numpy() - 1.0, "norm").pvalue < 1e-9


def exchange(x: float, delta: float, n: int) -> tuple[float, float]:
    """Partner and chance of the exchange of a draft below a or in (y0, t*)."""
    a, y0, t = kernels.exchange_ends(delta, float(n))
    end = min(t, 38.0)
    goal = deficit(end, delta, n) + deficit(a, delta, n) - deficit(x, delta, n)
    if x < a:
        other = kernels.partner(goal, y0, end, -1.0, delta, float(n))
    else:
        other = kernels.partner(goal, min(-38.0, a - 1.0), a, 1.0, delta, float(n))
    own, its = (kernels.relative_density(z, float(n)) for z in (x, other))
    return other, (math.exp(delta * x - delta * delta / 2) - own) / (its - own)


@pytest.mark.parametrize(("delta", "n"), [(0.05, 2), (0.5, 2), (0.5, 8), (1.0, 3), (2.0, 16), (3.0, 64)])
def test_exchanges_move_equal_masses_and_fill_every_deficit(delta: float, n: int) -> None:
    a, y0, t = kernels.exchange_ends(delta, float(n))
    assert a < y0 <= t
    # Mass that leaves (x, a) upwards and mass that leaves (y0..y) downwards are the same, so keys stay normal.
    for x in (a - 0.1, a - 0.7, a - 1.5):
        y = exchange(x, delta, n)[0]
        assert exchange(y, delta, n)[0] == pytest.approx(x, abs=1e-6)
        up = quad(lambda z: norm.pdf(z) * exchange(z, delta, n)[1], x, a, epsabs=1e-12, limit=200)[0]
        down = quad(lambda z: norm.pdf(z) * exchange(z, delta, n)[1], y, min(t, 38.0), epsabs=1e-12, limit=200)[0]
        assert up == pytest.approx(down, abs=1e-8)
        assert 0.0 <= exchange(x, delta, n)[1] <= 1.0
        assert 0.0 <= exchange(y, delta, n)[1] <= 1.0
    # r = p below a and in (y0, t*), r = r0 between and above: acceptance is alpha*.
    kept = quad(lambda z: min(norm.pdf(z - delta), n * norm.cdf(z) ** (n - 1) * norm.pdf(z)), a, y0)[0]
    below, shared = norm.cdf(a - delta), norm.cdf(t - delta) - norm.cdf(y0 - delta)
    total = below + kept + shared + 1.0 - norm.cdf(t) ** n
    assert total == pytest.approx(gaussian.optimal_acceptance(delta, n), abs=1e-8)


@pytest.mark.parametrize("rule", ["optimal", "reflection", "d_grs", "rank_mixture"])
@pytest.mark.parametrize("size", [1, 20, 1_000])
def test_states_follow_the_target(rule: str, size: int) -> None:
    rows, n = (8_000, 3) if size < 100 else (1_500, 4)
    generator = torch.Generator().manual_seed(size)
    # Means and scales differ from row to row.
    mean_q = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    shift = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(rows, generator=generator, dtype=torch.float64)
    # Few distinct shifts: the rank mixture solves a programme for each.
    length = 0.25 * torch.randint(0, 9, (rows,), generator=generator).double()
    mean_p = mean_q + shift / shift.norm(dim=-1, keepdim=True) * (length * scale)[:, None]
    noise = torch.randn(rows, n, size, generator=generator, dtype=torch.float64)
    children = mean_q[:, None] + scale[:, None, None] * noise
    done = verify(children, mean_p, mean_q, scale, rule, generator=generator)
    assert torch.allclose(done.delta, length, atol=1e-9)
    z = (done.output - mean_p) / scale[:, None]
    # Along the line, along any other direction, and the squared length.
    along = (z * shift).sum(-1) / shift.norm(dim=-1)
    other = torch.randn(size, generator=generator, dtype=torch.float64)
    across = (z @ other) / other.norm()
    assert kstest(along.numpy(), "norm").pvalue > 1e-4
    assert kstest(across.numpy(), "norm").pvalue > 1e-4
    assert kstest((z * z).sum(-1).numpy(), chi2(size).cdf).pvalue > 1e-4
    some = slice(0, 300 if rule == "rank_mixture" else rows)
    rates = RULES[rule].acceptance(done.delta[some].numpy(), n)
    assert abs(z_score(done.child[some], float(rates.mean()))) < 4.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_million_dimensions(dtype: torch.dtype) -> None:
    size, n = 1_000_000, 4
    generator = torch.Generator().manual_seed(3)
    mean_q = torch.randn(1, size, generator=generator, dtype=dtype)
    shift = torch.randn(1, size, generator=generator, dtype=dtype)
    mean_p = mean_q + 1e-3 * shift
    children = mean_q[:, None] + torch.randn(1, n, size, generator=generator, dtype=dtype)
    along, length = project(children, mean_p, mean_q)
    exact = (mean_p.double() - mean_q.double())[0]
    assert length.item() == pytest.approx(exact.norm().item(), rel=1e-12)
    reference = (children[0].double() - mean_q[0].double()) @ exact
    assert torch.allclose(along[0], reference, rtol=1e-9, atol=1e-9)
    outcomes = [verify(children, mean_p, mean_q, 1.0, rule, generator=generator) for rule in RULES]
    for done in outcomes:
        assert done.output.dtype == dtype
        assert bool(done.output.isfinite().all())
        if done.child[0] >= 0:
            assert torch.equal(done.output[0], children[0, done.child[0]])


def test_a_rejected_state_keeps_what_is_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    mean_q = torch.zeros(500, 6, dtype=torch.float64)
    mean_p = mean_q.clone()
    mean_p[:, 0] = 4.0
    children = torch.randn(500, 2, 6, generator=generator, dtype=torch.float64)
    done = verify(children, mean_p, mean_q, 1.0, generator=generator)
    rejected = ~done.accepted
    assert rejected.sum() > 300
    assert torch.equal(done.output[rejected, 1:], children[rejected, 0, 1:])


@pytest.mark.parametrize("rule", sorted(RULES))
def test_extreme_shifts(rule: str) -> None:
    for delta in (0.0, 1e-12, 60.0):
        s, generator = drawn(2_000, 4, 9)
        child, output = decide(s, delta, rule, generator)
        assert bool(output.isfinite().all())
        if delta < 1.0:
            assert bool((child >= 0).all())
        else:
            assert not bool((child >= 0).any())
        assert kstest(output.numpy() - delta, "norm").pvalue > 1e-4


def test_bad_input_is_one_line() -> None:
    states, mean = torch.zeros(2, 3, 5), torch.zeros(2, 5)
    cases = [
        (lambda: verify(states, mean, torch.zeros(2, 4), 1.0), "mean_q of shape"),
        (lambda: verify(states, torch.zeros(5), mean, 1.0), "mean_p of shape"),
        (lambda: verify(states[:, :0], mean, mean, 1.0), "n of at least 1"),
        (lambda: verify(states, mean, mean, 0.0), "a deterministic step has nothing to accept"),
        (lambda: verify(states, mean, mean, -1.0), "positive"),
        (lambda: verify(states, mean, mean, math.nan), "positive"),
        (lambda: verify(states, mean, mean, torch.ones(3)), "one for each of 2 rows"),
        (lambda: verify(states, mean, mean, 1.0, scale_q=1.1), "equal standard deviations"),
        (lambda: verify(states, mean, mean, 1.0, "best"), "choose one of"),
        (lambda: verify(states * math.nan, mean + 1.0, mean, 1.0), "not all numbers are finite"),
        (lambda: verify(states, mean * math.nan, mean, 1.0), "delta of row 0"),
        (lambda: decide(torch.zeros(3), 1.0), "give \\[B, n\\]"),
        (lambda: decide(torch.zeros(3, 2), -1.0), "delta of row 0 is -1"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_no_rows() -> None:
    done = verify(torch.zeros(0, 2, 3), torch.zeros(0, 3), torch.zeros(0, 3), 1.0)
    assert done.output.shape == (0, 3)
    assert np.asarray(done.acceptance).shape == (0,)


def test_examples() -> None:
    assert doctest.testmod(mdsd_bounds.diffusion.verify).failed == 0
