"""Arrays that other programs write: .npz, .npy pairs, .safetensors and .pt, two matrices of logits [N, V].

Names looked for inside a file or folder: ``target_logits`` and ``draft_logits``, optionally ``tokens`` (or ``token``),
``doc`` and ``position``.  Rows are read from the file when asked for; no pickle is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds._backend.dtypes import LOGITS
from mdsd_bounds.dumps.base import Dump, Facts, check_columns, check_pair, size_on_disk
from mdsd_bounds.dumps.columns import COLUMNS, places_twice, with_columns
from mdsd_bounds.dumps.formats.array_files import PAIR, Array, arrays_beside, open_arrays
from mdsd_bounds.dumps.token_map import refuse_unnamed, unnamed_map
from mdsd_bounds.problem import InputError


def open_pair_file(path: Path, form: str) -> Dump:
    """Both matrices in one ``.npz``, ``.safetensors`` or ``.pt`` file.

    A compressed member of a ``.npz`` can only be read forwards: reading rows in order costs one pass, going back starts
    it again.

    Raises
    ------
    InputError
        If a matrix is missing, the two do not fit each other, or the file is damaged.
    """
    store = open_arrays(path)
    _need(path, store)
    columns = _columns(store)
    pair = store[PAIR[0]], store[PAIR[1]]
    _refuse_unnamed(path, store, pair)
    return _dump(path, form, pair, columns, size_on_disk(path))


def columns_beside(target: Path, draft: Path) -> list[tuple[str, Array]]:
    """Columns in files of their own beside two ``.npy`` files; those of both where they lie in two folders."""
    folders = {file.parent: file for file in (target, draft)}
    beside = [arrays_beside(file, tuple(COLUMNS)) for file in folders.values()]
    return [(name, held[name]) for name in COLUMNS for held in beside if name in held]


def open_npy_pair(target: Path, draft: Path, label: str, columns: list[tuple[str, Array]]) -> Dump:
    """Two ``.npy`` files, one per model (the form TensorRT-LLM's scripts write), and the columns beside them."""
    pair = open_arrays(target)["logits"], open_arrays(draft)["logits"]
    return _dump(Path(label), "npy", pair, columns, size_on_disk(target, draft))


def open_safetensors_pair(files: list[Path], label: str) -> Dump:
    """One ``.safetensors`` file with both matrices, or two files with one matrix each (target first)."""
    if len(files) == 1:
        return open_pair_file(files[0], "safetensors")
    pair: list[Array] = []
    columns: list[tuple[str, Array]] = []
    for wanted, file in zip(PAIR, files, strict=True):
        store = open_arrays(file)
        inside = [wanted] if wanted in store else [name for name in store if "logits" in name]
        if inside and inside[0] in PAIR and inside[0] != wanted:
            raise InputError(f"{file}: holds {inside[0]}, and {wanted} is wanted here; give TARGET,DRAFT in this order")
        if len(inside) != 1:
            raise InputError(f"{file}: holds {', '.join(store)}; one matrix named {wanted} (or logits) is wanted")
        pair.append(store[inside[0]])
        columns += _columns(store)
    _refuse_unnamed(files[1], store, (pair[0], pair[1]))
    return _dump(Path(label), "safetensors", (pair[0], pair[1]), columns, size_on_disk(*files))


def _columns(store: Mapping[str, Array]) -> list[tuple[str, Array]]:
    return [(name, store[name]) for name in COLUMNS if name in store]


def _refuse_unnamed(path: Path, store: Mapping[str, Array], pair: tuple[Array, Array]) -> None:
    """Refuse a file with the draft's rows that holds what may be their token map under an unknown name."""
    (rows, *_), (*_, target), (*_, draft) = pair[1].shape or (0,), pair[0].shape or (0,), pair[1].shape or (0,)
    other = {name: array for name, array in store.items() if name not in (*COLUMNS, *PAIR)}
    refuse_unnamed(str(path), unnamed_map(other, draft, rows), target, draft)


def _need(path: Path, names: Iterable[str]) -> None:
    missing = [name for name in PAIR if name not in names]
    if missing:
        raise InputError(f"{path}: lacks {' and '.join(missing)}; it holds {', '.join(names) or 'nothing'}")


def _dump(path: Path, form: str, pair: tuple[Array, Array], columns: list[tuple[str, Array]], size: int) -> Dump:
    target, draft = pair
    for name, array in zip(PAIR, pair, strict=True):
        if array.dtype not in LOGITS:
            array.rows(0, 1)  # what cannot be read at all says why
            raise InputError(f"{path}: {name} has dtype {array.dtype}; give float16, bfloat16, float32 or float64")
    check_pair(str(path), target.shape, draft.shape)
    held = held_columns(str(path), columns, target.shape[0])

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        part = {name: column[start:stop] for name, column in held.items()}
        return target.rows(start, stop), draft.rows(start, stop), part

    facts = Facts(str(path), form, target.shape[0], target.shape[1], draft.shape[1], target.dtype, bytes=size)
    forwards = target.forwards or draft.forwards
    return Dump(replace(facts, forwards=forwards, notes=places_twice(held)), read_rows)


def held_columns(path: str, columns: list[tuple[str, Array]], rows: int) -> dict[str, Tensor]:
    """Columns doc, position and token of a dump of so many rows; those that are given twice must agree.

    Raises
    ------
    InputError
        If one has another shape, is not integer, or contradicts another.
    """
    held: dict[str, Tensor] = {}
    for name, array in columns:
        if array.shape != (rows,):  # before it is read
            raise InputError(f"{path}: {name} has shape {array.shape} {array.dtype}; give {rows} integers")
        if array.dtype.startswith(("float", "bfloat")) or not hasattr(torch, array.dtype):
            raise InputError(
                f"{path}: {name} is {array.dtype}; give {rows} integers (numpy.unique(..., return_inverse=True) "
                "makes numbers of names)"
            )
        held = with_columns(path, held, check_columns(path, {COLUMNS[name]: array.whole()}, rows), name)
    return held
