"""Whatever callers hold their numbers in, as plain tensors and single numbers; what is doubtful raises."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import ArrayLike, InputError


def as_tensor(x: ArrayLike, name: str) -> Tensor:
    """A floating torch tensor from a numpy array, a torch tensor or a sequence; shares memory where possible.

    Raises
    ------
    InputError
        If ``x`` is not numeric, or is complex.
    """
    tensor = x if isinstance(x, Tensor) else _from_array(x, name)
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type == "meta":
        raise InputError(f"{name}: a sparse, nested, quantized or meta tensor; give a plain one (to_dense, dequantize)")
    if tensor.is_complex():
        raise InputError(f"{name}: complex numbers; give real logits or probabilities")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def _from_array(x: ArrayLike, name: str) -> Tensor:
    try:
        array = np.asarray(x)
        if np.ma.isMaskedArray(x):
            raise TypeError("a masked array, of which all numbers would count")
        if array.dtype.byteorder not in "=|" and array.dtype.kind in "fiu":
            array = array.astype(array.dtype.newbyteorder("="))
        plain = array.flags.writeable and min(array.strides, default=0) >= 0
        return torch.from_numpy(array if plain else array.copy())
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: not a numeric array ({error}); give numpy or torch floats") from None


def refuse_no_number(name: str, value: object, *, optional: bool) -> None:
    """Raise an InputError unless an option is one number, or None where it is optional."""
    if optional and value is None:
        return
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if array.ndim or (array.dtype.kind not in "fiu" and not (array.dtype == object and isinstance(value, int))):
        raise InputError(f"{name}={value!r}: give one number" + ", or leave it out" * optional)
