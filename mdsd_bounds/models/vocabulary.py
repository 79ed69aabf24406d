"""Pairs that do not share a vocabulary: which target token each column of the draft's head stands for.

A draft distribution over the target's vocabulary is all that lossless verification needs, so any draft becomes usable
once each of its columns is sent to a different target token; columns without a target token are dropped and the rest is
renormalised (token-level intersection, Timor et al. 2025, arXiv:2502.05202).  Target tokens without a column get an
exact zero.  What is stored are log-probabilities in the draft's *own* vocabulary: the distribution is their softmax,
and ``1 - sum(exp(row))`` is the draft's mass on tokens the target lacks (:func:`mass_outside`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import opening
from mdsd_bounds.dumps.formats.array_files import array_form, open_arrays
from mdsd_bounds.dumps.token_map import read_maps, refuse_ids, token_columns
from mdsd_bounds.problem import InputError


@dataclass(frozen=True)
class TokenMap:
    """Column ``columns[i]`` of the draft's head stands for target token ``tokens[i]``; both ``[M]`` int64.

    ``width`` is the target's vocabulary, ``draft_width`` the draft's, ``source`` says where the map comes from.
    """

    tokens: Tensor
    columns: Tensor
    width: int
    draft_width: int
    source: str

    def scatter(self, logits: Tensor) -> Tensor:
        """Draft logits ``[rows, draft_width]`` as log-probabilities ``[rows, width]``, -inf where nothing is mapped.

        Raises
        ------
        InputError
            If the head has another width, or a row puts no mass on any mapped token.
        """
        if logits.shape[-1] < self.draft_width:
            raise InputError(f"{self.source}: made for {self.draft_width} columns; the draft has {logits.shape[-1]}")
        probs = torch.log_softmax(logits.double(), -1)
        mapped = torch.full((*logits.shape[:-1], self.width), -torch.inf, dtype=torch.float64)
        mapped[..., self.tokens] = probs[..., self.columns]
        if bool((mapped.amax(-1) == -torch.inf).any()):
            raise InputError(f"{self.source}: a draft row has no mass on any target token; nothing can be drafted")
        return mapped.float()


def mass_outside(draft_logits: Tensor) -> Tensor:
    """Mass ``[B]`` that rows of a mapped draft hold on tokens which the target lacks: ``1 - sum(exp(row))``."""
    return (1.0 - draft_logits.double().exp().sum(-1)).clamp(0.0, 1.0)


def make_map(tokens: Tensor, columns: Tensor, width: int, draft_width: int, source: str) -> TokenMap:
    """A checked map: every index in range, no target token and no column twice.

    Raises
    ------
    InputError
        Naming the first entry that breaks this.  Two columns on one target token are refused: a draft drawn from
        either would be the same token, with a distribution that neither column gives.
    """
    if tokens.numel() == 0:
        raise InputError(f"{source}: the vocabularies share no token; nothing drafted could ever be accepted")
    for name, index, limit in (("target token", tokens, width), ("draft column", columns, draft_width)):
        bad = (index < 0) | (index >= limit)
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            raise InputError(f"{source} entry {place}: {name} {int(index[place])} is not among 0 to {limit - 1}")
        order = index.sort()
        twice = order.values[1:] == order.values[:-1]
        if bool(twice.any()):
            place = int(order.indices[1:][twice][0])
            raise InputError(f"{source} entry {place}: {name} {int(index[place])} is mapped twice; keep one entry")
    return TokenMap(tokens.long(), columns.long(), width, draft_width, source)


def read_map(path: str | Path, width: int) -> TokenMap:
    """A map from a file: EAGLE-3's ``d2t`` (and ``t2d``), or plain target ids.

    ``.safetensors`` or ``.npz`` with ``d2t`` ``[V_d]``, offsets as EAGLE-3 stores them (target token of column i is
    ``i + d2t[i]``), optionally ``t2d`` ``[V_t]`` (which target tokens have a column), checked against it; or with
    ``target_ids`` ``[V_d]``; ``.npy`` holds target ids directly.

    Raises
    ------
    InputError
        If the file cannot be read, lacks the arrays, ``t2d`` contradicts ``d2t``, ``d2t`` holds ids, or as
        :func:`make_map`.
    """
    arrays = _arrays(Path(path))
    found = token_columns(arrays, str(path), width)
    if found.as_ids is not None:
        refuse_ids(str(path), found.as_ids, width)
    tokens = found.tokens
    return make_map(tokens, torch.arange(tokens.numel()), width, tokens.numel(), str(path))


def intersect(target_tokenizer: Any, draft_tokenizer: Any, width: int, draft_width: int) -> TokenMap:
    """The tokens that stand for the same bytes in both vocabularies; special tokens are left out.

    Raises
    ------
    InputError
        If there are none.
    """
    ours, theirs = token_bytes(target_tokenizer), token_bytes(draft_tokenizer)
    shared = sorted((ours[text], theirs[text]) for text in ours.keys() & theirs.keys())
    shared = [(token, column) for token, column in shared if token < width and column < draft_width]
    pairs = torch.tensor(shared, dtype=torch.int64).reshape(-1, 2)
    return make_map(pairs[:, 0], pairs[:, 1], width, draft_width, "token intersection")


def token_bytes(tokenizer: Any) -> dict[bytes, int]:
    """Bytes of every ordinary token, with its id; of several tokens with the same bytes the first id is kept.

    Knows the byte-level alphabet of GPT-2's family and SentencePiece's pieces (``▁`` for a space, ``<0x41>`` for a
    byte); a piece wins over a byte token.

    Raises
    ------
    InputError
        If the vocabulary is of neither kind.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    pieces = sum("▁" in token for token in vocabulary) > sum("Ġ" in token for token in vocabulary)
    if not pieces and not any("Ġ" in token for token in vocabulary):
        raise InputError(f"{type(tokenizer).__name__}: neither a byte-level nor a SentencePiece vocabulary; give a map")
    found: dict[bytes, int] = {}
    fallback: dict[bytes, int] = {}
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        if index in special:
            continue
        if pieces and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            fallback.setdefault(bytes([int(token[3:5], 16)]), index)
            continue
        text = token.replace("▁", " ").encode() if pieces else _from_byte_alphabet(token)
        if text:
            found.setdefault(text, index)
    return fallback | found


def same_vocabulary(first: Any, second: Any) -> str | None:
    """None if both tokenizers give a token the same id wherever both know it; otherwise what differs first."""
    a, b = first.get_vocab(), second.get_vocab()
    different = next((token for token, index in a.items() if b.get(token, index) != index), None)
    if different is not None:
        return f"token {different!r} is {a[different]} in one and {b[different]} in the other"
    if abs(len(a) - len(b)) > 128:
        return f"{len(a)} and {len(b)} tokens"
    return None


def _from_byte_alphabet(token: str) -> bytes | None:
    alphabet = _byte_alphabet()
    if any(character not in alphabet for character in token):
        return None
    return bytes(alphabet[character] for character in token)


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte (Radford et al. 2019): printable bytes stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _arrays(path: Path) -> dict[str, Tensor]:
    with opening(), reading(path, "token map", "give .safetensors, .npz or .npy"):
        store = open_arrays(path)
        wanted = ("target_ids", "d2t", "t2d")
        found = {"target_ids": store["logits"]} if array_form(path) == "npy" else dict(store)
        found = {name: array for name, array in found.items() if name in wanted}
        for name, array in found.items():
            if array.dtype.startswith(("float", "bfloat")):
                raise InputError(f"{path}: {name} holds {array.dtype}; token ids are integers")
        if not set(wanted[:2]) & set(found):
            raise InputError(f"{path}: holds {', '.join(store) or 'nothing'}; a map has d2t (offsets) or target_ids")
        return {name: array.to(torch.int64) for name, array in read_maps(found, str(path)).items()}
