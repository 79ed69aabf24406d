"""The safetensors container: a length, a JSON header, and the tensors one after the other without gaps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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


def open_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a file, read through a descriptor.

    Raises
    ------
    InputError
        If the file is truncated or corrupt, or tensors overlap.
    """
    file = open_file(path)
    with reading(path, ".safetensors", "the file is truncated or corrupt, write it again"):
        return {name: _array(file, name, entry) for name, entry in entries(file).items()}


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
