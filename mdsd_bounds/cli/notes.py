"""Open a dump for a command, and say on stderr what its rows and tokens say about themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from mdsd_bounds.dumps.base import Dump


def opened(path: str, limit: int | None = None) -> tuple[Dump, list[str]]:
    """The opened dump; facts and warnings of :mod:`mdsd_bounds.dumps.evidence` are printed, the warnings returned."""
    from mdsd_bounds.dumps import open_dump
    from mdsd_bounds.dumps.evidence import evidence
    from mdsd_bounds.dumps.inspect import width_line

    dump = open_dump(path)
    found = evidence(dump, limit)
    for name, line in found.lines.items():
        print(f"note: {name}: {line}", file=sys.stderr)
    if dump.facts.target_width != dump.facts.draft_width:
        print(f"note: {width_line(dump.facts)}", file=sys.stderr)
    for warning in found.warnings:
        print(f"WARNING: {path}: {warning}", file=sys.stderr)
    return dump, found.warnings


def say_beyond(table: pd.DataFrame) -> None:
    """The largest and the mean mass on columns that the other model lacks, over all rows of a per-position table."""
    for role in ("target", "draft"):
        name = f"{role}_beyond"
        if name not in table:
            continue
        for temperature, part in table.groupby("temperature", sort=False):
            mass = part[name].to_numpy()
            print(
                f"note: {role}'s mass on columns that the other lacks, at temperature {temperature:g}: at most "
                f"{mass.max():.3g}, mean {mass.mean():.3g} over all rows",
                file=sys.stderr,
            )
