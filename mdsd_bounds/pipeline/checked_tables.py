"""Parquet tables that hold a checksum of themselves: a bit that flips on a disk is told, wherever it is.

Between the last page and the footer stand a name, the SHA-256 of the footer and that of everything before.  Parquet
finds its pages by their offsets and its footer from the end, so that every reader of the format reads these files.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdsd_bounds.problem import InputError

_NAME = b"mdsd-sum"
_SUM = hashlib.sha256().digest_size
_TRAILER = len(_NAME) + 2 * _SUM
#: Length of the footer, and the name of the format, at the end of every file.
_END = 8
#: Bytes that are read at once.
_PIECE = 1 << 24


class _Pages(io.RawIOBase):
    """Passes on what is written and keeps its checksum; from ``hold`` on it keeps what is written."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.sum, self.held, self.hold, self.place = stream, hashlib.sha256(), io.BytesIO(), False, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        self.place += size
        if self.hold:
            self.held.write(data)
        else:
            self.sum.update(data)
            self.stream.write(data)
        return size

    def tell(self) -> int:
        return self.place


def write_checked(stream: Any, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write a table, each of ``groups`` a row group, to a binary stream that need not seek.

    Examples
    --------
    >>> import io
    >>> import pyarrow as pa
    >>> table = pa.table({"row": [0, 1]})
    >>> stream = io.BytesIO()
    >>> write_checked(stream, table.schema, [table])
    >>> read_checked(stream.getvalue(), "rows.parquet: damaged ({})").num_rows
    2
    """
    pages = _Pages(stream)
    with pq.ParquetWriter(pages, schema) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(len(table), 1))
        # All pages are written; what comes is the footer.
        pages.hold = True
    footer = pages.held.getvalue()
    stream.write(_NAME + hashlib.sha256(footer).digest() + pages.sum.digest())
    stream.write(footer)


def read_checked(data: bytes, damaged: str) -> pa.Table:
    """The table in the bytes of a file that :func:`write_checked` wrote.

    ``damaged`` is what to say of a file that is not as it was written, with a place ``{}`` for the reason.

    Raises
    ------
    InputError
        If a checksum is another, or there is none.
    """
    size = _footer_size(data[-_END:])
    pages = len(data) - size - _TRAILER
    reason = (
        "it is cut off, or not of this program"
        if pages < 0
        else _differs(data[pages:], hashlib.sha256(memoryview(data)[:pages]).digest())
    )
    if reason:
        raise InputError(damaged.format(reason))
    return pq.read_table(pa.BufferReader(data))


def refuse_damaged(stream: Any, size: int, damaged: str) -> None:
    """Raise an error where a file of ``size`` bytes holds checksums that are not those of its content.

    A table that another program wrote again holds none, and is taken as it is.  The file is read piece by piece;
    ``damaged`` is as of :func:`read_checked`.

    Raises
    ------
    InputError
        If a checksum is another.
    """
    footer = _read_footer(stream, size)
    if footer[: len(_NAME)] != _NAME:
        return
    pages = size - len(footer)
    stream.seek(0)
    found = hashlib.sha256()
    for place in range(0, pages, _PIECE):
        found.update(stream.read(min(_PIECE, pages - place)))
    if reason := _differs(footer, found.digest()):
        raise InputError(damaged.format(reason))


def footer_metadata(stream: Any, size: int) -> dict[bytes, bytes]:
    """The metadata in the schema of such a file of ``size`` bytes, whose footer alone is read; empty for all others."""
    footer = _read_footer(stream, size)
    if _differs(footer, None):
        return {}
    return dict(pq.read_schema(pa.BufferReader(footer[_TRAILER:])).metadata or {})


def _read_footer(stream: Any, size: int) -> bytes:
    """The trailer and the footer of a file of ``size`` bytes; empty where these would be longer than the file."""
    stream.seek(max(size - _END, 0))
    pages = size - _footer_size(stream.read(_END)) - _TRAILER
    if pages < 0:
        return b""
    stream.seek(pages)
    found: bytes = stream.read(size - pages)
    return found


def _footer_size(end: bytes) -> int:
    return int.from_bytes(end[:4], "little") + _END


def _differs(footer: bytes, pages: bytes | None) -> str:
    """How the trailer that begins ``footer`` is not that of the rest and of the checksum ``pages``; empty if it is."""
    if footer[: len(_NAME)] != _NAME:
        return "it holds no checksum where one was written"
    of_footer, of_pages = footer[len(_NAME) : len(_NAME) + _SUM], footer[len(_NAME) + _SUM : _TRAILER]
    whole = hashlib.sha256(footer[_TRAILER:]).digest() == of_footer
    if whole and pages is not None:
        whole = pages == of_pages
    return "" if whole else "its checksum is not that of its content"
