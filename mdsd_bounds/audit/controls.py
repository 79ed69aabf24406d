"""Negative controls: rules that are wrong in ways that shipped code has been wrong.  The audit must flag each.

All are recursive rejection (:mod:`mdsd_bounds.verifiers.schemes.rrs`) with one fault:

* ``residual_skipped``: after the last rejection the token is drawn from p, not from what is left of it.
* ``q_taken_as_one``: a sampled draft is accepted with ``p_x`` in place of ``min(1, p_x / q_x)``, as if it had been
  chosen for certain, while the residual is the right one's, ``norm((p - q)_+)``.  (With the residual that belongs to
  q = 1, p without x renormalised, the rule is lossless after all: the output is p whatever was drafted.  It accepts no
  more than the naive sampling scheme does.)
* ``replacement_confused``: the rule for draws with replacement is fed draws without.
* ``duplicates_skipped``: a draft equal to an earlier one is dropped before verification, and its round with it.
* ``last_draft_accepted``: the last draft is accepted whatever its ratio.

They are not in :data:`mdsd_bounds.verifiers.VERIFIERS`, so that no table can take them for rules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.verifiers.base import Verifier
from mdsd_bounds.verifiers.schemes import rrs
from mdsd_bounds.verifiers.speculative_sampling import accept_probability, add_at, at, residual

#: ``(target, q, drafts, k) -> (probability of accepting draft k [B], the target after its rejection [B, V])``.
Trial = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def _in_turn(p: Tensor, q: Tensor, drafts: Tensor, trial: Trial) -> tuple[Tensor, Tensor, Tensor]:
    """The drafts tried one after another: what they output ``[B, V]``, the mass left ``[B]``, and the last target."""
    probs, reach, target = torch.zeros_like(p), torch.ones_like(p[:, 0]), p
    for k in range(drafts.shape[1]):
        accept, target = trial(target, q, drafts, k)
        probs = add_at(probs, drafts[:, k], reach * accept)
        reach = reach * (1.0 - accept)
    return probs, reach, target


def _right(target: Tensor, q: Tensor, drafts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return accept_probability(target, q, drafts[:, k]), residual(target, q)


def _residual_skipped(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    probs, reach, _ = _in_turn(p, q, drafts, _right)
    return probs + reach[:, None] * p


def _q_taken_as_one(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    probs, reach, target = _in_turn(p, q, drafts, lambda p, q, x, k: (at(p, x[:, k]), residual(p, q)))
    return probs + reach[:, None] * target


def _duplicates_skipped(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    def trial(target: Tensor, q: Tensor, drafts: Tensor, k: int) -> tuple[Tensor, Tensor]:
        fresh = ~(drafts[:, :k] == drafts[:, k : k + 1]).any(-1)
        accept, after = _right(target, q, drafts, k)
        return torch.where(fresh, accept, torch.zeros_like(accept)), torch.where(fresh[:, None], after, target)

    probs, reach, target = _in_turn(p, q, drafts, trial)
    return probs + reach[:, None] * target


def _last_draft_accepted(p: Tensor, q: Tensor, drafts: Tensor, *, sampler: str, **options: Option) -> Tensor:
    def trial(target: Tensor, q: Tensor, drafts: Tensor, k: int) -> tuple[Tensor, Tensor]:
        accept, after = _right(target, q, drafts, k)
        return accept if k < drafts.shape[1] - 1 else torch.ones_like(accept), after

    return _in_turn(p, q, drafts, trial)[0]


def _control(name: str, probs: Callable[..., Tensor], sampler: str = "with_replacement") -> Verifier:
    return Verifier(name, "none: a fault planted to be found", False, (sampler,), probs)


CONTROLS: dict[str, Verifier] = {
    rule.name: rule
    for rule in (
        _control("residual_skipped", _residual_skipped),
        _control("q_taken_as_one", _q_taken_as_one),
        _control("replacement_confused", rrs.output_distribution, "without_replacement"),
        _control("duplicates_skipped", _duplicates_skipped),
        _control("last_draft_accepted", _last_draft_accepted),
    )
}
