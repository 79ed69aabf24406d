"""The known video world, its samplers, and lossless speculation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mdsd_bounds import InputError
from mdsd_bounds.diffusion import synchronised, tables, world
from mdsd_bounds.diffusion.speculate import sample_plainly, sample_speculatively, step_mean
from mdsd_bounds.diffusion.world import World

SMALL = World(frames=12, size=2, identities=3)


def mixture(at: float) -> MixtureSameFamily:
    """Noised whole videos of the small world as torch's own mixture, flattened frames first."""
    cover = torch.kron(SMALL.covariance(12), torch.eye(2, dtype=torch.float64))
    noisy = at * cover + (1.0 - at) * torch.eye(24, dtype=torch.float64)
    means = math.sqrt(at) * SMALL.means.repeat(1, 12)
    weights = Categorical(torch.ones(3, dtype=torch.float64))
    return MixtureSameFamily(weights, MultivariateNormal(means, noisy.expand(3, 24, 24)))


def test_denoiser_is_tweedie_of_the_known_density() -> None:
    x = SMALL.sample(5, torch.Generator().manual_seed(0))
    for at in (0.02, 0.4, 0.95):
        noisy = (math.sqrt(at) * x + 0.3).requires_grad_()
        density = mixture(at).log_prob(noisy.flatten(1))
        (score,) = torch.autograd.grad(density.sum(), noisy)
        expected = (noisy + (1.0 - at) * score) / math.sqrt(at)
        assert torch.allclose(SMALL.denoise(noisy.detach(), at), expected.detach(), atol=1e-9)
    assert torch.allclose(SMALL.log_density(x), mixture(1.0).log_prob(x.flatten(1)), atol=1e-8)
    # Every row its own noise level.
    levels = torch.tensor([0.02, 0.4, 0.95, 0.5, 0.1], dtype=torch.float64)
    one_by_one = torch.cat([SMALL.denoise(x[k : k + 1], float(levels[k])) for k in range(5)])
    assert torch.allclose(SMALL.denoise(x, levels), one_by_one, atol=1e-12)


def test_windows_fuse_and_agree() -> None:
    places = world.windows(64, 16, 4)
    assert places.shape == (13, 16)
    x = torch.randn(2, 64, 3, dtype=torch.float64)
    assert torch.allclose(world.fuse(world.cut(x, places), places, 64), x)
    whole = World()
    exact = whole.sample(200, torch.Generator().manual_seed(1))
    assert float(world.agreement(whole, exact).mean()) > 0.95
    assert float(world.scenes(whole, exact).mean()) < 1.1
    # One window of the whole length is the whole-video denoiser.
    one = world.windows(64, 64, 64)
    assert torch.allclose(world.window_denoise(whole, exact[:4], 0.3, one), whole.denoise(exact[:4], 0.3))
    with pytest.raises(InputError, match="do not cover"):
        world.windows(64, 16, 5)


def test_step_is_the_known_bridge() -> None:
    # With the true clean frames, a stochastic step keeps the forward marginal: mean and variance of x_after.
    generator = torch.Generator().manual_seed(2)
    clean = torch.full((200_000, 1, 1), 1.5, dtype=torch.float64)
    ab, after = (torch.full((200_000,), v, dtype=torch.float64) for v in (0.2, 0.6))
    eps = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    x = math.sqrt(0.2) * clean + math.sqrt(0.8) * eps
    for eta in (1.0, 0.4, 0.0):
        mean, spread = step_mean(x, clean, ab, after, eta)
        y = mean + spread[0] * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
        assert float(y.mean()) == pytest.approx(math.sqrt(0.6) * 1.5, abs=0.01)
        assert float(y.var()) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(
    ("draft", "tree", "rule"),
    [("pull", (1, 3), "reflection"), ("pull", (2, 2), "optimal"), ("frozen-x0", (2, 3), "d_grs")],
)
def test_speculation_keeps_the_distribution(draft: str, tree: tuple[int, int], rule: str) -> None:
    shape, steps = (1_500, 12, 2), 8

    def wrong(x: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
        return 0.8 * SMALL.denoise(x, ab) + 0.05

    plain = sample_plainly(SMALL.denoise, shape, steps, torch.Generator().manual_seed(3))
    chosen = wrong if draft == "pull" else draft
    generator = torch.Generator().manual_seed(4)
    video, counts = sample_speculatively(SMALL.denoise, chosen, shape, steps, tree, rule, generator)
    assert world.energy_test(plain, video, 100)[1] > 0.01
    assert 0.1 < counts.acceptance < 1.0
    assert float(counts.target_passes.max()) <= 2 * steps
    # The test sees a sampler that accepts everything.
    other = sample_plainly(wrong, shape, steps, generator)
    assert world.energy_test(plain, other, 100)[1] < 0.02


def test_a_perfect_draft_is_always_accepted() -> None:
    shape, steps = (20, 12, 2), 9
    generator = torch.Generator().manual_seed(0)
    _, counts = sample_speculatively(SMALL.denoise, SMALL.denoise, shape, steps, (1, 3), "optimal", generator)
    assert counts.acceptance == 1.0
    assert counts.target_passes.tolist() == [3.0] * 20
    assert counts.target_rows.tolist() == [9.0] * 20
    with pytest.raises(InputError, match="at least one child"):
        sample_speculatively(SMALL.denoise, SMALL.denoise, shape, steps, (0, 3), "optimal", generator)
    with pytest.raises(InputError, match="give a denoiser"):
        sample_speculatively(SMALL.denoise, "frozen", shape, steps, (1, 3), "optimal", generator)


def test_tables() -> None:
    table, videos = tables.world_table(4, ("whole video", "SynCoS"), tell=lambda text: None)
    assert list(table["method"]) == ["exact", "whole video", "SynCoS"]
    assert all(bool(video.isfinite().all()) for video in videos.values())
    assert table.loc[2, "window_passes"] > table.loc[1, "window_passes"]
    one = tables.one_step(4, 50, (4,), mixtures=False).set_index("n")
    # 40 videos and more give .767, .883 and .935; few videos come close.
    assert one["alpha_star"].tolist() == pytest.approx([0.767, 0.883, 0.935], abs=0.04)
    assert (one["d_grs"] <= one["alpha_star"] + 1e-12).all()
    with pytest.raises(InputError, match="choose among"):
        synchronised.methods(World().denoise, World().denoise, (1, 64, 8), ("best",), 0)
    with pytest.raises(InputError, match="choose windows-STRIDE"):
        tables.draft_of("window", World())


@pytest.mark.parametrize("name", sorted(synchronised.ABLATIONS))
def test_every_switch_runs(name: str) -> None:
    found = synchronised.methods(World().denoise, World().denoise, (1, 64, 8), (name,), 0)[name]
    assert found[0].shape == (1, 64, 8)
    assert bool(found[0].isfinite().all())
