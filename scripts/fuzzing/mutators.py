"""Damage to a file, seeded: to its bytes, its headers, its structure."""

from __future__ import annotations

import ast
import gzip
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

INTEGERS = [
    0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, -(2**63),
]  # fmt: skip
#: Stands in a JSON value for text that Python's own writer would not write.
_RAW = {
    "@huge": "1e999",
    "@minus-huge": "-1e999",
    "@long": "12345678901234567890123",
    "@longer": "9" * 5000,
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@deep": "[" * 3000 + "]" * 3000,
    "@deeper": '{"a":' * 60000 + "1" + "}" * 60000,
    "@open": "[" * 200000,
    "@twice": '{"0": 0.5, "0": 0.5}',
    "@lone": '"\\ud800"',
    "@cut": '"',
}


def interesting(random_: random.Random) -> Any:
    """A value that something may not expect."""
    return random_.choice(
        [
            None, True, False, 0, 1, -1, 7, 2**31, 2**62, 2**63, 2**70, 0.5, -0.5, 1e308, 5e-324, "", "x", "0", "-9",
            "1e5", "\x1b]0;x\x07", "\u202egnp", "a\nb", "é" * 50, [], {}, [[]], [None], [0], [1, 2], {"0": 1.0},
            {"": None}, *_RAW,
        ]
    )  # fmt: skip


def of_bytes(data: bytes, random_: random.Random) -> bytes:
    """Bits flipped, stretches overwritten, removed, repeated or moved; the end cut off; an integer at some place."""
    held = bytearray(data)
    for _ in range(random_.choice([1, 1, 1, 2, 4, 16])):
        size = len(held)
        place = random_.randrange(size) if size else 0
        # Headers and footers decide more than what lies between them.
        if size > 600 and random_.random() < 0.6:
            place = random_.choice([random_.randrange(300), size - 1 - random_.randrange(300)])
        length = min(random_.choice([1, 2, 4, 8, 64, 512]), size - place)
        kind = random_.randrange(9)
        if kind <= 1 and size:
            held[place] ^= 1 << random_.randrange(8)
        elif kind == 2:
            held[place : place + length] = random_.randbytes(length)
        elif kind == 3:
            held[place : place + length] = bytes([random_.choice([0, 255])]) * length
        elif kind == 4:
            del held[random_.choice([place, place, size // 2, size - min(size, 9), 0]) :]
        elif kind == 5:
            del held[place : place + length]
        elif kind == 6:
            held[place:place] = held[place : place + length] or b"\0"
        elif kind == 7:
            held += random_.randbytes(random_.choice([1, 8, 100]))
        else:
            value = random_.choice(INTEGERS)
            form = random_.choice(["<q", "<i", "<H", ">I"])
            width = 8 * struct.calcsize(form)
            unsigned = value % (1 << width)
            held[place : place + width // 8] = unsigned.to_bytes(width // 8, "big" if form[0] == ">" else "little")
    return bytes(held)


def of_value(value: Any, random_: random.Random) -> Any:
    """A JSON value with one node replaced, removed, renamed, repeated or wrapped."""
    nodes: list[tuple[Any, Any]] = []

    def walk(parent: Any) -> None:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            nodes.append((parent, key))
            if isinstance(parent[key], dict | list):
                walk(parent[key])

    if not isinstance(value, dict | list) or not value or random_.random() < 0.03:
        return interesting(random_)
    walk(value)
    parent, key = random_.choice(nodes)
    kind = random_.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = [parent[key]]
    elif kind == 2 and isinstance(parent, dict):
        parent[random_.choice(["", "x", "-9", "1e5", "1_0", "99999999999999999999", "\x1b[2J"])] = parent.pop(key)
    elif kind == 2 or kind == 3:
        other, its = random_.choice(nodes)
        if isinstance(other, dict) == isinstance(parent, dict) and (its in other if isinstance(other, dict) else True):
            try:
                parent[key], other[its] = other[its], parent[key]
                json.dumps(value)
            except (KeyError, IndexError, ValueError):
                parent[key] = None
    elif kind == 4 and isinstance(parent[key], int | float):
        parent[key] = random_.choice([-parent[key], parent[key] * 1e9, float(parent[key]) + 0.5, str(parent[key])])
    elif kind == 5 and isinstance(parent, list):
        parent.insert(key, parent[key])
    else:
        parent[key] = interesting(random_)
    return value


def as_text(value: Any) -> bytes:
    """JSON, with the stand-ins replaced."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return b"[1, 2"
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode("utf-8", "surrogatepass")


def of_json(data: bytes, random_: random.Random) -> bytes:
    """A file that is one JSON value."""
    return as_text(of_value(json.loads(data), random_))


def of_lines(data: bytes, random_: random.Random) -> bytes:
    """A file of one JSON value a line."""
    lines = data.splitlines()
    place = random_.randrange(len(lines))
    kind = random_.randrange(12)
    if kind == 0:
        lines.insert(place, lines[random_.randrange(len(lines))])
    elif kind == 1:
        del lines[place]
    elif kind == 2:
        lines[place] = random_.choice(
            [b"", b"\xff\xfe", b"null", b"[]", b"{}", b"\0" * 9, b'"x"', b"\xef\xbb\xbf{}", b"1"]
        )
    elif kind == 3:
        return random_.choice([b"\xef\xbb\xbf", b"\n\n", b" ", b"\xff\xfe"]) + b"\r\n".join(lines)
    elif kind == 4:
        return b"\n".join(lines).decode("utf-8", "replace").encode(random_.choice(["utf-16", "utf-32", "utf-8"]))
    else:
        try:
            lines[place] = as_text(of_value(json.loads(lines[place]), random_))
        except ValueError:
            lines[place] = b"{"
    return b"\n".join(lines) + b"\n"


def of_safetensors(data: bytes, random_: random.Random) -> bytes:
    """The header as a JSON value, types and places of tensors."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = random_.choice(list(header))
    kind = random_.randrange(6)
    if kind == 0 and isinstance(header[name], dict):
        types = [
            "F8_E4M3",
            "F8_E5M2",
            "F16",
            "BF16",
            "F32",
            "F64",
            "I8",
            "U8",
            "I16",
            "U16",
            "I32",
            "U64",
            "BOOL",
            "C64",
        ]
        header[name]["dtype"] = random_.choice([*types, "F4", "", None])
    elif kind == 1:
        other = random_.choice(list(header))
        header[name], header[other] = header[other], header[name]
    elif kind == 2:
        end = header[name].get("data_offsets", [0, 0])
        header[name]["data_offsets"] = [random_.choice([*end, *INTEGERS]), random_.choice([*end, *INTEGERS])]
    elif kind == 3 and header[name].get("shape"):
        shape = header[name]["shape"]
        header[name]["shape"] = random_.choice(
            [shape[::-1], [*shape, 1], [1, *shape], [-1, -shape[0]], [shape[0], 0], []]
        )
    else:
        header = of_value(header, random_)
    text = as_text(header)
    stated = random_.choice([len(text)] * 9 + [len(text) - 1, len(text) + 1, 2**31, 2**63])
    return struct.pack("<Q", stated) + text + body


def of_npy(data: bytes, random_: random.Random) -> bytes:
    """The header of a NumPy array."""
    length = int.from_bytes(data[8:10], "little")
    header, body = ast.literal_eval(data[10 : 10 + length].decode("latin1")), data[10 + length :]
    shape = tuple(header["shape"])
    kind = random_.randrange(7)
    if kind == 0:
        types = ["<f2", ">f4", "<f8", "<f16", "<c8", "|O", "|V2", "<i8", "<u8", "|b1", "<U4", "<M8[s]", "|S3", "x", ""]
        header["descr"] = random_.choice([*types, [("a", "<f4")], ["<f4", (2,)], 7, None])
    elif kind <= 2:
        first = shape[0] if shape else 1
        header["shape"] = random_.choice(
            [
                shape[::-1],
                (*shape, 1),
                (-first, *shape[1:]),
                (0,),
                (),
                (2**62, 4),
                (2**31, 2**31),
                (1.5, 2),
                [1, 2],
                True,
            ]
        )
    elif kind == 3:
        header["fortran_order"] = random_.choice([True, 1, None, "x"])
    elif kind == 4:
        header[random_.choice(["x", 7])] = 1
    elif kind == 5:
        del header[random_.choice(list(header))]
    text = repr(header).encode("latin1", "replace") + b"\n"
    if random_.random() < 0.1:
        text = random_.choice(
            [b"(" * 4000, b"{" + b"1:" * 900, b"[" * 90 + b"]" * 90, b"'\\", b"\0\0", b"{'descr': " * 50]
        )
    version = random_.choice([b"\x01\x00"] * 6 + [b"\x02\x00", b"\x03\x00", b"\x09\x00"])
    size = random_.choice([len(text)] * 8 + [2**31, 0])
    stated = struct.pack("<H", size % 65536) if version == b"\x01\x00" else struct.pack("<I", size % 2**32)
    return b"\x93NUMPY" + version + stated + text + body


def of_zip(data: bytes, random_: random.Random) -> bytes:
    """Members damaged, renamed, left out, repeated, or compressed another way; the directory's own fields."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = random_.randrange(len(members))
    name, body = members[place]
    kind = random_.randrange(9)
    if kind == 0:
        members.append((name, random_.choice([body, body[::-1], b""])))
    elif kind == 1:
        del members[place]
    elif kind == 2:
        new = ["/x.npy", "../x.npy", "a/b.npy", "x", "\x1b.npy", "a/data.pkl", name.upper(), name + "\0y", "é.npy", ""]
        members[place] = (random_.choice(new), body)
    elif kind == 3:
        other = random_.randrange(len(members))
        members[place], members[other] = (name, members[other][1]), (members[other][0], body)
    elif body.startswith(b"\x93NUMPY") and kind < 7:
        members[place] = (name, of_npy(body, random_))
    else:
        members[place] = (name, of_bytes(body, random_))
    out = io.BytesIO()
    method = random_.choice(
        [zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    with zipfile.ZipFile(out, "w", method) as archive:
        for member, content in members:
            archive.writestr(member or "x", content)
    result = bytearray(out.getvalue())
    if random_.random() < 0.4 and (at := result.rfind(b"PK\x01\x02")) >= 0:
        for _ in range(random_.choice([1, 2])):
            field = at + random_.choice([6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 38, 42, 46])
            if field + 4 <= len(result):
                result[field : field + 4] = struct.pack("<I", random_.choice(INTEGERS) % 2**32)
    return bytes(result)


def of_parquet(data: bytes, random_: random.Random) -> bytes:
    """Columns left out, renamed, repeated, of other types, or with nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    place = random_.randrange(table.num_columns)
    name, rows = table.column_names[place], table.num_rows
    kind = random_.randrange(8)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        names = [*table.column_names]
        names[place] = random_.choice(["", "x", "\x1b[2J", names[0], names[-1]])
        table = table.rename_columns(names)
    elif kind == 2:
        table = table.slice(0, random_.choice([0, 1]))
    elif kind == 3:
        held = table.column(place).to_pylist()
        held[random_.randrange(rows)] = None
        table = table.set_column(place, name, pa.array(held, table.schema.field(place).type))
    else:
        choices: list[Any] = [
            pa.nulls(rows),
            pa.array(["x\ny"] * rows),
            pa.array([b"\xff"] * rows),
            pa.array([[1, None]] * rows),
            pa.array([[]] * rows, pa.list_(pa.int64())),
            pa.array([[[1.5]]] * rows),
            pa.array([2**63] * rows, pa.uint64()),
            pa.array([float("nan"), *[1.0] * (rows - 1)]),
            pa.array([float("-inf")] * rows),
            pa.array([0] * rows, pa.timestamp("us")),
            pa.array([-1] * rows, pa.int8()),
            pa.array([True] * rows),
            pa.array([{"a": 1}] * rows),
            pa.array(["1"] * rows).dictionary_encode(),
            pa.array([random_.randrange(-5, 99) for _ in range(rows)]),
        ]
        table = table.set_column(place, name, random_.choice(choices))
    out = io.BytesIO()
    pq.write_table(table, out, compression=random_.choice(["none", "snappy", "zstd"]))
    return out.getvalue()


def of_llama_cpp(data: bytes, random_: random.Random) -> bytes:
    """The three sizes of the header, ids, and the scales of rows."""
    held = bytearray(data)
    place = random_.choice([8, 12, 16, 20, 24, len(held) - 40 - random_.randrange(40)])
    held[place : place + 4] = struct.pack(
        "<I", random_.choice([*INTEGERS, 3, 9, 2**20, 0x7FC00000, 0xFF800000]) % 2**32
    )
    return bytes(held)


def of_gzip(data: bytes, random_: random.Random) -> bytes:
    """The text inside."""
    return gzip.compress(of_lines(gzip.decompress(data), random_), 1)


def of_text(data: bytes, random_: random.Random) -> bytes:
    """Numbers replaced, and words or lines removed, repeated or swapped."""
    pieces = re.split(rb"([0-9][0-9.]*|\n)", data)
    for _ in range(random_.choice([1, 1, 2, 4, 16])):
        place = random_.randrange(len(pieces))
        kind = random_.randrange(5)
        if kind <= 2:
            numbers = [at for at, piece in enumerate(pieces) if piece[:1].isdigit()] or [place]
            new = random_.choice(
                [*map(str, INTEGERS), "NaN", "1e999", "0.5", "9" * 400, "1.2.3", "", "\x1b[2J", "\u202e"]
            )
            pieces[random_.choice(numbers)] = new.encode()
        elif kind == 3:
            del pieces[place : place + random_.choice([1, 2, 8])]
            pieces = pieces or [b""]
        else:
            pieces[place:place] = pieces[place : place + random_.choice([1, 2, 8])]
    return b"".join(pieces)


def _any(structure: Mutate) -> Mutate:
    def mutate(data: bytes, random_: random.Random) -> bytes:
        done = (structure if random_.random() < 0.65 else of_bytes)(data, random_)
        return of_bytes(done, random_) if random_.random() < 0.1 else done

    return mutate


#: Ending of a file -> how files of this kind are damaged.
BY_ENDING: dict[str, Mutate] = {
    ".safetensors": _any(of_safetensors),
    ".npy": _any(of_npy),
    ".npz": _any(of_zip),
    ".pt": _any(of_zip),
    ".json": _any(of_json),
    ".jsonl": _any(of_lines),
    ".parquet": _any(of_parquet),
    ".kld": _any(of_llama_cpp),
    ".gz": _any(of_gzip),
    ".txt": _any(of_text),
    ".log": _any(of_text),
}
