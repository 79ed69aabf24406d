"""Wide rows that are checked row by row while they are searched: the same answers, the same errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds._backend.checked_rows import ROUNDED_SUM, WIDE, RowSums
from mdsd_bounds.bounds import make_problem, solve

SAMPLERS = ("with_replacement", "without_replacement", "greedy", "top_k")
N = (1, 2, 5)


def rows(seed: int, count: int = 3) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    p, q = rng.standard_gamma(0.2, (2, count, WIDE + 100)) + 1e-300
    return tuple(torch.from_numpy(x / x.sum(1, keepdims=True)) for x in (p, q))  # type: ignore[return-value]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_bits_as_with_the_checks_before(sampler: str) -> None:
    p, q = rows(0)
    found = optimal_acceptance(p, q, N, sampler)
    problem, *_ = make_problem(p, q, N, sampler)
    before = solve(problem)
    for name in ("value", "low", "high", "subset_size"):
        assert torch.equal(getattr(found, name), getattr(before, name))
    assert problem.mass_error is not None
    assert found.problem.mass_error is not None
    assert torch.equal(found.problem.mass_error, problem.mass_error)
    assert torch.equal(found.subset, before.subset)
    assert found.method == before.method


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("side", ["p", "q"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "row 1, token 77: NaN or infinite"),
        (float("inf"), "row 1, token 77: NaN or infinite"),
        (-float("inf"), "row 1, token 77: NaN or infinite"),
        (-1e-3, "row 1, token 77: negative"),
        (2.0, "row 1: probabilities sum to"),
    ],
)
def test_what_is_wrong_is_named_as_before(sampler: str, side: str, value: float, said: str) -> None:
    pair = dict(zip("pq", rows(1), strict=True))
    pair[side][1, 77] = value
    with pytest.raises(InputError, match=rf"{side} {said}"):
        optimal_acceptance(pair["p"], pair["q"], N, sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_that_must_be_normalised_are(sampler: str) -> None:
    p, q = rows(2)
    off = p * (1 + 1e-9)
    found, exact = optimal_acceptance(off, q, N, sampler), optimal_acceptance(p, q, N, sampler)
    assert float((found.value - exact.value).abs().max()) < 1e-12
    # The interval of the row as given is wider by its defect.
    assert bool((found.high - found.low >= 2e-9 * 0.99).logical_or(found.high == 1).all())
    minus_zero = p.clone()
    minus_zero[0, 5] = -0.0
    minus_zero /= minus_zero.sum(1, keepdim=True)
    assert bool(optimal_acceptance(minus_zero, q, N, sampler).value.isfinite().all())


def test_other_rows_are_checked_before() -> None:
    p, q = rows(3)
    assert RowSums.takes(p)
    assert RowSums.takes(p.numpy())
    for other in (p[0], p.float(), p.T, p[:, ::2], p[:, :50], p.tolist()):
        assert not RowSums.takes(other)
    value = optimal_acceptance(p, q, 2).value
    assert torch.equal(optimal_acceptance(p.numpy(), q.numpy(), 2).value, value)
    assert torch.equal(optimal_acceptance(p.clone().requires_grad_(), q, 2).value, value)
    assert torch.equal(optimal_acceptance(np.asfortranarray(p.numpy()), q, 2).value, value)
    assert float((p.sum(1) - 1).abs().max()) <= ROUNDED_SUM
