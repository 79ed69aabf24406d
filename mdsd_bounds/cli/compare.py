"""``mdsd compare``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsd_bounds.cli.options import (
    VERIFIERS_HELP,
    Drafts,
    DraftTemperature,
    Dump,
    Fixed,
    Format,
    Head,
    Samplers,
    Style,
    Temperatures,
    Tokenizer,
    note_unaudited,
    sampling_hint,
    verifiers_in,
)
from mdsd_bounds.cli.running import NO_RUNNING, Running, settings_in, with_running
from mdsd_bounds.cli.sampling import NO_SAMPLING, Sampling, say_sampling, with_sampling
from mdsd_bounds.cli.table import Summary, computed, print_summary, run_and_print

if TYPE_CHECKING:
    import pandas as pd

    from mdsd_bounds.pipeline.evaluate_block import Settings


@with_running
@with_sampling
def compare(
    dump: Dump,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="With --paired: a second dump or table, second minus first.")
    ] = None,
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[str, typer.Option("--verifier", help=VERIFIERS_HELP)] = "all",
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    sampling: Sampling = NO_SAMPLING,
    m: Fixed = 1,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the Monte Carlo samples.")] = 0,
    pairs: Annotated[
        bool, typer.Option("--paired", help="Two dumps (two drafts) or two tables, on the same positions.")
    ] = False,
    lossy: Annotated[bool, typer.Option("--lossy", help="With 'all': the lossy verifiers instead, flagged.")] = False,
    head: Head = None,
    tokenizer: Tokenizer = None,
    format: Style = Format.table,
    running: Running = NO_RUNNING,
) -> None:
    """The gap table: every verifier and sampler against its bound, with 95% document-level intervals."""
    from mdsd_bounds.dumps.how_to_read import named
    from mdsd_bounds.pipeline.conclusions import comparison_in_words
    from mdsd_bounds.pipeline.evaluate_block import matching_verifiers
    from mdsd_bounds.pipeline.tables import COMPARED, COMPARED_LOSSY
    from mdsd_bounds.verifiers import get_verifier

    if pairs != (other is not None):
        raise typer.BadParameter("--paired goes with two dumps or two tables: mdsd compare A B --paired")
    settings = settings_in(
        sampler, drafts, temperature, draft_temperature, sampling, samples=samples, seed=seed, options={"m": m}
    )
    columns = _judged(dump, head, tokenizer) if lossy else ()
    verifiers = matching_verifiers(
        verifiers_in(verifier), settings.samplers, settings.drafts, lossy=lossy, columns=columns
    )
    settings = replace(settings, verifiers=verifiers)
    running = replace(running, hint=sampling_hint(samples))
    if not lossy:
        note_unaudited(verifiers)
    shown = [*COMPARED]
    if not all(get_verifier(name).lossless for name in verifiers):
        shown = [*COMPARED_LOSSY]
        print(
            "note: LOSSY verifiers: tv is the total variation of their output distribution from the target's; bound is "
            "the lossless optimum, bound_at_tv the optimum at the verifier's own tv",
            file=sys.stderr,
        )
    say_sampling(sampling)
    if other is not None:
        pair = [path if _is_table(path) else named(path, head=head, tokenizer=tokenizer) for path in (dump, other)]
        _paired(pair[0], pair[1], settings, format, running)
        return
    dump = named(dump, head=head, tokenizer=tokenizer)
    run_and_print(dump, settings, running, best_first, Summary(comparison_in_words, shown, ("share",)), format)


def _judged(dump: str, head: int | None, tokenizer: str | None) -> tuple[str, ...]:
    """Columns of a judge that the dump holds; says so where it holds none."""
    from mdsd_bounds import open_dump
    from mdsd_bounds.dumps.checks import JUDGED
    from mdsd_bounds.dumps.how_to_read import named

    if not _is_table(dump):
        first = next(open_dump(named(dump, head=head, tokenizer=tokenizer)).batches(1))
        if first.judge_score is not None:
            return JUDGED
    print("note: judge is left out: it needs a dump with a judge's scores (mdsd judge log)", file=sys.stderr)
    return ()


def best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The summary of a comparison: by temperature and number of drafts, and within these what accepts most first."""
    from mdsd_bounds.pipeline.tables import summarise_comparison

    summary = summarise_comparison(table)
    return summary.sort_values(
        ["temperature", "drafts", "acceptance"], ascending=[True, True, False], kind="stable", ignore_index=True
    )


def _paired(first: str, second: str, settings: Settings, format: Format, running: Running) -> None:
    """Print the differences between two dumps or two tables, second minus first."""
    from mdsd_bounds.pipeline.conclusions import paired_in_words
    from mdsd_bounds.pipeline.paired import paired
    from mdsd_bounds.pipeline.tables import read_table

    tables, warnings = [], []
    for path in (first, second):
        if _is_table(path):
            tables.append(read_table(path))
            continue
        found = computed(path, settings, Running(limit=running.limit, quiet=running.quiet, hint=running.hint))
        assert found is not None
        tables.append(found[0])
        warnings += found[1]
    names = Path(first).name or first, Path(second).name or second
    if names[0] == names[1]:
        names = first, second
    layout = Summary(lambda summary: paired_in_words(summary, *names), droppable=("positions",))
    print(f"note: first is {first}, second is {second}", file=sys.stderr)
    print_summary(paired(tables[0], tables[1], names), layout, format, warnings)


def _is_table(path: str) -> bool:
    """Whether it is a parquet file with a table of results, rather than a dump."""
    if not (path.endswith(".parquet") and Path(path).is_file()):
        return False
    from mdsd_bounds.dumps.containers.parquet import open_parquet

    return "sampler" in open_parquet(Path(path)).schema_arrow.names
