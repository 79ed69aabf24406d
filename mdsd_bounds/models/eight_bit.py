"""Linear layers in 8-bit integers on a processor: what makes a model of a billion weights bearable on two cores.

Each row of a weight matrix has its own scale, and so has each token: ``x W^T`` becomes ``s_x s_w (X W_8^T)`` with
``X = round(x / s_x)``, ``s_x = max |x| / 127``, ``W_8 = round(W / s_w)``, ``s_w = max |w| / 63``, and the product of
integers is exact.  A token's result therefore does not depend on what else is in the batch.  Embeddings, norms and
attention stay in float32.

Weights take 7 of the 8 bits: processors without instructions for 8-bit products add two of them in 16 bits and cut the
sum off at 32,767, and ``2 * 255 * 63`` is below that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mdsd_bounds.problem import InputError

#: Largest number of a token, the offset that makes it unsigned (the fast product takes unsigned tokens), and the
#: largest number of a weight.
LARGEST, OFFSET, LARGEST_WEIGHT = 127, 128, 63
#: Rows of a product from which on each token would be a call of its own if the weights were packed for one.
_PACKED_FOR = 32


class EightBitLinear(nn.Module):
    """A linear layer whose weights and inputs are rounded to 8 bits.

    Parameters
    ----------
    layer : torch.nn.Linear
        Of float weights.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(-1) / LARGEST_WEIGHT).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / scale[:, None]).round_().to(torch.int8)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().float(), requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", scale, persistent=False)
        self._zero = torch.zeros(len(scale), dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, [_PACKED_FOR, layer.in_features])
        self._rounded = rounded

    @property
    def weight(self) -> Tensor:
        """The weights that the layer multiplies with, ``[out, in]`` float32."""
        return self._rounded.float() * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., out]``."""
        rows = x.reshape(-1, self.in_features)
        step = (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        tokens = (rows / step).round_().add_(OFFSET).to(torch.uint8)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            tokens, 1.0, OFFSET, self._packed, self.scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        product = product.mul_(step)
        product = product if self.bias is None else product.add_(self.bias)
        return product.reshape(*x.shape[:-1], self.out_features)


def to_eight_bit(model: Any) -> None:
    """Replace every linear layer of a float32 model on a processor, the head's too.

    Raises
    ------
    InputError
        If this build of torch has no 8-bit product.
    """
    try:
        EightBitLinear(nn.Linear(16, 16))(torch.ones(1, 16))
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"dtype 'int8': this build of torch cannot multiply in 8 bits ({reason}); use float32"
        ) from None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, EightBitLinear(child))
