"""Which rows of an array are of tokens, and of which: ids, sequences and padding that are stored beside it.

The same for every form of rows: logits, the most probable tokens, hidden states
(:mod:`mdsd_bounds.dumps.formats.named_arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mdsd_bounds.dumps.formats.array_files import Array
from mdsd_bounds.problem import InputError


@dataclass(frozen=True)
class TextRows:
    """The rows that are read.

    Attributes
    ----------
    kept : Tensor
        Their places among the stored ``rows``, ascending.
    rows : int
        Stored rows of all texts.
    columns : dict
        Documents, places and tokens of the kept rows, where the file says them.
    shift : str
        As of :class:`mdsd_bounds.dumps.single_model.Side`.
    notes : dict
        How many rows were left out.
    """

    kept: Tensor
    rows: int
    columns: dict[str, Tensor] = field(default_factory=dict)
    shift: str = "next"
    notes: dict[str, str] = field(default_factory=dict)


def text_rows(path: Path, arrays: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> TextRows:
    """The rows of the array ``name`` of shape ``(N,)`` or ``(texts, steps)`` that a token belongs to.

    Raises
    ------
    InputError
        If ids, sequences or mask are of other texts than the rows, or no row is left.
    """
    texts, steps = _texts(path, arrays, shape)
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
        columns = _places(kept, steps, 1) if len(shape) == 2 or texts > 1 else {}
    if not len(kept):
        raise InputError(f"{path}: no row has a token that follows it; save texts of two tokens or more")
    masked = texts * steps - len(kept) if "attention_mask" in arrays else 0
    notes = (
        {"left out": f"{masked} rows that attention_mask marks as padding or that no token follows"} if masked else {}
    )
    return TextRows(kept, texts * steps, columns, shift, notes)


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


def _texts(path: Path, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[int, int]:
    """Number of texts, and steps of each, that the rows of an array belong to."""
    beams = [extra for extra in ("beam_indices", "sequences_scores") if extra in arrays]
    if beams:
        raise InputError(
            f"{path}: {beams[0]} is of a beam search, whose rows belong to other beams than its sequences; "
            "generate with num_beams=1"
        )
    if len(shape) == 2:
        return shape[0], shape[1]
    # A batch of texts saved flat: its ids, or its mask, say where each of them ends.
    for name in ("input_ids", "attention_mask"):
        ids = arrays[name].shape if name in arrays else ()
        if len(ids) == 2 and ids[0] * ids[1] == shape[0]:
            return ids[0], ids[1]
    return 1, shape[0]


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
