"""The safetensors container: a length, a JSON header, and the tensors one after the other without gaps.

The one place where such files are read and written: small ones in memory by the library, dumps through a descriptor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mdsd_bounds._backend.dtypes import NAMES, torch_name
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import Array, Source, open_file, read_bytes, stored_array
from mdsd_bounds.problem import InputError

_TYPES = {name: dtype for dtype, name in NAMES.items()}
_TYPES |= {"I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
#: Bytes of an element of the types that are known; those without a torch type here are listed, not read.
_BYTES = {name: dtype.itemsize for name, dtype in _TYPES.items()}
_BYTES |= {"F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8}
#: Longest header, the format's own limit.
_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """A tensor as the header describes it; ``begin`` counts from the beginning of the file."""

    dtype: str
    shape: list[int]
    begin: int


def entries(source: Source) -> dict[str, Entry]:
    """What the header says, checked against itself and the size of the file.

    Raises
    ------
    ValueError, EOFError, KeyError, TypeError, RecursionError, InputError
        If tensors overlap, leave gaps, or have other lengths than their shapes say, a name is there twice, the header
        is no such header, or the file has not the size that follows from it.
    """
    if source.size < 8:
        raise EOFError(f"it has {source.size} bytes")
    size = int.from_bytes(read_bytes(source, 0, 8), "little")
    if 8 + size > source.size:
        raise EOFError(f"it has {source.size} bytes, and its header alone says {8 + size}")
    if size > _HEADER:
        raise ValueError(f"its header says {size} bytes of header")
    header = json.loads(read_bytes(source, 8, size), object_pairs_hook=_distinct)
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    header.pop("__metadata__", None)
    places, found = [], {}
    for name, entry in header.items():
        offsets, shape = entry["data_offsets"], entry["shape"]
        if not (_integers(offsets) and len(offsets) == 2 and _integers(shape) and min(shape, default=0) >= 0):
            raise ValueError(f"its header gives {name!r} no places and lengths")
        begin, end = (8 + size + offset for offset in offsets)
        if entry["dtype"] in _BYTES and end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(f"its header gives {name!r} {end - begin} bytes for {shape} {entry['dtype']}")
        if begin < 8 + size:
            raise ValueError(f"its header puts {name!r} before the data")
        if not isinstance(entry["dtype"], str) or end < begin:
            raise ValueError(f"its header gives {name!r} {end - begin} bytes of type {entry['dtype']!r}")
        found[name] = Entry(entry["dtype"], shape, begin)
        places.append((begin, end, name))
    last = 8 + size
    for begin, end, name in sorted(places):
        if begin != last:
            raise ValueError(f"its header lets {name!r} {'overlap another tensor' if begin < last else 'leave a gap'}")
        last = end
    if last != source.size:
        raise EOFError(f"it has {source.size} bytes, and its header says {last}")
    return found


def open_safetensors(path: Path, remedy: str = "write it again") -> dict[str, Array]:
    """The tensors of a file, read through a descriptor: a mapped file that is cut meanwhile ends the process.

    Raises
    ------
    InputError
        If the file is truncated or corrupt, or tensors overlap.
    """
    file = open_file(path)
    with reading(path, ".safetensors", f"the file is truncated or corrupt, {remedy}"):
        return {name: _array(file, name, entry) for name, entry in entries(file).items()}


def load_safetensors(data: bytes, path: Path, remedy: str = "write it again") -> dict[str, Tensor]:
    """The tensors of a small file that was read whole.

    Raises
    ------
    InputError
        If it is truncated or corrupt.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: truncated or corrupt ({error}); {remedy}") from None


def safetensors_notes(data: bytes) -> dict[str, str]:
    """The texts beside the tensors of a small file that :func:`load_safetensors` has read."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))


def safetensors_bytes(arrays: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """A small file with these tensors, to be written whole: only its owner could read one that the library writes.

    The same tensors and notes are the same bytes; the library writes notes in another order every time.
    """
    held = {name: value.detach().cpu().contiguous() for name, value in arrays.items()}
    data = save(held)
    if notes is None:
        return data
    begin = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(notes.items())), **json.loads(data[8:begin])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[begin:]


def write_safetensors(
    stream: BinaryIO, layout: Mapping[str, tuple[torch.dtype, Sequence[int]]], pieces: Iterable[Tensor]
) -> None:
    """Write a file piece by piece.

    Parameters
    ----------
    stream : binary file
        Where to.
    layout : mapping
        Type and shape of each tensor, in order.  For aligned tensors put the widest types first.
    pieces : iterable of Tensor
        Rows of the first tensor, then of the second, and so on.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for piece in pieces:
        stream.write(piece.contiguous().view(torch.uint8).numpy().tobytes())


def _array(source: Source, name: str, entry: Entry) -> Array:
    shape = tuple(entry.shape)
    if entry.dtype in _TYPES:
        return stored_array(source, entry.begin, shape, _TYPES[entry.dtype])

    def refuse(*_: int) -> Tensor:
        known = ", ".join(torch_name(dtype) for dtype in _TYPES.values())
        raise InputError(f"{source.path}: {name} is {entry.dtype}, which is not read; give one of {known}")

    return Array(shape, entry.dtype, refuse, refuse)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _integers(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(number) is int for number in numbers)
