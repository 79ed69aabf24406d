"""The optimal verifier: preparing a position and one step, against float32 softmax of the same two rows."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch
from benchmarks.timing import interleaved, logits, softmax_of_both

from mdsd_bounds import SAMPLERS, to_law
from mdsd_bounds.verifiers.optimal import RULES, prepare

TITLE = "Optimal verifier, per position: prepare (p and q given) and step (drafts given), V = 151,936"

COUNTS = (2, 4, 8)
ROWS = 6
#: Steps timed together: one takes microseconds.
STEPS = 200


def table(runs: int) -> list[dict[str, Any]]:
    """Every sampler with an optimal rule; medians over runs of the mean over rows."""
    target, draft = logits(151_936, ROWS)
    p, q = to_law(target), to_law(draft)
    rows = []
    for sampler in RULES:
        for n in COUNTS:
            print(f"{sampler} n={n}", file=sys.stderr)

            def made(sampler: str = sampler, n: int = n) -> list[Any]:
                found = [prepare(p[b], q[b], n, sampler) for b in range(ROWS)]
                for rule in found:
                    # The table that a rejected position is drawn from is part of the preparation.
                    rule.excess.numel()
                return found

            ready = made()
            drafts = SAMPLERS[sampler].sample(q, n, torch.Generator().manual_seed(0))

            def stepped(ready: list[Any] = ready, drafts: Any = drafts) -> None:
                for _ in range(STEPS):
                    for b, rule in enumerate(ready):
                        rule.step(drafts[b : b + 1])

            prepared, steps, softmax = (
                statistics.median(times) for times in interleaved(runs, made, stepped, softmax_of_both(target, draft))
            )
            rows.append(
                {
                    "sampler": sampler,
                    "drafts": n,
                    "prepare_ms": 1e3 * prepared / ROWS,
                    "prepare_ratio": prepared / softmax,
                    "step_ms": 1e3 * steps / (ROWS * STEPS),
                    "step_ratio": steps / STEPS / softmax,
                    "softmax_ms": 1e3 * softmax / ROWS,
                    "worst_gap": max(rule.gap for rule in ready),
                }
            )
    return rows
