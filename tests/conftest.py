"""The order of the files, and no model hub: two processes that start with the same kernels would both compile them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test needs a hub, and where there is no network every attempt to reach one waits and tries again.
os.environ["HF_HUB_OFFLINE"] = "1"

#: Files that compile most of bounds, optimal rule, diffusion and trees; each process takes every second one.
FIRST = ("test_fast", "test_optimal", "test_diffusion_verify", "test_trees_sweep")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of :data:`FIRST` first, all others as they stand."""
    items.sort(key=lambda item: FIRST.index(stem) if (stem := Path(item.path).stem) in FIRST else len(FIRST))
