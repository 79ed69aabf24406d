"""``mdsd report``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

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
    fitting,
    names_in,
    note_unaudited,
    progress_bar,
    sampling_hint,
)
from mdsd_bounds.cli.outputs import Force, check_out
from mdsd_bounds.cli.running import settings_in
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling

if TYPE_CHECKING:
    from mdsd_bounds.trees.advise import Costs


@with_sampling
def report(
    dump: Dump,
    out: Annotated[str, typer.Option("--out", help="HTML file; complete in itself.")],
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[
        str, typer.Option("--verifier", help=f"{VERIFIERS_HELP} 'none' for bounds alone.")
    ] = QUICK_VERIFIERS,
    drafts: Drafts = "1,2,3,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    sampling: Sampling = NO_SAMPLING,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 100,
    draft_cost: Annotated[
        float | None,
        typer.Option("--draft-cost", help="A draft forward pass in those of the target: the tree is chosen by speed."),
    ] = None,
    target_cost: Annotated[
        str | None, typer.Option("--target-cost", help="Cost by nodes read, as in mdsd advise; needs --draft-cost.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A tokenizer.json: tokens are shown as text.")
    ] = None,
    trees: Annotated[
        str | None, typer.Option("--trees", help="Logs of mdsd tree, comma-separated: rule, certified bound, share.")
    ] = None,
    positions: Annotated[int, typer.Option("--positions", min=0, help="Positions that the page opens up.")] = 12,
    limit: Limit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page about a dump: what to use, what is left, figures, tables, positions."""
    import dataclasses

    need("matplotlib", purpose="mdsd report")
    check_out(out, [dump, tokenizer], force)
    from mdsd_bounds import __version__
    from mdsd_bounds._backend.whole_files import write_whole
    from mdsd_bounds.cli.notes import opened, say_beyond
    from mdsd_bounds.dumps import inspect_dump
    from mdsd_bounds.pipeline.evaluate_block import matching_verifiers
    from mdsd_bounds.pipeline.run import run
    from mdsd_bounds.report import answer, explore, html_report, read_tokenizer, run_of

    costs, decoded = _costs(draft_cost, target_cost), _decoded(trees)
    name = None if tokenizer is None else read_tokenizer(tokenizer)
    settings = settings_in(sampler, drafts, temperature, draft_temperature, sampling, samples=samples)
    chosen: tuple[Any, ...] = ()
    if verifier != "none":
        chosen = matching_verifiers(fitting(verifier, settings.samplers), settings.samplers, settings.drafts)
        note_unaudited(chosen)
    say_sampling(sampling)
    (source, _), comparison = opened(dump, limit), None
    compared = dataclasses.replace(settings, verifiers=chosen)
    asked = _digest(draft_cost, target_cost, tokenizer, positions, None if decoded is None else decoded.to_csv())
    mark = f"{compared.key(source)}-{limit}-{asked}-{__version__}"
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
    answers = [answer(table, comparison, at, costs) for at in settings.temperatures]
    shown = table if comparison is None else comparison
    answers[0] = dataclasses.replace(answers[0], logs=decoded)
    explored = explore(source, shown, answers[0], compared, positions) if positions else []
    page = html_report(table, comparison, answers, inspect_dump(dump), __version__, mark, explored, name)
    write_whole(out, page.encode())
    print(out)


def _costs(draft: float | None, target: str | None) -> Costs | None:
    """Costs where any is given."""
    from mdsd_bounds.trees.advise import costs_from

    return None if draft is None and target is None else costs_from(draft, target)


def _decoded(logs: str | None) -> Any:
    """The summaries of logs of ``mdsd tree``."""
    from mdsd_bounds.trees.log import read_log, summarise_log, summary_table

    return None if logs is None else summary_table({name: summarise_log(read_log(name)) for name in names_in(logs)})


def _digest(*asked: object) -> str:
    """What else the page depends on; a short name, as any of it may be long."""
    import hashlib

    return hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
