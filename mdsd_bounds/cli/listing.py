"""``mdsd list``."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from enum import StrEnum
from typing import Annotated, Any

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import Format, Style


class What(StrEnum):
    """What can be listed."""

    samplers = "samplers"
    verifiers = "verifiers"
    formats = "formats"
    trees = "trees"
    figures = "figures"


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")] = What.verifiers, format: Style = Format.table
) -> None:
    """Samplers, verifiers, dump formats, trees or figures: name, one line, cost, paper."""
    import pandas as pd

    from mdsd_bounds._backend.text_table import text_table
    from mdsd_bounds.pipeline.rendering import render

    if what is What.figures:
        need("matplotlib", purpose="mdsd list figures")
    rows = {
        What.samplers: _samplers,
        What.verifiers: _verifiers,
        What.formats: _formats,
        What.trees: _trees,
        What.figures: _figures,
    }[what]()
    conclusion = f"{len(rows)} {what.value}{_further(what, rows)}."
    if format is not Format.table:
        print(render(pd.DataFrame(rows), format.value, conclusion=conclusion))
        return
    # Programs get the others too (--format json).
    head = [name for name in rows[0] if name not in ("paper", "samplers", "bound")]
    wide = {"cost": 24, "rate": 11}
    cells = [[textwrap.fill(str(row[name]), wide.get(name, 36)) for name in head[:-1]] for row in rows]
    widths = [max(len(line) for row in [head, *cells] for line in row[i].split("\n")) for i in range(len(head) - 1)]
    rest = 98 - sum(width + 2 for width in widths)
    for cell, row in zip(cells, rows, strict=True):
        cell.append(textwrap.fill(str(row[head[-1]]), rest))
    print(f"{conclusion}\n\n{text_table(head, cells)}")


def _further(what: What, rows: list[dict[str, Any]]) -> str:
    if what is not What.verifiers:
        return ""
    lossless = sum(row["lossless"] == "yes" for row in rows)
    return f", {lossless} of them lossless; your own is named as module:NAME or path/to/file.py:NAME"


def _samplers() -> list[dict[str, Any]]:
    from mdsd_bounds.samplers import SAMPLERS

    found = []
    for name, sampler in SAMPLERS.items():
        text = _first_line(sys.modules.get(f"mdsd_bounds.samplers.{name}"))
        # Taken from Python alone: it needs a table of tuples.
        bound = "small vocabularies, in Python" if sampler.takes == "table" else "any vocabulary"
        found.append(
            {"name": name, "bound": bound, "cost": sampler.cost or "not stated", "what": text, "paper": _sources(text)}
        )
    return found


def _verifiers() -> list[dict[str, Any]]:
    from mdsd_bounds.verifiers import VERIFIERS, load_third_party

    load_third_party()
    return [
        {
            "name": name,
            "lossless": "yes" if rule.lossless else "LOSSY",
            "rate": "exact where feasible" if rule.exact_rate is not None else "sampled",
            "samplers": ", ".join(rule.samplers),
            "cost": rule.cost or "not stated",
            "paper": rule.paper,
            "what": _first_line(inspect.getmodule(rule.output_distribution or rule.fast_step)),
        }
        for name, rule in VERIFIERS.items()
    ]


def _formats() -> list[dict[str, Any]]:
    from mdsd_bounds.dumps import READERS

    return [{"name": name, "what": reader.what} for name, reader in READERS.items()]


def _trees() -> list[dict[str, Any]]:
    from mdsd_bounds.trees import named

    builders = {"chain": "chain", "paths": "independent_paths", "rsd_c": "rsd_c", "rsd_s": "rsd_s",
                "sequoia": "best_shape", "dynamic": "dynamic_top_k"}  # fmt: skip
    return [
        {"name": name, "shape": shape, "what": _first_line(getattr(named, builders.get(name, ""), None))}
        for name, shape in named.SHAPES.items()
    ]


def _figures() -> list[dict[str, Any]]:
    from mdsd_bounds.plots import FIGURES, FURTHER_FIGURES

    return [
        {"name": name, "of": "tables (mdsd plot)" if name in FIGURES else "other data", "what": _first_line(figure)}
        for name, figure in {**FIGURES, **FURTHER_FIGURES}.items()
    ]


def _first_line(documented: Any) -> str:
    """The first paragraph of a docstring's head, as plain text."""
    text = (inspect.getdoc(documented) or "").split("\n\n")[0] if documented is not None else ""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", re.sub(r"\s+", " ", text)).replace("``", "")


def _sources(text: str) -> str:
    """What stands in the brackets of a description, where it names a year or a system."""
    return "; ".join(part for part in re.findall(r"\(([^()]*)\)", text) if re.search(r"[A-Z]", part))
