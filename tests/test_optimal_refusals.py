"""The optimal rule refuses drafts for which it would not be lossless."""

from __future__ import annotations

import pytest
import torch

from mdsd_bounds import SAMPLERS, InputError
from mdsd_bounds.verifiers.optimal import RULES, prepare


@pytest.mark.parametrize("sampler", sorted(RULES))
def test_a_rule_refuses_drafts_it_was_not_made_for(sampler: str) -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    rule = prepare(p, q, 3, sampler)
    drafts = SAMPLERS[sampler].sample(q.expand(20, 4), 3, torch.Generator().manual_seed(0))
    rule.step(drafts, None)
    for wrong, message in (
        (drafts[:, :2], "prepared for"),
        (drafts[0], "prepared for"),
        (torch.full((2, 3), 4), "V = 4"),
        (torch.full((2, 3), -2), "V = 4"),
    ):
        for call in (rule.step, rule.output_distribution):
            with pytest.raises(InputError, match=message):
                call(wrong)
    repeated = torch.tensor([[0, 1, 2], [2, 3, 2]])
    if sampler == "with_replacement":
        rule.step(repeated, None)
    else:
        with pytest.raises(InputError, match=r"row 1: \[2, 3, 2\] repeats"):
            rule.step(repeated, None)
