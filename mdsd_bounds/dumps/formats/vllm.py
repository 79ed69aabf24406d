"""vLLM prompt log-probabilities: JSON as its server answers, or the flat form; one model, top-k rows.

Entry t is the distribution OF token t (the first is empty), and holds the k most probable tokens and, if it is not
among them, the prompt's own token: k or k + 1 entries.  Accepted: one JSON value or one per line, each

* an object with ``prompt_logprobs`` (or ``choices[i].prompt_logprobs``, as the server writes), or that list itself:
  ``[null, {"token id": {"logprob": x, "rank": r}, ...}, ...]``, the own token first where ranks are absent;
* the flat form, an object of lists: ``start_indices``, ``end_indices``, ``token_ids``, ``logprobs``, ``ranks``.

``prompt_token_ids``, where present, names the tokens; otherwise the first entry of each position does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.containers.files import beginning
from mdsd_bounds.dumps.containers.text import BOM, integer, lines, parse, whole_text
from mdsd_bounds.dumps.single_model import Side, file_size
from mdsd_bounds.problem import InputError

_REMEDY = "save the server's answer, or FlatLogprobs as a JSON object"
#: Bytes of one answer, or of one file that is a single JSON value.
_LONGEST = 1 << 30
#: A position: token ids, log-probabilities, ranks (0 where unknown); the prompt's own token first.
Entry = tuple[list[int], list[float], list[int]]


def is_vllm(path: Path) -> bool:
    """Whether the beginning of the file names one of the two forms."""
    head = beginning(path, 4096).removeprefix(BOM)
    return head.lstrip()[:1] in (b"{", b"[") and (
        b'"prompt_logprobs"' in head or b'"start_indices"' in head or b'"logprob"' in head
    )


def open_vllm(path: Path) -> Side:
    """Open prompt log-probabilities.  The file is parsed whole: memory grows with positions times k.

    Raises
    ------
    InputError
        If it is no such JSON, or an entry is damaged; the prompt and position are named.
    """
    entries: list[Entry] = []
    columns: dict[str, list[int]] = {"doc": [], "position": [], "token": []}
    for doc, (positions, tokens) in enumerate(_documents(path)):
        if tokens and len(tokens) != len(positions):
            raise InputError(
                f"{path} prompt {doc}: {len(positions)} positions but {len(tokens)} prompt_token_ids; save both from "
                "one answer"
            )
        for place, entry in enumerate(positions):
            if not entry[0]:
                if place:
                    raise InputError(f"{path} prompt {doc}: position {place} is empty; ask for prompt_logprobs again")
                continue
            if tokens and (own := _own(entry)) is not None and own != tokens[place]:
                raise InputError(
                    f"{path} prompt {doc}: prompt_token_ids has {tokens[place]} at position {place}, whose own token "
                    f"is {own}; save both from one answer"
                )
            entries.append(entry)
            columns["doc"].append(doc)
            columns["position"].append(place)
            columns["token"].append(tokens[place] if tokens else entry[0][0])
    if not entries:
        raise InputError(f"{path}: no prompt log-probabilities; ask the server for prompt_logprobs=k with k >= 1")
    width = max(len(ids) for ids, _, _ in entries)
    ids = torch.full((len(entries), width), -1, dtype=torch.int64)
    logprobs = torch.full((len(entries), width), -float("inf"), dtype=torch.float64)
    cap = torch.empty(len(entries), dtype=torch.float64)
    for row, entry in enumerate(entries):
        ids[row, : len(entry[0])] = torch.tensor(entry[0])
        logprobs[row, : len(entry[0])] = torch.tensor(entry[1], dtype=torch.float64)
        cap[row] = _cap(entry)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        part = slice(start, stop)
        return dense_top_k(ids[part], logprobs[part], width, str(path), start, rest=Rest(cap=cap[part]))

    return Side(
        str(path),
        "vllm",
        len(entries),
        None,
        "float32",
        read,
        {name: torch.tensor(values) for name, values in columns.items()},
        kind="logprobs",
        support="top-k",
        shift="same",
        bytes=file_size(path),
        largest=int(ids.max()),
        notes={"tokens a row": f"at most {width}"},
    )


def _cap(entry: Entry) -> float:
    """The least log-probability of the true top-k: a token that is not stored has no more."""
    ids, logprobs, ranks = entry
    best = dict(zip(ranks, logprobs, strict=True))
    held = 0
    while held + 1 in best:
        held += 1
    if held:
        return best[held]
    # Without ranks the own token, the first, may be out of order; the others are the top-k less at most that one.
    rest = logprobs[1:] if len(ids) > 1 else []
    return min(rest) if rest else float("inf")


def _own(entry: Entry) -> int | None:
    """The prompt's own token, where its place or its rank gives it away; among the k most probable it looks like any.

    (Files of :func:`mdsd_bounds.dumps.convert.convert` lack it where it is not among the k.)
    """
    ids, _, ranks = entry
    best = set(ranks)
    apart = [token for token, rank in zip(ids, ranks, strict=True) if rank > 1 and rank - 1 not in best]
    if len(apart) == 1:
        return apart[0]
    return ids[0] if ranks[0] > 1 and ranks[0] > min(ranks) > 0 else None


def _documents(path: Path) -> Iterator[tuple[list[Entry], list[int]]]:
    with reading(path, "prompt log-probabilities", _REMEDY) as place:
        for where, value in _values(path):
            place.at = where
            many = value if isinstance(value, list) and value and _is_answer(value[0]) else [value]
            for answer in many:
                for part in answer.get("choices", [answer]) if isinstance(answer, dict) else [answer]:
                    tokens = (
                        part.get("prompt_token_ids") or answer.get("prompt_token_ids") if _is_answer(part) else None
                    )
                    listed = part.get("prompt_logprobs", part) if _is_answer(part) else part
                    entries, ids = _entries(listed), [integer(token) for token in tokens or []]
                    if ids and len(ids) != len(entries):
                        raise ValueError(f"{len(ids)} prompt_token_ids but {len(entries)} positions")
                    yield entries, ids


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file with their places: one a line, or a single one over several lines."""
    first = True
    for number, line in lines(path, _LONGEST):
        try:
            value = parse(line)
        except json.JSONDecodeError as error:
            if first:
                break
            raise InputError(f"{path} line {number}: no JSON ({error.msg}); write it again") from error
        first = False
        yield f"line {number}", value
    if first:
        try:
            yield "", parse(whole_text(path, _LONGEST))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {error.lineno}: no JSON ({error.msg}); write it again") from error


def _is_answer(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in ("prompt_logprobs", "choices", "start_indices"))


def _entries(listed: Any) -> list[Entry]:
    if isinstance(listed, dict):
        flat = listed
        ranks = flat.get("ranks") or [0] * len(flat["token_ids"])
        spans = zip(flat["start_indices"], flat["end_indices"], strict=True)
        return [_entry(flat["token_ids"][a:b], flat["logprobs"][a:b], ranks[a:b]) for a, b in spans]
    result = []
    for position in listed:
        items = list((position or {}).items())
        facts = [value if isinstance(value, dict) else {"logprob": value} for _, value in items]
        result.append(
            _entry([key for key, _ in items], [fact["logprob"] for fact in facts], [fact.get("rank") for fact in facts])
        )
    return result


def _entry(ids: list[Any], logprobs: list[Any], ranks: list[Any]) -> Entry:
    kept: dict[int, tuple[float, int]] = {}
    for name, value, rank in zip(ids, logprobs, ranks, strict=True):
        token, logprob = integer(name), float(value)
        if token < 0:
            raise ValueError(f"{name!r} is no token id")
        if math.isnan(logprob):
            raise ValueError(f"token {token} has the log-probability NaN")
        # The flat form lists the own token twice when it is among the k most probable.
        if kept.setdefault(token, (logprob, integer(rank or 0)))[0] != logprob:
            raise ValueError(f"token {token} has two log-probabilities")
    return list(kept), [value for value, _ in kept.values()], [rank for _, rank in kept.values()]
