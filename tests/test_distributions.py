"""Distributions from logits and probabilities: warps, precision, and a refusal of everything doubtful."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsd_bounds import InputError, optimal_acceptance, to_probs
from mdsd_bounds.distributions import probs_and_defect, validate_probs
from mdsd_bounds.dumps.widths import align_widths

INF = float("inf")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_softmax_in_float64_from_any_dtype(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 2.0, -INF, 0.5]], dtype=dtype)
    probs = to_probs(logits)
    weights = np.exp([1.0, 2.0, -INF, 0.5])
    assert probs.dtype == torch.float64
    assert np.allclose(probs[0].numpy(), weights / weights.sum(), atol=1e-15)


def test_numpy_and_single_rows() -> None:
    assert to_probs(np.array([0.0, 0.0], dtype=np.float16)).tolist() == [0.5, 0.5]
    assert to_probs([0, 0]).shape == (2,)


def test_temperature_zero_is_one_hot_on_the_first_peak() -> None:
    assert to_probs([1.0, 3.0, 3.0], temperature=0).tolist() == [0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=12), st.floats(0.05, 5), st.integers(1, 12), st.floats(0.01, 1)
)
def test_warps(row: list[float], temperature: float, k: int, top_p: float) -> None:
    plain = to_probs(row, temperature=temperature)
    assert float(plain.sum()) == pytest.approx(1, abs=1e-14)
    cut = to_probs(row, temperature=temperature, top_k=k)
    kept = cut > 0
    assert int(kept.sum()) >= min(k, int((plain > 0).sum()))
    assert torch.allclose(cut[kept] * plain[kept].sum(), plain[kept], atol=1e-12)
    nucleus = to_probs(row, temperature=temperature, top_p=top_p)
    held = plain[nucleus > 0]
    # The smallest set of most probable tokens whose mass reaches top_p.
    assert float(held.sum()) >= top_p - 1e-12
    assert float(held.sum() - held.min()) < top_p + 1e-12


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[0.0, 1.0], [float("nan"), 0.0]], "logits row 1: NaN"),
        ([[0.0, INF]], r"row 0: \+inf"),
        ([[-INF, -INF]], "every logit is -inf"),
        ([], "shape"),
        ([[[0.0]]], "shape"),
        (["a"], "not a numeric array"),
        ([1j], "complex"),
    ],
)
def test_bad_logits_are_named(row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_probs(row)


@pytest.mark.parametrize(
    "warp", [{"temperature": -1.0}, {"temperature": INF}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}]
)
def test_bad_warps(warp: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(warp))):
        to_probs([0.0, 1.0], **warp)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], "p row 0: probabilities sum to 1.1"),
        ([0.5, 0.5], [1.5, -0.5], "q row 0, token 1: negative"),
        ([0.5, float("nan")], [0.5, 0.5], "p row 0, token 1: NaN"),
        ([0.5, 0.5], [0.2, 0.3, 0.5], "2 tokens and q 3"),
        ([[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], "1 rows and q 2"),
        ([[0.5, 0.5]], [0.5, 0.5], "q: shape"),
        ([], [], "p: shape"),
    ],
)
def test_bad_probabilities_are_named(p: object, q: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimal_acceptance(p, q, 2)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2", [], [1, 0]])
def test_bad_numbers_of_drafts(n: object) -> None:
    with pytest.raises(InputError, match="n_drafts"):
        optimal_acceptance([0.5, 0.5], [0.5, 0.5], n)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="choose one of with_replacement"):
        optimal_acceptance([1.0], [1.0], 1, "magic")
    with pytest.raises(InputError, match="unknown method"):
        optimal_acceptance([1.0], [1.0], 1, method="magic")
    with pytest.raises(InputError, match="does not take the options"):
        optimal_acceptance([1.0], [1.0], 1, "greedy", m=3)
    with pytest.raises(InputError, match="m=-1"):
        optimal_acceptance([1.0], [1.0], 1, "top_m_plus", m=-1)
    with pytest.raises(InputError, match="fewer drafters"):
        optimal_acceptance([[0.5, 0.5]], [[[0.5, 0.5]]], 2, "independent")
    with pytest.raises(InputError, match="64 draws"):
        optimal_acceptance([0.5, 0.5], [0.5, 0.5], 65)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_rows_widen_the_interval(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.softmax(torch.randn(4, 50, generator=generator, dtype=torch.float64), -1) for _ in range(2))
    exact, rough = optimal_acceptance(p, q, 3), optimal_acceptance(p.to(dtype), q.to(dtype), 3)
    defect = (1 - p.to(dtype).double().sum(-1)).abs() + 3 * (1 - q.to(dtype).double().sum(-1)).abs()
    assert bool((rough.high - rough.low >= defect).all())
    assert float((exact.value - rough.value).abs().max()) < 0.05


def test_shapes_follow_what_was_asked() -> None:
    p = torch.full((3, 4), 0.25, dtype=torch.float64)
    assert optimal_acceptance(p, p, 2).value.shape == (3,)
    assert optimal_acceptance(p, p, (1, 2)).value.shape == (2, 3)
    assert optimal_acceptance(p[0], p[0], 2).value.shape == ()
    assert optimal_acceptance(p[0], p[0], (1, 2)).subset.shape == (2, 4)
    assert optimal_acceptance(p.numpy(), p.numpy(), np.int64(2)).value.shape == (3,)


def test_pad_columns() -> None:
    target, draft, added = align_widths(torch.zeros(2, 600), torch.zeros(2, 728))
    assert target.shape == draft.shape == (2, 728)
    assert added == 128
    assert target[:, 600:].eq(-float("inf")).all()
    assert not draft.any()
    with pytest.raises(InputError, match="token map"):
        align_widths(torch.zeros(2, 600), torch.zeros(2, 729))
    with pytest.raises(InputError, match="d2t"):
        align_widths(torch.zeros(2, 40), torch.zeros(2, 10))


WIDE = 9_001


def wide_rows(dtype: torch.dtype) -> torch.Tensor:
    rows = 12 * torch.randn(5, WIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows[0, ::3] = -float("inf")
    rows[1] = torch.linspace(-760, 0, WIDE)  # down to subnormal probabilities
    rows[2] = -float("inf")
    rows[2, 7] = 3.0
    rows[3] = 0.25
    return rows.to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1e-3, 30.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_compiled_softmax_of_wide_rows_is_that_of_long_double(dtype: torch.dtype, temperature: float) -> None:
    rows = wide_rows(dtype)
    probs = to_probs(rows, temperature=temperature).numpy()
    x = rows.double().numpy().astype(np.longdouble)
    exact = np.exp((x - x.max(-1, keepdims=True)) / temperature)
    exact /= exact.sum(-1, keepdims=True)
    # The rounding of (x - max) / T is magnified by its size.
    slack = 2.3e-16 * (np.where(np.isfinite(x), x.max(-1, keepdims=True) - x, 0) / temperature + 8)
    assert (np.abs(probs - exact) <= slack * exact + 5e-324).all()
    assert (probs[~np.isfinite(rows.double().numpy())] == 0).all()
    assert np.abs(probs.sum(-1) - 1).max() < 1e-13


def test_every_half_number_is_decoded() -> None:
    bits = torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        numbers = bits.view(dtype)
        finite = numbers[torch.isfinite(numbers)]
        row = finite[None].contiguous()
        # Against the same numbers given in float64, which need no decoding.
        torch.testing.assert_close(
            to_probs(row, temperature=3e4), to_probs(row.double(), temperature=3e4), atol=0, rtol=0
        )


def test_the_compiled_softmax_keeps_to_its_rows_and_the_given_memory() -> None:
    rows = wide_rows(torch.float32)
    out = torch.full((5, WIDE), 7.0, dtype=torch.float64)
    assert to_probs(rows, out=out) is out
    for b in range(5):
        assert torch.equal(to_probs(rows[b]), out[b])
    for bad, message in ((float("nan"), "row 3: NaN"), (float("inf"), r"row 3: \+inf")):
        broken = rows.clone()
        broken[3, 5000] = bad
        with pytest.raises(InputError, match=message):
            to_probs(broken)
    with pytest.raises(InputError, match=r"give .* float64"):
        to_probs(rows, out=out[:2])
    logits = rows[:2].clone().nan_to_num(neginf=-50.0).requires_grad_()
    to_probs(logits)[:, 0].sum().backward()
    assert logits.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_without_a_positive_logit_find_their_peak(dtype: torch.dtype) -> None:
    rows = -torch.linspace(3, 900, WIDE).repeat(4, 1).to(dtype)
    rows[1, 5] = -0.0
    rows[2, 1:] = -float("inf")
    rows[3, 7] = 2.0**-15  # subnormal in float16
    assert torch.equal(to_probs(rows), to_probs(rows.double()))
    rows[3, 9] = -float("nan")
    with pytest.raises(InputError, match="row 3: NaN"):
        to_probs(rows)


@pytest.mark.parametrize("warp", [{}, {"temperature": 0.3}, {"temperature": 0.0}, {"top_k": 50}, {"top_p": 0.9}])
@pytest.mark.parametrize("width", [40, WIDE])
def test_a_distribution_and_its_defect_are_those_of_the_check(width: int, warp: dict[str, Any]) -> None:
    rows = wide_rows(torch.float32)[:, :width]
    probs, defect = probs_and_defect(rows, **warp)
    assert torch.equal(probs, to_probs(rows, **warp))
    checked, expected = validate_probs(probs, "p")
    assert checked is probs
    # Two sums of the same entries in other orders.
    assert float((defect - expected).abs().max()) < 1e-14
    exact = np.abs(1 - probs.numpy().astype(np.longdouble).sum(-1))
    assert float(np.abs(defect.numpy() - exact).max()) < 1e-14


def test_a_nucleus_among_a_few_tokens_is_that_of_a_full_sort() -> None:
    """Wide rows with ties at the edge, nuclei of a few tokens and of thousands in one batch."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 40, (4, 3000), generator=generator).double() / 4
    logits = torch.stack([9 * steps[0], 0 * steps[1], steps[2], 2 * steps[3]])
    for top_p in (0.1, 0.9, 0.999, 1 - 1e-12):
        found = to_probs(logits, top_p=top_p)
        probs = torch.softmax(logits, -1)
        order = probs.argsort(dim=-1, descending=True, stable=True)
        ranked = probs.gather(-1, order)
        kept = torch.zeros_like(probs).scatter_(-1, order, ranked * (ranked.cumsum(-1) - ranked < top_p))
        assert torch.equal(found > 0, kept > 0)
        assert torch.allclose(found, kept / kept.sum(-1, keepdim=True), rtol=1e-13, atol=0)
        # A row does not depend on its batch.
        assert all(torch.equal(to_probs(logits[b], top_p=top_p), found[b]) for b in range(4))
