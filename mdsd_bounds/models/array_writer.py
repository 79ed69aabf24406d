"""Write named arrays row by row: the small forms of a dump (hidden states, top-k), as ``mdsd_bounds.dumps`` reads them.

A folder holds ``rows.safetensors`` (arrays that grow with the rows), files of arrays that do not (the heads), and
``facts.json``.  Until the run is complete the rows lie in numbered parts, each written whole and renamed: a run killed
at any moment goes on after its last part, and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from mdsd_bounds._backend.whole_files import leftovers, remove_leftovers, whole_file, write_whole
from mdsd_bounds.dumps.containers.files import Array
from mdsd_bounds.dumps.containers.safetensors import open_safetensors, safetensors_bytes, write_safetensors
from mdsd_bounds.problem import InputError

INTACT = "finished parts are intact: make room and run again"


class ArrayWriter:
    """Appends rows of named arrays to a folder; opened on an unfinished one it continues.

    Parameters
    ----------
    path : str or Path
        The folder, made if absent.
    facts : mapping
        Kept in ``facts.json``; a folder with other facts is refused.

    Attributes
    ----------
    rows : int
        Rows on disk.
    complete : bool
        Whether the folder was closed as whole before.
    """

    def __init__(self, path: str | Path, facts: Mapping[str, Any]) -> None:
        self.path = Path(path)
        text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = self.path / "facts.json"
            if held.exists() and held.read_text() != text:
                raise InputError(
                    f"{path}: holds a dump of another run (facts.json differs); delete it or write elsewhere"
                )
            foreign = sorted({file.name for file in self.path.iterdir()} - {file.name for file in leftovers(self.path)})
            if not held.exists() and foreign:
                raise InputError(
                    f"{path}: is not empty and holds no facts.json ({foreign[0]}); write to a folder of its own"
                )
        except OSError as error:
            raise InputError(f"{path}: cannot make the dump's folder ({error.strerror})") from None
        remove_leftovers(self.path)
        if not held.exists():
            write_whole(held, text.encode(), INTACT)
        self.complete = (self.path / "rows.safetensors").exists()
        if self.complete:
            for part in self._parts():
                part.unlink()
        files = [self.path / "rows.safetensors"] if self.complete else self._parts()
        self.rows = sum(rows_of(file) for file in files)

    @property
    def parts(self) -> int:
        """Parts on disk; none where the folder is complete."""
        return len(self._parts())

    def append(self, arrays: Mapping[str, Tensor]) -> None:
        """Add rows; every array has the same first axis, and every call the same names."""
        write_whole(self.path / f"rows-{len(self._parts()):06d}.part", safetensors_bytes(arrays), INTACT)
        self.rows += next(iter(arrays.values())).shape[0]

    def put(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Write arrays that are stored once, in a file of their own; nothing happens where it is there."""
        file = self.path / f"{name}.safetensors"
        if not file.exists():
            write_whole(file, safetensors_bytes(arrays), INTACT)

    def close(self) -> None:
        """Put the parts together, array by array, and delete them.

        Raises
        ------
        InputError
            If there are no rows, or the disk is full; the parts stay.
        """
        parts = self._parts()
        if not parts:
            raise InputError(f"{self.path}: nothing was written; append rows before closing")
        with whole_file(self.path / "rows.safetensors", INTACT) as temporary, temporary.open("wb") as stream:
            _join(parts, stream)
        for part in parts:
            part.unlink()
        self.complete = True

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("rows-*.part"))


def rows_of(file: Path) -> int:
    """Rows of a file of named arrays."""
    for array in _arrays(file).values():
        if array.shape:
            return array.shape[0]
    raise InputError(f"{file}: holds no array with rows; delete it and run again")


def _arrays(file: Path) -> dict[str, Array]:
    return open_safetensors(file, "write it again; or delete it and run again")


def _join(parts: list[Path], stream: BinaryIO) -> None:
    """One safetensors file from many, with one array of one part in memory at a time."""
    rows = sum(rows_of(part) for part in parts)
    first = {name: array.whole() for name, array in _arrays(parts[0]).items()}
    names = sorted(first, key=lambda name: (-first[name].element_size(), name))
    layout = {name: (first[name].dtype, (rows, *first[name].shape[1:])) for name in names}
    write_safetensors(stream, layout, (_arrays(part)[name].whole() for name in names for part in parts))
