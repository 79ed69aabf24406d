"""Lossless speculation over denoising steps: trees of proposed states, verified by one target forward pass a round.

Target and draft share the noise of a stochastic (DDIM, eta = 1) step, so a step is Gaussian with equal variances, and
its means differ by a multiple of the difference of the clean predictions.  A round drafts a tree of depth L with K
children a node from the present state, reads the target at all inner nodes in *one* sequential forward pass, and walks
from the root: each node's children are verified by a rule of :mod:`.rules`; a rejection emits a new state and ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mdsd_bounds.diffusion.verify import verify
from mdsd_bounds.diffusion.world import schedule
from mdsd_bounds.problem import InputError

#: ``(x [B, T, d], ab [B]) -> clean mean [B, T, d]``.
Denoiser = Callable[[Tensor, Tensor], Tensor]
#: Drafts that reuse the target's prediction at the root of the round.
FROZEN = ("frozen-x0", "frozen-drift")


@dataclass
class Counts:
    """What a run cost: sequential target forward passes and rows read ``[B]``; by depth, [nodes verified, accepted]."""

    target_passes: Tensor
    target_rows: Tensor
    draft_rows: Tensor
    by_depth: dict[int, list[int]] = field(default_factory=dict)

    @property
    def acceptance(self) -> float:
        """Share of verified nodes whose output is a child."""
        offered, accepted = (sum(tally[k] for tally in self.by_depth.values()) for k in (0, 1))
        return accepted / max(offered, 1)


def step_mean(x: Tensor, clean: Tensor, ab: Tensor, after: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean ``[B, T, d]`` and standard deviation ``[B]`` of a DDIM step from ab to after (Song et al. 2021, eq. 12, 16).

    At the last step (after = 1) the standard deviation is 0: the clean prediction itself.
    """
    spread = eta * ((1.0 - after) / (1.0 - ab) * (1.0 - ab / after)).clamp(min=0.0).sqrt()
    shape = (-1,) + (1,) * (x.ndim - 1)
    noise = (x - ab.sqrt().reshape(shape) * clean) / (1.0 - ab).sqrt().reshape(shape)
    rest = (1.0 - after - spread**2).clamp(min=0.0).sqrt().reshape(shape)
    return after.sqrt().reshape(shape) * clean + rest * noise, spread


def sample_plainly(
    denoiser: Denoiser, shape: tuple[int, ...], steps: int, generator: torch.Generator, eta: float = 1.0
) -> Tensor:
    """Videos by the denoiser alone, one forward pass a step."""
    levels = schedule(steps)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    for k in range(steps):
        ab, after = levels[k].expand(len(x)), levels[k + 1].expand(len(x))
        mean, spread = step_mean(x, denoiser(x, ab), ab, after, eta)
        noise = torch.randn(shape, dtype=torch.float64, generator=generator) if float(spread[0]) > 0.0 else 0.0
        x = mean + spread.reshape((-1,) + (1,) * (x.ndim - 1)) * noise
    return x


def sample_speculatively(
    target: Denoiser,
    draft: Denoiser | str,
    shape: tuple[int, ...],
    steps: int,
    tree: tuple[int, int],
    rule: str,
    generator: torch.Generator,
) -> tuple[Tensor, Counts]:
    """Videos that follow the target's sampler, with a draft; ``tree`` is (children K, depth L).

    Parameters
    ----------
    target : callable
        The target's denoiser.
    draft : callable or str
        A denoiser, or ``frozen-x0`` (the target's clean prediction at the root of the round serves the whole round) or
        ``frozen-drift`` (its noise prediction does).
    shape : tuple of int
        ``(B, T, d)``.
    steps : int
        Denoising steps; the last is deterministic and needs a target forward pass of its own where no draft reached it.
    tree : tuple of int
        Children a node and depth.
    rule : str
        A key of :data:`.rules.RULES`.
    generator : torch.Generator
        Of the CPU.

    Raises
    ------
    InputError
        On an unknown draft or a tree without nodes.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.diffusion import World, sample_speculatively
    >>> world = World(frames=4, size=2)
    >>> source = torch.Generator().manual_seed(0)
    >>> videos, counts = sample_speculatively(world.denoise, "frozen-x0", (8, 4, 2), 6, (2, 2), "optimal", source)
    >>> tuple(videos.shape)
    (8, 4, 2)
    """
    children, depth = tree
    if children < 1 or depth < 1:
        raise InputError(f"tree {children}x{depth}: give at least one child and depth one")
    if isinstance(draft, str) and draft not in FROZEN:
        raise InputError(f"draft {draft!r}: give a denoiser or one of {', '.join(FROZEN)}")
    run = _Run(target, draft, schedule(steps), children, depth, rule, generator)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    at = torch.zeros(len(x), dtype=torch.int64)
    zero = torch.zeros(len(x), dtype=torch.float64)
    counts = Counts(zero.clone(), zero.clone(), zero.clone())
    while bool((at < steps).any()):
        rows = (at < steps).nonzero()[:, 0]
        _walk(run, _grow(run, x[rows], at[rows], rows, counts), x, at, rows, counts)
    return x, counts


@dataclass(frozen=True)
class _Run:
    """What stays the same over the rounds of a run."""

    target: Denoiser
    draft: Denoiser | str
    levels: Tensor
    children: int
    depth: int
    rule: str
    generator: torch.Generator

    @property
    def steps(self) -> int:
        return len(self.levels) - 1


@dataclass(frozen=True)
class _Tree:
    """A drafted tree by level: states ``[B, nodes, T, d]``, both means of their steps, standard deviation ``[B]``."""

    states: list[Tensor] = field(default_factory=list)
    means_p: list[Tensor] = field(default_factory=list)
    means_q: list[Tensor] = field(default_factory=list)
    spreads: list[Tensor] = field(default_factory=list)


def _grow(run: _Run, root: Tensor, start: Tensor, rows: Tensor, counts: Counts) -> _Tree:
    """Draft below every root and read the target at all inner nodes."""
    tree = _Tree([root[:, None]])
    root_ab = run.levels[start]
    root_clean = run.target(root, root_ab)
    # A frozen draft needs the target at the root before the tree can grow: the nodes below are a second forward pass.
    counts.target_passes[rows] += 1.0 + float(isinstance(run.draft, str) and run.depth > 1)
    for level in range(run.depth):
        node = tree.states[-1]
        flat = node.flatten(0, 1)
        # Roots near the end have no steps left below; what they draft there is never read, nor counted.
        place = (start + level).clamp(max=run.steps - 1).repeat_interleave(node.shape[1])
        ab, after = run.levels[place], run.levels[place + 1]
        live = node.shape[1] * (start + level < run.steps).double()
        counts.target_rows[rows] += live
        clean_p = root_clean if level == 0 else run.target(flat, ab)
        if isinstance(run.draft, str):
            clean_q = _frozen(run.draft, flat, ab, root_clean, root, root_ab)
        else:
            clean_q = run.draft(flat, ab)
            counts.draft_rows[rows] += live
        mean_p, spread = step_mean(flat, clean_p, ab, after)
        mean_q, _ = step_mean(flat, clean_q, ab, after)
        noise = torch.randn(len(flat), run.children, *flat.shape[1:], dtype=flat.dtype, generator=run.generator)
        grown = mean_q[:, None] + spread.reshape(-1, *(1,) * flat.ndim) * noise
        tree.means_p.append(mean_p.reshape(node.shape))
        tree.means_q.append(mean_q.reshape(node.shape))
        tree.spreads.append(spread.reshape(node.shape[:2])[:, 0])
        tree.states.append(grown.reshape(len(root), -1, *flat.shape[1:]))
    return tree


def _frozen(draft: str, flat: Tensor, ab: Tensor, root_clean: Tensor, root: Tensor, root_ab: Tensor) -> Tensor:
    """The clean prediction that a frozen draft has at nodes below the root."""
    repeat = len(flat) // len(root)
    if draft == "frozen-x0":
        return root_clean.repeat_interleave(repeat, 0)
    shape = (-1,) + (1,) * (flat.ndim - 1)
    noise = (root - root_ab.sqrt().reshape(shape) * root_clean) / (1.0 - root_ab).sqrt().reshape(shape)
    noise = noise.repeat_interleave(repeat, 0)
    return (flat - (1.0 - ab).sqrt().reshape(shape) * noise) / ab.sqrt().reshape(shape)


def _walk(run: _Run, tree: _Tree, x: Tensor, at: Tensor, rows: Tensor, counts: Counts) -> None:
    """Verify from the roots down until a rejection, the leaves or the last step.  Writes x and at."""
    walking = torch.arange(len(rows))
    node = torch.zeros(len(rows), dtype=torch.int64)
    for level in range(run.depth):
        walking = walking[at[rows[walking]] < run.steps]
        place, spread = node[walking], tree.spreads[level][walking]
        mean_p = tree.means_p[level][walking, place].flatten(1)
        at[rows[walking]] += 1
        # The last step is deterministic: the target's clean mean is the output, and nothing is verified.
        ended = spread <= 0.0
        x[rows[walking[ended]]] = mean_p[ended].reshape(-1, *x.shape[1:])
        walking, place, spread, mean_p = walking[~ended], place[~ended], spread[~ended], mean_p[~ended]
        if not len(walking):
            return
        below = tree.states[level + 1].reshape(len(rows), -1, run.children, *x.shape[1:])[walking, place].flatten(2)
        mean_q = tree.means_q[level][walking, place].flatten(1)
        done = verify(below, mean_p, mean_q, spread, run.rule, generator=run.generator)
        x[rows[walking]] = done.output.reshape(-1, *x.shape[1:])
        tally = counts.by_depth.setdefault(level, [0, 0])
        tally[0] += len(walking)
        tally[1] += int(done.accepted.sum())
        node[walking] = place * run.children + done.child.clamp(min=0)
        walking = walking[done.accepted]


def one_step_table(
    target: Denoiser, draft: Denoiser, shape: tuple[int, ...], steps: int, generator: torch.Generator
) -> Tensor:
    """Shifts delta ``[steps - 1, B]`` between target and draft at states on the target's own path."""
    levels = schedule(steps)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    found = []
    for k in range(steps - 1):
        ab, after = levels[k].expand(len(x)), levels[k + 1].expand(len(x))
        mean, spread = step_mean(x, target(x, ab), ab, after)
        other, _ = step_mean(x, draft(x, ab), ab, after)
        found.append((mean - other).flatten(1).norm(dim=-1) / spread)
        scale = spread.reshape((-1,) + (1,) * (x.ndim - 1))
        x = mean + scale * torch.randn(shape, dtype=torch.float64, generator=generator)
    return torch.stack(found)
