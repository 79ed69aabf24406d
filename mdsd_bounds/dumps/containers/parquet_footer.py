"""How many values the columns of a parquet file are said to hold, from the footer, before a page is decoded.

Arrow's own view of a column ends the process where the statistics beside these numbers are damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: Bytes of a value by the physical type's number; of others (texts) a length is kept.
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
#: Structures within structures that are followed.
_DEEPEST = 16


@dataclass(frozen=True)
class Chunk:
    """A column of one row group: values with nested ones, bytes when decoded, bytes stored."""

    column: str
    values: int
    decoded: int
    stored: int


@lru_cache(maxsize=8)
def chunks_of(footer: bytes) -> tuple[Chunk, ...]:
    """The columns of every row group.  Kept for the files that were opened last: each column of a file opens it anew.

    Parameters
    ----------
    footer : bytes
        The file's metadata, in Thrift's compact protocol.

    Returns
    -------
    tuple of Chunk
        Those whose numbers are there.

    Raises
    ------
    ValueError
        If the bytes are no such structure.
    """
    return tuple(_chunks(footer))


def _chunks(footer: bytes) -> Iterator[Chunk]:
    for group in _list(_Thrift(footer).struct(0).get(4)):
        for column in _list(group.get(1) if isinstance(group, dict) else None):
            facts = column.get(3) if isinstance(column, dict) else None
            if not isinstance(facts, dict):
                continue
            kind, values, stored = (facts.get(place) for place in (1, 5, 7))
            if isinstance(kind, int) and isinstance(values, int) and isinstance(stored, int):
                path = b".".join(part for part in _list(facts.get(3)) if isinstance(part, bytes))
                yield Chunk(path.decode(errors="replace"), values, values * _WIDTHS.get(kind, 4), stored)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Thrift:
    """A reader of the compact protocol: structures as dicts by the number of the field."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._signed()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._unsigned())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            self._room(count)
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"its footer has a field of type {kind}")

    def _room(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise ValueError("its footer ends early")

    def _byte(self) -> int:
        self._room(1)
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._room(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("its footer holds a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
