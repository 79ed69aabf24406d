"""Top-k log-probabilities as servers answer them, and as data sets hold them: one model, one reader for all forms.

JSON records (:mod:`mdsd_bounds.dumps.containers.records`) or the rows of a parquet file; each is recognised by its
structure (:mod:`mdsd_bounds.dumps.formats.top_logprobs.answers`), and each position by its own
(:mod:`mdsd_bounds.dumps.formats.top_logprobs.positions`).  Entry t is the distribution OF token t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch

from mdsd_bounds.dumps.boundary import Place, reading
from mdsd_bounds.dumps.containers.files import beginning, once
from mdsd_bounds.dumps.containers.parquet import MAGIC as PARQUET
from mdsd_bounds.dumps.containers.parquet import open_parquet
from mdsd_bounds.dumps.containers.records import Record, is_json, records
from mdsd_bounds.dumps.formats.top_logprobs.answers import Document, documents, grouped, is_answer
from mdsd_bounds.dumps.formats.top_logprobs.positions import Text, UnreadableError
from mdsd_bounds.dumps.formats.top_logprobs.rows import Resolve, Rows
from mdsd_bounds.dumps.single_model import Side, file_size
from mdsd_bounds.problem import InputError

__all__ = ["is_top_logprobs", "open_top_logprobs"]

_REMEDY = "save the server's answer as it is"
#: Bytes of one answer, or of one file that is a single JSON value.
_LONGEST = 1 << 30
#: Records looked at to recognise a file: the first may be an error that the server answered.
_LOOKED_AT = 8
#: Rows of a table read at once.
_BATCH = 64


def is_top_logprobs(path: Path) -> bool:
    """Whether one of the first records has the structure of a known answer.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.dumps.formats.top_logprobs import is_top_logprobs
    >>> file = Path(tempfile.mkdtemp()) / "answers.jsonl"
    >>> _ = file.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}))
    >>> is_top_logprobs(file)
    False
    """
    return bool(once(_recognised, path))


def _recognised(path: Path) -> bool:
    if not (is_json(path) or beginning(path, 4) == PARQUET):
        return False
    try:
        return any(is_answer(record.value) for record, _ in zip(_records(path), range(_LOOKED_AT), strict=False))
    except (InputError, ValueError, EOFError, OSError, RecursionError):
        return False


def _records(path: Path) -> Iterator[Record]:
    """The records of a file; the positions of an array of positions as one."""
    if beginning(path, 4) == PARQUET:
        rows = (row for batch in open_parquet(path).iter_batches(batch_size=_BATCH) for row in batch.to_pylist())
        yield from (Record(row, number, f"row {number}") for number, row in enumerate(rows))
        return
    for array, held in groupby(records(path, _LONGEST), key=lambda record: record.array):
        one = grouped if array >= 0 else iter
        yield from one(held)


def open_top_logprobs(path: Path, resolve: Resolve | None = None) -> Side:
    """Open the answers of a server, or a data set of a teacher's; entries are kept in 16 bytes each.

    Parameters
    ----------
    path : Path
        JSON: one answer, one a line, or an array.
    resolve : callable or None
        Finds the id of a token that is named by its text; without it such answers are refused.

    Raises
    ------
    InputError
        If it is no such file, names tokens by text without a tokenizer, or an entry is damaged; the record and position
        are named.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.dumps.formats.top_logprobs import is_top_logprobs, open_top_logprobs
    >>> first = {"5": {"logprob": -0.2}, "7": {"logprob": -1.9}}
    >>> answer = {"prompt_token_ids": [1, 5, 7], "prompt_logprobs": [None, first, {"7": {"logprob": -0.1}}]}
    >>> file = Path(tempfile.mkdtemp()) / "answers.jsonl"
    >>> _ = file.write_text(json.dumps(answer))
    >>> is_top_logprobs(file), open_top_logprobs(file).support
    (True, 'top-k')
    """
    rows = Rows(path, resolve or _no_tokenizer)
    columns: dict[str, list[int]] = {"doc": [], "position": [], "token": []}
    forms: dict[str, None] = {}
    left_out, again = 0, 0
    prompts: set[bytes] = set()
    unsure: dict[str, None] = {}
    with reading(path, "top-k log-probabilities", _REMEDY) as place:
        try:
            doc = -1
            for where, document in _documents(path, place):
                if not document.output and (text := document.text()) in prompts:
                    again += len(document.positions)
                    continue
                if not document.output:
                    prompts.add(text)
                doc += 1
                forms[document.form] = None
                left_out += document.left_out
                if document.unsure:
                    unsure[document.unsure] = None
                for number, position in enumerate(document.positions):
                    place.at = f"{where} position {number}".lstrip()
                    if position is None:
                        if number:
                            raise UnreadableError("it is empty; ask for the log-probabilities again")
                        continue
                    columns["token"].append(rows.append(position, output=document.output))
                    columns["doc"].append(doc)
                    columns["position"].append(number)
        except UnreadableError as error:
            raise InputError(f"{path} {place.at}".rstrip() + f": {error}") from error
    if not len(rows):
        raise InputError(
            f"{path}: no log-probabilities; ask the server for k of them, k at least 1 (vLLM: prompt_logprobs)"
        )
    rows.refuse_zeros()
    return _side(path, rows, columns, Facts(list(forms), left_out, list(unsure), again))


@dataclass(frozen=True)
class Facts:
    """Forms of the answers, positions that are not read, what is left open, and positions of prompts seen before."""

    forms: list[str]
    left_out: int
    unsure: list[str]
    again: int = 0


def _side(path: Path, rows: Rows, columns: dict[str, list[int]], facts: Facts) -> Side:
    ends = rows.ends
    notes: dict[str, Any] = {"tokens a row": f"at most {max(b - a for a, b in pairwise(ends))}"}
    if facts.left_out:
        notes["left out"] = f"{facts.left_out} positions of the continuations; those of the prompt are read"
    if facts.again:
        notes["prompts again"] = (
            f"{facts.again} positions of prompts that stand in the file before, as every choice of an answer with n of "
            "2 or more repeats its prompt; each prompt is read once"
        )
    if rows.dropped:
        notes["texts of several tokens"] = f"in {rows.dropped} positions; their mass counts as unknown"
    if facts.unsure:
        notes["values"] = "; ".join(facts.unsure)
    held = {name: torch.tensor(values) for name, values in columns.items()}
    if bool((held["token"] < 0).all()):
        del held["token"]
    return Side(
        str(path),
        ", ".join(facts.forms),
        len(rows),
        None,
        "float32",
        rows.reader(),
        held,
        kind="logprobs",
        support="top-k",
        shift="same",
        bytes=file_size(path),
        largest=max(rows.ids),
        notes=notes,
    )


def _documents(path: Path, place: Place) -> Iterator[tuple[str, Document]]:
    for record in _records(path):
        place.at = record.at
        found = documents(record.value)
        if found is None:
            raise UnreadableError(
                "it has the structure of no known answer; remove it, or save the server's answers as they are"
            )
        for document in found:
            yield record.at, document


def _no_tokenizer(token: Text) -> int | None:
    raise UnreadableError(
        f"names its tokens by text ({token.text!r}), and different tokens can have one text; ask the server for token "
        'ids (vLLM: "return_tokens_as_token_ids": true; SGLang and llama-server give ids), or name the '
        "model's tokenizer.json with --tokenizer"
    )
