"""What may be written where: never over an input, never over somebody else's file unless ``--force`` is given.

Files of this program carry :data:`mdsd_bounds._backend.origin.MARKER` and may be written again.  Tables of ``bounds``
and ``compare`` are held against the run that wrote them instead (:func:`mdsd_bounds.pipeline.run.is_finished`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[
    bool, typer.Option("--force", help="Replace what is there, also the file of another program; never an input.")
]


def check_out(
    out: str | None, inputs: Sequence[str | None], force: bool, option: str = "--out", table: bool = False
) -> None:
    """Refuse a place for results before any work is done.

    Parameters
    ----------
    out : str or None
        File to write; None and URLs are let through.
    inputs : sequence of str or None
        What the command reads: files, folders, or two of them joined by a comma.
    force : bool
        Whether a file that is no input may be replaced.
    option : str
        Its name, for the message.
    table : bool
        A table of results, which is held against its run later.

    Raises
    ------
    InputError
        If it is an input or a part of one, a folder, a device, in no folder or one that cannot be written to, or a file
        of somebody else's.
    """
    from mdsd_bounds._backend.origin import can_say, is_ours
    from mdsd_bounds._backend.whole_files import refuse_special
    from mdsd_bounds.problem import InputError

    if out is None or ("://" in out and not out.startswith("file://")):
        return
    path = Path(out.removeprefix("file://"))
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"{option} {out}: could not be written, the folder {path.parent} does not exist; make it first"
        )
    # Files are written whole under another name and then renamed, so that their folder must let files be made.
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{option} {out}: could not be written, nothing may be written to the folder {path.parent}; "
            "change its permissions, or write elsewhere"
        )
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    refuse_special(path)
    for source in _paths(inputs):
        if _is_or_holds(source, path):
            raise InputError(f"{option} {out}: is read by this command ({source}); write elsewhere")
    if path.is_dir():
        raise InputError(f"{option} {out}: is a folder; name a file in it")
    if not (force or table or is_ours(path)):
        what = "and was not written by mdsd" if can_say(path) else "already"
        raise InputError(f"{option} {out}: exists {what}; give another name, or --force to replace it")


def _paths(inputs: Sequence[str | None]) -> list[Path]:
    from mdsd_bounds.dumps.how_to_read import parted

    found = []
    for given in inputs:
        if given is not None:
            name, how = parted(given.removeprefix("file://"))
            found += [Path(name)] if Path(name).exists() else [Path(part) for part in name.split(",")]
            found += [Path(how.tokenizer)] if how.tokenizer else []
    return [path for path in found if path.exists()]


def _is_or_holds(source: Path, path: Path) -> bool:
    # By the file itself where it has several names, and by its place, as a folder's files are all its own.
    if path.exists() and os.path.samefile(source, path):
        return True
    return source.is_dir() and source.resolve() in path.resolve().parents and not _is_result(path)


def _is_result(path: Path) -> bool:
    """Whether a file in a dump's folder is a result put there before, and no part of the dump."""
    from mdsd_bounds._backend.origin import is_ours
    from mdsd_bounds.pipeline.part_files import standing

    return is_ours(path) or bool(standing(str(path)))
