"""What every benchmark shares: rows to time on, interleaved medians, and what the figures were taken on.

A figure is a ratio to a reference that runs in turn with the subject, so that a change in the machine's speed meets
both.  The median of several pairs is kept.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds import open_dump

SHIPPED = Path(__file__).parents[2] / "data" / "qwen2.5-coder-humaneval"


def logits(size: int, rows: int) -> tuple[Tensor, Tensor]:
    """Float32 rows ``[rows, size]`` of a target and a draft.

    At V = 151,936 they are those of the shipped dump, repeated in order where more are asked for; elsewhere they are
    drawn to look like them.
    """
    if size == 151_936 and SHIPPED.exists():
        dump = open_dump(SHIPPED)
        (batch,) = dump.batches(len(dump))
        which = torch.arange(rows) % len(dump)
        return batch.target_logits[which].float(), batch.draft_logits[which].float()
    generator = torch.Generator().manual_seed(size)
    shape = torch.stack(
        [-1.8 * torch.arange(1, size + 1).log()[torch.randperm(size, generator=generator)] for _ in range(rows)]
    )
    target, draft = (shape + 0.8 * torch.randn(rows, size, generator=generator) for _ in range(2))
    return target, draft


def softmax_of_both(target: Tensor, draft: Tensor) -> Callable[[], Any]:
    """The reference of most ratios: ``torch.softmax`` in float32 of the same rows of both models."""
    return lambda: (torch.softmax(target, -1), torch.softmax(draft, -1))


def interleaved(
    runs: int, *calls: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of ``runs`` runs of each call, in turn, after one warm-up of each.

    ``clock=time.process_time`` leaves out what other processes took; for work on one thread only.
    """
    times: list[list[float]] = [[] for _ in calls]
    for run in range(runs + 1):
        for call, kept in zip(calls, times, strict=True):
            begun = clock()
            call()
            if run:
                kept.append(clock() - begun)
    return times


def medians(subject: Callable[[], Any], reference: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Median seconds of each, run in turn after one warm-up."""
    mine, other = interleaved(runs, subject, reference)
    return statistics.median(mine), statistics.median(other)


def per_position(subject: float, softmax: float, rows: int = 1) -> dict[str, float]:
    """Milliseconds for each of ``rows`` positions, of the subject and of softmax, from seconds; and their ratio."""
    return {
        "ms_per_position": 1e3 * subject / rows,
        "softmax_ms": 1e3 * softmax / rows,
        "ratio": subject / softmax,
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
