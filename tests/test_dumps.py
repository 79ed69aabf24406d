"""Dumps: what is written is read back, rows stream, damage is named."""

from __future__ import annotations

import errno
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import DumpWriter, inspect_dump
from mdsd_bounds.dumps.formats import native

ROWS, WIDTH, DRAFT_WIDTH = 11, 40, 43


def rows(count: int = ROWS, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "target_logits": torch.randn(count, WIDTH, generator=generator).to(dtype),
        "draft_logits": torch.randn(count, DRAFT_WIDTH, generator=generator).to(dtype),
    }


def columns(count: int = ROWS) -> dict[str, torch.Tensor]:
    return {
        "doc": torch.arange(count) // 3,
        "position": torch.arange(count) % 3,
        "token": torch.arange(count) * 7 % WIDTH,
    }


def write_native(path: Path, count: int = ROWS, shard_rows: int = 4) -> Path:
    with DumpWriter(path, shard_rows=shard_rows, notes={"who": "test"}) as writer:
        for start in range(0, count, 3):
            part = {name: value[start : start + 3] for name, value in (rows(count) | columns(count)).items()}
            writer.append(part.pop("target_logits"), part.pop("draft_logits"), **part)
    return path


def write(form: str, folder: Path) -> str:
    pair = rows()
    arrays = {name: value.numpy() for name, value in pair.items()}
    extra = {"doc": columns()["doc"].numpy(), "tokens": columns()["token"].numpy()}
    if form == "native":
        return str(write_native(folder / "native"))
    if form == "npz":
        np.savez(folder / "pair.npz", **arrays, **extra)
        return str(folder / "pair.npz")
    if form == "npz compressed":
        np.savez_compressed(folder / "pair.npz", **arrays, **extra)
        return str(folder / "pair.npz")
    if form == "npy":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return f"{folder}/target_logits.npy,{folder}/draft_logits.npy"
    if form == "npy folder":
        write("npy", folder)
        return str(folder)
    if form == "safetensors":
        save_file(pair, folder / "pair.safetensors")
        return str(folder / "pair.safetensors")
    if form == "safetensors pair":
        save_file({"logits": pair["target_logits"]}, folder / "a.safetensors")
        save_file({"draft_logits": pair["draft_logits"]}, folder / "b.safetensors")
        return f"{folder}/a.safetensors,{folder}/b.safetensors"
    torch.save(pair | {"doc": columns()["doc"]}, folder / "pair.pt")
    return str(folder / "pair.pt")


FORMS = ["native", "npz", "npz compressed", "npy", "npy folder", "safetensors", "safetensors pair", "pt"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rows_come_back(form: str, batch_size: int, tmp_path: Path) -> None:
    dump = open_dump(write(form, tmp_path))
    assert len(dump) == ROWS
    assert (dump.facts.target_width, dump.facts.draft_width) == (WIDTH, DRAFT_WIDTH)
    batches = list(dump.batches(batch_size))
    expected = rows()
    read = torch.cat([b.target_logits for b in batches])
    assert torch.equal(read[:, :WIDTH], expected["target_logits"])
    assert read[:, WIDTH:].eq(-float("inf")).all()
    assert torch.equal(torch.cat([b.draft_logits for b in batches]), expected["draft_logits"])
    assert torch.cat([b.row for b in batches]).tolist() == list(range(ROWS))
    if form in ("native", "npz", "pt"):
        docs = [b.doc for b in batches if b.doc is not None]
        assert torch.equal(torch.cat(docs), columns()["doc"])
    # Rows in any order, and a range in the middle.
    (middle,) = dump.batches(5, start=3, stop=8)
    assert torch.equal(middle.target_logits[:, :WIDTH], expected["target_logits"][3:8])
    (first,) = dump.batches(2, start=0, stop=2)
    assert torch.equal(first.target_logits[:, :WIDTH], expected["target_logits"][:2])
    assert inspect_dump(dump.facts.path)["positions"] == ROWS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_survives(dtype: torch.dtype, tmp_path: Path) -> None:
    pair = rows(5, dtype)
    with DumpWriter(tmp_path / "d") as writer:
        writer.append(pair["target_logits"], pair["draft_logits"])
    (batch,) = open_dump(tmp_path / "d").batches(5)
    assert batch.target_logits.dtype == dtype
    assert torch.equal(batch.target_logits[:, :WIDTH], pair["target_logits"])


def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = write_native(tmp_path / "whole")
    broken = tmp_path / "broken"
    data = rows() | columns()
    writer = DumpWriter(broken, shard_rows=4, notes={"who": "test"})
    writer.append(**{name: value[:6] for name, value in data.items()})
    (broken / "shard-00001.safetensors.123.tmp").write_bytes(b"half")
    del writer  # killed: two rows were still in memory
    assert "unfinished" in inspect_dump(str(broken))
    assert len(open_dump(broken)) == 4
    with DumpWriter(broken, shard_rows=4, notes={"who": "test"}) as writer:
        assert writer.rows == 4
        writer.append(**{name: value[4:] for name, value in data.items()})
    for file in whole.iterdir():
        assert (broken / file.name).read_bytes() == file.read_bytes()
    assert len(list(broken.iterdir())) == len(list(whole.iterdir()))
    native.verify_native(broken)


def test_disk_full_leaves_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows() | columns()
    writer = DumpWriter(tmp_path / "d", shard_rows=4)
    writer.append(**{name: value[:5] for name, value in data.items()})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        writer.append(**{name: value[5:] for name, value in data.items()})
    monkeypatch.undo()
    assert len(open_dump(tmp_path / "d")) == 4
    assert not list((tmp_path / "d").glob("*.tmp"))


@pytest.mark.parametrize("form", ["native", "npz", "npz compressed", "npy", "safetensors", "pt"])
def test_truncated_files_are_named(form: str, tmp_path: Path) -> None:
    path = write(form, tmp_path)
    file = {"native": tmp_path / "native" / "shard-00001.safetensors", "npy": tmp_path / "draft_logits.npy"}.get(
        form, Path(path)
    )
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(InputError) as error:
        list(open_dump(path).batches(3))
    assert file.stem in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_to_a_native_dump_is_named(tmp_path: Path) -> None:
    path = write_native(tmp_path / "d")
    manifest = json.loads((path / "manifest.json").read_text())
    shard = path / "shard-00000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InputError, match="SHA-256 differs"):
        native.verify_native(path)
    shard.unlink()
    with pytest.raises(InputError, match="shard is missing"):
        open_dump(path)
    shard.write_bytes(good)
    for change, message in [
        ({"target_width": 41}, "manifest.json says"),
        ({"dtype": "int8"}, "invalid manifest, dtype"),
        ({"surprise": 1}, "invalid manifest, surprise"),
        ({"shards": []}, "does not list it"),
        ({"shards": [], "complete": False}, "no rows"),
    ]:
        (path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(InputError, match=message):
            open_dump(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="invalid manifest"):
        open_dump(path)


def test_a_writer_refuses_rows_that_do_not_fit(tmp_path: Path) -> None:
    data = rows()
    writer = DumpWriter(tmp_path / "d", shard_rows=4)
    writer.append(**data)
    with pytest.raises(InputError, match="do not fit"):
        writer.append(data["target_logits"][:, :39], data["draft_logits"])
    with pytest.raises(InputError, match="do not fit"):
        writer.append(**data, doc=columns()["doc"])
    with pytest.raises(InputError, match="unknown column"):
        writer.append(**data, colour=columns()["doc"])
    with pytest.raises(InputError, match="give one dtype"):
        writer.append(data["target_logits"].float(), data["draft_logits"])
    with pytest.raises(InputError, match="whose notes differs"):
        DumpWriter(tmp_path / "d", notes={"other": 1})
    with pytest.raises(InputError, match="nothing was written"):
        DumpWriter(tmp_path / "e").close()


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.save(tmp_path / "target_logits.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "draft_logits.npy", np.zeros((1, 2)))
    with pytest.raises(InputError, match="pickle"):
        open_dump(tmp_path)
    np.savez(tmp_path / "x.npz", target_logits=np.array([[Trap()]], dtype=object), draft_logits=np.zeros((1, 2)))
    with pytest.raises(InputError, match="pickle"):
        open_dump(tmp_path / "x.npz")
    torch.save({"target_logits": Trap()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="read as file of plain tensors"):
        open_dump(tmp_path / "x.pt")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="not recognised"):
        open_dump(tmp_path / "x.pkl")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("target", "draft", "message"),
    [
        (np.zeros((2, 5)), np.zeros((3, 5)), "2 target rows but 3 draft rows"),
        (np.zeros((0, 5)), np.zeros((0, 5)), "no rows"),
        (np.zeros(5), np.zeros(5), "give \\[positions, vocabulary\\]"),
        (np.zeros((2, 5), dtype=np.int64), np.zeros((2, 5)), "dtype int64"),
        (np.zeros((2, 5)), np.zeros((2, 500)), "token map"),
    ],
)
def test_pairs_that_cannot_be(target: np.ndarray, draft: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", target_logits=target, draft_logits=draft)
    with pytest.raises(InputError, match=message):
        open_dump(tmp_path / "x.npz")


def test_missing_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_dump(tmp_path / "nothing")
    (tmp_path / "x.npz").write_bytes(b"not a zip at all, just text")
    with pytest.raises(InputError, match="wrong magic"):
        open_dump(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", target_logits=np.zeros((1, 2)))
    with pytest.raises(InputError, match="lacks draft_logits"):
        open_dump(tmp_path / "y.npz")
    np.savez(
        tmp_path / "z.npz", **{k: np.zeros((2, 3)) for k in ("target_logits", "draft_logits")}, doc=np.zeros(3, int)
    )
    with pytest.raises(InputError, match="give 2 integers"):
        open_dump(tmp_path / "z.npz")


@pytest.mark.parametrize("form", ["native", "npz", "npy", "safetensors"])
def test_memory_does_not_grow_with_positions(form: str, tmp_path: Path) -> None:
    peaks = []
    for count in (40, 400):
        pair = {name: np.ones((count, 20_000), dtype=np.float16) for name in ("target_logits", "draft_logits")}
        folder = tmp_path / str(count)
        folder.mkdir()
        if form == "native":
            path = folder / "d"
            with DumpWriter(path, shard_rows=20) as writer:
                writer.append(**{name: torch.from_numpy(value) for name, value in pair.items()})
        elif form == "npz":
            path = folder / "d.npz"
            np.savez(path, **pair)
        elif form == "npy":
            path = folder
            for name, value in pair.items():
                np.save(folder / f"{name}.npy", value)
        else:
            path = folder / "d.safetensors"
            save_file({name: torch.from_numpy(value) for name, value in pair.items()}, path)
        del pair
        tracemalloc.start()
        for batch in open_dump(path).batches(10):
            assert batch.target_logits.shape == (10, 20_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000


def test_tokens_of_another_tokenizer(tmp_path: Path) -> None:
    rows = 6 * torch.eye(8)
    with DumpWriter(tmp_path / "d") as writer:
        writer.append(rows, rows, token=torch.tensor([0, 1, 2, 3, 4, 8, 6, 7]))
    with pytest.raises(InputError, match="row 5: token 8 is recorded, but the vocabulary has 8 tokens"):
        list(open_dump(tmp_path / "d").batches(3))


def test_inspect_notices_rows_and_tokens_that_do_not_belong_together(tmp_path: Path) -> None:
    rows = 6 * torch.eye(8)
    for name, token in (("right", torch.arange(8)), ("shifted", torch.arange(8).roll(1))):
        with DumpWriter(tmp_path / name) as writer:
            writer.append(rows, rows, token=token)
    assert "WARNING 1" not in inspect_dump(str(tmp_path / "right"))
    assert "the target's rows fit the token recorded one row" in inspect_dump(str(tmp_path / "shifted"))["WARNING 1"]


def test_a_shard_that_is_replaced_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write_native(tmp_path / "d")
    shard = path / "shard-00001.safetensors"
    good = shard.read_bytes()
    size = int.from_bytes(good[:8], "little")
    dump = open_dump(path)
    for damaged in (
        good.replace(b'"F32"', b'"I32"').replace(b'"F16"', b'"I16"'),
        (1 << 40).to_bytes(8, "little") + good[8:],
        b"\xff" * len(good),
        (2).to_bytes(8, "little") + b"[]" + good[10:],
        good[: 8 + size],
    ):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=r"shard-00001.safetensors: the shard cannot be read") as error:
            list(dump.batches(3))
        assert "\n" not in str(error.value)
    shard.write_bytes(good)
    list(dump.batches(3))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"shape":[4,40]', b'"shape":[5,40]', "bytes for"),
        (b'"shape":[4,40]', b'"shape":[8,20]', "manifest.json says"),
        (b'"dtype":"F16"', b'"dtype":"I16"', "manifest.json says"),
        (b'"target_logits"', b'"target_logitz"', "manifest.json says"),
        (b'"data_offsets":[', b'"data_offsets":"', "truncated or corrupt"),
        (b'"shape":[4,40]', b'"shape":[44.0]', "no places and lengths"),
        (b"{", b"[", "truncated or corrupt"),
    ],
)
def test_a_header_that_lies_is_refused(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    path = write_native(tmp_path / "dump")
    file = path / "shard-00001.safetensors"
    opened, good = open_dump(path), file.read_bytes()
    assert old in good
    file.write_bytes(good.replace(old, new))
    with pytest.raises(InputError, match=message):
        open_dump(path)
    with pytest.raises(InputError, match="cannot be read"):
        list(opened.batches(ROWS))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"3",
        b"null",
        b"[" * 100_000,
        b"\xff" * 9,
        b'{"target_logits":{}}',
        b"{}",
        b'{"target_logits":{"dtype":"F16","shape":[4,40],"data_offsets":[0,1e999]}}',
        b'{"target_logits":{"dtype":"F16","shape":{"4":40},"data_offsets":[0,320]}}',
    ],
)
def test_a_header_of_another_kind_is_refused(body: bytes, tmp_path: Path) -> None:
    path = write_native(tmp_path / "dump")
    (path / "shard-00000.safetensors").write_bytes(len(body).to_bytes(8, "little") + body)
    with pytest.raises(InputError, match=r"shard-00000.safetensors: (truncated or corrupt|.*manifest.json says)"):
        open_dump(path)


def test_a_shard_replaced_by_a_shorter_one_gives_no_rows_of_another_tensor(tmp_path: Path) -> None:
    path = write_native(tmp_path / "dump")
    opened = open_dump(path)
    short = write_native(tmp_path / "short", 2) / "shard-00000.safetensors"
    (path / "shard-00000.safetensors").write_bytes(short.read_bytes())
    with pytest.raises(InputError, match=r"\[2, 40\]\) now; it was replaced"):
        list(opened.batches(ROWS))


def test_documents_given_by_name_are_refused_in_one_line(tmp_path: Path) -> None:
    rows = np.zeros((4, 5), dtype=np.float32)
    np.savez(tmp_path / "named.npz", target_logits=rows, draft_logits=rows, doc=np.array(["a", "a", "b", "b"]))
    with pytest.raises(InputError, match=r"doc is <U1; give 4 integers"):
        open_dump(tmp_path / "named.npz")
