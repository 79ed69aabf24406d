"""What is written once more is the same bytes; of two files that belong together none stands beside an older other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.containers.safetensors import load_safetensors, safetensors_bytes, safetensors_notes
from mdsd_bounds.dumps.convert import convert
from tests.command import call


class Killed(BaseException):
    """In place of signal 9."""


def dump(path: Path, seed: int) -> str:
    """A pair of random rows."""
    rows = np.random.default_rng(seed).normal(size=(2, 6, 5)).astype(np.float32)
    np.savez(path, target_logits=rows[0], draft_logits=rows[1], token=np.zeros(6, int))
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "kld", "json", "parquet"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_conversion_stopped_between_two_files_leaves_no_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stop: int
) -> None:
    first, second = (dump(tmp_path / f"{seed}.npz", seed) for seed in (1, 2))
    files = [tmp_path / f"{role}.{kind}" for role in ("target", "draft")]
    options: dict[str, Any] = {"top_k": 3} if kind in ("json", "parquet") else {}
    dst = ",".join(map(str, files))
    convert(first, dst, **options)
    old = [file.read_bytes() for file in files]
    convert(second, dst, force=True, **options)
    new = [file.read_bytes() for file in files]
    convert(first, dst, force=True, **options)
    own, seen = os.replace, 0

    def replace(*names: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise Killed
        own(*names)

    monkeypatch.setattr(os, "replace", replace)
    try:
        convert(second, dst, force=True, **options)
    except Killed:
        assert stop < 3
    monkeypatch.undo()
    left = [file.read_bytes() if file.exists() else None for file in files]
    assert left in ([old[0], None], [new[0], None], new)
    if None in left:
        with pytest.raises(InputError, match="no such file"):
            open_dump(dst)
    convert(second, dst, force=True, **options)
    assert [file.read_bytes() for file in files] == new


@pytest.mark.parametrize("kind", ["pt", "npz", "safetensors"])
def test_a_conversion_made_again_is_the_same_bytes(tmp_path: Path, kind: str) -> None:
    source = dump(tmp_path / "1.npz", 1)
    one, other = (convert(source, tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "other"))
    assert one == other


def test_notes_of_a_small_file_stand_in_one_order() -> None:
    arrays, notes = (
        {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64)},
        {name: f"ä{name}" for name in "dacbfe"},
    )
    files = {
        safetensors_bytes(arrays, dict(order))
        for order in (list(notes.items()), list(notes.items())[::-1])
        for _ in range(8)
    }
    assert len(files) == 1
    data = files.pop()
    assert safetensors_notes(data) == notes
    found = load_safetensors(data, Path("x"))
    assert {name: value.tolist() for name, value in found.items()} == {"b": [1.0] * 3, "a": [0, 0]}


def test_what_convert_wrote_is_not_called_a_foreign_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    src = dump(tmp_path / "1.npz", 1)
    for name in ("a.safetensors", "a.npz", "a.pt"):
        command = ("convert", src, str(tmp_path / name), "--quiet")
        assert call(*command, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
        written = (tmp_path / name).read_bytes()
        code, _, said = call(*command, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert said.endswith(f"{name}: exists already; give another name, or --force to replace it\n")
        assert call(*command, "--force", capsys=capsys, monkeypatch=monkeypatch)[0] == 0
        assert (tmp_path / name).read_bytes() == written
    folder = ("convert", src, str(tmp_path / "a"), "--force", "--quiet")
    assert call(*folder, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    assert "force replaces files alone" in call(*folder, capsys=capsys, monkeypatch=monkeypatch)[2]
