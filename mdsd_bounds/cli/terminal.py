"""What reaches the terminal: no control and no bidirectional character of foreign text, whoever prints it.

Names in dumps, logs and error messages are written by others.  While a command runs, both streams are wrapped, so that
nothing printed, by this program or by a library, can move the cursor, open a link, or turn text around; only the
progress bar, which draws with such characters, writes past it (:func:`raw_stderr`).  Where a line break would make one
line look like two, texts are given through :func:`mdsd_bounds._backend.printable.printable` as well.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from mdsd_bounds._backend.printable import printable


class Guarded:
    """A text stream that escapes what is no plain text; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.guarded = stream

    def write(self, text: str) -> int:
        """Write, with all but line breaks and tabulators escaped."""
        if not isinstance(text, str):
            # So that libraries which try what a stream takes find that it takes text.
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        self.guarded.write(printable(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Both streams wrapped while the block runs.

    A stream's encoding that lacks a character gets its escape, as a name must not end a command.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast(TextIO, Guarded(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw_stderr() -> TextIO:
    """The stream under the guard, for what draws: give it no foreign text that :func:`printable` has not seen."""
    return cast(TextIO, getattr(sys.stderr, "guarded", sys.stderr))
