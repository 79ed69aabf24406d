"""Files read at given places through one descriptor, and the arrays in them.

A mapped file kills the process (SIGBUS) where it is cut short while it is read; a read through a descriptor reports it.
The descriptor stays open as long as the arrays are used, so that a file that is replaced meanwhile is read as it was.
One that is overwritten in its place is an error at the next read: its rows would be of two dumps.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import math
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mdsd_bounds._backend.buffers import buffer
from mdsd_bounds._backend.dtypes import FLOAT8
from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.boundary import reading, reason
from mdsd_bounds.problem import InputError

#: Bytes from which on memory is asked for before they are read.
_LARGE = 1 << 26
#: Compressed bytes that become so many times more of them hold one value again and again.
_EMPTY = 500


class Source(Protocol):
    """Bytes that can be read at any place: a file, or a member of an archive."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def size(self) -> int:
        """Bytes there are."""

    def read_into(self, memory: memoryview, place: int) -> None:
        """Fill ``memory`` from ``place`` on, or raise an InputError."""


class OpenFile:
    """A regular file held open, with its size at that moment."""

    def __init__(self, path: Path) -> None:
        self.path, self._alone = path, threading.Lock()
        try:
            # Without blocking: the open of a named pipe would wait for a writer.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({reason(error)}); give a file that you may read") from error
        weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is no regular file; save its content to a file first")
        self.size, self._written = found.st_size, found.st_mtime_ns

    def utf8_name(self) -> str:
        """A name of the file for libraries that take no other bytes than UTF-8; while this object lives."""
        try:
            os.fspath(self.path).encode()
        except UnicodeEncodeError:
            return f"/proc/self/fd/{self._descriptor}"
        return os.fspath(self.path)

    def read_into(self, memory: memoryview, place: int) -> None:
        """Fill ``memory`` with the bytes from ``place`` on.

        Raises
        ------
        InputError
            If the file ends before, or the disk fails, or it was written to since it was opened.
        """
        while len(memory):
            try:
                count = self.read_some(memory, place)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read ({reason(error)}); restore the file") from error
            if not count:
                raise self._cut_short(len(memory), place)
            memory, place = memory[count:], place + count
        self.refuse_changed()

    def _cut_short(self, missing: int, place: int) -> InputError:
        return InputError(
            f"{self.path}: ends {missing} bytes early, at byte {place}; the file was cut short, restore it"
        )

    def refuse_changed(self) -> None:
        """Raise an error if the file was written to since it was opened: what was read before belongs to other rows."""
        now = os.fstat(self._descriptor)
        if now.st_size < self.size:
            raise self._cut_short(self.size - now.st_size, now.st_size)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._written):
            raise InputError(f"{self.path}: was changed while it was read; let it be written to its end and run again")

    def refuse_replaced(self) -> None:
        """Raise an error if another file has the name now, for libraries that open it once more."""
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened again ({reason(error)}); restore the file") from error
        if not os.path.samestat(now, os.fstat(self._descriptor)):
            raise InputError(f"{self.path}: was replaced while it was read; run again")

    def read_some(self, memory: memoryview, place: int) -> int:
        """As many of the bytes as one call gives; 0 at the end of the file."""
        if not hasattr(os, "preadv"):
            with self._alone:
                os.lseek(self._descriptor, place, os.SEEK_SET)
                piece = os.read(self._descriptor, min(len(memory), 1 << 24))
            memory[: len(piece)] = piece
            return len(piece)
        # At a place of its own, not the descriptor's: threads and forks share that.
        return os.preadv(self._descriptor, [memory], place)

    def stream(self) -> io.BufferedReader:
        """A readable and seekable stream over the same descriptor, for text, which may grow meanwhile as logs do."""
        return io.BufferedReader(_Stream(self), 1 << 16)


class _Stream(io.RawIOBase):
    def __init__(self, file: OpenFile) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the file's beginning, {base + offset}")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = self._file.read_some(memoryview(buffer).cast("B"), self._place)
        self._place += count
        return count


def read_bytes(source: Source, place: int, count: int) -> bytes:
    """``count`` bytes of a source; nothing is allocated where it has fewer.

    Raises
    ------
    InputError
        If the source ends before.
    """
    if count < 0 or place < 0 or place + count > source.size:
        raise InputError(
            f"{source.path}: has {source.size} bytes, but byte {place + count} is asked for; the file is truncated or "
            "corrupt, restore it"
        )
    _room(source, count)
    memory = bytearray(count)
    source.read_into(memoryview(memory), place)
    return bytes(memory)


def _room(source: Source, count: int) -> None:
    """Refuse to read so much at once that there is no memory for it and what is made of it (int64 from bytes), or that
    a few compressed bytes become so much: they hold one value again and again, as only a file that is wrong does.
    """
    if count > _LARGE:
        refuse_repeated(source.path, getattr(source, "packed", source.size), source.size)
        require_memory(4 * count, f"{source.path}: {count / 1e6:.0f} MB read at once", "write a smaller file")


def refuse_repeated(path: Path, packed: int, count: int) -> None:
    """Refuse few compressed bytes that become many: they hold one value again and again.

    Raises
    ------
    InputError
        If ``count`` bytes are more than 64 MiB and more than 500 times ``packed``.

    Examples
    --------
    >>> refuse_repeated(Path("a.npz"), 1000, 400_000)
    """
    if count > _LARGE and count > _EMPTY * packed:
        raise InputError(
            f"{path}: {packed} compressed bytes become {count / 1e6:.0f} MB of one value; correct the file, or write "
            "it without compression if that is right"
        )


@dataclass(frozen=True)
class Array:
    """A named array.  ``rows(a, b)`` reads part of it along all but its last axis, flattened: ``[b - a, last]``.

    ``forwards`` says that going back to earlier rows costs reading the array from its beginning.
    """

    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int, int], Tensor] = field(repr=False)
    whole: Callable[[], Tensor] = field(repr=False)
    forwards: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of the whole array."""
        dtype = getattr(torch, self.dtype, None)
        return math.prod(self.shape) * int(dtype.itemsize if isinstance(dtype, torch.dtype) else 1)


def stored_array(
    source: Source, place: int, shape: tuple[int, ...], dtype: torch.dtype, *, forwards: bool = False
) -> Array:
    """An array that lies row after row from ``place`` on; the caller has checked that it does.

    Floats of eight bits are read as float32.
    """
    kept = torch.uint8 if dtype in FLOAT8 else dtype
    last = shape[-1] if shape else 1
    count = math.prod(shape[:-1])

    def rows(a: int, b: int) -> Tensor:
        b = min(b, count)
        held = buffer((max(b - a, 0), last), kept)
        source.read_into(bytes_of(held), place + a * last * dtype.itemsize)
        return computable(held, dtype)

    def whole() -> Tensor:
        _room(source, count * last * dtype.itemsize)
        held = torch.empty(shape, dtype=kept)
        source.read_into(bytes_of(held), place)
        return computable(held, dtype)

    return Array(shape, str(dtype).removeprefix("torch."), rows, whole, forwards)


def computable(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of a type that can be computed with: float32 of the bits of floats of eight."""
    return stored.view(dtype).to(torch.float32) if dtype in FLOAT8 else stored


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data).cast("B")


T = TypeVar("T")
_held: contextvars.ContextVar[dict[Any, Any] | None] = contextvars.ContextVar("held", default=None)


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Inside, :func:`once` opens each file a single time: recognising a format and reading it share what was read."""
    token = _held.set({}) if _held.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _held.reset(token)


def once(make: Callable[[Path], T], path: Path) -> T:
    """``make(path)``; within :func:`opening`, of the first call for this path."""
    held = _held.get()
    if held is None:
        return make(path)
    key = make, path
    if key not in held:
        held[key] = make(path)
    return held[key]  # type: ignore[no-any-return]


def open_file(path: Path) -> OpenFile:
    """A file held open, the same one for everything inside :func:`opening`."""
    return once(OpenFile, path)


def opened_files() -> list[Path]:
    """Every file that was opened inside :func:`opening` so far, in order."""
    return [path for make, path in _held.get() or {} if make is OpenFile]


def beginning(path: Path, count: int = 16) -> bytes:
    """The first bytes of a regular file; nothing for anything else."""
    if not path.is_file():
        return b""
    file = open_file(path)
    with reading(path, "file"):
        return read_bytes(file, 0, min(count, file.size))
