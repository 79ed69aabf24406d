"""Heads of two widths: padding of one vocabulary, tokens that only one model has, or two vocabularies."""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds._backend.buffers import buffer
from mdsd_bounds.problem import InputError

#: Largest difference of head widths that counts as padding of one vocabulary.
MAX_PAD = 128
#: No model has more tokens.
MOST_TOKENS = 1 << 20


def align_widths(
    target: Tensor, draft: Tensor, name: str = "dump", max_pad: int = MAX_PAD
) -> tuple[Tensor, Tensor, int]:
    """Pad the narrower head to the wider one with logits of ``-inf``, which are probabilities of exactly zero.

    Model families pad one vocabulary to different widths (Qwen2.5: 151936 or 152064), and some add tokens at its end.
    Zeros are right for both: what only one head has, the other cannot give.

    Returns
    -------
    target, draft : Tensor
        ``[B, V]`` with the same V, the larger of the two; a side that was as wide is returned as it is.
    added : int
        Columns added to one side; the caller reports the mass that the other holds there.

    Raises
    ------
    InputError
        As :func:`check_widths`.
    """
    width_t, width_d = target.shape[-1], draft.shape[-1]
    check_widths(width_t, width_d, name, max_pad)
    width = max(width_t, width_d)
    return _padded(target, width), _padded(draft, width), abs(width_t - width_d)


def check_widths(target: int, draft: int, name: str = "dump", max_pad: int = MAX_PAD) -> None:
    """Refuse heads whose widths cannot be those of one vocabulary.

    Raises
    ------
    InputError
        If they differ by more than ``max_pad`` columns or a quarter of the wider one: then one head speaks of other,
        or of fewer tokens, and which is not known.  Or as :func:`check_vocabulary`.
    """
    wide, narrow = max(target, draft), min(target, draft)
    check_vocabulary(wide, name)
    if wide - narrow <= min(max_pad, wide // 4):
        return
    fewer = "draft" if draft < target else "target"
    raise InputError(
        f"{name}: the target has {target} columns and the draft {draft}, too far apart for padding of one vocabulary. "
        f"A draft over fewer tokens needs its token map in the file of its rows: d2t [{draft}], target id minus draft "
        f"id as EAGLE-3 stores it, or target_ids [{draft}]. If the last {wide - narrow} columns are tokens that the "
        f"{fewer} lacks, pad its logits with -inf to {wide} columns. Models with different tokenizers need mdsd log "
        "--token-map"
    )


def check_vocabulary(width: int, name: str) -> None:
    """Refuse a vocabulary that no model has, before anything of its size is read or allocated.

    Raises
    ------
    InputError
        If it has more than :data:`MOST_TOKENS` tokens, which a small compressed file can claim.
    """
    if width > MOST_TOKENS:
        raise InputError(
            f"{name}: states a vocabulary of {width} tokens, and no model has more than {MOST_TOKENS}; correct it, or, "
            "where rows were flattened, give them as [positions, vocabulary]"
        )


def _padded(rows: Tensor, width: int) -> Tensor:
    held = rows.shape[-1]
    if held == width:
        return rows
    if rows.dtype.itemsize == 1:
        rows = rows.to(torch.float32)  # not every float of eight bits has an infinity
    shape = (*rows.shape[:-1], width)
    wide = buffer(shape, rows.dtype) if rows.device.type == "cpu" else rows.new_empty(shape)
    wide[..., :held] = rows
    wide[..., held:] = -float("inf")
    return wide
