"""The head of a model as arrays that rebuild its logits, and the proof on real text that they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.hidden_states import Head, hidden_rows
from mdsd_bounds.models.forward import read_rows
from mdsd_bounds.problem import InputError, rounding_unit

#: Tokens of the first text on which rebuilt logits are compared with the model's.
_CHECKED = 16


def head_arrays(model: Any) -> dict[str, Tensor]:
    """Arrays of :mod:`mdsd_bounds.dumps.hidden_states`: ``lm_head`` (the embedding table where tied), bias,
    ``soft_cap``.

    The hidden states that go with it are those that enter the head, after the final norm, so no norm is stored.
    """
    head = model.get_output_embeddings()
    arrays = {"lm_head": head.weight.detach()}
    if getattr(head, "bias", None) is not None:
        arrays["lm_head_bias"] = head.bias.detach()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return arrays if cap is None else arrays | {"soft_cap": torch.tensor(float(cap), dtype=torch.float64)}


def check_head(model: Any, text: Sequence[int], source: str) -> None:
    """Compare the logits rebuilt from hidden states with the model's own on the beginning of a text.

    Raises
    ------
    InputError
        If they differ by more than the summation of the head's product rounds, ``sqrt(H)`` units of the model's dtype
        times the largest logit: the model does something to its logits that the arrays do not say.
    """
    known = int(model.get_input_embeddings().weight.shape[0])
    read = [token for token in text if token < known][:_CHECKED] or [0]
    # The distribution after the last token is not read: any token may stand there.
    documents, starts = [[*read, 0]], [1]
    own = read_rows(model, documents, starts)
    states = read_rows(model, documents, starts, hidden=True)
    arrays = {name: value.cpu() for name, value in head_arrays(model).items()}
    cap = arrays.get("soft_cap")
    head = Head(arrays["lm_head"], arrays.get("lm_head_bias"), soft_cap=None if cap is None else float(cap))
    rebuilt = hidden_rows(states, head).float()
    allowed = 4 * rounding_unit(states.dtype) * states.shape[1] ** 0.5 * max(float(own.abs().max()), 1.0)
    worst = float((rebuilt - own).abs().max())
    if not worst <= allowed:
        raise InputError(
            f"{source}: logits rebuilt from its hidden states differ from its own by {worst:.3g} (rounding explains "
            f"{allowed:.3g}); it changes its logits after the head: store logits or top-k"
        )
