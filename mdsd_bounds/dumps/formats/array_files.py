"""Named arrays in a file, read lazily: .safetensors, .npz, .pt, .npy.  Readers say what the arrays mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdsd_bounds._backend.dtypes import NAMES, torch_name
from mdsd_bounds.dumps.formats.array_pairs import load_pt, map_npy, npz_matrices
from mdsd_bounds.problem import InputError

_SAFETENSORS = {stored: torch_name(dtype) for dtype, stored in NAMES.items()}


@dataclass(frozen=True)
class Array:
    """A named array.  ``rows(a, b)`` reads part of it along all but its last axis, flattened: ``[b - a, last]``."""

    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int, int], Tensor] = field(repr=False)
    whole: Callable[[], Tensor] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Bytes of the whole array."""
        item = getattr(torch, self.dtype).itemsize if hasattr(torch, self.dtype) else np.dtype(self.dtype).itemsize
        return math.prod(self.shape) * int(item)


def open_store(path: Path) -> Mapping[str, Array]:
    """The arrays of one file, or of all .safetensors files of a folder.

    Raises
    ------
    InputError
        If the file is damaged or would need a pickle to be loaded.
    """
    if path.is_dir():
        arrays: dict[str, Array] = {}
        for file in sorted(path.glob("*.safetensors")):
            arrays |= open_store(file)
        return arrays
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"\x93NUMPY"):
        array = map_npy(path)
        return {"logits": _of_numpy(array)}
    if head[8:9] == b"{":
        return _of_safetensors(path)
    if head.startswith(b"PK\x03\x04") and path.suffix == ".npz":
        return {name: _of_numpy(matrix) for name, matrix in npz_matrices(path).items()}
    if head.startswith(b"PK\x03\x04"):
        held = {name: _stacked(value) for name, value in load_pt(path).items()}
        return {name: _of_tensor(value) for name, value in held.items() if value is not None}
    raise InputError(f"{path}: not recognised as .safetensors, .npz, .npy or .pt; wrong magic bytes")


def _stacked(value: Any) -> Tensor | None:
    # generate(output_logits=True) gives a tuple with one [batch, vocabulary] tensor for each step.
    if isinstance(value, list | tuple) and value and all(isinstance(part, Tensor) for part in value):
        same = all(part.shape == value[0].shape and part.ndim == 2 for part in value)
        return torch.stack(list(value), 1) if same else None
    return value if isinstance(value, Tensor) else None


def _of_tensor(value: Tensor) -> Array:
    last = value.shape[-1] if value.ndim else 1
    return Array(
        tuple(value.shape),
        str(value.dtype).removeprefix("torch."),
        lambda a, b: value.reshape(-1, last)[a:b].clone(),
        lambda: value.clone(),
    )


def _of_numpy(array: Any) -> Array:
    shape = tuple(array.shape)

    def rows(a: int, b: int) -> Tensor:
        if isinstance(array, np.ndarray):
            return torch.tensor(array.reshape(-1, shape[-1])[a:b])
        return torch.tensor(array[a:b])

    def whole() -> Tensor:
        if isinstance(array, np.ndarray):
            return torch.tensor(array)
        count = int(np.prod(shape[:-1], dtype=np.int64)) if len(shape) > 1 else 1
        return torch.tensor(array[0:count]).reshape(shape)

    return Array(shape, str(array.dtype), rows, whole)


def _of_safetensors(path: Path) -> dict[str, Array]:
    arrays = {}
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                part = tensors.get_slice(name)
                dtype = _SAFETENSORS.get(str(part.get_dtype()), str(part.get_dtype()))
                shape = tuple(part.get_shape())
                arrays[name] = Array(shape, dtype, _slices(path, name, shape), _whole(path, name))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or corrupt .safetensors ({error}); write it again") from None
    return arrays


def _whole(path: Path, name: str) -> Callable[[], Tensor]:
    def whole() -> Tensor:
        with safe_open(path, framework="pt") as tensors:
            value: Tensor = tensors.get_tensor(name)
        return value

    return whole


def _slices(path: Path, name: str, shape: tuple[int, ...]) -> Callable[[int, int], Tensor]:
    def rows(a: int, b: int) -> Tensor:
        try:
            with safe_open(path, framework="pt") as tensors:
                part = tensors.get_slice(name)
                if len(shape) < 3:
                    value: Tensor = part[a:b]
                    return value
                # Leading axes are read whole where the range crosses them.
                inner = int(np.prod(shape[1:-1]))
                first, last = a // inner, -(-b // inner)
                value = part[first:last]
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {name} cannot be read ({error}); write the file again") from None
        return value.reshape(-1, shape[-1])[a - first * inner : b - first * inner]

    return rows
