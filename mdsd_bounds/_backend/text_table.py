"""Tables as text and as Markdown, drawn by rich; nothing is wrapped, coloured or shortened."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from mdsd_bounds._backend.printable import printable

#: Columns that no table reaches: lines are as long as their cells.
_WIDE = 100_000
#: A number that is a rounded minus zero, alone in its cell or beside others.
_MINUS_ZERO = re.compile(r"(?<![^\s\[(])-(0\.0+)(?![^\s\]),;])")


def text_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool] | None = None,
    markdown: bool = False,
    narrow: bool = False,
) -> str:
    """Aligned columns with a line under the head; without a head (an empty one) only the rows.

    Parameters
    ----------
    head : sequence of str
        Names of columns; a line break in one makes the head two lines high.
    rows : sequence
        Cells as text; short rows are filled up.
    right : sequence of bool, optional
        Which columns are aligned to the right; none unless given.
    markdown : bool
        As a table in Markdown.
    narrow : bool
        One space between columns in place of two.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    count = max([len(head), *(len(row) for row in rows)], default=0)
    dashes = box.Box("    \n    \n -  \n    \n    \n    \n    \n    \n", ascii=True)
    table = Table(
        box=box.MARKDOWN if markdown else dashes,
        show_edge=markdown,
        show_header=bool(head),
        pad_edge=False,
        padding=(0, 0 if markdown or narrow else 1, 0, 0),
    )

    def cell(text: str) -> Text:
        text = _MINUS_ZERO.sub(r"\1", text)
        shown = printable(text, keep="\n") if not markdown else printable(text).replace("|", "\\|")
        return Text(shown)

    # A head of two lines stands on the line below it; a cell of several lines begins where its neighbours do.
    stand = "bottom" if any("\n" in name for name in head) else "top"
    for i in range(count):
        justify = "right" if right is not None and i < len(right) and right[i] else "left"
        table.add_column(cell(head[i]) if i < len(head) else "", justify=justify, no_wrap=True, vertical=stand)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(cell, row))
    stream = io.StringIO()
    Console(file=stream, width=_WIDE, color_system=None, force_terminal=False, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
