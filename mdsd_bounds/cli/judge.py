"""``mdsd judge mine|fit|curve|log``: Judge Decoding, from labels to exact acceptance."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsd_bounds.cli.exits import need, resumable
from mdsd_bounds.cli.log import Computation
from mdsd_bounds.cli.options import Format, Quiet, Style, numbers_in

if TYPE_CHECKING:
    from mdsd_bounds.judge import Fitted, Task
    from mdsd_bounds.models.loading import LoadedModel

judge = typer.Typer(help="A judge that accepts draft tokens which do no harm: labels from tests, head, evidence.")


class Kind(StrEnum):
    """Where labels come from."""

    outcome = "outcome"
    substitution = "substitution"


Target = Annotated[str, typer.Option("--target", help="Hugging Face name, local folder or GGUF file.")]
Draft = Annotated[str, typer.Option("--draft", help="A model, early-exit:K, chimera:FOLDER, ... (as mdsd log).")]
Tasks = Annotated[str, typer.Option("--tasks", help="humaneval, or a .jsonl of its form.")]
First = Annotated[int | None, typer.Option("--first", min=1, help="Only so many tasks, from the first.")]
Skip = Annotated[int, typer.Option("--skip", min=0, help="Leave out so many tasks at the beginning.")]
Dtype = Annotated[Computation, typer.Option("--dtype", help="Of the computation; int8: linear layers, on a processor.")]


@judge.command("mine")
def mine_(
    target: Target,
    draft: Draft,
    out: Annotated[str, typer.Option("--out", help="Folder of the labels; the same command continues it.")],
    tasks: Tasks = "humaneval",
    kind: Annotated[
        Kind, typer.Option("--kind", help="outcome: the target finishes; substitution: in the given solution.")
    ] = Kind.outcome,
    first: First = None,
    skip: Skip = 0,
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens of a solution at most.")] = 160,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help="Texts continued at once.")] = 32,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Labels of a task at most.")] = 40,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop mining outcomes after this time.")] = None,
    dtype: Dtype = Computation.float32,
    quiet: Quiet = False,
) -> None:
    """Mine labels: put the draft's token in, let the target finish, run the tests in a sandbox."""
    from mdsd_bounds.judge import MineSettings, SubstituteSettings, mine, read_labels, require_sandbox, substitute

    require_sandbox()
    chosen = _tasks(tasks, first, skip)
    say = _say(quiet)
    with resumable(f"finished tasks are in {out}"):
        model = _model(target, dtype, say)
        given: dict[str, Any] = {"dtype": dtype.value, "report": say}
        if kind is Kind.outcome:
            mine(model, draft, chosen, out, MineSettings(new_tokens, lanes, labels, minutes), **given)
        else:
            substitute(model, draft, chosen, out, SubstituteSettings(labels), **given)
    found = read_labels([out])[0]
    harmless = int(found.columns["label"].sum())
    names = len(found.group.unique())  # type: ignore[no-untyped-call]
    print(f"{out}: {len(found)} labels of {names} tasks, {harmless} harmless ({harmless / len(found):.1%})")


@judge.command("fit")
def fit_(
    folders: Annotated[str, typer.Argument(metavar="LABELS", help="Folders of labels, comma-separated.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the judge.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the folds and the intervals.")] = 0,
    format: Style = Format.table,
) -> None:
    """Fit the head on labels, and say whether it knows more than p and the kind of token."""
    import pandas as pd

    from mdsd_bounds.judge import fit, read_labels, save_judge
    from mdsd_bounds.pipeline.rendering import render

    labels, facts = read_labels(folders.split(","))
    found = fit(labels, facts, seed)
    save_judge(out, found.head)
    if format is Format.table:
        print(_in_words(found))
    gains = {name: f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" for name, gain in found.gain.items()}
    rows = [
        {"score": name, "auc": auc.value, "low": auc.low, "high": auc.high, "judge_minus": gains.get(name, "")}
        for name, auc in found.auc.items()
    ]
    print(render(pd.DataFrame(rows), format.value))


@judge.command("log")
def log_(
    target: Target,
    draft: Draft,
    head: Annotated[str, typer.Option("--judge", help="Folder of the judge.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the dump.")],
    tasks: Tasks = "humaneval",
    first: First = None,
    skip: Skip = 0,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Places of a solution.")] = 32,
    dtype: Dtype = Computation.float32,
    quiet: Quiet = False,
) -> None:
    """A dump of a pair with the judge's scores, for mdsd judge curve and mdsd compare --lossy."""
    from mdsd_bounds.judge import load_judge, log_scored

    chosen = _tasks(tasks, first, skip)
    load_judge(head)
    say = _say(quiet)
    model = _model(target, dtype, say)
    log_scored(model, draft, chosen, load_judge(head, model), out, rows=rows, dtype=dtype.value, report=say)
    print(f"{out}: written; next: mdsd judge curve {out}")


@judge.command("curve")
def curve_(
    dump: Annotated[
        str, typer.Argument(help="A dump with a judge's scores (mdsd judge log), or a step log with judge_score.")
    ],
    thresholds: Annotated[str, typer.Option("--thresholds", help="Comma-separated, in [0, 1].")] = (
        "0.05,0.1,0.2,0.3,0.5,0.7,0.9,0.95"
    ),
    drafts: Annotated[int, typer.Option("--drafts", min=1, help="Numbers of drafts, with replacement.")] = 1,
    format: Style = Format.table,
) -> None:
    """Acceptance and total variation of the judge at each threshold.

    Exact over the rows of a dump, beside other lossy rules; estimated from the tried tokens of a step log.
    """
    from pathlib import Path

    from mdsd_bounds import open_dump
    from mdsd_bounds.dumps.formats.step_log import is_step_log
    from mdsd_bounds.judge import curve_of_steps, plane
    from mdsd_bounds.pipeline.rendering import render
    from mdsd_bounds.problem import InputError

    values = numbers_in(thresholds, "--thresholds", float)
    if Path(dump).is_file() and is_step_log(Path(dump)):
        if drafts != 1:
            raise InputError(f"--drafts {drafts}: a step log gives the curve of one draft a position")
        table = curve_of_steps(dump, values)
    else:
        table = plane(open_dump(dump), values, drafts)
    if format is Format.table:
        own, plain = table[table["rule"] == "judge"], table[table["rule"] == "speculative sampling"].iloc[0]
        most = own.iloc[int(own["acceptance"].argmax())]
        print(
            f"{dump}: the judge accepts up to {most['acceptance']:.4f} at a total variation of {most['tv']:.4f}; "
            f"speculative sampling accepts {plain['acceptance']:.4f}"
        )
    print(render(table, format.value))


def _in_words(found: Fitted) -> str:
    head = found.head.facts
    counts = f"{head['labels']} labels of {head['tasks']} tasks, {head['harmless']} harmless"
    if found.learned:
        return f"The judge knows more than p and the kind of token: held-out ROC-AUC {found.auc['judge']} ({counts})"
    return (
        f"The judge learned nothing that p or the kind of token does not say: held-out ROC-AUC {found.auc['judge']} "
        f"({counts})"
    )


def _tasks(source: str, first: int | None, skip: int) -> list[Task]:
    from mdsd_bounds.judge import read_tasks
    from mdsd_bounds.problem import InputError

    found = read_tasks(source)[skip:][:first]
    if not found:
        raise InputError(f"{source}: no task is left after --skip {skip}")
    return found


def _model(target: str, dtype: Computation, say: Callable[[str], None]) -> LoadedModel:
    import os

    os.environ.setdefault("TQDM_DISABLE", "1")
    need("transformers", purpose="running models")
    from mdsd_bounds.models.loading import load_model, silence

    silence()
    say(f"loading {target}")
    return load_model(target, dtype.value)


def _say(quiet: bool) -> Callable[[str], None]:
    from mdsd_bounds._backend.printable import printable

    def report(line: str) -> None:
        if not quiet:
            print(printable(line), file=sys.stderr, flush=True)

    return report
