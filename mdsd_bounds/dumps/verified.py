"""Checksums of files, computed once for each content and remembered.

A checksum is remembered with the path, size, time of change and inode of its file: while these stand, the file is taken
to hold what it held.  Those of a native dump's shards are kept in the dump's folder (:data:`RECORD`), or in the user's
cache folder where that cannot be written; those of single files always in the cache folder.  A file that was changed
less than two seconds before it was read is not remembered: another change within the resolution of its clock would
leave no trace.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

#: In the folder of a native dump: one JSON object a line, later lines overrule earlier ones.
RECORD = ".verified.jsonl"
#: Nanoseconds within which a file system's clock may give two changes the same time.
_RACY = 2_000_000_000
_CHUNK = 1 << 22

#: Name of a checksum in a manifest -> what computes it.  XXH3 is several times as fast as SHA-256, and finds every
#: accident; SHA-256 also stands against intent.
ALGORITHMS: dict[str, Any] = {"xxh3_128": xxhash.xxh3_128, "sha256": hashlib.sha256}


def digest_of(stream: BinaryIO, algorithm: str) -> str:
    """Checksum of a whole open file, in hexadecimal digits; the place in the file is left at its beginning."""
    found, memory = ALGORITHMS[algorithm](), bytearray(_CHUNK)
    view = memoryview(memory)
    stream.seek(0)
    while count := stream.readinto(memory):  # type: ignore[attr-defined]
        found.update(view[:count])
    stream.seek(0)
    return str(found.hexdigest())


class Record:
    """Checksums of the files of one folder.

    Parameters
    ----------
    folder : Path
        Where the files are.
    beside : bool
        Keep them in that folder where it can be written; else in the cache folder.
    """

    def __init__(self, folder: Path, beside: bool) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        cached = _cache_file(folder)
        self._files = [file for file in (folder / RECORD if beside else None, cached) if file is not None]
        for file in reversed(self._files):
            self._known |= _read(file)

    def digest(self, file: Path, stream: BinaryIO, algorithm: str) -> str:
        """Checksum of an open file of the folder; read whole only where none is remembered.

        The answer is about the file that is open, whatever has its name by now.
        """
        state, begun = _state(os.fstat(stream.fileno())), time.time_ns()
        known = self._known.get(file.name, {})
        if known.get("state") == state and isinstance(known.get(algorithm), str):
            return str(known[algorithm])
        found = digest_of(stream, algorithm)
        if _state(os.fstat(stream.fileno())) == state:
            same = known if known.get("state") == state else {}
            self._known[file.name] = {**same, "file": file.name, "state": state, algorithm: found}
            if begun - max(state[1], state[2]) > _RACY:
                self._remember(self._known[file.name])
        return found

    def _remember(self, entry: Mapping[str, Any]) -> None:
        # One write of one line: processes that verify at the same time do not tear each other's lines, and a line that
        # a full disk tears is not read.
        line = f"\n{json.dumps(entry)}\n".encode()
        for file in self._files:
            with contextlib.suppress(OSError):
                if file.parent != self.folder:
                    file.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                try:
                    os.write(handle, line)
                finally:
                    os.close(handle)
                return


def content_of(file: Path) -> str:
    """Checksum of a single file's whole content, remembered in the cache folder.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with file.open("rb", buffering=0) as stream:
        return Record(file.absolute().parent, beside=False).digest(file, stream, "xxh3_128")


def _state(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _cache_file(folder: Path) -> Path | None:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        return None
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return Path(home) / "mdsd_bounds" / "checksums" / f"{name}.jsonl"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                found[entry["file"]] = entry
    return found
