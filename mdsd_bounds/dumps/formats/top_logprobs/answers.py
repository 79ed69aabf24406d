"""Where the lists of log-probabilities lie in the answers of servers; each answer is recognised by its structure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mdsd_bounds.dumps.containers.records import Record
from mdsd_bounds.dumps.containers.text import integer
from mdsd_bounds.dumps.formats.top_logprobs.positions import (
    Position,
    Token,
    UnreadableError,
    entry_token,
    is_entry,
    is_position,
    is_triple,
    named,
    position,
    token_id,
)


@dataclass(frozen=True)
class Document:
    """The positions of one text.

    ``form`` names the server's form; ``output`` says that the tokens were sampled, and are no prompt's; ``left_out``
    counts positions of the same answer that are not read, and ``unsure`` says what the form leaves open.
    """

    form: str
    positions: list[Position | None]
    output: bool = True
    left_out: int = 0
    unsure: str = ""

    def text(self) -> bytes:
        """A digest of the tokens, or of all that is listed where they are not known: the same for the same prompt."""
        own = [held and held.own for held in self.positions[1:]]
        known = bool(own) and all(token is not None for token in own)
        first = self.positions[0].own if self.positions and self.positions[0] is not None else None
        return hashlib.sha256(repr((first, own if known else self.positions)).encode()).digest()


#: What is said where a form leaves open whether its values are the model's own.
_SGLANG = "SGLang states values at the temperature of the request; ask with temperature 1"


def documents(answer: Any) -> list[Document] | None:
    """The texts of one record, or None where it has no known form.

    Where an answer holds log-probabilities of the prompt and of its continuation, those of the prompt are taken: they
    are of one text for both models.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError, UnreadableError
        If it has a known form and is damaged, or is of a form that cannot be read.
    """
    if isinstance(answer, list):
        held = [value for value in answer if value is not None]
        return [_listed(answer, "list of positions")] if held and is_position(held[0]) else None
    if not isinstance(answer, dict):
        return None
    for part in (_prompt, _flat, _llama_server, _sglang, _tgi, _openai, _outputs, _teacher):
        if (found := part(answer)) is not None:
            return found
    for name in ("response", "body", "result", "output"):
        if isinstance(answer.get(name), dict) and (inside := documents(answer[name])) is not None:
            return inside
    return None


def is_answer(value: Any) -> bool:
    """Whether a record has a known form, also one that is refused or damaged."""
    try:
        return documents(value) is not None
    except RecursionError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError, UnreadableError):
        return True


def _listed(positions: Any, form: str, own: list[Any] | None = None, **facts: Any) -> Document:
    """A document of raw positions, with the own token of each where a list of its own names it."""
    if not isinstance(positions, list):
        raise ValueError(f"{type(positions).__name__}, not a list of positions")
    if own is not None and len(own) != len(positions):
        raise ValueError(f"{len(own)} tokens but {len(positions)} positions")
    read = [position(value) for value in positions]
    for place, token in enumerate(own or ()):
        read[place] = _with_own(read[place], token)
    return Document(form, read, **facts)


def _with_own(held: Position | None, token: Any) -> Position | None:
    """A position with its own token: an id, a triple, or an entry."""
    own: Token = token_id(token[1]) if is_triple(token) else entry_token(token) if is_entry(token) else token_id(token)
    logprob = token[0] if is_triple(token) else token["logprob"] if is_entry(token) else None
    if held is None:
        return None if logprob is None else Position((), (), (), own, logprob)
    return replace(held, own=own, own_logprob=logprob)


def _require_own_tokens(held: Document) -> None:
    """Where its rank gives a prompt's own token away, ``prompt_token_ids`` must name the same."""
    for place, entry in enumerate(held.positions):
        own = entry.given_away() if entry is not None else None
        if entry is not None and own is not None and isinstance(entry.own, int) and own != entry.own:
            raise UnreadableError(
                f"prompt_token_ids has {entry.own} at position {place}, whose own token is {own}; save both from one "
                "answer"
            )


def _prompt(answer: dict[str, Any]) -> list[Document] | None:
    """vLLM: ``prompt_logprobs`` of a completion's choices, of a chat's answer, or of an offline output."""
    found = []
    choices = [part for part in _list(answer.get("choices")) if isinstance(part, dict)]
    for part in [answer, *choices]:
        if part.get("prompt_logprobs") is None:
            continue
        listed, tokens = part["prompt_logprobs"], part.get("prompt_token_ids") or answer.get("prompt_token_ids")
        if isinstance(listed, dict):
            found += _flat(listed) or []
            continue
        if tokens and len(tokens) != len(listed):
            raise ValueError(f"{len(tokens)} prompt_token_ids but {len(listed)} positions")
        one = _listed(listed, "vLLM prompt_logprobs", tokens or None, output=False)
        _require_own_tokens(one)
        for place, (value, token) in enumerate(zip(listed, tokens or (), strict=False)):
            if (own := _own(position(value))) is not None and own != token:
                raise UnreadableError(
                    f"prompt_token_ids has {token} at position {place}, whose own token is {own}; save both from one "
                    "answer"
                )
        found.append(replace(one, left_out=_left_out(answer)))
    return found or None


def _own(held: Position | None) -> Token | None:
    """The prompt's own token, where its place or its rank gives it away; among the k most probable it looks like any.

    (Files of :func:`mdsd_bounds.dumps.convert.convert` lack it where it is not among the k.)
    """
    ranks = [] if held is None else [integer(rank or 0) for rank in held.ranks]
    if held is None or not ranks:
        return None
    best = set(ranks)
    apart = [token for token, rank in zip(held.tokens, ranks, strict=True) if rank > 1 and rank - 1 not in best]
    if len(apart) == 1:
        return apart[0]
    return held.tokens[0] if ranks[0] > 1 and ranks[0] > min(ranks) > 0 else None


def _left_out(answer: dict[str, Any]) -> int:
    count = 0
    for part in (*_list(answer.get("choices")), *_list(answer.get("outputs"))):
        held = part.get("logprobs") if isinstance(part, dict) else None
        count += len(_list(held.get("content") or held.get("tokens")) if isinstance(held, dict) else _list(held))
    return count


def _flat(answer: dict[str, Any]) -> list[Document] | None:
    """vLLM's FlatLogprobs: one list of all entries, and where each position begins and ends."""
    if "start_indices" not in answer or "token_ids" not in answer:
        return None
    ids, logprobs = answer["token_ids"], answer["logprobs"]
    ranks = answer.get("ranks") or [None] * len(ids)
    if not len(ids) == len(logprobs) == len(ranks):
        raise ValueError(f"{len(ids)} token_ids, {len(logprobs)} logprobs, {len(ranks)} ranks")
    read: list[Position | None] = []
    for a, b in zip(answer["start_indices"], answer["end_indices"], strict=True):
        tokens = [token_id(token) for token in ids[a:b]]
        read.append(Position(tokens, logprobs[a:b], ranks[a:b], tokens[0]) if tokens else None)
    return [Document("vLLM FlatLogprobs", read, output=False)]


def _llama_server(answer: dict[str, Any]) -> list[Document] | None:
    listed = answer.get("completion_probabilities")
    if listed is None:
        return None
    for entry in _list(listed):
        if "top_probs" in entry or "prob" in entry:
            raise UnreadableError(
                "llama-server with post_sampling_probs: probabilities after temperature and cuts, from which the "
                'model\'s own cannot be had; ask with "post_sampling_probs": false'
            )
        if "probs" in entry:
            raise UnreadableError(
                "llama-server's old form (probs with tok_str), without token ids: different tokens can have one text; "
                'use a server of December 2024 or later, and ask /completion with "n_probs": 20'
            )
    one = _listed(listed, "llama-server completion_probabilities")
    # Its list is the k best, the sampled token apart from it.
    return [replace(one, positions=[held and replace(held, best=True) for held in one.positions])]


def _sglang(answer: dict[str, Any]) -> list[Document] | None:
    held = answer["meta_info"] if isinstance(answer.get("meta_info"), dict) else answer
    both = []
    for side in ("input", "output"):
        tops, tokens = held.get(f"{side}_top_logprobs"), held.get(f"{side}_token_logprobs")
        if isinstance(tops, list) and any(tops):
            own = tokens if isinstance(tokens, list) and tokens else None
            both.append(_listed(tops, f"SGLang {side}_top_logprobs", own, output=side == "output", unsure=_SGLANG))
    if both:
        return [replace(both[0], left_out=sum(len(other.positions) for other in both[1:]))]
    if "output_token_logprobs" in held:
        raise UnreadableError(
            "SGLang's answer without top tokens; ask with top_logprobs_num of 20 beside return_logprob"
        )
    return None


def _tgi(answer: dict[str, Any]) -> list[Document] | None:
    held = answer["details"] if isinstance(answer.get("details"), dict) else answer
    if isinstance(held.get("top_tokens"), list) and held["top_tokens"]:
        own = held.get("tokens")
        return [_listed(held["top_tokens"], "TGI details.top_tokens", own if isinstance(own, list) else None)]
    if "details" in answer and isinstance(held.get("tokens"), list):
        raise UnreadableError("TGI's answer without top_tokens; ask with top_n_tokens of 5 beside details")
    return None


def _openai(answer: dict[str, Any]) -> list[Document] | None:
    """Chat (``logprobs.content``) and completions (``logprobs.tokens``), whole answers or their ``logprobs`` alone."""
    parts = [part for part in _list(answer.get("choices")) if isinstance(part, dict)] or [answer]
    found = []
    for part in parts:
        held = part.get("logprobs", answer if part is answer else None)
        if isinstance(held, list) and held and is_position(held[0]) and isinstance(held[0], dict):
            if "logprob" in held[0]:
                found.append(_listed(held, "chat logprobs"))
        elif isinstance(held, dict) and isinstance(held.get("content"), list) and held["content"]:
            if not is_entry(held["content"][0]):
                return None
            found.append(_listed(held["content"], "chat logprobs"))
        elif isinstance(held, dict) and isinstance(held.get("token_logprobs"), list):
            found.append(_completion(held))
    if not found and "choices" in answer and any("logprobs" in part for part in parts):
        raise UnreadableError(
            "an OpenAI-style answer without log-probabilities; ask with logprobs true and top_logprobs 20 (chat), or "
            "logprobs 5 (completions)"
        )
    return found or None


def _completion(held: dict[str, Any]) -> Document:
    tokens, logprobs = held["tokens"], held["token_logprobs"]
    tops = held.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(logprobs) == len(tops):
        raise ValueError(f"{len(tokens)} tokens, {len(logprobs)} token_logprobs, {len(tops)} top_logprobs")
    read: list[Position | None] = []
    for token, logprob, top in zip(tokens, logprobs, tops, strict=True):
        one = position(top, keyed_by_text=True)
        if one is None:
            read.append(None if logprob is None else Position((), (), (), named(token), logprob))
        else:
            read.append(replace(one, own=named(token), own_logprob=logprob))
    return Document("completions logprobs", read)


def _outputs(answer: dict[str, Any]) -> list[Document] | None:
    """vLLM's offline outputs: ``logprobs`` by id beside ``token_ids``, alone or as ``outputs`` of a request."""
    found = []
    for part in [answer, *(part for part in _list(answer.get("outputs")) if isinstance(part, dict))]:
        listed = part.get("logprobs")
        if isinstance(listed, dict):
            found += [replace(one, output=True) for one in _flat(listed) or []]
        elif isinstance(listed, list) and listed and isinstance(listed[0], dict) and is_position(listed[0]):
            tokens = part.get("token_ids")
            found.append(_listed(listed, "vLLM logprobs", tokens if isinstance(tokens, list) else None))
    return found or None


def _teacher(answer: dict[str, Any]) -> list[Document] | None:
    """Data sets for distillation: positions as lists of entries, or ids and log-probabilities as two lists of lists."""
    lists = {name: value for name, value in answer.items() if isinstance(value, list) and value}
    masked = [name for name, value in lists.items() if "mask" in name and 0 in value]
    entries = [name for name, value in lists.items() if _first(value) and is_position(_first(value))]
    numbers = {name: type(_first(_first(value))) for name, value in lists.items() if isinstance(_first(value), list)}
    ids = [name for name, kind in numbers.items() if kind is int and "mask" not in name]
    logprobs = [name for name, kind in numbers.items() if kind is float and ("logprob" in name or "value" in name)]
    if not entries and not (ids and logprobs):
        return None
    if masked:
        raise UnreadableError(
            f"{masked[0]} marks positions, and whether they are padding or only not trained on is not stated; leave "
            "padding out of the lists, and then the mask as well"
        )
    if len(entries) > 1 or (not entries and (len(ids) > 1 or len(logprobs) > 1)):
        raise UnreadableError(
            f"several lists of log-probabilities, {', '.join(entries or ids + logprobs)}; keep one model's"
        )
    if entries:
        return [_listed(lists[entries[0]], f"teacher data set, {entries[0]}")]
    read: list[Position | None] = []
    for tokens, values in zip(lists[ids[0]], lists[logprobs[0]], strict=True):
        if tokens is None or values is None or not tokens:
            read.append(None)
            continue
        if len(tokens) != len(values):
            raise ValueError(f"{len(tokens)} {ids[0]} but {len(values)} {logprobs[0]} of one position")
        held = [(token, value) for token, value in zip(tokens, values, strict=True) if token != -1]
        read.append(Position([token_id(token) for token, _ in held], [value for _, value in held], best=True))
    return [Document(f"teacher data set, {ids[0]} and {logprobs[0]}", read)]


def _first(values: Any) -> Any:
    return next((value for value in _list(values) if value not in (None, [], {})), None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def grouped(items: Iterable[Record]) -> Iterator[Record]:
    """Records of one array: answers one by one, or, where they are positions, all of them as one text."""
    held: list[Record] = []
    whole: bool | None = None
    for item in items:
        if whole is None and item.value is not None:
            # A whole text of positions is a list too.
            inside = isinstance(item.value, list) and is_position(_first(item.value))
            whole = is_position(item.value) and not inside
        held.append(item)
        if whole is False:
            yield from held
            held = []
    if held:
        yield Record([item.value for item in held], 1, "")
