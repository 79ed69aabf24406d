"""Text that may be compressed with gzip or zstd: one stream of its bytes, whatever it lies in.

The compression is known by the first bytes, not by the ending.  What comes out is read piece by piece, so that a small
file that becomes large takes no more memory than the longest line that is allowed.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.containers.files import beginning, open_file, refuse_repeated
from mdsd_bounds.problem import InputError

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
_UTF16 = "UTF-16 text; save the file as UTF-8 (iconv -f UTF-16 -t UTF-8)"
#: First bytes of what holds text that is not read as it stands -> what it is, and the remedy.
OTHER_TEXT = (
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it first (unxz)"),
    (b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; unpack it first (unlz4)"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it first (unzip)"),
    (b"\xff\xfe\x00\x00", "UTF-32 text; save the file as UTF-8 (iconv -f UTF-32 -t UTF-8)"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; save the file as UTF-8 (iconv -f UTF-32 -t UTF-8)"),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
)
#: What is said of zeros further on.
NUL = "holds NUL bytes; this is no text, or UTF-16 (save it as UTF-8), or the file has holes"


def compression(path: Path) -> str:
    """``gzip``, ``zstd``, or nothing."""
    head = beginning(path, 4)
    return "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else ""


def other_text(path: Path) -> str:
    """What a file is whose text is not read as it stands, with the remedy; nothing for all others."""
    head = beginning(path, 64)
    if found := next((words for magic, words in OTHER_TEXT if head.startswith(magic)), ""):
        return found
    # Text without a mark of its order of bytes: every second byte is zero, and no other.
    pairs = head[: len(head) // 2 * 2]
    one, other = pairs[::2], pairs[1::2]
    return _UTF16 if pairs and any(not any(a) and all(b) for a, b in ((one, other), (other, one))) else ""


def refuse_other_text(path: Path) -> None:
    """Raise an error where the text of a file is not read as it stands.

    Raises
    ------
    InputError
        Saying what the file is, and how it is unpacked or saved anew.
    """
    if words := other_text(path):
        raise InputError(f"{path}: is {words}")


def open_text(path: Path) -> io.BufferedReader:
    """The bytes of a text file from their beginning, uncompressed while they are read.

    Raises
    ------
    InputError
        If it is no regular file, or is compressed or encoded otherwise; while it is read, if a small file becomes
        large.  Damage of compressed data is raised by the library while it is read: read inside
        :func:`mdsd_bounds.dumps.boundary.reading`.
    """
    refuse_other_text(path)
    form, file = compression(path), open_file(path)
    stream = file.stream()
    if not form:
        return stream
    unpacked: io.RawIOBase = gzip.GzipFile(fileobj=stream) if form == "gzip" else _Zstd(stream)  # type: ignore[assignment]
    return io.BufferedReader(_Bounded(unpacked, path, file.size), 1 << 16)


def text_beginning(path: Path, count: int) -> bytes:
    """The first bytes of the text of a regular file; nothing of anything else, or where it is damaged."""
    if not compression(path):
        return beginning(path, count)
    try:
        return open_text(path).read(count)
    except Exception:  # its reader says what is wrong
        return b""


class _Bounded(io.RawIOBase):
    """What is uncompressed of a file, up to the place where it is too much for so few bytes."""

    def __init__(self, inner: io.RawIOBase, path: Path, packed: int) -> None:
        self._inner, self._path, self._packed, self._count = inner, path, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._inner.readinto(buffer) or 0
        self._count += count
        refuse_repeated(self._path, self._packed, self._count)
        return count


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
