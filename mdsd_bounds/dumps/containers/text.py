"""Text read as a stream, line by line, within limits; compressed text is uncompressed on the way."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.containers.compressed import NUL, compression, open_text, refuse_other_text
from mdsd_bounds.dumps.containers.files import open_file, read_bytes
from mdsd_bounds.problem import InputError

#: Bytes of a line.  A full distribution over 262,144 tokens, written in full digits, takes about 6 MB.
LINE = 1 << 26
#: Blank lines in a row.  A small compressed file may hold hundreds of millions, which take minutes to pass over.
BLANK = 1_000_000
#: Bytes of a description beside a dump: manifests, settings.
SMALL = 1 << 26
#: What parsed JSON takes, in bytes for each byte of text: a list of empty lists; numbers take 2 to 8.
PARSED = 24
_CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"


def lines(path: Path, longest: int = LINE) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, with their numbers from 1.

    Raises
    ------
    InputError
        If a line is longer than ``longest`` bytes, holds NUL bytes (a binary or sparse file), or is no UTF-8, or there
        are more than :data:`BLANK` blank lines in a row.
    """
    with open_text(path) as stream:
        number = filled = 0
        while line := _line(stream, path, number + 1, longest):
            number += 1
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path} line {number}: no UTF-8 text (byte {error.start}); save the file as UTF-8"
                ) from error
            if text.strip():
                filled = number
                yield number, text
            elif number - filled > BLANK:
                raise InputError(f"{path} line {number}: {BLANK} blank lines before it; write the file without them")


def _line(stream: io.BufferedReader, path: Path, number: int, longest: int) -> bytes:
    pieces, size = [], 0
    while piece := stream.readline(_CHUNK):
        if b"\0" in piece:
            raise InputError(f"{path} line {number}: {NUL}")
        pieces.append(piece)
        size += len(piece)
        if size > longest:
            raise InputError(f"{path} line {number}: is longer than {longest} bytes; give one record a line")
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


def whole_text(path: Path, longest: int = SMALL) -> str:
    """The text of a small UTF-8 file.

    Raises
    ------
    InputError
        If it is longer than ``longest`` bytes or no regular file.
    UnicodeDecodeError
        If it is no UTF-8.
    """
    file = open_file(path)
    refuse_other_text(path)
    if compression(path):
        return _uncompressed(path, longest).decode("utf-8-sig")
    if file.size > longest:
        raise InputError(f"{path}: {file.size} bytes, at most {longest} are read; give the right file")
    return read_bytes(file, 0, file.size).decode("utf-8-sig")


def _uncompressed(path: Path, longest: int) -> bytes:
    text = bytearray()
    with open_text(path) as stream:
        while piece := stream.read(16 * _CHUNK):
            text += piece
            if b"\0" in piece:
                raise InputError(f"{path}: {NUL}")
            if len(text) > longest:
                raise InputError(f"{path}: more than {longest} bytes uncompressed; give the right file")
            require_memory(4 * len(text), f"{path}: {len(text) / 1e6:.0f} MB uncompressed", "write one record a line")
    return bytes(text)


def parse(text: str) -> Any:
    """One JSON value; a name that an object holds twice is an error, for one of its values would be lost.

    Raises
    ------
    ValueError, RecursionError
        If it is no JSON, holds a name twice, or is nested too deeply.
    InputError
        If it may not fit into memory.
    """
    if len(text) > _CHUNK * 16:
        require_memory(PARSED * len(text), f"JSON of {len(text) / 1e6:.0f} MB", "write one record a line")
    return DECODER.decode(text)


def refuse_halves(text: str, where: str) -> None:
    """Refuse what JSON can write as an escape and no file, tokenizer or program can hold.

    Raises
    ------
    InputError
        If the text holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise InputError(f"{where} holds half of a surrogate pair, {half}; write the whole character") from None


def integer(value: Any) -> int:
    """An integer of at most 64 bits, also written as text or as a float without a fraction.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, str):
        good = re.fullmatch(r"-?[0-9]{1,20}", value) is not None
    else:
        good = (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    if not good:
        raise ValueError(f"{value!r} is no integer")
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise ValueError(f"{value!r} has more than 64 bits")
    return int(value)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


#: Refuses a name that an object holds twice.
DECODER = json.JSONDecoder(object_pairs_hook=_distinct)
