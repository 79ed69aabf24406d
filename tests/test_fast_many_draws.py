"""9 to 64 draws without replacement by the compiled search: against the scan, closed forms and a long integral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fast import adversarial, check, normal
from torch import Tensor

from mdsd_bounds import open_dump, optimal_acceptance, to_probs
from mdsd_bounds.bounds.search import compiled_search as fast
from mdsd_bounds.bounds.search import outer_approximation_kernel
from mdsd_bounds.problem import InputError

mpmath = pytest.importorskip("mpmath", reason="high-precision reference")
mp = mpmath.mp.clone()

COUNTS = (9, 16, 33, 64)
SHIPPED = Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval"


def solved(p: Tensor, q: Tensor, counts: tuple[int, ...], sampler: str = "without_replacement") -> None:
    """The search answers by itself, as the scan does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "solve_prefix", _no_scan)
        optimal_acceptance(p, q, counts, sampler, method="fast")
    check(p, q, counts, sampler)


def _no_scan(problem: object) -> None:
    raise AssertionError("the prefix scan was asked")


def test_adversarial_rows() -> None:
    rows = adversarial(400)
    p, q = (torch.stack([row[side] for row in rows.values()]) for side in range(2))
    solved(p, q, COUNTS)
    check(p[:3], q[:3], (12, 40), "top_m_plus")


def test_sixty_decades_and_flat_rests() -> None:
    generator = torch.Generator().manual_seed(1)
    decades = 10.0 ** (-60 * torch.rand(400, generator=generator, dtype=torch.float64))
    flat = torch.full((400,), 1e-12, dtype=torch.float64)
    flat[:40] = 1.0
    steep = torch.full((400,), 1e-40, dtype=torch.float64)
    steep[:33] = 10.0 ** (-torch.arange(33, dtype=torch.float64))
    q = torch.stack([normal(decades), normal(flat), normal(steep)])
    solved(torch.softmax(torch.randn(3, 400, generator=generator, dtype=torch.float64), -1), q, COUNTS)


@pytest.mark.parametrize("size", [65, 70, 300, 2000])
def test_a_flat_draft_has_a_closed_form(size: int) -> None:
    """``Q(H) = C(|H|, n) / C(V, n)``, for every n from 1 to 64."""
    generator = torch.Generator().manual_seed(size)
    p = torch.softmax(torch.randn(1, size, generator=generator, dtype=torch.float64), -1)
    found = optimal_acceptance(
        p, torch.full_like(p, 1.0 / size), tuple(range(1, 65)), "without_replacement", method="fast"
    )
    target = np.concatenate([[0.0], np.sort(p[0].numpy()).cumsum()])
    held, mass = np.arange(size + 1, dtype=np.float64), np.ones(size + 1)
    for n in range(1, 65):
        mass *= np.clip(held - (n - 1), 0, None) / (size - (n - 1))
        truth = 1 + float((target - mass).min())
        assert float(found.value[n - 1, 0]) == pytest.approx(truth, abs=1e-11)
        assert float(found.low[n - 1, 0]) - 1e-13 <= truth <= float(found.high[n - 1, 0]) + 1e-13


def _exact_mass(inside: list[Any], outside: Any, n: int) -> Any:
    """``Q(H)`` by the race, the integral over ``u = e^{-ct}`` by mpmath."""

    def fewer(u: Any) -> Any:
        t = -mp.log(u) / outside
        probs = [mp.mpf(1)] + [mp.mpf(0)] * (n - 1)
        for rate in inside:
            stay = mp.exp(-rate * t)
            probs = [probs[0] * stay] + [probs[j] * stay + probs[j - 1] * (1 - stay) for j in range(1, n)]
        return sum(probs, mp.mpf(0))

    return 1 - mp.quad(fewer, [0, mp.mpf("1e-6"), mp.mpf("0.01"), mp.mpf("0.3"), 1])


def test_the_value_at_the_subset_to_many_digits() -> None:
    """``1 + P(H) - Q(H)`` of the subset found, Q by an independent route in 25 digits."""
    generator = torch.Generator().manual_seed(8)
    p, q = (torch.softmax(x * torch.randn(1, 40, generator=generator, dtype=torch.float64), -1) for x in (4.0, 1.0))
    found = optimal_acceptance(p, q, 12, "without_replacement", method="fast")
    inside = found.subset[0].numpy()
    with mp.workdps(25):
        mass = _exact_mass(
            [mp.mpf(x) for x in q[0].numpy()[inside]], mp.fsum(mp.mpf(x) for x in q[0].numpy()[~inside]), 12
        )
        value = float(1 + mp.fsum(mp.mpf(x) for x in p[0].numpy()[inside]) - mass)
    assert float(found.value[0]) == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("options", [{"top_k": 100, "temperature": 0.6}, {"top_k": 20}, {"top_p": 0.95}])
def test_truncated_rows(options: dict[str, float]) -> None:
    """Real rows over the 151,936 tokens; the scan takes them over their supports alone, which is the same problem."""
    (batch,) = open_dump(SHIPPED).batches(2, stop=2)
    p, q = (to_probs(x, **options) for x in (batch.target_logits, batch.draft_logits))
    found = optimal_acceptance(p, q, COUNTS, "without_replacement")
    assert found.method == "fast"
    assert float((found.high - found.low).max()) <= 1e-8
    keep = ((p > 0) | (q > 0)).any(0)
    scan = optimal_acceptance(p[:, keep], q[:, keep], COUNTS, "without_replacement", method="prefix")
    assert float((found.value - scan.value).abs().max()) <= 1e-9


def test_equal_distributions_and_supports_within_the_draws() -> None:
    generator = torch.Generator().manual_seed(2)
    q = torch.softmax(torch.randn(1, 80, generator=generator, dtype=torch.float64), -1)
    assert optimal_acceptance(q, q, COUNTS, "without_replacement", method="fast").value.numpy() == pytest.approx(1.0)
    few = torch.zeros_like(q)
    few[0, :30] = 1 / 30
    found = optimal_acceptance(q, few, COUNTS, "without_replacement", method="fast")
    # Every token of the support is drafted from 30 draws on.
    assert found.value[2:].numpy() == pytest.approx(float(q[0, :30].sum()), abs=1e-13)
    assert (found.value.diff(dim=0) >= -1e-12).all()


def test_more_than_64_draws_are_an_error() -> None:
    q = torch.full((1, 9000), 1 / 9000, dtype=torch.float64)
    with pytest.raises(InputError, match="at most 64 draws are supported; 65 were asked for"):
        optimal_acceptance(q, q, (8, 65), "without_replacement")


def test_narrow_rows_of_many_draws_take_the_search() -> None:
    q = torch.full((1, 300), 1 / 300, dtype=torch.float64)
    assert optimal_acceptance(q, q, 64, "without_replacement").method == "fast"
    assert optimal_acceptance(q, q, 8, "without_replacement").method == "prefix"


def test_the_bound_of_the_recurrence_grows_with_the_light_tokens() -> None:
    """600 tokens of a quarter each would lose digits, and are moved; 3,000 of a twentieth lose none that matter."""
    rounding = outer_approximation_kernel.recurrence_rounding.py_func
    from mdsd_bounds.bounds.search.exponential_race import trapezoid_step
    from mdsd_bounds.bounds.search.power_sums import power_weights
    from mdsd_bounds.bounds.search.records import Race

    weights, rest = power_weights()
    step = trapezoid_step(64)[0]
    times = 150.0 * np.exp(-step * np.arange(60)[::-1])
    race = Race(150.0, times, step, weights, np.empty(1), 64, np.array([64]), np.empty((1, 1)))
    wide = rounding((150.0, 150.0 * 0.25, 150.0 * 0.0625), 0.25, rest, race)
    narrow = rounding((150.0, 150.0 * 0.05, 150.0 * 0.0025), 0.05, rest, race)
    assert 1e-13 < narrow < 1e-10 < wide
