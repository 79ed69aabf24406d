"""What drafts, by name: another model, some of the target's layers, or a draft head on the target's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mdsd_bounds.distributions import Warp
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.decode import Reader
from mdsd_bounds.trees.real import TreeReader

if TYPE_CHECKING:
    from mdsd_bounds.models.loading import LoadedModel


@dataclass(frozen=True)
class Drafting:
    """What drafts: a model, the layers it leaves out, or a head on the target's states."""

    model: Any
    skip: tuple[int, ...] = ()
    head: Any = None

    def readers(
        self, target: Any, ids: Sequence[int], *, width: int | None = None, warp: Warp | None = None
    ) -> tuple[TreeReader, Reader]:
        """Readers of the target model and of the draft over one text; ``width`` and ``warp`` as :class:`TreeReader`."""
        from mdsd_bounds.trees.chimera import HeadReader

        first = TreeReader(target, ids, states=self.head is not None, width=width, warp=warp)
        if self.head is not None:
            return first, HeadReader(first, self.head, ids, width=width, warp=warp)
        return first, TreeReader(self.model, ids, skip=self.skip, width=width, warp=warp)


def drafting_from(source: str, target: LoadedModel, dtype: str = "float32", device: str = "cpu") -> Drafting:
    """The draft that ``source`` names.

    Parameters
    ----------
    source : str
        A model as :func:`mdsd_bounds.models.loading.load_model` finds it, ``early-exit:K``, ``skip-layers:4-9`` or
        ``chimera:FOLDER``.
    target : LoadedModel
        The target.
    dtype, device : str
        Of a model that is loaded.

    Raises
    ------
    InputError
        If there is no such draft, or its vocabulary differs from the target's.
    """
    from mdsd_bounds.models.chimera import head_draft
    from mdsd_bounds.models.loading import load_model
    from mdsd_bounds.models.self_draft import layers_left_out
    from mdsd_bounds.models.vocabulary import same_vocabulary

    kind, _, value = source.partition(":")
    if kind == "chimera":
        return Drafting(target.model, head=head_draft(value, target))
    if kind in ("early-exit", "skip-layers"):
        return Drafting(target.model, layers_left_out(source, target.model))
    draft = load_model(source, dtype, device)
    difference = same_vocabulary(target.tokenizer, draft.tokenizer)
    if difference is not None:
        raise InputError(f"{source}: its tokenizer differs from the target's ({difference}); trees need one vocabulary")
    return Drafting(draft.model)


def stop_tokens(target: LoadedModel) -> frozenset[int]:
    """Tokens that end a text of this model."""
    held = getattr(target.model.generation_config, "eos_token_id", None)
    found = {target.tokenizer.eos_token_id, *(held if isinstance(held, list) else [held])}
    return frozenset(int(token) for token in found if token is not None)
