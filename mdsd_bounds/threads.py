"""Rows shared among threads, for compiled loops that release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(first, last)`` on stretches of rows, on as many threads as torch uses (``OMP_NUM_THREADS``).

    Two stretches for each thread, so that one slow row does not keep all others waiting; results must not depend on
    how rows are cut.  An exception in one of them is raised here.
    """
    workers = min(torch.get_num_threads(), rows)
    if workers <= 1:
        work(0, rows)
        return
    size = -(-rows // (2 * workers))
    with ThreadPoolExecutor(workers) as pool:
        parts = [pool.submit(work, first, min(first + size, rows)) for first in range(0, rows, size)]
        for part in parts:
            part.result()
