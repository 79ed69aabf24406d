"""What compiled loops share: options of their steps, and the length of a strip."""

from __future__ import annotations

from typing import Any

#: Entries of a strip: what a step works on at a time, so that it stays in the first cache.
STRIP = 2048

#: Sums may be reordered (that is what lets them run in vector registers); NaN and infinity keep their meaning.
SUMS = {"reassoc", "contract", "nsz"}
#: Options of compiled steps that only compiled code calls (no wrapper for Python, which takes a while to compile).
STEP: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
