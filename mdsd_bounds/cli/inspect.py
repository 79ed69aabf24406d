"""``mdsd inspect``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.options import Dump, Format, Quiet, Style, progress_bar


def inspect(
    dump: Dump,
    format: Style = Format.table,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a native dump whole and hold every shard against its checksum.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """What a dump holds: format, positions, vocabulary, dtypes, sizes, and what to look out for."""
    import json

    from mdsd_bounds.dumps import open_dump
    from mdsd_bounds.dumps.inspect import VERIFIED, facts_and_notes

    facts, notes = facts_and_notes(open_dump(dump))
    if verify:
        facts[VERIFIED] = _verified(dump, str(facts["format"]), quiet)
    if format is Format.json:
        print(json.dumps(facts | notes, indent=1, default=str))
    elif format is Format.csv:
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows([("fact", "value"), *_shown(facts), *_shown(notes)])
        print(rows.getvalue(), end="")
    else:
        width = max(len(name) for name, _ in _shown(facts) + _shown(notes))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in _shown(facts)))
        if notes:
            print("\nnotes, as the dump states them")
            print("\n".join(f"{name.ljust(width)}  {value}" for name, value in _shown(notes)))


def _shown(lines: dict[str, Any]) -> list[tuple[str, str]]:
    return [(printable(name), printable(value)) for name, value in lines.items()]


def _verified(dump: str, form: str, quiet: bool) -> str:
    from mdsd_bounds.dumps.formats.native import verify_native
    from mdsd_bounds.problem import InputError

    if form != "native" or "://" in dump:
        raise InputError(f"{dump}: --verify is for native dumps on a local disk; other formats hold no checksums")
    with progress_bar(dump, quiet) as progress:
        return f"all {verify_native(Path(dump), progress)} shards hold what the manifest says"
