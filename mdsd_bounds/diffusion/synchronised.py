"""Long videos from windows: averaging, synchronised coupled sampling (SynCoS) and its ablations.

At each DDIM time, from noisy to clean, SynCoS (Kim et al., 2025, arXiv 2503.08605) does

1. every window's clean prediction from its own frames, fused over overlaps to x0';
2. while the time is noisy enough: some steps of collaborative score distillation on x0'.  Windows are noised to the
   *same* time (grounded) with the *same* base noise, their scores are mixed by a kernel between windows and fused, and
   AdamW steps;
3. ``x <- sqrt(ab') x0' + sqrt(1 - ab') eps_base``.

``iters`` and the step size are ours: the paper's depend on its model.  The threshold of stage 2 is a signal-to-noise
ratio ``ab / (1 - ab)``, since a threshold in time steps means different things under different schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdsd_bounds.diffusion.speculate import Denoiser, sample_plainly
from mdsd_bounds.diffusion.world import cut, fuse, schedule, windows
from mdsd_bounds.problem import InputError


@dataclass(frozen=True)
class Settings:
    """Switches of SynCoS.

    Attributes
    ----------
    steps, width, stride : int
        DDIM steps; frames of a window and between windows.
    distil : bool
        Whether stage 2 runs.
    resample : bool
        Whether stages 1 and 3 run; without them the video is distilled alone, from grey.
    grounded : bool
        Stage 2 at the time of the step, else at random times.
    fixed_noise : bool
        One base noise for all of a step, else a fresh one for every iteration.
    weighs : str
        ``others``: window i follows the kernel-weighted mean of all windows' scores; ``own``: its own score, times the
        sum of its kernel row.  The printed formula and the authors' earlier code differ here.
    threshold : float
        Stage 2 runs while the signal-to-noise ratio is below this.
    iters : int
        Iterations of stage 2 at a time.
    rate : float
        Step size of AdamW.
    """

    steps: int = 50
    width: int = 16
    stride: int = 4
    distil: bool = True
    resample: bool = True
    grounded: bool = True
    fixed_noise: bool = True
    weighs: str = "others"
    threshold: float = 1.0
    iters: int = 20
    rate: float = 0.02


def sample(
    denoiser: Denoiser, shape: tuple[int, int, int], settings: Settings, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Videos ``[B, T, d]`` and window-denoiser passes a video.

    Parameters
    ----------
    denoiser : callable
        Clean mean of windows: ``(x [B, width, d], ab [B]) -> [B, width, d]``.
    shape : tuple of int
        ``(B, T, d)``.
    settings : Settings
        Which stages run, and how.
    generator : torch.Generator
        Of all noise.

    Raises
    ------
    InputError
        If the windows do not cover the video, or ``weighs`` is unknown.
    """
    if settings.weighs not in ("others", "own"):
        raise InputError(f"weighs={settings.weighs!r}: choose others or own")
    places = windows(shape[1], settings.width, settings.stride)
    levels = schedule(settings.steps)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    clean, passes = torch.zeros_like(x), 0
    for k in range(settings.steps):
        ab, after = float(levels[k]), float(levels[k + 1])
        if settings.resample:
            level = torch.full((len(x) * len(places),), ab, dtype=torch.float64)
            clean = fuse(denoiser(cut(x, places), level), places, shape[1])
            passes += len(places)
        base = torch.randn(shape, dtype=torch.float64, generator=generator)
        if settings.distil and ab / (1.0 - ab) < settings.threshold:
            clean = _distil(denoiser, clean, base, k, places, levels, settings, generator)
            passes += len(places) * settings.iters
        x = math.sqrt(after) * clean + math.sqrt(1.0 - after) * base
    return clean, float(passes)


def _distil(
    denoiser: Denoiser,
    clean: Tensor,
    base: Tensor,
    k: int,
    places: Tensor,
    levels: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """Stage 2: AdamW on the video along kernel-weighted scores of its windows."""
    clean = clean.clone()
    optimiser = torch.optim.AdamW([clean], lr=settings.rate)
    for _ in range(settings.iters):
        place = k
        if not settings.grounded:
            place = int(torch.randint(settings.steps, (1,), generator=generator))
        if not settings.fixed_noise:
            base = torch.randn(base.shape, dtype=base.dtype, generator=generator)
        ab = float(levels[place])
        parts, noise = cut(clean, places), cut(base, places)
        noisy = math.sqrt(ab) * parts + math.sqrt(1.0 - ab) * noise
        predicted = denoiser(noisy, torch.full((len(parts),), ab, dtype=torch.float64))
        score = (noisy - math.sqrt(ab) * predicted) / math.sqrt(1.0 - ab) - noise
        clean.grad = fuse(_collaborate(parts, score, len(places), settings.weighs), places, clean.shape[1])
        optimiser.step()
    return clean


def _collaborate(parts: Tensor, score: Tensor, number: int, weighs: str) -> Tensor:
    """``(1/N) sum_j (k_ij score_j - grad_j k_ij)``: Stein variational gradient over the windows of each video."""
    flat, slopes = (value.reshape(-1, number, value[0].numel()) for value in (parts, score))
    square = torch.cdist(flat, flat) ** 2
    # The median trick: kernel rows sum to about one beside the diagonal.
    width = square.flatten(1).median(-1).values[:, None, None] / math.log(max(number, 2)) + 1e-12
    kernel = torch.exp(-square / width)
    pull = kernel @ slopes if weighs == "others" else kernel.sum(-1, keepdim=True) * slopes
    # grad over x_j of k_ij, summed over j, is 2/width (sum_j k_ij (x_i - x_j)); descent, so it is subtracted.
    push = 2.0 / width * (kernel.sum(-1, keepdim=True) * flat - kernel @ flat)
    return ((pull - push) / number).reshape(parts.shape)


#: SynCoS's ablations of its own switches, by name.
ABLATIONS: dict[str, Settings] = {
    "stages 1+3": Settings(distil=False),
    "SynCoS": Settings(),
    "random time": Settings(grounded=False),
    "fresh noise": Settings(fixed_noise=False),
    "own score": Settings(weighs="own"),
    "early stage 2 only": Settings(threshold=0.05),
    "stage 2 throughout": Settings(threshold=math.inf),
    "distillation alone": Settings(resample=False, threshold=math.inf),
}


def methods(
    denoiser: Denoiser,
    whole: Denoiser,
    shape: tuple[int, int, int],
    names: tuple[str, ...],
    seed: int,
    settings: Settings | None = None,
) -> dict[str, tuple[Tensor, float]]:
    """Videos and window passes a video of every named method, each from the same seed.

    Names are those of :data:`ABLATIONS` and ``whole video`` (stochastic steps of the whole-video denoiser), ``disjoint
    windows`` (each on its own) and ``Gen-L-Video`` (deterministic DDIM with averaged windows; Wang et al., 2023).
    ``settings`` gives the steps, windows and iterations of all.
    """
    settings = settings or Settings()
    places = windows(shape[1], settings.width, settings.stride)
    apart = windows(shape[1], settings.width, settings.width)

    def over(held: Tensor) -> Denoiser:
        return lambda x, ab: fuse(denoiser(cut(x, held), ab.repeat_interleave(len(held))), held, x.shape[1])

    found: dict[str, tuple[Tensor, float]] = {}
    for name in names:
        generator = torch.Generator().manual_seed(seed)
        if name == "whole video":
            found[name] = sample_plainly(whole, shape, settings.steps, generator), 0.0
        elif name == "disjoint windows":
            found[name] = (
                sample_plainly(over(apart), shape, settings.steps, generator),
                float(settings.steps * len(apart)),
            )
        elif name == "Gen-L-Video":
            video = sample_plainly(over(places), shape, settings.steps, generator, 0.0)
            found[name] = video, float(settings.steps * len(places))
        elif name in ABLATIONS:
            switches = replace(
                ABLATIONS[name],
                steps=settings.steps,
                width=settings.width,
                stride=settings.stride,
                iters=settings.iters,
            )
            found[name] = sample(denoiser, shape, switches, generator)
        else:
            known = ("whole video", "disjoint windows", "Gen-L-Video", *ABLATIONS)
            raise InputError(f"method {name!r}: choose among {', '.join(known)}")
    return found


ALL = ("whole video", "disjoint windows", "Gen-L-Video", *ABLATIONS)
