"""The optimal lossy rule: the optimal selection rule with a moved target.  LOSSY by at most ``budget``.

Let r be the distribution of the draft that the optimal selection rule picks (:mod:`mdsd_bounds.verifiers.optimal`) and
``a = sum min(p, r)`` its acceptance, so that ``TV(p, r) = 1 - a``.  The pick is accepted against

    p' = p + s (r - p),    s = min(1, budget / (1 - a)),

in the place of p: the output is the pick y with probability ``min(1, p'_y / r_y)``, else a draw from
``norm((p' - r)_+)``.  The output distribution is p', so its total variation from p is ``min(budget, 1 - a)``, and the
acceptance is ``sum min(p', r) = min(1, a + budget)``.  No rule within the budget accepts more than
``min(1, alpha* + budget)``, which this one attains wherever ``optimal`` attains alpha*; elsewhere it is below by at
most the certified gap of ``optimal``.  The proof is in docs/lossy.md.  For one draft it moves p towards q.

Option ``budget`` (0.1): the total variation allowed between the output distribution and p, in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from mdsd_bounds.problem import Option, checked_tv
from mdsd_bounds.verifiers.base import Generator, Verifier, equal_rows
from mdsd_bounds.verifiers.optimal import RULES, Prepared, prepare
from mdsd_bounds.verifiers.total_variation import total_variation

BUDGET = 0.1


def moved_target(p: Tensor, r: Tensor, budget: float) -> Tensor:
    """p' ``[..., V]``: p moved towards r by ``min(budget, TV(p, r))`` in total variation; r itself where that is all.

    Raises
    ------
    InputError
        If the budget is no number in [0, 1].
    """
    budget = checked_tv(budget, "tv_budget: budget")
    distance = total_variation(r, p)[..., None]
    far = distance > budget
    share = budget / torch.where(far, distance, torch.ones_like(distance))
    return torch.where(far, torch.lerp(p, r, share.expand_as(p)), r)


def prepare_within(
    p: Tensor, q: Tensor, n: int, sampler: str = "without_replacement", budget: float = BUDGET, **options: Option
) -> Prepared:
    """The optimal rule of one position within a total variation ``budget``, ready to step.

    Parameters
    ----------
    p, q, n, sampler, **options
        As :func:`mdsd_bounds.verifiers.optimal.prepare`.
    budget : float
        In [0, 1].

    Returns
    -------
    Prepared
        Its ``p`` is the moved target, which is the distribution of the output; ``acceptance`` is
        ``min(1, a + budget)``, and ``gap`` bounds what is missing to ``min(1, alpha* + budget)``.

    Raises
    ------
    InputError
        As :func:`mdsd_bounds.verifiers.optimal.prepare`, and if the budget is no number in [0, 1].

    Notes
    -----
    Cost: that of :func:`mdsd_bounds.verifiers.optimal.prepare` and O(V).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.verifiers.schemes import prepare_within
    >>> p, q = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    >>> rule = prepare_within(p, q, 2, "with_replacement", budget=0.05)
    >>> round(rule.acceptance, 4), round(float((rule.p - p).abs().sum() / 2), 4)
    (0.9875, 0.05)
    """
    checked_tv(budget, "tv_budget: budget")
    lossless = prepare(p, q, n, sampler, **options)
    return dataclasses.replace(lossless, p=moved_target(lossless.p, lossless.r, budget))


def output_distribution(
    p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, budget: float = BUDGET, **options: Option
) -> Tensor:
    """Distribution of the output given the drafts; equal neighbouring rows share one preparation."""
    probs = torch.empty_like(p)
    for rows in equal_rows(p, q):
        rule = prepare_within(p[rows.start], q[rows.start], drafts.shape[1], sampler, budget, **options)
        probs[rows] = rule.output_distribution(drafts[rows]).to(p.device)
    return probs


def fast_step(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    generator: Generator,
    *,
    sampler: str,
    budget: float = BUDGET,
    **options: Option,
) -> Tensor:
    """Prepare and step; equal neighbouring rows share one preparation."""
    token = torch.empty_like(drafts[:, 0])
    for rows in equal_rows(p, q):
        rule = prepare_within(p[rows.start], q[rows.start], drafts.shape[1], sampler, budget, **options)
        token[rows] = rule.step(drafts[rows], generator).to(token.device)
    return token


def exact_rate(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, budget: float = BUDGET, **options: Option
) -> Tensor:
    """``min(1, a + budget)`` ``[N, B]``, a the acceptance of the optimal rule."""
    rules = _every(p, q, n_drafts, sampler, budget, options)
    return p.new_tensor([rule.acceptance for rule in rules]).reshape(len(n_drafts), p.shape[0])


def distance(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], *, sampler: str, budget: float = BUDGET, **options: Option
) -> Tensor:
    """``min(budget, 1 - a)`` ``[N, B]``, a the acceptance of the optimal rule."""
    rules = _every(p, q, n_drafts, sampler, budget, options)
    moved = [float(total_variation(rule.p, p[i % len(p)].cpu())) for i, rule in enumerate(rules)]
    return p.new_tensor(moved).reshape(len(n_drafts), p.shape[0])


def _every(
    p: Tensor, q: Tensor, n_drafts: tuple[int, ...], sampler: str, budget: float, options: dict[str, Option]
) -> Iterator[Prepared]:
    for n in n_drafts:
        for b in range(p.shape[0]):
            yield prepare_within(p[b], q[b], n, sampler, budget, **options)


VERIFIER = Verifier(
    name="tv_budget",
    paper="new: the optimal selection rule with a moved target; docs/lossy.md (one draft: a case of mentored decoding)",
    lossless=False,
    samplers=tuple(RULES),
    output_distribution=output_distribution,
    fast_step=fast_step,
    exact_rate=exact_rate,
    distance=distance,
    options=("budget",),
    cost="as optimal, and O(V)",
)
