"""What one worker of one thread does with a position: the steps of a large run, each alone.

The least of several runs on each side, interleaved with the reference: other work on the machine can only add time.
Processor time, except for reading, which waits for the disk.
``scripts/scale_page.py`` makes ``docs/scale.md`` of this table.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.guard import one_thread
from benchmarks.streaming import forget, write
from benchmarks.timing import interleaved, logits, per_position, softmax_of_both

from mdsd_bounds import open_dump
from mdsd_bounds._backend.buffers import buffers_kept
from mdsd_bounds.dumps.hidden_states import Head, hidden_rows
from mdsd_bounds.pipeline.engines.job import Job, as_table, compute, read
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.part_files import open_store

TITLE = (
    f"One worker of one thread, V = 151,936, n = 1, 2, 4, 8, blocks of {BLOCK_ROWS} positions: least of several runs"
)

SIZE = 151_936
#: Widths of the hidden states of the shipped pair.
WIDTHS = (1536, 896)
SAMPLERS = ("with_replacement", "greedy", "without_replacement")


def table(runs: int) -> list[dict[str, Any]]:
    """Milliseconds and bytes per position of each step, and its ratio to softmax of the two rows in float32."""
    with one_thread(), buffers_kept(), tempfile.TemporaryDirectory(prefix="mdsd-bench-") as place:
        path = Path(place) / "dump"
        write(path, BLOCK_ROWS)
        dump = open_dump(path)
        batch = read(dump, 0, BLOCK_ROWS)
        reference = softmax_of_both(*logits(SIZE, BLOCK_ROWS))
        job = Job(dump, Settings(samplers=SAMPLERS, drafts=(1, 2, 4, 8)), BLOCK_ROWS)
        rows = [_row("read logits", lambda: read(dump, 0, BLOCK_ROWS), reference, runs, 4 * SIZE, lambda: forget(path))]
        for sampler in SAMPLERS:
            one = replace(job, settings=replace(job.settings, samplers=(sampler,)))
            rows.append(_row(f"bound {sampler}", lambda one=one: compute(one, batch), reference, runs))  # type: ignore[misc]
        frame = as_table([compute(job, batch)])
        store = open_store(str(Path(place) / "out.parquet"), "bench")
        store.write(0, frame)
        size = Path(store.path(0)).stat().st_size / BLOCK_ROWS
        rows.append(_row("write results", lambda: store.write(0, frame), reference, runs, size))
        for dtype in (torch.float32, torch.bfloat16):
            heads = [Head(torch.randn(SIZE, width).to(dtype)) for width in WIDTHS]
            states = [torch.randn(BLOCK_ROWS, width).to(dtype) for width in WIDTHS]
            name = f"rebuild logits, {str(dtype).removeprefix('torch.')}"
            call = lambda s=states, h=heads: [hidden_rows(x, head) for x, head in zip(s, h, strict=True)]  # noqa: E731
            rows.append(_row(name, call, reference, runs, 2 * sum(WIDTHS)))
    return rows


def _row(
    step: str,
    call: Callable[[], Any],
    reference: Callable[[], Any],
    runs: int,
    size: float = 0.0,
    before: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    print(step, file=sys.stderr)
    clock = time.perf_counter if before is not None else time.process_time
    _, mine, other = interleaved(runs, before or int, call, reference, clock=clock)
    return {
        "step": step,
        **per_position(min(mine), min(other), BLOCK_ROWS),
        "bytes_per_position": size,
    }
