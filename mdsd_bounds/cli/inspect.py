"""``mdsd inspect``."""

from __future__ import annotations

from mdsd_bounds.cli.options import Dump, Format, Style


def inspect(
    dump: Dump,
    format: Style = Format.table,
) -> None:
    """What a dump holds: format, positions, vocabulary, dtypes, sizes, and what to beware of."""
    import json

    from mdsd_bounds.dumps import inspect_dump

    facts = inspect_dump(dump)
    if format is Format.json:
        print(json.dumps(facts, indent=1, default=str))
    elif format is Format.csv:
        print("\n".join(["fact,value", *(f'{name},"{value}"' for name, value in facts.items())]))
    else:
        width = max(len(name) for name in facts)
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items()))
