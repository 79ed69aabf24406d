"""The command line ``mdsd``: reads options, calls the library, prints.  No mathematics.

stdout is data; progress and notes go to stderr; bad input is one line and exit code 2.  Heavy modules are imported
inside the commands, so that ``mdsd --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mdsd_bounds.run import Settings

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact optimal acceptance rates for multi-draft speculative decoding, from the logits of your own model pair.",
)

ALL_SAMPLERS = "with_replacement,without_replacement,greedy,top_k,top_m_plus,independent"


class Format(StrEnum):
    """Output formats of tables."""

    table = "table"
    csv = "csv"
    json = "json"


Dump = Annotated[str, typer.Argument(metavar="DUMP", help="A dump in any known format (see mdsd inspect).")]
Samplers = Annotated[str, typer.Option("--sampler", help="Draft samplers, comma-separated, or 'all'.")]
Drafts = Annotated[str, typer.Option("--drafts", help="Numbers of drafts, comma-separated.")]
Temperatures = Annotated[str, typer.Option("--temperature", help="Temperatures, comma-separated.")]
DraftTemperature = Annotated[
    float | None, typer.Option("--draft-temperature", help="Temperature of the draft where it differs.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep the k most probable tokens of both models.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the smallest set of tokens with this mass.")]
Fixed = Annotated[int, typer.Option("--m", help="Fixed tokens of top_m_plus.")]
Style = Annotated[Format, typer.Option("--format", help="How to print the summary.")]
Out = Annotated[str | None, typer.Option("--out", help="Per-position results (parquet); resumes where it stopped.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first rows of the dump.")]
Shard = Annotated[str, typer.Option("--shard", help="i/N: compute part i (from 0) of N; needs --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@app.command()
def bounds(
    dump: Dump,
    sampler: Samplers = "with_replacement,without_replacement,greedy",
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    m: Fixed = 1,
    format: Style = Format.table,
    out: Out = None,
    limit: Limit = None,
    shard: Shard = "0/1",
    quiet: Quiet = False,
) -> None:
    """Optimal acceptance rate of each draft sampler and number of drafts, certified, averaged over the dump."""
    from mdsd_bounds.results import render, summarise
    from mdsd_bounds.run import Settings

    settings = Settings(
        samplers=_names(sampler),
        drafts=_numbers(drafts, "--drafts", int),
        temperatures=_numbers(temperature, "--temperature", float),
        draft_temperature=draft_temperature,
        top_k=top_k,
        top_p=top_p,
        options={"m": m},
    )
    _run_and_print(dump, settings, summarise, render, None, format, out, limit, shard, quiet)


@app.command()
def compare(
    dump: Dump,
    sampler: Samplers = "with_replacement,without_replacement,greedy,top_k",
    verifier: Annotated[str, typer.Option("--verifier", help="Verifiers, comma-separated, or 'all'.")] = "all",
    drafts: Drafts = "1,2,4,8",
    temperature: Temperatures = "1.0",
    draft_temperature: DraftTemperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    m: Fixed = 1,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Monte Carlo samples where needed.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the Monte Carlo samples.")] = 0,
    lossy: Annotated[bool, typer.Option("--lossy", help="With 'all': the lossy verifiers instead, flagged.")] = False,
    format: Style = Format.table,
    out: Out = None,
    limit: Limit = None,
    shard: Shard = "0/1",
    quiet: Quiet = False,
) -> None:
    """The gap table: every verifier and sampler against its bound, with 95% document-level intervals."""
    from mdsd_bounds.results import render, summarise_comparison
    from mdsd_bounds.run import Settings, matching_verifiers

    samplers = _names(sampler)
    counts = _numbers(drafts, "--drafts", int)
    names = None if verifier == "all" else _names(verifier)
    settings = Settings(
        samplers=samplers,
        drafts=counts,
        temperatures=_numbers(temperature, "--temperature", float),
        verifiers=matching_verifiers(names, samplers, counts, lossy=lossy),
        draft_temperature=draft_temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
        seed=seed,
        options={"m": m},
    )
    shown = ["sampler", "verifier", "drafts", "temperature", "acceptance", "low", "high", "bound", "gap", "share"]
    if lossy:
        print("note: these verifiers are LOSSY: their output law is not the target's", file=sys.stderr)
    _run_and_print(dump, settings, summarise_comparison, render, shown, format, out, limit, shard, quiet)


@app.command()
def inspect(
    dump: Dump,
    format: Style = Format.table,
) -> None:
    """What a dump holds: format, positions, vocabulary, dtypes, sizes, and what to beware of."""
    import json

    from mdsd_bounds.dumps import inspect_dump

    facts = inspect_dump(dump)
    if format is Format.json:
        print(json.dumps(facts, indent=1, default=str))
    elif format is Format.csv:
        print("\n".join(["fact,value", *(f'{name},"{value}"' for name, value in facts.items())]))
    else:
        width = max(len(name) for name in facts)
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items()))


@app.command()
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


def _run_and_print(
    dump: str,
    settings: Settings,
    summarise: Callable[..., Any],
    render: Callable[..., str],
    columns: list[str] | None,
    format: Format,
    out: str | None,
    limit: int | None,
    shard: str,
    quiet: bool,
) -> None:
    from mdsd_bounds.dumps import open_dump
    from mdsd_bounds.problem import draft_counts
    from mdsd_bounds.run import run
    from mdsd_bounds.samplers import get_sampler

    draft_counts(settings.drafts)
    for name in settings.samplers:
        get_sampler(name)
    index, number = _shard(shard, out)
    with _progress(dump, quiet) as progress:
        table = run(open_dump(dump), settings, out=out, shard=(index, number), limit=limit, progress=progress)
    if table is None:
        print(f"shard {index}/{number} done; the table is written when every shard has run", file=sys.stderr)
        return
    print(render(summarise(table), format.value, columns))


def _names(text: str) -> tuple[str, ...]:
    names = ALL_SAMPLERS if text == "all" else text
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _numbers(text: str, option: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: give numbers separated by commas, for example 1,2,4") from None


def _shard(text: str, out: str | None) -> tuple[int, int]:
    try:
        index, number = (int(part) for part in text.split("/"))
    except ValueError:
        raise typer.BadParameter(f"--shard {text!r}: give i/N, for example 0/4") from None
    if not 0 <= index < number:
        raise typer.BadParameter(f"--shard {text!r}: i counts from 0 to N-1")
    if number > 1 and out is None:
        raise typer.BadParameter("--shard needs --out: the parts are joined there")
    return index, number


@contextmanager
def _progress(label: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name = Path(label).name or label
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main() -> None:
    """Entry point: one clear line and exit code 2 for anything the user can mend."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        print("mdsd: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        message = _usage_or_input_error(error)
        if message is None:
            raise
        print("mdsd: " + " ".join(message.split()), file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_or_input_error(error: Exception) -> str | None:
    # Usage errors are recognised by what they can do: typer may carry its own copy of click.
    if hasattr(error, "format_message"):
        return str(error.format_message()) + " (see mdsd --help)"
    from mdsd_bounds.problem import InputError

    return str(error) if isinstance(error, InputError) else None


if __name__ == "__main__":
    main()
