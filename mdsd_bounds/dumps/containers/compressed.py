"""Text that may be compressed with gzip or zstd: one stream of its bytes, whatever it lies in.

The compression is known by the first bytes, not by the ending.  What comes out is read piece by piece, so that a small
file that becomes large takes no more memory than the longest line that is allowed.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.containers.files import beginning, open_file

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"


def compression(path: Path) -> str:
    """``gzip``, ``zstd``, or nothing."""
    head = beginning(path, 4)
    return "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else ""


def open_text(path: Path) -> io.BufferedReader:
    """The bytes of a text file from their beginning, uncompressed while they are read.

    Raises
    ------
    InputError
        If it is no regular file.  Damage of compressed data is raised by the library while it is read: read inside
        :func:`mdsd_bounds.dumps.boundary.reading`.
    """
    form, stream = compression(path), open_file(path).stream()
    if form == "gzip":
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), 1 << 16)
    return io.BufferedReader(_Zstd(stream), 1 << 16) if form == "zstd" else stream


def text_beginning(path: Path, count: int) -> bytes:
    """The first bytes of the text of a regular file; nothing of anything else, or where it is damaged."""
    if not compression(path):
        return beginning(path, count)
    try:
        return open_text(path).read(count)
    except Exception:  # its reader says what is wrong
        return b""


class _Zstd(io.RawIOBase):
    """Arrow's zstd codec as a raw stream; Arrow is needed for parquet in any case."""

    def __init__(self, stream: io.BufferedReader) -> None:
        import pyarrow as arrow

        self._inner: Any = arrow.CompressedInputStream(arrow.PythonFile(stream, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._inner.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
