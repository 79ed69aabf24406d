"""The level-synchronous form against the compiled tree: rows of mixed supports in one padded batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from orders_by_enumeration import KINDS, instance

from mdsd_bounds.problem import InputError
from mdsd_bounds.verifiers.optimal.level_synchronous import level_synchronous
from mdsd_bounds.verifiers.optimal.whole_support import whole_support

ROWS, WIDTH = 6, 18


def batch(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with n + 1 to ``WIDTH`` tokens, padded with zeros."""
    rng = np.random.default_rng(n)
    p, q = np.zeros((2, ROWS, WIDTH))
    for b in range(ROWS):
        size = int(rng.integers(n + 1, WIDTH + 1))
        p[b, :size], q[b, :size] = instance(kind, size, rng)
    p[q == 0] = 0.0
    enough = (q > 0).sum(1) > n
    return p[enough], q[enough]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 6])
def test_same_distribution_as_the_compiled_tree(kind: str, n: int) -> None:
    p, q = batch(kind, n)
    found = level_synchronous(torch.from_numpy(p), torch.from_numpy(q), n)
    assert found.r.sum(-1).numpy() == pytest.approx(1.0, abs=1e-13)
    assert bool((found.r.numpy()[q == 0] == 0.0).all())
    for b in range(len(p)):
        some = q[b] > 0
        tree = whole_support(p[b, some], q[b, some], np.zeros(0, bool), np.arange(some.sum(), dtype=np.int32), n)
        assert found.gap[b] <= 1e-9
        # Tokens of one ratio p/q may stand in any order, and r depends on it; the acceptance does not.
        assert np.minimum(p[b], found.r[b].numpy()).sum() == pytest.approx(
            np.minimum(p[b, some], tree.r).sum(), abs=1e-11
        )
        if kind not in {"ties", "zipf", "subnormal"}:
            assert np.abs(found.r[b].numpy()[some] - tree.r).max() <= 1e-12


def test_open_components_keep_their_order_when_rounds_run_out() -> None:
    p, q = batch("even", 3)
    found = level_synchronous(torch.from_numpy(p), torch.from_numpy(q), 3, most_rounds=2)
    assert found.r.sum(-1).numpy() == pytest.approx(1.0, abs=1e-13)
    assert float(found.gap.max()) > 1e-4


def test_inputs_that_have_no_tree() -> None:
    p = torch.full((2, 4), 0.25, dtype=torch.float64)
    with pytest.raises(InputError, match="row 1"):
        level_synchronous(p, torch.stack([p[0], torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64)]), 2)
    with pytest.raises(InputError, match="float64"):
        level_synchronous(p.float(), p.float(), 2)
