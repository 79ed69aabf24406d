"""Every registered sampler: its draws follow its own log-probabilities, and its sets follow its conditionals."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from mdsd_bounds import SAMPLERS, InputError
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.samplers import NO_DRAFT
from mdsd_bounds.samplers.base import top_tokens

Q = torch.tensor([[0.35, 0.05, 0.0, 0.25, 0.2, 0.15]], dtype=torch.float64)
TABLE = torch.tensor([[0, 1, 2], [3, 3, 3], [5, 4, NO_DRAFT]])


def setting(name: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if name == "joint":
        return torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64), {"table": TABLE}
    if name == "independent":
        return torch.stack([Q, Q.flip(-1), Q.roll(1, -1)], 1), {}
    return Q, {}


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_follow_log_prob(name: str) -> None:
    q, options = setting(name)
    sampler, rows, n = SAMPLERS[name], 40_000, 3
    drafts = sampler.sample(q.expand(rows, *q.shape[1:]), n, torch.Generator().manual_seed(1), **options)
    assert drafts.shape == (rows, n)
    tuples, counts = torch.unique(drafts, dim=0, return_counts=True)
    probs = sampler.log_prob(q.expand(len(tuples), *q.shape[1:]), tuples, **options).exp()
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-2)
    keep = probs * rows >= 5
    observed, expected = counts[keep].double(), probs[keep] * rows
    rest = rows - float(expected.sum())
    if rest > 1:
        observed, expected = (
            torch.cat([observed, rows - observed.sum()[None]]),
            torch.cat([expected, torch.tensor([rest])]),
        )
    if len(observed) > 1:
        statistic = float(((observed - expected) ** 2 / expected).sum())
        # One test per sampler with a fixed seed; a wrong distribution gives p-values far below this.
        assert stats.chi2.sf(statistic, len(observed) - 1) > 1e-4
    else:
        assert float(observed.sum()) == rows


@pytest.mark.parametrize("name", SAMPLERS)
def test_log_prob_is_a_distribution_and_set_distribution_agrees(name: str) -> None:
    q, options = setting(name)
    sampler, n, size = SAMPLERS[name], 3, 6
    tuples = torch.tensor(list(itertools.product([NO_DRAFT, *range(size)], repeat=n)))
    probs = sampler.log_prob(q.expand(len(tuples), *q.shape[1:]), tuples, **options).exp()
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-12)
    problem, *_ = make_problem(torch.full((1, size), 1 / size, dtype=torch.float64), q, n, name, **options)
    sets = draft_sets(problem, 0, n)
    masses: dict[frozenset[int], float] = {}
    for row, mass in zip(tuples.tolist(), probs.tolist(), strict=True):
        key = frozenset(row) - {NO_DRAFT}
        masses[key] = masses.get(key, 0.0) + mass
    found = {frozenset(row) - {-1}: mass for row, mass in zip(sets.tokens.tolist(), sets.mass.tolist(), strict=True)}
    assert found == pytest.approx({key: mass for key, mass in masses.items() if mass > 0}, abs=1e-13)


def test_a_biased_sampler_would_be_seen() -> None:
    drafts = SAMPLERS["with_replacement"].sample(Q.expand(40_000, -1), 1, torch.Generator().manual_seed(1))
    observed = torch.bincount(drafts[:, 0], minlength=6).double()
    wrong = torch.tensor([0.33, 0.07, 0.0, 0.25, 0.2, 0.15]).double() * 40_000
    keep = wrong > 0
    statistic = float(((observed - wrong)[keep] ** 2 / wrong[keep]).sum())
    assert stats.chi2.sf(statistic, 4) < 1e-4


def test_top_tokens_break_ties_by_index_and_skip_zeros() -> None:
    q = torch.tensor([[0.0, 0.25, 0.25, 0.25, 0.25]])
    assert top_tokens(q, 2).tolist() == [[1, 2]]
    assert top_tokens(q, 6).tolist() == [[1, 2, 3, 4, NO_DRAFT, NO_DRAFT]]


def test_empty_slots_when_the_support_runs_out() -> None:
    q = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    for name in ("without_replacement", "greedy", "top_k", "top_m_plus"):
        assert SAMPLERS[name].sample(q, 3).tolist() == [[1, NO_DRAFT, NO_DRAFT]]
    assert SAMPLERS["with_replacement"].sample(q, 3).tolist() == [[1, 1, 1]]


def test_joint_table_is_checked() -> None:
    with pytest.raises(InputError, match="missing"):
        SAMPLERS["joint"].sample(torch.tensor([[1.0]]), 2)
    with pytest.raises(InputError, match="give \\[T, n\\]"):
        SAMPLERS["joint"].sample(torch.tensor([[1.0]]), 2, table=torch.tensor([[1]]))
    with pytest.raises(InputError, match="has 2 tokens"):
        make_problem([0.5, 0.5], [1.0], 1, "joint", table=torch.tensor([[2]]))
