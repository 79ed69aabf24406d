"""Files of ``torch.save``: the tensors' places are read with torch's restricted unpickler, their bytes from the file.

``torch.load`` takes the whole file into memory or maps it; a mapped file kills the process where it is cut short.
The pickle inside only says which bytes are which tensor: it is read with the storages on the ``meta`` device, which
hold nothing, by the unpickler behind ``torch.load(weights_only=True)``, which builds tensors and plain containers and
calls nothing else.
"""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, _weights_only_unpickler

from mdsd_bounds._backend.dtypes import torch_name
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import Array, Source, bytes_of, computable, read_bytes, stored_array
from mdsd_bounds.dumps.containers.zip_members import Archive, Inflated, open_zip
from mdsd_bounds.problem import InputError

PICKLE = "data.pkl"
_REMEDY = "save a dict of tensors with torch.save"
#: Bytes of the description of the tensors that are read.
_LONGEST = 1 << 26
#: A view whose rows lie this many times further apart than they are long would be read with all between them.
_SPREAD = 64
#: How many times larger than its stored values a tensor may be (steps of no width, as ``expand`` makes them).
_EXPANDED = 64


def open_torch(path: Path) -> dict[str, Array]:
    """The tensors of a dict; tuples of steps, as ``generate(output_logits=True)`` gives them, as ``[batch, step, V]``.

    Raises
    ------
    InputError
        If the file is damaged, holds anything but plain tensors and containers, or is no dict.
    """
    archive = open_zip(path)
    with reading(path, "file of plain tensors", _REMEDY):
        pickles = [name for name in archive.members if name.endswith(f"/{PICKLE}")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} members named {PICKLE}")
        root = pickles[0].removesuffix(PICKLE)
        order = f"{root}byteorder"
        if order in archive.members and read_bytes(archive.source(order), 0, 3) != sys.byteorder.encode()[:3]:
            raise ValueError("another byte order; save it on a machine like this one")
        source = archive.source(pickles[0])
        if source.size > _LONGEST:
            raise ValueError(f"{source.size} bytes of description")
        content, held = _describe(read_bytes(source, 0, source.size))
        if not isinstance(content, dict):
            raise InputError(f"{path}: holds a {type(content).__name__}; {_REMEDY}")
        places = _Places(path, archive, f"{root}data/", held)
        found = {str(name): _entry(places, str(name), value) for name, value in content.items()}
    return {name: array for name, array in found.items() if array is not None}


def save_torch(arrays: dict[str, Tensor], path: Path) -> None:
    """Write a file of ``torch.save``.

    Raises
    ------
    OSError
        If the disk is full; torch's own writer says "unexpected pos", and nothing of what the disk said.
    """
    try:
        # To a stream: to a name, torch writes the name into every record, and temporary names are never the same.
        with path.open("wb") as stream:
            torch.save(arrays, stream)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.EIO, "the disk is full, or failed", str(path)) from error


def _describe(data: bytes) -> tuple[Any, dict[int, tuple[str, torch.UntypedStorage]]]:
    """What was saved, with storages that hold nothing, and the record of each by its address."""
    typed: dict[str, Any] = {}
    held: dict[int, tuple[str, torch.UntypedStorage]] = {}

    def storage(entry: Any) -> Any:
        kind, storage_type, key, _, count = entry
        if kind != "storage" or type(count) is not int or count < 0:
            raise ValueError(f"no storage but {kind!r}")
        if key not in typed:
            dtype = torch.uint8 if storage_type is torch.UntypedStorage else storage_type.dtype
            empty = torch.UntypedStorage(count * dtype.itemsize, device="meta")  # type: ignore[no-untyped-call]
            make: Any = torch.storage.TypedStorage
            typed[key] = make(wrap_storage=empty, dtype=dtype, _internal=True)
            held[empty._cdata] = str(key), empty
        return typed[key]

    reader: Any = _weights_only_unpickler.Unpickler(io.BytesIO(data), encoding="utf-8")
    reader.persistent_load = storage
    return reader.load(), held


class _Places:
    """Where the storages of a file are."""

    def __init__(
        self, path: Path, archive: Archive, root: str, held: dict[int, tuple[str, torch.UntypedStorage]]
    ) -> None:
        self.path, self._archive, self._root, self._held = path, archive, root, held

    def source(self, tensor: Tensor, name: str) -> Source:
        """The record under a tensor, which must be as long as the storage is said to be."""
        storage = tensor.untyped_storage()
        key = self._held.get(storage._cdata, ("", None))[0]
        record = f"{self._root}{key}"
        if not key or record not in self._archive.members:
            raise InputError(f"{self.path}: {name} has no stored values; {_REMEDY}")
        source = self._archive.source(record)
        if isinstance(source, Inflated) or source.size != storage.nbytes():
            raise InputError(
                f"{self.path}: {name} is said to have {storage.nbytes()} bytes, but its record has {source.size}; "
                "write the file again"
            )
        return source


def _entry(places: _Places, name: str, value: Any) -> Array | None:
    if isinstance(value, list | tuple) and value and all(isinstance(part, Tensor) for part in value):
        same = all(part.shape == value[0].shape and part.dtype == value[0].dtype and part.ndim == 2 for part in value)
        return _steps([_tensor(places, name, part) for part in value]) if same else None
    return _tensor(places, name, value) if isinstance(value, Tensor) else None


def _tensor(places: _Places, name: str, value: Tensor) -> Array:
    shape, dtype = tuple(value.shape), torch_name(value.dtype)
    if value.layout != torch.strided or value.is_quantized or value.is_neg() or value.is_conj():
        kind = torch_name(value.dtype) if value.layout == torch.strided else str(value.layout).removeprefix("torch.")
        return _refusing(shape, kind, f"{places.path}: {name} is no plain tensor but {kind}; save it dense")
    if 0 in shape:
        return Array(shape, dtype, lambda a, b: torch.empty((0, shape[-1]), dtype=value.dtype), lambda: _empty(value))
    item, offset, stride = value.dtype.itemsize, int(value.storage_offset()), tuple(value.stride())
    source = places.source(value, name)
    end = offset + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or end * item > source.size:
        raise InputError(f"{places.path}: {name} reaches beyond its stored values; write the file again")
    if value.numel() * item > _EXPANDED * source.size:
        raise InputError(f"{places.path}: {name} repeats its stored values many times; save it after .contiguous()")
    if value.is_contiguous():
        return stored_array(source, offset * item, shape, value.dtype)
    return _view(source, value, f"{places.path}: {name}")


def _empty(value: Tensor) -> Tensor:
    return torch.empty(tuple(value.shape), dtype=value.dtype)


def _refusing(shape: tuple[int, ...], dtype: str, message: str) -> Array:
    def refuse(*_: int) -> Tensor:
        raise InputError(message)

    return Array(shape, dtype, refuse, refuse)


def _view(source: Source, value: Tensor, where: str) -> Array:
    """A tensor of other strides, such as a slice of a larger one: each stretch of its last axis is read by itself."""
    shape, stride, offset, dtype = tuple(value.shape), tuple(value.stride()), int(value.storage_offset()), value.dtype
    if stride[-1] > _SPREAD and shape[-1] > 1:
        return _refusing(shape, torch_name(dtype), f"{where} is stored column by column; save it after .contiguous()")
    span = (shape[-1] - 1) * stride[-1] + 1

    def rows(a: int, b: int) -> Tensor:
        count = value.numel() // shape[-1]
        held = torch.empty((max(min(b, count) - a, 0), shape[-1]), dtype=dtype)
        memory = torch.empty(span, dtype=dtype)
        for place, row in enumerate(range(a, min(b, count))):
            first = offset
            for size, step in zip(reversed(shape[:-1]), reversed(stride[:-1]), strict=True):
                row, index = divmod(row, size)
                first += index * step
            source.read_into(bytes_of(memory), first * dtype.itemsize)
            held[place] = memory.as_strided((shape[-1],), (stride[-1],))
        return computable(held, dtype)

    return Array(shape, torch_name(dtype), rows, lambda: rows(0, value.numel() // shape[-1]).reshape(shape))


def _steps(parts: list[Array]) -> Array:
    """One ``[batch, V]`` array for each step as ``[batch, step, V]``."""
    batch, last = parts[0].shape
    shape = batch, len(parts), last

    def rows(a: int, b: int) -> Tensor:
        wanted = [divmod(row, len(parts)) for row in range(a, min(b, batch * len(parts)))]
        found = [parts[step].rows(text, text + 1) for text, step in wanted]
        return torch.cat(found) if found else parts[0].rows(0, 0)

    return Array(shape, parts[0].dtype, rows, lambda: torch.stack([part.whole() for part in parts], 1))
