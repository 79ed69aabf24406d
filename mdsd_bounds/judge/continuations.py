"""Greedy continuations of many texts at once, each with a key-value cache that can be cut off and used again.

A lane holds one text.  Lanes come and go at different times and have different lengths: their caches are padded on the
left and joined again when enough of them have ended.  A text that has ended keeps its cache, so that another text which
shares its beginning is continued without reading it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.models.forward import final_norm, forward
from mdsd_bounds.models.loading import LoadedModel

#: Keys and values of the layers: ``[layers, 2]`` tensors ``[heads, tokens, size]``.
Cache = list[tuple[Tensor, Tensor]]


@dataclass
class Text:
    """One text on its way, or ended.

    Attributes
    ----------
    key : object
        Whose text it is.
    tokens : list of int
        Token ids; the last one is not in the cache.
    given : int
        How many of them were given.
    cache : list
        Of ``tokens[:-1]``, or as far as it goes when the text is submitted.
    states : list of Tensor
        ``[H]`` after each of ``tokens[given - 1:-1]``: the last layer's, before the final norm.
    stop : int, optional
        A text that reaches so many tokens is given back, though it has not ended; it may be submitted again.
    """

    key: Any
    tokens: list[int]
    given: int
    cache: Cache | None = field(default=None, repr=False)
    states: list[Tensor] = field(default_factory=list, repr=False)
    stop: int | None = None

    def cut(self, key: Any, place: int, token: int) -> Text:
        """The same text up to ``place``, and there ``token``."""
        assert self.cache is not None
        cache = [(keys[:, :place], values[:, :place]) for keys, values in self.cache]
        return Text(key, [*self.tokens[:place], token], place + 1, cache)


class Continuations:
    """A batch of greedy continuations.

    Parameters
    ----------
    target : LoadedModel
        The model.
    lanes : int
        Texts at once.
    ended : callable
        ``(text) -> bool``: whether a text is to go no further.
    """

    def __init__(self, target: LoadedModel, lanes: int, ended: Callable[[Text], bool]) -> None:
        self.model, self.lanes, self.ended = target.model, lanes, ended
        self.waiting: deque[Text] = deque()
        self.rows: list[Text | None] = []
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.long)
        self.passes = self.made = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting) or any(self.rows)

    def submit(self, text: Text) -> None:
        """Queue a text; its last token is read first."""
        text.tokens = list(text.tokens)
        self.waiting.append(text)

    def step(self) -> list[Text]:
        """One token for every lane; the texts that have ended or reached their stop with it."""
        alive = sum(row is not None for row in self.rows)
        gone = len(self.rows) - alive
        room = min(self.lanes - alive, len(self.waiting))
        if room >= max(1, self.lanes // 8) or gone > len(self.rows) // 4 or not alive:
            self._join(room)
        ids = torch.tensor([[row.tokens[-1] if row is not None else 0] for row in self.rows])
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        with norm_inputs(self.model) as states:
            logits, self.cache = forward(self.model, ids, self.mask, self.cache)
        self.passes, self.made = self.passes + 1, self.made + alive
        following = logits[:, -1].argmax(-1).tolist()
        over = []
        for i, row in enumerate(self.rows):
            if row is None:
                continue
            row.states.append(states[-1][i, -1].float().clone())
            row.tokens.append(following[i])
            if self.ended(row) or (row.stop is not None and len(row.tokens) >= row.stop):
                row.cache = self._cache_of(i, len(row.tokens) - 1)
                self.rows[i] = None
                over.append(row)
        return over

    def _join(self, room: int) -> None:
        """Lanes that are alive, and ``room`` waiting texts, in one padded cache."""
        rows: list[Text] = []
        for i, row in enumerate(self.rows):
            if row is not None:
                row.cache = self._cache_of(i, len(row.tokens) - 1)
                rows.append(row)
        for _ in range(room):
            text = self.waiting.popleft()
            self._read(text)
            rows.append(text)
        self.rows = list(rows)
        longest = max(len(row.tokens) for row in rows) - 1
        lengths = torch.tensor([len(row.tokens) - 1 for row in rows])
        self.mask = (torch.arange(longest)[None] >= longest - lengths[:, None]).long()
        caches = [row.cache for row in rows if row.cache is not None]
        layers = range(len(caches[0]))
        self.cache = make_cache(
            [tuple(_padded([c[n][side] for c in caches], longest) for side in (0, 1)) for n in layers]
        )
        for row in rows:
            row.cache = None

    def _read(self, text: Text) -> None:
        """Fill the cache of a text up to its last token."""
        known = 0 if text.cache is None else text.cache[0][0].shape[1]
        if known < len(text.tokens) - 1:
            before = None if text.cache is None else make_cache([(k[None], v[None]) for k, v in text.cache])
            ids = torch.tensor([text.tokens[known:-1]])
            _, cache = forward(self.model, ids, torch.ones(1, len(text.tokens) - 1, dtype=torch.long), before)
            text.cache = [(keys[0], values[0]) for keys, values in pairs(cache)]

    def _cache_of(self, lane: int, length: int) -> Cache:
        return [
            (keys[lane, :, -length:].clone(), values[lane, :, -length:].clone()) for keys, values in pairs(self.cache)
        ]


def make_cache(layers: list[Any]) -> Any:
    """A cache of transformers, of keys and values ``[B, heads, tokens, size]`` of each layer."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def pairs(cache: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of each layer; releases of transformers differ in where they are kept."""
    if hasattr(cache, "layers"):
        yield from ((layer.keys, layer.values) for layer in cache.layers)
    else:
        yield from zip(cache.key_cache, cache.value_cache, strict=True)


def _padded(parts: list[Tensor], length: int) -> Tensor:
    heads, _, size = parts[0].shape
    joined = parts[0].new_zeros(len(parts), heads, length, size)
    for i, part in enumerate(parts):
        joined[i, :, length - part.shape[1] :] = part
    return joined


@contextmanager
def norm_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Within the block, what enters the final norm ``[B, T, H]`` is appended, pass by pass."""
    seen: list[Tensor] = []
    hook = final_norm(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        hook.remove()


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention that does not copy key-value heads for each query head: at one token a lane the copy is most of it."""
    lanes, heads, length, size = query.shape
    groups = key.shape[1]
    asked = query.reshape(lanes, groups, heads // groups * length, size)
    scores = (asked @ key.transpose(-1, -2) * scaling).view(lanes, heads, length, -1)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[2]]
    elif length > 1:
        later = torch.ones(length, key.shape[2], dtype=torch.bool).triu(key.shape[2] - length + 1)
        scores = scores.masked_fill(later, float("-inf"))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    mixed = weights.view(lanes, groups, -1, scores.shape[-1]) @ value
    return mixed.view(lanes, heads, length, size).transpose(1, 2).contiguous(), None


def use_grouped_attention(model: Any) -> None:
    """Let a model of transformers attend by :func:`grouped_attention`, where its release can be told to."""
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, eager_mask
    except ImportError:
        return
    AttentionInterface.register("grouped", grouped_attention)
    AttentionMaskInterface.register("grouped", eager_mask)
    model.set_attn_implementation("grouped")
