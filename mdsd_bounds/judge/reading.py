"""What models say about given texts: the draft's distributions, and the target's state after another token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.judge.continuations import Cache, make_cache, norm_inputs, pairs
from mdsd_bounds.models.drafts import Draft
from mdsd_bounds.models.forward import forward
from mdsd_bounds.models.loading import LoadedModel

#: Tokens tried in one pass.
_TRIED = 128


class DraftReader:
    """What the draft would have written at each place of a text.

    A model of its own reads only what a text does not share with the one before it under the same key.
    """

    def __init__(self, draft: Draft, target: LoadedModel) -> None:
        self.draft = draft
        plain = draft.support == "full" and draft.head_of is not None and draft.head_of is not target.model
        self.model = draft.head_of if plain else None
        self.known: dict[Any, tuple[list[int], Cache]] = {}

    def logits(self, key: Any, tokens: Sequence[int], first: int) -> Tensor:
        """``[rows, V]`` for places ``first`` to the end of ``tokens``."""
        if self.model is None:
            return self.draft.read([tokens], [first])
        read, cache = self.known.get(key, ([], []))
        shared = next((i for i, (a, b) in enumerate(zip(read, tokens[: first - 1], strict=False)) if a != b), None)
        shared = min(len(read), first - 1) if shared is None else shared
        before = (
            make_cache([(keys[:, :, :shared], values[:, :, :shared]) for keys, values in cache]) if shared else None
        )
        rest = torch.tensor([list(tokens[shared:-1])])
        mask = torch.ones(1, len(tokens) - 1, dtype=torch.long)
        logits, after = forward(self.model, rest, mask, before, kept=len(tokens) - first)
        self.known[key] = list(tokens[:-1]), [(keys.clone(), values.clone()) for keys, values in pairs(after)]
        return logits[0].float()

    def forget(self, key: Any) -> None:
        """Drop what is kept of a text."""
        self.known.pop(key, None)


def read_with_cache(model: Any, tokens: Sequence[int], first: int) -> tuple[Tensor, Cache]:
    """Logits ``[rows, V]`` for places ``first`` to the end of a text, and its cache."""
    ids = torch.tensor([list(tokens)])
    logits, cache = forward(model, ids, torch.ones_like(ids), kept=len(tokens) - first + 1)
    return logits[0, :-1].float(), list(pairs(cache))


def states_after(model: Any, cache: Cache, places: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """State ``[N, H]`` of the last layer, before the final norm, after each of ``tokens`` at its place in a text.

    Each token sees the text before its place and itself, not the other tokens: many are read in one pass.

    Parameters
    ----------
    cache : list
        Of the text, at least up to the largest place.
    places, tokens : sequence of int
        ``[N]``.
    """
    length = cache[0][0].shape[2]
    found = []
    for first in range(0, len(tokens), _TRIED):
        ids = torch.tensor([list(tokens[first : first + _TRIED])])
        where = torch.tensor([list(places[first : first + _TRIED])])
        seen = torch.arange(length)[None] < where[0][:, None]
        seen = torch.cat([seen, torch.eye(ids.shape[1], dtype=torch.bool)], -1)
        mask = torch.zeros(seen.shape, dtype=cache[0][0].dtype).masked_fill(~seen, torch.finfo(cache[0][0].dtype).min)
        with norm_inputs(model) as states:
            forward(model, ids, mask[None, None], make_cache(cache), positions=where)
        found.append(states[-1][0].float().clone())
    return torch.cat(found)
