"""NumPy's arrays: a .npy file, or each member of a .npz archive.

NumPy knows no bfloat16 and no floats of eight bits.  What the package ml_dtypes (JAX) adds is stored under its name,
which NumPy alone cannot read back, or as two bytes without a type (``V2``), which only bfloat16 becomes.
"""

from __future__ import annotations

import ast
import io
import math
import re
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from mdsd_bounds._backend.dtypes import torch_name
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import Array, Source, open_file, read_bytes, stored_array
from mdsd_bounds.dumps.containers.zip_members import Inflated, open_zip
from mdsd_bounds.problem import InputError

MAGIC = b"\x93NUMPY"
#: Longest header that is read; NumPy's own limit is 10,000.
_HEADER = 1 << 16
_VERSIONS = ((1, 0), (2, 0), (3, 0))
_TYPES = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "b1": torch.bool, "u1": torch.uint8}
_TYPES |= {"i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64}
#: Types of ml_dtypes by name, and what NumPy makes of bfloat16.
_ADDED = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "V2": torch.bfloat16,
}
_NAMED = re.compile(rb"('descr': *')([<>|=]?)(bfloat16|float8_[a-z0-9]+)'")
#: Unsigned types are read as int64, which holds what is counted here.
_WIDENED = {"u2", "u4", "u8"}


def open_npy(path: Path) -> Array:
    """The array of a .npy file.

    Raises
    ------
    InputError
        If it holds a pickle, its header is damaged, or its size is not what the header says.
    """
    return _array(open_file(path), str(path))


def open_npz(path: Path) -> dict[str, Array]:
    """The arrays of a .npz archive.  Members stored without compression are read in place.

    Raises
    ------
    InputError
        As :func:`open_npy`, or if the archive is damaged or holds a name twice.
    """
    archive = open_zip(path)
    names = [name for name in archive.members if name.endswith(".npy")]
    if twice := [name for name in names if name.removesuffix(".npy") in archive.members]:
        raise InputError(
            f"{path}: holds {twice[0]} and {twice[0].removesuffix('.npy')}, two arrays of one name; write it again"
        )
    return {name.removesuffix(".npy"): _array(archive.source(name), f"{path}: {name}") for name in names}


def _array(source: Source, where: str) -> Array:
    with reading(where, "NumPy array", "write plain floats with numpy.save"):
        # From memory: the header's length is checked against it, not allocated.
        text, added = _without_names(read_bytes(source, 0, min(source.size, _HEADER)))
        head = io.BytesIO(text)
        version = npy.read_magic(head)
        if version not in _VERSIONS:
            raise ValueError(f"its format version is {version[0]}.{version[1]}; 1.0, 2.0 and 3.0 are known")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head)
        if dtype.hasobject:
            raise InputError(
                f"{where}: holds Python objects (a pickle), which are never loaded; save plain floats or integers"
            )
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"its header gives the shape {shape}")
        _refuse_repeated(text[len(MAGIC) + (4 if version == (1, 0) else 6) : head.tell()])
        place, code = head.tell(), added or f"{dtype.kind}{dtype.itemsize}"
        asked = math.prod(shape) * dtype.itemsize
        if place + asked != source.size:
            raise EOFError(f"{source.size} bytes, but its header asks for {place + asked}")
        if dtype.subdtype is not None or dtype.names or not (code in _TYPES or code in _WIDENED or code in _ADDED):
            # Kept by name: a file may hold more than the arrays that are wanted.
            return _unreadable(shape, added or str(dtype), f"{where}: is of dtype {added or dtype}; {_hint(code)}")
    columns = fortran and len(shape) > 1 and sum(size > 1 for size in shape) > 1
    if columns and (len(shape) > 2 or isinstance(source, Inflated)):
        return _unreadable(shape, str(dtype), f"{where}: is stored column by column; save np.ascontiguousarray of it")
    if code in _ADDED:
        if columns:
            return _unreadable(shape, code, f"{where}: is stored column by column; save np.ascontiguousarray of it")
        return stored_array(source, place, shape, _ADDED[code], forwards=isinstance(source, Inflated))
    if dtype.isnative and code in _TYPES and not columns:
        return stored_array(source, place, shape, _TYPES[code], forwards=isinstance(source, Inflated))
    return _converted(source, place, shape, dtype, columns=columns)


def _refuse_repeated(header: bytes) -> None:
    """A header is a dictionary as Python writes it, of which the last of two equal keys would be taken."""
    # Python 2 wrote an L behind long integers.
    found = ast.parse(re.sub(rb"(?<=\d)L\b", b"", header).strip(), mode="eval").body
    keys = [key.value for key in found.keys if isinstance(key, ast.Constant)] if isinstance(found, ast.Dict) else []
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"its header says {twice[0]!r} twice")


def _without_names(head: bytes) -> tuple[bytes, str]:
    """A header that NumPy can read, of the same length; and the name of a type of ml_dtypes that it had."""
    found = _NAMED.search(head)
    if found is None or found.start() > 64:
        return head, ""
    name = found[3].decode()
    plain = b"|V2'" if name == "bfloat16" else b"|V1'"
    plain = found[1] + plain
    return head[: found.start()] + plain.ljust(len(found[0])) + head[found.end() :], name


def _hint(code: str) -> str:
    if code == "V1":
        return "one byte without a type, as NumPy keeps a float of eight bits; save it as float32, or in .safetensors"
    return "give float16, float32 or float64, or bfloat16 and float8 as ml_dtypes or .safetensors write them"


def _unreadable(shape: tuple[int, ...], dtype: str, message: str) -> Array:
    def refuse(*_: int) -> Tensor:
        raise InputError(message)

    return Array(shape, dtype, refuse, refuse)


def _converted(
    source: Source, place: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], *, columns: bool
) -> Array:
    """An array of another byte order, of an unsigned type, or stored column by column."""
    code = f"{dtype.kind}{dtype.itemsize}"
    goal = np.dtype(np.int64) if code in _WIDENED else dtype.newbyteorder("=")
    last = shape[-1] if shape else 1
    count = math.prod(shape[:-1])

    def piece(size: tuple[int, ...], first: int) -> np.ndarray:
        held = np.empty(size, dtype)
        source.read_into(memoryview(held.reshape(-1).view(np.uint8).data).cast("B"), place + first * dtype.itemsize)
        if code == "u8" and held.size and int(held.max()) > np.iinfo(np.int64).max:
            raise InputError(f"{source.path}: holds {held.max()}; give numbers below 2^63")
        return held.astype(goal)

    def rows(a: int, b: int) -> Tensor:
        b = min(b, count)
        if not columns:
            return torch.from_numpy(piece((max(b - a, 0), last), a * last))
        return torch.from_numpy(np.stack([piece((max(b - a, 0),), column * count + a) for column in range(last)], 1))

    def whole() -> Tensor:
        return rows(0, count).reshape(shape) if columns else torch.from_numpy(piece(shape, 0))

    dtype_read = torch_name(torch.from_numpy(np.empty(0, goal)).dtype)
    return Array(shape, dtype_read, rows, whole, isinstance(source, Inflated))
