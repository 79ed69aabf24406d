"""Counts as NumPy arrays: ``accept_count`` and ``draft_count`` by position, or the accepted tokens of every step."""

from __future__ import annotations

from pathlib import Path

import torch

from mdsd_bounds.counts.answers import unit_of_lengths
from mdsd_bounds.counts.records import MOST_POSITIONS, Counts, Unit, count, counts
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import Array
from mdsd_bounds.dumps.containers.numpy_arrays import open_npy, open_npz
from mdsd_bounds.problem import InputError

_REMEDY = (
    "write integers with numpy.save (accepted draft tokens of every step) or numpy.savez (accept_count, draft_count)"
)
#: Steps of an array at most.
_MOST = 1 << 28


def read_npy(path: Path) -> Counts:
    """``[steps]`` accepted draft tokens of every step, or ``[requests, steps]`` padded with -1.

    Raises
    ------
    InputError
        If the array is another, or an entry is no count of accepted tokens.
    """
    with reading(path, "array of accepted tokens", _REMEDY):
        array = open_npy(path)
        if len(array.shape) not in (1, 2):
            raise InputError(f"{path}: shape {array.shape}; {_REMEDY}")
        table = _integers(array, str(path)).reshape(1 if len(array.shape) == 1 else array.shape[0], -1)
        if table.numel() and (int(table.min()) < -1 or int(table.max()) > MOST_POSITIONS):
            raise InputError(
                f"{path}: entries from {int(table.min())} to {int(table.max())}; give the accepted draft tokens of "
                "every step (-1 pads), or accept_count and draft_count of the positions in an .npz"
            )
        if array.dtype.startswith("uint") and bool((table == torch.iinfo(getattr(torch, array.dtype)).max).any()):
            raise InputError(
                f"{path}: {array.dtype} with its largest number, which is -1 where entries were padded; write signed "
                "integers (numpy.int16)"
            )
        units = [unit_of_lengths([length for length in row if length >= 0]) for row in table.tolist()]
        note = "the array is read as accepted draft tokens of every step, without the bonus token"
        found = counts("steps", "total" if len(units) == 1 else "request", units, [note])
    return _not_empty(found, path)


def read_npz(path: Path) -> Counts:
    """``accept_count`` and ``draft_count``, ``[K]`` of one total or ``[units, K]``.

    Raises
    ------
    InputError
        If they are not there, or not of one shape.
    """
    with reading(path, "arrays of counts", _REMEDY):
        arrays = open_npz(path)
        if not {"accept_count", "draft_count"} <= set(arrays):
            raise InputError(f"{path}: holds {', '.join(sorted(arrays)[:8])}; {_REMEDY}")
        taken, drafted = (_integers(arrays[name], f"{path}: {name}") for name in ("accept_count", "draft_count"))
        if taken.shape != drafted.shape or taken.ndim not in (1, 2) or not 1 <= taken.shape[-1] <= MOST_POSITIONS:
            raise InputError(
                f"{path}: accept_count of shape {tuple(taken.shape)} and draft_count of {tuple(drafted.shape)}; give "
                "both as [positions] or [requests, positions]"
            )
        rows = zip(
            taken.reshape(-1, taken.shape[-1]).tolist(), drafted.reshape(-1, taken.shape[-1]).tolist(), strict=True
        )
        units = []
        for accepted, given in rows:
            at = tuple(count(number, "accept_count") for number in accepted)
            tried = tuple(count(number, "draft_count") for number in given)
            units.append(Unit(tried[0], sum(tried), sum(at), at, tried))
        found = counts("MLC", "total" if taken.ndim == 1 else "request", units)
    return _not_empty(found, path)


def _integers(array: Array, where: str) -> torch.Tensor:
    size = 1
    for length in array.shape:
        size *= length
    if size > _MOST:
        raise InputError(f"{where}: {size} entries; at most {_MOST} are read")
    found = array.whole()
    if found.is_floating_point() or found.dtype == torch.bool:
        raise InputError(f"{where}: {array.dtype}, not integers; {_REMEDY}")
    return found.to(torch.int64)


def _not_empty(found: Counts, path: Path) -> Counts:
    if len(found) == 0:
        raise InputError(f"{path}: nothing was drafted; give counts of steps with drafts")
    return found
