"""Moving handwritten digits and a small denoiser trained on them: windows and whole videos without a known density.

A video shows one digit of scikit-learn's ``load_digits`` (8 x 8) that moves by a pixel a frame over 10 x 10 and
bounces.  The network is convolutional in space and time and sees the mean of its features over all frames that it is
given, so the same weights serve windows and whole videos, and only the latter can agree on one digit.  Needs the extra
``diffusion``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mdsd_bounds.diffusion.speculate import sample_speculatively
from mdsd_bounds.diffusion.synchronised import Settings, methods
from mdsd_bounds.diffusion.world import cut, energy_test, fuse, mean_and_error, schedule, windows
from mdsd_bounds.problem import InputError

CANVAS, DIGIT = 10, 8
#: Frames of a long video.
FRAMES = 24
#: Digits from here on are not trained on.
_HELD_OUT = 1_400
#: Largest step size.
_RATE = 2e-3


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("moving digits need scikit-learn: pip install 'mdsd-bounds[diffusion]'") from None
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, DIGIT, DIGIT) / 16.0, labels


def moving_digits(number: int, frames: int, generator: torch.Generator, *, held_out: bool = False) -> Tensor:
    """``[number, frames, 100]`` float32 videos in [-1, 1].

    Raises
    ------
    InputError
        If scikit-learn is not installed.

    Examples
    --------
    >>> video = moving_digits(2, 5, torch.Generator().manual_seed(0))
    >>> video.shape, float(video.min()), float(video.max())
    (torch.Size([2, 5, 100]), -1.0, 1.0)
    """
    images = torch.from_numpy(_digits()[0]).float()
    images = images[_HELD_OUT:] if held_out else images[:_HELD_OUT]
    room = CANVAS - DIGIT
    which = torch.randint(len(images), (number,), generator=generator)
    start = torch.randint(2 * room, (number, 2), generator=generator)
    # A triangle wave: from wall to wall and back.
    phase = (start[:, None] + torch.arange(frames)[:, None]) % (2 * room)
    place = torch.where(phase <= room, phase, 2 * room - phase)
    videos = torch.zeros(number, frames, CANVAS, CANVAS)
    inside = place[..., None] + torch.arange(DIGIT)
    videos[
        torch.arange(number)[:, None, None, None],
        torch.arange(frames)[None, :, None, None],
        inside[:, :, 0, :, None],
        inside[:, :, 1, None, :],
    ] = images[which][:, None]
    return (2.0 * videos - 1.0).flatten(2)


class Network(nn.Module):
    """Predicts clean videos ``[B, W, 100]`` from noisy ones and ``ab [B]``; about 60,000 parameters."""

    def __init__(self, channels: int = 32):
        super().__init__()
        self.level = nn.Sequential(nn.Linear(16, channels), nn.SiLU(), nn.Linear(channels, 4 * channels))
        self.first = nn.Conv3d(1, channels, 3, padding=1)
        # Space and time in turn, dilated in space so that a frame sees all of itself.
        self.space = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in (1, 2, 4, 1))
        self.along = nn.ModuleList(nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)) for _ in range(4))
        # What all frames have in common: the mean picture, seen from two pixels around as the digit moves.
        self.shared = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=2, dilation=2) for _ in range(4))
        self.last = nn.Conv3d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, ab: Tensor) -> Tensor:
        """Clean mean; near clean levels the input itself counts most, so a residual of it is learnt."""
        batch, frames, _ = x.shape
        log_snr = torch.log(ab / (1.0 - ab)).clamp(-12.0, 12.0)
        waves = log_snr[:, None] * torch.logspace(-1.5, 0.5, 8)
        levels = self.level(torch.cat([waves.sin(), waves.cos()], -1)).chunk(4, -1)
        h = self.first(x.reshape(batch, 1, frames, CANVAS, CANVAS))
        for space, along, shared, level in zip(self.space, self.along, self.shared, levels, strict=True):
            shape = h.shape
            g = nn.functional.silu(h + level[..., None, None, None])
            g = space(g.transpose(1, 2).flatten(0, 1)).reshape(batch, frames, *shape[1:2], *shape[3:]).transpose(1, 2)
            g = along(nn.functional.silu(g))
            h = h + g + shared(nn.functional.silu(g).mean(2))[:, :, None]
        out = self.last(nn.functional.silu(h)).reshape(x.shape)
        keep = ab.sqrt()[:, None, None]
        clean: Tensor = keep * x + (1.0 - ab).sqrt()[:, None, None] * out
        return clean


def train(steps: int, seed: int = 0, tell: Callable[[str], None] = print) -> Network:
    """A network after so many steps: random videos of 8 or 24 frames, Adam, cosine step size.

    The loss is the mean squared error of the clean video over ``1 - ab``, at most 100 a video.  One step reads 192
    frames and takes about a fifth of a second on one core.

    Raises
    ------
    InputError
        If scikit-learn is not installed or ``steps`` is below one.

    Examples
    --------
    >>> network = train(2, tell=lambda text: None)
    >>> network(moving_digits(1, 8, torch.Generator().manual_seed(0)), torch.tensor([0.5])).shape
    torch.Size([1, 8, 100])
    """
    if steps < 1:
        raise InputError(f"steps={steps}: at least one")
    torch.manual_seed(seed)
    generator, network = torch.Generator().manual_seed(seed), Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    levels = schedule(1000)[:-1].float()
    begun = time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        frames = 8 if step % 2 else FRAMES
        video = moving_digits(192 // frames, frames, generator)
        ab = levels[torch.randint(len(levels), (len(video),), generator=generator)].clamp(1e-4, 0.9999)
        noise = torch.randn(video.shape, generator=generator)
        noisy = ab.sqrt()[:, None, None] * video + (1.0 - ab).sqrt()[:, None, None] * noise
        error = (network(noisy, ab) - video).square().mean((1, 2)) / (1.0 - ab)
        loss = error.clamp(max=100.0).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent = [*recent[-99:], loss.item()]
        if (step + 1) % 100 == 0:
            left = (time.monotonic() - begun) / (step + 1) * (steps - step - 1)
            tell(f"step {step + 1} of {steps}: loss {sum(recent) / len(recent):.4f}, {left / 60.0:.1f} minutes left")
    return network.eval()


def denoiser(network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    """The network as a denoiser of float64 videos, clean values kept in [-1, 1]."""

    def denoise(x: Tensor, ab: Tensor) -> Tensor:
        with torch.no_grad():
            level = ab.float().clamp(1e-5, 1.0 - 1e-5)
            parts = [network(a, b) for a, b in zip(torch.split(x.float(), 64), torch.split(level, 64), strict=True)]
            return torch.cat(parts).clamp(-1.0, 1.0).double()

    return denoise


@lru_cache(maxsize=1)
def _reader() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    images, labels = _digits()
    return KNeighborsClassifier(5).fit(images.reshape(len(images), -1), labels)


def _read_digits(videos: Tensor, width: int = 8) -> Tensor:
    """``[B, windows]``: the digit of each disjoint window: frames cropped where brightest, averaged, then read."""
    frames = ((videos + 1.0) / 2.0).clamp(0.0, 1.0).reshape(-1, 1, CANVAS, CANVAS).float()
    crops = frames.unfold(2, DIGIT, 1).unfold(3, DIGIT, 1)[:, 0].flatten(1, 2)
    best = crops.sum((-1, -2)).argmax(-1)
    chosen = crops[torch.arange(len(crops)), best].reshape(-1, width, DIGIT * DIGIT).mean(1)
    return torch.from_numpy(_reader().predict(chosen.numpy())).reshape(len(videos), -1)


def digit_agreement(videos: Tensor, width: int = 8) -> Tensor:
    """``[B]``: share of pairs of disjoint windows that are read as the same digit."""
    labels = _read_digits(videos, width)
    number = labels.shape[1]
    return ((labels[:, :, None] == labels[:, None]).sum((1, 2)) - number) / (number * (number - 1))


def method_table(
    network: Network, videos: int, names: tuple[str, ...], seed: int = 0, tell: Callable[[str], None] = print
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Methods for long videos beside held-out ones: agreement, motion (mean absolute change), energy distance."""
    clean = denoiser(network)
    shape, settings = (videos, FRAMES, CANVAS**2), Settings(width=8, stride=4, iters=10)
    held = moving_digits(2 * videos, FRAMES, torch.Generator().manual_seed(seed + 1), held_out=True).double()
    kept: dict[str, tuple[Tensor, float]] = {"held-out": (held[:videos], 0.0)}
    for name in names:
        tell(name)
        kept |= methods(clean, clean, shape, (name,), seed, settings)
    rows = []
    for name, (video, passes) in kept.items():
        agree, agree_se = mean_and_error(digit_agreement(video))
        change, change_se = mean_and_error(video.diff(dim=1).abs().mean((1, 2)))
        distance = energy_test(video, held[videos:], permutations=0)[0]
        rows.append((name, agree, agree_se, change, change_se, distance, passes))
    columns = ["method", "agreement", "agreement_se", "motion", "motion_se", "energy_distance", "window_passes"]
    return pd.DataFrame(rows, columns=columns), {name: video for name, (video, _) in kept.items()}


def speculation_table(
    network: Network, videos: int, seed: int = 0, tell: Callable[[str], None] = print
) -> pd.DataFrame:
    """Sequential target forward passes of lossless sampling in 50 steps.

    Drafts: windows of 8 frames at stride 4, or frozen drafts.
    """
    clean, steps = denoiser(network), 50
    places = windows(FRAMES, 8, 4)

    def window_draft(x: Tensor, ab: Tensor) -> Tensor:
        return fuse(clean(cut(x, places), ab.repeat_interleave(len(places))), places, FRAMES)

    rows = []
    for name, draft in (("windows-4", window_draft), ("frozen-x0", "frozen-x0")):
        for tree, rule in (((1, 4), "reflection"), ((2, 3), "d_grs"), ((2, 3), "optimal")):
            tell(f"{name} {tree} {rule}")
            shape, generator = (videos, FRAMES, CANVAS**2), torch.Generator().manual_seed(seed)
            _, counts = sample_speculatively(clean, draft, shape, steps, tree, rule, generator)
            passes, error = mean_and_error(counts.target_passes)
            label = f"{tree[0]}x{tree[1]}"
            rows.append((name, label, rule, counts.acceptance, passes, 1.96 * error, float(counts.target_rows.mean())))
    return pd.DataFrame(
        rows, columns=["draft", "tree", "rule", "acceptance", "target_passes", "target_passes_95", "target_rows"]
    )
