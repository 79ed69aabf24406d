"""Files that this program wrote say so, so that writing them again needs no permission, and others' are left alone."""

from __future__ import annotations

from pathlib import Path

#: In the metadata of figures and pages.
MARKER = "made by mdsd_bounds"

#: First bytes of each kind of file that may hold the marker, and where in it: at its beginning or at its end.
_KINDS = ((b"\x89PNG", False), (b"<?xml", False), (b"<!doctype html>", False), (b"%PDF", True), (b"%!PS", False))
_LOOK = 4096


def can_say(path: Path) -> bool:
    """Whether a file is of a kind that may hold the marker: dumps and logs hold nothing but data."""
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    return any(head.startswith(magic) for magic, _ in _KINDS)


def is_ours(path: Path) -> bool:
    """Whether a figure or a page was written by this program."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_LOOK)
            at_end = [end for magic, end in _KINDS if head.startswith(magic)]
            if not at_end:
                return False
            if at_end[0]:
                stream.seek(max(path.stat().st_size - _LOOK, 0))
                head = stream.read(_LOOK)
    except OSError:
        return False
    return MARKER.encode() in head
