"""Result tables that hold a checksum of themselves."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdsd_bounds import InputError, load_example
from mdsd_bounds.pipeline import Settings, read_table
from mdsd_bounds.pipeline.checked_tables import footer_metadata, read_checked, write_checked
from mdsd_bounds.pipeline.run import run

SETTINGS = Settings(("with_replacement",), (1, 2))


def results(out: Path, *, force: bool = False) -> pd.DataFrame:
    table = run(load_example(), SETTINGS, limit=4, out=str(out), force=force)
    assert table is not None
    return table


def flipped_bits(data: bytes, seed: int) -> Iterator[bytes]:
    """The bytes with one bit flipped, 200 times another."""
    draw = random.Random(seed)
    for _ in range(200):
        bit = draw.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def test_a_flipped_bit_anywhere_is_told(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    table = results(out)
    pd.testing.assert_frame_equal(results(out), table)
    data = out.read_bytes()
    for flipped in flipped_bits(data, 0):
        out.write_bytes(flipped)
        with pytest.raises(InputError, match=r"damaged|no table of this program"):
            results(out)
    for kept in (0, 3, 8, len(data) // 2, len(data) - 1):
        out.write_bytes(data[:kept])
        with pytest.raises(InputError):
            results(out)
    pd.testing.assert_frame_equal(results(out, force=True), table)


def test_other_readers_of_parquet_read_them(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    table = results(out)
    pd.testing.assert_frame_equal(pd.read_parquet(out), table)
    assert pq.ParquetFile(out).metadata.num_rows == len(table)
    assert len(pq.read_table(out, columns=["value"], filters=[("row", "=", 1)])) == 2


def test_row_groups_are_those_that_were_given() -> None:
    groups = [pa.table({"row": [0, 1]}), pa.table({"row": [2, 3, 4]})]
    stream = io.BytesIO()
    write_checked(stream, groups[0].schema.with_metadata({"name": "run"}), groups)
    assert read_checked(stream.getvalue(), "damaged ({})")["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert pq.ParquetFile(stream).metadata.num_row_groups == 2
    assert footer_metadata(stream, len(stream.getvalue()))[b"name"] == b"run"


def test_a_table_of_somebody_else_has_no_checksum() -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"row": [0, 1] * 100}), stream)
    with pytest.raises(InputError, match=r"damaged \(it holds no checksum"):
        read_checked(stream.getvalue(), "damaged ({})")
    assert footer_metadata(stream, len(stream.getvalue())) == {}


def test_a_flipped_bit_is_told_by_what_reads_finished_tables(tmp_path: Path) -> None:
    # Figures and comparisons of two tables are made from the files alone.
    out = tmp_path / "rows.parquet"
    table = results(out)
    pd.testing.assert_frame_equal(read_table(str(out)), table)
    data = out.read_bytes()
    for flipped in flipped_bits(data, 1):
        out.write_bytes(flipped)
        try:
            found = read_table(str(out))
        except InputError:
            continue
        # Of a bit in the name of the checksum nothing else is known, and the table is whole.
        pd.testing.assert_frame_equal(found, table)
    # What pandas wrote again, with other rows or columns, is a table too.
    out.write_bytes(data)
    pd.read_parquet(out).assign(mine=1.0).iloc[:3].to_parquet(out)
    assert len(read_table(str(out))) == 3
