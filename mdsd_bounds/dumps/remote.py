"""Dumps on any file system that fsspec knows (``s3://``, ``gs://``, ``memory://``, ...).

A native dump is read shard by shard as rows are asked for, so that a worker fetches what it computes; of any other
format the whole file or folder is fetched once.  What was fetched lies in a temporary folder until the dump is no
longer used.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.filesystem import split
from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.boundary import reason
from mdsd_bounds.dumps.fingerprint import fingerprint
from mdsd_bounds.dumps.formats.native import MANIFEST, open_native
from mdsd_bounds.problem import InputError

#: Fetched shards of a native dump that are kept at once.
KEPT = 2


def open_remote(url: str, open_local: Callable[[str], Dump]) -> Dump:
    """Open a dump at a URL.

    Parameters
    ----------
    url : str
        One file or folder, with its protocol.
    open_local : callable
        Opens what was fetched.

    Raises
    ------
    InputError
        If nothing is there, it cannot be fetched, or it is no dump.
    """
    with _fetching(url):
        fs, path = split(url)
        if not fs.exists(path):
            raise InputError(f"{url}: no such file or folder; give a dump (see mdsd inspect --help)")
        if fs.exists(f"{path}/{MANIFEST}"):
            return _native(url, fs, path)
        folder = _Folder()
        copy = folder.path / path.rstrip("/").rsplit("/", 1)[-1]
        fs.get(path.rstrip("/"), str(copy), recursive=fs.isdir(path))
    dump = open_local(str(copy))

    def read_rows(start: int, stop: int, held: Any = folder) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return dump.read_rows(start, stop)

    return Dump(replace(dump.facts, path=url), read_rows, dump.content)


def _native(url: str, fs: Any, path: str) -> Dump:
    """A native dump as a row of one-shard dumps, each fetched when one of its rows is asked for."""
    text = fs.cat_file(f"{path}/{MANIFEST}").decode()
    try:
        manifest = json.loads(text)
        shards = [(str(shard["file"]), int(shard["rows"])) for shard in manifest["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}/{MANIFEST}: invalid manifest ({error}); write the dump again") from None
    if not shards:
        raise InputError(f"{url}: the dump has no rows; log some positions first")
    others = [
        name
        for name in fs.find(path)
        if not str(name).endswith(f"/{MANIFEST}")
        and not str(name).rsplit("/", 1)[-1].startswith(".")
        and str(name).rsplit("/", 1)[-1] not in {file for file, _ in shards}
    ]
    starts = [sum(rows for _, rows in shards[:i]) for i in range(len(shards))]
    kept: dict[int, tuple[_Folder, Dump]] = {}

    def shard(number: int) -> Dump:
        if number not in kept:
            while len(kept) >= KEPT:
                kept.pop(next(iter(kept)))
            folder = _Folder()
            one = {**manifest, "shards": [manifest["shards"][number]]}
            (folder.path / MANIFEST).write_text(json.dumps(one))
            with _fetching(url):
                for name in [f"{path}/{shards[number][0]}", *others]:
                    fs.get_file(name, str(folder.path / str(name).rsplit("/", 1)[-1]))
            kept[number] = folder, open_native(folder.path)
        return kept[number][1]

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        pieces = []
        for number, (first, (_, rows)) in enumerate(zip(starts, shards, strict=True)):
            low, high = max(start - first, 0), min(stop - first, rows)
            if low < high:
                pieces.append(shard(number).read_rows(low, high))
        columns = {name: torch.cat([piece[2][name] for piece in pieces]) for name in pieces[0][2]}
        return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces]), columns

    first, rows = shard(0).facts, starts[-1] + shards[-1][1]
    notes = dict(first.notes)
    if "unfinished" in notes:
        notes["unfinished"] = f"the run that wrote it stopped after {rows} rows; run it again to continue"
    size = sum(int(fs.size(name)) for name in fs.find(path) if not str(name).rsplit("/", 1)[-1].startswith("."))

    def content() -> str:
        # As that of the same dump on a local disk.
        folder = _Folder()
        (folder.path / MANIFEST).write_text(text)
        return fingerprint([folder.path])

    return Dump(replace(first, path=url, rows=rows, bytes=size, notes=notes), read_rows, content)


class _Folder:
    """A temporary folder that goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mdsd-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@contextlib.contextmanager
def _fetching(url: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Every file system has errors of its own: credentials, protocols, missing packages.
        raise InputError(f"{url}: could not be fetched ({reason(error)}); finished parts are intact") from error
