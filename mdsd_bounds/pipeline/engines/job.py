"""What a run computes, cut into blocks and parts in a way that depends on nothing but the number of rows.

A *block* of rows is what is computed at once: the same rows meet in one block whatever the batch size, the number of
shards and the engine, so the results have the same bytes.  A *part* is one or more blocks in a row, and is what is
written, resumed and given to a worker.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from mdsd_bounds._backend.buffers import buffers_kept
from mdsd_bounds.dumps.base import Dump, LogitBatch, size_on_disk
from mdsd_bounds.pipeline.block_rows import refuse_scattered
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings, evaluate_block
from mdsd_bounds.problem import InputError

#: Parts of a run, at most: a billion rows are then 61,056 rows a part, and a folder of parts can still be listed.
MAX_PARTS = 16_384


@dataclass(frozen=True)
class Job:
    """One run over a dump.

    Attributes
    ----------
    dump : Dump
        Opened in this process; workers elsewhere open ``dump.facts.path`` again.
    settings : Settings
        What is computed at a position.
    rows : int
        Positions used, from the first.
    batch_rows : int
        Rows read at once (rounded up to whole blocks); memory grows with it, results do not depend on it.
    max_parts : int
        See :data:`MAX_PARTS`.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.engines import Job
    >>> job = Job(load_example(), Settings(("with_replacement",), (1, 2)), rows=32)
    >>> job.blocks
    [(0, 32)]
    >>> len(job.parts)
    1
    """

    dump: Dump
    settings: Settings
    rows: int
    batch_rows: int = BLOCK_ROWS
    max_parts: int = MAX_PARTS

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First row and end of every block.

        A single last row joins the block before it: sums over one row alone may be split among threads, and then
        round differently on another number of threads.
        """
        starts = list(range(0, self.rows, BLOCK_ROWS))
        if len(starts) > 1 and self.rows - starts[-1] == 1:
            starts.pop()
        return list(zip(starts, [*starts[1:], self.rows], strict=True))

    @property
    def parts(self) -> list[list[tuple[int, int]]]:
        """The blocks of every part."""
        blocks = self.blocks
        size = -(-len(blocks) // self.max_parts)
        return [blocks[first : first + size] for first in range(0, len(blocks), size)]


def reads(job: Job, blocks: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Blocks grouped into what is read at once: neighbours, up to ``batch_rows`` rows and at least one block."""
    groups: list[list[tuple[int, int]]] = []
    for block in blocks:
        fits = groups and groups[-1][-1][1] == block[0] and block[1] - groups[-1][0][0] <= job.batch_rows
        if fits:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def read(dump: Dump, start: int, stop: int, *, text: bool = False) -> LogitBatch:
    """Rows ``start`` to ``stop`` of a dump, copied into memory; with ``text``, the tokens before them as well.

    Raises
    ------
    InputError
        If they cannot be read whole: the file was cut short, deleted or damaged since it was opened.
    """
    where = f"{dump.facts.path}: rows {start} to {stop - 1} could not be read whole"
    _refuse_shrunk(dump, where)
    try:
        with _memory_named(dump, start, stop):
            (batch,) = dump.batches(stop - start, start=start, stop=stop)
            if text and batch.doc is not None and batch.token is not None:
                batch = replace(batch, past=_past(dump, start, int(batch.doc[0])))
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{where} ({reason}); restore the dump and run again, finished parts are intact") from None
    if len(batch.row) != stop - start:
        raise InputError(f"{where}; did it shrink? Restore the dump and run again, finished parts are intact")
    return batch


def _past(dump: Dump, start: int, document: int) -> Tensor:
    """Tokens of a document in the rows before ``start``: its rows are read once more, back to its beginning."""
    parts: list[Tensor] = []
    while start > 0:
        first = max(start - BLOCK_ROWS, 0)
        (batch,) = dump.batches(start - first, start=first, stop=start)
        assert batch.doc is not None
        assert batch.token is not None
        others = (batch.doc != document).nonzero()
        begun = int(others[-1]) + 1 if len(others) else 0
        refuse_scattered(batch.doc[:begun].tolist(), document, first + begun)
        parts.append(batch.token[begun:])
        start = first if begun == 0 else 0
    return torch.cat(parts[::-1]) if parts else torch.empty(0, dtype=torch.int64)


def _refuse_shrunk(dump: Dump, where: str) -> None:
    # Reading beyond the end of a mapped file kills the process, so that sizes are looked at first.  Folders check
    # their own files as they open them.
    label, size = dump.facts.path, dump.facts.bytes
    named = [Path(label)] if Path(label).exists() else [Path(name) for name in label.split(",")]
    paths = list(dump.paths) or named
    if not size or "://" in label or any(path.is_dir() for path in paths):
        return
    try:
        found = size_on_disk(*paths)
    except OSError:
        raise InputError(f"{where}: the file is gone; restore it and run again, finished parts are intact") from None
    if found < size:
        raise InputError(
            f"{where}: it shrank from {size} to {found} bytes while it was read; restore the dump and run again, "
            "finished parts are intact"
        )


def pieces(batch: LogitBatch, group: Sequence[tuple[int, int]]) -> list[LogitBatch]:
    """The blocks of one read."""
    first = group[0][0]
    return [batch if len(group) == 1 else _select(batch, slice(start - first, stop - first)) for start, stop in group]


def _select(batch: LogitBatch, rows: slice) -> LogitBatch:
    held = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "past"}
    parts: dict[str, Any] = {name: value[rows] if isinstance(value, Tensor) else value for name, value in held.items()}
    return LogitBatch(**parts, past=_past_within(batch, rows.start))


def _past_within(batch: LogitBatch, place: int) -> Tensor | None:
    """The past of a row of a batch, from the batch's own."""
    if batch.past is None or batch.doc is None or batch.token is None or place == 0:
        return batch.past
    others = (batch.doc[:place] != batch.doc[place]).nonzero()
    if len(others):
        return batch.token[int(others[-1]) + 1 : place]
    return torch.cat([batch.past, batch.token[:place]])


def compute(job: Job, batch: LogitBatch, device: str = "cpu") -> pd.DataFrame:
    """Per-position results of one block, computed on a device.

    Raises
    ------
    InputError
        If a row is bad, or memory does not suffice.
    """
    start, stop = int(batch.row[0]), int(batch.row[-1]) + 1
    if device != "cpu":
        held = {field.name: getattr(batch, field.name) for field in fields(batch)}
        moved = {
            name: held[name].to(device)
            for name in held
            if name.endswith(("_logits", "_cut")) and held[name] is not None
        }
        batch = LogitBatch(**(held | moved))
    with _memory_named(job.dump, start, stop):
        return evaluate_block(batch, job.settings, str(job.dump.facts.path))


def compute_part(job: Job, part: Sequence[tuple[int, int]], device: str = "cpu") -> pa.Table:
    """The table of one part: read, computed and joined in order."""
    with buffers_kept():
        frames = [
            compute(job, block, device)
            for group in reads(job, part)
            for block in pieces(read(job.dump, group[0][0], group[-1][1], text=job.settings.needs_text), group)
        ]
    return as_table(frames)


def as_table(frames: Sequence[pd.DataFrame]) -> pa.Table:
    """Frames of neighbouring blocks as one Arrow table, without an index."""
    return pa.concat_tables([pa.Table.from_pandas(frame, preserve_index=False) for frame in frames])


@contextlib.contextmanager
def _memory_named(dump: Dump, start: int, stop: int) -> Iterator[None]:
    """Says which rows memory did not suffice for."""
    try:
        yield
    except MemoryError:
        raise _out_of_memory(dump, start, stop) from None
    except RuntimeError as error:
        # torch's allocators raise RuntimeErrors of their own.
        if "can't allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(dump, start, stop) from None
        raise


def _out_of_memory(dump: Dump, start: int, stop: int) -> InputError:
    """What is said where memory did not suffice."""
    return InputError(
        f"{dump.facts.path}: rows {start} to {stop - 1}: out of memory; free some, ask for fewer samplers, drafts or "
        "temperatures at once, or give fewer workers to a machine; finished parts are intact"
    )
