"""What a draft head takes from its target and never trains: embedding, head, and the gain of the final norm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.models.chimera.states import states_of
from mdsd_bounds.models.forward import read_rows
from mdsd_bounds.models.heads import check_head, head_arrays
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

#: Names that decoders give to their final norm.
_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
#: Gains below this part of the mean gain are not divided by.
_LEAST = 1e-3


@dataclass(frozen=True)
class TargetSide:
    """Frozen parts of the target, in float32.

    Attributes
    ----------
    embedding : module
        The target's own; its rows divided by ``scale`` have a root mean square of about one.
    weight : Tensor
        ``[V, H]`` of the head, with ``bias`` ``[V]`` and ``soft_cap`` where the model has them.
    gain : Tensor
        ``[H]`` of the final norm.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import states_of, target_side
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> side = target_side(target)
    >>> logits = side.logits(states_of(target.model, [64, 257, 256]))
    >>> with torch.inference_mode():
    ...     torch.allclose(logits, target.model(torch.tensor([[64, 257, 256]])).logits[0], atol=1e-4)
    True
    """

    embedding: Any = field(repr=False)
    scale: float
    weight: Tensor = field(repr=False)
    bias: Tensor | None
    soft_cap: float | None
    gain: Tensor = field(repr=False)

    @property
    def width(self) -> int:
        """Columns of the head."""
        return int(self.weight.shape[0])

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled embeddings ``[..., H]``."""
        with torch.no_grad():
            embedded: Tensor = self.embedding(tokens).float() / self.scale
        return embedded

    def logits(self, entering: Tensor) -> Tensor:
        """``[..., V]`` float32 logits of what enters the head."""
        logits = torch.nn.functional.linear(entering, self.weight, self.bias)
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def restricted(self, columns: Tensor | None) -> TargetSide:
        """The same with these columns of the head alone."""
        if columns is None:
            return self
        bias = None if self.bias is None else self.bias[columns]
        return TargetSide(self.embedding, self.scale, self.weight[columns], bias, self.soft_cap, self.gain)


def target_side(target: LoadedModel) -> TargetSide:
    """The frozen parts of a loaded target.

    Raises
    ------
    InputError
        If embedding and head differ in width, or the model changes its logits after the head.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import target_side
    >>> side = target_side(load_model(tiny_model(tempfile.mkdtemp())))
    >>> side.width, side.gain.shape
    (260, torch.Size([16]))
    """
    model = target.model
    check_head(model, [0, 1, 2, 3], target.identity["source"])
    entering = read_rows(model, [[0, 1, 2, 3, 0]], [1], hidden=True).float()
    if not torch.allclose(states_of(model, [0, 1, 2, 3]), entering, rtol=1e-2, atol=1e-2 * float(entering.abs().max())):
        raise InputError(
            f"{target.identity['source']}: what its decoder gives is not what enters its head; a draft head cannot be "
            "trained on such a model"
        )
    arrays = {name: value.detach().cpu() for name, value in head_arrays(model).items()}
    weight, cap = arrays["lm_head"].float(), arrays.get("soft_cap")
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        some = embedding(torch.arange(min(1024, embedding.weight.shape[0]), device=model.device)).float()
    if some.shape[-1] != weight.shape[1]:
        raise InputError(
            f"{target.identity['source']}: embeds {some.shape[-1]} numbers but its head takes {weight.shape[1]}; "
            "a draft head needs one width"
        )
    bias = arrays.get("lm_head_bias")
    scale = max(float(some.square().mean().sqrt()), 1e-12)
    return TargetSide(
        embedding,
        scale,
        weight,
        None if bias is None else bias.float(),
        None if cap is None else float(cap),
        final_gain(model, weight.shape[1]),
    )


def final_gain(model: Any, size: int) -> Tensor:
    """Gain of the final norm, from what the norm does to a vector of ones with alternating signs and to its negative.

    Such a vector has mean zero and root mean square one, so that RMS norms and layer norms, with an offset of the
    weight or without, all give ``gain * x + bias``.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    norm = next((found for name in _NORMS if (found := getattr(decoder, name, None)) is not None), None)
    if norm is None:
        return torch.ones(size)
    weight = next(norm.parameters())
    x = torch.ones(size, dtype=weight.dtype, device=weight.device)
    x[1::2] = -1
    with torch.no_grad():
        gain = ((norm(x[None])[0] - norm(-x[None])[0]) / 2 * x).float().cpu()
    mean = gain.abs().mean()
    return torch.where(gain.abs() < _LEAST * mean, mean, gain)
