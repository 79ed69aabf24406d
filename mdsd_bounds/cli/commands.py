"""The commands of ``mdsd``, in the order of ``mdsd --help``."""

from __future__ import annotations

import os

import typer

from mdsd_bounds.cli.acceptance import acceptance
from mdsd_bounds.cli.advise import advise
from mdsd_bounds.cli.audit import audit
from mdsd_bounds.cli.bounds import bounds
from mdsd_bounds.cli.compare import compare
from mdsd_bounds.cli.convert import convert
from mdsd_bounds.cli.diffusion import diffusion
from mdsd_bounds.cli.draft_temperature import draft_temperature
from mdsd_bounds.cli.inspect import inspect
from mdsd_bounds.cli.log import log
from mdsd_bounds.cli.plot import plot
from mdsd_bounds.cli.report import report
from mdsd_bounds.cli.train_draft import train_draft
from mdsd_bounds.cli.tree import tree

#: In the order of ``mdsd --help``.
COMMANDS = (
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
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact optimal acceptance rates for multi-draft speculative decoding, from the logits of your own model pair.",
    epilog="Exit codes: 0 good; 1 the verdict of an audit is lossy; 2 bad input; 3 a defect of this program (--debug "
    "shows the traceback); 130 interrupted; 141 whoever read the output went away.",
)


@app.callback()
def _every_command() -> None:
    # A limit that cannot be read is said at once and by every command, not where memory is first asked for.
    if "MDSD_MEMORY_GB" in os.environ:
        from mdsd_bounds._backend.memory import memory_limit

        memory_limit()


for command in COMMANDS:
    app.command()(command)
app.add_typer(diffusion, name="diffusion")
