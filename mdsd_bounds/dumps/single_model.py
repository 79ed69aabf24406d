"""One model's half of a dump, and two halves joined into a pair.

Most programs write one model per file.  A *side* holds the rows of one model, full or cut; joining checks that both
sides speak of the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump, Facts, check_columns
from mdsd_bounds.dumps.columns import places_twice
from mdsd_bounds.dumps.token_map import MAP_DOUBT, TokenColumns, refuse_ids, refuse_unnamed
from mdsd_bounds.dumps.widths import check_vocabulary
from mdsd_bounds.problem import InputError

#: Vocabulary assumed for top-k files that do not say theirs.  Bounds from truncated rows hold for every smaller one
#: too.
UNSTATED_WIDTH = 262_144

#: Rows [start, stop) over ``width`` columns: logits or log-probabilities [B, width], and what truncated rows leave
#: unsaid ([B, 4], see :mod:`mdsd_bounds.dumps.base`) or None.
ReadSide = Callable[[int, int, int], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Side:
    """Rows of one model.  ``width`` is None where the file does not say how large the vocabulary is.

    ``columns`` holds doc, position and token ``[rows]`` where known: the token a row is the distribution of, and its
    place. ``largest`` is the largest token a file of unstated width mentions; ``hidden`` the width of hidden states, 0
    where unknown, and ``fixed_bytes`` those of the head beside them.  ``map`` says which target tokens the columns of a
    draft over fewer tokens were sent to; ``unnamed`` is an array that may be such a map under a name that is not known.
    ``kept`` are the places of the rows among those that are stored, where some of these are left out.  ``square`` is
    the number of texts where they are stored text by text and each has as many rows as there are texts, else 0.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mdsd_bounds.dumps import open_side
    >>> file = tempfile.mkdtemp() + "/target.npy"
    >>> np.save(file, np.zeros((3, 8), dtype=np.float32))
    >>> side = open_side(file, "target")
    >>> side.rows, side.width, side.kind
    (3, 8, 'logits')
    """

    path: str
    format: str
    rows: int
    width: int | None
    dtype: str
    read: ReadSide = field(repr=False)
    columns: dict[str, Tensor] = field(default_factory=dict, repr=False)
    kind: str = "logits"
    support: str = "full"
    shift: str = "next"
    stage: str = "raw"
    bytes: int = 0
    largest: int = -1
    hidden: int = 0
    fixed_bytes: int = 0
    map: TokenColumns | None = None
    unnamed: str = ""
    kept: Tensor | None = field(default=None, repr=False)
    square: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


def pair_sides(target: Side, draft: Side, label: str) -> Dump:
    """Join two sides row by row.

    Raises
    ------
    InputError
        If they have different numbers of rows, the tokens they predict or the texts they come from differ, or the
        draft's token map fits its rows only when it is read otherwise.
    """
    target, draft, common = _common_chunks(target, draft, label)
    if target.rows != draft.rows:
        raise InputError(
            f"{label}: {target.rows} target rows but {draft.rows} draft rows; log both over the same positions"
        )
    if target.rows == 0:
        raise InputError(f"{label}: the dump has no rows; log some positions first")
    columns = dict(check_columns(target.path, target.columns, target.rows))
    others = check_columns(draft.path, draft.columns, draft.rows)
    if not ("token" in columns and "token" in others):
        _refuse_other_texts(label, columns, others)
    for name, values in others.items():
        if name not in columns:
            columns[name] = values
            continue
        if name != "token":
            continue
        differ = (columns[name] != values) & (columns[name] >= 0) & (values >= 0)
        if bool(differ.any()):
            row = int(differ.nonzero()[0])
            raise InputError(
                f"{label} row {row}: the target's token is {int(columns[name][row])} but the draft's "
                f"{int(values[row])}; log both over one text with one tokenizer"
            )
    if "token" in columns and bool((columns["token"] < 0).all()):
        del columns["token"]
    widths = []
    for side, other in ((target, draft), (draft, target)):
        width = side.width or other.width or UNSTATED_WIDTH
        if side.largest >= width:
            raise InputError(f"{side.path}: names token {side.largest}, but the vocabulary has {width} tokens")
        check_vocabulary(width, side.path)
        widths.append(width)
    doubt = _check_map(target, draft, widths)

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        held = {name: column[start:stop] for name, column in columns.items()}
        first, first_cut = target.read(start, stop, widths[0])
        second, second_cut = draft.read(start, stop, widths[1])
        if first_cut is not None:
            held["target_cut"] = first_cut
        if second_cut is not None:
            held["draft_cut"] = second_cut
        return first, second, held

    def of_both(name: str) -> str:
        a, b = getattr(target, name), getattr(draft, name)
        return str(a) if a == b else f"{a}, draft {b}"

    notes: dict[str, Any] = {**common, **doubt, **places_twice(columns)}
    for role, side in (("target", target), ("draft", draft)):
        notes |= {f"{role} {name}": value for name, value in side.notes.items()}
        if side.width is None:
            seen = f"; the largest token in it is {side.largest}" if side.largest >= 0 else ""
            notes[f"{role} vocabulary"] = f"not stated by the file, taken as {max(widths)}{seen}"
    unstated = target.width is None and draft.width is None
    facts = Facts(
        label,
        of_both("format"),
        target.rows,
        widths[0],
        widths[1],
        of_both("dtype"),
        of_both("kind"),
        of_both("support"),
        of_both("shift"),
        of_both("stage"),
        target.bytes + draft.bytes,
        target.fixed_bytes + draft.fixed_bytes,
        (target.hidden, draft.hidden) if target.hidden and draft.hidden else None,
        notes,
        largest=max(target.largest, draft.largest) if unstated else -1,
    )
    return Dump(facts, read_rows)


def _common_chunks(target: Side, draft: Side, label: str) -> tuple[Side, Side, dict[str, str]]:
    """Two llama.cpp files of one text whose runs were of different numbers of chunks: the rows of the common ones.

    Raises
    ------
    InputError
        If one text is not the beginning of the other.
    """
    rows = min(target.rows, draft.rows)
    if target.rows == draft.rows or not target.format == draft.format == "llama.cpp":
        return target, draft, {}
    for name in ("doc", "position", "token"):
        if not torch.equal(target.columns[name][:rows], draft.columns[name][:rows]):
            raise InputError(
                f"{label}: {target.rows} target rows but {draft.rows} draft rows, and the {name} differs within the "
                "first of them: another text, context (-c) or tokenizer; run llama-perplexity on one text with one -c"
            )
    cut = [
        replace(side, rows=rows, columns={name: column[:rows] for name, column in side.columns.items()})
        for side in (target, draft)
    ]
    longer, more = ("target", target) if target.rows > rows else ("draft", draft)
    chunks = [int(side.columns["doc"][-1]) + 1 for side in (cut[0], more)]
    note = f"the first {chunks[0]} of the {longer}'s {chunks[1]}; the other file ends there"
    return cut[0], cut[1], {"common chunks": note}


def _refuse_other_texts(label: str, target: dict[str, Tensor], draft: dict[str, Tensor]) -> None:
    """Sides that do not both record tokens must at least have the same texts: borders, and places up to an offset."""
    for name in ("doc", "position"):
        if name not in target or name not in draft:
            continue
        a, b = target[name].diff(), draft[name].diff()
        differ = (a != 0) != (b != 0) if name == "doc" else a != b
        if "doc" in target and name == "position":
            differ &= target["doc"].diff() == 0
        if bool(differ.any()):
            row = int(differ.nonzero()[0]) + 1
            raise InputError(
                f"{label} row {row}: {name} goes on differently in target and draft, so that their rows are of other "
                "texts; log both over the same texts in the same order, with their tokens"
            )


#: Rows read to tell offsets from ids.
_ROWS = 32


def _check_map(target: Side, draft: Side, widths: list[int]) -> dict[str, str]:
    """No map under an unknown name; read as ids, a map must not make the draft far more like the target than else.

    Where nothing decides between the two readings, a note says so.
    """
    if draft.map is None:
        refuse_unnamed(draft.path, draft.unnamed, *widths)
        return {}
    tokens, ids = draft.map.tokens, draft.map.as_ids
    if ids is None or max(int(ids.max()), int(tokens.max())) >= widths[0]:
        return {}
    rows = min(_ROWS, target.rows)
    p = torch.softmax(target.read(0, rows, widths[0])[0].to(torch.float64), -1)
    q = torch.softmax(draft.read(0, rows, widths[1])[0].to(torch.float64)[:, tokens], -1)
    overlap = [float(torch.minimum(p[:, columns], q).sum(-1).mean()) for columns in (tokens, ids)]
    if overlap[1] > 1.25 * overlap[0] and overlap[1] > overlap[0] + 0.05:
        raise InputError(
            f"{draft.path}: d2t may hold target ids, not offsets: read so, target and draft share {overlap[1]:.3f} of "
            f"their mass, and {overlap[0]:.3f} read as offsets; store ids as target_ids, or t2d beside right offsets"
        )
    if overlap[0] > 1.25 * overlap[1] and overlap[0] > overlap[1] + 0.05:
        return {}
    refuse_ids(draft.path, ids, widths[0])
    return {
        MAP_DOUBT: f"d2t is read as offsets; as target ids it would fit as well (target and draft share "
        f"{overlap[0]:.3f} and {overlap[1]:.3f} of their mass): if it holds ids, name it target_ids"
    }


def runs(index: Tensor) -> list[tuple[int, int]]:
    """Consecutive stretches ``[first, last)`` of increasing row numbers."""
    if not len(index):
        return []
    breaks = (index[1:] != index[:-1] + 1).nonzero()[:, 0] + 1
    edges = [0, *breaks.tolist(), len(index)]
    return [(int(index[a]), int(index[b - 1]) + 1) for a, b in pairwise(edges)]


def file_size(path: Path) -> int:
    """Bytes of a file."""
    return path.stat().st_size
