"""The command line ``mdsd``: reads options, calls the library, prints.  No mathematics.

One command per file, and one line in :data:`COMMANDS`.  stdout is data; progress and notes go to stderr; bad input is
one line and exit code 2.  Heavy modules are imported inside the commands, so that ``mdsd --help`` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys

import typer

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
from mdsd_bounds.cli.tree import tree

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact optimal acceptance rates for multi-draft speculative decoding, from the logits of your own model pair.",
)

#: In the order of ``mdsd --help``.
COMMANDS = (bounds, compare, advise, tree, audit, draft_temperature, log, convert, inspect, plot, report)
for command in COMMANDS:
    app.command()(command)
app.add_typer(diffusion, name="diffusion")


def entry() -> None:
    """The process ``mdsd``: :func:`main`, then an end that leaves out the destructors of C++ libraries.

    Arrow may be starting a thread just then, and the process would abort after its work is done.  Registered first, the
    last act runs after all other exit handlers.
    """
    status = [1]
    atexit.register(_leave, status)
    try:
        main()
    except SystemExit as stop:
        status[0] = stop.code if isinstance(stop.code, int) else 0
        raise


def _leave(status: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status[0])


def main() -> None:
    """One command: one clear line and exit code 2 for anything the user can mend."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        print("mdsd: interrupted", file=sys.stderr)
        sys.exit(130)
    except (BrokenPipeError, SystemExit):
        # Whoever read the output went away (the framework turns that into an exit of its own).  The code is that of a
        # process ended by the signal: never 0 or 1, which are verdicts of an audit.
        sys.exit(141)
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
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        return f"the output could not be written ({error.strerror})"
    from mdsd_bounds.problem import InputError

    return str(error) if isinstance(error, InputError) else None
