"""Named arrays in a file, read lazily: .safetensors, .npz, .pt, .npy, .parquet.  Readers say what the arrays mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mdsd_bounds.dumps.containers.files import Array, beginning, once
from mdsd_bounds.dumps.containers.numpy_arrays import MAGIC, open_npy, open_npz
from mdsd_bounds.dumps.containers.parquet import MAGIC as PARQUET
from mdsd_bounds.dumps.containers.parquet import open_columns
from mdsd_bounds.dumps.containers.safetensors import open_safetensors
from mdsd_bounds.dumps.containers.torch_zip import PICKLE, open_torch
from mdsd_bounds.dumps.containers.zip_members import MAGIC as ZIP
from mdsd_bounds.dumps.containers.zip_members import open_zip
from mdsd_bounds.dumps.unrecognised import described
from mdsd_bounds.problem import InputError

__all__ = ["PAIR", "Array", "array_form", "arrays_beside", "open_arrays"]

#: Names of the rows of both models: of arrays in one file, or of files in a folder.
PAIR = ("target_logits", "draft_logits")


def array_form(path: Path) -> str:
    """``safetensors``, ``npy``, ``npz``, ``pt`` or ``parquet``, by content; empty for anything else.

    An archive whose directory is damaged goes by its ending, so that its reader names the damage.
    """
    return once(_form, path)


def _form(path: Path) -> str:
    head = beginning(path)
    if head.startswith(MAGIC):
        return "npy"
    if head.startswith(PARQUET):
        return "parquet"
    if head[8:9] == b"{":
        # Eight bytes of header length, then the JSON header.
        return "safetensors"
    if not head.startswith(ZIP):
        return ""
    try:
        return "pt" if any(name.endswith(PICKLE) for name in open_zip(path).members) else "npz"
    except InputError:
        return path.suffix.removeprefix(".")


def open_arrays(path: Path) -> Mapping[str, Array]:
    """The arrays of one file, or of all .safetensors files of a folder.

    Raises
    ------
    InputError
        If the file is damaged or would need a pickle to be loaded, or two files of a folder hold the same name.
    """
    return once(_store, path)


def _store(path: Path) -> dict[str, Array]:
    if path.is_dir():
        return _together(path.glob("*.safetensors"))
    if not path.exists():
        raise InputError(f"{path}: no such file; give .safetensors, .npz, .npy or .pt")
    form = array_form(path)
    if form == "npy":
        return {"logits": open_npy(path)}
    if form == "safetensors":
        return open_safetensors(path)
    if form == "npz":
        return open_npz(path)
    if form == "pt":
        return open_torch(path)
    if form == "parquet":
        return open_columns(path)
    raise InputError(f"{path}: not recognised as .safetensors, .npz, .npy, .pt or .parquet; {described(path)}")


def arrays_beside(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of these names in other files of the folder of ``path``, as people save what belongs to its rows.

    Beside a ``.npy`` file each has a file of its own (``token.npy``); beside ``target_logits.safetensors`` and
    ``draft_logits.safetensors`` any other file of the folder may hold some.  Other files are never looked beside.

    Raises
    ------
    InputError
        If one is damaged, or two files hold the same name.
    """
    form = array_form(path)
    if form == "npy":
        files = {name: path.parent / f"{name}.npy" for name in names}
        return {name: open_arrays(file)["logits"] for name, file in files.items() if file.is_file() and file != path}
    if form == "safetensors" and path.stem in PAIR:
        return _together((file for file in path.parent.glob("*.safetensors") if file.stem not in PAIR), names)
    return {}


def _together(files: Iterable[Path], names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays of several files, or those of certain names; no name may be in two of them."""
    found: dict[str, Array] = {}
    for file in sorted(files):
        held = {name: array for name, array in open_arrays(file).items() if names is None or name in names}
        if both := sorted(set(found) & set(held)):
            raise InputError(f"{file}: {both[0]} is in another file of the folder too; keep one of them")
        found |= held
    return found
