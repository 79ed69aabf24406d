"""What a request asks of a server besides the temperature, for one model: biases, penalties and cuts, as one record.

Order, as in vLLM: logit bias, penalties, temperature, min-p, top-k, top-p.  The cuts are those of
:func:`mdsd_bounds.to_probs`; biases and penalties change the logits before it (:func:`adjusted`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.distributions import Warp
from mdsd_bounds.problem import InputError

__all__ = ["UNCHANGED", "SamplingOptions", "adjusted", "shift_of"]


@dataclass(frozen=True)
class SamplingOptions:
    """Cuts, biases and penalties of one model's logits.

    Attributes
    ----------
    top_k, top_p, min_p : optional
        As :func:`mdsd_bounds.to_probs`.
    logit_bias : tuple of (int, float)
        Token id and what is added to its logit; ``-inf`` bans it.
    repetition_penalty : float
        ``r > 0``: the logit of a token of the text so far is divided by r where it is positive and multiplied by r
        where it is negative (Keskar et al. 2019, as in Hugging Face transformers and vLLM).
    presence_penalty, frequency_penalty : float
        Subtracted from the logit of a token of the text so far, once, and once for each time it is there (OpenAI).

    Raises
    ------
    InputError
        On values out of range.
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        Warp(1.0, self.top_k, self.top_p, self.min_p)
        if not 0 < self.repetition_penalty < math.inf:
            raise InputError(f"repetition penalty {self.repetition_penalty!r}: give a finite number above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name.replace('_', ' ')} {getattr(self, name)!r}: give a finite number")
        for token, bias in self.logit_bias:
            if math.isnan(bias) or bias == math.inf or token < 0:
                raise InputError(f"logit bias {bias} of token {token}: give finite numbers, or -inf, of token ids")

    @property
    def cuts(self) -> dict[str, Any]:
        """The cuts as keywords of :func:`mdsd_bounds.to_probs`."""
        return {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}

    @property
    def needs_text(self) -> bool:
        """Whether the tokens before a position matter."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def __str__(self) -> str:
        parts = [f"logit bias on {len(self.logit_bias)} tokens"] if self.logit_bias else []
        for name, neutral in (("repetition", 1), ("presence", 0), ("frequency", 0)):
            value = getattr(self, f"{name}_penalty")
            parts += [f"{name} penalty {value:g}"] if value != neutral else []
        parts += [
            f"{name.replace('_', '-')} {value:g}"
            for name, value in (("min_p", self.min_p), ("top_k", self.top_k), ("top_p", self.top_p))
            if value is not None
        ]
        return ", ".join(parts) or "as it is"


#: A request that asks for nothing.
UNCHANGED = SamplingOptions()


def shift_of(
    logits: Tensor, options: SamplingOptions, past: Sequence[Tensor] | None, name: str = "logits", first_row: int = 0
) -> Tensor | None:
    """What biases, presence and frequency penalties add to the logits, ``[B, V]`` float64; None where nothing.

    Parameters
    ----------
    logits : Tensor
        ``[B, V]``.
    options : SamplingOptions
        Of this model.
    past : sequence of Tensor or None
        For every row the tokens before it; needed for penalties.
    name, first_row :
        For messages.

    Raises
    ------
    InputError
        If a biased token is outside the vocabulary, or penalties are asked for and there is no text.
    """
    additive = options.presence_penalty != 0 or options.frequency_penalty != 0
    if not options.logit_bias and not additive:
        return None
    shift = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    _add_bias(shift, options, name)
    if additive:
        for row, tokens in enumerate(_text(past, name, first_row)):
            there, times = torch.unique(tokens, return_counts=True)
            penalty = options.presence_penalty + options.frequency_penalty * times.to(torch.float64)
            shift[row, there.to(shift.device)] -= penalty.to(shift.device)
    return shift


def adjusted(
    logits: Tensor, options: SamplingOptions, past: Sequence[Tensor] | None, name: str = "logits", first_row: int = 0
) -> Tensor:
    """Full rows of logits after biases and penalties; ``logits`` itself where there are none.

    Parameters and errors as :func:`shift_of`.

    Examples
    --------
    >>> options = SamplingOptions(logit_bias=((1, -1.0),), repetition_penalty=2.0)
    >>> adjusted(torch.tensor([[4.0, 3.0, -1.0]]), options, [torch.tensor([0, 2])]).tolist()
    [[2.0, 2.0, -2.0]]
    """
    if options.repetition_penalty == 1:
        shift = shift_of(logits, options, past, name, first_row)
        return logits if shift is None else logits.to(torch.float64) + shift
    # The bias stands before the repetition penalty, with which it does not commute.
    found = logits.to(torch.float64, copy=True)
    _add_bias(found, options, name)
    for row, tokens in enumerate(_text(past, name, first_row)):
        there = torch.unique(tokens).to(found.device)
        values = found[row, there]
        rate = options.repetition_penalty
        found[row, there] = torch.where(values > 0, values / rate, values * rate)
    shift = shift_of(logits, replace(options, logit_bias=()), past, name, first_row)
    return found if shift is None else found + shift


def _add_bias(rows: Tensor, options: SamplingOptions, name: str) -> None:
    for token, bias in options.logit_bias:
        if token >= rows.shape[-1]:
            raise InputError(
                f"{name}: the logit bias names token {token}, but the vocabulary has {rows.shape[-1]} tokens; give "
                "ids of this model's tokenizer"
            )
        rows[:, token] += bias


def _text(past: Sequence[Tensor] | None, name: str, first_row: int) -> Sequence[Tensor]:
    if past is None:
        raise InputError(
            f"{name} row {first_row}: penalties need the text, but the dump names no documents or records no tokens; "
            "log the columns doc and token"
        )
    return past
