"""Threads: rows shared among them, for compiled loops that release the interpreter's lock; BLAS kept to one."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def in_threads(work: Callable[[int, int], None], rows: int, stretches: int = 8) -> None:
    """Call ``work(first, last)`` on stretches of rows, on as many threads as torch uses (``OMP_NUM_THREADS``).

    The calling thread is one of them.  Eight ``stretches`` for each thread, taken as they come, so that one slow row,
    or a core with other work, does not keep all others waiting; fewer where a row takes microseconds, as handing one
    out does.  Results must not depend on how rows are cut.  An exception in one of them is raised here.
    """
    workers = min(_workers or torch.get_num_threads(), rows)
    if workers <= 1:
        work(0, rows)
        return
    size = -(-rows // (stretches * workers))
    # ``next`` on an iterator of a range is one step of the interpreter: no stretch is taken twice.
    starts = iter(range(0, rows, size))

    def take() -> None:
        for first in starts:
            work(first, min(first + size, rows))

    helpers = [_pool(workers - 1).submit(take) for _ in range(workers - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            helper.result()


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: starting new ones costs as much as the work on a row."""
    return ThreadPoolExecutor(workers, thread_name_prefix="mdsd_bounds")


# Threads do not survive a fork; the child makes its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


_lock = threading.Lock()
_holders = 0
#: Threads of :func:`in_threads` while torch itself is held to one.
_workers = 0


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch on one thread; :func:`in_threads` keeps the number there was.

    Torch splits a long sum among its threads, and its last bits then depend on how many there are.
    """
    global _holders, _workers
    with _lock:
        if _holders == 0:
            _workers = torch.get_num_threads()
        _holders += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            torch.set_num_threads(_workers)
            if _holders == 0:
                _workers = 0


def one_blas_thread() -> AbstractContextManager[Any]:
    """BLAS on one thread, where products are so small that waking others for each takes longer than they do.

    Call it when the modules that use BLAS are imported: the libraries loaded at the first call are those that it knows.
    """
    manager: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return manager


@functools.cache
def _blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
