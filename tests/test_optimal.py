"""The optimal rule with replacement, greedy and top_k: attained, certified, lossless; broken rules that must fail."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from harness import losslessness_defect, row
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import CATALOGUE, FAMILY, Known, pairs
from scipy import stats
from torch import Tensor

from mdsd_bounds import InputError, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.samplers.base import fixed_mask
from mdsd_bounds.verifiers import Verifier, optimal
from mdsd_bounds.verifiers.enumeration import draft_tuples
from mdsd_bounds.verifiers.optimal import prepare
from mdsd_bounds.verifiers.optimal import with_replacement as keys
from mdsd_bounds.verifiers.optimal.deterministic import fixed_tokens
from mdsd_bounds.verifiers.optimal.majorant import majorant
from mdsd_bounds.verifiers.optimal.prepared import Prepared
from mdsd_bounds.verifiers.optimal.swaps import Swaps, solve_swaps

SHIPPED = "data/qwen2.5-coder-humaneval"
kernel = pytest.importorskip("mdsd_bounds.verifiers.optimal.swaps_kernel")

ROUTES = {
    "numpy": lambda p, q, n: solve_swaps(p, q, n),
    "compiled": lambda p, q, n: keys.compiled_swaps(p, q, n, kernel)[0],
}


def law(weights: Any) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)


def wide(weights: Callable[[torch.Generator], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p, q = weights(generator)
    return p.double() / p.double().sum(), q.double() / q.double().sum()


def _uniform(g: torch.Generator, size: int = 9000) -> Tensor:
    return torch.rand(size, generator=g, dtype=torch.float64)


def _peak(size: int, place: int, rest: float) -> Tensor:
    law = torch.full((size,), rest, dtype=torch.float64)
    law[place] = 1.0
    return law


#: Rows of 9,000 tokens, wide enough for the compiled loops.
ADVERSARIAL: dict[str, Callable[[torch.Generator], tuple[Tensor, Tensor]]] = {
    "three ratios": lambda g: (torch.randint(1, 4, (9000,), generator=g), torch.ones(9000)),
    "all ratios equal": lambda g: ((u := _uniform(g)), 3 * u),
    "equal laws": lambda g: ((u := _uniform(g)), u.clone()),
    "ratios a rounding apart": lambda g: ((u := _uniform(g)) * (1 + 3e-16 * _uniform(g).round()), u),
    "ratios 1e-9 apart": lambda g: ((u := _uniform(g)) * (1 + 1e-9 * _uniform(g)), u),
    "zeros in both": lambda g: (_uniform(g) * (_uniform(g) > 0.5), _uniform(g) * (_uniform(g) > 0.5)),
    "disjoint": lambda g: (_uniform(g) * (torch.arange(9000) < 50), _uniform(g) * (torch.arange(9000) >= 50)),
    "one-hot q": lambda g: (_uniform(g), _peak(9000, 7, 0.0)),
    "one-hot p": lambda g: (_peak(9000, 7, 0.0), _uniform(g)),
    "both one-hot, equal": lambda g: (_peak(9000, 7, 0.0), _peak(9000, 7, 0.0)),
    "q near 1e-15": lambda g: (_uniform(g), _peak(9000, 7, 1e-15)),
    "p near 1e-15": lambda g: (_peak(9000, 7, 1e-15), _uniform(g)),
    "two tokens in q": lambda g: (_uniform(g), 1.0 * (torch.arange(9000) < 2)),
    "subnormal q": lambda g: (_uniform(g), _peak(9000, 7, 5e-324)),
    "subnormal p": lambda g: (_peak(9000, 7, 5e-324), _uniform(g)),
    "both subnormal": lambda g: (_peak(9000, 7, 5e-324), _peak(9000, 8, 1e-310)),
    "twelve decades": lambda g: ((30 * _uniform(g)).exp(), (30 * _uniform(g)).exp()),
    "nearly equal": lambda g: ((u := _uniform(g)) * (1 + 0.01 * _uniform(g)), u),
}


def close_pair(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Laws near each other, as those of two models of one family: there is much to exchange."""
    q = row(size, seed, 2.5)
    return torch.softmax(q.log() + 0.4 * row(size, seed + 1, 1.0).log(), -1), q


def attained(swaps: Swaps, p: Tensor) -> float:
    return float(np.minimum(p.numpy()[swaps.order], swaps.r).sum())


def check_kernel(swaps: Swaps) -> None:
    """The exchanges are a valid rule: no token gives away more than it has, and r is what they make of r0."""
    moves = keys.slot_law(swaps)
    assert float(abs(moves.sum(1) - 1.0).max()) <= 1e-12
    assert float(moves.data.min(initial=0.0)) >= 0.0
    # Every slot keeps its mass, so that the highest slot has the law of plain priority.
    assert float(abs(moves.T @ swaps.q - swaps.q).max()) <= 1e-15


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60, deadline=None)
@given(pair=pairs(largest=7), n=st.integers(1, 9))
def test_with_replacement_attains_the_bound(route: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0], pair[1][0]
    swaps = ROUTES[route](p.numpy(), q.numpy(), n)
    best = optimal_acceptance(p, q, n, "with_replacement", method="prefix")
    assert attained(swaps, p) == pytest.approx(float(best.value), abs=1e-13)
    assert min(1.0, swaps.bound) == pytest.approx(float(best.value), abs=1e-13)
    check_kernel(swaps)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_wide_rows(name: str) -> None:
    p, q = wide(ADVERSARIAL[name])
    best = optimal_acceptance(p, q, (2, 5, 8), "with_replacement", method="prefix")
    for i, n in enumerate((2, 5, 8)):
        with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
            warnings.simplefilter("error")
            prepared = prepare(p, q, n, "with_replacement")
            plain = attained(solve_swaps(p.numpy(), q.numpy(), n), p)
        assert abs(prepared.acceptance - float(best.value[i])) <= 1e-11
        assert abs(plain - float(best.value[i])) <= 1e-10
        assert 0.0 <= prepared.gap <= 1e-10
        assert prepared.acceptance + prepared.gap >= float(best.low[i])
        assert float(prepared.r.sum()) == pytest.approx(1.0, abs=1e-12)
        assert float(prepared.r[q == 0].sum()) == 0.0
        token = prepared.step(keys_drafts(q, n, 50), torch.Generator().manual_seed(1))
        assert bool((p[token] > 0).all())


def keys_drafts(q: Tensor, n: int, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.multinomial(q, rows * n, replacement=True, generator=generator).reshape(rows, n)


def test_real_rows_full_vocabulary() -> None:
    dump = open_dump(SHIPPED)
    (batch,) = dump.batches(len(dump))
    p, q = to_probs(batch.target_logits[:4]), to_probs(batch.draft_logits[:4])
    best = optimal_acceptance(p, q, (2, 8), "with_replacement", method="prefix")
    for i, n in enumerate((2, 8)):
        for b in range(len(p)):
            prepared = prepare(p[b], q[b], n, "with_replacement")
            assert abs(prepared.acceptance - float(best.value[i, b])) <= 1e-12
            assert prepared.gap <= 1e-11


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_r_is_the_law_of_the_pick(route: str, n: int) -> None:
    for seed in range(6):
        p, q = row(5, seed), row(5, seed + 40)
        q = torch.where(torch.arange(5) == seed, 0.0, q)
        q = q / q.sum()
        swaps = ROUTES[route](p.numpy(), q.numpy(), n)
        rank = np.full(5, -1)
        rank[swaps.order] = np.arange(len(swaps.order))
        tuples, mass = draft_tuples(q[None], n, 5, sampler="with_replacement")
        chance = torch.from_numpy(keys.slot_pick_law(swaps, rank[tuples.numpy()]))
        picked = torch.bincount(tuples.reshape(-1), (mass[:, None] * chance).reshape(-1), 5)
        assert float(chance.sum(-1).sub(1).abs().max()) <= 1e-14
        assert float((picked[swaps.order.astype(np.int64)] - torch.from_numpy(swaps.r)).abs().max()) <= 1e-14


@pytest.mark.parametrize("route", ROUTES)
def test_r_is_the_law_of_the_pick_with_many_exchanges(route: str) -> None:
    size = 120
    p, q = close_pair(size, 3)
    p = torch.where(torch.arange(size) % 7 == 0, q, p)
    p = p / p.sum()
    swaps = ROUTES[route](p.numpy(), q.numpy(), 2)
    assert len(swaps.low) > 40
    slots = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)
    chance = keys.slot_pick_law(swaps, slots) * swaps.q[slots].prod(-1, keepdims=True)
    picked = np.bincount(slots.reshape(-1), chance.reshape(-1), size)
    np.testing.assert_allclose(picked, swaps.r, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(pair=pairs(largest=6), n=st.integers(1, 8))
def test_compiled_order_and_pairs_equal_numpy(pair: tuple[Tensor, Tensor], n: int) -> None:
    p, q = pair[0][0].numpy(), pair[1][0].numpy()
    one, two = solve_swaps(p, q, n), ROUTES["compiled"](p, q, n)
    ratio = p[one.order] / q[one.order], p[two.order] / q[two.order]
    np.testing.assert_allclose(*ratio, rtol=1e-12)
    assert one.bound == pytest.approx(two.bound, abs=1e-14)
    if np.array_equal(one.order, two.order) and one.held == two.held:
        np.testing.assert_allclose(one.r, two.r, atol=1e-14)


def test_radix_order_is_the_sorted_order() -> None:
    for name, make in ADVERSARIAL.items():
        p, q = (x.numpy() for x in wide(make))
        order = ROUTES["compiled"](p, q, 2).order
        assert sorted(order.tolist()) == np.flatnonzero(q > 0).tolist(), name
        with np.errstate(over="ignore", under="ignore"):
            ratio = p[order] / q[order]
        highest = np.maximum.accumulate(ratio)
        assert bool((ratio >= highest * (1 - 1e-12)).all()), name


@pytest.mark.parametrize("choose", [keys.pick_slots, kernel.pick], ids=["numpy", "compiled"])
def test_picks_follow_the_pick_law(choose: Callable[..., np.ndarray]) -> None:
    p, q = close_pair(12, 6)
    swaps = solve_swaps(p.numpy(), q.numpy(), 4)
    assert len(swaps.low) > 3
    rank = np.argsort(swaps.order).astype(np.int32)
    generator = np.random.default_rng(3)
    tables = (swaps.q, swaps.first, swaps.end, swaps.low, swaps.high, swaps.low_sum, swaps.high_sum)
    for drafts in ([0, 1, 2, 3], [4, 4, 5, 4], [7, 8, 9, 10], [int(swaps.order[-1])] * 4):
        chance = keys.slot_pick_law(swaps, rank[np.array([drafts])])[0]
        many = np.tile(np.array(drafts, dtype=np.int64), (40_000, 1))
        chosen = choose(many, generator.random((len(many), 8)), rank, *tables)
        counts = np.bincount(chosen, minlength=4)
        kept = chance > 1e-3
        assert counts[~kept].sum() <= 5 * 40_000 * 4e-3
        expected = chance[kept] / chance[kept].sum() * counts[kept].sum()
        assert kept.sum() == 1 or stats.chisquare(counts[kept], expected).pvalue > 1e-5


def test_wide_rows_step_as_the_law_says() -> None:
    # Compiled pick and step at full width against the exact output law, one fixed tuple of drafts.
    p, q = close_pair(9000, 6)
    # A token that the draft hardly gives: a fifth of the positions are rejected.
    p = 0.8 * p + 0.2 * torch.nn.functional.one_hot(q.argmin(), 9000)
    prepared = prepare(p, q, 3, "with_replacement")
    drafts = (prepared.r - p).topk(3).indices[None]
    given = prepared.output_law(drafts)[0]
    assert float(given[drafts[0]].sum()) < 0.95
    assert float(given.sum()) == pytest.approx(1.0, abs=1e-12)
    tokens = prepared.step(drafts.expand(20_000, -1).contiguous(), torch.Generator().manual_seed(5))
    heavy = given.topk(6).indices
    counts = torch.bincount(tokens, minlength=len(p))[heavy].double()
    cells = torch.cat([counts, 20_000 - counts.sum().reshape(1)])
    expected = 20_000 * torch.cat([given[heavy], 1 - given[heavy].sum().reshape(1)])
    held = expected > 5
    expected = expected[held] * (cells[held].sum() / expected[held].sum())
    assert stats.chisquare(cells[held].numpy(), expected.numpy()).pvalue > 1e-5


@pytest.mark.parametrize("known", [k for k in CATALOGUE if k.sampler in ("with_replacement", "greedy", "top_k")])
def test_catalogue(known: Known) -> None:
    p, q = law(known.p), law(known.q)
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
    assert sorted(fixed_tokens(q[0], m).tolist()) == fixed_mask(q, m)[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("sampler", FAMILY)
@settings(max_examples=15, deadline=None)
@given(pair=pairs(largest=5), n=st.integers(1, 4))
def test_majorant_law_is_attainable_and_optimal(sampler: str, pair: tuple[Tensor, Tensor], n: int) -> None:
    # r*(H) >= Q(H) on all subsets is what makes a law the law of some selection rule.
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


def test_rows_that_are_no_laws_are_refused() -> None:
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


# --- rules that must fail ---------------------------------------------------------------------------------------------


def broken(change: Callable[[Prepared, Swaps, Tensor, Tensor], Prepared]) -> Verifier:
    """The rule with replacement after ``change``, as a verifier."""

    def output_law(p: Tensor, q: Tensor, drafts: Tensor, **_: Any) -> Tensor:
        swaps = solve_swaps(p[0].numpy(), q[0].numpy(), drafts.shape[1])
        prepared = prepare(p[0], q[0], drafts.shape[1], "with_replacement")
        return change(prepared, swaps, p[0], q[0]).output_law(drafts)

    return Verifier("broken", "none", True, ("with_replacement",), output_law)


def picking(prepared: Prepared, swaps: Swaps) -> Prepared:
    return dataclasses.replace(prepared, rule=keys.ExchangeRule(swaps, np.argsort(swaps.order)))


def half_the_mass_is_swapped(prepared: Prepared, swaps: Swaps, p: Tensor, q: Tensor) -> Prepared:
    return picking(prepared, dataclasses.replace(swaps, low_sum=swaps.low_sum / 2, high_sum=swaps.high_sum / 2))


def swapped_one_way_only(prepared: Prepared, swaps: Swaps, p: Tensor, q: Tensor) -> Prepared:
    return picking(prepared, dataclasses.replace(swaps, low_sum=0 * swaps.low_sum))


def claims_the_target_law(prepared: Prepared, swaps: Swaps, p: Tensor, q: Tensor) -> Prepared:
    # r* of the majorant has the acceptance wanted, but plain priority does not pick by it.
    plain = dataclasses.replace(swaps, low_sum=0 * swaps.low_sum, high_sum=0 * swaps.high_sum)
    return dataclasses.replace(picking(prepared, plain), r=torch.from_numpy(majorant(p, q, 2, "with_replacement").r))


def claims_plain_priority(prepared: Prepared, swaps: Swaps, p: Tensor, q: Tensor) -> Prepared:
    edge = torch.from_numpy(swaps.q).cumsum(0) ** 2
    r = torch.empty_like(p)
    r[torch.from_numpy(swaps.order.astype(np.int64))] = torch.diff(edge, prepend=edge.new_zeros(1))
    return dataclasses.replace(prepared, r=r)


def ties_go_to_the_first(prepared: Prepared, swaps: Swaps, p: Tensor, q: Tensor) -> Prepared:
    # Not broken: the drafts are exchangeable, so that any way to break ties has the same marginals.
    class FirstOfTies(keys.ExchangeRule):
        def pick_law(self, drafts: Tensor) -> Tensor:
            moves = keys.slot_law(self.swaps).toarray()[self.rank[drafts.numpy()]]
            below = np.cumsum(moves, -1) - moves
            first = (moves[:, 0] * (below[:, 1] + moves[:, 1])).sum(-1)
            return torch.from_numpy(np.stack([first, 1 - first], -1))

    return dataclasses.replace(prepared, rule=FirstOfTies(swaps, np.argsort(swaps.order)))


BROKEN = [half_the_mass_is_swapped, swapped_one_way_only, claims_the_target_law, claims_plain_priority]


def swapping_pair() -> tuple[Tensor, Tensor]:
    return law([0.05, 0.3, 0.25, 0.4]), law([0.3, 0.3, 0.2, 0.2])


@pytest.mark.parametrize("change", BROKEN, ids=[change.__name__ for change in BROKEN])
def test_broken_rules_are_not_lossless(change: Any) -> None:
    p, q = swapping_pair()
    assert len(solve_swaps(p.numpy(), q.numpy(), 2).low) > 0
    assert losslessness_defect(optimal.VERIFIER, p, q, 2, "with_replacement") <= 1e-15
    assert losslessness_defect(broken(change), p, q, 2, "with_replacement") > 1e-3


def test_any_way_to_break_ties_is_lossless() -> None:
    p, q = swapping_pair()
    assert losslessness_defect(broken(ties_go_to_the_first), p, q, 2, "with_replacement") <= 1e-15


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
    curve, laws, slots = figure.axes
    assert "the" in [label.get_text() for label in laws.get_yticklabels()]
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
