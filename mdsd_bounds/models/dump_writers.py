"""Where logged rows go: full logits, hidden states with the heads once, or the k most probable tokens with tail mass.

==========  =======================================================  ============================================
``store``   bytes a position                                         read back as
==========  =======================================================  ============================================
logits      ``2 (V_t + V_d)`` in float16                             the logits, rounded to ``store_dtype``
hidden      ``b (H_t + H_d)``, b those of the model's dtype; the     the model's own logits, up to the order in
            heads once                                               which its last product sums
top-k       ``2 (12 k + 32)``                                        k log-probabilities and the mass of the rest:
                                                                     bounds are certified intervals
==========  =======================================================  ============================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mdsd_bounds.dumps.formats.native import DumpWriter
from mdsd_bounds.dumps.top_k_rows import top_k_arrays
from mdsd_bounds.dumps.widths import align_widths
from mdsd_bounds.models.array_writer import ArrayWriter
from mdsd_bounds.models.capture_settings import CaptureSettings
from mdsd_bounds.models.drafts import Draft, head_width
from mdsd_bounds.models.forward import to_store
from mdsd_bounds.models.heads import check_head, head_arrays
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

STORES = ("logits", "hidden", "top-k")


class Store(Protocol):
    """Takes the rows of one batch after the other.  ``rows`` are on disk, ``complete`` is a run that ended before."""

    path: Path

    @property
    def rows(self) -> int:
        """Rows on disk."""
        ...

    @property
    def complete(self) -> bool:
        """Whether it was closed as whole."""
        ...

    def append(self, target: Tensor, draft: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Rows of both models: hidden states ``[rows, H]`` for ``hidden``, else logits ``[rows, V]``."""
        ...

    def close(self) -> None:
        """No more rows will come."""
        ...


Writer = TypeVar("Writer", DumpWriter, ArrayWriter)


class _Held(Generic[Writer]):
    """What all stores take from the writer below them."""

    def __init__(self, writer: Writer) -> None:
        self.path = writer.path
        self._writer: Writer = writer

    @property
    def rows(self) -> int:
        """Rows on disk."""
        return self._writer.rows

    @property
    def complete(self) -> bool:
        """Whether it was closed as whole."""
        return self._writer.complete

    def close(self) -> None:
        """Write the last shard, or join the parts."""
        self._writer.close()


class LogitStore(_Held[DumpWriter]):
    """Full logits in a native dump."""

    def __init__(self, writer: DumpWriter, dtype: torch.dtype) -> None:
        super().__init__(writer)
        self._dtype = dtype

    def append(self, target: Tensor, draft: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Round and write."""
        rows = [to_store(logits, self._dtype, str(self.path)) for logits in (target, draft)]
        self._writer.append(rows[0], rows[1], **columns)


class HiddenStore(_Held[ArrayWriter]):
    """Hidden states, and the heads once, as named arrays in a folder."""

    def append(self, target: Tensor, draft: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Write the states of a batch."""
        arrays = {"target_hidden_states": target, "draft_hidden_states": draft}
        for name, states in arrays.items():
            if not bool(torch.isfinite(states).all()):
                raise InputError(f"{self.path}: {name} holds NaN or infinity; run the model in float32")
        self._writer.append({**arrays, **columns})


class TopKStore(HiddenStore):
    """The k most probable tokens of each row and the mass of the rest, from the logits before any rounding."""

    def __init__(self, writer: ArrayWriter, k: int) -> None:
        super().__init__(writer)
        self._k = k

    def append(self, target: Tensor, draft: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Cut and write the rows of a batch."""
        target, draft, _ = align_widths(target, draft, str(self.path))
        for role, logits in (("target", target), ("draft", draft)):
            if bool(torch.isnan(logits).any()):
                raise InputError(f"{self.path}: the {role} gave NaN logits; run it in float32")
        self._writer.append({**columns, **top_k_arrays((target, None), (draft, None), self._k)})


def open_writer(
    settings: CaptureSettings,
    out: str | Path,
    facts: Mapping[str, Any],
    models: tuple[LoadedModel, Draft],
    text: list[int],
) -> Store:
    """Open a store, new or to be continued.

    Parameters
    ----------
    settings : CaptureSettings
        Whose ``store`` is one of :data:`STORES`.
    facts : mapping
        What identifies the run; kept with the rows.
    models : (LoadedModel, Draft)
        Target and draft.
    text : list of int
        Token ids on which rebuilt logits are checked (``hidden``).

    Raises
    ------
    InputError
        If the draft has no hidden states, the heads do not rebuild the models' logits, or the folder holds another run.
    """
    target, draft = models
    kind, top_k = settings.store, settings.top_k
    sizes = None if draft.head_of is None else (hidden_size(target.model), hidden_size(draft.head_of))
    if kind == "logits":
        rows = settings.new_tokens * settings.batch_size
        writer = DumpWriter(out, shard_rows=rows, hidden_sizes=sizes, notes=dict(facts), support=draft.support)
        return LogitStore(writer, getattr(torch, settings.store_dtype))
    described = {**facts, "store": kind, "support": draft.support}
    if kind == "top-k":
        width = head_width(target.model)
        if draft.head_of is not None and draft.support == "full":
            width = max(width, head_width(draft.head_of))
        arrays = ArrayWriter(out, {**described, "top_k": top_k, "hidden_sizes": sizes})
        arrays.put("vocabulary", {"vocabulary": torch.tensor(width)})
        return TopKStore(arrays, top_k)
    if draft.read_hidden is None:
        raise InputError(
            f"{draft.identity['source']}: its distribution is no head over hidden states; store logits or top-k"
        )
    check_head(target.model, text, "target")
    shared = draft.head_of is target.model
    if not shared:
        check_head(draft.head_of, text, "draft")
    arrays = ArrayWriter(out, described)
    if shared:
        arrays.put("head", head_arrays(target.model))
    else:
        arrays.put("head-target", {f"target_{name}": value for name, value in head_arrays(target.model).items()})
        head = head_arrays(draft.head_of) | dict(draft.mapping)
        arrays.put("head-draft", {f"draft_{name}": value for name, value in head.items()})
    return HiddenStore(arrays)


def hidden_size(model: Any) -> int:
    """Width of the hidden states."""
    return int(model.config.get_text_config().hidden_size)
