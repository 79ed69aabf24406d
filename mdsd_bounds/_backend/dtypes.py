"""Types of stored arrays, as safetensors files name them."""

from __future__ import annotations

import torch

NAMES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Floats of eight bits: read as float32, which holds each of their values, for nothing computes with them.
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
#: What logits may be, under torch's names.
LOGITS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")


def torch_name(dtype: torch.dtype) -> str:
    """``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")
