"""The prepared rule is data: it pickles, states its cost, and steps the same way in another process."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch
from harness import row
from torch import Tensor

from mdsd_bounds import SAMPLERS
from mdsd_bounds.verifiers.optimal import RULES, Prepared, prepare

SIZES = (3, 7, 300)


def made(sampler: str, size: int) -> tuple[Prepared, Tensor]:
    p, q = row(size, 1), row(size, 2)
    drafts = SAMPLERS[sampler].sample(q.expand(50, -1), 3, torch.Generator().manual_seed(0))
    return prepare(p, q, 3, sampler), drafts


def stepped(rule: Prepared, drafts: Tensor) -> list[int]:
    tokens: list[int] = rule.step(drafts, torch.Generator().manual_seed(3)).tolist()
    return tokens


@pytest.mark.parametrize("sampler", sorted(RULES))
@pytest.mark.parametrize("size", SIZES)
def test_it_comes_back_from_pickle_as_it_was(sampler: str, size: int) -> None:
    rule, drafts = made(sampler, size)
    again = pickle.loads(pickle.dumps(rule))
    assert stepped(again, drafts) == stepped(rule, drafts)
    assert torch.equal(again.output_distribution(drafts), rule.output_distribution(drafts))
    assert (again.gap, again.acceptance, again.n, again.sampler) == (rule.gap, rule.acceptance, 3, sampler)


@pytest.mark.parametrize("sampler", sorted(RULES))
def test_a_row_of_a_batch_takes_only_itself_along(sampler: str) -> None:
    p, q = (torch.stack([row(300, seed)] * 50) for seed in (1, 2))
    alone, of_batch = prepare(p[7].clone(), q[7].clone(), 3, sampler), prepare(p[7], q[7], 3, sampler)
    assert len(pickle.dumps(of_batch)) < len(pickle.dumps(alone)) + 1000
    assert torch.equal(pickle.loads(pickle.dumps(of_batch)).p, p[7])


def test_it_can_be_sent_to_a_worker_process() -> None:
    rule, drafts = made("without_replacement", 12)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(stepped, (rule, drafts)) == stepped(rule, drafts)


@pytest.mark.parametrize("sampler", sorted(RULES))
def test_it_says_what_it_is_and_costs(sampler: str) -> None:
    rule, _ = made(sampler, 12)
    assert repr(rule).startswith(f"Prepared({sampler}, n=3, V=12, acceptance=")
    assert " ms, " in rule.summary()
    assert rule.nbytes >= 2 * 12 * 8
    assert rule.seconds > 0.0
