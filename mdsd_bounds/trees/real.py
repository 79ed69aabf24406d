"""A real model's distributions after every path of a draft tree: one forward pass, a tree attention mask, a KV cache.

All nodes of a tree stand side by side in one sequence.  A node sees the text, its ancestors and itself, and nothing
else; its position is the text's length plus its depth minus one, as if its path were the text's continuation.  So its
logits are those of the path read alone.  A draft model reads the tree level by level the same way: what was read stays
in the cache, and a level is one forward pass.  When a path is accepted, its entries stay and those of other branches
go.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.distributions import Warp, to_probs
from mdsd_bounds.models.forward import decoder_states
from mdsd_bounds.models.self_draft import skipping
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Path


class TreeReader:
    """One model over one growing text, asked for the distributions after paths below its end; each token is read once.

    Parameters
    ----------
    model : transformers causal language model
        In evaluation mode, full attention (sliding windows are refused where they would hide a token).
    text : sequence of int
        Token ids, at least one.
    skip : sequence of int
        Decoder layers left out: the model drafts for itself (:mod:`mdsd_bounds.models.self_draft`).
    width : int or None
        Columns kept of the head; None keeps all.
    states : bool
        Keep what enters the head after each token of the text, for a draft head that reads it.
    warp : Warp, optional
        How the logits become a distribution; temperature 1 without truncation unless given.

    Attributes
    ----------
    passes : list of (int, float)
        Of each forward pass: tokens read, and seconds.

    Raises
    ------
    InputError
        If the text is empty.

    Examples
    --------
    >>> import torch
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> from mdsd_bounds.trees import TreeReader
    >>> sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    >>> model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
    >>> reader = TreeReader(model, [1, 2, 3])
    >>> probs = reader.distributions([(), (5,), (5, 7)])
    >>> tuple(probs.shape), [tokens for tokens, seconds in reader.passes]
    ((3, 32), [5])
    """

    def __init__(
        self,
        model: Any,
        text: Sequence[int],
        *,
        skip: Sequence[int] = (),
        width: int | None = None,
        states: bool = False,
        warp: Warp | None = None,
    ) -> None:
        if not len(text):
            raise InputError("the text is empty; give at least one token")
        self.passes: list[tuple[int, float]] = []
        self._model, self._skip, self._width, self._warp = model, tuple(skip), width, warp or Warp()
        self._cache = _empty_cache()
        self._held = 0  # tokens of the text in the cache
        self._waiting = list(text)  # tokens of the text not yet in it
        self._column: dict[Path, int] = {}  # where a path's last token stands in the cache
        self._logits: dict[Path, Tensor] = {}
        self._distributions: dict[Path, Tensor] = {}
        self.keeps_states = states
        self._states: list[Tensor] = []  # of the tokens held, in pieces
        self._node_states: dict[Path, Tensor] = {}

    @property
    def states(self) -> Tensor:
        """What enters the head after each token of the text read so far, ``[T, H]`` float32; kept on demand alone."""
        if len(self._states) > 1:
            self._states = [torch.cat(self._states)]
        return self._states[0] if self._states else torch.zeros(0, self._model.get_output_embeddings().weight.shape[1])

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return self._held + len(self._waiting)

    @property
    def room(self) -> int | None:
        """Levels of a tree that the context window has room for, negative where not even the text fits; None: any."""
        config = self._model.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or ()
        sliding = getattr(config, "sliding_window", None) if any("sliding" in kind for kind in kinds) else None
        windows = [w for w in (getattr(config, "max_position_embeddings", None), sliding) if w is not None]
        return min(windows) - self.length if windows else None

    def distributions(self, paths: Sequence[Path]) -> Tensor:
        """Distribution of the token after each path, ``[B, V]`` float64; reads what is missing in one forward pass.

        Raises
        ------
        InputError
            If a path does not fit the model's context window.
        """
        self.read(paths)
        for path in paths:
            if path not in self._distributions:
                self._distributions[path] = to_probs(self._logits[path][: self._width].float(), **asdict(self._warp))
        return torch.stack([self._distributions[path] for path in paths])

    def logits(self, paths: Sequence[Path]) -> Tensor:
        """Logits after each path, ``[B, V]`` in the model's dtype."""
        self.read(paths)
        return torch.stack([self._logits[path] for path in paths])

    def read(self, paths: Sequence[Path]) -> None:
        """Read the waiting text and all nodes of ``paths`` not yet read, in one pass (none if nothing is missing)."""
        nodes = self._missing(paths)
        if not nodes and () in self._logits:
            return
        self._require_room(max((len(path) for path in nodes), default=0))
        waiting, before = len(self._waiting), self._held + len(self._column)
        ids = self._waiting + [path[-1] for path in nodes]
        columns = self._column | {path: before + waiting + i for i, path in enumerate(nodes)}
        mask = self._mask(nodes, columns, before)
        places = list(range(self._held, self.length)) + [self.length + len(path) - 1 for path in nodes]
        kept = len(nodes) + (waiting > 0)
        begun = time.perf_counter()
        with ExitStack() as around:
            if self._skip:
                around.enter_context(skipping(self._model, self._skip))
            seen = around.enter_context(decoder_states(self._model)) if self.keeps_states else []
            logits = _forward(self._model, ids, mask, places, self._cache, kept)
        self.passes.append((len(ids), time.perf_counter() - begun))
        if seen:
            self._states.append(seen[0][:waiting])
            self._node_states.update(zip(nodes, seen[0][waiting:], strict=True))
        if waiting:
            self._logits[()] = logits[0]
            self._held, self._waiting = self.length, []
        for i, path in enumerate(nodes):
            self._logits[path] = logits[i + (waiting > 0)]
        self._column = columns

    def read_text(self) -> None:
        """Read the text but for its last token, as a decoder has when it begins to draft; nothing where it was."""
        if len(self._waiting) > 1:
            last = self._waiting.pop()
            self.read([()])
            self._logits, self._distributions = {}, {}
            self._waiting = [last]

    def advance(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` part of the text: cached ones stay, all other branches are forgotten."""
        path: Path = ()
        keep = list(range(self._held))
        for token in tokens:
            if (*path, token) not in self._column or self._waiting:
                break
            path = (*path, token)
            keep.append(self._column[path])
        if len(keep) < self._held + len(self._column):
            _select(self._cache, keep)
        whole = len(path) == len(tokens) and path in self._logits
        self._logits = {(): self._logits[path]} if whole else {}
        self._distributions, self._column = {}, {}
        if self.keeps_states and path:
            self._states.append(torch.stack([self._node_states[path[:k]] for k in range(1, len(path) + 1)]))
        self._node_states = {}
        self._held = len(keep)
        self._waiting = self._waiting + list(tokens[len(path) :])

    def clone(self) -> TreeReader:
        """A reader of the same text with a cache of its own, and no forward passes counted yet."""
        twin = copy.copy(self)
        twin._cache = copy.deepcopy(self._cache)
        twin._waiting, twin.passes = list(self._waiting), []
        twin._states, twin._node_states = list(self._states), dict(self._node_states)
        twin._column, twin._logits, twin._distributions = (
            dict(self._column),
            dict(self._logits),
            dict(self._distributions),
        )
        return twin

    def _missing(self, paths: Sequence[Path]) -> list[Path]:
        wanted = {path[:k] for path in paths for k in range(1, len(path) + 1)}
        return sorted((path for path in wanted if path not in self._column), key=lambda path: (len(path), path))

    def _mask(self, nodes: Sequence[Path], columns: Mapping[Path, int], before: int) -> Tensor:
        """``[new, before + new]``: what each new token sees."""
        waiting = len(self._waiting)
        sees = torch.zeros((waiting + len(nodes), before + waiting + len(nodes)), dtype=torch.bool)
        sees[:, : self._held] = True
        # The text waits only while no node is cached, so that it follows what is held directly.
        sees[:waiting, before : before + waiting] = torch.ones((waiting, waiting), dtype=torch.bool).tril()
        sees[waiting:, before : before + waiting] = True
        for row, path in enumerate(nodes, waiting):
            for k in range(1, len(path) + 1):
                sees[row, columns[path[:k]]] = True
        return sees

    def _require_room(self, depth: int) -> None:
        config = self._model.config.get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        wanted = self.length + depth
        if window is not None and wanted > window:
            raise InputError(
                f"a text of {self.length} tokens and a tree of depth {depth} need {wanted} positions; the model has "
                f"{window}: shorten the text or the tree"
            )
        kinds = getattr(config, "layer_types", None) or ()
        sliding = getattr(config, "sliding_window", None) if any("sliding" in kind for kind in kinds) else None
        if sliding is not None and wanted > sliding:
            raise InputError(
                f"a text of {self.length} tokens and a tree of depth {depth} exceed the model's sliding window of "
                f"{sliding}; shorten the text or the tree"
            )


def _empty_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _forward(model: Any, ids: list[int], sees: Tensor, places: list[int], cache: Any, kept: int) -> Tensor:
    """Logits ``[kept, V]`` of the last tokens; the cache grows in place."""
    # Releases of transformers differ in the name of the cache argument.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([ids]).to(model.device),
            attention_mask=mask[None, None].to(model.device),
            position_ids=torch.tensor([places]).to(model.device),
            logits_to_keep=kept,
            use_cache=True,
            **{name: cache},
        )
    logits: Tensor = output.logits[0].cpu()
    return logits.clone()


def _select(cache: Any, keep: list[int]) -> None:
    """Keep these entries of every layer that has any."""
    index = torch.tensor(keep, dtype=torch.int64)
    for layer in cache.layers:
        if getattr(layer, "keys", None) is not None and layer.keys.numel():
            layer.keys = layer.keys.index_select(-2, index.to(layer.keys.device))
            layer.values = layer.values.index_select(-2, index.to(layer.values.device))
