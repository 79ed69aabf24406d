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

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.columns import COLUMNS, with_columns
from mdsd_bounds.dumps.containers.text import parse, whole_text
from mdsd_bounds.dumps.formats.array_files import Array, open_arrays
from mdsd_bounds.dumps.hidden_states import HEAD, head_of, hidden_rows
from mdsd_bounds.dumps.single_model import ReadSide, Side, file_size, runs
from mdsd_bounds.dumps.token_map import maps_in, token_columns, unnamed_map, widened
from mdsd_bounds.problem import InputError, rounding_unit

LOGITS = ("logits", "output_logits", "generation_logits", "context_logits", "scores")
_IDS = ("ids", "top_ids", "token_ids", "indices")
_LOGPROBS = ("logprobs", "top_logprobs", "top_values")
#: Beside the arrays of a capture: models, settings, versions.
FACTS = "facts.json"
_TEXTS = ("input_ids", "sequences", "attention_mask", "beam_indices", "sequences_scores")
_SHARED = {*COLUMNS, *_TEXTS, "vocabulary", *HEAD}


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
    store = open_arrays(path)
    mine = _arrays_of(path, store, role)
    size = file_size(path) if path.is_file() else sum(file_size(file) for file in path.glob("*.safetensors"))
    side = None
    if "hidden_states" in mine:
        side = _hidden(path, mine, size)
    elif (ids := _first(mine, _IDS)) and (logprobs := _first(mine, _LOGPROBS)):
        side = _top_k(path, mine, ids, logprobs, size)
    elif logits := _first(mine, LOGITS):
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


def _arrays_of(path: Path, store: Mapping[str, Array], role: str) -> dict[str, Array]:
    """The arrays of one model without their prefix, and those of both that its rows need."""
    prefix = f"{role}_"
    own = {name.removeprefix(prefix): array for name, array in store.items() if role and name.startswith(prefix)}
    if not any(name in own for name in (*LOGITS, *_IDS, "hidden_states")):
        return dict(store) | own
    # In a file for a pair, columns, texts and a head that both models share carry no prefix; a map is the draft's.
    shared = {name: array for name, array in store.items() if name in _SHARED}
    if twice := [name for name in COLUMNS if name in own and name in shared]:
        raise InputError(f"{path}: holds both {twice[0]} and {prefix}{twice[0]}; keep the one that is right")
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
    return bool(names & {*_TEXTS} or maps_in(arrays))


def mapped_side(side: Side, arrays: Mapping[str, Array]) -> Side:
    """The side over the target's vocabulary, its columns sent where the map among ``arrays`` says.

    Raises
    ------
    InputError
        If the map does not fit the rows, or as :func:`mdsd_bounds.dumps.token_map.token_columns`.
    """
    width = _vocabulary(side.path, arrays)
    found = token_columns({name: array.whole() for name, array in maps_in(arrays).items()}, side.path, width)
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
    stated = arrays["vocabulary"].whole()
    if stated.numel() != 1 or stated.is_complex() or not bool(stated > 0) or float(stated) != int(stated):
        raise InputError(f"{path}: vocabulary holds {stated.tolist()}; give one integer above 0")
    return int(stated)


def _first(arrays: Mapping[str, Array], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in arrays), "")


def _columns(path: Path, arrays: Mapping[str, Array], rows: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, column in COLUMNS.items():
        if name in arrays:
            value = arrays[name].whole()
            if value.shape != (rows,) or value.is_floating_point() or value.dtype == torch.bool:
                raise InputError(f"{path}: {name} has shape {tuple(value.shape)} {value.dtype}; give {rows} integers")
            found = with_columns(str(path), found, {column: value.to(torch.int64)}, name)
    return found


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
    texts, steps = _texts(path, arrays, name, shape)
    kept = torch.arange(texts * steps)
    columns: dict[str, Tensor] = {}
    shift = "next"
    if "sequences" in arrays and "input_ids" in arrays and not _is_prompt(path, arrays, texts):
        raise InputError(
            f"{path}: holds input_ids and sequences that do not begin with them, and does not say which of the two "
            f"{name} belongs to; keep that one"
        )
    if "input_ids" in arrays and "sequences" not in arrays:
        ids = _ids_of(path, arrays, "input_ids", texts)
        if ids.shape[1] != steps:
            raise InputError(f"{path}: {name} has {steps} steps but input_ids {ids.shape[1]}; save those of one pass")
        mask = _ids_of(path, arrays, "attention_mask", texts) != 0 if "attention_mask" in arrays else ids >= 0
        if mask.shape != ids.shape:
            raise InputError(
                f"{path}: input_ids {tuple(ids.shape)} but attention_mask {tuple(mask.shape)}; save those of one pass"
            )
        wanted = torch.zeros((texts, steps), dtype=torch.bool)
        wanted[:, :-1] = mask[:, :-1] & mask[:, 1:]
        kept = wanted.reshape(-1).nonzero()[:, 0]
        columns = _places(kept, steps, 1) | {"token": ids.roll(-1, 1).reshape(-1)[kept]}
    elif "sequences" in arrays:
        ids = _ids_of(path, arrays, "sequences", texts)
        start = ids.shape[1] - steps
        if start < 0:
            raise InputError(f"{path}: {name} has {steps} steps but sequences only {ids.shape[1]} tokens")
        shift = "same"
        kept = _unmasked(path, arrays, (texts, steps), start)
        columns = _places(kept, steps, start) | {"token": ids[:, start:].reshape(-1)[kept]}
    else:
        kept = _unmasked(path, arrays, (texts, steps))
        columns = _places(kept, steps, 1) if len(shape) == 3 else {}
    if not len(kept):
        raise InputError(f"{path}: no row has a token that follows it; save texts of two tokens or more")
    stated = _columns(path, arrays, len(kept))
    if "token" in columns and "token" in stated:
        # Documents and places may be counted otherwise than here; the text is one.
        with_columns(str(path), {"token": columns["token"]}, {"token": stated["token"]}, "token")
    columns |= stated

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        return torch.cat([array.rows(a, b) for a, b in runs(kept[start:stop])]), None

    stage = "processed" if name == "scores" else "raw"
    masked = texts * steps - len(kept) if "attention_mask" in arrays else 0
    notes = (
        {"left out": f"{masked} rows that attention_mask marks as padding or that no token follows"} if masked else {}
    )
    return Side(
        str(path), "arrays", len(kept), shape[-1], array.dtype, read, columns,
        shift=shift, stage=stage, bytes=size, notes=notes,
    )  # fmt: skip


def _unmasked(path: Path, arrays: Mapping[str, Array], size: tuple[int, int], start: int = 0) -> Tensor:
    """Rows of ``size`` texts and steps that ``attention_mask`` does not mark as padding, which begin at step ``start``.

    A mask of the prompts alone, as ``generate`` is given it, says nothing of the rows after them.
    """
    texts, steps = size
    if "attention_mask" not in arrays:
        return torch.arange(texts * steps)
    mask = _ids_of(path, arrays, "attention_mask", texts)
    if mask.shape[1] == start > 0:
        return torch.arange(texts * steps)
    if mask.shape[1] != start + steps:
        raise InputError(
            f"{path}: rows of {steps} steps after {start} tokens, but attention_mask has {mask.shape[1]}; save those "
            "of one pass, or leave the mask out where no row is padding"
        )
    return (mask[:, start:] != 0).reshape(-1).nonzero()[:, 0]


def _texts(path: Path, arrays: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Number of texts, and steps of each, that the rows of an array belong to."""
    beams = [extra for extra in ("beam_indices", "sequences_scores") if extra in arrays]
    if beams:
        raise InputError(
            f"{path}: {beams[0]} is of a beam search, whose rows belong to other beams than its sequences; "
            "generate with num_beams=1"
        )
    if len(shape) == 3:
        return shape[0], shape[1]
    # A batch of texts saved flat: its ids say where each of them ends.
    ids = arrays["input_ids"].shape if "input_ids" in arrays else ()
    return (ids[0], ids[1]) if len(ids) == 2 and ids[0] * ids[1] == shape[0] else (1, shape[0])


def _is_prompt(path: Path, arrays: Mapping[str, Array], texts: int) -> bool:
    """Whether ``input_ids`` are what the sequences of ``generate`` begin with; then the rows follow them."""
    prompt, whole = (_ids_of(path, arrays, name, texts) for name in ("input_ids", "sequences"))
    size = prompt.shape[1]
    return whole.shape[1] > size and bool((whole[:, :size] == prompt).all())


def _ids_of(path: Path, arrays: Mapping[str, Array], name: str, texts: int) -> Tensor:
    """Token ids or mask ``[texts, tokens]``, one line for each text of the rows."""
    ids = arrays[name].whole()
    if ids.ndim == 1 and texts == 1:
        ids = ids[None]
    if ids.ndim != 2 or ids.shape[0] != texts or ids.is_floating_point():
        raise InputError(
            f"{path}: rows of {texts} text{'s' * (texts != 1)}, but {name} has shape {tuple(ids.shape)} {ids.dtype}; "
            "save both from one call, with one beam and one returned sequence a text (num_beams=1, "
            "num_return_sequences=1)"
        )
    if name == "attention_mask" and len(wrong := ids[(ids != 0) & (ids != 1)]):
        raise InputError(
            f"{path}: attention_mask holds {int(wrong[0])}; give 1 for tokens and 0 for padding (no biases of "
            "attention, no numbers of packed texts)"
        )
    return ids.to(torch.int64)


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
    if cuts is not None:
        extra = {"cut": cuts}
    for name, value in extra.items():
        if name != "cut" and value.shape != (ids.shape[0],):
            raise InputError(f"{path}: {name} has shape {tuple(value.shape)}; give [{ids.shape[0]}]")
    width = _vocabulary(str(path), arrays)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        tokens = ids.rows(start, stop).to(torch.int64)
        values = logprobs.rows(start, stop).to(torch.float64)
        part = {name: value[start:stop] for name, value in extra.items()}
        return dense_top_k(tokens, values, width, str(path), start, rest=Rest(**part), unit=unit)

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
        fixed_bytes=sum(arrays[name].bytes for name in HEAD if name in arrays),
        notes={"hidden size": hidden.shape[1]},
    )
