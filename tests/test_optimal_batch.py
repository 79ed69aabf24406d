"""A batch of rows gives the same rules as row by row, for mixed supports and bad input, and its step follows them."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from harness import row
from orders_by_enumeration import KINDS, instance
from scipy import stats
from torch import Tensor

from mdsd_bounds import SAMPLERS, InputError
from mdsd_bounds.verifiers.optimal import PreparedBatch, prepare, prepare_batch
from mdsd_bounds.verifiers.optimal.batch_step import flatten
from mdsd_bounds.verifiers.optimal.priority_rule import PriorityRule
from mdsd_bounds.verifiers.optimal.without_replacement import FirstDraft


def mixed(size: int = 30) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    rows = [instance(kind, size, rng) for kind in KINDS]
    return (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("truncation", [{}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 9, "top_p": 0.8}])
def test_the_same_as_row_by_row(truncation: dict[str, float]) -> None:
    p, q = mixed()
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore", over="ignore"):
        warnings.simplefilter("error")
        batch = prepare_batch(p.numpy(), q, 3, **truncation)  # type: ignore[arg-type]
    for b, rule in enumerate(batch.rows):
        assert rule.gap <= 1e-9
        again = prepare(rule.p, _truncated(q[b], truncation), 3)
        assert torch.equal(again.r, rule.r)


def _truncated(probs: Tensor, truncation: dict[str, float]) -> Tensor:
    # Written apart: sort, count, compare.
    order = sorted(range(len(probs)), key=lambda i: (-float(probs[i]), i))
    kept = probs.clone()
    if "top_k" in truncation:
        edge = kept[order[int(truncation["top_k"]) - 1]]
        kept = torch.where(kept >= edge, kept, 0.0)
        kept = kept / kept.sum()
    if "top_p" in truncation:
        passed = 0.0
        for i in order:
            value = float(kept[i])
            if passed >= truncation["top_p"]:
                kept[i] = 0.0
            passed += value
        kept = kept / kept.sum()
    if "min_p" in truncation:
        kept = torch.where(kept >= truncation["min_p"] * kept.max(), kept, 0.0)
        kept = kept / kept.sum()
    return kept


@pytest.mark.parametrize("sampler", ["without_replacement", "top_m_plus", "with_replacement", "greedy", "top_k"])
def test_steps_follow_the_rules(sampler: str) -> None:
    p, q = row(9, 1), row(9, 2)
    count = 30_000
    drafts = SAMPLERS[sampler].sample(q.expand(count, -1), 3, torch.Generator().manual_seed(0))
    one = prepare_batch(p[None], q[None], 3, sampler)
    assert one.flat is not None
    many = type(one)(one.rows * count, flatten(one.rows * count))
    tokens = many.step(drafts, torch.Generator().manual_seed(1))
    counts = torch.bincount(tokens, minlength=9).double()
    assert stats.chisquare(counts.numpy(), (len(drafts) * p).numpy()).pvalue > 1e-5


def test_one_step_serves_rules_of_all_kinds() -> None:
    p, q = row(9, 1), row(9, 2)
    names = ("without_replacement", "top_m_plus", "with_replacement", "greedy", "top_k")
    rules = [prepare_batch(p[None], q[None], 3, name).rows[0] for name in names]
    # p = q over many tokens: the first draft is the rule.
    rules.append(dataclasses.replace(rules[0], r=q, rule=FirstDraft(0), distinct=False))
    rules = [dataclasses.replace(rule, distinct=False) for rule in rules]
    count = 20_000
    batch = PreparedBatch(tuple(rules) * count, flatten(tuple(rules) * count))
    drafts = [SAMPLERS[name].sample(q.expand(count, -1), 3, torch.Generator().manual_seed(2)) for name in names]
    drafts.append(drafts[0])
    tokens = batch.step(torch.stack(drafts, 1).reshape(-1, 3), torch.Generator().manual_seed(3)).reshape(count, -1)
    for kind in range(len(rules)):
        counts = torch.bincount(tokens[:, kind], minlength=9).double()
        assert stats.chisquare(counts.numpy(), (count * p).numpy()).pvalue > 1e-5


def test_a_step_that_ignores_the_coins_is_seen() -> None:
    p, q = row(9, 1), row(9, 2)
    count = 30_000
    rule = prepare_batch(p[None], q[None], 3).rows[0]
    assert isinstance(rule.rule, PriorityRule)
    tree = rule.rule.tree._replace(coin=np.where(rule.rule.tree.offset >= 0, 1.0, 0.0))
    wrong = dataclasses.replace(rule, rule=dataclasses.replace(rule.rule, tree=tree))
    drafts = SAMPLERS["without_replacement"].sample(q.expand(count, -1), 3, torch.Generator().manual_seed(0))
    tokens = PreparedBatch((wrong,) * count, flatten((wrong,) * count)).step(drafts, torch.Generator().manual_seed(1))
    counts = torch.bincount(tokens, minlength=9).double()
    assert stats.chisquare(counts.numpy(), (count * p).numpy()).pvalue < 1e-5


@pytest.mark.parametrize("sampler", ["without_replacement", "with_replacement"])
def test_rows_are_the_same_on_any_number_of_threads(sampler: str) -> None:
    p, q = mixed()
    p, q = p.repeat(4, 1), q.repeat(4, 1)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(prepare_batch(p, q, 3, sampler, top_p=0.9))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        assert torch.equal(one.r, other.r)
    drafts = SAMPLERS[sampler].sample(found[0].rows[0].r.expand(len(p), -1), 3, torch.Generator().manual_seed(0))
    steps = [batch.step(drafts, torch.Generator().manual_seed(4)) for batch in found]
    assert torch.equal(*steps)


def test_bad_input_is_named() -> None:
    p, q = mixed()
    wrong = q.clone()
    wrong[3] *= 2
    for call, message in (
        (lambda: prepare_batch(p, wrong, 2), "row 3: q: "),
        (lambda: prepare_batch(p[0], q[0], 2), "give rows"),
        (lambda: prepare_batch(p, q[:2], 2), "of one shape"),
        (lambda: prepare_batch(p, q, 2, top_k=0), "top_k=0"),
        (lambda: prepare_batch(p, q, 2, top_p=1.5), "top_p=1.5"),
        (lambda: prepare_batch(p, q, 0), "at least 1"),
        (lambda: prepare_batch(p, q, 2).step(torch.zeros((2, 2), dtype=torch.int64)), "rows"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_empty_batches_and_float32_rows() -> None:
    p, q = mixed()
    empty = prepare_batch(p[:0], q[:0], 2)
    assert len(empty) == 0
    assert empty.step(torch.zeros((0, 2), dtype=torch.int64)).shape == (0,)
    single = prepare_batch(p.float()[:4], q.float()[:4], 2)
    double = prepare_batch(p[:4], q[:4], 2)
    np.testing.assert_allclose(single.acceptance, double.acceptance, atol=1e-6)
