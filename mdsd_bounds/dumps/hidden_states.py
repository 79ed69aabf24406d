"""Hidden states and the head, stored once: about V / H times smaller than logits, and rebuilt to the model's own.

``logits = soft_cap * tanh(z / soft_cap)``, ``z = norm(h) @ lm_head^T + bias``, in the dtype of ``lm_head``.  Arrays:
``hidden_states`` ``[N, H]``, ``lm_head`` ``[V, H]`` (the embedding table where the two are tied), and optionally
``lm_head_bias`` ``[V]``, ``soft_cap`` (a number), and the final norm, where the states were taken before it:
``norm_weight`` ``[H]`` with ``norm_eps``; RMS norm, or layer norm if ``norm_bias`` is present; ``norm_offset`` is added
to the weight (1 for Gemma).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds._backend.dtypes import LOGITS
from mdsd_bounds.dumps.formats.array_files import Array
from mdsd_bounds.dumps.widths import check_vocabulary
from mdsd_bounds.problem import InputError

#: Names of the arrays beside the hidden states.
HEAD = ("lm_head", "lm_head_bias", "soft_cap", "norm_weight", "norm_bias", "norm_eps", "norm_offset")


def is_head(name: str) -> bool:
    """Whether an array, with or without the name of a model before it, is part of a head."""
    return name.removeprefix("target_").removeprefix("draft_") in HEAD


@dataclass(frozen=True)
class Head:
    """What turns a hidden state into logits: ``weight`` ``[V, H]`` and the rest, absent where the model has none."""

    weight: Tensor
    bias: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    soft_cap: float | None = None


def head_of(arrays: Mapping[str, Array], path: str) -> Head:
    """The head among named arrays.

    Raises
    ------
    InputError
        If ``lm_head`` is missing or has more rows than any vocabulary tokens, or an array has a shape that does not fit
        it.
    """
    if "lm_head" not in arrays:
        raise InputError(f"{path}: hidden_states without lm_head; store the head once ([V, H]) beside them")

    shape = arrays["lm_head"].shape
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"{path}: lm_head has shape {shape}; give [V, H]")
    size, width = shape
    check_vocabulary(size, f"{path}: lm_head")

    def tensor(name: str, wanted: tuple[int, ...]) -> Tensor | None:
        if name not in arrays:
            return None
        array = arrays[name]
        if array.shape != wanted or array.dtype not in LOGITS:
            raise InputError(f"{path}: {name} is {array.shape} {array.dtype}; give {wanted} of a float type")
        return array.whole()

    def number(name: str) -> float | None:
        if name not in arrays:
            return None
        if math.prod(arrays[name].shape) != 1:
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}; give one number")
        return float(arrays[name].whole().reshape(-1)[0])

    eps, offset = number("norm_eps"), number("norm_offset")
    weight = tensor("lm_head", (size, width))
    assert weight is not None
    return Head(
        weight,
        tensor("lm_head_bias", (size,)),
        tensor("norm_weight", (width,)),
        tensor("norm_bias", (width,)),
        1e-6 if eps is None else eps,
        offset or 0.0,
        number("soft_cap"),
    )


def hidden_rows(hidden: Tensor, head: Head) -> Tensor:
    """Logits ``[B, V]`` from hidden states ``[B, H]``, step by step as Hugging Face models compute them.

    Equal to the model's own up to the order in which its matrix product sums.
    """
    x = hidden.to(head.weight.dtype)
    if head.norm_weight is not None and head.norm_bias is not None:
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], head.norm_weight, head.norm_bias, head.norm_eps)
    elif head.norm_weight is not None:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + head.norm_eps)
        if head.norm_offset:
            x = (wide * (head.norm_offset + head.norm_weight.to(torch.float32))).to(x.dtype)
        else:
            x = head.norm_weight.to(x.dtype) * wide.to(x.dtype)
    logits = torch.nn.functional.linear(x, head.weight, head.bias)
    if head.soft_cap is not None:
        logits = torch.tanh(logits / head.soft_cap) * head.soft_cap
    return logits
