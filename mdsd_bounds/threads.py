"""Threads: rows shared among them, for compiled loops that release the interpreter's lock; BLAS kept to one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def in_threads(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(first, last)`` on stretches of rows, on as many threads as torch uses (``OMP_NUM_THREADS``).

    The calling thread is one of them.  Two stretches for each thread, taken as they come, so that one slow row does not
    keep all others waiting; results must not depend on how rows are cut.  An exception in one of them is raised here.
    """
    workers = min(torch.get_num_threads(), rows)
    if workers <= 1:
        work(0, rows)
        return
    size = -(-rows // (8 * workers))
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
