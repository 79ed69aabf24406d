"""What tells the content of one dump from that of another, wherever it lies and whatever it is called.

A run's key holds it, so that an interrupted run is never continued on other rows
(:meth:`mdsd_bounds.pipeline.evaluate_block.Settings.key`).  Of a native dump it is a checksum of the manifest, which
holds those of its shards; each shard is held against its own before its rows are used
(:mod:`mdsd_bounds.dumps.formats.native`).  Of anything else it is a checksum of the files, whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdsd_bounds.dumps.columns import SAID
from mdsd_bounds.dumps.formats.distillkit import SETTINGS
from mdsd_bounds.dumps.formats.native import MANIFEST
from mdsd_bounds.dumps.token_map import MAP_FILES
from mdsd_bounds.dumps.verified import content_of
from mdsd_bounds.problem import InputError

#: Endings of the files that a folder of each kind is made of; the first kind that is there counts.
_KINDS = (("*.safetensors", (".safetensors", ".json")), ("*.npy", (".npy",)), ("*.parquet", (".parquet", ".json")))
#: What readers look for beside a file that is named alone: columns and token maps, and how rows are compressed.
_BESIDE = {
    ".npy": tuple(f"{name}.npy" for name in (*SAID, *MAP_FILES)),
    ".parquet": (SETTINGS,),
}


@dataclass(frozen=True)
class Source:
    """The files of a dump as they were when their content was taken; can be sent to other processes."""

    files: tuple[tuple[str, int, int], ...] = ()

    def refuse_changed(self) -> None:
        """Refuse results of files that were written to since.

        Raises
        ------
        InputError
            Naming the file.  One that became shorter, or is gone, is named by whoever reads its rows.
        """
        for file, size, time in self.files:
            try:
                now = os.stat(file)
            except OSError:
                continue
            if now.st_size >= size and (now.st_size, now.st_mtime_ns) != (size, time):
                raise InputError(
                    f"{file}: was changed while it was read; finished parts are of what it held before: restore it, "
                    "or delete them, and run again"
                )


#: Of rows that come from no file.
NO_FILES = Source()


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that make up a dump, in order, with those that are read without being named."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            beside = [path.parent / name for name in _BESIDE.get(path.suffix, ())]
            found += [path, *(file for file in beside if file.is_file())]
        elif (path / MANIFEST).exists():
            found.append(path / MANIFEST)
        else:
            endings = next((endings for sign, endings in _KINDS if any(path.glob(sign))), ())
            found += sorted(file for file in path.iterdir() if file.suffix in endings and file.is_file())
    return list(dict.fromkeys(found))


def source_of(paths: Sequence[Path]) -> Source:
    """The files of a dump as they are now."""
    found = []
    for file in files_of(paths):
        state = file.stat()
        found.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    return Source(tuple(found))


def fingerprint(paths: Sequence[Path]) -> str:
    """Digest of a dump's content, and of the names of files in folders, by which readers tell them apart.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files_of(paths):
        inside = "" if file in paths else file.name
        try:
            digest.update(f"{inside}\0{content_of(file)}\n".encode())
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); restore it and run again") from None
    return digest.hexdigest()
