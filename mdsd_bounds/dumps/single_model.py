"""One model's half of a dump, and two halves joined into a pair.

Most programs write one model per file.  A *side* holds the rows of one model, full or cut; joining checks that both
sides speak of the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.base import Dump, Facts, check_columns
from mdsd_bounds.problem import InputError, rounding_unit

#: Vocabulary assumed for top-k files that do not say theirs.  Bounds from cut rows hold for every smaller one too.
UNSTATED_WIDTH = 262_144

#: Largest vocabulary that is believed where a file only states it: rows are filled up to it in memory.
MOST_TOKENS = 1 << 20

#: Rows [start, stop) over ``width`` columns: logits or log-probabilities [B, width], and what cut rows leave unsaid
#: ([B, 4], see :mod:`mdsd_bounds.dumps.base`) or None.
ReadSide = Callable[[int, int, int], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Side:
    """Rows of one model.  ``width`` is None where the file does not say how large the vocabulary is.

    ``columns`` holds doc, position and token ``[rows]`` where known: the token a row is the law of, and its place.
    ``largest`` is the largest token a file of unstated width mentions; ``hidden`` the width of hidden states, 0 where
    unknown, and ``once`` the bytes of the head beside them.
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
    once: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


def pair_sides(target: Side, draft: Side, label: str) -> Dump:
    """Join two sides row by row.

    Raises
    ------
    InputError
        If they have different numbers of rows, or the tokens they are laws of differ.
    """
    if target.rows != draft.rows:
        raise InputError(
            f"{label}: {target.rows} target rows but {draft.rows} draft rows; log both over the same positions"
        )
    if target.rows == 0:
        raise InputError(f"{label}: the dump has no rows; log some positions first")
    columns = dict(check_columns(target.path, target.columns, target.rows))
    for name, values in check_columns(draft.path, draft.columns, draft.rows).items():
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
        if width > MOST_TOKENS and side.support in ("top-k", "mapped"):
            raise InputError(
                f"{side.path}: states a vocabulary of {width} tokens, and no model has more than {MOST_TOKENS}; "
                "correct it"
            )
        widths.append(width)

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

    notes: dict[str, Any] = {}
    for role, side in (("target", target), ("draft", draft)):
        notes |= {f"{role} {name}": value for name, value in side.notes.items()}
        if side.width is None:
            notes[f"{role} vocabulary"] = f"not stated by the file, taken as {side.width or max(widths)}"
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
        target.once + draft.once,
        (target.hidden, draft.hidden) if target.hidden and draft.hidden else None,
        notes,
    )
    return Dump(facts, read_rows)


def fill(ids: Tensor, logprobs: Tensor, width: int) -> Tensor:
    """Dense ``[B, width]`` float64 log-probabilities from ``[B, k]``; ``-inf`` elsewhere; ids of -1 are empty slots."""
    dense = torch.full((ids.shape[0], width + 1), -float("inf"), dtype=torch.float64)
    slot = torch.where(ids >= 0, ids, torch.full_like(ids, width))
    dense.scatter_(-1, slot.to(torch.int64), logprobs.to(torch.float64))
    return dense[:, :width]


def cut_columns(
    logprobs: Tensor,
    held: Tensor,
    path: str,
    first_row: int,
    *,
    missing: Tensor | None = None,
    cap: Tensor | None = None,
    unit: float | None = None,
) -> Tensor:
    """What top-k rows leave unsaid, ``[B, 4]`` (see :mod:`mdsd_bounds.dumps.base`).

    Parameters
    ----------
    logprobs : Tensor
        ``[B, k]`` float64 log-probabilities; only those where ``held`` ``[B, k]`` count.
    missing : Tensor or None
        ``[B]`` mass of the rest; None takes one minus the stored mass.
    cap : Tensor or None
        ``[B]`` log-probability no other token exceeds; None takes the least stored one (true of a top-k).
    unit : float
        Relative rounding of the stored numbers; that of float32 if None.

    Raises
    ------
    InputError
        If stored and missing mass do not make one.
    """
    unit = rounding_unit(torch.float32) if unit is None else unit
    finite = held & torch.isfinite(logprobs)
    size = torch.where(finite, logprobs.abs(), torch.zeros_like(logprobs)).amax(-1)
    slack = unit * (size + 1.0)
    total = torch.where(held, logprobs.exp(), torch.zeros_like(logprobs)).sum(-1)
    if cap is None:
        cap = torch.where(finite, logprobs, torch.full_like(logprobs, float("inf"))).amin(-1)
    if missing is None:
        low, high = 1.0 - total * slack.exp(), 1.0 - total * (-slack).exp()
        wrong = high < -1e-6
    else:
        low = high = missing.to(torch.float64)
        wrong = ((total + missing - 1.0).abs() > torch.expm1(slack) + 1e-4) | (missing < 0)
    wrong |= ~torch.isfinite(total)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        said = "" if missing is None else f" and the tail {float(missing[row]):.6g}"
        raise InputError(
            f"{path} row {first_row + row}: the stored probabilities sum to {float(total[row]):.6g}{said}, not to one "
            "together; give natural-log probabilities at temperature 1"
        )
    return torch.stack([low.clamp(min=0.0), high.clamp(min=0.0), cap + slack, slack], -1)


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
