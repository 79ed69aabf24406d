"""What a container says twice, and what lies hidden in front of what is read."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import DumpWriter
from tests.test_containers import N, native, pair


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize(
    ("text", "version", "message"),
    [
        ("{'descr': '<f8', 'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }", (1, 0), "'descr' twice"),
        ("{'descr': '<f4', 'shape': (8, 6), 'fortran_order': False, 'shape': (6, 8), }", (1, 0), "'shape' twice"),
        (r"{'\x64escr': '<f8', 'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }", (2, 0), "'descr' twice"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }", (9, 0), "version is 9.0"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }", (1, 7), "version is 1.7"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }", (3, 0), ""),
    ],
)
def test_headers_of_numpy_arrays(text: str, version: tuple[int, int], message: str, form: str, tmp_path: Path) -> None:
    body = text.encode().ljust(109) + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(body))
    for role in ("target", "draft"):
        data = b"\x93NUMPY" + bytes(version) + size + body + pair()[f"{role}_logits"].numpy().tobytes()
        (tmp_path / f"{role}_logits.npy").write_bytes(data)
    path = f"{tmp_path}/target_logits.npy,{tmp_path}/draft_logits.npy"
    if form == "npz":
        path = f"{tmp_path}/x.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for role in ("target", "draft"):
                archive.write(tmp_path / f"{role}_logits.npy", f"{role}_logits.npy")
    if message:
        with pytest.raises(InputError, match=message):
            open_dump(path)
    else:
        assert torch.equal(next(open_dump(path).batches(N)).target_logits, pair()["target_logits"])


def test_an_archive_behind_another_one_is_an_error(tmp_path: Path) -> None:
    """Only the last would be read, as where np.savez is called again and again on one open file."""
    arrays: dict[str, Any] = {name: rows.numpy() for name, rows in pair().items()}
    with (tmp_path / "x.npz").open("wb") as stream:
        for _ in range(2):
            data = io.BytesIO()
            np.savez(data, **arrays)
            stream.write(data.getvalue())
    with pytest.raises(InputError, match="bytes stand before the first member"):
        open_dump(tmp_path / "x.npz")


def test_a_manifest_that_says_a_name_twice_is_an_error(tmp_path: Path) -> None:
    native(tmp_path / "x")
    file = tmp_path / "x" / "manifest.json"
    file.write_text(file.read_text().rstrip()[:-1] + ', "stage": "processed"}')
    with pytest.raises(InputError, match="twice"):
        open_dump(tmp_path / "x")


@pytest.mark.parametrize("logits", ["target_logits", "logits"])
def test_flags_are_no_tokens(logits: str, tmp_path: Path) -> None:
    token = np.array([True, False] * 3)
    rows = pair()
    arrays: dict[str, Any] = {logits: rows["target_logits"].numpy(), "token": token}
    np.savez(tmp_path / "t.npz", **arrays)
    np.savez(tmp_path / "d.npz", logits=rows["draft_logits"].numpy())
    arrays = {name: held.numpy() for name, held in rows.items()} | {"token": token}
    np.savez(tmp_path / "x.npz", **arrays)
    for path in (f"{tmp_path}/t.npz,{tmp_path}/d.npz", f"{tmp_path}/x.npz"):
        with pytest.raises(InputError, match="give 6 integers"):
            open_dump(path)


def test_a_copy_of_a_shard_is_an_error(tmp_path: Path) -> None:
    places = {"doc": torch.zeros(N, dtype=torch.int64), "position": torch.arange(N)}
    with DumpWriter(tmp_path / "x", shard_rows=2) as writer:
        writer.append(pair()["target_logits"], pair()["draft_logits"], **places)
    file = tmp_path / "x" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"].append(manifest["shards"][0] | {"file": "shard-00009.safetensors"})
    shutil.copy(tmp_path / "x" / manifest["shards"][0]["file"], tmp_path / "x" / "shard-00009.safetensors")

    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"shard-00009.safetensors has the checksum of shard-00000"):
        open_dump(tmp_path / "x")
