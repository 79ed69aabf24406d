"""Compiled inner loops for wide rows.  Each has a torch version beside its caller, which tests compare it with.

Imported only when a wide row is met (:func:`load`): numba takes half a second to import and to read its cache.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from mdsd_bounds._backend.threads import in_threads

#: Rows narrower than this stay with torch.
WIDE = 8192


@functools.cache
def load() -> ModuleType | None:
    """The compiled loops, or None where numba is not installed."""
    try:
        return importlib.import_module("mdsd_bounds.verifiers.kernels.single_row")
    except ImportError:
        return None


def compiled_for(p: Tensor) -> ModuleType | None:
    """The compiled loops if they fit rows like ``p`` (wide, on the CPU, float64), else None."""
    if p.shape[-1] < WIDE or p.device.type != "cpu" or p.dtype.itemsize != 8:
        return None
    return load()


def compiled_step(
    kernel: str, p: Tensor, q: Tensor, drafts: Tensor, generator: torch.Generator | None, *settings: object
) -> Tensor | None:
    """Output tokens ``[B]`` by a kernel of :mod:`mdsd_bounds.verifiers.kernels.batch_steps`.

    None where it does not fit: rows that are narrow, not float64, not on the CPU or not contiguous, or numba missing.
    """
    fits = p.is_contiguous() and q.is_contiguous() and q.dtype == p.dtype and q.shape == p.shape
    if not fits or compiled_for(p) is None:
        return None
    steps = importlib.import_module("mdsd_bounds.verifiers.kernels.batch_steps")
    uniform = torch.rand((drafts.shape[0], drafts.shape[1] + 2), dtype=torch.float64, generator=generator)
    token = torch.empty(drafts.shape[0], dtype=torch.int64)
    given, random = (p.numpy(), q.numpy(), drafts.contiguous().numpy()), (uniform.numpy(), token.numpy())
    step = getattr(steps, kernel)

    def work(first: int, last: int) -> None:
        step(*(x[first:last] for x in given), *settings, *(x[first:last] for x in random))

    in_threads(work, len(drafts), stretches=2)
    return token
