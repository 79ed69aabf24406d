"""The optimal rule: worked examples, greedy and top_k, the concave majorant, the figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import row
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CATALOGUE, FAMILY, Known, pairs
from torch import Tensor

from mdsd_bounds import InputError, optimal_acceptance
from mdsd_bounds.samplers.base import fixed_mask
from mdsd_bounds.verifiers.optimal import prepare
from mdsd_bounds.verifiers.optimal.fixed_kernel import fixed_and_rest
from mdsd_bounds.verifiers.optimal.majorant import majorant


def probs(weights: Any) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def close_pair(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Distributions near each other, as those of two models of one family: there is much to exchange."""
    q = row(size, seed, 2.5)
    return torch.softmax(q.log() + 0.4 * row(size, seed + 1, 1.0).log(), -1), q


@pytest.mark.parametrize("known", [k for k in CATALOGUE if k.sampler in ("with_replacement", "greedy", "top_k")])
def test_catalogue(known: Known) -> None:
    p, q = probs(known.p), probs(known.q)
    prepared = prepare(p, q, known.n, known.sampler)
    assert prepared.acceptance == pytest.approx(known.alpha, abs=1e-14)
    assert 0.0 <= prepared.gap <= 1e-12


@pytest.mark.parametrize("sampler", ["greedy", "top_k"])
@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(1, 7))
def test_fixed_drafts_attain_the_bound(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0], pair[1][0]
    prepared = prepare(p, q, n, sampler)
    best = optimal_acceptance(p, q, n, sampler, method="prefix")
    assert prepared.acceptance == pytest.approx(float(best.value), abs=1e-13)
    assert 0.0 <= prepared.gap <= 1e-12
    assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(pair=pairs(largest=7), m=st.integers(0, 8))
def test_fixed_tokens_are_those_of_the_samplers(pair: tuple[Tensor, Tensor], m: int) -> None:
    q = pair[1]
    assert sorted(fixed_and_rest(q[0].numpy(), m)[0].tolist()) == fixed_mask(q, m)[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=15, deadline=None)
@given(pair=pairs(largest=5), n=st.integers(1, 4))
def test_majorant_distribution_is_attainable_and_optimal(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    # r*(H) >= Q(H) on all subsets is what makes a distribution the distribution of some selection rule.
    from mdsd_bounds import draft_mass

    p, q = pair[0][0], pair[1][0]
    found = majorant(p, q, n, sampler)
    size = len(p)
    subsets = torch.tensor([[bool(k >> i & 1) for i in range(size)] for k in range(2**size)])
    mass = draft_mass(q.expand(len(subsets), -1), subsets, n, sampler)
    r = torch.from_numpy(found.r)
    assert float(r.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float((mass - subsets.double() @ r).max()) <= 1e-9
    best = optimal_acceptance(p, q, n, sampler, method="prefix")
    assert float(torch.minimum(p, r).sum()) == pytest.approx(float(best.value), abs=1e-9)


def test_unknown_sampler_is_refused() -> None:
    with pytest.raises(InputError, match="no rule for the sampler 'joint'"):
        prepare(row(3, 0), row(3, 1), 2, "joint")


def test_rows_that_are_no_distributions_are_refused() -> None:
    p, q = row(3, 0), row(3, 1)
    for bad, match in (
        ((p.float(), q, 2), "p: dtype torch.float32"),
        ((p, 2 * q, 2), "q: dtype torch.float64, sum 2"),
        ((p, torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64), 2), "least entry -0.5"),
        ((p, q[:2], 2), "give one row"),
        ((p, q, 0), "at least 1"),
    ):
        with pytest.raises(InputError, match=match):
            prepare(*bad, "with_replacement")


# --- the figure -------------------------------------------------------------------------------------------------------


def test_the_figure_shows_the_slots_that_run() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_hex

    from mdsd_bounds.plots.majorant import majorant_figure
    from mdsd_bounds.plots.style import COLOURS

    p, q = close_pair(40, 2)
    figure = majorant_figure(p, q, 4, names={int(q.argmax()): "the"})
    curve, distributions, slots = figure.axes
    assert "the" in [label.get_text() for label in distributions.get_yticklabels()]
    assert curve.get_xlim()[1] >= 1.0
    area = dict.fromkeys(COLOURS, 0.0)
    for found in slots.collections:
        assert isinstance(found, PatchCollection)
        colour = to_hex(found.get_facecolor()[0]).upper()
        for path in found.get_paths():
            area[colour] += float(np.prod(path.get_extents().size))
    heavy = torch.maximum(p, q).topk(8).indices
    assert sorted(area.values()) == pytest.approx(sorted(q[heavy].tolist()), abs=1e-5)
    plt.close(figure)
    with pytest.raises(InputError, match="at most 8"):
        majorant_figure(p, q, 4, tokens=9)
