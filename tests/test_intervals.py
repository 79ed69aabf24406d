"""Intervals from truncated rows contain the answer of the full rows, however the missing mass was spread."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsd_bounds import InputError, optimal_acceptance, to_probs
from mdsd_bounds.bounds.truncated import intervals
from mdsd_bounds.bounds.truncated.distributions import known_part, truncated_distribution, whole_distribution
from mdsd_bounds.bounds.truncated.intervals import solve_cut
from mdsd_bounds.dumps import single_model as sides
from mdsd_bounds.dumps.top_k_rows import top_k_rows
from tests.command import call

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
    distributions = [truncated_distribution(*cut(logits, k), temperature=temperature) for logits in (target, draft)]
    found = solve_cut(distributions[0], distributions[1], COUNTS, sampler, options)
    p, q = (to_probs(logits, temperature=temperature) for logits in (target, draft))
    full = optimal_acceptance(p, q, COUNTS, sampler, **options)
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()
    if k == 40:
        assert (found.high - found.low).max() < 1e-6
    if sampler == "with_replacement" and temperature == 1.0 and k >= 12:
        # Useful, not only right: the interval is not much wider than the mass that is missing.
        missing = distributions[0].high + max(COUNTS) * distributions[1].high
        assert ((found.high - found.low) <= missing + 1e-9).all()


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy"])
@pytest.mark.parametrize("full_side", ["target", "draft"])
def test_one_side_cut(sampler: str, full_side: str) -> None:
    target, draft = pair(16, 30, 1.5, 1.5, 3)
    p = truncated_distribution(target, None) if full_side == "target" else truncated_distribution(*cut(target, 8))
    q = truncated_distribution(draft, None) if full_side == "draft" else truncated_distribution(*cut(draft, 8))
    found = solve_cut(p, q, COUNTS, sampler)
    full = optimal_acceptance(to_probs(target), to_probs(draft), COUNTS, sampler)
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
    distributions = [truncated_distribution(*cut(target, k)), truncated_distribution(*cut(draft, j))]
    found = solve_cut(distributions[0], distributions[1], COUNTS, sampler[0], sampler[1])
    full = optimal_acceptance(to_probs(target), to_probs(draft), COUNTS, sampler[0], **sampler[1])
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
        found = solve_cut(known_part(p, 1 - p.sum(-1), "p"), known_part(q, 1 - q.sum(-1), "q"), COUNTS, sampler)
        low, high = found.low, found.high
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
        target, draft = whole_distribution(p), known_part(known_q, torch.tensor([0.6], dtype=torch.float64), "q")
        return solve_cut(target, draft, COUNTS, "without_replacement").low

    right = low()
    assert (right <= full + 1e-10).all()
    monkeypatch.setattr(intervals, "PARTS", 1)
    count = torch.tensor(COUNTS, dtype=torch.float64)[:, None]
    wrong = low() + (count * (count - 1) / 2)  # the collision term taken back
    assert (wrong > full + 0.05).any()


def test_few_parts_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = pair(8, 200, 0.7, 0.7, 5)
    distributions = [truncated_distribution(*cut(target, 20)), truncated_distribution(*cut(draft, 20))]
    exact = solve_cut(distributions[0], distributions[1], COUNTS, "without_replacement")
    monkeypatch.setattr(intervals, "PARTS", 50)
    coarse = solve_cut(distributions[0], distributions[1], COUNTS, "without_replacement")
    assert (coarse.low <= exact.low + 1e-12).all()
    assert torch.equal(coarse.high, exact.high)


@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
def test_rounded_rows(sampler: str, options: dict[str, int]) -> None:
    target, draft = pair(32, 30, 2.0, 1.0, 9)
    step = 0.01
    distributions = []
    for logits in (target, draft):
        kept, facts = cut(logits, 12, step / 2)
        rounded = torch.round(kept / step) * step
        total = rounded.exp().sum(-1)
        facts[:, 0] = (1 - total * torch.exp(facts[:, 3])).clamp(min=0)
        facts[:, 1] = 1 - total * torch.exp(-facts[:, 3])
        facts[:, 2] += step / 2
        distributions.append(truncated_distribution(rounded, facts, temperature=0.8))
    found = solve_cut(distributions[0], distributions[1], COUNTS, sampler, options)
    full = optimal_acceptance(
        to_probs(target, temperature=0.8), to_probs(draft, temperature=0.8), COUNTS, sampler, **options
    )
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()
    exact = [replace(probs, slack=torch.zeros_like(probs.slack)) for probs in distributions]
    narrow = solve_cut(exact[0], exact[1], COUNTS, sampler, options)
    assert (narrow.high - narrow.low <= found.high - found.low + 1e-12).all()


def test_cuts_inside_the_kept_tokens_are_exact() -> None:
    target, draft = pair(10, 50, 3.0, 1.0, 11)
    for warp in ({"top_k": 5}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.7}):
        distributions = [
            truncated_distribution(*cut(logits, 20), temperature=0.9, **warp) for logits in (target, draft)
        ]
        found = solve_cut(distributions[0], distributions[1], COUNTS, "with_replacement")
        full = optimal_acceptance(
            to_probs(target, temperature=0.9, **warp),
            to_probs(draft, temperature=0.9, **warp),
            COUNTS,
            "with_replacement",
        )
        assert (found.high - found.low).max() < 1e-11
        assert (found.value - full.value).abs().max() < 1e-11
    greedy = truncated_distribution(*cut(target, 3), temperature=0.0)
    assert torch.equal(greedy.probs, to_probs(target, temperature=0.0))
    assert (greedy.high == 0).all()
    # A cut that reaches past the kept tokens leaves an interval that still holds the answer.
    distributions = [truncated_distribution(*cut(logits, 6), top_k=9) for logits in (target, draft)]
    found = solve_cut(distributions[0], distributions[1], COUNTS, "without_replacement")
    full = optimal_acceptance(to_probs(target, top_k=9), to_probs(draft, top_k=9), COUNTS, "without_replacement")
    assert (found.low <= full.low + 1e-10).all()
    assert (full.high <= found.high + 1e-10).all()


def test_refusals() -> None:
    target, _ = pair(3, 20, 0.5, 1.0, 1)
    kept, facts = cut(target, 4)
    with pytest.raises(InputError, match=r"row 7: top_p=0.9 depends on tokens"):
        truncated_distribution(kept, facts, top_p=0.9, name="x", first_row=7)
    unknown = facts.clone()
    unknown[:, 2] = float("inf")
    with pytest.raises(InputError, match="greedy decoding depends"):
        truncated_distribution(kept, unknown, temperature=0.0)
    with pytest.raises(InputError, match="top_k=2 depends"):
        truncated_distribution(kept, unknown, top_k=2)
    probs = truncated_distribution(kept, facts)
    with pytest.raises(InputError, match="no interval"):
        solve_cut(probs, probs, 2, "joint")
    with pytest.raises(InputError, match="row 1: known mass"):
        known_part(torch.tensor([[0.5, 0.5], [0.5, 0.2]]), torch.zeros(2), "q")
    # Without a cap the most probable tokens of the draft are open, and so is everything that depends on them.
    open_distribution = truncated_distribution(kept, unknown)
    found = solve_cut(probs, open_distribution, 2, "greedy")
    assert (found.low == 0).all()
    assert (found.high == 1).all()


# Through the command line


def write_dump(path: Path, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    rows = len(logits[0])
    token = torch.arange(rows) % logits[0].shape[1]
    np.savez(
        path, target_logits=logits[0].float(), draft_logits=logits[1].float(), doc=np.arange(rows) // 5, token=token
    )


@pytest.mark.parametrize("form", ["k.safetensors", "native", "t.kld,d.kld", "t.json,d.json"])
def test_tables_of_cut_dumps_hold_the_full_answer(form: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sides, "UNSTATED_WIDTH", 60)
    write_dump(tmp_path / "full.npz", pair(40, 60, 3.0, 1.0, 2))
    cut_path = ",".join(str(tmp_path / part) for part in form.split(","))
    steps = [[str(tmp_path / "full.npz"), cut_path]]
    if form == "native":  # truncated rows in a native folder: by way of a top-k file
        steps = [[str(tmp_path / "full.npz"), str(tmp_path / "x.npz")], [str(tmp_path / "x.npz"), cut_path]]
    for i, (src, dst) in enumerate(steps):
        kept = ["--top-k", "12"] if i == 0 and "kld" not in form else []
        code, text, _ = call("convert", src, dst, *kept, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, text.strip()) == (0, dst.split(",")[0])
    tables, summaries = [], []
    for name, dump in (("full", str(tmp_path / "full.npz")), ("cut", cut_path)):
        out = str(tmp_path / f"{name}.parquet")
        code, text, _ = call(
            "bounds", dump, "--sampler", "all", "--drafts", "1,2,5", "--temperature", "0.7,1", "--out", out,
            "--format", "json", capsys=capsys, monkeypatch=monkeypatch,
        )  # fmt: skip
        assert code == 0
        tables.append(pd.read_parquet(out))
        summaries.append(json.loads(text))
    full, found = tables
    assert len(full) == len(found) == 6 * 3 * 2 * 40
    for column in ("sampler", "drafts", "temperature", "row"):
        assert (full[column] == found[column]).all()
    assert (found["certified_low"] <= full["certified_low"] + 1e-9).all()
    assert (full["certified_high"] <= found["certified_high"] + 1e-9).all()
    assert (found["certified_low"] <= found["value"]).all()
    assert (found["value"] <= found["certified_high"]).all()
    # A table that took the rows as if nothing were missing would not hold it.
    width = found["certified_high"] - found["certified_low"]
    assert (width > 1e-6).mean() > 0.3
    for whole, part in zip(*summaries, strict=True):
        assert part["certified_low"] <= whole["mean"] + 1e-9
        assert whole["mean"] <= part["certified_high"] + 1e-9
        assert part["mean"] == pytest.approx((part["certified_low"] + part["certified_high"]) / 2)
        if part["ci_low"] is not None:  # llama.cpp's form holds one text, of which there is no interval
            # The same documents are drawn: the interval of the truncated rows holds that of the whole ones.
            assert part["ci_low"] <= whole["ci_low"] + 1e-9
            assert whole["ci_high"] <= part["ci_high"] + 1e-9
    figure = str(tmp_path / "figure.png")
    arguments = ["plot", str(tmp_path / "cut.parquet"), "--figure", "acceptance_by_drafts", "--out", figure]
    assert call(*arguments, capsys=capsys, monkeypatch=monkeypatch)[0] == 0


def test_missing_mass_ignored_does_not_hold(tmp_path: Path) -> None:
    """The broken rule: renormalising the kept tokens as if they were all.  The test above must be able to fail."""
    target, draft = pair(40, 60, 1.0, 1.0, 2)
    full = optimal_acceptance(to_probs(target), to_probs(draft), COUNTS, "with_replacement")
    wrong = optimal_acceptance(to_probs(cut(target, 12)[0]), to_probs(cut(draft, 12)[0]), COUNTS, "with_replacement")
    assert ((wrong.low > full.high + 1e-3) | (wrong.high < full.low - 1e-3)).any()


def test_comparisons_of_cut_dumps(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    write_dump(tmp_path / "full.npz", pair(10, 60, 3.0, 1.0, 4))
    steps = ["convert", str(tmp_path / "full.npz"), str(tmp_path / "k.safetensors"), "--top-k", "12"]
    assert call(*steps, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    arguments = ["--verifier", "rrs,k_seq,spechub", "--sampler", "with_replacement,greedy", "--drafts", "2"]
    cut_dump, full_dump = str(tmp_path / "k.safetensors"), str(tmp_path / "full.npz")
    code, text, notes = call("compare", cut_dump, *arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    assert "k.safetensors target row 0: up to" in notes.splitlines()[-1]
    assert "use mdsd bounds" in notes.splitlines()[-1]
    # A cut that a serving stack makes inside the stored tokens leaves nothing missing.
    tables = []
    for dump in (cut_dump, full_dump):
        more = ["--top-k", "6", "--format", "json"]
        code, text, _ = call("compare", dump, *arguments, *more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0
        tables.append(json.loads(text))
    for one, other in zip(*tables, strict=True):
        for name in ("acceptance", "bound", "gap"):
            assert one[name] == pytest.approx(other[name], abs=1e-9)


@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
@pytest.mark.parametrize(
    "warp", [{"top_k": 6}, {}, {"temperature": 2e-3}, {"temperature": 1e-3, "top_k": 6}, {"temperature": 40.0}]
)
def test_ties_at_the_cut_and_extreme_temperatures(
    sampler: str, options: dict[str, int], warp: dict[str, float]
) -> None:
    # Logits of few values, as half precision has them: tokens that were not stored tie with the last one that was.
    # Rows of many decades without replacement take a thousand nodes each.
    target, draft = (
        torch.round(logits) for logits in pair(12 if warp == {"temperature": 2e-3} else 40, 30, 2.0, 1.0, 5)
    )
    p, q = (to_probs(logits, **warp) for logits in (target, draft))  # type: ignore[arg-type]
    full = optimal_acceptance(p, q, COUNTS, sampler, **options)
    for stored in (top_k_rows, None):
        distributions = []
        for logits in (target, draft):
            if stored is None:  # by a program that says nothing of the first token that it left out
                distributions.append(truncated_distribution(*cut(logits, 6), **warp))  # type: ignore[arg-type]
                continue
            ids, value, facts = stored(logits, None, 6)
            rows = torch.full(logits.shape, -float("inf"), dtype=torch.float64).scatter_(-1, ids, value)
            distributions.append(truncated_distribution(rows, facts, **warp))  # type: ignore[arg-type]
        found = solve_cut(distributions[0], distributions[1], COUNTS, sampler, options)
        assert (found.low <= full.low + 1e-10).all()
        assert (full.high <= found.high + 1e-10).all()


def test_a_tie_at_the_cut_is_seen() -> None:
    # Four tokens of one probability, two of them stored: cut to two, the full row keeps all four.
    logits = torch.zeros(1, 4, dtype=torch.float64)
    probs = truncated_distribution(*cut(logits, 2), top_k=2)
    assert float(probs.low) == 0
    assert float(probs.high) == pytest.approx(0.5)
    # Without room for another token of that probability there is no tie.
    logits = torch.tensor([[0.0, 0.0, -2.0, -2.0]], dtype=torch.float64)
    assert float(truncated_distribution(*cut(logits, 2), top_k=2).high) == 0


def test_tokens_that_vanish_at_temperature_one_come_back() -> None:
    logits = torch.cat([torch.zeros(1, 3), torch.full((1, 27), -800.0)], -1).to(torch.float64)
    ids, value, facts = top_k_rows(logits, None, 3)
    rows = torch.full(logits.shape, -float("inf"), dtype=torch.float64).scatter_(-1, ids, value)
    probs = truncated_distribution(rows, facts, temperature=200.0)
    missing = float(to_probs(logits, temperature=200.0)[0, 3:].sum())
    assert float(probs.low) <= missing <= float(probs.high)


@pytest.mark.parametrize("step", [0.5, 0.125])
@pytest.mark.parametrize(
    "warp",
    [{"top_k": 2}, {"top_k": 3, "temperature": 0.5}, {"top_k": 4, "min_p": 0.3}, {"top_p": 0.5}, {"temperature": 0.0}],
)
def test_rounded_numbers_do_not_say_what_is_inside_a_cut(step: float, warp: dict[str, float]) -> None:
    # Every log-probability is stored, to the nearest multiple of a step: two near ones may have changed places.
    full = [torch.log_softmax(logits, -1) for logits in pair(200, 7, 0.5, 0.5, 11)]
    stored = [torch.round(logits / step) * step for logits in full]
    nothing = torch.tensor([[0.0, 0.0, 0.0, step / 2]], dtype=torch.float64)
    open_rows, said = 0, []
    for row in range(200):
        try:
            p, q = (truncated_distribution(x[row : row + 1], nothing, **warp) for x in stored)  # type: ignore[arg-type]
        except InputError as error:
            said.append(str(error))
            continue
        open_rows += int(p.high[0] > 0)
        true = [to_probs(x[row], **warp) for x in full]  # type: ignore[arg-type]
        for sampler, options in SAMPLERS:
            found = solve_cut(p, q, (1, 2, 3), sampler, options)
            best = optimal_acceptance(true[0], true[1], (1, 2, 3), sampler, **options)
            assert (found.low[:, 0] <= best.low + 1e-10).all()
            assert (best.high <= found.high[:, 0] + 1e-10).all()
    assert open_rows or "top_k" not in warp
    assert all("log in float32" in line or "min_p" in line for line in said)


def test_a_tie_of_fine_numbers_is_a_tie() -> None:
    # Equal logits of half precision have equal log-probabilities in float32, whose rounding does not part them.
    stored = torch.log_softmax(torch.tensor([[2.0, 1.0, 1.0, 0.0]], dtype=torch.float64), -1)
    nothing = torch.tensor([[0.0, 0.0, 0.0, 1e-6]], dtype=torch.float64)
    found = truncated_distribution(stored, nothing, top_k=2)
    assert float(found.high) == 0
    assert int((found.probs > 0).sum()) == 3
    # Nor does a temperature whose reciprocal is infinite.
    for top_p in (None, 0.5):
        coldest = truncated_distribution(*cut(stored, 2, 1e-6), temperature=1e-310, top_p=top_p)
        assert (coldest.probs.tolist(), float(coldest.high)) == ([[1, 0, 0, 0]], 0)
