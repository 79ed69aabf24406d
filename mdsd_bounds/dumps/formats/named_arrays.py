"""One model's rows from named arrays (.safetensors, .npz, .pt, .npy): full logits, top-k, or hidden states.

Which form it is follows from the names inside, with ``target_`` or ``draft_`` before them in a file that holds a pair:

* ``logits`` ``[N, V]``, ``[S, V]`` or ``[B, S, V]`` (also ``scores``: after temperature and cuts).  What a Hugging Face
  forward pass or ``generate(output_logits=True)`` gives, and TensorRT-LLM's .npy files ``[(batch, beam 1,) S, V]``.
  With ``input_ids`` ``[B, S]`` row t predicts token t + 1 and the last row of each text is left out, as are rows that
  ``attention_mask`` marks as padding, of these and of the other forms.  With ``sequences`` ``[B, prompt + S]`` row t
  predicts the t-th new token.  Both must have one text for each of the B; rows of beams are refused.
* ``ids`` and ``logprobs`` ``[N, k]`` (``top_ids``/``token_ids``/``indices`` and ``top_logprobs``/``top_values`` are
  known too), natural logarithms at temperature 1, ids of -1 for empty slots; optionally ``missing`` ``[N]``, the mass
  of the rest, ``cap`` ``[N]``, or both and more as ``cut`` ``[N, 4]`` float64, and ``vocabulary``.
* ``hidden_states`` ``[N, H]`` and ``lm_head`` ``[V, H]`` (:mod:`mdsd_bounds.dumps.hidden_states`); a head without
  prefix serves both models.

A draft over fewer tokens (EAGLE-3) carries a map (:mod:`mdsd_bounds.dumps.token_map`): ``d2t`` ``[V_draft]``, the
target token less the draft token, ``target_ids`` or ``t2d``, and where known ``vocabulary``, the target's size; tokens
outside the map have probability zero.

``doc``, ``position`` and ``token`` (``tokens``) ``[N]`` are used where present.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.columns import COLUMNS, SAID, TEXTS, with_columns
from mdsd_bounds.dumps.containers.text import parse, whole_text
from mdsd_bounds.dumps.formats.array_files import Array, array_form, arrays_beside, open_arrays
from mdsd_bounds.dumps.formats.text_rows import TextRows, text_rows
from mdsd_bounds.dumps.hidden_states import HEAD, head_of, hidden_rows
from mdsd_bounds.dumps.rounding import FIRST_NUMBERS, Grid, rounding_of_rows
from mdsd_bounds.dumps.single_model import ReadSide, Side, file_size, runs
from mdsd_bounds.dumps.token_map import MAP_FILES, maps_in, read_maps, token_columns, unnamed_map, widened
from mdsd_bounds.dumps.widths import check_vocabulary
from mdsd_bounds.problem import InputError, rounding_unit

LOGITS = ("logits", "output_logits", "generation_logits", "context_logits", "scores")
_IDS = ("ids", "top_ids", "token_ids", "indices")
_LOGPROBS = ("logprobs", "top_logprobs", "top_values")
#: Beside the arrays of a capture: models, settings, versions.
FACTS = "facts.json"
_SHARED = {*SAID, *HEAD}


def open_named(path: Path, role: str = "", head: int | None = None) -> Side:
    """The rows of one model in a file of named arrays, and in those beside it that say more of its rows.

    Parameters
    ----------
    path : Path
        File, or folder of .safetensors files.
    role : str
        ``"target"`` or ``"draft"``: prefer arrays with that prefix; without them those without prefix are taken.
    head : int or None
        Of logits ``[..., heads, V]``: the head whose rows are wanted.

    Raises
    ------
    InputError
        If no form is recognised, or the arrays do not fit each other.
    """
    beside, held = _beside(path, role), open_arrays(path)
    if both := sorted(set(beside) & set(held)):
        raise InputError(f"{path}: {both[0]} is in another file of the folder too; keep one of them")
    store = {**beside, **held}
    mine = _arrays_of(path, store, role)
    size = file_size(path) if path.is_file() else sum(file_size(file) for file in path.glob("*.safetensors"))
    side = None
    if "hidden_states" in mine:
        side = _hidden(path, mine, size)
    elif (ids := _first(mine, _IDS)) and (logprobs := _first(mine, _LOGPROBS)):
        side = _top_k(path, mine, ids, logprobs, size)
    elif logits := _first(mine, LOGITS):
        if head is not None:
            mine[logits] = one_head(mine[logits], head)
        side = _full(path, mine, logits, size)
    if side is not None:
        # A map named after the draft says nothing of a target's rows.
        stated = mine if role != "target" else {name: mine[name] for name in mine if not name.startswith("draft_")}
        if maps_in(stated):
            return mapped_side(side, stated)
        other = {name: array for name, array in store.items() if name not in _SHARED}
        return replace(side, unnamed=unnamed_map(other, side.width, side.rows) if side.width else "")
    raise InputError(
        f"{path}: holds {', '.join(store) or 'nothing'}; wanted logits, or ids and logprobs, or hidden_states and "
        "lm_head, with target_ or draft_ before them in a file for a pair"
    )


def _beside(path: Path, role: str) -> dict[str, Array]:
    """What other files say of the rows; a map beside the rows of both models is the draft's."""
    return arrays_beside(path, (*SAID, *(MAP_FILES if role == "draft" else ())))


def says_more(path: Path) -> bool:
    """Whether other files say more of the rows of ``path`` than columns beside two .npy files do."""
    return bool(set(_beside(path, "draft")) - (set(COLUMNS) if array_form(path) == "npy" else set()))


def one_head(array: Array, head: int) -> Array:
    """The rows of one of several heads, ``[..., heads, V]``.  They lie side by side: those between are read with it."""
    heads = array.shape[-2]
    return replace(
        array,
        shape=(*array.shape[:-2], array.shape[-1]),
        rows=lambda a, b: array.rows(a * heads, b * heads)[head::heads],
        whole=lambda: array.whole()[..., head, :],
    )


def _arrays_of(path: Path, store: Mapping[str, Array], role: str) -> dict[str, Array]:
    """The arrays of one model without their prefix, and those of both that its rows need."""
    prefix = f"{role}_"
    own = {name.removeprefix(prefix): array for name, array in store.items() if role and name.startswith(prefix)}
    if twice := [name for name in COLUMNS if name in own and name in store]:
        raise InputError(f"{path}: holds both {twice[0]} and {prefix}{twice[0]}; keep the one that is right")
    if not any(name in own for name in (*LOGITS, *_IDS, "hidden_states")):
        return dict(store) | own
    # In a file for a pair, columns, texts and a head that both models share carry no prefix; a map is the draft's.
    shared = {name: array for name, array in store.items() if name in _SHARED}
    return shared | own | (maps_in(store) if role == "draft" else {})


def refuse_unfinished(path: Path) -> None:
    """Name a folder whose capture has not ended; its parts are no dump yet.

    Raises
    ------
    InputError
        With the remedy.
    """
    if path.is_dir() and (path / FACTS).is_file() and not (path / "rows.safetensors").exists():
        parts = len(list(path.glob("rows-*.part")))
        raise InputError(f"{path}: unfinished, {parts} parts written; run the same mdsd log command again")


def read_facts(path: Path) -> dict[str, Any]:
    """What a capture says of itself in the folder ``path``.

    Raises
    ------
    InputError
        If ``facts.json`` is no JSON object.
    """
    with reading(path / FACTS, "JSON object", "log again"):
        facts = parse(whole_text(path / FACTS))
    if not isinstance(facts, dict):
        raise InputError(f"{path / FACTS}: holds no JSON object; log again")
    return facts


def has_pair(path: Path) -> bool:
    """Whether a file of named arrays holds both models."""
    try:
        names = set(open_arrays(path))
    except InputError:
        # What a capture wrote is a pair; elsewhere another reader may know the file.
        if (path / FACTS).is_file():
            raise
        return False
    forms = ("logits", "logprobs", "top_logprobs", "top_values", "hidden_states")
    return all(any(f"{role}_{form}" in names for form in forms) for role in ("target", "draft"))


def needs_care(path: Path) -> bool:
    """Whether a file with target_logits and draft_logits says more of its rows than two matrices and columns do."""
    arrays = open_arrays(path)
    names = {name.removeprefix("target_").removeprefix("draft_") for name in arrays}
    # Columns of one model alone are held against those of the other.
    own = {f"{role}_{name}" for role in ("target", "draft") for name in COLUMNS}
    return bool(names & {*TEXTS} or own & set(arrays) or maps_in(arrays))


def mapped_side(side: Side, arrays: Mapping[str, Array]) -> Side:
    """The side over the target's vocabulary, its columns sent where the map among ``arrays`` says.

    Raises
    ------
    InputError
        If the map does not fit the rows, or as :func:`mdsd_bounds.dumps.token_map.token_columns`.
    """
    width = _vocabulary(side.path, arrays)
    found = token_columns(read_maps(maps_in(arrays), side.path), side.path, width)
    goal = found.tokens
    if side.support == "full" and side.width != len(goal):
        raise InputError(
            f"{side.path}: its token map has {len(goal)} columns, but the rows have {side.width}; give the map of this "
            "head, or leave it out where the rows are over the target's vocabulary already"
        )

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        rows, cut = side.read(start, stop, len(goal))
        return widened(rows, goal, width), cut

    notes = {**side.notes, "mapped": f"{len(goal)} tokens of the target's vocabulary, the others are exact zeros"}
    support = "mapped" if side.support == "full" else side.support
    return replace(side, width=width, read=read, support=support, largest=int(goal.max()), map=found, notes=notes)


def _vocabulary(path: str, arrays: Mapping[str, Array]) -> int | None:
    """The target's size, where it is stated."""
    if "vocabulary" not in arrays:
        return None
    if math.prod(arrays["vocabulary"].shape) != 1:
        raise InputError(f"{path}: vocabulary has shape {arrays['vocabulary'].shape}; give one integer above 0")
    stated = arrays["vocabulary"].whole()
    if stated.is_complex() or not bool(stated > 0) or float(stated) != int(stated):
        raise InputError(f"{path}: vocabulary holds {stated.tolist()}; give one integer above 0")
    return int(stated)


def _first(arrays: Mapping[str, Array], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in arrays), "")


def _columns(path: Path, arrays: Mapping[str, Array], text: TextRows) -> dict[str, Tensor]:
    """Columns of the rows that are read; those that are given must not contradict the text."""
    rows = len(text.kept)
    found: dict[str, Tensor] = {}
    for name, column in COLUMNS.items():
        if name in arrays:
            value = arrays[name].whole()
            if value.shape == (text.rows,):  # also of the rows that are left out
                value = value[text.kept]
            if value.shape != (rows,) or value.is_floating_point() or value.dtype == torch.bool:
                raise InputError(f"{path}: {name} has shape {tuple(value.shape)} {value.dtype}; give {rows} integers")
            found = with_columns(str(path), found, {column: value.to(torch.int64)}, name)
    if "token" in text.columns and "token" in found:
        # Documents and places may be counted otherwise than here; the text is one.
        with_columns(str(path), {"token": text.columns["token"]}, {"token": found["token"]}, "token")
    return text.columns | found


def _full(path: Path, arrays: Mapping[str, Array], name: str, size: int) -> Side:
    array = arrays[name]
    shape = array.shape
    if len(shape) == 4 and shape[1] == 1:  # beam search of width one
        shape = (shape[0], *shape[2:])
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"{path}: {name} has shape {array.shape}; give [N, V] or [batch, steps, V] (one beam)")
    if not array.dtype.startswith(("float", "bfloat")):
        array.rows(0, 1)  # what cannot be read at all says why
        raise InputError(f"{path}: {name} has dtype {array.dtype}; give float16, bfloat16, float32 or float64")
    text = text_rows(path, arrays, name, shape[:-1])
    columns = _columns(path, arrays, text)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return torch.cat([array.rows(a, b) for a, b in runs(text.kept[start:stop])]), None

    stage = "processed" if name == "scores" else "raw"
    square = shape[0] if len(shape) == 3 and shape[0] == shape[1] > 1 and len(text.kept) == text.rows else 0
    return Side(
        str(path), "arrays", len(text.kept), shape[-1], array.dtype, read, columns,
        shift=text.shift, stage=stage, bytes=size, kept=text.kept, notes=text.notes,
        square=square,
    )  # fmt: skip


def _file_rounding(ids: Array, logprobs: Array, kept: Tensor, unit: float) -> Grid | None:
    """How the values of a file were rounded, by its first rows: of a row with few of them it cannot be told."""
    some = runs(kept[: max(1, FIRST_NUMBERS // ids.shape[1])])
    if not some:
        return None
    held, values = (torch.cat([array.rows(a, b) for a, b in some]) for array in (ids, logprobs))
    return rounding_of_rows(values, held >= 0, unit)


def _top_k(path: Path, arrays: Mapping[str, Array], ids_name: str, logprobs_name: str, size: int) -> Side:
    ids, logprobs = arrays[ids_name], arrays[logprobs_name]
    if len(ids.shape) != 2 or ids.shape != logprobs.shape or 0 in ids.shape:
        raise InputError(f"{path}: {ids_name} {ids.shape} and {logprobs_name} {logprobs.shape}; give two [N, k]")
    if not logprobs.dtype.startswith(("float", "bfloat")) or not ids.dtype.startswith(("int", "uint")):
        raise InputError(
            f"{path}: {ids_name} is {ids.dtype} and {logprobs_name} {logprobs.dtype}; give ints and floats"
        )
    check_vocabulary(ids.shape[1], f"{path}: {ids_name}")
    unit = rounding_unit(getattr(torch, logprobs.dtype))
    cuts = arrays["cut"].whole() if "cut" in arrays else None
    if cuts is not None and (cuts.shape != (ids.shape[0], 4) or cuts.dtype != torch.float64):
        raise InputError(f"{path}: cut has shape {tuple(cuts.shape)} {cuts.dtype}; give float64 [{ids.shape[0]}, 4]")
    extra = {name: arrays[name].whole().to(torch.float64) for name in ("missing", "cap") if name in arrays}
    if cuts is not None:
        extra = {"cut": cuts}
    for name, value in extra.items():
        if name != "cut" and value.shape != (ids.shape[0],):
            raise InputError(f"{path}: {name} has shape {tuple(value.shape)}; give [{ids.shape[0]}]")
    width = _vocabulary(str(path), arrays)
    text = text_rows(path, arrays, ids_name, ids.shape[:1])
    grid = None if cuts is not None else _file_rounding(ids, logprobs, text.kept, unit)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        places = text.kept[start:stop]
        tokens, values = (torch.cat([array.rows(a, b) for a, b in runs(places)]) for array in (ids, logprobs))
        tokens, values = tokens.to(torch.int64), values.to(torch.float64)
        part = {name: value[places] for name, value in extra.items()}
        if grid is not None:
            part["slack"] = grid.of_rows(values, tokens >= 0)
        return dense_top_k(tokens, values, width, str(path), start, rest=Rest(**part), unit=unit)

    reader: ReadSide = read
    return Side(
        str(path),
        "top-k",
        len(text.kept),
        width,
        logprobs.dtype,
        reader,
        _columns(path, arrays, text),
        kind="logprobs",
        support="top-k",
        shift=text.shift,
        bytes=size,
        notes={"tokens a row": ids.shape[1]} | text.notes,
    )


def _hidden(path: Path, arrays: Mapping[str, Array], size: int) -> Side:
    hidden = arrays["hidden_states"]
    head = head_of(arrays, str(path))
    if len(hidden.shape) != 2 or head.weight.shape[1] != hidden.shape[1] or 0 in hidden.shape:
        raise InputError(
            f"{path}: hidden_states {hidden.shape} and lm_head {tuple(head.weight.shape)}; give [N, H] and [V, H]"
        )
    if not hidden.dtype.startswith(("float", "bfloat")):
        raise InputError(f"{path}: hidden_states is {hidden.dtype}; give float16, bfloat16, float32 or float64")

    text = text_rows(path, arrays, "hidden_states", hidden.shape[:1])

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        states = torch.cat([hidden.rows(a, b) for a, b in runs(text.kept[start:stop])])
        return hidden_rows(states, head), None

    return Side(
        str(path),
        "hidden",
        len(text.kept),
        head.weight.shape[0],
        hidden.dtype,
        read,
        _columns(path, arrays, text),
        kind="hidden",
        shift=text.shift,
        bytes=size,
        hidden=hidden.shape[1],
        fixed_bytes=sum(arrays[name].bytes for name in HEAD if name in arrays),
        notes={"hidden size": hidden.shape[1]} | text.notes,
    )
