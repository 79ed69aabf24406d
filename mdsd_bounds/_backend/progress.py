"""Progress: lines on stderr, and shares of a long calculation without a parameter in every function on the way.

Whoever waits gives a function of the share done (:func:`watching`); loops mark their stages (:func:`stage`), which
nest: stage 2 of 4 inside stage 0 of 10 is at share 0.05.  Nobody watching costs one look at a context variable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Receives lines of progress.
Report = Callable[[str], None]


def to_stderr(line: str) -> None:
    """The report that is used where none is given."""
    print(line, file=sys.stderr, flush=True)


_WATCH: ContextVar[Callable[[float], None] | None] = ContextVar("mdsd_progress", default=None)


@contextmanager
def watching(report: Callable[[float], None] | None) -> Iterator[None]:
    """``report`` is called with the share done, in [0, 1], while the block runs."""
    token = _WATCH.set(report)
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def stage(index: int, count: int) -> Iterator[None]:
    """The block is number ``index`` (from 0) of ``count`` stages of equal length."""
    outer = _WATCH.get()
    if outer is None:
        yield
        return
    token = _WATCH.set(lambda share: outer((index + share) / count))
    try:
        yield
    finally:
        _WATCH.reset(token)
    outer((index + 1) / count)
