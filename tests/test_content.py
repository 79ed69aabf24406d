"""The content of a dump: what tells it from another, shards held against their checksums, runs that never mix two."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import DumpWriter, verified
from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.convert import convert
from mdsd_bounds.dumps.formats.native import verify_native
from mdsd_bounds.pipeline.engines import local
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run

ROWS, SIZE = 200, 30
SETTINGS = Settings(samplers=("greedy",), drafts=(1,))
FORMS = ["native", "npz", "npy folder", "npy pair", "safetensors", "pt"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(form: str, folder: Path, seed: int) -> str:
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    pair = {f"{role}_logits": torch.randn(ROWS, SIZE, generator=generator) for role in ("target", "draft")}
    folder.mkdir(exist_ok=True)
    if form == "native":
        shutil.rmtree(folder / "d", ignore_errors=True)
        with DumpWriter(folder / "d", shard_rows=70) as writer:
            writer.append(**pair)
        return str(folder / "d")
    if form.startswith("npy"):
        for name, rows in pair.items():
            np.save(folder / f"{name}.npy", rows.numpy())
        return str(folder) if "folder" in form else ",".join(str(folder / f"{name}.npy") for name in pair)
    path = folder / f"d.{form}"
    if form == "npz":
        np.savez(path, **{name: rows.numpy() for name, rows in pair.items()})
    elif form == "pt":
        torch.save(pair, path)
    else:
        save_file(pair, path)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_run_never_mixes_two_dumps(form: str, tmp_path: Path) -> None:
    label, out = write(form, tmp_path / "a", 0), tmp_path / "rows.parquet"
    assert run(open_dump(label), SETTINGS, out=str(out), shard=(0, 2)) is None
    write(form, tmp_path / "a", 1)  # the same name, shape and size
    with pytest.raises(InputError, match="another dump"):
        run(open_dump(label), SETTINGS, out=str(out))
    write(form, tmp_path / "a", 0)  # the old rows again, under new times
    run(open_dump(label), SETTINGS, out=str(out))
    moved = write(form, tmp_path / "elsewhere", 0)
    whole = tmp_path / "whole.parquet"
    run(open_dump(moved), SETTINGS, out=str(whole))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("form", ["npz", "npy pair", "pt"])
def test_a_dump_that_changes_during_a_run_leaves_no_mixed_part(form: str, tmp_path: Path) -> None:
    label, out = write(form, tmp_path / "a", 0), tmp_path / "rows.parquet"

    changed: list[float] = []

    def change(done: float, total: int) -> None:
        if done >= 64 and not changed:
            changed.append(done)
            write(form, tmp_path / "new", 1)
            for new in (tmp_path / "new").iterdir():
                # In place and without a moment at which the file is shorter, which would be another error.
                with (tmp_path / "a" / new.name).open("r+b") as stream:
                    stream.write(new.read_bytes())

    with pytest.raises(InputError, match="changed while it was read"):
        run(open_dump(label), SETTINGS, out=str(out), progress=change)
    write(form, tmp_path / "a", 0)
    run(open_dump(label), SETTINGS, out=str(out))
    whole = tmp_path / "whole.parquet"
    run(open_dump(write(form, tmp_path / "b", 0)), SETTINGS, out=str(whole))
    assert out.read_bytes() == whole.read_bytes()


def test_rows_that_come_from_no_file_have_a_fingerprint(tmp_path: Path) -> None:
    dump = open_dump(write("npz", tmp_path / "a", 0))
    other = open_dump(write("npz", tmp_path / "b", 1))
    bare = Dump(dump.facts, dump.read_rows)
    assert bare.fingerprint() == Dump(replace(dump.facts, path="x"), dump.read_rows).fingerprint()
    assert bare.fingerprint() != Dump(dump.facts, other.read_rows).fingerprint()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_flipped_bit_names_its_shard(place: int, tmp_path: Path) -> None:
    path = Path(write("native", tmp_path, 0))
    shard = path / f"shard-{place:05d}.safetensors"
    data = bytearray(shard.read_bytes())
    data[-17] ^= 1
    shard.write_bytes(data)
    dump = open_dump(path)
    with pytest.raises(InputError, match=rf"{shard.name}: XXH3 differs from the manifest's, the shard is damaged"):
        list(dump.batches(ROWS))
    with pytest.raises(InputError, match=rf"{shard.name}: SHA-256 differs"):
        verify_native(path)


def age(folder: Path) -> None:
    """Let every file look as if it had been written a while ago; only a wait moves the time of change."""
    time.sleep(2.2)
    assert folder.exists()


def test_shards_are_read_whole_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write("native", tmp_path, 0))
    age(path)
    hashed: list[str] = []
    own = verified.digest_of
    monkeypatch.setattr(verified, "digest_of", lambda stream, kind: hashed.append(kind) or own(stream, kind))
    for expected in (3, 3):
        list(open_dump(path).batches(20))
        assert hashed == ["xxh3_128"] * expected
    shard = path / "shard-00001.safetensors"
    state = shard.stat()
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(state.st_atime_ns, state.st_mtime_ns))  # a time of writing can be put back
    with pytest.raises(InputError, match=r"shard-00001.*damaged"):
        list(open_dump(path).batches(20))
    # A torn or foreign record is no record.
    (path / verified.RECORD).write_bytes(b'{"file": "shard-00000.safetensors"}\n[[[[\n\xff{"file": 3}\n{"fi')
    data[-1] ^= 1
    shard.write_bytes(data)
    list(open_dump(path).batches(20))


def test_the_cache_folder_serves_dumps_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write("native", tmp_path, 0))
    (path / verified.RECORD).mkdir()  # cannot be opened for writing, whoever runs this
    age(path)
    list(open_dump(path).batches(ROWS))
    monkeypatch.setattr(verified, "digest_of", lambda *_: pytest.fail("read whole again"))
    list(open_dump(path).batches(ROWS))
    assert len(list((tmp_path / "cache").rglob("*.jsonl"))) == 1


def test_a_finished_run_sweeps_what_a_kill_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label, out = write("npz", tmp_path / "a", 0), tmp_path / "rows.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("mdsd_bounds.pipeline.part_files.Store.remove", lambda self: None)
        run(open_dump(label), SETTINGS, out=str(out))
    leaving = Path(f"{out}.parts.{'0' * 32}.tmp")
    leaving.mkdir()
    foreign = Path(f"{out}.parts.mine.tmp")
    foreign.mkdir()
    monkeypatch.setattr(local, "compute", None)
    run(open_dump(label), SETTINGS, out=str(out))
    assert not Path(f"{out}.parts").exists()
    assert not leaving.exists()
    assert foreign.exists()


def test_a_folder_of_others_is_not_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "work.tmp").write_text("theirs")
    with pytest.raises(InputError, match=r"is not empty and holds no manifest.json \(work.tmp\)"):
        DumpWriter(folder)
    assert (folder / "work.tmp").read_text() == "theirs"


@pytest.mark.parametrize("form", ["npz", "safetensors", "pt", "npy", "parquet"])
def test_a_dump_that_is_overwritten_in_its_place_gives_no_rows_of_both(form: str, tmp_path: Path) -> None:
    """Two dumps of one size: the first rows of one and the last of the other would be exact and of nothing."""
    names = {}
    for seed, name in enumerate(("one", "two")):
        target, draft = np.random.default_rng(seed).normal(size=(2, 300, 7)).astype(np.float32)
        np.savez(tmp_path / "pair.npz", target_logits=target, draft_logits=draft)
        if form == "parquet":
            names[name] = str(tmp_path / f"{name}.parquet")
            rows = {"target_logits": list(target), "draft_logits": list(draft)}
            pd.DataFrame(rows).to_parquet(names[name], row_group_size=64, use_dictionary=False, compression=None)
        else:
            ends = [f"{name}-t.npy", f"{name}-d.npy"] if form == "npy" else [f"{name}.{form}"]
            names[name] = ",".join(str(tmp_path / end) for end in ends)
            convert(str(tmp_path / "pair.npz"), names[name])
    dump = open_dump(names["one"])
    batches = dump.batches(64)
    next(batches)
    for old, new in zip(names["one"].split(","), names["two"].split(","), strict=True):
        assert Path(old).stat().st_size == Path(new).stat().st_size
        with Path(old).open("r+b") as stream:
            stream.write(Path(new).read_bytes())
        os.utime(old, ns=(1, 1))
    with pytest.raises(InputError, match="was changed while it was read"):
        list(batches)
    with pytest.raises(InputError, match="was changed while it was read"):
        run(dump, Settings(("greedy",), (1,)))
    assert len(list(open_dump(names["one"]).batches(64))) == 5


def test_a_parquet_dump_that_is_replaced_is_not_opened_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        rows = np.random.default_rng(len(name)).normal(size=(300, 7))
        pd.DataFrame({"target_logits": list(rows), "draft_logits": list(rows + 1)}).to_parquet(tmp_path / name)
    dump = open_dump(tmp_path / "one")
    list(dump.batches(64))
    os.replace(tmp_path / "two", tmp_path / "one")
    with pytest.raises(InputError, match="was replaced while it was read"):
        next(dump.batches(64))
