"""What the target says about the training text: its states, read once and kept on disk; and its own continuations.

A folder holds numbered blocks of windows, each written whole and renamed: a run killed at any moment reads on after the
last block.  Blocks depend on the target, the text and the number of tokens of a window alone, so that runs share them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.progress import Report
from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.dumps.containers.files import Array
from mdsd_bounds.dumps.containers.safetensors import open_safetensors, safetensors_bytes
from mdsd_bounds.models.chimera.text import Document, Window, digest, held_out, windows
from mdsd_bounds.models.forward import forward, left_pad
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

#: Windows read together; the unit of resuming.
BLOCK = 16

TOO_SHORT = "the text is empty or shorter than the shortest window (16 tokens); give more text"


@dataclass(frozen=True)
class Sample:
    """Windows ready to be learnt: tokens ``[B, T]``, states ``[B, T, H]`` and which places count ``[B, T]``."""

    tokens: Tensor
    states: Tensor
    counts: Tensor


class StateStore:
    """The target's states over windows of text (``kind="text"``), of text held out (``"held"``), or over its own
    continuations of the first (``"own"``).

    Parameters
    ----------
    folder : Path
        Where the blocks of all kinds, texts and targets lie.
    target : LoadedModel
        The target.
    sources : sequence of sequence of Document
        The text.
    window : int
        Tokens of a window at most.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import Document, StateStore
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> texts = [Document("a cab, a dab and a bad cab " * 2), Document("def double(x): return 2 * x")]
    >>> store = StateStore(folder / "states", target, [texts], window=32)
    >>> store.prepare("text", 2, report=lambda line: None)
    2
    >>> store.sample("text", [0, 1]).states.shape
    torch.Size([2, 32, 16])
    """

    def __init__(self, folder: Path, target: LoadedModel, sources: Sequence[Sequence[Document]], window: int) -> None:
        facts = {"target": target.identity, "text": digest(sources), "window": window, "block": BLOCK, "form": 1}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder / name
        self.target, self.sources, self.window = target, sources, window
        self._left: dict[str, Iterator[Window]] = {}
        self._taken: dict[str, list[Window]] = {}
        self.has_held_out = any(held_out(documents) for documents in sources)

    def prepare(self, kind: str, count: int, report: Report) -> int:
        """Read blocks until ``count`` windows are there, or all of the text is; how many there are.

        Raises
        ------
        InputError
            If the text holds no window, or the disk is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror}); give another folder") from None
        available = len(self._first(kind, -(-count // BLOCK) * BLOCK))
        if not available:
            raise InputError(TOO_SHORT)
        blocks = -(-min(count, available) // BLOCK)
        missing = [b for b in range(blocks) if not self._file(kind, b).exists()]
        begun = time.monotonic()
        for done, block in enumerate(missing, 1):
            part = self._first(kind, (block + 1) * BLOCK)[block * BLOCK : (block + 1) * BLOCK]
            own = kind == "own"
            part = continued(self.target, part, self.window, block) if own else [Window(w.tokens) for w in part]
            write_whole(
                self._file(kind, block), safetensors_bytes(self._read(part)), "finished blocks are kept: make room"
            )
            spent = time.monotonic() - begun
            left = spent / done * (len(missing) - done)
            report(f"target read {kind} block {done} of {len(missing)}, {left:.0f} s left")
        return min(count, available)

    def held(self, kind: str) -> int:
        """Windows already on disk."""
        return BLOCK * len(list(self.folder.glob(f"{kind}-*.safetensors")))

    def speed(self) -> tuple[float, float]:
        """Seconds of the target to read a window, and to write one, each measured on a piece of a block."""
        part = self._first("text", BLOCK)
        if not part:
            raise InputError(TOO_SHORT)
        begun = time.monotonic()
        self._read(part[:2])
        read = time.monotonic()
        new = 8
        continue_text(self.target.model, [window.tokens[: self.window // 3] for window in part], new, 0)
        written = time.monotonic()
        return (read - begun) / 2, (written - read) / len(part) * (self.window * 2 // 3) / new

    def sample(self, kind: str, chosen: Sequence[int]) -> Sample:
        """The windows of these numbers, padded on the right; padding never counts.

        Raises
        ------
        InputError
            Naming a damaged block.
        """
        parts = [self._load(kind, number) for number in chosen]
        lengths = [int(part["length"]) for part in parts]
        most = max(lengths)
        places = torch.arange(most)
        counts = torch.stack(
            [(places >= max(int(part["prompt"]) - 1, 0)) & (places < n) for part, n in zip(parts, lengths, strict=True)]
        )
        tokens = torch.stack([part["tokens"][:most] for part in parts]).long()
        return Sample(tokens, torch.stack([part["states"][:most] for part in parts]), counts)

    def _load(self, kind: str, number: int) -> dict[str, Tensor]:
        block = open_safetensors(self._file(kind, number // BLOCK), "delete it and run again")
        return {name: _item(array, number % BLOCK) for name, array in block.items()}

    def _file(self, kind: str, block: int) -> Path:
        return self.folder / f"{kind}-{block:05d}.safetensors"

    def _first(self, kind: str, count: int) -> list[Window]:
        left = self._left.setdefault(kind, windows(self.sources, self.target.tokenizer, self.window, kind))
        taken = self._taken.setdefault(kind, [])
        taken += itertools.islice(left, max(count - len(taken), 0))
        return taken[:count]

    def _read(self, part: Sequence[Window]) -> dict[str, Tensor]:
        read = [states_of(self.target.model, window.tokens) for window in part]
        states = torch.zeros(len(part), self.window, read[0].shape[1])
        tokens = torch.zeros(len(part), self.window, dtype=torch.int32)
        for i, (window, piece) in enumerate(zip(part, read, strict=True)):
            states[i, : len(piece)] = piece
            tokens[i, : len(piece)] = torch.tensor(window.tokens, dtype=torch.int32)
        if not bool(torch.isfinite(states).all()):
            raise InputError("the target's states are not finite; run it in float32")
        return {
            "tokens": tokens,
            "states": states,
            "length": torch.tensor([len(window.tokens) for window in part]),
            "prompt": torch.tensor([window.prompt for window in part]),
        }


def _item(array: Array, number: int) -> Tensor:
    if len(array.shape) < 2:
        return array.whole()[number]
    rows = math.prod(array.shape[1:-1])
    return array.rows(number * rows, (number + 1) * rows).reshape(array.shape[1:])


def states_of(model: Any, tokens: Sequence[int]) -> Tensor:
    """What enters the head after each of the tokens, ``[T, H]`` float32; the head itself is not run.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import states_of
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> states_of(target.model, target.tokenizer("a cab")["input_ids"]).shape
    torch.Size([3, 16])
    """
    with torch.inference_mode():
        output = model.get_decoder()(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    states: Tensor = output.last_hidden_state[0].float().cpu().clone()
    return states


def continued(target: LoadedModel, part: Sequence[Window], length: int, seed: int) -> list[Window]:
    """Windows of ``length`` tokens: the prompt of each (its first third, where it has none) and the target's own text.

    Tokens are drawn from the target at temperature 1.
    """
    prompts = [window.tokens[: window.prompt or max(1, min(len(window.tokens), length // 3))] for window in part]
    text = continue_text(target.model, prompts, length - min(len(prompt) for prompt in prompts), seed)
    return [Window(ids[:length], len(prompt)) for ids, prompt in zip(text, prompts, strict=True)]


def continue_text(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, seed: int) -> list[list[int]]:
    """Prompts, and ``new_tokens`` tokens of the model after each, drawn at temperature 1 and beyond ends of text.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import continue_text
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> texts = continue_text(target.model, [[64, 257, 256], [65]], 4, seed=0)
    >>> texts[0][:3], [len(text) for text in texts]
    ([64, 257, 256], [7, 5])
    """
    generator = torch.Generator().manual_seed(seed)
    ids, mask = (x.to(model.device) for x in left_pad(prompts))
    text, cache = [list(prompt) for prompt in prompts], None
    for _ in range(new_tokens):
        logits, cache = forward(model, ids, mask, cache)
        token = torch.multinomial(torch.softmax(logits[:, -1].double().cpu(), -1), 1, generator=generator)
        for document, choice in zip(text, token[:, 0].tolist(), strict=True):
            document.append(choice)
        ids = token.to(mask.device)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return text
