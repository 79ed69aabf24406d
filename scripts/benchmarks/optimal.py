"""The optimal verifier: preparing a position and one step, against float32 softmax of the same two rows."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from benchmarks.timing import interleaved, logits, softmax_of_both
from torch import Tensor

from mdsd_bounds import SAMPLERS, to_probs
from mdsd_bounds.verifiers.optimal import RULES, Prepared, prepare

TITLE = "Optimal verifier, per position: prepare (p and q given) and step (drafts given), V = 151,936"

COUNTS = (2, 4, 8)
ROWS = 16
#: Steps timed together: one takes microseconds.
STEPS = 200


def table(runs: int) -> list[dict[str, Any]]:
    """Every sampler with an optimal rule.

    A position is prepared once in each of three runs at most; its time is the median of them.  ``prepare_ms`` is the
    median over positions, ``prepare_worst_ms`` the largest.
    """
    target, draft = logits(151_936, ROWS)
    p, q = to_probs(target), to_probs(draft)
    rows = []
    for sampler in RULES:
        for n in COUNTS:
            print(f"{sampler} n={n}", file=sys.stderr)
            drafts = SAMPLERS[sampler].sample(q, n, torch.Generator().manual_seed(0))
            prepared, softmax = [], []
            ready = [_made(p[b], q[b], n, sampler) for b in range(ROWS)]
            for _ in range(min(runs, 3)):
                taken = []
                for b in range(ROWS):
                    begun = time.perf_counter()
                    _made(p[b], q[b], n, sampler)
                    taken.append(time.perf_counter() - begun)
                prepared.append(taken)
                softmax += interleaved(3, softmax_of_both(target, draft))[0]

            def stepped(ready: list[Prepared] = ready, drafts: Tensor = drafts) -> None:
                for _ in range(STEPS):
                    for b, rule in enumerate(ready):
                        rule.step(drafts[b : b + 1])

            each = [statistics.median(times) for times in zip(*prepared, strict=True)]
            step = statistics.median(interleaved(min(runs, 3), stepped)[0]) / (ROWS * STEPS)
            reference = statistics.median(softmax) / ROWS
            rows.append(
                {
                    "sampler": sampler,
                    "drafts": n,
                    "prepare_ms": 1e3 * statistics.median(each),
                    "prepare_worst_ms": 1e3 * max(each),
                    "prepare_ratio": statistics.median(each) / reference,
                    "step_ms": 1e3 * step,
                    "step_ratio": step / reference,
                    "softmax_ms": 1e3 * reference,
                    "worst_gap": max(rule.gap for rule in ready),
                }
            )
    return rows


def _made(p: Tensor, q: Tensor, n: int, sampler: str) -> Prepared:
    rule = prepare(p, q, n, sampler)
    # The table that a rejected position is drawn from is part of the preparation.
    rule.excess.numel()
    return rule
