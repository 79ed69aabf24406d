"""JSON records of a text file, one after another: one a line, the items of an array, or a single value."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.containers.compressed import NUL, open_text, text_beginning
from mdsd_bounds.dumps.containers.files import once
from mdsd_bounds.dumps.containers.text import BOM, DECODER, LINE, PARSED, lines, parse, whole_text
from mdsd_bounds.problem import InputError

_CHUNK = 1 << 20
#: Characters that a decoder may still be waiting for at the end of a piece: the longest word or escape of JSON.
_PENDING = 16
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Record:
    """``at`` says where it is ("line 3", "item 3"), ``number`` is the 3; ``array`` counts the array it is in, or -1."""

    value: Any
    number: int
    at: str
    array: int = -1


def is_json(path: Path) -> bool:
    """Whether the text begins as a JSON object or array."""
    return text_beginning(path, 4096).removeprefix(BOM).lstrip()[:1] in (b"{", b"[")


def first_record(path: Path) -> Any:
    """The value of the first record, or None where the file is no JSON text or is damaged there; parsed once."""
    return once(_first, path)


def _first(path: Path) -> Any:
    if not is_json(path):
        return None
    try:
        return next((record.value for record in records(path)), None)
    except (InputError, ValueError, EOFError, OSError, RecursionError):
        return None  # its reader says what is wrong


def records(path: Path, longest: int = LINE) -> Iterator[Record]:
    """The records of a JSON text.

    A text that begins with an object holds one value a line, or a single value over many lines; of one that begins with
    an array the items are the records, each parsed when it is reached.

    Raises
    ------
    InputError
        If a record is longer than ``longest`` bytes, damaged, or the text is no UTF-8.
    """
    if text_beginning(path, 4096).removeprefix(BOM).lstrip()[:1] == b"[":
        yield from _items(path, longest)
        return
    first = True
    for number, line in lines(path, longest):
        try:
            value = parse(line)
        except json.JSONDecodeError as error:
            if first:
                break
            raise InputError(f"{path} line {number}: no JSON ({error.msg}); write it again") from error
        first = False
        yield Record(value, number, f"line {number}")
    else:
        return
    try:
        value = parse(whole_text(path, longest))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: no JSON ({error.msg}); write it again") from error
    yield Record(value, 1, "")


class _Text:
    """Characters of a file of which what is read is dropped."""

    def __init__(self, path: Path, longest: int) -> None:
        self.path, self.longest, self.text, self.at, self.ended = path, longest, "", 0, False
        self._stream: io.BufferedReader = open_text(path)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self.more()
        self.text = self.text.removeprefix("\ufeff")

    def more(self) -> None:
        """As much again as there is, at least one piece."""
        self.text, self.at = self.text[self.at :], 0
        if len(self.text) > self.longest:
            raise InputError(f"{self.path}: an item is longer than {self.longest} characters; write one record a line")
        wanted = max(_CHUNK, len(self.text))
        if wanted > 16 * _CHUNK:
            require_memory(PARSED * wanted, f"{self.path}: JSON of {wanted / 1e6:.0f} MB", "write one record a line")
        piece = self._stream.read(wanted)
        self.ended = not piece
        if b"\0" in piece:
            raise InputError(f"{self.path}: {NUL}")
        try:
            self.text += self._decode.decode(piece, final=self.ended)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: no UTF-8 text ({error.reason}); save the file as UTF-8") from error

    def next(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self, where: str) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                waiting = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _PENDING
                if self.ended or not waiting:
                    raise InputError(f"{self.path} {where}: no JSON ({error.msg}); write it again") from error
            else:
                # A number may go on in the next piece.
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            self.more()


def _items(path: Path, longest: int) -> Iterator[Record]:
    text = _Text(path, longest)
    array = number = 0
    while (begin := text.next()) != "":
        if begin != "[":
            raise InputError(f"{path} after array {array}: {begin!r}, not another array; write one JSON array")
        text.at += 1
        more = text.next() != "]"
        while more:
            text.next()
            number += 1
            yield Record(text.value(f"item {number}"), number, f"item {number}", array)
            sign = text.next()
            if sign not in (",", "]") or not sign:
                raise InputError(f"{path} item {number}: no JSON (a comma or ] is wanted); write the file again")
            more = sign == ","
            text.at += more
        text.at += 1
        array += 1
