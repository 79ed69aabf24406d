"""The command line ``mdsd``: reads options, calls the library, prints.  No mathematics.

One command per file, and one line in :data:`mdsd_bounds.cli.commands.COMMANDS`.  stdout is data; progress and notes go
to stderr.  :func:`main` is the one boundary: whatever ends a command becomes an exit code and at most one line
(:mod:`mdsd_bounds.cli.exits`).  Heavy modules are imported inside the commands, so that ``mdsd --help`` answers at
once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import traceback
from typing import Any

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.exits import INPUT, PIPE, UNEXPECTED, ending_of
from mdsd_bounds.cli.terminal import guarded_streams


def __getattr__(name: str) -> Any:
    # Loaded late, so that what fails while commands are imported also meets the boundary.
    if name in ("app", "COMMANDS"):
        from mdsd_bounds.cli import commands

        return getattr(commands, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def entry() -> None:
    """The process ``mdsd``: :func:`main`, then an end that leaves out the destructors of C++ libraries.

    Arrow may be starting a thread just then, and the process would abort after its work is done.  Registered first, the
    last act runs after all other exit handlers.
    """
    status = [UNEXPECTED]
    atexit.register(_leave, status)
    closed = _open_closed_streams()
    try:
        if closed:
            print("mdsd: stdout is closed: the result has nowhere to go; redirect it to a file", file=sys.stderr)
            sys.exit(INPUT)
        try:
            os.getcwd()
        except OSError:
            # MKL ends the process with words of its own where it finds no working folder.
            print("mdsd: the working folder does not exist any more; change into another one", file=sys.stderr)
            sys.exit(INPUT)
        main()
    except SystemExit as stop:
        status[0] = stop.code if isinstance(stop.code, int) else UNEXPECTED
        raise


def _open_closed_streams() -> bool:
    """Give closed standard streams a place, so that no file opened later takes theirs; whether stdout was closed."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            closed.append(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    return 1 in closed or sys.stdout is None


def _leave(status: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status[0])


def main() -> None:
    """One command, and its end as :mod:`mdsd_bounds.cli.exits` says; ``--debug`` anywhere adds the traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with guarded_streams():
        try:
            code = _command(arguments or ["--help"])
            sys.stdout.flush()
        except BaseException as error:
            code, line = ending_of(error)
            with contextlib.suppress(OSError):
                if code != PIPE and len(arguments) < len(sys.argv) - 1:
                    traceback.print_exception(error)
                if line:
                    print("mdsd: " + printable(" ".join(line.split())), file=sys.stderr)
    sys.exit(code)


def _command(arguments: list[str]) -> int:
    """Run one command; its verdict, 0 where it has none.

    The framework's own ``main`` would turn a broken pipe, an unexpected end of a file and an interruption into ends of
    its own, in which they can no longer be told apart.
    """
    import typer

    from mdsd_bounds.cli.commands import app

    completion = arguments[0] in ("--show-completion", "--install-completion")
    if completion and len(arguments) > 1:
        # The shell is named: typer takes a name only where it does not look for the shell that called it.
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    command = typer.main.get_command(app)
    if completion or "_MDSD_COMPLETE" in os.environ:
        # A shell asks what may follow, or for the script that asks; the framework answers and ends the process.
        try:
            command.main(arguments, prog_name="mdsd")
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
    try:
        with command.make_context("mdsd", list(arguments)) as context:
            code = command.invoke(context)
    except BaseException as error:
        # --help ends in this way.
        if type(error).__name__ == "Exit" and isinstance(getattr(error, "exit_code", None), int):
            return int(error.exit_code)  # type: ignore[attr-defined]
        raise
    return code if isinstance(code, int) else 0
