"""The optimal verifier: preparing a position and one step, against float32 softmax of the same two rows."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from benchmarks.timing import interleaved, logits, softmax_of_both
from torch import Tensor

from mdsd_bounds import SAMPLERS, to_probs
from mdsd_bounds.verifiers.optimal import RULES, Prepared, PreparedBatch, prepare, prepare_batch

TITLE = "Optimal verifier on one thread, per position: prepare (p, q given) and step (drafts given), full and truncated"

COUNTS = (2, 4, 8)
ROWS = 16
#: Steps timed together: one takes microseconds.
STEPS = 200


#: Tokens left by truncation, and rows prepared and stepped together.
KEPT = (20, 50, 100, 200, 400, 1000)
BATCHES = (1, 32, 256)


def table(runs: int) -> list[dict[str, Any]]:
    """Full rows of every sampler, truncated rows without replacement, and batches; all of it on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return full_rows(runs) + truncated_rows(runs) + batches(runs)
    finally:
        torch.set_num_threads(threads)


def _seconds(pairs: Sequence[tuple[Tensor, Tensor]], n: int, kept: list[list[float]]) -> None:
    """Prepare all rows, and add the seconds of each to ``kept``."""
    taken = []
    for p, q in pairs:
        begun = time.perf_counter()
        prepare(p, q, n)
        taken.append(time.perf_counter() - begun)
    kept.append(taken)


def _stepped(ready: PreparedBatch, drafts: Tensor) -> None:
    for _ in range(STEPS):
        ready.step(drafts)


def truncated_rows(runs: int) -> list[dict[str, Any]]:
    """Rows given as their support alone, as a server's own top-k leaves them; times as in :func:`full_rows`."""
    target, draft = logits(151_936, ROWS)
    lines = []
    for kept in KEPT:
        p, q = to_probs(target, top_k=kept), to_probs(draft, top_k=kept)
        inside = [(p[b] > 0) | (q[b] > 0) for b in range(ROWS)]
        pairs = [(p[b][inside[b]], q[b][inside[b]]) for b in range(ROWS)]
        for n in COUNTS:
            print(f"top-k {kept} n={n}", file=sys.stderr)
            rules, taken = [prepare(p, q, n) for p, q in pairs], list[list[float]]()
            _, softmax = interleaved(runs, partial(_seconds, pairs, n, taken), softmax_of_both(target, draft))
            positions = [statistics.median(times) for times in zip(*taken, strict=True)]
            each, reference = statistics.median(positions), statistics.median(softmax) / ROWS
            lines.append(
                {
                    "sampler": "without_replacement",
                    "drafts": n,
                    "kept": kept,
                    "prepare_ms": 1e3 * each,
                    "prepare_worst_ms": 1e3 * max(positions),
                    "prepare_ratio": each / reference,
                    "softmax_ms": 1e3 * reference,
                    "worst_gap": max(rule.gap for rule in rules),
                }
            )
    return lines


def batches(runs: int) -> list[dict[str, Any]]:
    """Preparing and stepping batches of rows truncated to 50 tokens, milliseconds a position."""
    target, draft = logits(151_936, ROWS)
    p, q = to_probs(target, top_k=50), to_probs(draft, top_k=50)
    lines = []
    for size in BATCHES:
        rows = torch.arange(size) % ROWS
        for n in COUNTS:
            print(f"batch {size} n={n}", file=sys.stderr)
            drafts = SAMPLERS["without_replacement"].sample(q[rows], n, torch.Generator().manual_seed(0))
            ready = prepare_batch(p[rows], q[rows], n)
            made, stepped, softmax = interleaved(
                min(runs, 3),
                partial(prepare_batch, p[rows], q[rows], n),
                partial(_stepped, ready, drafts),
                softmax_of_both(target, draft),
            )
            each, reference = statistics.median(made) / size, statistics.median(softmax) / ROWS
            lines.append(
                {
                    "sampler": "without_replacement",
                    "drafts": n,
                    "kept": 50,
                    "batch": size,
                    "prepare_ms": 1e3 * each,
                    "prepare_ratio": each / reference,
                    "step_ms": 1e3 * statistics.median(stepped) / (size * STEPS),
                    "softmax_ms": 1e3 * reference,
                    "worst_gap": float(ready.gap.max()),
                }
            )
    return lines


def full_rows(runs: int) -> list[dict[str, Any]]:
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
    _ = rule.residual
    return rule
