"""Containers: what the bytes say is checked before it is believed, and before memory is taken."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.audit.log_lines import read_log
from mdsd_bounds.dumps import DumpWriter, open_side
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import OpenFile
from mdsd_bounds.dumps.containers.numpy_arrays import open_npy
from mdsd_bounds.dumps.containers.records import records
from mdsd_bounds.dumps.containers.text import integer, lines, parse, whole_text
from mdsd_bounds.dumps.containers.torch_zip import open_torch
from mdsd_bounds.dumps.containers.zip_members import open_zip

N, V = 6, 8


def pair() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(N, V, generator=generator) for name in ("target_logits", "draft_logits")}


def header(data: bytes) -> tuple[dict[str, dict[str, list[int]]], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(found: dict[str, dict[str, list[int]]], body: bytes) -> bytes:
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + body


def native(folder: Path) -> Path:
    with DumpWriter(folder) as writer:
        writer.append(pair()["target_logits"], pair()["draft_logits"])
    return next(folder.glob("*.safetensors"))


@pytest.mark.parametrize("form", ["native", "safetensors", "named", "two files"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places["draft_logits"].update(data_offsets=places["target_logits"]["data_offsets"]), "overlap"),
        (lambda places: places["draft_logits"].update(data_offsets=[4, 4 + 4 * N * V]), "overlap"),
        (lambda places: places["draft_logits"].update(data_offsets=[4 * N * V, 0]), "bytes for"),
        (lambda places: places["target_logits"].update(data_offsets=[4 * N * V + 4, 8 * N * V + 4]), "leave a gap"),
    ],
)
def test_tensors_that_overlap_or_leave_gaps(
    form: str, change: Callable[[dict[str, dict[str, list[int]]]], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    path: str | Path = file
    if form == "native":
        file = native(tmp_path / "dump")
        path = file.parent
    else:
        file.write_bytes(save(pair()))
    if form == "named":
        path = f"{file},{file}"
    if form == "two files":
        (tmp_path / "dump").mkdir()
        path = tmp_path / "dump"
        file.rename(path / "target_logits.safetensors")
        file = path / "target_logits.safetensors"
        (path / "draft_logits.safetensors").write_bytes(save({"draft_logits": pair()["draft_logits"]}))
    places, body = header(file.read_bytes())
    change(places)
    file.write_bytes(with_header(places, body))
    with pytest.raises(InputError, match=message):
        open_dump(path)


def test_a_name_given_twice_in_a_header(tmp_path: Path) -> None:
    found, body = header(save(pair()))
    first, second = (json.dumps(found[name]) for name in ("draft_logits", "target_logits"))
    text = f'{{"draft_logits": {first}, "target_logits": {second}, "draft_logits": {second}}}'.encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    with pytest.raises(InputError, match="there twice"):
        open_dump(tmp_path / "x.safetensors")


@pytest.mark.parametrize("extra", [1, 4, -4])
@pytest.mark.parametrize("form", ["npy", "side", "npz", "npz compressed"])
def test_a_npy_of_another_length_than_its_header_says(form: str, extra: int, tmp_path: Path) -> None:
    members = {}
    for name, rows in pair().items():
        stream = io.BytesIO()
        np.save(stream, rows.numpy())
        members[name] = stream.getvalue()
    whole = members["target_logits"]
    members["target_logits"] = whole + bytes(extra) if extra > 0 else whole[:extra]
    path: str | Path = tmp_path / "x.npz"
    if form.startswith("npz"):
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED if "compressed" in form else zipfile.ZIP_STORED
        ) as archive:
            for name, data in members.items():
                archive.writestr(f"{name}.npy", data)
    else:
        for name, data in members.items():
            (tmp_path / f"{name}.npy").write_bytes(data)
        path = f"{tmp_path}/target_logits.npy,{tmp_path}/draft_logits.npy"
    with pytest.raises(InputError, match="its header asks for"):
        open_side(tmp_path / "target_logits.npy") if form == "side" else open_dump(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["npz", "pt"])
def test_members_there_twice(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form}"
    if form == "npz":
        np.savez(path, **{name: rows.numpy() for name, rows in pair().items()})  # type: ignore[arg-type]
    else:
        torch.save(pair(), path)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(("data/0", "target_logits.npy")))
        data = archive.read(name)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, data[::-1])
    with pytest.raises(InputError, match="holds it twice"):
        open_dump(path)


def test_a_tensor_longer_than_its_record(tmp_path: Path) -> None:
    # torch maps the file from the record's beginning: the values would go on into the next record.
    torch.save({"target_logits": torch.zeros(2, 4), "draft_logits": torch.ones(2, 4)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive, zipfile.ZipFile(tmp_path / "y.pt", "w") as cut:
        for name in archive.namelist():
            data = archive.read(name)
            cut.writestr(name, data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(InputError, match="its record has 28"):
        open_dump(tmp_path / "y.pt")


def test_views_and_steps_of_a_pt_file(tmp_path: Path) -> None:
    wide = torch.arange(2 * 5 * 7, dtype=torch.float32).reshape(2, 5, 7)
    held = {
        "slice": wide[:, 1:4],
        "narrow": wide[..., 2:5],
        "every": wide[0, :, ::3],
        "one": wide[1, 2, 3],
        "expanded": wide[0, :1].expand(4, 7),
        "steps": tuple(wide[:, step] for step in range(5)),
        "half": wide.to(torch.bfloat16),
    }
    torch.save(held, tmp_path / "x.pt")
    found = open_torch(tmp_path / "x.pt")
    held["steps"] = wide
    for name, value in held.items():
        assert isinstance(value, torch.Tensor)
        assert torch.equal(found[name].whole(), value), name
        if value.ndim > 1:
            flat = value.reshape(-1, value.shape[-1])
            assert torch.equal(found[name].rows(1, 4), flat[1:4]), name
    torch.save({"x": torch.arange(200 * 100).reshape(200, 100).T}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="column by column"):
        open_torch(tmp_path / "y.pt")["x"].rows(0, 2)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.empty(2, 2, device="meta"),
        {"nested": 1},
    ],
    ids=["sparse", "meta", "mapping"],
)
def test_tensors_that_are_not_plain(value: object, tmp_path: Path) -> None:
    torch.save({"target_logits": value, "draft_logits": torch.ones(3, 3)}, tmp_path / "x.pt")
    with pytest.raises(InputError):
        open_dump(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">i4", "<u2", "<u8", "?"])
def test_numpy_types(dtype: str, tmp_path: Path) -> None:
    values = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    for name, array in (("c", values), ("f", np.asfortranarray(values))):
        np.save(tmp_path / f"{name}.npy", array)
        found = open_npy(tmp_path / f"{name}.npy")
        assert found.whole().tolist() == values.tolist()
        assert found.rows(1, 3).tolist() == values[1:3].tolist()


def test_big_endian_and_column_order_are_read_as_they_are_meant(tmp_path: Path) -> None:
    rows = pair()["target_logits"].numpy()
    np.save(tmp_path / "t.npy", np.asfortranarray(rows.astype(">f4")))
    np.save(tmp_path / "d.npy", rows)
    (batch,) = open_dump(f"{tmp_path}/t.npy,{tmp_path}/d.npy").batches(N)
    assert torch.equal(batch.target_logits, batch.draft_logits)


HUGE = 1 << 31


_OPEN = """
import resource, sys
from mdsd_bounds import InputError
from mdsd_bounds.dumps import open_dump, open_side
import mdsd_bounds.dumps.formats.distillkit
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        open_dump(path) if path.endswith(("npz", "jsonl")) else open_side(path)
    except InputError as error:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
    else:
        print(-1, path)
"""


def test_limits_hold_before_memory_is_taken(tmp_path: Path) -> None:
    place = {
        name: tmp_path / name for name in ("long.npy", "shape.npy", "x.safetensors", "x.npz", "x.jsonl", "zero.npy")
    }
    place["long.npy"].write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", HUGE) + b"{" + bytes(64))
    place["x.safetensors"].write_bytes(struct.pack("<Q", HUGE) + b"{")
    np.save(place["shape.npy"], np.zeros((2, 2), np.float32))
    place["shape.npy"].write_bytes(place["shape.npy"].read_bytes().replace(b"(2, 2)", b"(999999999, 2)"))
    with zipfile.ZipFile(place["x.npz"], "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in pair().items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, rows.numpy())
        with archive.open("token.npy", "w") as stream:
            np.save(stream, np.zeros(N))
            for _ in range(512):
                stream.write(bytes(1 << 20))
    place["x.jsonl"].write_bytes(b'{"drafts": [], "accepted": 0, "positions"')
    for name, size in (("long.npy", HUGE + 64), ("x.safetensors", HUGE + 64), ("x.jsonl", 3 * HUGE // 4)):
        os.truncate(place[name], size)
    place["zero.npy"].symlink_to("/dev/zero")
    os.mkfifo(place.setdefault("pipe", tmp_path / "pipe"))
    # In a process of its own: its peak memory is what is asked about.
    command = [sys.executable, "-c", _OPEN, *map(str, place.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for path, line in zip(place.values(), done.stdout.splitlines(), strict=True):
        grown, said = line.split(" ", 1)
        assert 0 <= int(grown) * 1024 < 200e6, line
        assert str(path) in said


@pytest.mark.parametrize("form", ["native", "safetensors", "pt", "npz", "npy", "kld"])
def test_a_file_cut_while_it_is_read_is_one_line(form: str, tmp_path: Path) -> None:
    from mdsd_bounds.dumps.formats.llama_cpp import write_llama_cpp

    rows, width = 4, 1 << 18  # pages enough that a map would be touched behind the end
    held = {name: torch.zeros(rows, width) for name in ("target_logits", "draft_logits")}
    path: str | Path = tmp_path / f"x.{form}"
    file = Path(path)
    if form == "native":
        path = tmp_path / "dump"
        with DumpWriter(path) as writer:
            writer.append(held["target_logits"], held["draft_logits"])
        file = next(path.glob("*.safetensors"))
    elif form == "safetensors":
        file.write_bytes(save(held))
    elif form == "pt":
        torch.save(held, path)
    elif form == "npz":
        np.savez(path, **{name: value.numpy() for name, value in held.items()})  # type: ignore[arg-type]
    elif form == "npy":
        np.save(path, held["target_logits"].numpy())
        path = f"{path},{path}"
    else:
        write_llama_cpp(file, held["target_logits"][None, :3], torch.zeros(1, 8, dtype=torch.int32))
        path = f"{path},{path}"
    dump = open_dump(path)
    os.truncate(file, 1 << 12)
    with pytest.raises(InputError, match=str(file.name)):
        list(dump.batches(rows))


def test_archives_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", **{name: rows.numpy() for name, rows in pair().items()})  # type: ignore[arg-type]
    opened: list[Path] = []
    before = OpenFile.__init__

    def count(self: OpenFile, path: Path) -> None:
        opened.append(path)
        before(self, path)

    monkeypatch.setattr(OpenFile, "__init__", count)
    dump = open_dump(tmp_path / "x.npz")
    # Forwards in steps, and back.
    for start in (0, 2, 4, 1):
        (batch,) = dump.batches(2, start, start + 2)
        assert torch.equal(batch.draft_logits, pair()["draft_logits"][start : start + 2])
    assert len(opened) == 1


def test_a_member_that_another_name_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{name: rows.numpy() for name, rows in pair().items()})  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes().replace(b"target_logits.npy", b"torget_logits.npy", 1))
    with pytest.raises(InputError, match="disagree about its name"):
        open_zip(path)


def _read(error: Exception) -> None:
    with reading("x.json", "log", "fetch it") as place:
        place.at = "row 3"
        raise error


def test_the_boundary_names_what_it_caught_and_keeps_the_cause() -> None:
    with pytest.raises(InputError, match=r"x\.json row 3: 'token' is missing \(read as log\); fetch it") as caught:
        _read(KeyError("token"))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(NameError):
        _read(NameError("ours"))
    with pytest.raises(InputError) as caught:
        _read(ValueError("a\x1b[2Jb\nc\u202e" + "d" * 999))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_text() -> None:
    for good, value in [("7", 7), ("-1", -1), (3.0, 3), (1 << 62, 1 << 62)]:
        assert integer(good) == value
    for bad in ["1_0", " 7", "٣", "", 0.5, float("inf"), float("nan"), 1 << 63, "9" * 20, None, [], True]:
        with pytest.raises(ValueError, match=r"no integer|64 bits"):
            integer(bad)
    with pytest.raises(ValueError, match="'5' is there twice"):
        parse('{"5": 0.1, "5": 0.2}')


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\n b\r\nc")
    assert list(lines(path)) == [(1, "a\n"), (3, " b\r\n"), (4, "c")]
    for data, message in [
        (b"a\n\xff\n", "line 2: no UTF-8"),
        (b"a\nb\0", "line 2: holds NUL"),
        (b"a" * 99, "is longer"),
    ]:
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            list(lines(path, 50))


OTHER: dict[str, Callable[[str], bytes]] = {
    "UTF-16 text": lambda text: text.encode("utf-16"),
    "UTF-16 text; save": lambda text: text.encode("utf-16-le"),
    "UTF-16 text; save the": lambda text: text.encode("utf-16-be"),
    "UTF-32 text": lambda text: text.encode("utf-32"),
    "compressed with bzip2": lambda text: bz2.compress(text.encode()),
    "compressed with xz": lambda text: lzma.compress(text.encode()),
}


@pytest.mark.parametrize("words", OTHER)
def test_text_in_other_clothes_says_what_it_is(tmp_path: Path, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(OTHER[words]('{"a": 1}\n' * 9))
    asked = (lambda: list(lines(path)), lambda: whole_text(path), lambda: list(records(path)))
    for read in (*asked, lambda: read_log(str(path))):
        with pytest.raises(InputError, match=f"is {words}"):
            read()
    with pytest.raises(InputError, match=f"it is {words}"):
        open_dump(path)


def test_blank_lines_without_end_are_an_error(tmp_path: Path) -> None:
    # A hundred kilobytes that become a hundred million lines.
    path = tmp_path / "steps.jsonl"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + b"\n" * 1_000_000 + b"{}\n"))
    assert [number for number, _ in lines(path)] == [1, 1_000_002]
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + b"\n" * 1_000_001 + b"{}\n"))
    with pytest.raises(InputError, match="line 1000002: 1000000 blank lines"):
        list(lines(path))
