"""``mdsd report``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mdsd_bounds.cli.exits import need
from mdsd_bounds.cli.options import (
    QUICK_VERIFIERS,
    VERIFIERS_HELP,
    Drafts,
    DraftTemperature,
    Dump,
    Limit,
    Quiet,
    Samplers,
    Temperatures,
    TopK,
    TopP,
    fitting,
    names_in,
    numbers_in,
    progress_bar,
    sampling_hint,
)
from mdsd_bounds.cli.outputs import Force, check_out


def report(
    dump: Dump,
    out: Annotated[str, typer.Option("--out", help="HTML file; complete in itself.")],
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[
        str, typer.Option("--verifier", help=f"{VERIFIERS_HELP} 'none' for bounds alone.")
    ] = QUICK_VERIFIERS,
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 100,
    limit: Limit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page about a dump: bounds, verifiers against them, figures."""
    import dataclasses

    need("matplotlib", purpose="mdsd report")
    check_out(out, [dump], force)
    from mdsd_bounds import __version__
    from mdsd_bounds._backend.whole_files import write_whole
    from mdsd_bounds.cli.notes import opened, say_beyond
    from mdsd_bounds.dumps import inspect_dump
    from mdsd_bounds.pipeline.evaluate_block import Settings, matching_verifiers
    from mdsd_bounds.pipeline.run import run
    from mdsd_bounds.report import html_report, run_of

    settings = Settings(
        samplers=names_in(sampler),
        drafts=numbers_in(drafts, "--drafts", int),
        temperatures=numbers_in(temperature, "--temperature", float),
        draft_temperature=draft_temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
    )
    chosen: tuple[Any, ...] = ()
    if verifier != "none":
        chosen = matching_verifiers(fitting(verifier, settings.samplers), settings.samplers, settings.drafts)
    (source, _), comparison = opened(dump, limit), None
    compared = dataclasses.replace(settings, verifiers=chosen)
    mark = f"{compared.key(source)}-{limit}-{__version__}"
    if not force and run_of(out) == mark:
        print(f"note: {out} is this report already; --force makes it again", file=sys.stderr)
        print(out)
        return
    with progress_bar(dump, quiet) as progress:
        table = run(source, settings, limit=limit, progress=progress)
    assert table is not None
    say_beyond(table)
    if chosen:
        with progress_bar(f"{dump} (verifiers)", quiet, sampling_hint(samples)) as progress:
            comparison = run(source, compared, limit=limit, progress=progress)
    write_whole(out, html_report(table, comparison, inspect_dump(dump), __version__, mark).encode())
    print(out)
