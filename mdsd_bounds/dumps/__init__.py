"""Dumps of logits: one native format and readers for what other programs write.

``open_dump`` recognises a dump by its content (magic bytes, a manifest, the arrays inside), not by its extension alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.arrays import open_npy_pair, open_npz, open_pt, open_safetensors
from mdsd_bounds.dumps.base import Dump, Facts, LogitBatch
from mdsd_bounds.dumps.native import MANIFEST, DumpWriter, open_native
from mdsd_bounds.problem import InputError

__all__ = ["READERS", "Dump", "DumpWriter", "Facts", "LogitBatch", "inspect_dump", "open_dump"]


def _is_native(paths: list[Path]) -> bool:
    return len(paths) == 1 and (paths[0] / MANIFEST).exists()


def _open_npy(paths: list[Path], label: str) -> Dump:
    target, draft = _pair_in_folder(paths, ".npy")
    return open_npy_pair(target, draft, label)


def _pair_in_folder(paths: list[Path], suffix: str) -> list[Path]:
    if len(paths) == 1 and paths[0].is_dir():
        files = [paths[0] / f"{name}{suffix}" for name in ("target_logits", "draft_logits")]
        return files if all(file.exists() for file in files) else []
    return paths


def _starts(paths: list[Path], magic: bytes) -> bool:
    return bool(paths) and all(path.is_file() and _head(path).startswith(magic) for path in paths)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)


def _is_safetensors(paths: list[Path]) -> bool:
    # Eight bytes of header length, then the JSON header.
    return bool(paths) and all(path.is_file() and _head(path)[8:9] == b"{" for path in paths)


def _zip_of(path: Path, inside: str) -> bool:
    import zipfile

    if not _starts([path], b"PK\x03\x04"):
        return False
    if not zipfile.is_zipfile(path):
        return path.suffix == inside
    with zipfile.ZipFile(path) as archive:
        is_torch = any(name.endswith("data.pkl") for name in archive.namelist())
    return is_torch == (inside == ".pt")


Recognise = Callable[[list[Path]], bool]
Open = Callable[[list[Path], str], Dump]

#: Format name -> (does the content look like it, how to open it).  ``paths`` is one path, or target and draft.
READERS: dict[str, tuple[Recognise, Open]] = {
    "native": (_is_native, lambda paths, label: open_native(paths[0])),
    "npz": (lambda paths: len(paths) == 1 and _zip_of(paths[0], ".npz"), lambda paths, label: open_npz(paths[0])),
    "npy": (
        lambda paths: len(pair := _pair_in_folder(paths, ".npy")) == 2 and _starts(pair, b"\x93NUMPY"),
        _open_npy,
    ),
    "safetensors": (
        lambda paths: _is_safetensors(_pair_in_folder(paths, ".safetensors")),
        lambda paths, label: open_safetensors(_pair_in_folder(paths, ".safetensors"), label),
    ),
    "pt": (lambda paths: len(paths) == 1 and _zip_of(paths[0], ".pt"), lambda paths, label: open_pt(paths[0])),
}


def open_dump(path: str | os.PathLike[str]) -> Dump:
    """Open a dump for lazy reading.

    Parameters
    ----------
    path : str
        A file or folder in any format of :data:`READERS`, or two files joined by a comma, target first:
        ``"target.npy,draft.npy"``.

    Returns
    -------
    Dump
        ``len(dump)`` positions; ``dump.facts``; ``dump.batches(batch_size)`` yields :class:`LogitBatch`.

    Raises
    ------
    InputError
        If the path does not exist, the format is unknown, or the content is damaged.
    """
    label = os.fspath(path)
    paths = [Path(label)] if Path(label).exists() else [Path(part) for part in label.split(",")]
    for part in paths:
        if not part.exists():
            raise InputError(f"{part}: no such file or folder; give a dump (see mdsd inspect --help)")
    if len(paths) > 2:
        raise InputError(f"{label}: {len(paths)} paths; give one dump, or target and draft joined by a comma")
    for recognise, opener in READERS.values():
        if recognise(paths):
            return opener(paths, label)
    raise InputError(f"{label}: not recognised as any of {', '.join(READERS)}; wrong magic bytes or an incomplete file")


def inspect_dump(path: str) -> dict[str, Any]:
    """Facts of a dump as a flat mapping, for people and for JSON; the first row is read to state the pad mass."""
    from mdsd_bounds.distributions import pad_mass

    dump = open_dump(path)
    facts = dump.facts
    width = min(facts.target_width, facts.draft_width)
    target, draft, columns = dump.read_rows(0, 1)
    item = target.element_size()
    pads = [float(pad_mass(rows, width)[0]) for rows in (target, draft)]
    row_bytes = item * (facts.target_width + facts.draft_width)
    lines: dict[str, Any] = {
        "path": facts.path,
        "format": facts.format,
        "positions": facts.rows,
        "documents": _documents(dump) if "doc" in columns else "not recorded",
        "vocabulary": width,
        "target width": facts.target_width,
        "draft width": facts.draft_width,
        "pad mass, first row": f"target {pads[0]:.3g}, draft {pads[1]:.3g}",
        "kind": facts.kind,
        "support": facts.support,
        "row t is the law of": "token t + 1" if facts.shift == "next" else "token t",
        "stage": facts.stage,
        "dtype": facts.dtype,
        "columns": ", ".join(columns) or "none",
        "size": f"{facts.bytes / 1e6:.1f} MB, {row_bytes / 1e3:.0f} kB a position",
    }
    return lines | {str(name): value for name, value in facts.notes.items()}


def _documents(dump: Dump) -> int:
    seen: set[int] = set()
    for start in range(0, len(dump), 256):
        _, _, columns = dump.read_rows(start, min(start + 256, len(dump)))
        seen.update(columns["doc"].tolist())
    return len(seen)
