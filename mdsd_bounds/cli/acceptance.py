"""``mdsd acceptance``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import DraftTemperature, Format, Limit, Quiet, Style, names_in, progress_bar
from mdsd_bounds.cli.outputs import Force, check_out
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling

if TYPE_CHECKING:
    from mdsd_bounds.counts import AcceptanceSummary, BesideBound
    from mdsd_bounds.pipeline.evaluate_block import Settings


@with_sampling
def acceptance(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="A page of /metrics (two or more: snapshots of one server, in order), server logs, answers or "
            "counts in JSON, .npy or .npz.",
        ),
    ],
    dump: Annotated[
        str | None, typer.Option("--dump", help="Logits of the same pair: set its bound beside the first draft token.")
    ] = None,
    sampler: Annotated[
        str, typer.Option("--sampler", help="Draft samplers of the bound: sampled drafts, or the most probable token.")
    ] = "with_replacement,top_k",
    drafts: Annotated[int, typer.Option("--drafts", min=1, help="Drafts of the first position in the bound.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of the bound: the engine's.")] = 1.0,
    draft_temperature: DraftTemperature = None,
    sampling: Sampling = NO_SAMPLING,
    draft_tokens: Annotated[
        int | None, typer.Option("--draft-tokens", min=1, help="Draft tokens of a step, where the file does not say.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model of a page that counts several.")] = None,
    each: Annotated[
        bool, typer.Option("--sum", help="The pages are of different servers: sum them instead of comparing snapshots.")
    ] = False,
    figure: Annotated[
        str | None, typer.Option("--figure", help="Draw the rates by position here (PNG, PDF, SVG).")
    ] = None,
    limit: Limit = None,
    format: Style = Format.table,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """What an engine already counted, in every definition in use, pooled from counts, with 95% intervals.

    mdsd acceptance metrics.txt; mdsd acceptance before.txt after.txt; mdsd acceptance server.log --dump pair.npz
    """
    from mdsd_bounds.counts import acceptance as rates_of
    from mdsd_bounds.counts import read_counts
    from mdsd_bounds.counts.tables import as_json, as_table, as_text
    from mdsd_bounds.pipeline.evaluate_block import Settings
    from mdsd_bounds.pipeline.rendering import render

    if figure is not None:
        need("matplotlib", purpose="--figure")
        check_out(figure, [*files, dump], force, "--figure")
    summary = rates_of(read_counts(files, model=model, each=each, draft_tokens=draft_tokens))
    for note in summary.counts.notes:
        print(f"note: {note}", file=sys.stderr)
    beside: list[BesideBound] = []
    if dump is not None:
        say_sampling(sampling)
        settings = Settings(
            samplers=names_in(sampler),
            drafts=(drafts,),
            temperatures=(temperature,),
            draft_temperature=draft_temperature,
            target=sampling.target,
            draft=sampling.draft,
        )
        beside = _bounds_beside(summary, dump, settings, limit, quiet)
    if figure is not None:
        _draw(summary, beside, figure)
    if json or format is Format.json:
        import json as text_of

        print(text_of.dumps(as_json(summary, beside), indent=1, allow_nan=False))
    elif format is Format.csv:
        print(render(as_table(summary), "csv"))
    else:
        print(as_text(summary, beside))


def _bounds_beside(
    summary: AcceptanceSummary, dump: str, settings: Settings, limit: int | None, quiet: bool
) -> list[BesideBound]:
    """The bound of every sampler beside the engine's first position."""
    from mdsd_bounds.cli.notes import opened
    from mdsd_bounds.counts import beside_bound
    from mdsd_bounds.pipeline.run import run
    from mdsd_bounds.pipeline.tables import summarise

    source, _ = opened(dump, limit)
    with progress_bar(dump, quiet) as progress:
        table: Any = run(source, settings, limit=limit, progress=progress)
    found = []
    for line in summarise(table).to_dict("records"):
        low, high = (
            pick([line[name] for name in names if line[name] == line[name]])
            for pick, names in ((min, ("certified_low", "ci_low")), (max, ("certified_high", "ci_high")))
        )
        one = beside_bound(summary, f"{line['sampler']}, n = {line['drafts']}", line["mean"], low, high)
        if one is None:
            print("note: the counts have no draft positions, so no bound can stand beside them", file=sys.stderr)
            break
        found.append(one)
    return found


def _draw(summary: AcceptanceSummary, beside: list[BesideBound], figure: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from mdsd_bounds.plots import acceptance_by_position
    from mdsd_bounds.plots.saving import save_figure

    save_figure(acceptance_by_position(summary, beside).figure, figure)
