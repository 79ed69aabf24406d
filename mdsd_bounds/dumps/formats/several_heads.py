"""Drafts of several heads: ``[N, K, V]`` beside the target's ``[N, V]``, or ``[B, S, K, V]`` beside ``[B, S, V]``.

Head k looks k tokens further (Medusa, multi-token prediction): its row i predicts what the target's row i + k predicts,
within one text.  One head is read at a time.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.formats.array_files import Array, array_form, open_arrays
from mdsd_bounds.dumps.formats.named_arrays import LOGITS, open_named
from mdsd_bounds.dumps.how_to_read import HowToRead
from mdsd_bounds.dumps.single_model import Side, pair_sides, runs
from mdsd_bounds.problem import InputError

#: More heads than any draft has: then the axis is something else.
_MOST = 64


def _pair(paths: list[Path]) -> tuple[Array, Array] | None:
    """The logits of target and draft, by their names."""
    if len(paths) not in (1, 2) or not all(path.is_file() and array_form(path) for path in paths):
        return None
    found = []
    for role, path in zip(("target", "draft"), paths * (3 - len(paths)), strict=True):
        store = open_arrays(path)
        names = [f"{role}_{name}" for name in LOGITS] + ([*LOGITS] if len(paths) == 2 else [])
        name = next((name for name in names if name in store), None)
        if name is None:
            return None
        found.append(store[name])
    return found[0], found[1]


def has_heads(paths: list[Path]) -> bool:
    """Whether the draft's logits have one axis more than the target's, before the vocabulary."""
    pair = _pair(paths)
    if pair is None:
        return False
    target, draft = (array.shape for array in pair)
    return (
        len(target) in (2, 3)
        and len(draft) == len(target) + 1
        and draft[:-2] == target[:-1]
        and 1 <= draft[-2] <= _MOST
    )


def open_heads(paths: list[Path], label: str, how: HowToRead) -> Dump:
    """The target beside one head of the draft, the first by default.

    Raises
    ------
    InputError
        If there is no such head, or no text is long enough for it.
    """
    pair = _pair(paths)
    assert pair is not None
    heads, steps = pair[1].shape[-2], pair[1].shape[-3]
    head = how.head or 0
    if head >= heads:
        raise InputError(
            f"{label}: head {head} is asked for, and the draft has heads 0 to {heads - 1}; give one of them"
        )
    target, draft = open_named(paths[0], "target"), open_named(paths[-1], "draft", head)
    # The draft's row is ``head`` rows earlier in the same text; what is stored beside either model's rows counts.
    of_target, of_draft = (_indices(side, pair[0].shape) for side in (target, draft))
    rows = ((of_target >= 0) & (of_draft >= 0)).nonzero()[:, 0]
    whence = rows - head
    kept = (rows % steps >= head) & (of_draft[whence] >= 0)
    for side, index in ((target, of_target), (draft, of_draft)):
        if "doc" in side.columns:
            text = torch.where(index >= 0, side.columns["doc"][index], -1)
            kept &= text[rows] == text[whence]
    rows, whence = rows[kept], whence[kept]
    if not len(rows):
        raise InputError(f"{label}: head {head} looks {head} tokens further, and no text is longer; give longer texts")
    first = _picked(target, of_target[rows], of_target[rows])
    second = _picked(draft, of_draft[whence], of_draft[rows])
    if len(paths) == 1:
        second = replace(second, bytes=0)  # one file counts once
    dump = pair_sides(first, second, label)
    note = {"head": f"{head} of 0 to {heads - 1}: its row i predicts what the target's row i + {head} predicts"}
    return replace(dump, facts=replace(dump.facts, notes=dump.facts.notes | note, heads=heads, skipped=head))


def _indices(side: Side, shape: tuple[int, ...]) -> Tensor:
    """Where each stored row of the target's ``shape`` is among those of the side that are read; -1 for the others."""
    found = torch.full((math.prod(shape[:-1]),), -1, dtype=torch.int64)
    found[torch.arange(side.rows) if side.kept is None else side.kept] = torch.arange(side.rows)
    return found


def _picked(side: Side, places: Tensor, said: Tensor) -> Side:
    """Rows of a side in this order; their columns are those of the rows ``said``, whose tokens they predict."""

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return torch.cat([side.read(a, b, width)[0] for a, b in runs(places[start:stop])]), None

    columns = {name: column[said] for name, column in side.columns.items()}
    return replace(side, rows=len(places), columns=columns, read=read, kept=None)
