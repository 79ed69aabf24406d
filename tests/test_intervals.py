"""Intervals from cut rows contain the answer of the full rows, however the missing mass was spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsd_bounds import InputError, optimal_acceptance, to_law
from mdsd_bounds.bounds import intervals
from mdsd_bounds.bounds.cut import cut_law
from mdsd_bounds.bounds.intervals import interval_bounds, solve_cut

SAMPLERS = [
    ("with_replacement", {}),
    ("without_replacement", {}),
    ("greedy", {}),
    ("top_k", {}),
    ("top_m_plus", {"m": 1}),
    ("top_m_plus", {"m": 2}),
]
COUNTS = (2, 3, 5)


def pair(rows: int, width: int, spread: float, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = spread * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return target, target + noise * torch.randn(rows, width, generator=generator, dtype=torch.float64)


def cut(logits: torch.Tensor, k: int, slack: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the k most probable tokens, -inf elsewhere, and what the row leaves unsaid."""
    logprobs = torch.log_softmax(logits, -1)
    value, index = logprobs.topk(k, -1)
    kept = torch.full_like(logprobs, -float("inf")).scatter_(-1, index, value)
    missing = 1.0 - value.exp().sum(-1)
    return kept, torch.stack([missing, missing, value[:, -1], torch.full_like(missing, slack)], -1)


@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("k", [5, 12, 39, 40])
def test_full_rows_cut_to_top_k(sampler: str, options: dict[str, int], temperature: float, k: int) -> None:
    target, draft = pair(24, 40, 2.0, 1.0, k)
    laws = [cut_law(*cut(logits, k), temperature=temperature) for logits in (target, draft)]
    found = solve_cut(laws[0], laws[1], COUNTS, sampler, options)
    p, q = (to_law(logits, temperature=temperature) for logits in (target, draft))
    full = optimal_acceptance(p, q, COUNTS, sampler, **options)
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()
    if k == 40:
        assert (found.high - found.low).max() < 1e-6
    if sampler == "with_replacement" and temperature == 1.0 and k >= 12:
        # Useful, not only right: the interval is not much wider than the mass that is missing.
        missing = laws[0].high + max(COUNTS) * laws[1].high
        assert ((found.high - found.low) <= missing + 1e-9).all()


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy"])
@pytest.mark.parametrize("full_side", ["target", "draft"])
def test_one_side_cut(sampler: str, full_side: str) -> None:
    target, draft = pair(16, 30, 1.5, 1.5, 3)
    p = cut_law(target, None) if full_side == "target" else cut_law(*cut(target, 8))
    q = cut_law(draft, None) if full_side == "draft" else cut_law(*cut(draft, 8))
    found = solve_cut(p, q, COUNTS, sampler)
    full = optimal_acceptance(to_law(target), to_law(draft), COUNTS, sampler)
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()


@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    noise=st.sampled_from([0.0, 0.3, 2.0]),
    k=st.integers(1, 8),
    j=st.integers(1, 8),
    sampler=st.sampled_from(SAMPLERS),
)
@settings(max_examples=60, deadline=None)
def test_any_tail(seed: int, spread: float, noise: float, k: int, j: int, sampler: tuple[str, dict[str, int]]) -> None:
    # Different cuts of the two models: each may know what the other does not.  spread 0 gives ties everywhere.
    target, draft = pair(6, 12, spread, noise, seed)
    laws = [cut_law(*cut(target, k)), cut_law(*cut(draft, j))]
    found = solve_cut(laws[0], laws[1], COUNTS, sampler[0], sampler[1])
    full = optimal_acceptance(to_law(target), to_law(draft), COUNTS, sampler[0], **sampler[1])
    tied = sampler[0] in ("greedy", "top_k", "top_m_plus") and spread == 0.0
    if not tied:  # which of the tied tokens is fixed depends on which of them the cut kept
        assert (found.low <= full.low + 1e-10).all()
        assert (full.high <= found.high + 1e-10).all()


def test_extreme_tails_are_reached() -> None:
    # Both tails on one token that nobody knows: the upper end.  Tails on disjoint tokens: the lower end.
    p = torch.tensor([[0.5, 0.3, 0.0, 0.0, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.3, 0.4, 0.0, 0.0, 0.0]], dtype=torch.float64)
    high_p, high_q = p.clone(), q.clone()
    high_p[0, 2], high_q[0, 2] = 0.2, 0.3
    low_p, low_q = p.clone(), q.clone()
    low_p[0, 2] = 0.2
    low_q[0, 3:] = 0.15
    for sampler in ("with_replacement", "without_replacement"):
        low, high = interval_bounds(p, q, 1 - p.sum(-1), 1 - q.sum(-1), COUNTS, sampler)
        best = optimal_acceptance(high_p, high_q, COUNTS, sampler).value
        worst = optimal_acceptance(low_p, low_q, COUNTS, sampler).value
        assert (high - best).abs().max() < 1e-10
        if sampler == "with_replacement":
            assert (low - worst).abs().max() < 1e-10
        assert (low <= worst + 1e-12).all()


def test_the_lower_bound_needs_the_tail_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # One lump instead of equal parts is the wrong way round: the full answer must fall out of such an interval.
    p = torch.tensor([[0.4, 0.6] + [0.0] * 50], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.0] + [0.012] * 50], dtype=torch.float64)
    q[0, 2:] *= 0.6 / q[0, 2:].sum()
    known_q = q.clone()
    known_q[0, 2:] = 0.0
    full = optimal_acceptance(p, q, COUNTS, "without_replacement").value

    def low() -> torch.Tensor:
        return interval_bounds(p, known_q, torch.tensor([0.0]), torch.tensor([0.6]), COUNTS, "without_replacement")[0]

    right = low()
    assert (right <= full + 1e-10).all()
    monkeypatch.setattr(intervals, "PARTS", 1)
    count = torch.tensor(COUNTS, dtype=torch.float64)[:, None]
    wrong = low() + (count * (count - 1) / 2)  # the collision term taken back
    assert (wrong > full + 0.05).any()


def test_few_parts_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = pair(8, 200, 0.7, 0.7, 5)
    laws = [cut_law(*cut(target, 20)), cut_law(*cut(draft, 20))]
    exact = solve_cut(laws[0], laws[1], COUNTS, "without_replacement")
    monkeypatch.setattr(intervals, "PARTS", 50)
    coarse = solve_cut(laws[0], laws[1], COUNTS, "without_replacement")
    assert (coarse.low <= exact.low + 1e-12).all()
    assert torch.equal(coarse.high, exact.high)


@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
def test_rounded_rows(sampler: str, options: dict[str, int]) -> None:
    target, draft = pair(32, 30, 2.0, 1.0, 9)
    step = 0.01
    laws = []
    for logits in (target, draft):
        kept, facts = cut(logits, 12, step / 2)
        rounded = torch.round(kept / step) * step
        total = rounded.exp().sum(-1)
        facts[:, 0] = (1 - total * torch.exp(facts[:, 3])).clamp(min=0)
        facts[:, 1] = 1 - total * torch.exp(-facts[:, 3])
        facts[:, 2] += step / 2
        laws.append(cut_law(rounded, facts, temperature=0.8))
    found = solve_cut(laws[0], laws[1], COUNTS, sampler, options)
    full = optimal_acceptance(
        to_law(target, temperature=0.8), to_law(draft, temperature=0.8), COUNTS, sampler, **options
    )
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()
    exact = [replace(law, slack=torch.zeros_like(law.slack)) for law in laws]
    narrow = solve_cut(exact[0], exact[1], COUNTS, sampler, options)
    assert (narrow.high - narrow.low <= found.high - found.low + 1e-12).all()


def test_cuts_inside_the_kept_tokens_are_exact() -> None:
    target, draft = pair(10, 50, 3.0, 1.0, 11)
    for warp in ({"top_k": 5}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.7}):
        laws = [cut_law(*cut(logits, 20), temperature=0.9, **warp) for logits in (target, draft)]
        found = solve_cut(laws[0], laws[1], COUNTS, "with_replacement")
        full = optimal_acceptance(
            to_law(target, temperature=0.9, **warp), to_law(draft, temperature=0.9, **warp), COUNTS, "with_replacement"
        )
        assert (found.high - found.low).max() < 1e-11
        assert (found.value - full.value).abs().max() < 1e-11
    greedy = cut_law(*cut(target, 3), temperature=0.0)
    assert torch.equal(greedy.law, to_law(target, temperature=0.0))
    assert (greedy.high == 0).all()
    # A cut that reaches past the kept tokens leaves an interval that still holds the answer.
    laws = [cut_law(*cut(logits, 6), top_k=9) for logits in (target, draft)]
    found = solve_cut(laws[0], laws[1], COUNTS, "without_replacement")
    full = optimal_acceptance(to_law(target, top_k=9), to_law(draft, top_k=9), COUNTS, "without_replacement")
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()


def test_refusals() -> None:
    target, _ = pair(3, 20, 0.5, 1.0, 1)
    kept, facts = cut(target, 4)
    with pytest.raises(InputError, match=r"row 7: top_p=0.9 depends on tokens"):
        cut_law(kept, facts, top_p=0.9, name="x", first_row=7)
    unknown = facts.clone()
    unknown[:, 2] = float("inf")
    with pytest.raises(InputError, match="greedy decoding depends"):
        cut_law(kept, unknown, temperature=0.0)
    with pytest.raises(InputError, match="top_k=2 depends"):
        cut_law(kept, unknown, top_k=2)
    law = cut_law(kept, facts)
    with pytest.raises(InputError, match="no interval"):
        solve_cut(law, law, 2, "joint")
    with pytest.raises(InputError, match="row 1: known mass"):
        interval_bounds(
            torch.full((2, 2), 0.5), torch.tensor([[0.5, 0.5], [0.5, 0.2]]), torch.zeros(2), torch.zeros(2), 2
        )
    # Without a cap the most probable tokens of the draft are open, and so is everything that depends on them.
    open_law = cut_law(kept, unknown)
    found = solve_cut(law, open_law, 2, "greedy")
    assert (found.low == 0).all()
    assert (found.high == 1).all()
