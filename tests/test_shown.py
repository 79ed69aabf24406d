"""Results print a line and not their tensors, show a table in notebooks, and become frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from harness import row

from mdsd_bounds import acceptance_rate, load_example, optimal_acceptance
from mdsd_bounds.verifiers.optimal import prepare


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([row(6, i) for i in range(count)]), torch.stack([row(6, i + 50) for i in range(count)])


@pytest.mark.parametrize(("count", "n"), [(3, (1, 2)), (3, 2), (1, 2)])
def test_bounds_and_rates(count: int, n: object) -> None:
    p, q = rows(count)
    if count == 1:
        p, q = p[0], q[0]
    bound = optimal_acceptance(p, q, n, "with_replacement")
    rate = acceptance_rate(p, q, n, "with_replacement", "rrs")
    counts = n if isinstance(n, tuple) else (n,)
    means = bound.value.reshape(len(counts), -1).mean(1)
    for found, kind in ((bound, "Bound("), (rate, "Acceptance(rrs, lossless, exact")):
        text = repr(found)
        assert text.startswith(kind)
        assert "tensor" not in text
        assert len(text) < 200
        assert "\n" not in text
        assert "<table" in found._repr_html_()
    assert all(f"n={k}: {float(mean):.4f}" in repr(bound) for k, mean in zip(counts, means, strict=True))
    frame = bound.to_frame()
    assert list(frame.columns) == ["drafts", "row", "value", "certified_low", "certified_high", "subset_size"]
    assert len(frame) == len(counts) * count
    assert np.array_equal(frame["value"].to_numpy().reshape(len(counts), -1), bound.value.reshape(len(counts), -1))
    assert list(frame["drafts"]) == [k for k in counts for _ in range(count)]
    assert list(rate.to_frame().columns) == ["drafts", "row", "acceptance", "mc_stderr"]


def test_what_is_sampled_or_lossy_says_so() -> None:
    p, q = rows(2)
    sampled = acceptance_rate(p, q, 2, "with_replacement", lambda p, q, drafts, generator: drafts[:, 0], samples=50)
    assert "sampled, standard error up to" in repr(sampled)
    assert "LOSSY" in repr(acceptance_rate(p, q, 1, "with_replacement", "top_k_membership"))
    assert "within a total variation of 0.05" in repr(optimal_acceptance(p, q, 1, "with_replacement", tv=0.05))
    assert "m=1" in repr(optimal_acceptance(p, q, 2, "top_m_plus", m=1))


def test_prepared_rules() -> None:
    rule = prepare(row(6, 0), row(6, 1), 2, "with_replacement")
    frame = rule.to_frame()
    assert float(np.minimum(frame["p"], frame["r"]).sum()) == pytest.approx(rule.acceptance)
    assert frame["p"].is_monotonic_decreasing
    assert "acceptance=" in rule._repr_html_()
    assert "<table" in rule._repr_html_()


def test_dumps() -> None:
    dump = load_example()
    assert repr(dump).startswith("Dump(npz, 32 positions, V=151,936, float16 logits, '")
    assert "151936" in dump._repr_html_()
    assert dict(dump.to_frame().to_numpy().tolist())["rows"] == "32"


def test_a_batch_is_one_line() -> None:
    (batch,) = load_example().batches(3, start=8, stop=11)
    assert repr(batch) == "LogitBatch(rows=3 (the first is 8), V=151,936, float16; doc, position, token)"


def test_one_position_is_not_one_positions() -> None:
    p, q = rows(2)
    assert "1 position, " in repr(optimal_acceptance(p[:1], q[:1], 2, "with_replacement"))
    assert "2 positions, " in repr(optimal_acceptance(p, q, 2, "with_replacement"))
