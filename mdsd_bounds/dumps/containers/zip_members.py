"""Zip archives (.npz, .pt): the directory read once and checked before a member is."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import OpenFile, Source, once, open_file, read_bytes
from mdsd_bounds.problem import InputError

MAGIC = b"PK\x03\x04"
#: Archives whose members have fewer bytes in all are held against their checksums when they are opened.
_CHECKED = 1 << 28
_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
#: What deflate can reach; more is said only by a directory that is wrong.
_RATIO = 1100


@dataclass(frozen=True)
class Part:
    """A stretch of a file."""

    file: OpenFile
    place: int
    size: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def read_into(self, memory: memoryview, place: int) -> None:
        """Fill ``memory`` from ``place`` of the stretch on."""
        if place + len(memory) > self.size:
            raise InputError(f"{self.path}: a member ends before byte {place + len(memory)}; write the file again")
        self.file.read_into(memory, self.place + place)


class Inflated:
    """A compressed member: it can only be read forwards; going back starts it again."""

    def __init__(self, part: Part, size: int, name: str) -> None:
        self.path: Path = part.path
        self.size: int = size
        self.packed: int = part.size
        self._part, self._name = part, name
        self._start()

    def _start(self) -> None:
        self._inflate, self._read, self._at = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0

    def read_into(self, memory: memoryview, place: int) -> None:
        """Fill ``memory`` with the bytes from ``place`` on of what comes out."""
        if place + len(memory) > self.size:
            raise InputError(f"{self.path}: {self._name} ends before byte {place + len(memory)}; write the file again")
        if place < self._at:
            self._start()
        while self._at < place:
            self._some(min(place - self._at, _CHUNK))
        while len(memory):
            piece = self._some(min(len(memory), _CHUNK))
            memory[: len(piece)] = piece
            memory = memory[len(piece) :]

    def _some(self, most: int) -> bytes:
        """The next bytes, at most so many and at least one."""
        with reading(self.path, f"zip archive, member {self._name!r}"):
            while True:
                given = self._inflate.unconsumed_tail
                if not given:
                    count = min(_CHUNK, self._part.size - self._read)
                    given = read_bytes(self._part, self._read, count)
                    self._read += count
                piece = self._inflate.decompress(given, most)
                if piece:
                    self._at += len(piece)
                    return piece
                if self._inflate.eof or (not given and not self._inflate.unconsumed_tail):
                    raise EOFError(f"it gives {self._at} bytes, and the directory says {self.size}")


@dataclass(frozen=True)
class Archive:
    """The members of an archive by name, in the directory's order."""

    file: OpenFile
    members: dict[str, zipfile.ZipInfo]

    def source(self, name: str) -> Source:
        """The bytes of a member."""
        member = self.members[name]
        with reading(self.file.path, f"zip archive, member {name!r}"):
            head = _LOCAL.unpack(read_bytes(self.file, member.header_offset, _LOCAL.size))
            stated = read_bytes(self.file, member.header_offset + _LOCAL.size, head[9])
            if head[0] != MAGIC or stated != member.orig_filename.encode("utf-8" if head[2] & 0x800 else "cp437"):
                raise ValueError("the directory and the member disagree about its name")
            part = Part(self.file, member.header_offset + _LOCAL.size + head[9] + head[10], member.compress_size)
            if part.place + part.size > self.file.size:
                raise EOFError("it ends after the file")
            return part if member.compress_type == zipfile.ZIP_STORED else Inflated(part, member.file_size, name)


def open_zip(path: Path) -> Archive:
    """The directory of an archive.

    Raises
    ------
    InputError
        If it is damaged, names a member twice, lets members overlap, holds encrypted members or an unknown compression,
        states sizes that cannot be, or a checksum of a small archive is wrong.
    """
    return once(_open, path)


def _open(path: Path) -> Archive:
    file = open_file(path)
    with reading(path, "zip archive", "the file is truncated or corrupt, write it again") as place:
        with zipfile.ZipFile(file.stream()) as archive:
            listed = archive.infolist()
        members: dict[str, zipfile.ZipInfo] = {}
        end = 0
        for member in sorted(listed, key=lambda member: member.header_offset):
            place.at = f"member {member.filename!r}"
            if not members and member.header_offset:
                raise ValueError(
                    f"{member.header_offset} bytes stand before the first member, as where one archive was written "
                    "behind another, of which only the last would be read"
                )
            _check(member, end, file.size)
            if member.filename in members:
                raise ValueError("the archive holds it twice")
            members[member.filename] = member
            end = member.header_offset + _LOCAL.size + member.compress_size
        result = Archive(file, {member.filename: members[member.filename] for member in listed})
        if sum(member.file_size for member in listed) < _CHECKED:
            for name, member in members.items():
                place.at = f"member {name!r}"
                _checksum(result, name, member)
    return result


def _check(member: zipfile.ZipInfo, end: int, size: int) -> None:
    if member.flag_bits & 0x1:
        raise ValueError("it is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its compression, {member.compress_type}, is unknown")
    if member.header_offset < end:
        raise ValueError("it overlaps another member")
    if member.header_offset + member.compress_size > size:
        raise EOFError(f"it ends after the file's {size} bytes")
    stored = member.compress_type == zipfile.ZIP_STORED
    if (stored and member.compress_size != member.file_size) or member.file_size > _RATIO * member.compress_size + 1024:
        raise ValueError(f"{member.compress_size} bytes that become {member.file_size}")


def _checksum(archive: Archive, name: str, member: zipfile.ZipInfo) -> None:
    source, found = archive.source(name), 0
    for place in range(0, member.file_size, _CHUNK):
        found = zlib.crc32(read_bytes(source, place, min(_CHUNK, member.file_size - place)), found)
    if found != member.CRC:
        raise ValueError("its checksum is wrong")
