"""Steps that the compiled searches share, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from mdsd_bounds.bounds.search.ratio_cells import CELLS, count_below


@njit  # type: ignore[untyped-decorator]
def counted(cell, k):  # type: ignore[no-untyped-def]
    return count_below(cell, k)


@pytest.mark.parametrize("width", [0, 1, 3, 4, 7, 4 * (1 << 15) + 3, 300_001])
def test_tokens_in_cells_before_one(width: int) -> None:
    cell = np.random.default_rng(width).integers(0, CELLS, width).astype(np.uint16)
    cell[: width // 2 : 3] = CELLS - 1
    cell[width // 2 :: 3] = 0
    for k in (0, 1, 2, CELLS // 2, CELLS - 1, CELLS):
        assert counted(cell, k) == np.count_nonzero(cell < k)
    # Counts of a quarter of a word that are as large as they can be.
    assert counted(np.zeros(width, np.uint16), 1) == width
