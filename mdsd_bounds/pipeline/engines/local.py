"""This process alone: one thread reads ahead, the caller's computes, one writes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa

from mdsd_bounds._backend.buffers import buffers_kept
from mdsd_bounds._backend.progress import stage
from mdsd_bounds.dumps.base import LogitBatch
from mdsd_bounds.pipeline.engines.job import Job, as_table, compute, pieces, read, reads
from mdsd_bounds.pipeline.part_files import Store


def run_local(job: Job, parts: Sequence[int], store: Store | None) -> Iterator[tuple[int, pa.Table | None]]:
    """Compute the parts in order.

    At any time at most two reads of ``job.batch_rows`` rows are in memory, the present one and the next, and the tables
    of two parts, the present one and the one being written.
    """
    plan = job.parts
    last = {plan[part][-1]: part for part in parts}
    frames: list[pd.DataFrame] = []
    done, blocks = 0, sum(len(plan[part]) for part in parts)
    writing: Future[None] | None = None
    written = -1
    with (
        buffers_kept(),
        ThreadPoolExecutor(1) as writer,
        contextlib.closing(_read_ahead(job, reads(job, [block for part in parts for block in plan[part]]))) as batches,
    ):
        for group, batch in batches:
            for block, rows in zip(group, pieces(batch, group), strict=True):
                with stage(done, blocks):
                    frames.append(compute(job, rows))
                done += 1
                if block not in last:
                    continue
                part, table, frames = last[block], as_table(frames), []
                if store is None:
                    yield part, table
                    continue
                if writing is not None:
                    writing.result()
                    yield written, None
                writing, written = writer.submit(store.write, part, table), part
            del batch, rows
        if writing is not None:
            writing.result()
            yield written, None


def _read_ahead(
    job: Job, groups: Sequence[list[tuple[int, int]]]
) -> Generator[tuple[list[tuple[int, int]], LogitBatch]]:
    """Every group of blocks with its rows, the next one read by a thread while the caller computes."""

    def fetch(group: list[tuple[int, int]]) -> LogitBatch:
        return read(job.dump, group[0][0], group[-1][1], text=job.settings.needs_text)

    with ThreadPoolExecutor(1) as reader:
        ahead: Any = reader.submit(fetch, groups[0]) if groups else None
        for i, group in enumerate(groups):
            batch = ahead.result()
            ahead = reader.submit(fetch, groups[i + 1]) if i + 1 < len(groups) else None
            yield group, batch
            del batch
