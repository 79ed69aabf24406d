"""Judge Decoding as a verifier: its identity, its two ends, several drafts against enumeration."""

from __future__ import annotations

import pytest
import torch

from mdsd_bounds import InputError, acceptance_rate
from mdsd_bounds.distributions import to_probs
from mdsd_bounds.verifiers import get_verifier, output_distance
from mdsd_bounds.verifiers.enumeration import enumerate_verifier
from mdsd_bounds.verifiers.total_variation import total_variation


def rows(count: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random rows, some of them truncated to a few tokens, and scores of which some are missing."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, count, size, generator=generator, dtype=torch.float64) * 2
    for i in range(0, count, 3):
        logits[0, i, logits[0, i].argsort()[: size // 2]] = float("-inf")
    for i in range(0, count, 4):
        logits[1, i, logits[1, i].argsort()[: size // 2]] = float("-inf")
    scores = torch.rand(count, size, generator=generator, dtype=torch.float64)
    scores[torch.rand(count, size, generator=generator) < 0.1] = float("nan")
    return to_probs(logits[0]), to_probs(logits[1]), scores


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
def test_what_acceptance_gains_is_the_total_variation(threshold: float) -> None:
    p, q, scores = rows(1000, 50)
    given = {"judge_score": scores, "threshold": threshold}
    rate = acceptance_rate(p, q, 1, "with_replacement", "judge", **given).value
    far = output_distance(p, q, 1, "with_replacement", "judge", **given)
    judged = torch.where(scores > threshold, (q - p).clamp(min=0.0), torch.zeros_like(p)).sum(-1)
    plain = acceptance_rate(p, q, 1, "with_replacement", "rrs").value
    assert float(judged.min()) < float(judged.max())
    torch.testing.assert_close(rate - plain, far, rtol=0, atol=1e-12)
    torch.testing.assert_close(far, judged, rtol=0, atol=1e-12)


def test_threshold_one_is_speculative_sampling_and_threshold_zero_accepts_everything() -> None:
    p, q, scores = rows(1000, 50, seed=1)
    scores = scores.nan_to_num(0.5).clamp(min=1e-6)
    one = {"judge_score": scores, "threshold": 1.0}
    plain = acceptance_rate(p, q, (1, 2), "with_replacement", "rrs").value
    torch.testing.assert_close(
        acceptance_rate(p, q, (1, 2), "with_replacement", "judge", **one).value, plain, rtol=0, atol=1e-12
    )
    assert float(output_distance(p, q, (1, 2), "with_replacement", "judge", **one).max()) < 1e-12
    zero = {"judge_score": scores, "threshold": 0.0}
    rate = acceptance_rate(p, q, 1, "with_replacement", "judge", **zero).value
    torch.testing.assert_close(rate, torch.ones_like(rate), rtol=0, atol=1e-12)
    far = output_distance(p, q, 1, "with_replacement", "judge", **zero)
    torch.testing.assert_close(far, total_variation(p, q), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["with_replacement", "without_replacement", "greedy", "top_k"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_several_drafts_agree_with_enumeration_of_the_definition(sampler: str, n: int) -> None:
    p, q, scores = rows(12, 5, seed=n)
    rule = get_verifier("judge")
    given = {"judge_score": scores, "threshold": 0.6}
    rate = acceptance_rate(p, q, n, sampler, "judge", **given)
    far = output_distance(p, q, n, sampler, "judge", **given)
    assert rate.exact
    for b in range(len(p)):
        found = enumerate_verifier(rule, p[b], q[b], n, sampler=sampler, judge_score=scores[b], threshold=0.6)
        assert abs(found.acceptance - float(rate.value[b])) < 1e-12
        assert abs(float(total_variation(found.probs, p[b])) - float(far[b])) < 1e-12


def test_no_judge_lies_above_the_bound_at_its_distance() -> None:
    from mdsd_bounds import optimal_acceptance

    p, q, scores = rows(60, 6, seed=5)
    for sampler in ("with_replacement", "without_replacement"):
        best = optimal_acceptance(p, q, 2, sampler).value
        for threshold in (0.2, 0.5, 0.9):
            given = {"judge_score": scores, "threshold": threshold}
            rate = acceptance_rate(p, q, 2, sampler, "judge", **given).value
            far = output_distance(p, q, 2, sampler, "judge", **given)
            assert bool((rate <= (best + far).clamp(max=1.0) + 1e-9).all())


def test_sampled_acceptance_agrees_with_the_exact_one() -> None:
    p, q, scores = rows(3, 6, seed=9)
    rule = get_verifier("judge")
    generator = torch.Generator().manual_seed(0)
    options = {"judge_score": scores, "threshold": 0.95}
    exact = rule.exact(p, q, (2,), sampler="without_replacement", **options)
    value, error = rule.estimate(p, q, (2,), 4000, generator, sampler="without_replacement", **options)
    assert 0.0 < float(exact.min()) < 0.97
    assert bool(((value - exact).abs() < 4 * error + 2e-3).all())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"judge_score": torch.tensor([0.5, 2.0, 0.1])}, "outside"),
        ({"judge_score": torch.tensor([0.5, 0.2])}, "shape"),
        ({"judge_score": "high"}, "array"),
        ({"judge_score": torch.tensor([0, 1, 0])}, "outside"),
    ],
)
def test_wrong_scores_are_named(options: dict[str, object], word: str) -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    with pytest.raises(InputError, match=word):
        acceptance_rate(p, p, 1, "with_replacement", "judge", **options)
