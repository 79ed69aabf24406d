"""Drafts of several heads: ``[N, K, V]`` beside the target's ``[N, V]``, or ``[B, S, K, V]`` beside ``[B, S, V]``.

Head k looks k tokens further (Medusa, multi-token prediction): its row i predicts what the target's row i + k predicts,
within one text.  One head is read at a time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.formats.array_files import Array, array_form, open_arrays
from mdsd_bounds.dumps.formats.named_arrays import LOGITS, open_head, open_named
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
    heads = pair[1].shape[-2]
    head = how.head or 0
    if head >= heads:
        raise InputError(
            f"{label}: head {head} is asked for, and the draft has heads 0 to {heads - 1}; give one of them"
        )
    target, draft = open_named(paths[0], "target"), open_head(paths[-1], head)
    # As they are stored, row beside row, the two are of one text; whether a map fits is asked of the rows as read.
    pair_sides(target, replace(draft, map=None, unnamed=""), label)
    columns = dict(draft.columns) | dict(target.columns)
    kept, whence = _beside(target, columns.get("doc", torch.zeros(target.rows, dtype=torch.int64)), head)
    if not len(kept):
        raise InputError(f"{label}: head {head} looks {head} tokens further, and no text is longer; give longer texts")
    first = _only(target, kept, {name: column[kept] for name, column in columns.items()})
    second = _only(draft, whence, {})
    if len(paths) == 1:
        second = replace(second, bytes=0)
    dump = pair_sides(first, second, label)
    note = {"head": f"{head} of 0 to {heads - 1}: its row i predicts what the target's row i + {head} predicts"}
    return replace(dump, facts=replace(dump.facts, notes=dump.facts.notes | note, heads=heads, skipped=head))


def _beside(target: Side, doc: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """The target's rows that have one of the draft ``head`` places earlier in their text, and those of the draft."""
    places = torch.arange(target.rows) if target.kept is None else target.kept
    row_at = torch.full((int(places.max()) + 1,), -1, dtype=torch.int64)
    row_at[places] = torch.arange(target.rows)
    earlier = places - head
    before = torch.where(earlier >= 0, row_at[earlier.clamp(min=0)], -1)
    kept = ((before >= 0) & (doc[before.clamp(min=0)] == doc)).nonzero()[:, 0]
    return kept, before[kept]


def _only(side: Side, kept: Tensor, columns: dict[str, Tensor]) -> Side:
    """The rows ``kept`` of a side, with these columns."""

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return torch.cat([side.read(a, b, width)[0] for a, b in runs(kept[start:stop])]), None

    return replace(side, rows=len(kept), columns=columns, read=read, kept=None, square=0)
