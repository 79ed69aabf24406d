"""Rows of one safetensors shard, read straight into the memory where they are wanted.

A mapped file costs a page fault for every few pages, and kills the process where it shrinks.  Rows of a dump too large
for the system's cache are read past it, where the file system can: the cache could not keep them until they are read
again, and filling it takes more of the processor than the disk.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds.buffers import PAGE, buffer
from mdsd_bounds.problem import InputError

#: Types of logits, as safetensors files name them.
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}

#: Type and shape of a row of everything a shard holds.
Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]


def stored(dtype: torch.dtype) -> str:
    """A dtype as safetensors files name it."""
    return {"int64": "I64", **DTYPES}[str(dtype).removeprefix("torch.")]


@dataclass(frozen=True)
class OpenShard:
    """A shard while it is read: its file, and the byte at which each tensor begins."""

    file: Path
    stream: io.FileIO
    layout: Layout
    begins: dict[str, int]

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
            if _read_past_cache(self.file, place + before, memory[before:after]):
                _fill(self.stream, place, memory[:before])
                _fill(self.stream, place + after, memory[after:])
                return
        _fill(self.stream, place, memory)

    def _place(self, name: str, first: int) -> int:
        dtype, width = self.layout[name]
        return self.begins[name] + first * torch.Size(width).numel() * dtype.itemsize


@contextlib.contextmanager
def open_shard(file: Path, layout: Layout) -> Iterator[OpenShard]:
    """A shard, ready to be read.

    Raises
    ------
    InputError
        If it is missing, damaged, shorter than it says or no longer of this layout; also while it is read.
    """
    try:
        with file.open("rb", buffering=0) as stream:
            yield OpenShard(file, stream, layout, _begins(stream, layout))
    except (OSError, ValueError, TypeError, LookupError, EOFError) as error:
        raise InputError(f"{file}: the shard cannot be read ({error}); fetch or log it again") from None


def _begins(stream: io.FileIO, layout: Layout) -> dict[str, int]:
    """The byte at which each tensor begins."""
    size = int.from_bytes(stream.read(8), "little")
    if size > os.fstat(stream.fileno()).st_size:
        raise EOFError("its header is longer than the file")
    header = json.loads(stream.read(size))
    for name, (dtype, width) in layout.items():
        held = header[name]["dtype"], header[name]["shape"][1:]
        if held != (stored(dtype), list(width)):
            raise ValueError(f"{name} is {held} now; it was replaced after the dump was opened")
    return {name: 8 + size + header[name]["data_offsets"][0] for name in layout}


def _fill(stream: io.FileIO, place: int, memory: memoryview) -> None:
    stream.seek(place)
    while memory:
        count = stream.readinto(memory)
        if not count:
            raise EOFError(f"it ends {len(memory)} bytes early")
        memory = memory[count:]


def _read_past_cache(file: Path, place: int, memory: memoryview) -> bool:
    """Fill ``memory``, whole pages, without the system's cache; False where the file system cannot."""
    flag = getattr(os, "O_DIRECT", None)  # not on every system
    if flag is None:
        return False
    try:
        with open(file, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | flag)) as stream:
            _fill(stream, place, memory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    return True
