"""Finished parts beside the output file, on any path that fsspec knows; put together when all are there.

Every part is written whole under its final name: a rename on local disks, one put on object stores.  Its bytes depend
on the settings and the dump alone, so that two runs that meet cannot leave duplicate, missing or mixed rows; on local
disks a second run of the same shard is refused as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mdsd_bounds._backend.filesystem import is_local, split
from mdsd_bounds._backend.whole_files import whole_file
from mdsd_bounds.dumps.fingerprint import NO_FILES, Source
from mdsd_bounds.pipeline.checked_tables import footer_metadata, read_checked, write_checked
from mdsd_bounds.problem import InputError

INTACT = "finished parts are intact: make room and run again"
#: Key in the schema of a joined file under which its run is named.
_MARK = b"mdsd_bounds run"
#: Lines of a row group of the joined file.
GROUP_LINES = 65_536


@dataclass(frozen=True)
class Store:
    """Where the parts of one run go.  Made by :func:`open_store`; can be sent to other processes.

    Attributes
    ----------
    out : str
        The joined file, as the user named it.
    folder : str
        ``OUT.parts``, as the file system names it.
    key : str
        Digest of what is computed.  It is in the name of every part: parts of another run are never taken for ours.
    mark : str
        Digest of the results, kept in the joined file (:func:`standing`); unlike the key the same for any parts.
    source : Source
        The dump's files, which must not change while parts are written.

    Examples
    --------
    >>> import tempfile
    >>> import fsspec
    >>> from mdsd_bounds.pipeline.engines import Store
    >>> folder = tempfile.mkdtemp()
    >>> store = Store(f"{folder}/rows.parquet", folder, fsspec.filesystem("file"), key="a1b2")
    >>> store.path(3).removeprefix(folder)
    '/a1b2-000000003.parquet'
    >>> import pyarrow as pa
    >>> store.write(3, pa.table({"row": [0, 1]}))
    >>> store.finished(), store.read(3).num_rows
    ({3}, 2)
    """

    out: str
    folder: str
    fs: Any
    key: str
    mark: str = ""
    source: Source = NO_FILES

    @property
    def local(self) -> bool:
        """Whether the parts are on a disk of this machine."""
        return is_local(self.fs)

    def path(self, part: int) -> str:
        """Name of a part."""
        return f"{self.folder}/{self.key}-{part:09d}.parquet"

    def finished(self) -> set[int]:
        """Numbers of the parts that are there."""
        self.fs.invalidate_cache()
        names = (os.path.basename(str(name)) for name in self.fs.ls(self.folder, detail=False))
        start, end = f"{self.key}-", ".parquet"
        parts = (name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))
        return {int(part) for part in parts if part.isascii() and part.isdigit()}

    def write(self, part: int, table: pa.Table) -> None:
        """Keep one part.

        Raises
        ------
        InputError
            If the disk is full, the folder cannot be written, or the dump was changed since the run began.
        """
        self.source.refuse_changed()
        buffer = io.BytesIO()
        write_checked(buffer, table.schema, [table])
        _put_whole(self.fs, self.path(part), buffer.getvalue(), self.out)

    def read(self, part: int) -> pa.Table:
        """One part.

        Raises
        ------
        InputError
            If it is damaged.
        """
        path = self.path(part)
        return read_checked(self.fs.cat_file(path), path + ": damaged part ({}); delete it and run again")

    def join(self, parts: int) -> None:
        """Write ``out`` from its parts in order, a row group at a time, and remove them.

        Only the lines of one row group and one part are in memory.
        """
        _, target = split(self.out)
        if self.local:
            with whole_file(target, INTACT, folder=self.folder) as begun, begun.open("wb") as stream:
                self._write_groups(stream, parts)
        else:
            try:
                with self.fs.open(target, "wb") as stream:
                    self._write_groups(stream, parts)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise _cannot_write(self.out, error) from None
        self.remove()

    def remove(self) -> None:
        """Delete the folder of parts; nothing is done where it is gone."""
        leaving = self.folder
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                # In one step, so that whoever still writes there fails instead of leaving files behind.
                leaving = f"{self.folder}.{uuid.uuid4().hex}.tmp"
                os.replace(self.folder, leaving)
            self.fs.rm(leaving, recursive=True)

    def _write_groups(self, stream: Any, parts: int) -> None:
        first = self.read(0)
        schema = first.schema.with_metadata({**(first.schema.metadata or {}), _MARK: self.mark.encode()})
        write_checked(stream, schema, self._groups(first, parts))

    def _groups(self, first: pa.Table, parts: int) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        for part in range(parts):
            waiting.append(first if part == 0 else self.read(part))
            if sum(len(table) for table in waiting) >= GROUP_LINES or part == parts - 1:
                yield pa.concat_tables(waiting)
                waiting = []


def standing(out: str) -> str | None:
    """What is there under the name of a joined file: None where nothing is, the mark of the run that wrote it, or an
    empty text where it is a file of somebody else's."""
    fs, path = split(out)
    try:
        if not fs.isfile(path):
            return None
        with fs.open(path, "rb") as stream:
            metadata = footer_metadata(stream, fs.size(path))
    except (pa.ArrowException, OSError, ValueError):
        return ""
    return metadata.get(_MARK, b"").decode("ascii", "replace")


def sweep(out: str, mark: str) -> None:
    """Delete what a run that was killed after its end left beside the joined file: parts of this run, and folders that
    were being deleted.  Local disks only; what another run holds stays."""
    fs, path = split(out)
    if not is_local(fs):
        return
    folder = Path(f"{path}.parts")
    for leaving in folder.parent.iterdir():
        if re.fullmatch(re.escape(folder.name) + r"\.[0-9a-f]{32}\.tmp", leaving.name):
            shutil.rmtree(leaving, ignore_errors=True)
    with contextlib.suppress(OSError, InputError):
        key = (folder / "key").read_text()
        if key.startswith(f"{mark}-"):
            store = Store(out, str(folder), fs, key, mark)
            with claim(store, (0, 1)):
                store.remove()


def open_store(out: str, key: str, mark: str = "", source: Source | None = None) -> Store:
    """The parts of ``out``; the folder is made where it is missing.

    Parameters
    ----------
    key, mark, source :
        As in :class:`Store`; parts of another key are refused.

    Raises
    ------
    InputError
        If the folder above is missing or cannot be written, or the parts belong to another run.
    """
    fs, path = split(out)
    parent = fs._parent(path)
    if is_local(fs) and not fs.isdir(parent):
        raise InputError(f"{out}: the folder {parent} does not exist; make it first")
    if fs.isdir(path):
        raise InputError(f"{out}: is a folder; name a file in it, for example {out.rstrip('/')}/rows.parquet")
    store = Store(out, f"{path}.parts", fs, key, mark, NO_FILES if source is None else source)
    marked = f"{store.folder}/key"
    try:
        fs.makedirs(store.folder, exist_ok=True)
        if not fs.exists(marked):
            _put_whole(fs, marked, key.encode(), out, replace=False)
        found = fs.cat_file(marked).decode("ascii", "replace")
    except FileNotFoundError:
        raise InputError(f"{out}: another run has just finished there; wait for it or change --out") from None
    except OSError as error:
        raise _cannot_write(out, error) from None
    if found != key:
        raise InputError(f"{out}.parts: parts of a run with other settings or another dump; delete it or change --out")
    return store


@contextlib.contextmanager
def claim(store: Store, shard: tuple[int, int]) -> Iterator[None]:
    """Hold one shard of a run, so that a second run of it is refused; the kernel lets go when the process dies.

    Local disks only: elsewhere, and where the system has no file locks, two runs of one shard compute the same bytes
    twice.

    Raises
    ------
    InputError
        If another run holds the shard, or cuts the parts into another number of shards.
    """
    if not store.local:
        yield
        return
    mine = f"shard-{shard[0]}-of-{shard[1]}.lock"
    handle = _lock(f"{store.folder}/{mine}")
    if handle is None:
        raise InputError(f"{store.out}: another run is writing shard {shard[0]}/{shard[1]} there; wait or change --out")
    try:
        for name in sorted(os.listdir(store.folder)):
            if not name.endswith(".lock") or name == "join.lock" or name.endswith(f"-of-{shard[1]}.lock"):
                continue
            other = _lock(f"{store.folder}/{name}")
            if other is None:
                which = name.removeprefix("shard-").removesuffix(".lock").replace("-of-", "/")
                raise InputError(f"{store.out}: a run with --shard {which} is writing there; use one N, or wait for it")
            os.close(other)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def joining(store: Store) -> Iterator[None]:
    """Let one run at a time put the parts together; others wait.

    Raises
    ------
    FileNotFoundError
        If the folder of parts is gone: another run has put them together.
    """
    if not store.local:
        yield
        return
    handle = _lock(f"{store.folder}/join.lock", wait=True)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: str, wait: bool = False) -> int | None:
    """An open, locked file; None where another process holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    except (ImportError, OSError):  # no file locks on this system or this file system
        pass
    return handle


def _put_whole(fs: Any, path: str, data: bytes, out: str, replace: bool = True) -> None:
    """Write a small file so that it is there whole or not at all; without ``replace`` an existing one stays.

    Raises
    ------
    FileNotFoundError
        If its folder is gone.
    InputError
        If it cannot be written.
    """
    if not is_local(fs):
        try:
            fs.pipe_file(path, data)
        except OSError as error:
            raise _cannot_write(out, error) from None
        return
    try:
        with whole_file(path, replace=replace) as temporary:
            temporary.write_bytes(data)
    except InputError as error:
        if isinstance(error.__context__, OSError):
            raise _cannot_write(out, error.__context__) from None
        raise


def _cannot_write(out: str, error: OSError) -> InputError:
    """What is said where a file cannot be written."""
    reason = error.strerror or str(error) or type(error).__name__
    return InputError(f"{out}: could not be written ({reason}); {INTACT}")
