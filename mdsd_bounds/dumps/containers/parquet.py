"""Parquet files: opened by name, their stated sizes checked before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import open_file

MAGIC = b"PAR1"


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file, ready to be read row group by row group.

    Raises
    ------
    InputError
        If it is no regular file, its footer is damaged, a row group is stated to need more memory than there is, or
        two columns have one name.
    """
    open_file(path)
    with reading(path, "parquet file", "the file is truncated or corrupt, write it again"):
        # By name: a Python file object handed to Arrow's threads can abort the process when it ends.
        file = pq.ParquetFile(str(path))
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
        return file
