"""A video world whose every distribution is known: long videos as mixtures of Gaussians, with exact denoisers.

A video has T frames of d numbers: one of K identities (a mean of norm 2) for the whole video, smooth motion (a Gaussian
process over time, each number on its own) and a little noise,

    ``x = m_k + g + e``,  ``g ~ GP(0, .25 exp(-(i-j)^2 / (2 length^2)))``,  ``e ~ N(0, .01)``.

The noised video ``x_t = sqrt(ab) x + sqrt(1-ab) eps`` is again a mixture, so the mean of x given x_t is a closed form
for the whole video and for every window: an optimal denoiser of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError

_IDENTITY_SEED = 20


@dataclass(frozen=True)
class World:
    """The distribution of videos.

    Attributes
    ----------
    frames, size : int
        Frames of a video and numbers of a frame.
    identities : int
        Number of identities.
    motion, length, noise : float
        Variance and length of the motion, variance of the noise.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.diffusion import World
    >>> world = World(frames=4, size=3)
    >>> world.sample(2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 4, 3])
    """

    frames: int = 64
    size: int = 8
    identities: int = 6
    motion: float = 0.25
    length: float = 5.0
    noise: float = 0.01

    @property
    def means(self) -> Tensor:
        """``[K, d]``: identities, of norm 2."""
        return _means(self.identities, self.size)

    def covariance(self, frames: int) -> Tensor:
        """``[frames, frames]``: covariance over time of each number."""
        gap = torch.arange(frames, dtype=torch.float64)
        gap = gap[:, None] - gap
        smooth: Tensor = self.motion * torch.exp(-0.5 * (gap / self.length) ** 2)
        return smooth + self.noise * torch.eye(frames, dtype=torch.float64)

    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """``[number, T, d]`` exact videos."""
        root = torch.linalg.cholesky(self.covariance(self.frames))
        draw = torch.randn(number, self.frames, self.size, dtype=torch.float64, generator=generator)
        identity = torch.randint(self.identities, (number,), generator=generator)
        video: Tensor = self.means[identity][:, None] + root @ draw
        return video

    def denoise(self, x: Tensor, ab: Tensor | float) -> Tensor:
        """Mean of the clean frames given noisy ones: ``x [B, W, d]``, ``ab`` one number or ``[B]``.  O(B W^2 d).

        Examples
        --------
        >>> world = World()
        >>> video = world.sample(3, torch.Generator().manual_seed(0))
        >>> float((world.denoise(video, 1.0 - 1e-9) - video).abs().max()) < 1e-3
        True
        """
        vectors, values, ones = _basis(self, x.shape[1])
        level = torch.as_tensor(ab, dtype=torch.float64).expand(len(x))[:, None]
        root = level.sqrt()
        spread = level * values + (1.0 - level)
        y = vectors.T @ x
        weight = self._weights(y, ones, root, spread)
        mean = ones[:, None] * (weight @ self.means)[:, None]
        gain = root * values / spread
        clean: Tensor = vectors @ (mean + gain[..., None] * (y - root[..., None] * mean))
        return clean

    def identity(self, x: Tensor, ab: Tensor | float = 1.0) -> Tensor:
        """Posterior ``[B, K]`` of the identity given frames ``[B, W, d]``."""
        vectors, values, ones = _basis(self, x.shape[1])
        level = torch.as_tensor(ab, dtype=torch.float64).expand(len(x))[:, None]
        return self._weights(vectors.T @ x, ones, level.sqrt(), level * values + (1.0 - level))

    def log_density(self, x: Tensor) -> Tensor:
        """``[B]``: log density of whole videos or of windows ``[B, W, d]``."""
        vectors, values, ones = _basis(self, x.shape[1])
        y = (vectors.T @ x)[:, None] - ones[:, None] * self.means[:, None]
        exponent = -0.5 * (y**2 / values[:, None]).sum((-1, -2))
        constant = -0.5 * self.size * float((values.log() + math.log(2.0 * math.pi)).sum())
        total: Tensor = torch.logsumexp(exponent, -1) - math.log(self.identities) + constant
        return total

    def _weights(self, y: Tensor, ones: Tensor, root: Tensor, spread: Tensor) -> Tensor:
        precise = ones / spread
        linear = root * torch.einsum("bj,bjd->bd", precise, y) @ self.means.T
        square = 0.5 * root**2 * (precise * ones).sum(-1, keepdim=True) * (self.means**2).sum(-1)
        return torch.softmax(linear - square, -1)


@lru_cache(maxsize=8)
def _means(identities: int, size: int) -> Tensor:
    draw = torch.randn(identities, size, dtype=torch.float64, generator=torch.Generator().manual_seed(_IDENTITY_SEED))
    scaled: Tensor = 2.0 * draw / draw.norm(dim=-1, keepdim=True)
    return scaled


@lru_cache(maxsize=32)
def _basis(world: World, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvectors and eigenvalues of the covariance, and the constant video in that basis."""
    values, vectors = torch.linalg.eigh(world.covariance(frames))
    return vectors, values.clamp(min=world.noise), vectors.sum(0)


def schedule(steps: int) -> Tensor:
    """``[steps + 1]`` of ab from nearly pure noise to 1: the linear schedule of 1,000 betas (Ho et al. 2020), thinned.

    Raises
    ------
    InputError
        If steps is not between 1 and 1,000.
    """
    if not 1 <= steps <= 1000:
        raise InputError(f"steps={steps}: give 1 to 1000")
    ab = (1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    places = torch.linspace(999, 0, steps + 1, dtype=torch.float64).round().long()[:-1]
    return torch.cat([ab[places], torch.ones(1, dtype=torch.float64)])


def windows(frames: int, width: int, stride: int) -> Tensor:
    """``[number, width]`` frame numbers of windows that cover the video.

    Raises
    ------
    InputError
        If they do not cover it to the end.
    """
    if not 1 <= stride <= width <= frames or (frames - width) % stride:
        raise InputError(f"windows of {width} frames at stride {stride} do not cover {frames} frames to the end")
    starts = torch.arange(0, frames - width + 1, stride)
    return starts[:, None] + torch.arange(width)


def cut(x: Tensor, places: Tensor) -> Tensor:
    """``[B * number, width, d]``: every window of every video."""
    return x[:, places].reshape(-1, places.shape[1], x.shape[-1])


def fuse(parts: Tensor, places: Tensor, frames: int) -> Tensor:
    """Mean over overlapping windows ``[B * number, width, d] -> [B, frames, d]``."""
    number, width = places.shape
    parts = parts.reshape(-1, number * width, parts.shape[-1])
    total = torch.zeros(len(parts), frames, parts.shape[-1], dtype=parts.dtype)
    total.index_add_(1, places.reshape(-1), parts)
    mean: Tensor = total / torch.bincount(places.reshape(-1), minlength=frames)[:, None]
    return mean


def window_denoise(world: World, x: Tensor, ab: Tensor | float, places: Tensor) -> Tensor:
    """The co-denoised windows: every window's own clean mean, fused."""
    level = torch.as_tensor(ab, dtype=torch.float64).expand(len(x)).repeat_interleave(len(places))
    return fuse(world.denoise(cut(x, places), level), places, x.shape[1])


def agreement(world: World, x: Tensor, width: int = 16) -> Tensor:
    """``[B]``: share of pairs of disjoint windows that have the same most probable identity."""
    labels = _labels(world, x, width)
    number = labels.shape[1]
    same = (labels[:, :, None] == labels[:, None]).sum((1, 2)) - number
    return same / (number * (number - 1))


def scenes(world: World, x: Tensor, width: int = 16) -> Tensor:
    """``[B]``: number of identities that appear one after another in disjoint windows; 1 in exact videos."""
    labels = _labels(world, x, width)
    return 1.0 + (labels[:, 1:] != labels[:, :-1]).sum(-1).double()


def motion(x: Tensor) -> Tensor:
    """``[B]``: variance of the numbers over time around each window's mean, windows of 16 frames."""
    parts = cut(x, windows(x.shape[1], 16, 16))
    return parts.var(1).mean(-1).reshape(len(x), -1).mean(-1)


def _labels(world: World, x: Tensor, width: int) -> Tensor:
    places = windows(x.shape[1], width, width)
    return world.identity(cut(x, places)).argmax(-1).reshape(len(x), -1)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error over videos."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def energy_test(a: Tensor, b: Tensor, permutations: int = 200, seed: int = 0) -> tuple[float, float]:
    """Energy distance of two samples ``[B, ...]`` and its permutation p-value (Szekely and Rizzo 2013).

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 200, 4, generator=g)
    >>> energy_test(x, y)[1] > 0.01, energy_test(x, y + 0.5)[1] < 0.01
    (True, True)
    """
    together = torch.cat([a.reshape(len(a), -1), b.reshape(len(b), -1)]).double()
    distance = torch.cdist(together, together)
    sign = torch.cat([torch.full((len(a),), 1.0 / len(a)), torch.full((len(b),), -1.0 / len(b))]).double()
    generator = torch.Generator().manual_seed(seed)
    orders: Sequence[Tensor] = [torch.randperm(len(sign), generator=generator) for _ in range(permutations)]
    signs = torch.stack([sign, *(sign[order] for order in orders)])
    energies = -((signs @ distance) * signs).sum(-1)
    p_value = (1 + int((energies[1:] >= energies[0]).sum())) / (1 + permutations)
    return float(energies[0]), p_value
