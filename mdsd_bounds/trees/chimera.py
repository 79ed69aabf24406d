"""A Chimera head below the end of a growing text: drafts from the states that the target's own reader has seen.

Keys and values of the text are kept, as in :class:`mdsd_bounds.trees.real.TreeReader`; a node adds those of its trigram
while its tree lives.  A path of k drafted tokens is drafted at depth k, and all nodes that are asked for at once are
read in one pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from mdsd_bounds.distributions import Warp, to_probs
from mdsd_bounds.models.chimera import HeadDraft
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Path
from mdsd_bounds.trees.real import TreeReader


class HeadReader:
    """A draft head over the text of a target's reader, with the interface of a draft model's reader.

    Parameters
    ----------
    target : TreeReader
        Made with ``states=True``, over the same text; when the text has grown, advance it first.
    head : HeadDraft
        The head.
    text : sequence of int
        The text.
    width : int or None
        Columns kept of the head; None keeps all.
    warp : Warp, optional
        How the logits become a distribution; temperature 1 without truncation unless given.

    Attributes
    ----------
    passes : list of (int, float)
        Of each pass of the head: nodes read, and seconds; the target's passes are not in them.

    Raises
    ------
    InputError
        If the target's reader keeps no states.
    """

    def __init__(
        self,
        target: TreeReader,
        head: HeadDraft,
        text: Sequence[int],
        *,
        width: int | None = None,
        warp: Warp | None = None,
    ) -> None:
        if not target.keeps_states:
            raise InputError("the target's reader keeps no states; make it with states=True")
        self.passes: list[tuple[int, float]] = []
        self._target, self._head, self._width, self._warp = target, head, width, warp or Warp()
        self._text = list(text)
        self._of_states: tuple[Tensor, Tensor] | None = None
        self._of_text: tuple[Tensor, Tensor] | None = None
        self._of_nodes: list[tuple[Tensor, Tensor]] = []
        self._column: dict[Path, int] = {}
        self._logits: dict[Path, Tensor] = {}
        self._distributions: dict[Path, Tensor] = {}

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return len(self._text)

    def distributions(self, paths: Sequence[Path]) -> Tensor:
        """Distribution of the token after each path, ``[B, V]`` float64; what is missing is read in one pass."""
        self.read(paths)
        for path in paths:
            if path not in self._distributions:
                self._distributions[path] = to_probs(self._logits[path][: self._width], **asdict(self._warp))
        return torch.stack([self._distributions[path] for path in paths])

    def logits(self, paths: Sequence[Path]) -> Tensor:
        """Logits after each path, ``[B, V]`` float32."""
        self.read(paths)
        return torch.stack([self._logits[path] for path in paths])

    def read(self, paths: Sequence[Path]) -> None:
        """Read all nodes of ``paths`` not yet read, in one pass; the target first reads the text but its last token."""
        wanted = {path[:k] for path in paths for k in range(len(path) + 1)}
        nodes = sorted((path for path in wanted if path not in self._logits), key=lambda path: (len(path), path))
        if not nodes:
            return
        self._target.read_text()
        begun = time.perf_counter()
        with torch.no_grad():
            logits = self._read(nodes)
        self.passes.append((len(nodes), time.perf_counter() - begun))
        self._logits.update(zip(nodes, logits, strict=True))

    def advance(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` part of the text; all branches are forgotten."""
        self._text += tokens
        self._of_nodes, self._column, self._logits, self._distributions = [], {}, {}, {}

    def _read(self, nodes: Sequence[Path]) -> list[Tensor]:
        network, side = self._head.network, self._head.side
        states = self._target.states[: len(self._text) - 1]
        places = torch.tensor([len(self._text) - 1 + len(path) for path in nodes])
        u = self._trigrams([self._last_three(path) for path in nodes])
        text = u
        if network.has_layer:
            self._keep_text(states)
            drafted = [k for k, path in enumerate(nodes) if path]
            if drafted:
                first = len(self._column)
                self._of_nodes.append(network.layer.of_text(u[None, drafted], places[drafted]))
                self._column.update({nodes[k]: first + c for c, k in enumerate(drafted)})
            text = network.layer(u[None], places, *self._keys(), self._sees(nodes, len(states)))[0]
        state = states[-1] if len(states) else torch.zeros(network.shape.hidden)
        # One product for nodes of the same depth.
        found: list[Tensor] = []
        for depth in sorted({len(path) for path in nodes}):
            rows = [k for k, path in enumerate(nodes) if len(path) == depth]
            entering = network.entering(state.expand(len(rows), -1), text[rows], depth)
            found += list(side.logits(entering))
        return found

    def _last_three(self, path: Path) -> list[int]:
        tokens = [*self._text[-3:], *path]
        return [-1] * (3 - len(tokens)) + tokens[-3:]

    def _trigrams(self, threes: Sequence[Sequence[int]]) -> Tensor:
        """``u`` ``[N, H]`` of tokens with the two before them; -1 stands before the text."""
        ids = torch.tensor(threes)
        embedded = self._head.side.embed(ids.clamp(min=0).to(self._head.model.device)).cpu()
        embedded = embedded * (ids >= 0)[..., None]
        return self._head.network.encode(embedded.flatten(-2))

    def _keep_text(self, states: Tensor) -> None:
        """Keys and values of what the text has gained."""
        layer = self._head.network.layer
        held = 0 if self._of_states is None else self._of_states[0].shape[2]
        if held < len(states):
            new = layer.of_states(states[None, held:], torch.arange(held, len(states)))
            self._of_states = new if self._of_states is None else _joined([self._of_states, new])
        held = 0 if self._of_text is None else self._of_text[0].shape[2]
        if held < len(self._text):
            padded = [-1, -1, *self._text]
            threes = [padded[k : k + 3] for k in range(held, len(self._text))]
            new = layer.of_text(self._trigrams(threes)[None], torch.arange(held, len(self._text)))
            self._of_text = new if self._of_text is None else _joined([self._of_text, new])

    def _keys(self) -> tuple[Tensor, Tensor]:
        return _joined([held for held in (self._of_states, self._of_text, *self._of_nodes) if held is not None])

    def _sees(self, nodes: Sequence[Path], states: int) -> Tensor:
        """``[N, K]``: every node sees the text, its states, its ancestors and itself."""
        before = states + len(self._text)
        sees = torch.zeros(len(nodes), before + len(self._column), dtype=torch.bool)
        sees[:, :before] = True
        for row, path in enumerate(nodes):
            for k in range(1, len(path) + 1):
                sees[row, before + self._column[path[:k]]] = True
        return sees


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*parts, strict=True)
    return torch.cat(keys, 2), torch.cat(values, 2)
