"""Verification of n = 4 proposed states of a million numbers, against a copy of the four states."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from benchmarks.timing import interleaved
from torch import Tensor

from mdsd_bounds.diffusion.verify import verify

TITLE = "Diffusion step: verify 4 states of a million numbers, over a copy of them"

SIZE, DRAFTS = 1_000_000, 4
#: Steps timed together.
STEPS = 10


def table(runs: int) -> list[dict[str, Any]]:
    """Every rule but the binned one, float32 and float64, where most steps accept (delta = .5) and few (delta = 3)."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(0)
        mean_q = torch.randn(1, SIZE, generator=generator, dtype=dtype)
        direction = torch.randn(1, SIZE, generator=generator, dtype=dtype)
        children = mean_q[:, None] + torch.randn(1, DRAFTS, SIZE, generator=generator, dtype=dtype)
        for delta in (0.5, 3.0):
            mean_p = mean_q + delta / direction.norm() * direction
            for rule in ("optimal", "d_grs", "rank_mixture", "reflection"):
                mine, copy = _seconds(runs, children, mean_p, mean_q, rule)
                name = str(dtype).removeprefix("torch.")
                rows.append({"dtype": name, "delta": delta, "rule": rule, "ms": 1e3 * mine, "copies": mine / copy})
    return rows


def _seconds(runs: int, children: Tensor, mean_p: Tensor, mean_q: Tensor, rule: str) -> tuple[float, float]:
    """Median seconds of a step and of a copy of its children, in turn."""
    generator, held = torch.Generator().manual_seed(1), torch.empty_like(children)

    def steps() -> None:
        for _ in range(STEPS):
            verify(children, mean_p, mean_q, 1.0, rule, generator=generator)

    def copies() -> None:
        for _ in range(STEPS):
            held.copy_(children)

    mine, copy = (statistics.median(times) / STEPS for times in interleaved(runs, steps, copies))
    return mine, copy
