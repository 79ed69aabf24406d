"""``mdsd plot``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import names_in
from mdsd_bounds.cli.outputs import Force, check_out


def plot(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="Parquet from mdsd bounds or compare --out.")],
    out: Annotated[str, typer.Option("--out", help="PNG, PDF or SVG file; several figures get the name as prefix.")],
    figure: Annotated[
        str, typer.Option("--figure", help="Which figure; 'all' for every one the table allows.")
    ] = "all",
    facet: Annotated[
        str | None,
        typer.Option("--facet", help="One panel for each sampler, temperature or drafts; verifiers always by sampler."),
    ] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="Draw these samplers only, in this order.")] = None,
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="Draw these verifiers only, in this order.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Draw this one; figures of one temperature take the lowest.")
    ] = None,
    size: Annotated[str, typer.Option("--size", help="screen, one-column or two-column (paper).")] = "screen",
    force: Force = False,
) -> None:
    """Figures from a per-position table, for the screen or for a paper."""
    need("matplotlib", purpose="mdsd plot")
    from mdsd_bounds.pipeline.tables import read_table
    from mdsd_bounds.plots import Look, figure_files, save_figures, select
    from mdsd_bounds.problem import InputError

    look = Look(size, facet)
    table = read_table(results)
    if "tv" in table and not (table["verifier"] != "").any() and table["tv"].nunique() > 1:
        raise InputError(f"{results}: bounds at several total variations; figures take one (mdsd bounds --tv 0.01)")
    table = select(
        table, None if sampler is None else names_in(sampler), None if verifier is None else names_in(verifier)
    )
    there = sorted(table["temperature"].unique())
    listed = ", ".join(f"{t:g}" for t in there)
    if temperature is not None:
        table = table[table["temperature"] == temperature]
        if table.empty:
            raise InputError(f"--temperature {temperature:g}: not in {results}, which holds {listed}")
    elif len(there) > 1 and facet != "temperature":
        print(f"note: temperatures {listed}; figures of one take {there[0]:g} (see --temperature)", file=sys.stderr)
    if table.empty:
        raise InputError(f"{results}: no sampler has a verifier of {verifier}; see mdsd compare --verifier")
    for file in figure_files(table, out, figure).values():
        check_out(str(file), [results], force)
    for path in save_figures(table, out, figure, look):
        print(path)
