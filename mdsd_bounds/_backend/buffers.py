"""Large memory that is used again while a loop runs, instead of being given back to the system after every block.

The system clears what it hands out, page by page: for the rows of a block that takes longer than reading them or taking
their softmax.  Memory returns to the pool when the last tensor over it is gone, so nothing in use is ever written over.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: Smaller tensors gain nothing.
LEAST_BYTES = 1 << 20
#: No more than this is kept; what comes back beyond it goes to the system.
MOST_BYTES = 1 << 30
#: A multiple of the block of every usual disk.
PAGE = 4096

# Reentrant: the last reference to a tensor may go while this module holds the lock.
_lock = threading.RLock()
_loops = 0
_free: dict[int, list[np.ndarray]] = {}


@contextlib.contextmanager
def buffers_kept() -> Iterator[None]:
    """While any such loop runs, the memory of :func:`buffer` is kept for its next caller; then all is given back."""
    global _loops
    with _lock:
        _loops += 1
    try:
        yield
    finally:
        with _lock:
            _loops -= 1
            if not _loops:
                _free.clear()


def buffer(shape: Sequence[int], dtype: torch.dtype, offset: int = 0) -> Tensor:
    """``torch.empty`` on the CPU; within :func:`buffers_kept`, over used memory of the same size where some is free.

    Parameters
    ----------
    offset : int
        The tensor begins this far, modulo :data:`PAGE`, behind the start of a page, rounded down to whole items: where
        a file is read past the cache, what is read must begin at the same place of a page in the file and in memory.
        Tensors that are small or made outside :func:`buffers_kept` begin anywhere.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return torch.empty(tuple(shape), dtype=dtype)
    with _lock:
        if not _loops:
            return torch.empty(tuple(shape), dtype=dtype)
        held = _free.get(size)
        memory = held.pop() if held else _pages(size + PAGE)
    # Tensors of this view, and all that is cut from them, keep this very object alive; nothing else does.
    start = offset % PAGE
    view = memory[start - start % dtype.itemsize :][:size]
    weakref.finalize(view, _give_back, size, memory).atexit = False
    return torch.from_numpy(view).view(dtype).reshape(tuple(shape))


def _pages(size: int) -> np.ndarray:
    # numpy asks the system for huge pages; torch does not.  A disk fills them twice as fast as small ones.
    memory = np.empty(size + PAGE, np.uint8)
    return memory[-memory.ctypes.data % PAGE :][:size]


def _give_back(size: int, memory: np.ndarray) -> None:
    with _lock:
        kept = sum(length * len(held) for length, held in _free.items())
        if _loops and kept + size <= MOST_BYTES:
            _free.setdefault(size, []).append(memory)


def _after_fork() -> None:
    # Another thread may have held the lock, and the loops of the parent are not this process's.
    global _lock, _loops
    _lock, _loops = threading.RLock(), 0
    _free.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
