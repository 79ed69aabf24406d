"""``mdsd draft-temperature``."""

from __future__ import annotations

from typing import Annotated

import typer

from mdsd_bounds.cli.options import Dump, Fixed, Format, Limit, Style, numbers_in


def draft_temperature(
    dump: Dump,
    sampler: Annotated[str, typer.Option("--sampler", help="The draft sampler.")] = "without_replacement",
    drafts: Annotated[int, typer.Option("--drafts", min=1, help="Number of drafts.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature", help="The target's temperature.")] = 1.0,
    ratios: Annotated[
        str, typer.Option("--ratios", help="Draft temperatures to try, as multiples of the target's.")
    ] = "0.7,0.8,0.9,1.0,1.1,1.2,1.3,1.5",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of documents.")] = 5,
    m: Fixed = 1,
    format: Style = Format.table,
    limit: Limit = None,
) -> None:
    """The best draft temperature, chosen on some documents and judged on others; 1 unless the gain is clear."""
    from mdsd_bounds.cli.notes import opened
    from mdsd_bounds.diagnostics import choose_draft_temperature
    from mdsd_bounds.pipeline.rendering import render

    source, warnings = opened(dump, limit)
    found = choose_draft_temperature(
        source,
        drafts,
        sampler,
        temperature=temperature,
        ratios=numbers_in(ratios, "--ratios", float),
        folds=folds,
        limit=limit,
        m=m,
    )
    table = found.table.assign(
        draft_temperature=found.table["ratio"] * temperature, advised=found.table["ratio"] == found.ratio
    )
    conclusion = (
        f"Draft at {found.ratio:g} times the target's temperature; gain on documents not used for the choice "
        f"{found.gain:.5f} +- {found.stderr:.5f} (one standard error; the folds chose "
        f"{', '.join(f'{r:g}' for r in found.chosen)})."
    )
    shown = ["ratio", "draft_temperature", "mean", "gain", "stderr", "advised"]
    print(render(table, format.value, shown, warnings, conclusion))
