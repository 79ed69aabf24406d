"""Parquet files: opened by name, their stated sizes checked before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.compute as compute
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mdsd_bounds._backend.dtypes import torch_name
from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.columns import COLUMNS, TEXTS
from mdsd_bounds.dumps.containers.files import Array, OpenFile, open_file, read_bytes, refuse_repeated
from mdsd_bounds.dumps.containers.parquet_footer import chunks_of
from mdsd_bounds.dumps.token_map import MAPS
from mdsd_bounds.problem import InputError

MAGIC = b"PAR1"


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file, ready to be read row group by row group.

    Raises
    ------
    InputError
        If it is no regular file, its footer is damaged, a row group is stated to need more memory than there is, or
        two columns have one name.
    """
    held_open = open_file(path)
    with reading(path, "parquet file", "the file is truncated or corrupt, write it again"):
        # By name: a Python file object handed to Arrow's threads can abort the process when it ends.
        file = pq.ParquetFile(held_open.utf8_name())
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError(f"the column {next(name for name in names if names.count(name) > 1)!r} is there twice")
        facts: Any = file.metadata
        for group in range(facts.num_row_groups):
            held = facts.row_group(group)
            # Not the columns' own sizes: Arrow ends the process where their statistics are damaged.
            stated, rows = held.total_byte_size, held.num_rows
            if rows < 0 or stated < 0:
                raise ValueError(f"row group {group} has {rows} rows and {stated} bytes")
            # Encoded pages may hold a value that is repeated without end in a few bytes.
            require_memory(stated + 16 * rows * len(names), f"{path}: row group {group}", "write smaller row groups")
        _refuse_repeated(held_open, facts)
        return file


#: Bytes of a footer that is looked through; a longer one belongs to no small file.
_FOOTER = 1 << 18


def _refuse_repeated(source: OpenFile, facts: Any) -> None:
    """Refuse columns of which a few bytes become many, as pages do that hold one value again and again.

    Of lists the whole column counts, for its row groups are joined to blocks; of numbers every row group by itself.
    """
    length = facts.serialized_size
    if not 0 < length <= min(_FOOTER, source.size - 8):
        return
    stored: dict[str, int] = {}
    decoded: dict[str, int] = {}
    rows = max(facts.row_group(group).num_rows for group in range(facts.num_row_groups)) if facts.num_row_groups else 0
    for chunk in chunks_of(read_bytes(source, source.size - 8 - length, length)):
        before = (decoded.get(chunk.column, 0), stored.get(chunk.column, 0)) if chunk.values > 2 * rows else (0, 0)
        decoded[chunk.column], stored[chunk.column] = before[0] + chunk.decoded, before[1] + chunk.stored
        refuse_repeated(source.path, stored[chunk.column], decoded[chunk.column])


#: Rows decoded at once.
_BATCH = 64


def open_columns(path: Path) -> dict[str, Array]:
    """Columns of numbers or truth values ``[N]``, of lists of one length ``[N, V]``, or of such lists ``[N, K, V]``.

    They are read forwards: going back to earlier rows starts a column again.  Other columns are left out, unless their
    name says that the rows cannot be read without them.

    Raises
    ------
    InputError
        As :func:`open_parquet`.
    """
    file = open_parquet(path)
    found = {}
    with reading(path, "parquet file", "the file is truncated or corrupt, write it again") as place:
        for field in file.schema_arrow:
            place.at = f"column {field.name!r}"
            if (column := _Column.of(path, file, field)) is not None:
                found[field.name] = Array(column.shape, torch_name(column.dtype), column.rows, column.whole, True)
            elif field.name.removeprefix("target_").removeprefix("draft_") in (*COLUMNS, *TEXTS, *MAPS):
                found[field.name] = _refused(path, field, file.metadata.num_rows)
    return found


def _refused(path: Path, field: Any, rows: int) -> Array:
    """A column of texts, say, in the place of numbers: an error where it is asked for, rather than none at all."""

    def refuse(*_: int) -> Tensor:
        raise InputError(
            f"{path}: {field.name} is {field.type}; give {rows} integers, or leave it out (pandas.factorize makes "
            "numbers of names)"
        )

    return Array((rows,), str(field.type), refuse, refuse, True)


class _Column:
    """A column of numbers or of lists, decoded in order."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype
        self._file = open_file(path)
        self._restart()

    @classmethod
    def of(cls, path: Path, file: pq.ParquetFile, field: Any) -> _Column | None:
        """The column, its shape taken from its first row; None where it holds no numbers."""
        kind, depth = field.type, 0
        while arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        numbers = arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)
        if depth > 2 or not numbers:
            return None
        # Unsigned integers, whose range no type of torch has, become int64 where they fit.
        dtype = kind.to_pandas_dtype() if not arrow.types.is_unsigned_integer(kind) else np.int64
        rows = file.metadata.num_rows
        first = next(file.iter_batches(batch_size=1, columns=[field.name]), None)
        if first is None or not len(first):
            return None
        value, inner = first.column(0).to_pylist()[0], []
        for _ in range(depth):
            inner.append(len(value) if value is not None else 0)
            value = value[0] if value else None
        return cls(path, field.name, (rows, *inner), torch.from_numpy(np.empty(0, dtype)).dtype)

    def _restart(self) -> None:
        self._file.refuse_replaced()
        self._at, self._held = 0, torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        self._batches: Iterator[Any] = open_parquet(self.path).iter_batches(batch_size=_BATCH, columns=[self.name])

    def _next(self) -> Tensor:
        """The next rows, or none at the end."""
        with reading(self.path, "parquet file", "the file is truncated or corrupt, write it again") as place:
            place.at = f"column {self.name!r}"
            batch = next(self._batches, None)
            self._file.refuse_changed()
            if batch is None:
                raise EOFError(f"it ends before row {self.shape[0]}")
            values, lengths = batch.column(0), self.shape[1:]
            for length in lengths:
                if values.null_count or not _all(values, length):
                    raise InputError(
                        f"{self.path}: {self.name} has rows of another length than {length} from row {self._at} on; "
                        "write lists of one length (top-k lists of several lengths are read as a data set of records)"
                    )
                values = values.flatten()
            if values.null_count:
                raise ValueError("numbers are missing (null)")
            if arrow.types.is_unsigned_integer(values.type) and len(values) and compute.max(values).as_py() >= 1 << 63:
                raise InputError(f"{self.path}: {self.name} holds {compute.max(values)}; give numbers below 2^63")
            held = values.to_numpy(zero_copy_only=False).astype(torch.empty(0, dtype=self.dtype).numpy().dtype)
            return torch.from_numpy(held.copy()).reshape(len(batch), *lengths)

    def rows(self, a: int, b: int) -> Tensor:
        """Rows along all but the last axis, flattened."""
        inner = math.prod(self.shape[1:-1])
        first, last = (a // inner, -(-b // inner)) if inner else (0, 0)
        last = min(last, self.shape[0])
        if first < self._at:
            self._restart()
        pieces = [self._held]
        count = self._at + len(self._held)
        while count < last:
            pieces.append(self._next())
            count += len(pieces[-1])
            if count <= first:
                pieces = pieces[-1:]
        held = torch.cat(pieces)
        start = count - len(held)
        found = held[first - start : last - start]
        # The rows of a list of lists may begin in the middle of a row of the file.
        self._at, self._held = first, held[first - start :]
        flat = found.reshape(-1, self.shape[-1]) if len(self.shape) > 1 else found
        return flat[a - first * inner :][: b - a] if len(self.shape) > 1 else flat[: b - a]

    def whole(self) -> Tensor:
        """All rows."""
        if len(self.shape) == 1:
            return self.rows(0, self.shape[0])
        return self.rows(0, math.prod(self.shape[:-1])).reshape(self.shape)


def _all(values: Any, length: int) -> bool:
    return bool(np.all(np.asarray(values.value_lengths().to_numpy(zero_copy_only=False)) == length))
