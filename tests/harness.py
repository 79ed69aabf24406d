"""What every registered verifier must pass: enumeration against the definition, not histograms.

Each check returns how far a rule is off, so that the same function accepts the good rules and catches the broken ones.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from mdsd_bounds import SAMPLERS, acceptance_rate, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.verifiers import Verifier, enumerate_verifier
from mdsd_bounds.verifiers.base import sampler_options

SHIPPED = Path(__file__).parents[1] / "data" / "qwen2.5-coder-humaneval"
#: Chance that one chi-square test rejects a right rule; seeds are fixed, so it is met once or never.
FALSE_ALARM = 1e-4


def row(size: int, seed: int, scale: float = 1.5) -> Tensor:
    """A distribution ``[size]`` without ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(scale * torch.randn(size, generator=generator, dtype=torch.float64), -1)


def draft_rows(sampler: str, size: int, n: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
    """A draft distribution in the shape that the sampler wants, and its options."""
    if sampler == "independent":
        return torch.stack([row(size, seed + 50 * k) for k in range(n)]), {}
    if sampler == "joint":
        generator = torch.Generator().manual_seed(seed)
        table = torch.randint(0, size, (7, n), generator=generator)
        return row(7, seed), {"table": table}
    return row(size, seed), {}


@functools.cache
def real_rows(first: int = 2, rows: int = 2) -> tuple[Tensor, Tensor]:
    """Distributions ``[rows, 151936]`` of shipped positions, target and draft."""
    (batch,) = open_dump(SHIPPED).batches(rows, start=first, stop=first + rows)
    return to_probs(batch.target_logits), to_probs(batch.draft_logits)


def float32_gap(rule: Verifier, p: Tensor, q: Tensor, n: int, sampler: str) -> float:
    """Largest change of the rate when the rows come in float32, beyond four standard errors of the difference."""
    exact = acceptance_rate(p, q, n, sampler, rule.name, samples=50)
    rounded = acceptance_rate(p.float(), q.float(), n, sampler, rule.name, samples=50)
    spread = (exact.stderr**2 + rounded.stderr**2).sqrt()
    return float(((exact.value - rounded.value).abs() - 4 * spread).max())


def losslessness_defect(rule: Verifier, p: Tensor, q: Tensor, n: int, sampler: str, **options: Any) -> float:
    """Largest difference between the output distribution and p: at most 1e-12 for a lossless rule."""
    return float((enumerate_verifier(rule, p, q, n, sampler=sampler, **options).probs - p).abs().max())


def excess_over_bound(rule: Verifier, p: Tensor, q: Tensor, n: int, sampler: str, **options: Any) -> float:
    """Acceptance minus the optimum over all subsets: at most rounding for a lossless rule."""
    best = optimal_acceptance(p, q, n, sampler, method="subsets", **sampler_options(rule, options))
    return enumerate_verifier(rule, p, q, n, sampler=sampler, **options).acceptance - float(best.high)


def step_p_value(
    rule: Verifier, p: Tensor, q: Tensor, n: int, sampler: str, *, rows: int = 20_000, seed: int = 11, **options: Any
) -> float:
    """Chi-square p-value of (output token, accepted) over many steps against the enumerated distribution.

    Acceptance is tested with the token, since a rule may output the right tokens with the wrong flags.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = q.expand(rows, *q.shape).contiguous()
    drafts = SAMPLERS[sampler].sample(wide, n, generator, **sampler_options(rule, options))
    token, accepted = rule.step(p.expand(rows, -1).contiguous(), wide, drafts, generator, sampler=sampler, **options)
    if not torch.equal(accepted, (token[:, None] == drafts).any(-1)):
        return 0.0
    exact = enumerate_verifier(rule, p, q, n, sampler=sampler, **options)
    by_token = chi_square(torch.bincount(token, minlength=len(p)).double(), rows * exact.probs)
    hits = float(accepted.double().sum())
    rate = exact.acceptance
    by_flag = chi_square(torch.tensor([hits, rows - hits]), rows * torch.tensor([rate, 1.0 - rate]))
    return min(by_token, by_flag)


def chi_square(observed: Tensor, expected: Tensor) -> float:
    impossible = expected < 1e-9
    if bool((observed[impossible] > 0).any()):
        return 0.0
    # Cells with little expected are pooled.
    small = (expected < 5) & ~impossible
    cells = torch.stack([observed, expected])[:, ~small & ~impossible]
    if bool(small.any()) and float(expected[small].sum()) > 1:
        cells = torch.cat([cells, torch.stack([observed[small].sum(), expected[small].sum()])[:, None]], -1)
    if cells.shape[1] < 2:
        return 1.0
    return float(stats.chi2.sf(float(((cells[0] - cells[1]) ** 2 / cells[1]).sum()), cells.shape[1] - 1))


def rate_gap(rule: Verifier, p: Tensor, q: Tensor, n: int, sampler: str, **options: Any) -> tuple[float, float, bool]:
    """Difference of the stated rate from the enumerated one, the stated standard error, and whether it says exact."""
    truth = enumerate_verifier(rule, p, q, n, sampler=sampler, **options).acceptance
    rate = acceptance_rate(p, q, n, sampler, rule.name, samples=4000, **options)
    return abs(float(rate.value) - truth), float(rate.stderr), rate.exact
