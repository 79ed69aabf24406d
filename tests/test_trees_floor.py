"""Trees whose draft leaves almost nothing for the draws after the first: whole sequences, down to subnormal numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from toy_models import emitted_distribution, sequence_distribution, worst_difference

from mdsd_bounds.trees.base import Path
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.enumerate import tree_distribution
from mdsd_bounds.trees.verify import stops

ROWS = [
    (lambda e: [e, 1.0], [0.7, 0.3]),
    (lambda e: [e, e / 2, 1.0], [0.3, 0.3, 0.4]),
    (lambda e: [0.3, e, 0.7], [0.2, 0.5, 0.3]),
    (lambda e: [1.0, 1e-150, e], [0.1, 0.3, 0.6]),
]


def everywhere(row: list[float]) -> Callable[[Sequence[Path]], Tensor]:
    probs = torch.tensor(row, dtype=torch.float64)
    return lambda paths: (probs / probs.sum()).expand(len(paths), -1)


@pytest.mark.parametrize("branching", [(2,), (3, 1), (2, 2)])
@pytest.mark.parametrize(("draft", "target"), ROWS)
@pytest.mark.parametrize("rest", [1e-241, 1e-299, 1e-304, 1e-309, 1e-320])
def test_the_sweep_is_lossless_where_the_rest_of_the_draft_is_near_the_least_number(
    rest: float, draft: Callable[[float], list[float]], target: list[float], branching: tuple[int, ...]
) -> None:
    p, q = everywhere(target), everywhere(draft(rest))
    trees = tree_distribution(lambda m, d: rsd_c(m, d, branching), q)
    found = emitted_distribution(trees, p, lambda tree, rows: stops(tree, rows, "sweep"), 3)
    assert worst_difference(found, sequence_distribution(p, 3)) < 1e-12
