"""Drafts made from the target alone: fewer of its layers, or the text so far (no second model).

Layer skipping (Zhang et al. 2024, "Draft & Verify", arXiv:2309.08168) runs the target without some of its layers;
early exit is the case where all layers from K on are left out, the final norm and head being kept.  Prompt lookup
(Saxena 2023; Fu et al. 2024, arXiv:2402.02057) proposes what followed the same tokens earlier in the text; smoothed as
below it is a proper distribution, positive on every token.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.models.forward import read_rows
from mdsd_bounds.problem import InputError


@contextmanager
def skipping(model: Any, layers: Sequence[int]) -> Iterator[None]:
    """Within the block the model's decoder layers ``layers`` (from 0) pass their input through unchanged.

    Raises
    ------
    InputError
        If the model has no list of decoder layers, or not these.
    """
    stack = decoder_layers(model)
    for layer in layers:
        if not 0 <= layer < len(stack):
            raise InputError(f"layer {layer} cannot be skipped: the model has layers 0 to {len(stack) - 1}")
    # An attribute of the instance hides the class's method; deleting it brings the method back.
    for layer in layers:
        stack[layer].forward = _pass_through
    try:
        yield
    finally:
        for layer in layers:
            del stack[layer].forward


def decoder_layers(model: Any) -> Any:
    """The list of decoder layers of a transformers model."""
    stack = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    if stack is None or len(stack) == 0:
        raise InputError(f"{type(model).__name__}: no list of decoder layers found; use a draft model instead")
    return stack


def read_with_layers_skipped(
    model: Any, layers: Sequence[int], text: Sequence[Sequence[int]], starts: Sequence[int], *, hidden: bool = False
) -> Tensor:
    """As :func:`mdsd_bounds.models.forward.read_rows`, with layers left out."""
    with skipping(model, layers):
        return read_rows(model, text, starts, hidden=hidden)


def parse_layers(text: str, depth: int) -> tuple[int, ...]:
    """``"4-9,12"`` as layer numbers from 0, checked against the model's depth.

    Raises
    ------
    InputError
        If the text is no list of layers, or leaves no layer, or names one that is not there.
    """
    layers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            layers |= set(range(int(first), int(last or first) + 1))
        except ValueError:
            raise InputError(f"skip-layers:{text}: give layer numbers from 0, for example skip-layers:4-9,12") from None
    if not layers or min(layers) < 0 or max(layers) >= depth or len(layers) == depth:
        raise InputError(f"skip-layers:{text}: the model has layers 0 to {depth - 1}, and one at least must stay")
    return tuple(sorted(layers))


def prompt_lookup_distribution(
    context: Sequence[int], vocabulary: int, order: int = 3, strength: float = 1.0
) -> Tensor:
    """Log of the smoothed n-gram distribution of the token after ``context``, from the counts in ``context`` itself.

    ``q_m(v) = (c_m(v) + s q_{m-1}(v)) / (c_m + s)`` for m = 0 .. order - 1, where ``c_m(v)`` counts how often v
    followed an earlier occurrence of the last m tokens, ``c_m`` is their sum, s the strength and ``q_{-1}`` uniform.
    By induction each ``q_m`` sums to one and is positive: a proper draft distribution (MacKay & Peto 1995, hierarchical
    Dirichlet smoothing).

    Parameters
    ----------
    context : sequence of int
        Token ids so far.
    vocabulary : int
        V.
    order : int
        Longest n-gram: at most ``order - 1`` tokens are matched.
    strength : float
        s > 0.

    Returns
    -------
    Tensor
        ``[V]`` float64 log-probabilities.  Cost O(order * len(context) + V).

    Raises
    ------
    InputError
        On order < 1 or strength <= 0.
    """
    if order < 1 or not 0 < strength < math.inf:
        raise InputError(f"prompt-lookup: order {order}, strength {strength}; give an order >= 1 and a strength > 0")
    counts = [Counter(_followers(context, m)) for m in range(order)]
    return _smoothed(counts, vocabulary, strength)


def read_prompt_lookup(
    text: Sequence[Sequence[int]], starts: Sequence[int], vocabulary: int, order: int, strength: float
) -> Tensor:
    """:func:`prompt_lookup_distribution` at every wanted place, ``[rows, V]`` float32; counts grow with the text."""
    rows = []
    for document, start in zip(text, starts, strict=True):
        tables: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
        for place, token in enumerate(document):
            last = [tuple(document[place - m : place]) if place >= m else None for m in range(order)]
            if place >= start:
                found = [
                    table.get(key, Counter()) if key is not None else Counter()
                    for table, key in zip(tables, last, strict=True)
                ]
                rows.append(_smoothed(found, vocabulary, strength).float())
            for table, key in zip(tables, last, strict=True):
                if key is not None:
                    table[key][token] += 1
    return torch.stack(rows)


def _followers(context: Sequence[int], length: int) -> Iterator[int]:
    if length > len(context):
        return
    last = list(context[len(context) - length :])
    for place in range(length, len(context)):
        if list(context[place - length : place]) == last:
            yield context[place]


def _smoothed(counts: Sequence[Counter[int]], vocabulary: int, strength: float) -> Tensor:
    # Tokens never counted share one value, so the vocabulary is touched once, at the end.
    rest = 1.0 / vocabulary
    seen: dict[int, float] = {}
    for counter in counts:
        total = counter.total() + strength
        seen = {
            token: (counter[token] + strength * seen.get(token, rest)) / total for token in seen.keys() | counter.keys()
        }
        rest = strength * rest / total
    probs = torch.full((vocabulary,), math.log(rest), dtype=torch.float64)
    if seen:
        probs[torch.tensor(list(seen))] = torch.tensor(list(seen.values()), dtype=torch.float64).log()
    return probs


def _pass_through(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def layers_left_out(source: str, model: Any) -> tuple[int, ...]:
    """The layers that ``early-exit:K`` (keep the first K) or ``skip-layers:4-9`` leave out of ``model``.

    Raises
    ------
    InputError
        If ``source`` is neither, or names layers that the model lacks.
    """
    kind, _, value = source.partition(":")
    depth = len(decoder_layers(model))
    if kind == "skip-layers":
        return parse_layers(value, depth)
    if kind != "early-exit":
        raise InputError(f"draft {source!r}: give early-exit:K or skip-layers:4-9")
    if not value.isdigit() or not 1 <= int(value) < depth:
        raise InputError(f"{source}: give the number of layers to keep, 1 to {depth - 1}")
    return tuple(range(int(value), depth))
