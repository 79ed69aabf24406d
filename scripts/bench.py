"""Run the benchmarks, side by side with their peers: ratios to a reference in the same run.

    python scripts/bench.py [--only cores,oracles] [--out out/bench.json] [--quick]

One table per file of ``scripts/benchmarks/`` that has a ``TITLE`` and a ``table(runs)``.  Writes JSON with a
description of the machine, prints the tables and draws a figure beside the JSON.  A table that is not run keeps what
the JSON held before, with the machine it was taken on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.figure import draw
from benchmarks.timing import machine

FOLDER = Path(__file__).parent / "benchmarks"


def benchmarks() -> list[str]:
    """Names of the files that are benchmarks, in alphabetic order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef table(" in path.read_text())


def load(name: str) -> ModuleType:
    """The module of one benchmark."""
    return importlib.import_module(f"benchmarks.{name}")


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    for line in [names, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names of benchmarks, comma-separated; all without it")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    parser.add_argument("--quick", action="store_true", help="three runs of each instead of seven")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name] or benchmarks()
    unknown = sorted(set(names) - set(benchmarks()))
    if unknown:
        parser.error(f"--only {unknown[0]}: choose among {', '.join(benchmarks())}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in names:
        module = load(name)
        print(f"{name}: {module.TITLE}", file=sys.stderr)
        rows = module.table(3 if arguments.quick else 7)
        result[name] = {"title": module.TITLE, "machine": machine(), "rows": rows}
        show(module.TITLE, rows)
        # After each table, so that an interrupted run keeps what it measured.
        arguments.out.write_text(json.dumps(result, indent=1))
    draw(result, arguments.out.with_suffix(".png"))
    print("\n" + " ".join(f"{key}: {value};" for key, value in machine().items()))


if __name__ == "__main__":
    main()
