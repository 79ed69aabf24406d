"""Run a dump through the loop and print the summary: what ``bounds`` and ``compare`` share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from mdsd_bounds.cli.exits import need, resumable
from mdsd_bounds.cli.options import Format, progress_bar, shard_in
from mdsd_bounds.cli.outputs import check_out
from mdsd_bounds.cli.running import Running

if TYPE_CHECKING:
    import pandas as pd

    from mdsd_bounds.dumps.base import Dump
    from mdsd_bounds.pipeline.evaluate_block import Settings

    Summarise = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Summary:
    """How a summary is printed: the sentence it begins with, and what people are shown of it.

    ``droppable`` are the columns that text goes without where it would be wider than 100 columns, first to last.
    """

    conclude: Callable[[pd.DataFrame], str]
    columns: list[str] | None = None
    droppable: tuple[str, ...] = ()


def run_and_print(
    dump: str, settings: Settings, running: Running, summarise: Summarise, layout: Summary, format: Format
) -> None:
    """Compute, write per-position results where asked, and print the summary, of each head where there are several."""
    from pandas import concat

    from mdsd_bounds.dumps import open_dump

    source, warnings = _opened(dump, settings, running)
    heads, summaries = _other_heads(dump, source, running.out), []
    for head, name in enumerate(heads or [dump]):
        if heads:
            print(f"head {head} of {len(heads)}", file=sys.stderr)
            source = open_dump(name)
        table = _table(source, name, settings, running)
        if table is None:
            return
        summary = summarise(table)
        if heads:
            summary.insert(0, "head", head)
        summaries.append(summary)
    if heads and layout.columns is not None:
        layout = replace(layout, columns=["head", *layout.columns])
    print_summary(concat(summaries, ignore_index=True) if heads else summaries[0], layout, format, warnings)


def print_summary(summary: pd.DataFrame, layout: Summary, format: Format, warnings: Sequence[str] = ()) -> None:
    """The summary on stdout, its conclusion first (in JSON a field of every row; CSV holds rows alone)."""
    from mdsd_bounds.pipeline.rendering import fitted, render

    columns, conclusion = layout.columns, layout.conclude(summary)
    if columns is None and "documents" in summary:
        # The conclusion says it, once for all rows.
        columns = [name for name in summary.columns if name != "documents"]
    if columns is not None and "mc_stderr" in summary and bool((summary["mc_stderr"] > 0).any()):
        # Which cells come from samples, and how far off they may be; 0 is exact.
        columns = [*columns, "mc_stderr"]
    if format is Format.table:
        shown = list(summary.columns) if columns is None else columns
        print(f"{conclusion}\n\n{fitted(summary, shown, layout.droppable)}")
    else:
        print(render(summary, format.value, columns, warnings, conclusion))


def computed(dump: str, settings: Settings, running: Running) -> tuple[pd.DataFrame, list[str]] | None:
    """The per-position table and the warnings about its dump; None where other shards are still missing."""
    source, warnings = _opened(dump, settings, running)
    if heads := _other_heads(dump, source, running.out):
        raise typer.BadParameter(f"{dump}: the draft has {len(heads)} heads; give --head")
    table = _table(source, dump, settings, running)
    return None if table is None else (table, warnings)


def _opened(dump: str, settings: Settings, running: Running) -> tuple[Dump, list[str]]:
    """The dump and the warnings about it, after everything that can be refused before it is opened."""
    from mdsd_bounds.cli.notes import opened
    from mdsd_bounds.problem import draft_counts
    from mdsd_bounds.samplers import get_sampler

    draft_counts(settings.drafts)
    for name in settings.samplers:
        get_sampler(name)
    shard_in(running.shard, running.out)
    if running.engine == "ray":
        need("ray", "ray.data", purpose="--engine ray")
    check_out(running.out, [dump], running.force, table=True)
    return opened(dump, running.limit)


def _other_heads(dump: str, source: Dump, out: str | None) -> list[str]:
    """The names of a draft's heads, one dump each, where it has several and none was chosen."""
    from mdsd_bounds.dumps.how_to_read import named, parted

    plain, how = parted(dump)
    if source.facts.heads == 1 or how.head is not None:
        return []
    if out is not None:
        raise typer.BadParameter(f"{dump}: the draft has {source.facts.heads} heads, and --out holds one; give --head")
    return [named(plain, head=head, tokenizer=how.tokenizer) for head in range(source.facts.heads)]


def _table(source: Dump, name: str, settings: Settings, running: Running) -> pd.DataFrame | None:
    """The per-position table of an open dump, with notes on stderr; None where other shards are still missing."""
    from mdsd_bounds.pipeline.run import Execution, is_finished, run

    out, force, limit = running.out, running.force, running.limit
    index, number = shard_in(running.shard, out)
    if out is not None and not force and number == 1 and is_finished(source, settings, out, limit):
        print(f"note: {out} holds these results already; --force computes them again", file=sys.stderr)
    kept = contextlib.nullcontext() if out is None else resumable(f"finished parts are in {out}.parts")
    bar = progress_bar(name, running.quiet, running.hint)
    # stdout is data: what Ray says about workers that died goes to stderr like all notes.
    with bar as progress, contextlib.redirect_stdout(sys.stderr), kept:
        table = run(
            source,
            settings,
            out=out,
            shard=(index, number),
            limit=limit,
            progress=progress,
            force=force,
            execution=Execution(running.engine, running.batch),
        )
    if table is None:
        print(f"shard {index}/{number} done; the table is written when every shard has run", file=sys.stderr)
    else:
        _say(table)
    return table


def _say(table: pd.DataFrame) -> None:
    """Notes on a table of per-position results."""
    from mdsd_bounds.cli.notes import say_beyond
    from mdsd_bounds.pipeline.tables import few_documents, underflow_notes

    say_beyond(table)
    if len(table) and bool((table["doc"] == table["row"]).all()):
        print(
            "note: the dump names no documents: every position counts as one of its own, and errors come out too small "
            "where neighbours are alike",
            file=sys.stderr,
        )
    for line in [*few_documents(int(table["doc"].nunique())), *underflow_notes(table)]:
        print(f"note: {line}", file=sys.stderr)
