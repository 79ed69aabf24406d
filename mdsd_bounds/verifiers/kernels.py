"""Compiled inner loops for wide rows.  Each has a torch version beside its caller, which tests compare it with.

Imported only when a wide row is met (:func:`load`): numba takes half a second to import and to read its cache.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from torch import Tensor

#: Rows narrower than this stay with torch.
WIDE = 8192


@functools.cache
def load() -> ModuleType | None:
    """The compiled loops, or None where numba is not installed."""
    try:
        return importlib.import_module("mdsd_bounds.verifiers.compiled")
    except ImportError:
        return None


def compiled_for(p: Tensor) -> ModuleType | None:
    """The compiled loops if they fit rows like ``p`` (wide, on the CPU, float64), else None."""
    if p.shape[-1] < WIDE or p.device.type != "cpu" or p.dtype.itemsize != 8:
        return None
    return load()
