"""The only loop: dump -> blocks of rows -> per-position results.

A dump is cut into *blocks* of a fixed number of rows.  A block is the unit of reading, computing, writing and
resuming, so that results do not depend on batch sizes, on how blocks are shared among workers, or on where a run was
interrupted.  The next block is read while the present one is computed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds.evaluate import BLOCK_ROWS, Settings, evaluate_block
from mdsd_bounds.problem import InputError

Progress = Callable[[int, int], None]


def run(
    dump: Any,
    settings: Settings,
    *,
    out: str | None = None,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    progress: Progress | None = None,
    keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
) -> pd.DataFrame | None:
    """Run ``settings`` over a dump and return the per-position table.

    Parameters
    ----------
    dump :
        An opened dump (:func:`mdsd_bounds.open_dump`).
    out : str or None
        Parquet file for the per-position table.  Each finished block is kept beside it, in ``OUT.parts``, until the
        file is whole; the same command run again after an interruption continues there.
    shard : (i, N)
        Compute only blocks i, i + N, ...  With ``out``, the table is put together by whichever run finishes last.
    limit : int or None
        Use only the first ``limit`` rows.
    progress : callable or None
        Called with (rows done, rows in all).
    keep : callable or None
        Applied to each block's table, for callers that need only some columns.

    Returns
    -------
    DataFrame or None
        The whole table; None when other shards are still missing.

    Raises
    ------
    InputError
        If the dump has no rows, ``out`` cannot be written, or ``OUT.parts`` belongs to other settings.
    """
    rows = len(dump) if limit is None else min(limit, len(dump))
    if rows == 0:
        raise InputError(f"{dump.facts.path}: the dump has no rows; log some positions first")
    blocks = [(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS)]
    mine = [b for b in range(len(blocks)) if b % shard[1] == shard[0]]
    parts = _Parts(out, settings.key(dump) + f"-{rows}") if out is not None else None
    todo = [b for b in mine if parts is None or not parts.has(b)]
    done = sum(blocks[b][1] - blocks[b][0] for b in mine if b not in set(todo))
    total = sum(blocks[b][1] - blocks[b][0] for b in mine)
    frames = []
    if progress is not None:
        progress(done, total)
    for block, batch in _prefetch(dump, [(b, *blocks[b]) for b in todo]):
        frame = evaluate_block(batch, settings, str(dump.facts.path))
        if parts is not None:
            parts.write(block, frame)
        else:
            frames.append(frame if keep is None else keep(frame))
        done += blocks[block][1] - blocks[block][0]
        if progress is not None:
            progress(done, total)
    if parts is None:
        return pd.concat(frames, ignore_index=True)
    return parts.join(len(blocks))


def _prefetch(dump: Any, spans: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, Any]]:
    """Blocks in order, the next one read by a thread while the caller computes."""

    def read(span: tuple[int, int, int]) -> Any:
        _, start, stop = span
        batches = list(dump.batches(stop - start, start=start, stop=stop))
        if len(batches) != 1 or len(batches[0].row) != stop - start:
            raise InputError(f"{dump.facts.path}: rows {start} to {stop - 1} could not be read whole; did it shrink?")
        return batches[0]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, spans[0]) if spans else None
        for i, span in enumerate(spans):
            assert ahead is not None
            batch = ahead.result()
            ahead = reader.submit(read, spans[i + 1]) if i + 1 < len(spans) else None
            yield span[0], batch


class _Parts:
    """Finished blocks beside the output file; each is written under another name and renamed when whole."""

    def __init__(self, out: str, key: str) -> None:
        self.out = Path(out)
        self.folder = Path(f"{out}.parts")
        if not self.out.parent.is_dir():
            raise InputError(f"{out}: the folder {self.out.parent} does not exist; make it first")
        self.folder.mkdir(exist_ok=True)
        mark = self.folder / "key"
        if mark.exists() and mark.read_text() != key:
            raise InputError(
                f"{self.folder}: parts of a run with other settings or another dump; delete it or change --out"
            )
        mark.write_text(key)

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:09d}.parquet"

    def has(self, block: int) -> bool:
        return self._path(block).exists()

    def write(self, block: int, frame: pd.DataFrame) -> None:
        _write_whole(frame, self._path(block))

    def join(self, blocks: int) -> pd.DataFrame | None:
        if not all(self.has(block) for block in range(blocks)):
            return None
        table = pd.concat([pd.read_parquet(self._path(block)) for block in range(blocks)], ignore_index=True)
        _write_whole(table, self.out)
        shutil.rmtree(self.folder)
        return table


def _write_whole(frame: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: could not be written ({error.strerror}); finished parts are intact") from None
