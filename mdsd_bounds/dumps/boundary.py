"""The one place where what a foreign file makes a library raise becomes one line.

Every reader is opened, and its rows are read, inside :func:`reading`.  The error names the file, the place in it, the
format and the underlying message, and keeps the original exception as its cause, so that a mistake of ours can still be
told from a damaged file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.problem import InputError

#: Characters of an underlying message that are repeated.
_LONGEST = 160
#: No file causes these: they pass as they are.
_OURS = (NameError, ImportError)


@dataclass
class Place:
    """Where in the file a reader is; loops keep ``at`` up to date ("line 7", "row 3") for the message."""

    at: str = ""


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], what: str, remedy: str = "write the file again") -> Iterator[Place]:
    """Whatever a library raises in this block becomes one :class:`InputError`.

    Parameters
    ----------
    path : path
        The file, as the user gave it.
    what : str
        The format, for the message.
    remedy : str
        What to do about it.

    Yields
    ------
    Place
        Set its ``at`` while going through the file.

    Raises
    ------
    InputError
        For every exception of the block, with the exception as its cause; an InputError passes, made printable.

    Examples
    --------
    >>> with reading("x.json", "JSON log") as place:
    ...     place.at = "line 3"
    ...     {}["token"]
    Traceback (most recent call last):
    mdsd_bounds.problem.InputError: x.json line 3: 'token' is missing (read as JSON log); write the file again
    """
    place = Place()
    try:
        yield place
    except InputError as error:
        # Names from inside a file (arrays, members, columns) may hold line breaks and escape sequences.
        if str(error).isprintable():
            raise
        raise InputError(printable(str(error))) from error
    except _OURS:
        raise
    except Exception as error:
        where = f"{os.fspath(path)} {place.at}".rstrip()
        raise InputError(f"{where}: {reason(error)} (read as {what}); {remedy}") from error


def reason(error: BaseException) -> str:
    """An exception as part of one line: short, and without line breaks or control characters."""
    if isinstance(error, KeyError) and error.args:
        text = f"{error.args[0]!r} is missing"
    elif isinstance(error, json.JSONDecodeError):
        text = f"no JSON ({error.msg}, character {error.pos})"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    elif isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, TypeError | AttributeError | AssertionError | LookupError):
            # Their messages speak of Python's types; with the name it is clear that they do.
            text = f"{type(error).__name__}: {text}"
    text = printable(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
