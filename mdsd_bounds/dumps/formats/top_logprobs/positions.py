"""One position of a list of top-k log-probabilities, in every way that servers write it, recognised by its structure.

======================================================  ===========================================
``{"7": {"logprob": x, "rank": r}, ...}`` or ``{"7": x}``  vLLM: keys are token ids
``{"the": x, ...}``                                      completions: keys are texts, or ``token_id:N``
``{"token": t, "logprob": x, "top_logprobs": [...]}``    chat; llama-server and others add ``"id"``
``[[x, 7, text], ...]``                                  SGLang: log-probability, id, text or null
``[{"id": 7, "logprob": x}, ...]``                       TGI; teacher data sets (``"token": "token_id:7"``)
``null``                                                 nothing is known, as of the first token of a prompt
======================================================  ===========================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mdsd_bounds.dumps.containers.text import integer

_ID = re.compile(r"token_id:([0-9]{1,19})")
#: Names of a token in an entry, the id first.
_IDS = ("id", "token_id")
_TEXTS = ("token", "text", "decoded_token", "tok_str")


class UnreadableError(Exception):
    """An answer of a known form that cannot be used; the message says why and what to ask for."""


@dataclass(frozen=True)
class Text:
    """A token that is named by its text, and where the server gives them, the bytes of it."""

    text: str
    raw: bytes | None = None


Token = int | Text


@dataclass(frozen=True)
class Position:
    """What a server lists of one position.

    ``own`` is the token that stands there (sampled, or the prompt's) with its log-probability, None where unknown.
    ``best`` says that the entries are the k most probable and no others; otherwise the own token may be among them
    without being one of the k best.  ``keyed`` says that texts were the keys of an object, which keeps one of several
    tokens that have the same.
    """

    tokens: Sequence[Token]
    logprobs: Sequence[Any]
    ranks: Sequence[Any] = ()
    own: Token | None = None
    own_logprob: Any = None
    best: bool = False
    keyed: bool = False

    def given_away(self) -> int | None:
        """The own token of a prompt's position, where its rank tells it from the k most probable ones.

        (Files of :func:`mdsd_bounds.dumps.convert.convert` lack it where it is not among the k.)
        """
        ranked = [
            (token, rank)
            for token, rank in zip(self.tokens, self.ranks, strict=False)
            if isinstance(token, int) and isinstance(rank, int)
        ]
        if not ranked or len(ranked) < len(self.tokens):
            return None
        ranks = [rank for _, rank in ranked]
        apart = [token for token, rank in ranked if rank > 1 and rank - 1 not in ranks]
        if len(apart) == 1:
            return apart[0]
        first, rank = ranked[0]
        return first if rank > 1 and rank > min(ranks) > 0 else None


def named(text: Any, raw: Any = None) -> Token:
    """A token by its name: an id where the name says ``token_id:N``, otherwise a text.

    Raises
    ------
    ValueError
        If it is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"the token {text!r} is no text")
    found = _ID.fullmatch(text)
    if found:
        return token_id(found[1])
    held = bytes(raw) if isinstance(raw, list) and all(type(b) is int and 0 <= b < 256 for b in raw) else None
    return Text(text, held)


def token_id(value: Any) -> int:
    """A token id.

    Raises
    ------
    ValueError
        If it is no integer, or negative.
    """
    token = integer(value)
    if token < 0:
        raise ValueError(f"{value!r} is no token id")
    return token


def entry_token(entry: dict[str, Any]) -> Token:
    """The token of an entry that is an object.

    Raises
    ------
    ValueError, KeyError
        If it names none.
    """
    for name in _IDS:
        if entry.get(name) is not None:
            return token_id(entry[name])
    name = next((name for name in _TEXTS if entry.get(name) is not None), "token")
    return token_id(entry[name]) if type(entry[name]) is int else named(entry[name], entry.get("bytes"))


def is_position(value: Any) -> bool:
    """Whether a value that is not null has the structure of a position (of its first entry)."""
    if isinstance(value, dict):
        if "logprob" in value:
            return isinstance(value.get("top_logprobs"), list) and any(name in value for name in _IDS + _TEXTS)
        if not value:
            return False
        key, fact = next(((key, fact) for key, fact in value.items() if fact is not None), ("", None))
        listed = isinstance(fact, dict) and "logprob" in fact
        return listed or (_is_number(fact) and re.fullmatch(r"-?[0-9]{1,19}|token_id:[0-9]+", str(key)) is not None)
    if isinstance(value, list) and value:
        return is_triple(value[0]) or is_entry(value[0])
    return False


def is_triple(value: Any) -> bool:
    """Whether it is SGLang's ``[log-probability, id, text]``."""
    return isinstance(value, list) and len(value) in (2, 3) and type(value[1]) is int and type(value[0]) is not bool


def is_entry(value: Any) -> bool:
    """Whether it is an object of one token and its log-probability."""
    return isinstance(value, dict) and "logprob" in value and any(name in value for name in _IDS + _TEXTS)


def position(value: Any, *, keyed_by_text: bool = False) -> Position | None:
    """One position, whatever its structure.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it has none of the known ones.
    """
    if value is None or value == {} or value == []:
        return None
    if isinstance(value, dict):
        # Tables make one column of each key, and fill it where a position does not have it.
        value = {key: fact for key, fact in value.items() if fact is not None}
        if keyed_by_text:  # one of them may be "logprob"
            return Position([named(key) for key in value], list(value.values()), keyed=True)
        if "logprob" in value:
            return _content(value)
        facts = [fact if isinstance(fact, dict) else {"logprob": fact} for fact in value.values()]
        ranks = [fact.get("rank") for fact in facts]
        ids = [named(key) if str(key).startswith("token_id:") else token_id(key) for key in value]
        # vLLM puts the token that stands there first.
        return Position(ids, [fact["logprob"] for fact in facts], ranks, ids[0] if ids else None)
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list of tokens and log-probabilities")
    if is_triple(value[0]):
        # A slot without a token: fewer tokens than k.
        held = [entry for entry in value if entry[1] is not None and integer(entry[1]) != -1]
        return Position([token_id(entry[1]) for entry in held], [entry[0] for entry in held], best=True)
    ranks = [entry.get("rank") for entry in value]
    return Position([entry_token(entry) for entry in value], [entry["logprob"] for entry in value], ranks, best=True)


def _content(value: dict[str, Any]) -> Position:
    listed = value.get("top_logprobs") or []
    own, logprob = entry_token(value), value["logprob"]
    # Some servers put the sampled token first and drop the least of the k for it.
    return Position([entry_token(entry) for entry in listed], [entry["logprob"] for entry in listed], (), own, logprob)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
