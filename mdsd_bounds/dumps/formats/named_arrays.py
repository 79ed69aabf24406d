"""One model's rows from named arrays (.safetensors, .npz, .pt, .npy): full logits, top-k, or hidden states.

Which form it is follows from the names inside, with ``target_`` or ``draft_`` before them in a file that holds a pair:

* ``logits`` ``[N, V]``, ``[S, V]`` or ``[B, S, V]`` (also ``scores``: after temperature and cuts).  What a Hugging Face
  forward pass or ``generate(output_logits=True)`` gives, and TensorRT-LLM's .npy files ``[(batch, beam 1,) S, V]``.
  With ``input_ids`` ``[B, S]`` row t predicts token t + 1 and the last row of each text is left out, as are rows that
  ``attention_mask`` marks as padding.  With ``sequences`` ``[B, prompt + S]`` row t is the law of the t-th new token.
* ``ids`` and ``logprobs`` ``[N, k]`` (``top_ids``/``token_ids``/``indices`` and ``top_logprobs``/``top_values`` are
  known too), natural logarithms at temperature 1, ids of -1 for empty slots; optionally ``missing`` ``[N]``, the mass
  of the rest, ``cap`` ``[N]``, or both and more as ``cut`` ``[N, 4]`` float64, and ``vocabulary``.
* ``hidden_states`` ``[N, H]`` and ``lm_head`` ``[V, H]`` (:mod:`mdsd_bounds.dumps.hidden_states`); a head without
prefix
  serves both models.

A draft over fewer tokens (EAGLE-3) carries ``d2t`` ``[V_draft]``, the target token less the draft token, and
``vocabulary``, the target's size; tokens outside the map have probability zero.

``doc``, ``position`` and ``token`` (``tokens``) ``[N]`` are used where present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.text import parse, whole_text
from mdsd_bounds.dumps.formats.array_files import Array, open_store
from mdsd_bounds.dumps.hidden_states import HEAD, head_of, hidden_rows
from mdsd_bounds.dumps.single_model import ReadSide, Side, cut_columns, file_size, fill, runs
from mdsd_bounds.problem import InputError, rounding_unit

_LOGITS = ("logits", "output_logits", "generation_logits", "context_logits", "scores")
_IDS = ("ids", "top_ids", "token_ids", "indices")
_LOGPROBS = ("logprobs", "top_logprobs", "top_values")
_COLUMNS = {"tokens": "token", "token": "token", "doc": "doc", "position": "position"}
#: Beside the arrays of a capture: models, settings, versions.
FACTS = "facts.json"
_SHARED = {*_COLUMNS, "vocabulary", *HEAD}


def open_named(path: Path, role: str = "") -> Side:
    """The rows of one model in a file of named arrays.

    Parameters
    ----------
    path : Path
        File, or folder of .safetensors files.
    role : str
        ``"target"`` or ``"draft"``: prefer arrays with that prefix; without them those without prefix are taken.

    Raises
    ------
    InputError
        If no form is recognised, or the arrays do not fit each other.
    """
    store = open_store(path)
    prefix = f"{role}_" if role and any(name.startswith(f"{role}_") for name in store) else ""
    mine = {name.removeprefix(prefix): array for name, array in store.items() if name.startswith(prefix)}
    # Columns and a head that both models share carry no prefix.
    mine = {name: array for name, array in store.items() if name in _SHARED} | mine
    size = file_size(path) if path.is_file() else sum(file_size(file) for file in path.glob("*.safetensors"))
    side = None
    if "hidden_states" in mine:
        side = _hidden(path, mine, size)
    elif (ids := _first(mine, _IDS)) and (logprobs := _first(mine, _LOGPROBS)):
        side = _top_k(path, mine, ids, logprobs, size)
    elif logits := _first(mine, _LOGITS):
        side = _full(path, mine, logits, size)
    if side is not None:
        return _mapped(side, mine) if "d2t" in mine else side
    raise InputError(
        f"{path}: holds {', '.join(store) or 'nothing'}; wanted logits, or ids and logprobs, or hidden_states and "
        "lm_head, with target_ or draft_ before them in a file for a pair"
    )


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
        names = set(open_store(path))
    except InputError:
        # What a capture wrote is a pair; elsewhere another reader may know the file.
        if (path / FACTS).is_file():
            raise
        return False
    forms = ("logits", "logprobs", "top_logprobs", "top_values", "hidden_states")
    return all(any(f"{role}_{form}" in names for form in forms) for role in ("target", "draft"))


def _mapped(side: Side, arrays: Mapping[str, Array]) -> Side:
    offset = arrays["d2t"].whole().to(torch.int64)
    if side.width != len(offset) or side.support != "full":
        raise InputError(f"{side.path}: d2t maps {len(offset)} tokens, but the rows have {side.width}; map full rows")
    goal = torch.arange(len(offset)) + offset
    width = int(arrays["vocabulary"].whole()) if "vocabulary" in arrays else None
    if (
        bool((goal < 0).any())
        or len(set(goal.tolist())) != len(goal)
        or (width is not None and int(goal.max()) >= width)
    ):
        raise InputError(
            f"{side.path}: d2t is no map of distinct tokens into the vocabulary; give target minus draft id"
        )

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        rows, _ = side.read(start, stop, len(offset))
        wide = torch.full((rows.shape[0], width), -float("inf"), dtype=rows.dtype)
        wide[:, goal] = rows
        return wide, None

    notes = {**side.notes, "mapped": f"{len(offset)} tokens of the target's vocabulary, the others are exact zeros"}
    return replace(side, width=width, read=read, support="mapped", largest=int(goal.max()), notes=notes)


def _first(arrays: Mapping[str, Array], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in arrays), "")


def _columns(path: Path, arrays: Mapping[str, Array], rows: int) -> dict[str, Tensor]:
    found = {}
    for name, column in _COLUMNS.items():
        if name in arrays:
            value = arrays[name].whole()
            if value.shape != (rows,) or value.is_floating_point():
                raise InputError(f"{path}: {name} has shape {tuple(value.shape)}; give {rows} whole numbers")
            found[column] = value.to(torch.int64)
    return found


def _full(path: Path, arrays: Mapping[str, Array], name: str, size: int) -> Side:
    array = arrays[name]
    shape = array.shape
    if len(shape) == 4 and shape[1] == 1:  # beam search of width one
        shape = (shape[0], *shape[2:])
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"{path}: {name} has shape {array.shape}; give [N, V] or [batch, steps, V] (one beam)")
    if not array.dtype.startswith(("float", "bfloat")):
        raise InputError(f"{path}: {name} has dtype {array.dtype}; give float16, bfloat16, float32 or float64")
    texts, steps = (1, shape[0]) if len(shape) == 2 else (shape[0], shape[1])
    kept = torch.arange(texts * steps)
    columns: dict[str, Tensor] = {}
    shift = "next"
    if "input_ids" in arrays:
        ids = arrays["input_ids"].whole().reshape(texts, -1).to(torch.int64)
        if ids.shape[1] != steps:
            raise InputError(f"{path}: {name} has {steps} steps but input_ids {ids.shape[1]}; save those of one pass")
        mask = arrays["attention_mask"].whole().reshape(texts, -1) != 0 if "attention_mask" in arrays else ids >= 0
        wanted = torch.zeros((texts, steps), dtype=torch.bool)
        wanted[:, :-1] = mask[:, :-1] & mask[:, 1:]
        kept = wanted.reshape(-1).nonzero()[:, 0]
        columns = _places(kept, steps, 1) | {"token": ids.roll(-1, 1).reshape(-1)[kept]}
    elif "sequences" in arrays:
        ids = arrays["sequences"].whole().reshape(texts, -1).to(torch.int64)
        start = ids.shape[1] - steps
        if start < 0:
            raise InputError(f"{path}: {name} has {steps} steps but sequences only {ids.shape[1]} tokens")
        shift = "same"
        columns = _places(kept, steps, start) | {"token": ids[:, start:].reshape(-1)}
    elif len(shape) == 3:
        columns = _places(kept, steps, 1)
    if not len(kept):
        raise InputError(f"{path}: no row has a token that follows it; save texts of two tokens or more")
    columns |= _columns(path, arrays, len(kept))

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return torch.cat([array.rows(a, b) for a, b in runs(kept[start:stop])]), None

    stage = "processed" if name == "scores" else "raw"
    return Side(
        str(path), "arrays", len(kept), shape[-1], array.dtype, read, columns, shift=shift, stage=stage, bytes=size
    )


def _places(kept: Tensor, steps: int, first: int) -> dict[str, Tensor]:
    return {"doc": kept // steps, "position": kept % steps + first}


def _top_k(path: Path, arrays: Mapping[str, Array], ids_name: str, logprobs_name: str, size: int) -> Side:
    ids, logprobs = arrays[ids_name], arrays[logprobs_name]
    if len(ids.shape) != 2 or ids.shape != logprobs.shape or 0 in ids.shape:
        raise InputError(f"{path}: {ids_name} {ids.shape} and {logprobs_name} {logprobs.shape}; give two [N, k]")
    if not logprobs.dtype.startswith(("float", "bfloat")) or not ids.dtype.startswith(("int", "uint")):
        raise InputError(
            f"{path}: {ids_name} is {ids.dtype} and {logprobs_name} {logprobs.dtype}; give ints and floats"
        )
    unit = rounding_unit(getattr(torch, logprobs.dtype))
    cuts = arrays["cut"].whole() if "cut" in arrays else None
    if cuts is not None and (cuts.shape != (ids.shape[0], 4) or cuts.dtype != torch.float64):
        raise InputError(f"{path}: cut has shape {tuple(cuts.shape)} {cuts.dtype}; give float64 [{ids.shape[0]}, 4]")
    extra = {name: arrays[name].whole().to(torch.float64) for name in ("missing", "cap") if name in arrays}
    for name, value in extra.items():
        if value.shape != (ids.shape[0],):
            raise InputError(f"{path}: {name} has shape {tuple(value.shape)}; give [{ids.shape[0]}]")
    width = int(arrays["vocabulary"].whole()) if "vocabulary" in arrays else None

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        tokens = ids.rows(start, stop).to(torch.int64)
        values = logprobs.rows(start, stop).to(torch.float64)
        bad = (tokens >= width).any(-1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise InputError(
                f"{path} row {start + row}: token {int(tokens[row].max())}, but the vocabulary has {width} tokens"
            )
        if cuts is not None:
            return fill(tokens, values, width), cuts[start:stop]
        part = {name: value[start:stop] for name, value in extra.items()}
        cut = cut_columns(values, tokens >= 0, str(path), start, unit=unit, **part)
        return fill(tokens, values, width), cut

    reader: ReadSide = read
    return Side(
        str(path),
        "top-k",
        ids.shape[0],
        width,
        logprobs.dtype,
        reader,
        _columns(path, arrays, ids.shape[0]),
        kind="logprobs",
        support="top-k",
        bytes=size,
        notes={"tokens a row": ids.shape[1]},
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

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return hidden_rows(hidden.rows(start, stop), head), None

    return Side(
        str(path),
        "hidden",
        hidden.shape[0],
        head.weight.shape[0],
        hidden.dtype,
        read,
        _columns(path, arrays, hidden.shape[0]),
        kind="hidden",
        bytes=size,
        hidden=hidden.shape[1],
        once=sum(arrays[name].bytes for name in HEAD if name in arrays),
        notes={"hidden size": hidden.shape[1]},
    )
