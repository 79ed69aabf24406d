"""Tables of the known world: methods for long videos, and speculation with window drafts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds.diffusion import gaussian, synchronised
from mdsd_bounds.diffusion.rules import RULES
from mdsd_bounds.diffusion.speculate import (
    FROZEN,
    Denoiser,
    one_step_table,
    sample_plainly,
    sample_speculatively,
)
from mdsd_bounds.diffusion.world import (
    World,
    agreement,
    energy_test,
    mean_and_error,
    motion,
    scenes,
    window_denoise,
    windows,
)
from mdsd_bounds.problem import InputError

#: Trees that are compared: (K, L) and the rules for K children.
TREES: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (1, 4, ("reflection",)),
    (1, 8, ("reflection",)),
    (2, 3, ("d_grs", "rank_mixture", "optimal")),
    (2, 4, ("d_grs", "rank_mixture", "optimal")),
    (4, 2, ("d_grs", "rank_mixture", "optimal")),
    (4, 3, ("d_grs", "rank_mixture", "optimal")),
)


def world_table(
    videos: int, names: tuple[str, ...] = synchronised.ALL, seed: int = 0, tell: Callable[[str], None] = print
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Every method in the known world: means with standard errors over videos; and the videos."""
    world = World()
    exact = world.sample(1000, torch.Generator().manual_seed(seed + 1))
    level = float(world.log_density(exact).mean())
    shape = (videos, world.frames, world.size)
    rows, kept = [], {}
    for name in ("exact", *names):
        tell(name)
        if name == "exact":
            video, passes = world.sample(videos, torch.Generator().manual_seed(seed + 2)), 0.0
        else:
            video, passes = synchronised.methods(world.denoise, world.denoise, shape, (name,), seed)[name]
        kept[name] = video
        row: dict[str, Any] = {"method": name}
        measures = {
            "agreement": agreement(world, video),
            "scenes": scenes(world, video),
            "motion": motion(video),
            # Per frame, so that the numbers are readable; 0 is the exact distribution's own mean.
            "log_density": (world.log_density(video) - level) / world.frames,
        }
        for key, values in measures.items():
            row[key], row[f"{key}_se"] = mean_and_error(values)
        row["energy_distance"] = energy_test(video, exact, permutations=0)[0]
        row["window_passes"] = passes
        rows.append(row)
    return pd.DataFrame(rows), kept


def draft_of(name: str, world: World) -> Denoiser | str:
    """``windows-STRIDE``, ``frozen-x0`` or ``frozen-drift``.

    Raises
    ------
    InputError
        On another name.

    Examples
    --------
    >>> from mdsd_bounds.diffusion import World, draft_of
    >>> callable(draft_of("windows-8", World()))
    True
    """
    if name in FROZEN:
        return name
    kind, _, stride = name.partition("-")
    if kind != "windows" or not stride.isdigit():
        raise InputError(f"draft {name!r}: choose windows-STRIDE, {' or '.join(FROZEN)}")
    places = windows(world.frames, 16, int(stride))
    return lambda x, ab: window_denoise(world, x, ab, places)


def speculation_table(
    videos: int,
    steps: int,
    drafts: tuple[str, ...] = ("windows-4", "windows-8", *FROZEN),
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Sequential target forward passes, rows, acceptance of every draft, tree and rule; 95% intervals over videos."""
    world = World()
    shape = (videos, world.frames, world.size)
    rows = []
    for name in drafts:
        for children, depth, rules in TREES:
            for rule in rules:
                tell(f"{name} {children}x{depth} {rule}")
                generator = torch.Generator().manual_seed(seed)
                _, counts = sample_speculatively(
                    world.denoise, draft_of(name, world), shape, steps, (children, depth), rule, generator
                )
                passes, error = mean_and_error(counts.target_passes)
                rows.append(
                    {
                        "steps": steps,
                        "draft": name,
                        "tree": f"{children}x{depth}",
                        "rule": rule,
                        "acceptance": counts.acceptance,
                        "target_passes": passes,
                        "target_passes_95": 1.96 * error,
                        "steps_per_target_pass": steps / passes,
                        "target_rows": float(counts.target_rows.mean()),
                        "draft_rows": float(counts.draft_rows.mean()),
                    }
                )
    return pd.DataFrame(rows)


def one_step(
    videos: int, steps: int, strides: tuple[int, ...] = (4, 8), seed: int = 0, *, mixtures: bool = True
) -> pd.DataFrame:
    """Mean acceptance of one step over the target's own path: optimum beside the published rules."""
    world = World()
    rows = []
    for stride in strides:
        draft = draft_of(f"windows-{stride}", world)
        assert not isinstance(draft, str)
        shape = (videos, world.frames, world.size)
        generator = torch.Generator().manual_seed(seed)
        deltas = one_step_table(world.denoise, draft, shape, steps, generator).numpy()
        for n in (1, 2, 4):
            row = {"steps": steps, "stride": stride, "n": n, "median_delta": float(pd.Series(deltas.ravel()).median())}
            row["d_grs"] = float(gaussian.d_grs(deltas, n).mean())
            # The rule's weights are those of the nearest shift on a grid, as it runs.
            if mixtures:
                row["rank_mixture"] = float(RULES["rank_mixture"].acceptance(deltas, n).mean())
            row["alpha_star"] = float(gaussian.optimal_acceptance(deltas, n).mean())
            rows.append(row)
    return pd.DataFrame(rows)


def same_distribution(videos: int, steps: int, seed: int = 0, tell: Callable[[str], None] = print) -> pd.DataFrame:
    """Two-sample energy tests of speculative samples against plain ones, whole videos; and a wrong rule's."""
    world = World()
    shape = (videos, world.frames, world.size)
    plain = sample_plainly(world.denoise, shape, steps, torch.Generator().manual_seed(seed + 10))
    rows = []
    cases: list[tuple[str, str | None, tuple[int, int], str]] = [("plain again", None, (0, 0), "")]
    cases += [("windows-8", "windows-8", (1, 4), "reflection"), ("windows-8", "windows-8", (2, 3), "d_grs")]
    cases += [("windows-8", "windows-8", (2, 3), "optimal"), ("windows-4", "windows-4", (4, 2), "optimal")]
    cases += [("frozen-x0", "frozen-x0", (2, 3), "optimal"), ("frozen-drift", "frozen-drift", (1, 4), "reflection")]
    cases += [("the draft alone", None, (1, 0), "")]
    for number, (name, draft, tree, rule) in enumerate(cases):
        tell(f"{name} {rule}")
        generator = torch.Generator().manual_seed(seed + 20 + number)
        if draft is not None:
            video, _ = sample_speculatively(world.denoise, draft_of(draft, world), shape, steps, tree, rule, generator)
        else:
            alone = draft_of("windows-8", world)
            assert not isinstance(alone, str)
            video = sample_plainly(alone if tree[0] else world.denoise, shape, steps, generator)
        distance, p_value = energy_test(plain, video)
        label = f"{tree[0]}x{tree[1]}" if draft is not None else ""
        rows.append({"sample": name, "tree": label, "rule": rule, "energy_distance": distance, "p_value": p_value})
    return pd.DataFrame(rows)
