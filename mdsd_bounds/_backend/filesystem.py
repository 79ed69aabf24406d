"""Paths on any file system that fsspec knows: ``/local``, ``file://``, ``s3://``, ``memory://`` and others."""

from __future__ import annotations

from typing import Any

import fsspec

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.problem import InputError


def split(path: str) -> tuple[Any, str]:
    """File system of a path, and the path as that system names it.

    Raises
    ------
    InputError
        If the protocol is unknown or its package is not installed.
    """
    try:
        fs, inside = fsspec.core.url_to_fs(path)
    except Exception as error:
        # Every file system has errors of its own, for a protocol, a package or credentials that are not there.
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: {printable(what)}") from error
    return fs, inside


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's disks."""
    protocol = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return "file" in protocol
