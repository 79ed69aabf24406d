"""A trained head as a draft: the distributions it gives to every place of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.models.chimera.folder import FACTS, load_head, read_facts
from mdsd_bounds.models.chimera.network import Chimera
from mdsd_bounds.models.chimera.states import states_of
from mdsd_bounds.models.chimera.target import TargetSide, target_side
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError


@dataclass(frozen=True)
class HeadDraft:
    """A head, its target, and the depth at which texts are read.

    Attributes
    ----------
    network : Chimera
        The trained part.
    side : TargetSide
        The target's part.
    model : transformers model
        The target.
    identity : dict
        What identifies the draft in a manifest.
    depth : int
        Drafted tokens before the one predicted, from 0.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import Chimera, HeadDraft, Shape, target_side
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> side = target_side(target)
    >>> head = Chimera(Shape(hidden=16, attention_heads=2), side.gain)  # not trained
    >>> draft = HeadDraft(head, side, target.model, {"source": "untrained"})
    >>> draft.read([target.tokenizer("a cab")["input_ids"]], [1]).shape
    torch.Size([2, 260])
    """

    network: Chimera = field(repr=False)
    side: TargetSide = field(repr=False)
    model: Any = field(repr=False)
    identity: dict[str, Any]
    depth: int = 0

    def read(self, text: Sequence[Sequence[int]], starts: Sequence[int], *, hidden: bool = False) -> Tensor:
        """Logits ``[rows, V]``, as :data:`mdsd_bounds.models.forward.Read`; ``hidden``: what enters the head.

        The draft of token t reads tokens 0 .. t - 1 and the target's states up to ``t - 2 - depth``, as in a decoder
        whose target has read all but the last ``depth + 1`` of them.
        """
        rows = []
        with torch.no_grad():
            for document, start in zip(text, starts, strict=True):
                read = list(document)[:-1]
                states = states_of(self.model, read)[None]
                embedded = self.side.embed(torch.tensor([read], device=self.model.device)).cpu()
                entering = self.network(embedded, states, [self.depth])[0, 0, start - 1 :]
                rows.append(entering.to(next(self.model.parameters()).dtype) if hidden else self.side.logits(entering))
        return torch.cat(rows)

    def read_hidden(self, text: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """As :meth:`read`, giving what enters the target's head, in the target's dtype."""
        return self.read(text, starts, hidden=True)


def split_source(rest: str) -> tuple[str, int]:
    """``FOLDER`` or ``FOLDER:DEPTH`` (from 1) as folder and drafted tokens before the one predicted."""
    folder, _, depth = rest.rpartition(":")
    # A folder may hold a colon itself.
    if folder and depth.isdecimal() and not (Path(rest) / FACTS).exists():
        return folder, int(depth) - 1
    return rest, 0


def head_identity(rest: str) -> dict[str, Any]:
    """What identifies ``chimera:`` and ``rest`` in a manifest.

    Raises
    ------
    InputError
        If there is no finished head, or it was not trained at the depth named.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds.models.chimera import Chimera, Shape, head_identity, save_head
    >>> folder = Path(tempfile.mkdtemp()) / "my_head"
    >>> shape = Shape(hidden=16, attention_heads=2, depths=2)
    >>> save_head(folder, Chimera(shape, torch.ones(16)), {"target": {"source": "my model"}})
    >>> found = head_identity(f"{folder}:2")
    >>> found["source"], found["head"], found["depth"]
    ('chimera', 'my_head', 2)
    """
    folder, depth = split_source(rest)
    facts = read_facts(folder)
    trained = facts["shape"]["depths"]
    if not 0 <= depth < trained:
        raise InputError(f"chimera:{rest}: the head has depths 1 to {trained}")
    name = Path(folder).resolve().name
    return {"source": "chimera", "head": name, "depth": depth + 1, "sha256": facts["sha256"]}


def head_draft(rest: str, target: LoadedModel) -> HeadDraft:
    """The draft ``chimera:FOLDER`` (one drafted token) or ``chimera:FOLDER:DEPTH``.

    Raises
    ------
    InputError
        If the folder holds no finished head, one of another target, width or vocabulary, or a damaged one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> from mdsd_bounds.models.chimera import Chimera, Shape, head_draft, save_head
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> head = Chimera(Shape(hidden=16, attention_heads=2), target.model.model.norm.weight)  # not trained
    >>> save_head(folder / "head", head, {"target": target.identity, "vocabulary": 260})
    >>> head_draft(str(folder / "head"), target).depth
    0
    """
    identity = head_identity(rest)
    folder, depth = split_source(rest)
    network = load_head(folder, target)
    return HeadDraft(network, target_side(target), target.model, identity, depth)
