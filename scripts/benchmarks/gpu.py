"""The search without replacement on a GPU: microseconds a position, beside softmax and a copy of the same rows.

    python scripts/benchmarks/gpu.py [--runs 7] [--vocabulary 151936]        (make bench-gpu)

Batches of 1, 64 and 512 rows drawn to look like those of language models; n = 1..8 together.  Softmax is float32 of
both rows into memory already held, the copy is of both float64 distributions; each is timed in turn with the bound,
up to a synchronisation.  Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.timing import interleaved

from mdsd_bounds import optimal_acceptance, to_probs

BATCHES = (1, 64, 512)
EIGHT = tuple(range(1, 9))


def measure(device: torch.device, size: int, batch: int, runs: int) -> dict[str, float]:
    """Median microseconds a position of the bound, the softmax and the copy."""
    generator = torch.Generator(device).manual_seed(size)
    ranks = torch.arange(1, size + 1, device=device).log()
    shape = torch.stack([-1.8 * ranks[torch.randperm(size, generator=generator, device=device)] for _ in range(batch)])
    target, draft = (shape + 0.8 * torch.randn(shape.shape, generator=generator, device=device) for _ in range(2))
    p, q = to_probs(target), to_probs(draft)
    soft, copies = (torch.empty_like(target), torch.empty_like(draft)), (torch.empty_like(p), torch.empty_like(q))

    def finished(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    calls = {
        "bound": lambda: optimal_acceptance(p, q, EIGHT, "without_replacement"),
        "softmax": lambda: [torch.softmax(x, -1, out=y) for x, y in zip((target, draft), soft, strict=True)],
        "copy": lambda: [y.copy_(x) for x, y in zip((p, q), copies, strict=True)],
    }
    times = interleaved(runs, *(finished(call) for call in calls.values()), clock=time.perf_counter)
    return {name: 1e6 * statistics.median(each) / batch for name, each in zip(calls, times, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: torch sees no CUDA device on this machine", file=sys.stderr)
        return
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, V = {arguments.vocabulary:,}, n = 1..8")
    print("batch    bound us   softmax us   copy us   bound / softmax   bound / copy")
    for batch in BATCHES:
        us = measure(device, arguments.vocabulary, batch, arguments.runs)
        print(
            f"{batch:5d} {us['bound']:11.1f} {us['softmax']:12.1f} {us['copy']:9.1f} "
            f"{us['bound'] / us['softmax']:17.1f} {us['bound'] / us['copy']:14.1f}"
        )


if __name__ == "__main__":
    main()
