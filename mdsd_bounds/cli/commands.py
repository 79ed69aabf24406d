"""The commands of ``mdsd``, in the order of ``mdsd --help``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mdsd_bounds.cli.acceptance import acceptance
from mdsd_bounds.cli.advise import advise
from mdsd_bounds.cli.audit import audit
from mdsd_bounds.cli.bounds import bounds
from mdsd_bounds.cli.compare import compare
from mdsd_bounds.cli.convert import convert
from mdsd_bounds.cli.demo import demo
from mdsd_bounds.cli.diffusion import diffusion
from mdsd_bounds.cli.draft_temperature import draft_temperature
from mdsd_bounds.cli.help_texts import texts
from mdsd_bounds.cli.inspect import inspect
from mdsd_bounds.cli.judge import judge
from mdsd_bounds.cli.listing import list_
from mdsd_bounds.cli.log import log
from mdsd_bounds.cli.plot import plot
from mdsd_bounds.cli.report import report
from mdsd_bounds.cli.train_draft import train_draft
from mdsd_bounds.cli.tree import tree

#: In the order of ``mdsd --help``.
COMMANDS = (
    demo,
    bounds,
    compare,
    acceptance,
    advise,
    tree,
    audit,
    draft_temperature,
    log,
    train_draft,
    convert,
    inspect,
    plot,
    report,
    list_,
)

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact optimal acceptance rates for multi-draft speculative decoding, from the logits of your own model pair.",
    epilog="Exit codes: 0 good; 1 the verdict of an audit is lossy; 2 bad input; 3 a defect of this program (--debug "
    "shows the traceback); 130 interrupted; 141 whoever read the output went away.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from mdsd_bounds import __version__

        print(f"mdsd {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    # A limit that cannot be read is said at once and by every command, not where memory is first asked for.
    if "MDSD_MEMORY_GB" in os.environ:
        from mdsd_bounds._backend.memory import memory_limit

        memory_limit()


for command in COMMANDS:
    name = command.__name__.rstrip("_").replace("_", "-")
    app.command(name, **texts(name))(command)  # type: ignore[arg-type]
app.add_typer(judge, name="judge", short_help="A judge of draft tokens (lossy): labels, head, curve.")
app.add_typer(diffusion, name="diffusion", short_help="Several drafts of a diffusion step.")
