"""Conversions keep what the rows say: full rows stay as they are, truncated rows give intervals around the bounds."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from problems import batch_bound

from mdsd_bounds import InputError, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.dumps import convert as module
from mdsd_bounds.dumps import single_model as sides
from mdsd_bounds.dumps.convert import convert
from mdsd_bounds.dumps.formats.native import DumpWriter


@pytest.fixture(autouse=True)
def _small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that do not state their vocabulary are taken to have the largest in use, which costs time, not rightness.
    monkeypatch.setattr(sides, "UNSTATED_WIDTH", 64)


ROWS, WIDTH = 40, 30
COUNTS = (1, 3)
FULL = ["native", "x.safetensors", "x.npz", "x.pt", "t.npy,d.npy", "t.kld,d.kld"]
CUT = ["k.safetensors", "k.npz", "k.pt", "t.json,d.json", "t.parquet,d.parquet"]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = 2 * torch.randn(ROWS, WIDTH, generator=generator)
    return target, target + torch.randn(ROWS, WIDTH, generator=generator)


def source(folder: Path, dtype: torch.dtype = torch.float32) -> str:
    target, draft = pair()
    columns = {
        "doc": torch.arange(ROWS) // 15,
        "position": torch.arange(ROWS) % 15,
        "token": torch.arange(ROWS) % WIDTH,
    }
    with DumpWriter(folder / "src", shard_rows=16, notes={"who": "test"}) as writer:
        writer.append(target.to(dtype), draft.to(dtype), **columns)
    return str(folder / "src")


def place(folder: Path, name: str) -> str:
    return ",".join(str(folder / part) for part in name.split(","))


def check(path: str, width: float) -> None:
    target, draft = pair()
    for sampler in ("with_replacement", "without_replacement"):
        full = optimal_acceptance(to_probs(target), to_probs(draft), COUNTS, sampler)
        found = [batch_bound(batch, COUNTS, sampler) for batch in open_dump(path).batches(16)]
        low, high = (torch.cat([getattr(bound, end) for bound in found], -1) for end in ("low", "high"))
        assert (low <= full.low + 1e-9).all()
        assert (full.high <= high + 1e-9).all()
        assert (high - low).max() < width


@pytest.mark.parametrize("name", FULL)
def test_full_formats(name: str, tmp_path: Path) -> None:
    out = place(tmp_path, name)
    convert(source(tmp_path), out)
    dump = open_dump(out)
    target, draft = pair()
    (batch,) = dump.batches(ROWS)
    if "kld" in name:
        check(out, 5e-3)
    else:
        assert torch.equal(batch.target_logits, target)
        assert torch.equal(batch.draft_logits, draft)
    if "npy" not in name:
        assert batch.token is not None
        assert torch.equal(batch.token, torch.arange(ROWS) % WIDTH)
    # And back again, through the native form.
    convert(out, tmp_path / "back")
    check(str(tmp_path / "back"), 5e-3)


@pytest.mark.parametrize("name", CUT)
def test_cut_formats(name: str, tmp_path: Path) -> None:
    out = place(tmp_path, name)
    convert(source(tmp_path), out, top_k=12)
    check(out, 0.5)
    (batch,) = open_dump(out).batches(ROWS)
    assert batch.token is not None
    assert torch.equal(batch.token, torch.arange(ROWS) % WIDTH)
    convert(out, tmp_path / "back")
    check(str(tmp_path / "back"), 0.5)
    # A cut of a cut is wider, and still right.
    convert(out, tmp_path / "narrow.safetensors", top_k=6)
    check(str(tmp_path / "narrow.safetensors"), 1.0)


def test_two_files_of_different_formats_are_joined(tmp_path: Path) -> None:
    src = source(tmp_path)
    convert(src, place(tmp_path, "t.kld,d.kld"))
    convert(src, place(tmp_path, "t.npy,d.npy"))
    convert((tmp_path / "t.kld", tmp_path / "d.npy"), tmp_path / "out")
    dump = open_dump(tmp_path / "out")
    assert (dump.facts.format, dump.facts.support) == ("native", "floored")
    check(str(tmp_path / "out"), 5e-3)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "t.npy,d.npy"])
def test_half_precision_is_kept(name: str, tmp_path: Path) -> None:
    out = place(tmp_path, name)
    convert(source(tmp_path, torch.bfloat16), out)
    (batch,) = open_dump(out).batches(ROWS)
    assert torch.equal(batch.target_logits.float(), pair()[0].bfloat16().float())


def test_refusals(tmp_path: Path) -> None:
    src = source(tmp_path)
    for out, options, message in [
        ("x.txt", {}, "give a folder"),
        ("t.npz,d.npz", {}, "give a folder"),
        ("x.kld", {}, "give a folder"),
        ("nowhere/x.npz", {}, "its folder does not exist"),
        ("src", {}, "exists already"),
        ("native", {"top_k": 3}, "cannot be stored so"),
        ("t.json,d.json", {}, "with --top-k"),
    ]:
        with pytest.raises(InputError, match=message):
            convert(src, place(tmp_path, out), **options)
    convert(src, tmp_path / "k.safetensors", top_k=3)
    with pytest.raises(InputError, match="are cut"):
        convert(tmp_path / "k.safetensors", tmp_path / "x.npz")
    np.savez(tmp_path / "bare.npz", target_logits=np.zeros((2, 3)), draft_logits=np.zeros((2, 3)))
    with pytest.raises(InputError, match="records no tokens"):
        convert(tmp_path / "bare.npz", place(tmp_path, "t.json,d.json"), top_k=2)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = source(tmp_path)

    def full(stream: BinaryIO, *_: object) -> None:
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_safetensors", full)
    with pytest.raises(InputError, match="No space left on device"):
        convert(src, tmp_path / "x.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


@pytest.mark.parametrize(("ending", "lost"), [(".npy", "doc, position, token"), (".kld", "doc, position"), ("", "")])
def test_what_a_format_leaves_out_is_said(ending: str, lost: str, tmp_path: Path) -> None:
    said: list[str] = []
    dst = f"{tmp_path / 't'}{ending},{tmp_path / 'd'}{ending}" if ending else tmp_path / "whole"
    convert(source(tmp_path), dst, report=said.append)
    assert said == ([f"{dst}: {ending} cannot hold {lost}; left out"] if lost else [])


@pytest.mark.parametrize(
    "name", ["dump", "x.npz", "x.pt", "x.safetensors", "t.npy,d.npy", "t.kld,d.kld", "t.json,d.json"]
)
def test_a_file_that_cannot_grow_is_one_line(name: str, tmp_path: Path) -> None:
    """A quota or a full disk, by the system's own limit on the size of files."""
    import resource

    src, out = source(tmp_path), place(tmp_path, name)
    before = sorted(file.name for file in tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(InputError, match="could not be written") as caught:
            convert(src, out, top_k=12 if "json" in name else None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ".mdsd-" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_lists_of_tokens_take_no_rows_of_which_less_is_known(tmp_path: Path) -> None:
    """A list says that nothing exceeds the least of its values: not true of one token, nor of llama.cpp's codes."""
    convert(source(tmp_path), place(tmp_path, "t.kld,d.kld"))
    lines = [
        {"drafts": [1], "accepted": 0, "positions": [{"token": 2, "p": 0.05, "candidates": [[1, 0.7], [2, 0.2]]}]},
        {"drafts": [2], "accepted": 0, "positions": [{"token": 1, "p": 0.04, "candidates": [[2, 0.6], [1, 0.3]]}]},
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for src in (place(tmp_path, "t.kld,d.kld"), str(tmp_path / "steps.jsonl")):
        for name in ("a.json,b.json", "a.parquet,b.parquet"):
            with pytest.raises(InputError, match="less is known of the row than this format says"):
                convert(src, place(tmp_path, name), top_k=5)
        assert open_dump(convert(src, place(tmp_path, f"{Path(src).stem}.npz"), top_k=5)).facts.support == "top-k"


@pytest.mark.parametrize("name", ["x.safetensors", "t.npy,d.npy", "k.npz", "t.json,d.json"])
def test_what_is_left_out_is_said(name: str, tmp_path: Path) -> None:
    target, draft = pair()
    token = torch.full((ROWS, 8), -1)
    token[:, 0] = 3
    columns = {
        "token": torch.arange(ROWS) % WIDTH,
        "doc": torch.arange(ROWS) // 15,
        "position": torch.arange(ROWS) % 15,
        "judge_token": token,
        "judge_score": torch.where(token >= 0, 0.5, float("nan")).double(),
    }
    with DumpWriter(tmp_path / "src", shard_rows=16) as writer:
        writer.append(target, draft, **columns)
    said: list[str] = []
    top_k = 5 if name.startswith("k") or "json" in name else None
    convert(str(tmp_path / "src"), place(tmp_path, name), top_k=top_k, report=said.append)
    assert "judge_token, judge_score; left out" in said[0]
    # Answers of servers count places from 1.
    assert ["numbered anew" in line for line in said[1:]] == ([True] if "json" in name else [])
