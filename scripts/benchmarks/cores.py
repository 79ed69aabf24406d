"""The search between cells against the plain scan, and how its cost grows with vocabulary, drafts and batch.

Every ratio is to ``torch.softmax`` in float32 of the same two rows, run in turn; ``reused_ratio`` is to the same one
writing into memory that it already holds (the plain call takes fresh memory for its result, which on large batches can
cost more than the softmax).  Bounds start from float64 distributions and include their validation.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.timing import interleaved, logits, per_position, softmax_of_both
from torch import Tensor

from mdsd_bounds import optimal_acceptance, to_probs
from mdsd_bounds.bounds import make_problem

TITLE = "Bounds from float64 distributions: search between cells (fast) and plain scan (prefix)"

WIDTH = 151_936
ALL = tuple(range(1, 9))
SAMPLERS = ("with_replacement", "greedy", "without_replacement", "top_k", "top_m_plus")
#: Rows of the plain scan.  Without replacement it takes seconds for each: it answers n = 8 alone there, once.
SCANNED = {"with_replacement": 8, "greedy": 4, "without_replacement": 1, "top_k": 4, "top_m_plus": 1}


def rows_at(size: int, rows: int) -> tuple[Tensor, Tensor]:
    """Logits of a target and a draft; beyond the shipped 32 the rows are repeated at temperature 0.6."""
    target, draft = logits(size, rows)
    if size == WIDTH and rows > 32:
        target[32:], draft[32:] = target[32:] / 0.6, draft[32:] / 0.6
    return target, draft


def _measure(case: str, size: int, batch: int, call: Callable[[Tensor, Tensor], Any], runs: int, **facts: Any) -> Any:
    print(f"{case} V={size} batch={batch} {facts}", file=sys.stderr)
    target, draft = rows_at(size, batch)
    p, q = to_probs(target), to_probs(draft)
    mine, other = torch.empty_like(target), torch.empty_like(draft)
    references = (
        softmax_of_both(target, draft),
        lambda: (torch.softmax(target, -1, out=mine), torch.softmax(draft, -1, out=other)),
    )
    if runs:
        times = interleaved(runs, lambda: call(p, q), *references)
    else:
        # Once and cold, between two lots of the reference.
        before = interleaved(3, *references)
        begun = time.perf_counter()
        call(p, q)
        times = [[time.perf_counter() - begun]]
        after = interleaved(3, *references)
        times += [one + two for one, two in zip(before, after, strict=True)]
    subject, plain, reused = (statistics.median(each) for each in times)
    return {
        "case": case,
        **facts,
        "vocabulary": size,
        "batch": batch,
        **per_position(subject, plain, batch),
        "reused_ratio": subject / reused,
    }


def _bound(sampler: str, counts: tuple[int, ...], method: str) -> Callable[[Tensor, Tensor], Any]:
    options = {"m": 1} if sampler == "top_m_plus" else {}
    return lambda p, q: optimal_acceptance(p, q, counts, sampler, method=method, **options)


def table(runs: int) -> list[dict[str, Any]]:
    """All samplers by both methods; growth of two of them; the steps before a bound."""
    found = []

    def bound(case: str, sampler: str, size: int, batch: int, counts: tuple[int, ...], method: str = "fast") -> None:
        call = _bound(sampler, counts, method)
        asked = f"1..{counts[-1]}" if counts == tuple(range(1, counts[-1] + 1)) else ",".join(map(str, counts))
        facts = {"sampler": sampler, "method": method, "drafts": max(counts), "asked": asked}
        found.append(_measure(case, size, batch, call, runs if method == "fast" else 0, **facts))

    for sampler in SAMPLERS:
        bound("sampler", sampler, WIDTH, 64, ALL)
        bound("sampler", sampler, WIDTH, SCANNED[sampler], (8,) if SCANNED[sampler] == 1 else ALL, "prefix")
    for sampler in ("with_replacement", "without_replacement"):
        for size in (32_000, WIDTH, 262_144):
            bound("vocabulary", sampler, size, 16, ALL)
        for most in (1, 2, 4, 8):
            bound("drafts", sampler, WIDTH, 16, tuple(range(1, most + 1)))
        for batch in (1, 4, 16, 64):
            bound("batch", sampler, WIDTH, batch, ALL)
    for most in (16, 64):
        bound("drafts", "with_replacement", WIDTH, 16, (*ALL, most))
    for most in (8, 16, 32, 64):
        bound("drafts alone", "without_replacement", WIDTH, 16, (most,))
    bound("drafts alone", "without_replacement", WIDTH, 1, (16,), "prefix")
    check = lambda p, q: make_problem(p, q, ALL, "with_replacement")  # noqa: E731
    found.append(
        _measure("before", WIDTH, 64, check, runs, sampler="validation of both distributions", method="", drafts=8)
    )
    target, draft = rows_at(WIDTH, 64)
    both = lambda p, q: (to_probs(target, temperature=0.7), to_probs(draft, temperature=0.7))  # noqa: E731
    found.append(_measure("before", WIDTH, 64, both, runs, sampler="to_probs of both", method="", drafts=8))
    probs_p, probs_q = (torch.empty(64, WIDTH, dtype=torch.float64) for _ in range(2))
    kept = lambda p, q: (to_probs(target, temperature=0.7, out=probs_p), to_probs(draft, temperature=0.7, out=probs_q))  # noqa: E731
    found.append(_measure("before", WIDTH, 64, kept, runs, sampler="to_probs into kept memory", method="", drafts=8))
    return found
