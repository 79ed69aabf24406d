"""What can stand on the draft side: another model, a trained head, fewer layers of the target, or the text itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.models.chimera import head_draft
from mdsd_bounds.models.forward import Read, read_rows
from mdsd_bounds.models.loading import LoadedModel, load_model
from mdsd_bounds.models.self_draft import (
    decoder_layers,
    parse_layers,
    read_prompt_lookup,
    read_with_layers_skipped,
)
from mdsd_bounds.models.vocabulary import TokenMap, intersect, read_map, same_vocabulary
from mdsd_bounds.problem import InputError


@dataclass(frozen=True)
class Draft:
    """A draft ready to read texts given as the target's token ids.

    Attributes
    ----------
    read : callable
        As :data:`mdsd_bounds.models.forward.Read`; columns are the target's tokens (a padded head may be wider or
        narrower by up to 128).
    identity : dict
        What identifies it in a manifest.
    support : str
        ``full``, or ``mapped`` where some target tokens have no column and get an exact zero.
    read_hidden : callable or None
        As ``read``, giving what enters the head of ``head_of`` instead; None where there is no such head.
    head_of : model or None
        The model whose head turns these states into logits.
    mapping : dict
        Arrays that send the head's columns to the target's tokens (``d2t``, ``vocabulary``); empty for one vocabulary.
    """

    read: Read = field(repr=False)
    identity: dict[str, Any]
    support: str = "full"
    read_hidden: Read | None = field(default=None, repr=False)
    head_of: Any = field(default=None, repr=False)
    mapping: dict[str, Tensor] = field(default_factory=dict, repr=False)


def make_draft(source: str, target: LoadedModel, dtype: str, device: str, token_map: str | None = None) -> Draft:
    """The draft named by ``source``.

    Parameters
    ----------
    source : str
        ``early-exit:K`` (the target's first K layers), ``skip-layers:4-9,12`` (the target without these, from 0),
        ``chimera:FOLDER`` or ``chimera:FOLDER:DEPTH`` (a head made by ``mdsd train-draft``, at its first or another
        depth), ``prompt-lookup``, ``prompt-lookup:N`` or ``prompt-lookup:N:S`` (n-gram order N, default 3; smoothing S,
        default 1), or a model as :func:`mdsd_bounds.models.loading.load_model` takes it.
    target : LoadedModel
        The target.
    dtype, device : str
        Of a draft model's computation.
    token_map : str or None
        None: one vocabulary (heads may be padded differently).  ``intersection``: different tokenizers, joined on the
        tokens with the same bytes.  Otherwise a file as :func:`mdsd_bounds.models.vocabulary.read_map` takes it: the
        draft reads the target's token ids and its head has one column per mapped token (EAGLE-3).

    Raises
    ------
    InputError
        If the draft cannot be made or cannot be lossless, with the reason.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds.models import load_model, make_draft, tiny_model
    >>> target = load_model(tiny_model(tempfile.mkdtemp()))
    >>> draft = make_draft("early-exit:1", target, "float32", "cpu")
    >>> draft.identity
    {'source': 'target, first 1 layers'}
    >>> ids = target.tokenizer("a cab")["input_ids"]
    >>> draft.read([ids], [1]).shape  # rows of the tokens from place 1 on
    torch.Size([2, 260])
    """
    kind, _, rest = source.partition(":")
    makers: dict[str, Callable[[str, LoadedModel], Draft]] = {
        "early-exit": _early_exit,
        "skip-layers": _skip_layers,
        "prompt-lookup": _prompt_lookup,
        "chimera": _chimera,
    }
    if kind in makers:
        if token_map is not None:
            raise InputError(f"{source}: drafts in the target's own vocabulary; leave the token map out")
        return makers[kind](rest, target)
    model = load_model(source, dtype, device)
    if token_map is None:
        return _one_vocabulary(model, target)
    if token_map == "intersection":
        return _intersection(model, target)
    return _mapped(model, read_map(token_map, head_width(target.model)), token_map)


def head_width(model: Any) -> int:
    """Columns of the model's head."""
    return int(model.get_output_embeddings().weight.shape[0])


def _early_exit(rest: str, target: LoadedModel) -> Draft:
    depth = len(decoder_layers(target.model))
    if not rest.isdecimal() or not 1 <= int(rest) < depth:
        raise InputError(f"early-exit:{rest}: the model has {depth} layers; give 1 to {depth - 1} of them")
    layers = range(int(rest), depth)
    return _some_layers(target, layers, f"target, first {rest} layers")


def _skip_layers(rest: str, target: LoadedModel) -> Draft:
    layers = parse_layers(rest, len(decoder_layers(target.model)))
    return _some_layers(target, layers, f"target without layers {rest}")


def _some_layers(target: LoadedModel, skipped: Sequence[int], source: str) -> Draft:
    read = partial(read_with_layers_skipped, target.model, skipped)
    return Draft(read, {"source": source}, read_hidden=partial(read, hidden=True), head_of=target.model)


def _chimera(rest: str, target: LoadedModel) -> Draft:
    head = head_draft(rest, target)
    return Draft(head.read, head.identity, read_hidden=head.read_hidden, head_of=target.model)


def lookup_identity(rest: str) -> dict[str, Any]:
    """What ``prompt-lookup:`` and ``rest`` ask for.

    Raises
    ------
    InputError
        If these are no order and strength.
    """
    try:
        numbers = [float(part) for part in rest.split(":")] if rest else []
        order, strength = (*numbers, *(3.0, 1.0)[len(numbers) :])
    except ValueError:
        raise InputError(f"prompt-lookup:{rest}: give prompt-lookup:ORDER:STRENGTH, for example 3:1") from None
    if order < 1 or order != int(order) or not 0 < strength < float("inf"):
        raise InputError(f"prompt-lookup:{rest}: the order is an integer from 1, the strength above 0")
    return {"source": "prompt lookup", "order": int(order), "strength": strength}


def _prompt_lookup(rest: str, target: LoadedModel) -> Draft:
    identity = lookup_identity(rest)
    width = head_width(target.model)
    read = partial(read_prompt_lookup, vocabulary=width, order=identity["order"], strength=identity["strength"])
    return Draft(read, identity)


def _one_vocabulary(draft: LoadedModel, target: LoadedModel) -> Draft:
    difference = same_vocabulary(target.tokenizer, draft.tokenizer)
    if difference is not None:
        raise InputError(
            f"{draft.identity['source']}: its tokenizer differs from the target's ({difference}); use a draft of the "
            "same family, or join them with --token-map intersection"
        )
    read = partial(read_rows, draft.model)
    return Draft(read, draft.identity, read_hidden=partial(read, hidden=True), head_of=draft.model)


def _mapped(draft: LoadedModel, tokens: TokenMap, source: str) -> Draft:
    if head_width(draft.model) != tokens.draft_width:
        raise InputError(
            f"{source}: maps {tokens.draft_width} columns but the draft's head has {head_width(draft.model)}; "
            "give the map that belongs to this draft"
        )
    rows = int(draft.model.get_input_embeddings().weight.shape[0])

    def read_hidden(text: Sequence[Sequence[int]], starts: Sequence[int], *, hidden: bool = True) -> Tensor:
        largest = max(max(document) for document in text)
        if largest >= rows:
            raise InputError(f"{source}: the draft embeds {rows} tokens and cannot read the target's token {largest}")
        return read_rows(draft.model, text, starts, hidden=hidden)

    def read(text: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        return tokens.scatter(read_hidden(text, starts, hidden=False))

    facts = {"token_map": Path(source).name, "mapped_tokens": tokens.tokens.numel()}
    offsets = {"d2t": tokens.tokens - torch.arange(tokens.draft_width), "vocabulary": torch.tensor(tokens.width)}
    return Draft(read, draft.identity | facts, "mapped", read_hidden, draft.model, offsets)


def _intersection(draft: LoadedModel, target: LoadedModel) -> Draft:
    tokens = intersect(target.tokenizer, draft.tokenizer, head_width(target.model), head_width(draft.model))

    def read(text: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        rows = [
            read_other_tokens(draft, target.tokenizer, document, start)
            for document, start in zip(text, starts, strict=True)
        ]
        return tokens.scatter(torch.cat(rows))

    facts = {"token_map": "intersection", "mapped_tokens": tokens.tokens.numel()}
    return Draft(read, draft.identity | facts, "mapped")


def read_other_tokens(draft: LoadedModel, tokenizer: Any, document: Sequence[int], start: int) -> Tensor:
    """Draft logits ``[rows, V_d]`` at every place of a document given in another tokenizer's ids.

    At each place the text so far is put into the draft's own tokens, as a decoder with two tokenizers does.  Places
    whose tokens begin those of a later place are read in that one's pass; the others get a pass of their own.  Where
    the text so far ends inside a character, the draft sees the replacement character.
    """
    prefixes = []
    for place in range(start, len(document)):
        text = tokenizer.decode(document[:place], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ids = list(draft.tokenizer(text)["input_ids"])
        if not ids:
            raise InputError(f"{draft.identity['source']}: the text before place {place} has no token in its tokenizer")
        prefixes.append(ids)
    carriers: list[list[int]] = []
    carrier_of: list[int] = [0] * len(prefixes)
    for i in sorted(range(len(prefixes)), key=lambda i: -len(prefixes[i])):
        found = next((c for c, ids in enumerate(carriers) if ids[: len(prefixes[i])] == prefixes[i]), None)
        if found is None:
            found = len(carriers)
            carriers.append(prefixes[i])
        carrier_of[i] = found
    shortest = [
        min(len(prefixes[i]) for i, c in enumerate(carrier_of) if c == carrier) for carrier in range(len(carriers))
    ]
    # The appended token is not read: read_rows gives the distribution of every place after ``shortest``.
    distributions = read_rows(draft.model, [[*ids, 0] for ids in carriers], shortest)
    counts = [len(ids) + 1 - first for ids, first in zip(carriers, shortest, strict=True)]
    offsets = [sum(counts[:c]) for c in range(len(carriers))]
    return torch.stack([distributions[offsets[c] + len(prefixes[i]) - shortest[c]] for i, c in enumerate(carrier_of)])
