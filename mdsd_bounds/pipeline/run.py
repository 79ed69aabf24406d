"""The only loop: dump -> blocks of rows -> per-position results.

The rows are cut into *blocks*, what is computed at once, and *parts*, what is written and resumed
(:mod:`mdsd_bounds.pipeline.engines.job`), by the number of rows alone, so that results do not depend on batch sizes,
on how parts are shared among workers, or on where a run was interrupted.  Who computes them is an engine
(:data:`mdsd_bounds.pipeline.engines.ENGINES`); the local one reads the next rows while the present ones are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd
import pyarrow as pa

from mdsd_bounds._backend.filesystem import split
from mdsd_bounds._backend.progress import watching
from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.fingerprint import source_of
from mdsd_bounds.pipeline.checked_tables import read_checked
from mdsd_bounds.pipeline.engines import Job, Store, get_engine
from mdsd_bounds.pipeline.engines.job import MAX_PARTS
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.part_files import claim, joining, open_store, standing, sweep
from mdsd_bounds.problem import InputError

Progress = Callable[[float, int], None]


@dataclass(frozen=True)
class Execution:
    """Who computes a run, and how much at once.  Results are the same bytes for all values.

    Attributes
    ----------
    engine : str
        Name in :data:`mdsd_bounds.pipeline.engines.ENGINES`.
    batch_rows : int
        Rows read at once.
    max_parts : int
        Parts at most.

    Examples
    --------
    >>> from mdsd_bounds.pipeline import Execution
    >>> Execution("process", batch_rows=64).engine
    'process'
    """

    engine: str = "local"
    batch_rows: int = BLOCK_ROWS
    max_parts: int = MAX_PARTS


def run(
    dump: Dump,
    settings: Settings,
    *,
    out: str | None = None,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
    execution: Execution | None = None,
) -> pd.DataFrame | None:
    """Run ``settings`` over a dump and return the per-position table.

    Parameters
    ----------
    dump :
        An opened dump (:func:`mdsd_bounds.open_dump`).
    out : str or None
        Parquet file for the per-position table, on any path that fsspec knows.  Each finished part is kept beside it,
        in ``OUT.parts``, until the file is whole; the same command run again after an interruption continues there,
        and after its end answers from the file.
    shard : (i, N)
        Compute only parts i, i + N, ...  With ``out``, the table is put together by whichever run finishes last.
    limit : int or None
        Use only the first ``limit`` rows.
    progress : callable or None
        Called with (rows done, rows in all); inside a block of rows, rows done is a fraction.
    force : bool
        Compute again where ``out`` holds these very results, and replace it where it holds anything else.
    execution : Execution or None
        Who computes, and how much at once; the results are the same bytes whatever it says.

    Returns
    -------
    DataFrame or None
        The whole table; None when other shards are still missing.

    Raises
    ------
    InputError
        If ``out`` has the ending of another format, the dump has no rows or cannot be read whole, memory or disk space
        does not suffice, another run writes to ``out``, ``OUT.parts`` belongs to other settings, ``out`` is another
        run's or no table of ours (without ``force``), or the dump is changed while it is read.  Finished parts stay.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> table = run(load_example(), Settings(("with_replacement",), (1, 2)), limit=4)
    >>> len(table), round(float(table["value"].max()), 2)
    (8, 1.0)
    """
    rows = len(dump) if limit is None else min(limit, len(dump))
    if rows == 0:
        raise InputError(f"{dump.facts.path}: the dump has no rows; log some positions first")
    how = execution or Execution()
    get_engine(how.engine)
    settings.check(dump)
    job = Job(dump, settings, rows, how.batch_rows, how.max_parts)
    mine = list(range(shard[0], len(job.parts), shard[1]))
    if out is None:
        tables = dict(_compute(job, mine, mine, None, how.engine, progress))
        return _frame(pa.concat_tables([tables.pop(part) for part in mine]))
    _refuse_other_format(out)
    if not mine:
        # More shards than parts: the others put the table together without this one.
        return None
    # Taken before the content, so that a change after either is noticed.
    source = source_of((*dump.paths, *dump.beside))
    mark = f"{settings.key(dump)}-{rows}"
    if not force and _answers(out, mark):
        sweep(out, mark)
        return _read(out)
    store = open_store(out, f"{mark}-{len(job.parts)}", mark, source)
    before = _version(store)
    try:
        with claim(store, shard):
            there = store.finished()
            todo = [part for part in mine if part not in there]
            for _ in _compute(job, mine, todo, store, how.engine, progress):
                pass
            with joining(store):
                if len(store.finished()) == len(job.parts):
                    store.join(len(job.parts))
                elif _version(store) in (None, before):
                    return None
                elif not store.local:
                    # Another run has put all parts together and removed them, and this one wrote some again.
                    store.remove()
    except FileNotFoundError:
        # The folder of parts is gone.  Where ``out`` is new, another run has put the same bytes together.
        if _version(store) in (None, before):
            raise InputError(f"{out}.parts: removed while it was written; run again") from None
    return _read(out)


def is_finished(dump: Dump, settings: Settings, out: str, limit: int | None = None) -> bool:
    """Whether ``out`` holds the results of this very run, so that :func:`run` answers from it.

    Raises
    ------
    InputError
        If it holds anything else, which only ``force`` replaces.
    """
    rows = len(dump) if limit is None else min(limit, len(dump))
    return _answers(out, f"{settings.key(dump)}-{rows}")


def _answers(out: str, mark: str) -> bool:
    found = standing(out)
    if found is None:
        return False
    if found != mark:
        what = "the results of another run (other settings or another dump)" if found else "no table of this program"
        raise InputError(f"{out}: exists and holds {what}; give another name, or --force to replace it")
    return True


def _read(out: str) -> pd.DataFrame:
    fs, path = split(out)
    return _frame(read_checked(fs.cat_file(path), out + ": the results there are damaged ({}); --force replaces them"))


def _refuse_other_format(out: str) -> None:
    ending = PurePosixPath(out).suffix.lower()
    if ending in (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".html", ".npz"):
        better = out[: -len(ending)] + ".parquet"
        raise InputError(
            f"{out}: per-position results are written as parquet; name it {better}, and read it with "
            "pandas.read_parquet (the summary on stdout can be --format csv or json)"
        )


def _frame(table: pa.Table) -> pd.DataFrame:
    # The Arrow columns are given back as they are turned into pandas ones: the table is never held twice.
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _compute(
    job: Job,
    mine: list[int],
    todo: list[int],
    store: Store | None,
    engine: str,
    progress: Progress | None,
) -> Iterator[tuple[int, pa.Table]]:
    """The parts still to do, with progress over all parts of this shard."""
    sizes = [part[-1][1] - part[0][0] for part in job.parts]
    total = sum(sizes[part] for part in mine)
    done = total - sum(sizes[part] for part in todo)
    before, most = done, -1.0

    def report(rows: float) -> None:
        # Parts are written while the next ones are computed: what was said is never taken back.
        nonlocal most
        if progress is not None and rows > most:
            most = rows
            progress(rows, total)

    report(done)
    with watching(lambda share: report(before + share * (total - before))):
        for part, table in get_engine(engine)(job, todo, store):
            done += sizes[part]
            report(done)
            yield part, table


def _version(store: Store) -> str | None:
    """What tells one state of ``out`` from another; None where it does not exist."""
    fs, path = split(store.out)
    try:
        version: str = fs.ukey(path)
    except (FileNotFoundError, NotImplementedError):
        return None
    return version
