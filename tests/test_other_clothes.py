"""Numbers in other clothes: eight and sixteen bits, columns of parquet, compressed text and arrays of records."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.audit.logs import read_positions
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.dumps.containers import records as records_module
from mdsd_bounds.dumps.containers.records import records
from mdsd_bounds.dumps.containers.text import whole_text
from mdsd_bounds.dumps.formats.array_files import open_arrays
from mdsd_bounds.models.prompts import read_prompts
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import summarise

CASES = Path(__file__).parent / "data" / "cases"


def mean(path: str) -> float:
    table = run(open_dump(path), Settings(("with_replacement",), (1,), (1.0,)))
    assert table is not None
    return float(summarise(table)["mean"].iloc[0])


def case(names: str) -> str:
    return ",".join(str(CASES / name) for name in names.split(","))


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ("08-bf16-npy/pair.npz", 0.788496),
        ("08-bf16-npy/target.npy,08-bf16-npy/draft.npy", 0.788496),
        ("08-bf16-npy/target-descr.npy,08-bf16-npy/draft-descr.npy", 0.788496),
        ("08-bf16-npy/same.safetensors", 0.788496),
        ("31-containers/pair.parquet", 0.820683),
    ],
)
def test_reported_files(names: str, value: float) -> None:
    assert mean(case(names)) == pytest.approx(value, abs=1e-6)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _npy_bytes(descr: str, values: Tensor) -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": tuple(values.shape)}).encode().ljust(117) + b"\n"
    stored = values.contiguous().view(torch.uint8).numpy().tobytes()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + stored


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("form", ["npy", "safetensors", "pt"])
def test_small_floats_are_what_torch_says_they_are(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    pair = [rows(5, 12, seed=seed).to(dtype) for seed in (0, 1)]
    names = [f"{role}_logits" for role in ("target", "draft")]
    if form == "npy":
        for name, value in zip(names, pair, strict=True):
            (tmp_path / f"{name}.npy").write_bytes(_npy_bytes(str(dtype).removeprefix("torch."), value))
        path = str(tmp_path)
    elif form == "safetensors":
        path = str(tmp_path / "x.safetensors")
        save_file(dict(zip(names, pair, strict=True)), path)
    else:
        path = str(tmp_path / "x.pt")
        torch.save(dict(zip(names, pair, strict=True)), path)
    dump = open_dump(path)
    assert dump.facts.dtype == str(dtype).removeprefix("torch.")
    (batch,) = dump.batches(10, start=1)
    assert torch.equal(batch.target_logits.double(), pair[0][1:].double())
    assert torch.equal(batch.draft_logits.double(), pair[1][1:].double())


def test_two_bytes_without_a_type_are_bfloat16_and_one_byte_is_refused(tmp_path: Path) -> None:
    held = rows(5, 12).to(torch.bfloat16)
    for name in ("t", "d"):
        (tmp_path / f"{name}.npy").write_bytes(_npy_bytes("|V2", held))
    (batch,) = open_dump(f"{tmp_path}/t.npy,{tmp_path}/d.npy").batches(10)
    assert torch.equal(batch.target_logits, held)
    (tmp_path / "t.npy").write_bytes(_npy_bytes("|V1", held.to(torch.float8_e5m2)))
    with pytest.raises(InputError, match=r"t\.npy: is of dtype \|V1; .*eight bits.*safetensors"):
        next(open_dump(f"{tmp_path}/t.npy,{tmp_path}/d.npy").batches(10))


# Columns of parquet


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 7)])
@pytest.mark.parametrize("group", [3, 100])
def test_columns_are_read_at_any_place(make: Callable[[Any], Any], group: int, tmp_path: Path) -> None:
    held = rows(150, 7)
    deep = torch.arange(150 * 2 * 3).reshape(150, 2, 3)
    table = pa.table(
        {
            "rows": pa.array(held.tolist(), make(pa.float32())),
            "deep": pa.array(deep.tolist(), pa.list_(pa.list_(pa.int32()))),
            "doc": pa.array(range(150), pa.uint32()),
            "name": ["a"] * 150,
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=group)
    store = open_arrays(tmp_path / "x.parquet")
    assert set(store) == {"rows", "deep", "doc"}
    assert (store["rows"].shape, store["deep"].shape, store["doc"].shape) == ((150, 7), (150, 2, 3), (150,))
    for a, b in [(0, 5), (5, 9), (9, 140), (140, 150), (3, 4), (149, 150), (0, 150)]:
        assert torch.equal(store["rows"].rows(a, b), held[a:b])
        assert torch.equal(store["deep"].rows(a, b), deep.reshape(300, 3)[a:b].int())
    assert torch.equal(store["deep"].whole(), deep.int())
    assert store["doc"].whole().tolist() == list(range(150))


def test_lists_of_other_lengths_are_named(tmp_path: Path) -> None:
    held: dict[str, Any] = {"target_logits": [[1.0, 2.0], [1.0]], "draft_logits": [[1.0, 2.0], [1.0, 2.0]]}
    pq.write_table(pa.table(held), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="target_logits has rows of another length than 2"):
        list(open_dump(tmp_path / "x.parquet").batches(2))


# Compressed text, arrays of records


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress, "zstd": _zstd}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("layout", ["lines", "array", "array over lines", "one value", "two arrays"])
def test_records(packer: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pieces that end within words, escapes, numbers and characters of several bytes.
    monkeypatch.setattr(records_module, "_CHUNK", 7)
    values: list[Any] = [{"a": [1, 2.5e-3, None, True], "t": 'x\n"é€😀 \u2028'}, {}, 12345678, "ab\\", [[]], -0.5]
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    text = {
        "lines": "{}\n" + "\n".join(texts),
        "array": json.dumps(values),
        "array over lines": "\ufeff" + json.dumps(values, indent=2, ensure_ascii=False),
        "one value": json.dumps({"values": values}, indent=1),
        "two arrays": json.dumps(values) + "\n" + json.dumps(values),
    }[layout]
    path = tmp_path / "x"
    path.write_bytes(PACKERS[packer](text.encode()))
    found = list(records(path))
    wanted = {"lines": [{}, *values], "one value": [{"values": values}], "two arrays": values * 2}.get(layout, values)
    assert [record.value for record in found] == wanted
    assert [record.array >= 0 for record in found] == ["array" in layout] * len(found)
    if layout == "two arrays":
        assert [record.array for record in found] == [0] * 6 + [1] * 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a"', "item 2: no JSON"),
        ('[{"a": 1} {"a": 2}]', "item 1: no JSON .a comma"),
        ('[{"a": 1}] {"a": 2}', "not another array"),
        ('[{"a": 1, "a": 2}]', "'a' is there twice"),
        ("[" + "1, " * 50, "item 51: no JSON"),
        ('["' + "x" * 2000 + '"]', "item is longer than 1000"),
        ('{"a": 1}\n{"a":', "line 2: no JSON"),
        ("[1, \0]", "NUL"),
    ],
)
def test_damaged_records(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "_CHUNK", 64)
    (tmp_path / "x").write_text(text)
    with pytest.raises((InputError, ValueError), match=message):
        list(records(tmp_path / "x", 1000))


def test_a_small_file_that_becomes_large_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b" " * (100 << 20)))
    with pytest.raises(InputError, match="of one value"):
        list(records(tmp_path / "x.gz"))
    # A line that is too long is none of one value.
    piece = random.Random(0).randbytes(1 << 19).hex().encode()
    (tmp_path / "long.gz").write_bytes(gzip.compress(b" " + piece * 80, 1))
    with pytest.raises(InputError, match="longer than"):
        list(records(tmp_path / "long.gz"))
    with pytest.raises(InputError, match="more than 1000 bytes"):
        whole_text(tmp_path / "x.gz", 1000)
    (tmp_path / "y.gz").write_bytes(gzip.compress(b"[1]")[:-4])
    with pytest.raises((InputError, EOFError)):
        list(records(tmp_path / "y.gz"))


@pytest.mark.parametrize("name", ["log.jsonl.gz", "log-array.json"])
def test_logs_in_other_containers(name: str) -> None:
    found = read_positions(str(CASES / "31-containers" / name))
    assert len(found) == 200
    assert found.token[:3].tolist()[0] == 2


@pytest.mark.parametrize("packer", PACKERS)
def test_step_logs_and_prompts_in_other_containers(packer: str, tmp_path: Path) -> None:
    position = {"token": 3, "p": 0.5, "candidates": [[3, 0.4], [7, 0.3]]}
    steps = [{"step": step, "drafts": [3], "accepted": 1, "positions": [position]} for step in range(3)]
    for number, text in enumerate(("\n".join(map(json.dumps, steps)), json.dumps(steps))):
        path = tmp_path / f"steps{number}"
        path.write_bytes(PACKERS[packer](text.encode()))
        assert len(open_dump(path)) == 3
    prompts = tmp_path / {"plain": "x.jsonl", "gzip": "x.jsonl.gz", "zstd": "x.jsonl.zst"}[packer]
    prompts.write_bytes(PACKERS[packer](b'{"prompt": "a"}\n{"prompt": "b"}\n'))
    assert read_prompts(prompts) == ["a", "b"]


def test_native_dumps_keep_their_types(tmp_path: Path) -> None:
    """Floats of eight bits become float32, which a native dump can hold."""
    with DumpWriter(tmp_path / "x") as writer:
        writer.append(rows(3, 9), rows(3, 9))
    assert open_dump(tmp_path / "x").facts.dtype == "float32"
    np.testing.assert_array_equal(open_dump(tmp_path / "x").read_rows(0, 3)[0].numpy(), rows(3, 9).numpy())
