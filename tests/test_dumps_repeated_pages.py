"""Parquet files and compressed text whose few bytes hold one value again and again."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as pq
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.containers.compressed import open_text
from mdsd_bounds.dumps.containers.parquet import open_parquet
from mdsd_bounds.dumps.containers.parquet_footer import chunks_of


def _lists(path: Path, rows: int, width: int, groups: int = 1) -> Path:
    row = arrow.array([np.zeros(width, np.float32)], arrow.list_(arrow.float32()))
    column = arrow.concat_arrays([row] * (rows // groups))
    table = arrow.table({"target_logits": column, "draft_logits": column})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    return path


@pytest.mark.parametrize(("rows", "width", "groups"), [(1, 1 << 25, 1), (32, 1 << 20, 1), (32, 1 << 20, 32)])
def test_lists_of_one_value_are_not_decoded(rows: int, width: int, groups: int, tmp_path: Path) -> None:
    path = _lists(tmp_path / "dump.parquet", rows, width, groups)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(InputError, match="of one value"):
        open_dump(path)


def test_columns_of_one_number_are_not_decoded(tmp_path: Path) -> None:
    column = arrow.array(np.zeros(9 << 20, np.int64))
    pq.write_table(arrow.table({"doc": column}), tmp_path / "whole.parquet", row_group_size=9 << 20)
    with pytest.raises(InputError, match="of one value"):
        open_parquet(tmp_path / "whole.parquet")
    # Long tables have columns of one value; each row group is small.
    pq.write_table(arrow.table({"doc": column}), tmp_path / "parts.parquet", row_group_size=1 << 20)
    assert open_parquet(tmp_path / "parts.parquet").metadata.num_rows == 9 << 20


def test_the_footer_states_the_values_of_every_column(tmp_path: Path) -> None:
    path = _lists(tmp_path / "dump.parquet", 6, 5, 2)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    chunks = list(chunks_of(data[-8 - length : -8]))
    assert [chunk.values for chunk in chunks] == [15] * 4
    assert [chunk.decoded for chunk in chunks] == [60] * 4
    assert [chunk.column.split(".")[0] for chunk in chunks] == ["target_logits", "draft_logits"] * 2
    for end in range(0, length - 1, 7):
        with pytest.raises(ValueError, match="footer"):
            _read(data[-8 - length : -8][:end])


def _read(footer: bytes) -> list[object]:
    return list(chunks_of(footer))


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_text_that_repeats_without_end_is_not_read_on(form: str, tmp_path: Path) -> None:
    path, piece = tmp_path / "answer.json", b",{}" * (1 << 20)
    text = b"[{}" + piece * 30
    path.write_bytes(gzip.compress(text) if form == "gzip" else arrow.compress(text, "zstd", asbytes=True))
    read: list[bytes] = []
    with open_text(path) as stream, pytest.raises(InputError, match="compressed bytes become"):
        read.extend(iter(lambda: stream.read(1 << 20), b""))
    assert sum(map(len, read)) < (1 << 26) + (1 << 21)


def test_text_of_ordinary_repetition_is_read(tmp_path: Path) -> None:
    numbers = np.random.default_rng(3).integers(0, 10, 1 << 18).astype(np.uint8) + 48
    text = (numbers.tobytes() + b"\n") * 300
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(text, 1))
    with open_text(path) as stream:
        assert sum(len(line) for line in stream) == len(text) > 1 << 26


def test_an_answer_that_repeats_without_end_is_refused_for_that(tmp_path: Path) -> None:
    text = b'{"prompt_logprobs": [null' + b",{}" * (24 << 20) + b"]}"
    (tmp_path / "answer.json").write_bytes(gzip.compress(text))
    with pytest.raises(InputError, match="compressed bytes become"):
        open_dump(tmp_path / "answer.json")
