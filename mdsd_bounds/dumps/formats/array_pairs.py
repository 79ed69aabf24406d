"""Arrays that other programs write: .npz, .npy pairs, .safetensors and .pt, two matrices of logits [N, V].

Names looked for inside a file or folder: ``target_logits`` and ``draft_logits``, optionally ``tokens`` (or ``token``),
``doc`` and ``position``.  Files are memory-mapped, or read as a stream where they are compressed; no pickle is loaded.
"""

from __future__ import annotations

import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mdsd_bounds._backend.dtypes import LOGITS, NAMES, torch_name
from mdsd_bounds.dumps.base import Dump, Facts, ReadRows, check_columns, check_pair, size_on_disk
from mdsd_bounds.problem import InputError

PAIR = ("target_logits", "draft_logits")
_COLUMNS = {"tokens": "token", "token": "token", "doc": "doc", "position": "position"}


def open_npz(path: Path) -> Dump:
    """A NumPy archive.  Members stored without compression are read in place, compressed ones as a stream.

    A compressed member can only be read forwards: reading rows in order costs one pass, going back starts it again.
    """
    names = npz_members(path)
    _need(path, names)
    matrices = {name: _NpzMatrix(path, names[name]) for name in PAIR}
    with np.load(path, allow_pickle=False) as members:
        columns = {_COLUMNS[name]: members[name] for name in names if name in _COLUMNS}
    with zipfile.ZipFile(path) as archive:
        packed = any(archive.getinfo(names[name]).compress_type != zipfile.ZIP_STORED for name in PAIR)
    dump = _dump(path, "npz", matrices, columns, size_on_disk(path))
    return replace(dump, facts=replace(dump.facts, forwards=packed))


def npz_members(path: Path) -> dict[str, str]:
    """Array name -> member of the archive; archives up to 256 MB are checked whole.

    Raises
    ------
    InputError
        If the archive is truncated or a member is corrupt.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(member).stem: member for member in archive.namelist() if member.endswith(".npy")}
            broken = archive.testzip() if path.stat().st_size < 1 << 28 else None
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: truncated or corrupt .npz ({error}); write it again") from None
    if broken is not None:
        raise InputError(f"{path}: member {broken} is corrupt; write the file again")
    return names


def npz_matrices(path: Path) -> dict[str, Any]:
    """All arrays of an archive, each with ``shape``, ``dtype`` and row slices; leading axes count as rows."""
    arrays: dict[str, Any] = {}
    for name, member in npz_members(path).items():
        arrays[name] = _NpzMatrix(path, member)
        if not arrays[name].shape:  # a single number has no rows
            with np.load(path, allow_pickle=False) as members:
                arrays[name] = members[name]
    return arrays


def open_npy_pair(target: Path, draft: Path, label: str) -> Dump:
    """Two memory-mapped ``.npy`` files, one per model (the form TensorRT-LLM's scripts write)."""
    matrices = {name: map_npy(file) for name, file in zip(PAIR, (target, draft), strict=True)}
    columns = {}
    for name, column in _COLUMNS.items():
        file = target.parent / f"{name}.npy"
        if target.parent == draft.parent and file.exists():
            columns[column] = np.asarray(map_npy(file))
    return _dump(Path(label), "npy", matrices, columns, size_on_disk(target, draft))


def open_safetensors(files: list[Path], label: str) -> Dump:
    """One ``.safetensors`` file with both matrices, or two files with one matrix each (target first)."""
    where: dict[str, tuple[Path, str]] = {}
    for position, file in enumerate(files):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: truncated or corrupt .safetensors ({error}); write it again") from None
        if len(files) == 2:
            wanted = PAIR[position]
            inside = [wanted] if wanted in names else [name for name in names if "logits" in name]
            if len(inside) != 1:
                raise InputError(f"{file}: holds {', '.join(names)}; one matrix named {wanted} (or logits) is wanted")
            where[wanted] = (file, inside[0])
        else:
            where |= {name: (file, name) for name in PAIR if name in names}
        where |= {column: (file, name) for name, column in _COLUMNS.items() if name in names}
    _need(Path(label), where)

    def piece(name: str, start: int | None, stop: int | None) -> Tensor:
        file, key = where[name]
        try:
            with safe_open(file, framework="pt") as tensors:
                part: Tensor = tensors.get_slice(key)[start:stop]
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: {key} cannot be read ({error}); write the file again") from None
        return part

    shapes, dtypes = {}, {}
    for name in PAIR:
        with safe_open(where[name][0], framework="pt") as tensors:
            part = tensors.get_slice(where[name][1])
            shapes[name], dtypes[name] = tuple(part.get_shape()), str(part.get_dtype())
    columns = {name: piece(name, None, None) for name in where if name not in PAIR}
    kind = {stored: torch_name(dtype) for dtype, stored in NAMES.items() if torch_name(dtype) in LOGITS}
    for name in PAIR:
        if dtypes[name] not in kind:
            raise InputError(f"{where[name][0]}: {name} is {dtypes[name]}; give float16, bfloat16, float32 or float64")
    check_pair(label, shapes[PAIR[0]], shapes[PAIR[1]])
    rows = shapes[PAIR[0]][0]
    held = check_columns(label, columns, rows)

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return piece(PAIR[0], start, stop), piece(PAIR[1], start, stop), _cut(held, start, stop)

    facts = Facts(
        label,
        "safetensors",
        rows,
        shapes[PAIR[0]][1],
        shapes[PAIR[1]][1],
        kind[dtypes[PAIR[0]]],
        bytes=size_on_disk(*files),
    )
    return Dump(facts, read_rows)


def open_pt(path: Path) -> Dump:
    """A ``torch.save`` file holding a dict of tensors; loaded with ``weights_only=True`` and memory-mapped."""
    content = load_pt(path)
    _need(path, content)
    matrices = {name: content[name] for name in PAIR}
    columns = {column: content[name] for name, column in _COLUMNS.items() if name in content}
    return _dump(path, "pt", matrices, columns, size_on_disk(path))


def load_pt(path: Path) -> dict[str, Any]:
    """The dict in a ``torch.save`` file, memory-mapped, with ``weights_only=True``.

    Raises
    ------
    InputError
        If it holds anything but plain tensors and containers.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for files that are no plain tensors
        reason = str(error).strip().splitlines()[0][:120]
        raise InputError(
            f"{path}: no file of plain tensors ({reason}); save a dict of tensors with torch.save"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; save a dict with target_logits and draft_logits")
    return content


class _NpzMatrix:
    """A matrix inside a .npz, read row range by row range."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            self.shape, fortran, self.dtype = _header(path, stream, member)
            self.offset = stream.tell()
        if fortran and len(self.shape) > 1 and min(self.shape) > 1:
            raise InputError(f"{path}: {member} is stored column by column; save np.ascontiguousarray of it")
        self._stream: Any = None

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop = int(rows.start), int(rows.stop)
        width = self.shape[-1] * self.dtype.itemsize
        if self._stream is None:
            # Kept open between reads: a compressed member would otherwise be read from its beginning each time.
            archive = zipfile.ZipFile(self.path)
            self._stream = archive.open(self.member)
            weakref.finalize(self, _close, self._stream, archive)
        # Seeking backwards in a compressed member starts it again and reads on; stored members seek directly.
        self._stream.seek(self.offset + start * width)
        data = self._stream.read((stop - start) * width)
        if len(data) != (stop - start) * width:
            raise InputError(f"{self.path}: {self.member} ends before row {stop - 1}; the file is truncated")
        return np.frombuffer(data, self.dtype).reshape(stop - start, self.shape[-1])


def _close(*handles: Any) -> None:
    for handle in handles:
        handle.close()


def _header(path: Path, stream: Any, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise InputError(f"{path}: {member} is no NumPy array ({error}); write it with numpy.save") from None
    if dtype.hasobject:
        raise InputError(f"{path}: {member} holds Python objects (a pickle), which are never loaded; save plain floats")
    return shape, fortran, dtype


def map_npy(path: Path) -> np.ndarray:
    """A memory-mapped ``.npy`` array; one that holds a pickle is refused."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, OSError, EOFError) as error:
        reason = "it holds Python objects (a pickle)" if "allow_pickle" in str(error) else str(error).splitlines()[0]
        raise InputError(f"{path}: no readable .npy array ({reason}); write plain floats with numpy.save") from None
    return array


def npy_rows(matrix: Any, start: int, stop: int) -> np.ndarray:
    """Rows of a matrix; those of a mapped file are read from the file instead.

    Pages of a map stay counted as this process's memory, and touching one that was cut off the file kills it.

    Raises
    ------
    InputError
        If the file has become shorter than its header says.
    """
    if not isinstance(matrix, np.memmap) or not matrix.flags.c_contiguous or matrix.filename is None:
        rows: np.ndarray = matrix[start:stop]
        return rows
    shape = (min(stop, len(matrix)) - start, *matrix.shape[1:])
    held = np.empty(shape, matrix.dtype)
    with open(matrix.filename, "rb", buffering=0) as stream:
        stream.seek(matrix.offset + start * (held.nbytes // max(shape[0], 1)))
        view, found = held.reshape(-1).view(np.uint8).data, 0
        while found < len(view) and (more := stream.readinto(view[found:])):
            found += more
    if found < held.nbytes:
        raise InputError(f"{matrix.filename}: ends before row {stop - 1}; the file was cut short, restore it")
    return held


def _need(path: Path, names: Any) -> None:
    missing = [name for name in PAIR if name not in names]
    if missing:
        raise InputError(f"{path}: lacks {' and '.join(missing)}; it holds {', '.join(map(str, names)) or 'nothing'}")


def _dump(path: Path, form: str, matrices: dict[str, Any], columns: dict[str, Any], size: int) -> Dump:
    target, draft = matrices[PAIR[0]], matrices[PAIR[1]]
    for name, matrix in matrices.items():
        dtype = str(matrix.dtype).removeprefix("torch.")
        if not dtype.startswith(("float", "bfloat")):
            raise InputError(f"{path}: {name} has dtype {dtype}; give float16, bfloat16, float32 or float64")
    check_pair(str(path), tuple(target.shape), tuple(draft.shape))
    held = check_columns(
        str(path),
        {name: value if isinstance(value, Tensor) else np.array(value) for name, value in columns.items()},
        target.shape[0],
    )
    facts = Facts(
        str(path),
        form,
        target.shape[0],
        target.shape[1],
        draft.shape[1],
        str(target.dtype).removeprefix("torch."),
        bytes=size,
    )
    return Dump(facts, _reader(target, draft, held))


def _reader(target: Any, draft: Any, columns: dict[str, Tensor]) -> ReadRows:
    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        # A copy: the rows must not hold the whole mapped file, nor be written through to it.
        pair = [
            torch.tensor(npy_rows(matrix, start, stop))
            if isinstance(matrix, np.ndarray | _NpzMatrix)
            else matrix[start:stop].clone()
            for matrix in (target, draft)
        ]
        return pair[0], pair[1], _cut(columns, start, stop)

    return read_rows


def _cut(columns: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {name: column[start:stop] for name, column in columns.items()}
