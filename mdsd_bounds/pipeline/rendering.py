"""Tables as people and programs read them: aligned text, Markdown, HTML, CSV and JSON."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from mdsd_bounds._backend.printable import printable
from mdsd_bounds._backend.text_table import text_table
from mdsd_bounds.problem import InputError


def render(
    table: pd.DataFrame,
    style: str,
    columns: Sequence[str] | None = None,
    warnings: Sequence[str] = (),
    conclusion: str = "",
) -> str:
    """A summary as text: ``table`` (aligned for reading), ``markdown``, ``html``, ``csv`` or ``json`` (a list of rows).

    Text, Markdown and HTML begin with the ``conclusion``.  In the JSON it stands in every row, for programs that do not
    read stderr, as do the ``warnings``; CSV holds nothing but the rows.  ``columns`` chooses those that are shown to
    people; CSV and JSON hold all.

    Raises
    ------
    InputError
        If the style is none of these.
    """
    if style == "json":
        beside: dict[str, Any] = {"conclusion": printable(conclusion)} if conclusion else {}
        beside |= {"warnings": [printable(line) for line in warnings]} if warnings else {}
        return json.dumps([_plain(row) | beside for row in table.to_dict("records")], indent=1)
    if style == "csv":
        return _printed(table).to_csv(index=False).rstrip("\n")
    if style not in ("table", "markdown", "html"):
        raise InputError(f"--format {style}: choose table, markdown, html, csv or json")
    shown = table[list(columns)] if columns is not None else table
    first = [printable(conclusion), ""] if conclusion else []
    if style == "html":
        body = shown.copy()
        for name in body.columns:
            body[name] = body[name].map(lambda value, name=name: cell(str(name), value))
        return "\n".join([*(f"<p>{html.escape(line)}</p>" for line in first[:1]), body.to_html(index=False, border=0)])
    return "\n".join([*first, aligned(shown, markdown=style == "markdown")])


def _printed(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.rename(columns=printable)
    texts = {name: shown[name].map(printable) for name in shown.select_dtypes(["object", "string"]).columns}
    return shown.assign(**texts)


def aligned(
    table: pd.DataFrame, digits: int = 5, markdown: bool = False, two_lines: bool = False, narrow: bool = False
) -> str:
    """A frame as aligned text, its numbers with so many decimals.

    ``two_lines`` breaks long names of intervals, ``narrow`` puts one space between columns.
    """
    head = [str(name) for name in table.columns]
    body = [[cell(name, value, digits) for name, value in zip(head, row, strict=True)] for row in _rows(table)]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    if two_lines:
        head = [re.sub(r"^(gap|certified|mc|speed|behind)_", r"\1_\n", name) for name in head]
    return text_table(head, body, numeric, markdown, narrow)


def fitted(table: pd.DataFrame, columns: Sequence[str], droppable: Sequence[str], width: int = 100) -> str:
    """Aligned text of at most ``width`` columns where that is possible: of four decimals, without the ``droppable``
    columns, first to last, as far as it takes; then without columns of one value alone, and last with narrow gaps.
    """
    shown = list(columns)
    alone = [name for name in ("temperature", "positions") if name in shown and table[name].nunique() == 1]
    for name in [None, *droppable, *alone]:
        shown = [column for column in shown if column != name]
        text = aligned(table[shown], 4, two_lines=True)
        if max(map(len, text.splitlines())) <= width:
            return text
    return aligned(table[shown], 4, two_lines=True, narrow=True)


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    # NaN is no JSON; an unknown number is null.
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _rows(table: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return table.itertuples(index=False, name=None)


def cell(name: str, value: Any, digits: int = 5) -> str:
    """One value of a summary as people read it."""
    if not isinstance(value, float):
        return printable(value)
    if value != value:
        return "-"
    # Adding zero turns a rounded minus zero into zero.
    return f"{value:g}" if name == "temperature" else f"{round(value, digits) + 0.0:.{digits}f}"
