"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.terminal import raw_stderr

#: Between two lines of progress in a log file.
SECONDS_OF_SILENCE = 20.0
#: Work that takes longer than this from now on is told how it could be shorter.
SECONDS_BEFORE_A_HINT = 60.0
#: Those of ``report`` and ``advise`` unless others are named: of every sampler, the published rules that are quick.
QUICK_VERIFIERS = "rrs,k_seq,rrs_without_replacement,greedy,optimal"


class Format(StrEnum):
    """Output formats of tables."""

    table = "table"
    markdown = "markdown"
    html = "html"
    csv = "csv"
    json = "json"


Dump = Annotated[str, typer.Argument(metavar="DUMP", help="A dump in any known format (see mdsd inspect).")]
Samplers = Annotated[str, typer.Option("--sampler", help="Draft samplers, comma-separated, or 'all'.")]
Drafts = Annotated[str, typer.Option("--drafts", help="Numbers of drafts, comma-separated.")]
Temperatures = Annotated[str, typer.Option("--temperature", help="Temperatures, comma-separated.")]
DraftTemperature = Annotated[
    float | None, typer.Option("--draft-temperature", help="Temperature of the draft where it differs.")
]
Fixed = Annotated[int, typer.Option("--m", help="Fixed tokens of top_m_plus.")]
Within = Annotated[
    str | None,
    typer.Option(
        "--tv", help="Total variations from the target that the output may have, comma-separated (0,0.01,0.05)."
    ),
]
Head = Annotated[
    int | None,
    typer.Option("--head", min=0, help="Of a draft with several heads [N, K, V], the one that is meant (from 0)."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="tokenizer.json (or its folder) of answers that name tokens by their text."),
]
Style = Annotated[Format, typer.Option("--format", help="How to print the summary.")]
Out = Annotated[str | None, typer.Option("--out", help="Per-position results (parquet); resumes where it stopped.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first rows of the dump.")]
Shard = Annotated[str, typer.Option("--shard", help="i/N: compute part i (from 0) of N; needs --out.")]
Engine = Annotated[
    str, typer.Option("--engine", help="Who computes: local, or ray (a Ray cluster; RAY_ADDRESS names a running one).")
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, help="Rows read at once; memory grows with it, results stay the same.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


#: Of every option that names verifiers.
VERIFIERS_HELP = "Verifiers, comma-separated: names, 'all', or your own as module:NAME or path/to/file.py:NAME."


def sampling_hint(samples: int) -> str:
    """How a comparison could take less time."""
    return f"rules without a closed form are sampled: fewer --samples (now {samples}) or --limit make it shorter"


def names_in(text: str) -> tuple[str, ...]:
    """Names separated by commas, in order, each once; ``all`` is every sampler."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if not given:
        raise typer.BadParameter(f"{text!r}: give at least one name, or several separated by commas")
    names = [name for part in given for name in (_all_samplers() if part == "all" else [part])]
    return tuple(dict.fromkeys(names))


def _all_samplers() -> list[str]:
    """Those that draw from a distribution: a table of draft tuples cannot be named on the command line."""
    from mdsd_bounds.samplers import SAMPLERS

    return [name for name, sampler in SAMPLERS.items() if sampler.takes != "table"]


def fitting(text: str, samplers: tuple[str, ...]) -> tuple[str, ...]:
    """The verifiers named; of the default ones only those that fit a sampler asked for."""
    names = verifiers_in(text)
    if text != QUICK_VERIFIERS:
        return names
    from mdsd_bounds.verifiers import get_verifier

    return tuple(name for name in names if get_verifier(name).takes(samplers))


def note_unaudited(verifiers: Iterable[Any]) -> None:
    """Say which verifiers are taken to be lossless though nobody has said so, and which command tells."""
    from mdsd_bounds.verifiers.registry import vouched_for

    for rule in verifiers:
        name = rule if isinstance(rule, str) else rule.name
        if not vouched_for(name):
            print(
                f"note: {printable(name)} is compared as if it were lossless; nobody has checked that: "
                f"mdsd audit --verifier {printable(name)} does",
                file=sys.stderr,
            )


def verifiers_in(text: str) -> tuple[str, ...]:
    """Verifiers separated by commas, in order, each once: names, ``all``, or where a rule of one's own is found."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if not given:
        raise typer.BadParameter(f"{text!r}: give at least one name, or several separated by commas")
    return tuple(dict.fromkeys(given))


def numbers_in(text: str, option: str, kind: type) -> tuple[Any, ...]:
    """Numbers separated by commas, in order, each once."""
    try:
        return tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r}: give numbers separated by commas, for example 1,2,4") from None


def tvs_in(text: str | None) -> tuple[float, ...]:
    """Total variations separated by commas; none where the option is not given."""
    from mdsd_bounds.problem import checked_tv

    return () if text is None else tuple(checked_tv(tv, "--tv") for tv in numbers_in(text, "--tv", float))


def shard_in(text: str, out: str | None) -> tuple[int, int]:
    """``i/N`` as two numbers."""
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
def progress_bar(label: str, quiet: bool, hint: str = "") -> Iterator[Callable[[float, int], None] | None]:
    """Progress with time left on stderr: a bar, or a line now and then where that is no terminal; None if unwanted.

    ``hint`` says how the work could be made shorter; it is printed once, where more than a minute is left.
    """
    if quiet:
        yield None
        return
    name = printable(Path(label).name or label)
    if not sys.stderr.isatty():
        yield _lines_of_progress(name, hint)
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

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=raw_stderr()), transient=True) as bar:
        # A name is no markup.
        task = bar.add_task(name.replace("[", r"\["), total=None)
        hints = [hint] if hint else []

        def report(done: float, total: int) -> None:
            bar.update(task, completed=done, total=total)
            left = bar.tasks[0].time_remaining
            if hints and left is not None and left > SECONDS_BEFORE_A_HINT:
                bar.console.print(f"note: {hints.pop()}", markup=False, highlight=False)

        yield report


def _lines_of_progress(name: str, hint: str) -> Callable[[float, int], None]:
    begun = said = time.monotonic()
    first: float | None = None
    hints = [hint] if hint else []

    def report(done: float, total: int) -> None:
        nonlocal said, first
        now = time.monotonic()
        first = done if first is None else first
        if now - said < SECONDS_OF_SILENCE or done <= first:
            return
        said = now
        left = (now - begun) / (done - first) * (total - done)
        shown = f"{done:.0f}" if done == int(done) else f"{done:.1f}"
        print(f"{name}: {shown} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)
        if hints and left > SECONDS_BEFORE_A_HINT:
            print(f"note: {hints.pop()}", file=sys.stderr, flush=True)

    return report
