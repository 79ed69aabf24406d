"""Borrowed arrays: the same numbers, no count of references, nothing freed early and nothing kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.core.runtime import _nrt_python, rtsys

from mdsd_bounds._backend.borrowed import borrowed


class Inner(NamedTuple):
    a: np.ndarray
    factor: float


class Outer(NamedTuple):
    inner: Inner
    b: np.ndarray


@njit
def lent(record, size):  # type: ignore[no-untyped-def]
    """Writes to arrays of the caller and of its own through borrowed records; returns its own."""
    owned = np.zeros(size), np.ones((2, size))
    (total, rows), record = borrowed(owned), borrowed(record)
    for _ in range(3):
        row = rows[1]
        for i in range(size):
            total[i] += record.inner.factor * record.inner.a[i] + record.b[i] + row[i]
            record.b[i] += 1
    return owned[0]


def test_the_numbers_are_those_of_the_arrays_and_every_array_is_freed_once() -> None:
    size = 1000
    record = Outer(Inner(np.arange(size, dtype=float), 2.0), np.zeros(size, dtype=np.int64))
    before = lent(record, size)
    np.testing.assert_array_equal(before, 3 * (2.0 * np.arange(size) + 1.0) + 3.0)
    np.testing.assert_array_equal(record.b, 3)
    _nrt_python.memsys_enable_stats()  # type: ignore[no-untyped-call]
    try:
        stats = rtsys.get_allocation_stats()  # type: ignore[no-untyped-call]
        for _ in range(50):
            lent(record, size)
        after = rtsys.get_allocation_stats()  # type: ignore[no-untyped-call]
    finally:
        _nrt_python.memsys_disable_stats()  # type: ignore[no-untyped-call]
    assert after.mi_alloc - stats.mi_alloc == after.mi_free - stats.mi_free >= 100
    np.testing.assert_array_equal(before, 3 * (2.0 * np.arange(size) + 1.0) + 3.0)
