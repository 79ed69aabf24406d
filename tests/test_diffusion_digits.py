"""Moving digits: the videos, the network and what is measured on its samples."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from mdsd_bounds.diffusion import digits
from mdsd_bounds.diffusion.speculate import sample_speculatively
from mdsd_bounds.problem import InputError

pytest.importorskip("sklearn", reason="moving digits need scikit-learn: the extra 'diffusion'")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_digit_moves_by_one_pixel_and_keeps_its_shape() -> None:
    videos = digits.moving_digits(20, 24, generator()).reshape(20, 24, digits.CANVAS, digits.CANVAS)
    ink = (videos + 1.0).sum((-1, -2))
    assert torch.allclose(ink, ink[:, :1].expand_as(ink), rtol=1e-5)
    moves = set()
    flat = videos[:, :-1].flatten(0, 1), videos[:, 1:].flatten(0, 1)
    for before, after in zip(*flat, strict=True):
        shifts = {
            (y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if torch.equal(torch.roll(before, (y, x), (0, 1)), after)
        }
        assert shifts
        moves |= shifts
    assert {(-1, -1), (1, 1), (1, -1), (-1, 1)} <= moves


def test_held_out_digits_are_others() -> None:
    images, _ = digits._digits()
    seen = {row.tobytes() for row in images[: digits._HELD_OUT]}
    assert np.mean([row.tobytes() in seen for row in images[digits._HELD_OUT :]]) < 0.01


def test_digits_are_read_back() -> None:
    videos = digits.moving_digits(60, digits.FRAMES, generator(1), held_out=True)
    assert digits.digit_agreement(videos).mean() == 1.0
    mixed = torch.cat([videos[:30, :8], videos[30:, 8:16], videos[:30, 16:]], 1)
    assert digits.digit_agreement(mixed).mean() < 0.7


def test_training_learns() -> None:
    videos, losses = digits.moving_digits(16, 8, generator(2), held_out=True), []
    ab = torch.full((16,), 0.3)
    noisy = 0.3**0.5 * videos + 0.7**0.5 * torch.randn(videos.shape, generator=generator(3))
    for steps in (1, 30):
        network = digits.train(steps, tell=lambda text: None)
        with torch.no_grad():
            losses.append(float((network(noisy, ab) - videos).square().mean()))
    assert losses[1] < 0.8 * losses[0], losses
    assert sum(weights.numel() for weights in network.parameters()) < 1_000_000


def test_training_repeats_to_the_bit() -> None:
    one, other = (digits.train(2, seed=5, tell=lambda text: None).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_network_speculates_on_itself() -> None:
    """A draft that is the target is always accepted: one forward pass for a chain of four, 50 steps in 13."""
    clean = digits.denoiser(digits.Network().eval())
    _, counts = sample_speculatively(clean, clean, (1, 8, digits.CANVAS**2), 8, (1, 4), "reflection", generator())
    assert counts.acceptance == 1.0
    assert float(counts.target_passes.max()) == 2.0


def test_bad_steps() -> None:
    with pytest.raises(InputError, match="steps=0"):
        digits.train(0)


def test_examples() -> None:
    found = doctest.testmod(digits)
    assert found.attempted
    assert not found.failed
