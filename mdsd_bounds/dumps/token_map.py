"""Drafts over fewer tokens than the target's: which target token each column of their rows stands for.

Known names, with or without ``draft_`` or a module's name (``model.d2t``) before them:

* ``d2t`` ``[V_draft]``: target id less draft id (EAGLE-3 stores these offsets, not ids);
* ``target_ids`` ``[V_draft]``: target ids themselves (a matrix of this name holds a target's top-k ids);
* ``t2d`` ``[V_target]``: which target tokens have a column, in their order; alone, or checked against the others.

Offsets and ids are told apart where anything can tell them: ids never repeat, and must not leave the vocabulary when
they are read as offsets.  Offsets of many columns do repeat (:func:`refuse_ids`); of few, where both readings are
possible, :attr:`TokenColumns.as_ids` holds the other one, and the rows decide
(:func:`mdsd_bounds.dumps.single_model.pair_sides`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mdsd_bounds.dumps.containers.files import Array
from mdsd_bounds.dumps.widths import MOST_TOKENS, check_vocabulary
from mdsd_bounds.problem import InputError

#: Of so many pairs of columns, each of which has one chance in the vocabulary's size, some share an offset.
_PAIRS = 20
#: Arrays that say what the columns of a draft's rows stand for.
MAPS = ("d2t", "t2d", "target_ids")
#: The note of a dump in which nothing decides whether ``d2t`` holds offsets or ids; a warning in every command.
MAP_DOUBT = "draft map"
#: Names of the files that hold them where every array has a file of its own, without their endings.
MAP_FILES = (*MAPS, *(f"draft_{name}" for name in MAPS))


class Shaped(Protocol):
    """An array, read or not."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        ...


A = TypeVar("A", bound=Shaped)


def maps_in(arrays: Mapping[str, A]) -> dict[str, A]:
    """The arrays that map a draft's columns, by their names in :data:`MAPS`."""
    found: dict[str, A] = {}
    for name, array in arrays.items():
        known = _known(name)
        if known not in MAPS or (known == "target_ids" and len(array.shape) != 1):
            continue
        if found.setdefault(known, array) is not array:
            raise InputError(f"{name}: a second {known} of the same rows; keep the one that belongs to the draft")
    return found


def _known(name: str) -> str:
    # As a checkpoint names its tensors: model.d2t.
    return name.rsplit(".", 1)[-1].lower().removeprefix("draft_")


def unnamed_map(arrays: Mapping[str, Array], width: int, rows: int) -> str:
    """An array under a name that is not known which may say what the draft's ``width`` columns stand for.

    Either one number for each column, or marks of as many of the target's tokens.  Where there are as many rows as
    columns, numbers that repeat are taken for those of rows.  Empty where there is no such array.  Longer ones than any
    vocabulary are not read.
    """
    for name, array in arrays.items():
        long = [size for size in array.shape if size != 1]
        kind = array.dtype
        if len(long) != 1 or _known(name) in MAPS or not kind.startswith(("int", "uint", "float", "bfloat", "bool")):
            continue
        if long[0] == width and width != rows and kind.startswith(("int", "uint")):
            return name
        if width <= long[0] <= MOST_TOKENS and _may_map(array, width):
            return name
    return ""


def _may_map(array: Array, width: int) -> bool:
    """Whether the values are distinct integers, one a column, or marks of ``width`` tokens."""
    values = array.whole().flatten()
    if not _are_integers(values):
        return False
    values = values.to(torch.int64)
    if len(values) > width:
        return bool(((values == 0) | (values == 1)).all()) and int(values.sum()) == width
    return width > 1 and bool((values.sort().values.diff() != 0).all())


def refuse_unnamed(path: str, name: str, target: int, draft: int) -> None:
    """Refuse heads of two widths with an array beside them that may be the draft's map.

    Raises
    ------
    InputError
        With the names that are known.
    """
    if name and target != draft:
        raise InputError(
            f"{path}: {name} may say what the draft's {draft} columns stand for, and the target has {target}: if it is "
            "the token map, name it d2t (target id minus draft id), target_ids or t2d; otherwise leave it out"
        )


@dataclass(frozen=True)
class TokenColumns:
    """Target token of every column ``[V_draft]``; ``as_ids`` is ``d2t`` read as ids where that is possible too."""

    tokens: Tensor
    as_ids: Tensor | None = None


def read_maps(arrays: Mapping[str, Array], path: str) -> dict[str, Tensor]:
    """The values of arrays that are maps; none is longer than any vocabulary.

    Raises
    ------
    InputError
        As :func:`mdsd_bounds.dumps.widths.check_vocabulary`, before a longer one is read.
    """
    for name, array in arrays.items():
        check_vocabulary(math.prod(array.shape), f"{path}: {name}")
    return {name: array.whole() for name, array in arrays.items()}


def token_columns(arrays: Mapping[str, Tensor], path: str, width: int | None = None) -> TokenColumns:
    """The map among ``arrays``, which holds at least one of :data:`MAPS`.

    Parameters
    ----------
    width : int or None
        The target's vocabulary, where known.

    Raises
    ------
    InputError
        If an array is no map of distinct tokens into the vocabulary, two contradict each other, ``d2t`` holds ids, or
        was never filled.
    """
    held = {name: _integers(arrays[name], f"{path}: {name}") for name in MAPS if name in arrays}
    marks = held.get("t2d")
    if marks is not None and not bool(((marks == 0) | (marks == 1)).all()):
        raise InputError(f"{path}: t2d holds {int(marks.max())}; give true or false for every target token")
    marked = None if marks is None else marks.nonzero()[:, 0]
    if marks is not None and width is None:
        width = len(marks)
    tokens, other, name = marked, None, "t2d"
    if "target_ids" in held:
        tokens, name = held["target_ids"], "target_ids"
    elif "d2t" in held:
        offsets, name = held["d2t"], "d2t"
        if len(offsets) > 1 and marked is None and not bool(offsets.any()) and width != len(offsets):
            raise InputError(
                f"{path}: d2t is zero everywhere, a map that was never filled; take it from the draft's checkpoint. If "
                f"the draft's tokens really are the target's first {len(offsets)}, give target_ids = arange instead"
            )
        tokens = torch.arange(len(offsets)) + offsets
        other = offsets if marked is None and _is_map(offsets, width) and not _same(offsets, tokens) else None
        fits = marked is None or _same(tokens.sort().values, marked)
        ids_fit = _is_map(offsets, width) if marked is None else _same(offsets.sort().values, marked)
        if ids_fit and not (fits and _is_map(tokens, width)):
            raise InputError(f"{path}: d2t holds target ids, not offsets; store d2t - arange, or name it target_ids")
    assert tokens is not None
    if not len(tokens):
        raise InputError(
            f"{path}: t2d marks no token, a map that was never filled; take it from the draft's checkpoint"
        )
    if not _is_map(tokens, width):
        raise InputError(
            f"{path}: {name} is no map of distinct tokens into the vocabulary{_worst(tokens, width)}; give "
            "d2t = target id minus draft id, or target_ids"
        )
    if marked is not None and not _same(tokens.sort().values, marked):
        raise InputError(f"{path}: t2d does not mark the tokens that {name} maps to; take both from one checkpoint")
    if "target_ids" in held and "d2t" in held and not _same(held["d2t"] + torch.arange(len(held["d2t"])), tokens):
        raise InputError(f"{path}: target_ids and d2t are different maps; keep the right one")
    return TokenColumns(tokens, other)


def refuse_ids(path: str, d2t: Tensor, width: int) -> None:
    """Refuse a ``d2t`` of distinct target tokens where nothing else tells, if it has more columns than offsets of
    real maps have without repeating.

    Two columns have the same offset with probability 1 / ``width`` where the map is any, and far more often where it
    ascends: of n columns none share one with probability ``exp(-n^2 / (2 width))``, which is 1e-8 at most here.

    Raises
    ------
    InputError
        With the remedy.
    """
    if len(d2t) * (len(d2t) - 1) > 2 * _PAIRS * width:
        raise InputError(
            f"{path}: d2t holds {len(d2t)} different tokens of {width}, and offsets of so many columns repeat: it "
            "holds target ids, not offsets; store d2t - arange, or name it target_ids"
        )


def widened(rows: Tensor, tokens: Tensor, width: int) -> Tensor:
    """Rows ``[B, V_draft]`` over the target's vocabulary ``[B, width]``: ``-inf`` for tokens without a column."""
    if rows.dtype.itemsize == 1:
        rows = rows.to(torch.float32)  # not every float of eight bits has an infinity
    wide = torch.full((rows.shape[0], width), -float("inf"), dtype=rows.dtype)
    wide[:, tokens] = rows
    return wide


def _integers(values: Tensor, name: str) -> Tensor:
    values = values.flatten()
    if not values.numel():
        raise InputError(f"{name} is empty: the vocabularies share no token; give one entry for each column")
    if not _are_integers(values):
        raise InputError(f"{name} holds {values.dtype}; token ids are integers")
    return values.to(torch.int64)


def _are_integers(values: Tensor) -> bool:
    if values.is_floating_point():
        values = values.to(torch.float64)  # floats of eight bits cannot be rounded
        return bool((values == values.round()).all())
    return not values.is_complex()


def _is_map(tokens: Tensor, width: int | None) -> bool:
    low, high = int(tokens.min()), int(tokens.max())
    return low >= 0 and (width is None or high < width) and not bool((tokens.sort().values.diff() == 0).any())


def _worst(tokens: Tensor, width: int | None) -> str:
    outside = (tokens < 0) if width is None else (tokens < 0) | (tokens >= width)
    if bool(outside.any()):
        place = int(outside.nonzero()[0])
        return f"{'' if width is None else f' of {width} tokens'} (entry {place}: target token {int(tokens[place])})"
    order = tokens.sort(stable=True)
    place = int(order.indices[1:][order.values[1:] == order.values[:-1]].min())
    return f" (entry {place}: target token {int(tokens[place])} is mapped twice)"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a == b).all())
