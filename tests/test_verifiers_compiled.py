"""Compiled loops against their torch twins, on wide rows of every awkward kind; their steps against enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import FALSE_ALARM, chi_square, draft_rows, row
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS
from mdsd_bounds.verifiers import enumerate_verifier
from mdsd_bounds.verifiers.excess_function import (
    found_after_first,
    found_rates,
    rejection_taus,
    torch_found,
    torch_taus,
)
from mdsd_bounds.verifiers.kernels import dispatch as kernels
from mdsd_bounds.verifiers.kernels import single_row
from mdsd_bounds.verifiers.schemes import gumbel_list, k_seq

#: Wide enough for the compiled loops, and no multiple of their blocks.
WIDTH = kernels.WIDE + 77


def random_row(seed: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(scale * torch.randn(WIDTH, generator=generator, dtype=torch.float64), -1)


def adversarial() -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of wide distributions: flat, steep, peaked, equal, disjoint, one-hot, tied, and nearly equal."""
    flat, steep = random_row(0, 1.0), random_row(1, 4.0)
    peaked = 1e-12 * random_row(2, 1.0)
    peaked[5] = 1.0
    half = torch.zeros(WIDTH, dtype=torch.float64)
    half[: WIDTH // 2] = 2.0
    one = torch.zeros(WIDTH, dtype=torch.float64)
    one[WIDTH - 1] = 1.0
    even = torch.ones(WIDTH, dtype=torch.float64)
    skew = even.clone()
    skew[::3] = 4.0
    near = flat * (1.0 + 1e-9 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)).double())
    rows = {
        "flat": (flat, random_row(4, 1.0)),
        "steep": (steep, random_row(5, 4.0)),
        "peaked draft": (flat, peaked),
        "peaked target": (peaked, steep),
        "equal": (steep, steep),
        "disjoint": (half, 2.0 - half),
        "one-hot draft": (flat, one),
        "one-hot target": (one, flat),
        "two ratios": (even, skew),
        "two ratios, turned": (skew, even),
        "nearly equal": (near, flat),
    }
    return {name: (p / p.sum(), q / q.sum()) for name, (p, q) in rows.items()}


PAIRS = adversarial()


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    p, q = PAIRS[request.param]
    return p[None], q[None]


def test_numba_is_here() -> None:
    assert kernels.load() is not None
    assert kernels.compiled_for(PAIRS["flat"][0][None]) is not None
    assert kernels.compiled_for(PAIRS["flat"][0][None, :100]) is None
    assert kernels.compiled_for(PAIRS["flat"][0][None].float()) is None


def test_recursive_rejection(pair: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(rejection_taus(*pair, 8), torch_taus(*pair, 8), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-13)


def test_k_seq_roots(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    counts = (3, 1, 8, 2, 64)
    rho, left = k_seq.solve_all(p, q, counts)
    assert torch.allclose(left, k_seq.torch_roots(p, q, counts)[1], rtol=0, atol=1e-12)
    for n, root, value in zip(counts, rho[:, 0], left[:, 0], strict=True):
        assert 1.0 <= float(root) <= n
        assert float((p - root * q).clamp(min=0).sum()) == pytest.approx(float(value), abs=1e-13)
        assert float(value - (1 - (1 - value) / root).clamp(min=0) ** n) == pytest.approx(0.0, abs=1e-12)


def test_the_root_of_one_number_of_drafts(pair: tuple[Tensor, Tensor]) -> None:
    """``E`` at the root, and the rule's equation there, as for all numbers of drafts together."""
    p, q = pair
    above = (p > q)[0]
    for n in (1, 2, 3, 8, 64):
        root = single_row.k_seq_root(p[0, above].numpy(), q[0, above].numpy(), n)
        value = float((p - root * q).clamp(min=0).sum())
        assert 1.0 <= root <= n
        assert value == pytest.approx(float(k_seq.torch_roots(p, q, (n,))[1]), abs=1e-12)
        assert value - max(1 - (1 - value) / root, 0.0) ** n == pytest.approx(0.0, abs=1e-12)


def test_found_among_independent_draws(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    assert torch.allclose(found_rates(p, q, 8), torch_found(p, q, 8), rtol=1e-11, atol=1e-15)
    left = torch_found((p - q).clamp(min=0), q, 7)
    found = torch.minimum(p, q).sum() + torch.cat([torch.zeros_like(left[:1]), left])
    assert torch.allclose(found_after_first(p, q, 8), found, rtol=1e-11, atol=1e-15)
    # Rows narrower than the compiled loops are for.
    p, q = (x[:, :500] / x[:, :500].sum() for x in (random_row(6, 1.0)[None], random_row(7, 1.0)[None]))
    found = torch.minimum(p, q).sum() + torch_found((p - q).clamp(min=0), q, 3)
    assert torch.allclose(found_after_first(p, q, 4)[1:], found, rtol=1e-12)
    assert float(found_after_first(p, q, 1)) == pytest.approx(float(torch.minimum(p, q).sum()), abs=1e-15)


def test_rows_shared_among_threads_have_the_same_bytes() -> None:
    p, q = (torch.stack([pair[side] for pair in PAIRS.values()]) for side in range(2))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            rates = [rejection_taus(p, q, 4)[1], k_seq.solve_all(p, q, (2, 4))[0], found_after_first(p, q, 4)]
            for name in ("rrs", "k_seq", "nss"):
                drafts = SAMPLERS["with_replacement"].sample(q, 3, torch.Generator().manual_seed(1))
                generator = torch.Generator().manual_seed(2)
                rates += VERIFIERS[name].step(p, q, drafts, generator, sampler="with_replacement")
            found.append(rates)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gumbel_rates(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    fast = gumbel_list.exact_rate(p, q, (1, 2, 3, 4), sampler="with_replacement")
    races, missed = gumbel_list._Races(p[0], q[0]), p.new_zeros(4)
    mass = p[0][races.token]
    gumbel_list.missed_by_torch(races, mass, *gumbel_list.rate_nodes(races, mass, 4), missed)
    rates = mass.sum() - missed
    assert torch.allclose(fast[:, 0], rates.clamp(0, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.3])
def test_a_draw_is_the_inverse_of_the_cumulative_sum(pair: tuple[Tensor, Tensor], tau: float) -> None:
    from mdsd_bounds.verifiers.kernels.batch_steps import draw_excess

    p, q = pair[0][0], pair[1][0]
    spared = torch.tensor([7, WIDTH - 1, -1, 1024])
    weight = (p - tau * q).clamp(min=0)
    weight[spared[spared >= 0]] = p[spared[spared >= 0]]
    weight = p if not bool(weight.sum() > 0) else weight
    total = weight.cumsum(0)
    for u in np.random.default_rng(0).random(40):
        token = draw_excess(p.numpy(), q.numpy(), tau, spared.numpy(), u)
        goal = (1 - u) * float(total[-1])
        slack = 1e-11 * float(total[-1])
        assert float(weight[token]) > 0
        assert float(total[token]) >= goal - slack
        assert float(total[token] - weight[token]) <= goal + slack


def test_mass_off_the_drafts_is_summed_where_it_would_cancel() -> None:
    from mdsd_bounds.verifiers.kernels.batch_steps import _left_of

    q = PAIRS["peaked draft"][1]
    drawn = torch.tensor([5, 3, -1, 2000])
    rest = q.clone()
    rest[drawn[drawn >= 0]] = 0.0
    assert _left_of(q.numpy(), drawn.numpy(), float(q.sum())) == pytest.approx(float(rest.sum()), rel=1e-12)


STEPS = [
    ("rrs", "with_replacement", 3),
    ("naive_tree", "with_replacement", 2),
    ("nss", "with_replacement", 2),
    ("k_seq", "with_replacement", 3),
    ("rrs_without_replacement", "without_replacement", 3),
    ("rrs_without_replacement", "greedy", 3),
    ("rrs_without_replacement", "top_k", 2),
    ("rrs_without_replacement", "top_m_plus", 3),
    ("greedy", "greedy", 3),
    ("greedy", "greedy", 1),
    ("spechub", "greedy", 2),
    ("gumbel_list", "with_replacement", 3),
    ("tv_budget", "with_replacement", 2),
    ("tv_budget", "without_replacement", 2),
    ("typical_acceptance", "greedy", 2),
]


def wide_p_value(name: str, sampler: str, n: int, p: Tensor, q: Tensor, rows: int = 3000) -> float:
    """Chi-square p-value of the wide steps of a small problem: its tokens are scattered over a wide vocabulary."""
    rule = VERIFIERS[name]
    exact = enumerate_verifier(rule, p, q, n, sampler=sampler)
    generator = torch.Generator().manual_seed(13)
    place = torch.randperm(WIDTH, generator=generator)[: len(p)].sort().values
    counts, hits = torch.zeros(len(p), dtype=torch.float64), 0.0
    for _ in range(0, rows, 300):
        wide = torch.zeros((2, 300, WIDTH), dtype=torch.float64)
        wide[0][:, place], wide[1][:, place] = p, q
        drafts = place[SAMPLERS[sampler].sample(q.expand(300, -1), n, generator)]
        token, accepted = rule.step(wide[0], wide[1], drafts, generator, sampler=sampler)
        where = torch.searchsorted(place, token)
        if not torch.equal(place[where.clamp(max=len(p) - 1)], token):
            return 0.0
        counts += torch.bincount(where, minlength=len(p))
        hits += float(accepted.sum())
    rate = torch.tensor([exact.acceptance, 1.0 - exact.acceptance])
    return min(chi_square(counts, rows * exact.probs), chi_square(torch.tensor([hits, rows - hits]), rows * rate))


@pytest.mark.parametrize(("name", "sampler", "n"), STEPS)
def test_wide_steps_follow_the_distribution(name: str, sampler: str, n: int) -> None:
    q, _ = draft_rows(sampler, 6, n, 3)
    assert wide_p_value(name, sampler, n, row(6, 8), q) > FALSE_ALARM


def test_wide_steps_of_a_wrong_kernel_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from mdsd_bounds.verifiers.kernels import batch_steps as compiled_steps

    right = compiled_steps.rejection_steps

    def no_fixed_tokens(p: Any, q: Any, drafts: Any, fixed: int, *rest: Any) -> None:
        right(p, q, drafts, 0, *rest)

    monkeypatch.setattr(compiled_steps, "rejection_steps", no_fixed_tokens)
    assert wide_p_value("rrs_without_replacement", "greedy", 3, row(6, 8), row(6, 3)) < FALSE_ALARM


def test_steps_of_awkward_rows_return_possible_tokens(pair: tuple[Tensor, Tensor]) -> None:
    p, q = (x.expand(20, -1).contiguous() for x in pair)
    generator = torch.Generator().manual_seed(0)
    for name, sampler, n in STEPS:
        drafts = SAMPLERS[sampler].sample(q, n, generator)
        token, accepted = VERIFIERS[name].step(p, q, drafts, generator, sampler=sampler)
        assert bool((p.gather(-1, token[:, None]) > 0).all()) or not VERIFIERS[name].lossless
        assert torch.equal(accepted, (drafts == token[:, None]).any(-1))


@pytest.mark.parametrize("kind", ["drafts that p never gives", "equal distributions", "one token of p left"])
def test_wide_gumbel_races_at_their_edges(kind: str) -> None:
    p, q = row(6, 8), row(6, 3)
    if kind == "equal distributions":
        q = p
    else:
        p = p * torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0] if kind.startswith("drafts") else [0.0, 0, 0, 0, 1, 0])
        p = p / p.sum()
    assert wide_p_value("gumbel_list", "with_replacement", 2, p, q, 1500) > FALSE_ALARM
