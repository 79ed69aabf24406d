"""``mdsd plot``."""

from __future__ import annotations

from typing import Annotated

import typer


def plot(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="Parquet from mdsd bounds or compare --out.")],
    out: Annotated[str, typer.Option("--out", help="PNG, PDF or SVG file; several figures get the name as prefix.")],
    figure: Annotated[
        str, typer.Option("--figure", help="Which figure; 'all' for every one the table allows.")
    ] = "all",
) -> None:
    """Figures from a per-position table."""
    from mdsd_bounds.plots import save_figures
    from mdsd_bounds.results import read_table

    for path in save_figures(read_table(results), out, figure):
        print(path)
