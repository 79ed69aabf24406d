"""Rows of one safetensors shard, read straight into the memory where they are wanted.

A mapped file costs a page fault for every few pages, and kills the process where it shrinks.  Rows of a dump too large
for the system's cache are read past it, where the file system can: the cache could not keep them until they are read
again, and filling it takes more of the processor than the disk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds._backend.buffers import PAGE, buffer
from mdsd_bounds._backend.dtypes import NAMES
from mdsd_bounds.dumps.containers.safetensors import Entry, entries
from mdsd_bounds.problem import InputError

#: Type and shape of a row of everything a shard holds.
Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]


@dataclass(frozen=True)
class OpenShard:
    """A shard while it is read: its open file, and where its tensors are."""

    stream: io.FileIO
    layout: Layout
    held: dict[str, Entry]

    def room(self, name: str, first: int, rows: int) -> Tensor:
        """Memory for ``rows`` rows of a tensor, of which row ``first`` of this shard is the first."""
        dtype, width = self.layout[name]
        return buffer((rows, *width), dtype, self._place(name, first))

    def read(self, name: str, first: int, rows: Tensor, past_cache: bool) -> None:
        """Fill ``rows`` with the tensor's rows from ``first`` on."""
        memory = memoryview(rows.reshape(-1).view(torch.uint8).numpy().data)
        place = self._place(name, first)
        if past_cache and (rows.data_ptr() - place) % PAGE == 0:
            before = min(-place % PAGE, len(memory))
            after = before + (len(memory) - before) // PAGE * PAGE
            if before < after and _read_past_cache(self.stream, place + before, memory[before:after]):
                _fill(self.stream, place, memory[:before])
                _fill(self.stream, place + after, memory[after:])
                return
        _fill(self.stream, place, memory)

    def _place(self, name: str, first: int) -> int:
        dtype, width = self.layout[name]
        return self.held[name].begin + first * torch.Size(width).numel() * dtype.itemsize


@contextlib.contextmanager
def open_shard(file: Path, layout: Layout, rows: int) -> Iterator[OpenShard]:
    """A shard of ``rows`` rows, ready to be read.

    Raises
    ------
    InputError
        If it is missing, damaged, shorter than it says, or no longer of this layout and number of rows; also while it
        is read.
    """
    try:
        with file.open("rb", buffering=0) as stream:
            held = _tensors(stream, file)
            for name, (dtype, width) in layout.items():
                now = held[name].dtype, held[name].shape
                if now != (NAMES[dtype], [rows, *width]):
                    raise ValueError(f"{name} is {now} now; it was replaced after the dump was opened")
            yield OpenShard(stream, layout, held)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{file}: the shard cannot be read ({error}); fetch or log it again") from None


def check_shard(file: Path, layout: Layout, rows: int, source: str) -> None:
    """Refuse a shard of which the header does not say what ``source`` says it holds; its rows are not read.

    Raises
    ------
    InputError
        If it is missing, damaged, cut short or of another layout or number of rows.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: is no regular file; fetch the shard, or delete it from {source}")
    try:
        # A mapped file would be read ahead by megabytes for its header.
        with file.open("rb", buffering=0) as stream:
            held = _tensors(stream, file)
    except FileNotFoundError:
        raise InputError(f"{file}: the shard is missing; fetch it, or delete it from {source}") from None
    except _DAMAGE as error:
        raise InputError(f"{file}: truncated or corrupt shard ({error}); fetch or log it again") from None
    for name, (dtype, width) in layout.items():
        found = (held[name].dtype, held[name].shape) if name in held else None
        if found != (NAMES[dtype], [rows, *width]):
            raise InputError(
                f"{file}: {name} is {found} but {source} says {(NAMES[dtype], [rows, *width])}; log the shard again"
            )


#: What reading a damaged file can raise; deep nesting of a header's JSON is a RecursionError.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, EOFError, OverflowError, RecursionError)


@dataclass(frozen=True)
class _Bytes:
    """The file behind a stream, for its header."""

    path: Path
    size: int
    stream: io.FileIO

    def read_into(self, memory: memoryview, place: int) -> None:
        _fill(self.stream, place, memory)


def _tensors(stream: io.FileIO, file: Path) -> dict[str, Entry]:
    """What the header says, checked against the size of the file."""
    return entries(_Bytes(file, os.fstat(stream.fileno()).st_size, stream))


def _fill(stream: io.FileIO, place: int, memory: memoryview) -> None:
    stream.seek(place)
    while memory:
        count = stream.readinto(memory)
        if not count:
            raise EOFError(f"it ends {len(memory)} bytes early")
        memory = memory[count:]


def _read_past_cache(stream: io.FileIO, place: int, memory: memoryview) -> bool:
    """Fill ``memory``, whole pages, without the system's cache; False where the system or the file system cannot."""
    try:
        import fcntl

        direct, get, put = os.O_DIRECT, fcntl.F_GETFL, fcntl.F_SETFL
    except (ImportError, AttributeError):
        return False
    # The open file itself is switched: by its name, another file may be found meanwhile.
    flags = fcntl.fcntl(stream, get)
    try:
        fcntl.fcntl(stream, put, flags | direct)
        _fill(stream, place, memory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    finally:
        fcntl.fcntl(stream, put, flags)
    return True
