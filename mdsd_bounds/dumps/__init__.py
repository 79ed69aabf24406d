"""Dumps of logits: one native format and readers for what other programs write.

``open_dump`` recognises a dump by its content (magic bytes, a manifest, the arrays inside), not by its extension alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from mdsd_bounds._backend.filesystem import split
from mdsd_bounds.dumps.base import Dump, Facts, LogitBatch
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import opened_files, opening
from mdsd_bounds.dumps.example import EXAMPLE
from mdsd_bounds.dumps.fingerprint import files_of, fingerprint
from mdsd_bounds.dumps.formats.named_arrays import refuse_unfinished
from mdsd_bounds.dumps.formats.native import DumpWriter
from mdsd_bounds.dumps.formats.top_logprobs.tokenizer import tokenizer_file
from mdsd_bounds.dumps.how_to_read import PLAIN, HowToRead, named, parted
from mdsd_bounds.dumps.readers import READERS, SIDES, open_side, side_format
from mdsd_bounds.dumps.remote import open_remote
from mdsd_bounds.dumps.single_model import Side
from mdsd_bounds.dumps.unrecognised import described
from mdsd_bounds.problem import InputError

__all__ = [
    "READERS",
    "SIDES",
    "Dump",
    "DumpWriter",
    "Facts",
    "LogitBatch",
    "Side",
    "inspect_dump",
    "open_dump",
    "open_pair",
    "open_side",
]


def open_pair(target: str | os.PathLike[str], draft: str | os.PathLike[str]) -> Dump:
    """Open the target's and the draft's one-model files, of any formats, as one dump.

    Raises
    ------
    InputError
        As :func:`open_dump`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from mdsd_bounds.dumps import open_pair
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "target.npy", np.zeros((3, 8), dtype=np.float32))
    >>> np.savez(folder / "draft.npz", logits=np.ones((3, 8), dtype=np.float32))
    >>> len(open_pair(folder / "target.npy", folder / "draft.npz"))
    3
    """
    return _open([Path(target), Path(draft)], f"{os.fspath(target)},{os.fspath(draft)}", PLAIN)


def open_dump(path: str | os.PathLike[str]) -> Dump:
    """Open a dump for lazy reading.

    Parameters
    ----------
    path : str
        A file or folder in any format of :data:`READERS`, or two files joined by a comma, target first:
        ``"target.npy,draft.npy"``; or the URL of one file or folder (:mod:`mdsd_bounds.dumps.remote`).  How it is to be
        read may follow (:mod:`mdsd_bounds.dumps.how_to_read`): ``"pair.npz#head=2"``.  The word ``"example"``, where no
        such file exists, is the dump that ships with the package (:func:`mdsd_bounds.load_example`).

    Returns
    -------
    Dump
        ``len(dump)`` positions; ``dump.facts``; ``dump.batches(batch_size)`` yields :class:`LogitBatch`.

    Raises
    ------
    InputError
        If the path does not exist, the format is unknown, or the content is damaged.

    Examples
    --------
    >>> from mdsd_bounds import load_example, open_dump
    >>> dump = open_dump(load_example().facts.path)
    >>> dump.facts.rows, dump.facts.target_width
    (32, 151936)
    """
    label, how = parted(os.fspath(path))
    return _open_label(label, how)


def _open_label(label: str, how: HowToRead) -> Dump:
    if label.startswith("file://"):
        label = split(label)[1]
    name = label if how == PLAIN else named(label, head=how.head, tokenizer=how.tokenizer)
    if "://" in label:
        fetched = open_remote(label, lambda copy: _open_label(copy, how))
        return replace(fetched, facts=replace(fetched.facts, path=name))
    with reading(label, "path", "give the name of a file or folder"):
        paths = [Path(label)] if Path(label).exists() else [Path(part) for part in label.split(",")]
    # An empty path is the working folder: what a variable that is not set would name.
    if not label or (len(paths) > 1 and "" in label.split(",")):
        raise InputError(f"{label!r}: a name is empty; give the name of a file or folder (. is this folder)")
    if label == "example" and not paths[0].exists():
        paths = [EXAMPLE]
    dump = _open(paths, label, how)
    if how.head and how.head >= dump.facts.heads:
        raise InputError(f"{label}: head {how.head} is asked for, and the draft has one head; leave --head out")
    return replace(dump, facts=replace(dump.facts, path=name))


def _open(paths: list[Path], label: str, how: HowToRead) -> Dump:
    """The dump at these paths; what a library raises while it is recognised, opened or read becomes one line."""
    with opening():
        with reading(label, "dump"):
            form = _format(paths, label)
        with reading(label, form):
            dump = READERS[form].open(paths, label, how)
        # What was read without being named is content as well: columns, token maps, settings beside the rows.
        named = files_of(paths)
        beside = [file for file in opened_files() if file not in named]

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with reading(label, form) as place:
            place.at = f"rows {start} to {stop - 1}"
            return dump.read_rows(start, stop)

    return replace(
        dump,
        read_rows=read_rows,
        content=cache(lambda: _content([*paths, *beside], how)),
        paths=tuple(paths),
        beside=tuple(beside),
    )


def _content(paths: list[Path], how: HowToRead) -> str:
    """Digest of the content of files, and of how they are read: another head has other rows."""
    files = paths if not how.tokenizer else [*paths, tokenizer_file(how.tokenizer)]
    digest = fingerprint(files)
    return digest if how.head is None else f"{digest} head {how.head}"


def _format(paths: list[Path], label: str) -> str:
    """Name in :data:`READERS` of the format that the content has."""
    for part in paths:
        if not part.exists():
            raise InputError(f"{part}: no such file or folder; give a dump (see mdsd inspect --help)")
    if len(paths) > 2:
        raise InputError(f"{label}: {len(paths)} paths; give one dump, or target and draft joined by a comma")
    for part in paths:
        refuse_unfinished(part)
    for name, reader in READERS.items():
        if reader.recognise(paths):
            return name
    one_model = next((name for part in paths if (name := side_format(part))), "")
    if len(paths) == 1 and one_model:
        raise InputError(
            f"{label}: holds one model ({one_model}); give target and draft, {label},DRAFT, or join them with "
            "mdsd convert TARGET DRAFT OUT"
        )
    known = ", ".join(sorted({*READERS, *SIDES}))
    unknown = next((part for part in paths if not side_format(part)), paths[0])
    what = described(unknown) if len(paths) == 1 else f"{unknown}: {described(unknown)}"
    raise InputError(f"{label}: not recognised as any of {known}; {what}")


def inspect_dump(path: str) -> dict[str, Any]:
    """Facts of a dump as a flat mapping, for people and for JSON (:mod:`mdsd_bounds.dumps.inspect`).

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mdsd_bounds.dumps import inspect_dump
    >>> file = tempfile.mkdtemp() + "/pair.npz"
    >>> np.savez(file, target_logits=np.zeros((3, 8)), draft_logits=np.ones((3, 8)))
    >>> facts = inspect_dump(file)
    >>> facts["format"], facts["positions"], facts["target width"]
    ('npz', 3, 8)
    """
    from mdsd_bounds.dumps.inspect import inspect

    return inspect(open_dump(path))
