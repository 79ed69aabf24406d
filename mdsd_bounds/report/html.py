"""Pieces of HTML.  Every text from outside goes through :func:`text`."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mdsd_bounds._backend.printable import printable

#: Letters of names that do not break, and of heads that stand beside their value on a narrow screen.
_SHORT, _NARROW = 24, 14


def text(value: Any) -> str:
    """Text as it may stand in a page: markup and invisible characters escaped."""
    return html.escape(printable(str(value)))


def code(name: Any) -> str:
    """A name as it is typed; a long one may break after an underscore."""
    if len(str(name)) <= _SHORT:
        return f'<code class="short">{text(name)}</code>'
    return f"<code>{text(name).replace('_', '_<wbr>')}</code>"


def number(value: float, digits: int = 4) -> str:
    """A number as people read it; a dash where it is unknown."""
    return "–" if value != value else f"{round(value, digits) + 0.0:.{digits}f}"


def probability(value: float) -> str:
    """Four digits, or the power of ten where they would all be zero."""
    return f"{value:.0e}" if 0 < value < 5e-5 else number(value)


def interval(low: float, high: float, digits: int = 2) -> str:
    """``[low, high]``; empty where there is none."""
    return "" if low != low else f"[{number(low, digits)}, {number(high, digits)}]"


@dataclass(frozen=True)
class Column:
    """One column: its head, what stands in a cell, and what it is sorted by (a number, or a text)."""

    head: str
    cell: Callable[[Any], str]
    key: Callable[[Any], Any]

    @property
    def numeric(self) -> Callable[[Any], bool]:
        """Whether a value is a number."""
        return lambda row: isinstance(self.key(row), int | float)


def table(rows: Sequence[Any], columns: Iterable[Column], caption: str) -> str:
    """A table that the page's script sorts; each cell knows its head, for narrow screens."""
    columns = list(columns)
    kinds = [
        ("" if len(column.head) <= _NARROW else ' class="long"')
        if rows and column.numeric(rows[0])
        else ' class="text"'
        for column in columns
    ]
    heads = "".join(
        f'<th scope="col"{kind}>{text(column.head)}</th>' for kind, column in zip(kinds, columns, strict=True)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f'<td{kind} data-head="{text(column.head)}" data-key="{text(column.key(row))}">{column.cell(row)}</td>'
            for kind, column in zip(kinds, columns, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<table class="sortable"><caption>{text(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def fold(head: str, body: str, shown: bool = False, name: str = "") -> str:
    """A part that opens and closes; ``head`` and ``body`` are HTML."""
    mark = f' id="{name}"' if name else ""
    return f"<details{mark}{' open' if shown else ''}><summary>{head}</summary>\n{body}\n</details>"
