"""``mdsd inspect``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.options import Dump, Format, Head, Quiet, Style, Tokenizer, progress_bar


def inspect(
    dump: Dump,
    format: Style = Format.table,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a native dump whole and hold every shard against its checksum.")
    ] = False,
    head: Head = None,
    tokenizer: Tokenizer = None,
    quiet: Quiet = False,
) -> None:
    """What a file is, what it holds and what to look out for, what is missing, and the command to run next."""
    import json

    from mdsd_bounds.dumps.how_to_read import named
    from mdsd_bounds.dumps.inspect import VERIFIED

    facts, notes = _facts(named(dump, head=head, tokenizer=tokenizer))
    if verify:
        facts[VERIFIED] = _verified(dump, str(facts.get("format")), quiet)
    conclusion = in_words(facts)
    if format is Format.json:
        print(json.dumps(facts | notes | {"conclusion": conclusion}, indent=1, default=str))
    elif format is Format.csv:
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows([("fact", "value"), *_shown(facts), *_shown(notes)])
        print(rows.getvalue(), end="")
    else:
        print(f"{printable(conclusion)}\n")
        width = max(len(name) for name, _ in _shown(facts) + _shown(notes))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in _shown(facts)))
        if notes:
            print("\nnotes, as the dump states them")
            print("\n".join(f"{name.ljust(width)}  {value}" for name, value in _shown(notes)))


def _facts(dump: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and notes of a dump, or of whatever else the file is."""
    from mdsd_bounds.cli.recognise import after_dump, recognised
    from mdsd_bounds.dumps import open_dump
    from mdsd_bounds.dumps.how_to_read import parted
    from mdsd_bounds.dumps.inspect import facts_and_notes
    from mdsd_bounds.problem import InputError

    try:
        opened = open_dump(dump)
    except InputError:
        plain, how = parted(dump)
        found = recognised(Path(plain), how) if Path(plain).exists() else None
        if found is None:
            raise
        return found
    facts, notes = facts_and_notes(opened)
    return facts | after_dump(dump, facts), notes


def in_words(facts: dict[str, Any]) -> str:
    """What a file is and whether something is missing, in one sentence.

    Examples
    --------
    >>> in_words({"path": "notes.txt", "recognised as": "text: prompts, one a line", "missing": "a model pair"})
    'notes.txt is text: prompts, one a line; missing: a model pair.'
    """
    what = facts.get("recognised as")
    if what is None:
        documents = "" if facts["documents"] == "not recorded" else f" in {facts['documents']} documents"
        stated = isinstance(facts["vocabulary"], int)
        width = f"{facts['vocabulary']} tokens" if stated else "a vocabulary whose size is not stated"
        what = f"a dump of {facts['positions']} positions{documents} over {width}"
    missing = str(facts.get("missing", "nothing"))
    return f"{facts['path']} is {what}; {'nothing is missing' if missing == 'nothing' else f'missing: {missing}'}."


def _shown(lines: dict[str, Any]) -> list[tuple[str, str]]:
    return [(printable(name), printable(value)) for name, value in lines.items()]


def _verified(dump: str, form: str, quiet: bool) -> str:
    from mdsd_bounds.dumps.formats.native import verify_native
    from mdsd_bounds.problem import InputError

    if form != "native" or "://" in dump:
        raise InputError(f"{dump}: --verify is for native dumps on a local disk; other formats hold no checksums")
    with progress_bar(dump, quiet) as progress:
        return f"all {verify_native(Path(dump), progress)} shards hold what the manifest says"
