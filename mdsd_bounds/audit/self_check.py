"""The audit audited: every control must be flagged, by enumeration and by a log; lossless rules must not.

The logs are drawn: one position for each of many pairs of distributions over six tokens, the draft's logits the
target's plus as much noise again.  On such rows the faults move the output by 0.03 to 0.3 in total variation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdsd_bounds.audit.controls import CONTROLS
from mdsd_bounds.audit.logs import from_arrays
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.audit.report import LogReport, judge
from mdsd_bounds.audit.rule import Counted, enumerate_rule
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.verifiers import VERIFIERS
from mdsd_bounds.verifiers.base import Verifier

#: Tokens, drafts and positions of a drawn log.
SIZE, DRAFTS, POSITIONS = 6, 4, 3000
#: Lossless rules that stand beside the controls, and the sampler of each.
_SOUND = (("rrs", "with_replacement"), ("rrs_without_replacement", "without_replacement"), ("nss", "with_replacement"))


@dataclass(frozen=True)
class Checked:
    """One rule of the self-check: enumeration, log, and whether both said what is known."""

    rule: Verifier
    counted: Counted
    report: LogReport

    @property
    def as_known(self) -> bool:
        """Whether enumeration and log both agree with the rule's own ``lossless``."""
        return self.counted.lossless == self.rule.lossless and self.report.lossy != self.rule.lossless


def drawn_rows(count: int, seed: int, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """``count`` pairs of distributions ``[count, size]``: logits ``2 g`` for p and ``2 (g + g')`` for q, g normal."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    noise = 2.0 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, -1), torch.softmax(logits + noise, -1)


def drawn_log(rule: Verifier, sampler: str, n: int, count: int, seed: int) -> Positions:
    """A log of ``count`` steps of a rule, one on each row of :func:`drawn_rows`."""
    p, q = drawn_rows(count, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    drafts = get_sampler(sampler).sample(q, n, generator)
    token, _ = rule.step(p, q, drafts, generator, sampler=sampler)
    return from_arrays(p.numpy(), q.numpy(), drafts.numpy(), token.numpy(), sampler=sampler)


def self_check(positions: int = POSITIONS, alpha: float = 0.01, seed: int = 0) -> list[Checked]:
    """Enumerate every control and some lossless rules, and judge a log of each.

    Examples
    --------
    >>> from mdsd_bounds.audit import self_check
    >>> all(check.as_known for check in self_check(800))
    True
    """
    rules = [(rule, rule.samplers[0]) for rule in CONTROLS.values()]
    rules += [(VERIFIERS[name], sampler) for name, sampler in _SOUND]
    return [
        Checked(
            rule,
            enumerate_rule(rule, sampler, 2),
            judge(drawn_log(rule, sampler, DRAFTS, positions, seed), alpha),
        )
        for rule, sampler in rules
    ]
