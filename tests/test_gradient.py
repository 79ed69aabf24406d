"""Gradients of alpha*_n against finite differences, and Q(H) of given subsets against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds.bounds.gradient import (
    SAMPLERS,
    acceptance_loss,
    differentiable_acceptance,
    mass_gradient,
    mass_without_replacement,
)

ROWS = 100


def instances(width: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows p and draft logits; a quarter of them truncated nearly to nothing outside a few tokens."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, ROWS, width, generator=generator, dtype=torch.float64) * spread
    logits[:, ::4, width // 3 :] -= 40.0
    return torch.softmax(logits[0], -1), logits[1]


def value(p: Tensor, logits: Tensor, n: int, sampler: str) -> Tensor:
    return optimal_acceptance(p, torch.softmax(logits, -1), n, sampler).value


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("width", "n", "spread"), [(9, 1, 1.0), (12, 2, 2.0), (30, 3, 4.0), (80, 4, 2.0), (600, 4, 3.0)]
)
def test_gradients_are_finite_differences(sampler: str, width: int, n: int, spread: float) -> None:
    p, logits = instances(width, spread, 10 * n)
    leaf = logits.clone().requires_grad_(True)
    target = p.clone().requires_grad_(True)
    found = differentiable_acceptance(target, torch.softmax(leaf, -1), n, sampler)
    torch.testing.assert_close(found.detach(), value(p, logits, n, sampler), atol=1e-9, rtol=0)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert target.grad is not None
    generator = torch.Generator().manual_seed(1)
    step = 1e-6
    direction = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (value(p, logits + sign * step * direction, n, sampler) for sign in (1, -1))
    slope = (leaf.grad * direction).sum(-1)
    # At a tie the two sides have different slopes.
    middle = value(p, logits, n, sampler)
    smooth = (ahead - 2 * middle + behind).abs() < 1e-9
    torch.testing.assert_close(((ahead - behind) / (2 * step))[smooth], slope[smooth], atol=2e-8, rtol=1e-6)
    # p moves to a mixture with another row, which stays a distribution; tokens of 1e-17 would pass a tie at once.
    towards = p.roll(1, 0) - p
    ahead, behind = value(p + 1e-7 * towards, logits, n, sampler), middle
    further = value(p + 2e-7 * towards, logits, n, sampler)
    full = (torch.arange(ROWS) % 4 != 0) & ((further - 2 * ahead + behind).abs() < 1e-11)
    slope = (target.grad * towards).sum(-1)
    torch.testing.assert_close(((ahead - behind) / 1e-7)[full], slope[full], atol=2e-6, rtol=1e-5)
    assert int(smooth.sum()) > 0.9 * ROWS
    assert int(full.sum()) > 0.6 * ROWS


def test_a_wrong_gradient_is_seen() -> None:
    p, logits = instances(12, 2.0, 0)
    q = torch.softmax(logits, -1)
    subset = optimal_acceptance(p, q, 2, "without_replacement").subset
    right, wrong = (mass_gradient(q, subset, 2, sampler) for sampler in ("without_replacement", "with_replacement"))
    direction = torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * q
    direction -= q * direction.sum(-1, keepdim=True)
    ahead, behind = (mass_without_replacement(q + s * 1e-6 * direction, subset, 2) for s in (1, -1))
    slope = (ahead - behind) / 2e-6
    torch.testing.assert_close((right * direction).sum(-1), slope, atol=1e-8, rtol=1e-6)
    assert float(((wrong * direction).sum(-1) - slope).abs().max()) > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_mass_of_any_subset_is_the_enumerated_one(n: int) -> None:
    p, logits = instances(6, 3.0, n)
    q = torch.softmax(logits, -1)[:12]
    subset = (p[:12] > q) | (torch.rand(12, 6, generator=torch.Generator().manual_seed(n)) < 0.5)
    expected = torch.zeros(12, dtype=torch.float64)
    for draws in itertools.permutations(range(6), n):
        chance, left = torch.ones(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
        for token in draws:
            # Not one minus what was drawn: the rest may be as small as 1e-17.
            others = [t for t in range(6) if t not in draws[: draws.index(token)]]
            left = q[:, others].sum(-1)
            chance = chance * q[:, token] / left
        expected += chance * subset[:, list(draws)].all(-1)
    torch.testing.assert_close(mass_without_replacement(q, subset, n), expected, atol=1e-11, rtol=0)


def test_wide_rows_go_through_the_fast_search_and_float32_is_enough_to_train_on() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 6, 9000, generator=generator) * 3
    p = torch.softmax(logits[0], -1)
    for sampler in SAMPLERS:
        leaf = logits[1].clone().requires_grad_(True)
        loss = acceptance_loss(4, sampler)(p, leaf)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        direction = -leaf.grad / leaf.grad.norm()
        gain = loss.detach() - acceptance_loss(4, sampler)(p, (logits[1] + 1e-2 * direction))
        assert float(gain.sum()) == pytest.approx(1e-2 * float(leaf.grad.norm()), rel=0.05)
        assert math.isfinite(float(leaf.grad.abs().max()))


def test_what_has_no_gradient_is_an_error() -> None:
    p = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="fewer than 2 tokens"):
        differentiable_acceptance(p, q, 2, "without_replacement")
    with pytest.raises(InputError, match="gradients are known for with_replacement, without_replacement"):
        differentiable_acceptance(p, p, 2, "greedy")
    with pytest.raises(InputError, match="sum to 2, not 1"):
        differentiable_acceptance(2 * p, p, 2)
