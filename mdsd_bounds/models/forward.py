"""Run a causal language model over batches of token ids of unequal length, and keep only the logits that are wanted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError

#: Names that decoders give to their final norm.
_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
#: Logits computed in one pass (numbers, not bytes): 1 GB in float32.
MAX_LOGITS = 1 << 28


class Read(Protocol):
    """Reads texts: token ids of each document, and for each the place of the first token whose distribution is wanted.

    Returns the distributions' logits ``[rows, V]``, document by document, for places ``start`` to the end of the text.
    """

    def __call__(self, text: Sequence[Sequence[int]], starts: Sequence[int], /) -> Tensor:
        """``[rows, V]``."""
        ...


def left_pad(documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask ``[B, T]``, padded on the left so that every document ends in the last column."""
    width = max(len(document) for document in documents)
    ids = torch.tensor([[0] * (width - len(document)) + list(document) for document in documents])
    mask = torch.tensor([[0] * (width - len(document)) + [1] * len(document) for document in documents])
    return ids, mask


def forward(
    model: Any, ids: Tensor, mask: Tensor, cache: Any = None, *, kept: int = 1, positions: Tensor | None = None
) -> tuple[Tensor, Any]:
    """One pass of a transformers model.

    Parameters
    ----------
    ids, mask : Tensor
        ``[B, T]`` new tokens and ``[B, T_all]`` mask of all tokens so far; or, with ``positions``, the mask ``[B, 1, T,
        T_all]`` of what each new token sees, zero or minus infinity.
    cache : object, None or False
        Key-value cache of the tokens before; None starts one, False keeps none.
    kept : int
        How many last places get logits.
    positions : Tensor or None
        ``[B, T]`` place of each new token; counted from the mask by default.

    Returns
    -------
    logits : Tensor
        ``[B, kept, V]``.
    cache : object
        To be given with the next tokens.
    """
    # Releases of transformers differ in the name of the cache argument and of the output's field.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    given = {"use_cache": False} if cache is False else {name: cache, "use_cache": True}
    if positions is None:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept, **given)
    return output.logits, None if cache is False else output[name]


def read_rows(model: Any, text: Sequence[Sequence[int]], starts: Sequence[int], *, hidden: bool = False) -> Tensor:
    """Logits ``[rows, V]`` float32 that predict tokens ``starts[d]``, ``starts[d] + 1``, ... of each document.

    The distribution of token t is read after tokens 0 .. t - 1; the distribution after the last token is not wanted,
    since no token of the text follows it.

    Parameters
    ----------
    model : transformers model
    text : sequence of sequences of int
        Token ids of each document.
    starts : sequence of int
        ``1 <= starts[d] < len(text[d])``.
    hidden : bool
        Give what enters the head instead, ``[rows, H]`` in the model's dtype: the state after the final norm.
    """
    parts: list[Tensor] = []
    for group in _groups(text, starts, int(model.config.get_text_config().vocab_size)):
        documents = [list(text[d])[:-1] for d in group]
        counts = [len(text[d]) - starts[d] for d in group]
        ids, mask = left_pad(documents)
        with head_inputs(model) as states:
            logits, _ = forward(model, ids.to(model.device), mask.to(model.device), False, kept=max(counts))
        wanted = states[-1] if hidden else logits.float()
        parts.extend(wanted[i, -count:].cpu() for i, count in enumerate(counts))
    return torch.cat(parts)


def final_norm(model: Any) -> Any:
    """The norm between a decoder's last layer and the head.

    Raises
    ------
    InputError
        If none is found.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = next((norm for name in _NORMS if (norm := getattr(decoder, name, None)) is not None), None)
    if found is None:
        raise InputError(f"{type(model).__name__}: no final norm found ({', '.join(_NORMS)}); use another target")
    return found


@contextmanager
def head_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Within the block, what enters the model's head is appended to the list given, pass by pass."""
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def decoder_states(model: Any) -> Iterator[list[Tensor]]:
    """Within the block, what the decoder gives for every token (after its final norm) is appended, pass by pass.

    Each entry is ``[T, H]`` float32 of the first text of the pass.
    """
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.append(output[0][0].detach().float().cpu().clone())

    hook = model.get_decoder().register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _groups(text: Sequence[Sequence[int]], starts: Sequence[int], width: int) -> Iterator[list[int]]:
    """Documents in order, as many at a time as keep the logits of one pass under :data:`MAX_LOGITS`."""
    group: list[int] = []
    longest = 0
    for d, (document, start) in enumerate(zip(text, starts, strict=True)):
        rows = len(document) - start
        if group and max(longest, rows) * (len(group) + 1) * width > MAX_LOGITS:
            yield group
            group, longest = [], 0
        group, longest = [*group, d], max(longest, rows)
    if group:
        yield group


def to_store(logits: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Logits in the dtype they are stored in.

    Raises
    ------
    InputError
        If a finite logit does not fit, or the model gave NaN.
    """
    stored = logits.to(dtype)
    if bool(torch.isnan(stored).any()):
        raise InputError(f"{name}: the model gave NaN logits; run it in float32")
    if bool((torch.isinf(stored) & torch.isfinite(logits)).any()):
        raise InputError(f"{name}: a logit overflows {str(dtype).removeprefix('torch.')}; store float32 or bfloat16")
    return stored
