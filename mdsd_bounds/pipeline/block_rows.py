"""The rows of a block as the two servers sample from them: biases, penalties, temperatures and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdsd_bounds.bounds.truncated.distributions import shifted
from mdsd_bounds.distributions import to_probs
from mdsd_bounds.dumps.base import LogitBatch
from mdsd_bounds.problem import InputError
from mdsd_bounds.sampling import adjusted, shift_of

if TYPE_CHECKING:
    from mdsd_bounds.pipeline.evaluate_block import Settings


def distributions(
    batch: LogitBatch, settings: Settings, temperature: float, name: str = "dump"
) -> tuple[Tensor, Tensor]:
    """Target and draft distributions ``[B, V]`` of whole rows under the settings.

    Raises
    ------
    InputError
        On rows that are no distributions, and where penalties need a text that is not there.
    """
    (p, p_warp), (q, q_warp) = warped_rows(adjusted_batch(batch, settings, name), settings, temperature, name)
    return to_probs(p, **p_warp), to_probs(q, **q_warp)


def adjusted_batch(batch: LogitBatch, settings: Settings, name: str) -> LogitBatch:
    """The batch with biases and penalties in its logits."""
    past = _texts_before(batch) if settings.needs_text else None
    changed: dict[str, Any] = {}
    for role, options in (("target", settings.target), ("draft", settings.draft)):
        logits, cut, where = getattr(batch, f"{role}_logits"), getattr(batch, f"{role}_cut"), f"{name} {role}_logits"
        if cut is None:
            changed[f"{role}_logits"] = adjusted(logits, options, past, where, int(batch.row[0]))
        elif (shift := shift_of(logits, options, past, where, int(batch.row[0]))) is not None:
            changed[f"{role}_logits"], changed[f"{role}_cut"] = shifted(logits, cut, shift, where, int(batch.row[0]))
    return replace(batch, **changed)


def _texts_before(batch: LogitBatch) -> list[Tensor] | None:
    """For every row the tokens recorded in the rows before it of its document; None where a dump has no such columns.

    A row is the distribution of the token recorded beside it, so that its text ends one row before.

    Raises
    ------
    InputError
        If one of those tokens was not recorded, or the rows of a document are not together.
    """
    if batch.doc is None or batch.token is None:
        return None
    start = 0 if batch.past is None else len(batch.past)
    tokens = batch.token.cpu() if batch.past is None else torch.cat([batch.past, batch.token.cpu()])
    documents = batch.doc.tolist()
    found, begun = [], 0
    for place in range(len(documents)):
        if place and documents[place] != documents[place - 1]:
            begun = start + place
            refuse_scattered(documents[:place], documents[place], int(batch.row[place]))
        text = tokens[begun : start + place]
        if bool((text < 0).any()):
            raise InputError(
                f"row {int(batch.row[place])}: penalties need the text, but a token before it was not recorded; log "
                "again"
            )
        found.append(text)
    return found


def refuse_scattered(earlier: Sequence[int], document: int, row: int) -> None:
    """Refuse rows whose text lies in several places: what stands before a row would be a part of it.

    Raises
    ------
    InputError
        If a document that begins at ``row`` has rows among the ``earlier`` ones.
    """
    if document in earlier:
        raise InputError(
            f"row {row}: penalties need the text, but the rows of document {document} are not together; sort the rows "
            "by document"
        )


def warped_rows(
    batch: LogitBatch, settings: Settings, temperature: float, name: str
) -> tuple[tuple[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]:
    """Target and draft rows, each with the warps that make a distribution of them."""
    row: dict[str, Any] = {"first_row": int(batch.row[0])}
    second = temperature if settings.draft_temperature is None else settings.draft_temperature
    target = {**row, **settings.target.cuts, "temperature": temperature, "name": f"{name} target_logits"}
    draft = {**row, **settings.draft.cuts, "temperature": second, "name": f"{name} draft_logits"}
    return (batch.target_logits, target), (batch.draft_logits, draft)
