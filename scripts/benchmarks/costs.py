"""What everything costs a position, measured in one run beside one reference: the table that users choose from.

One thread, its processor time, V = 151,936, the shipped rows.  The reference, run in turn with each subject, is
``torch.softmax`` in float32 of the same two rows *into memory that is already held*: a plain softmax of many rows
spends most of its time on fresh memory, and flatters what is set beside it.  ``scripts/costs_page.py`` makes
``docs/costs.md``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmarks.guard import one_thread
from benchmarks.timing import interleaved, logits, per_position
from torch import Tensor

from mdsd_bounds import SAMPLERS, VERIFIERS, acceptance_rate, optimal_acceptance, to_probs
from mdsd_bounds._backend.buffers import buffers_kept
from mdsd_bounds.verifiers.optimal import prepare, prepare_batch

TITLE = "Costs a position, V = 151,936, one thread: processor time, and times float32 softmax into memory already held"

SIZE = 151_936
ROWS = 32
#: Rows of what takes many milliseconds each.
FEW = 4
EIGHT = tuple(range(1, 9))
#: (verifier, sampler) of the steps of four drafts.
STEPS = (
    ("rrs", "with_replacement"),
    ("rrs_without_replacement", "without_replacement"),
    ("naive_tree", "with_replacement"),
    ("nss", "with_replacement"),
    ("k_seq", "with_replacement"),
    ("greedy", "greedy"),
    ("gumbel_list", "with_replacement"),
    ("importance_sampling", "with_replacement"),
)
Subject = tuple[str, str, int, Callable[[Tensor, Tensor], Any]]


def table(runs: int) -> list[dict[str, Any]]:
    """Milliseconds of one thread a position, and the ratio to the reference over the same rows."""
    with one_thread(), buffers_kept():
        target, draft = logits(SIZE, ROWS)
        p, q = to_probs(target), to_probs(draft)
        return [_row(part, what, call, p[:rows], q[:rows], runs) for part, what, rows, call in _subjects(target, draft)]


def _subjects(target: Tensor, draft: Tensor) -> Iterator[Subject]:
    yield "distributions", "softmax of both in float64, temperature 0.7", ROWS, lambda p, q: _both(target, draft)
    yield "distributions", "top-k 50 of both, with top-p 0.95", ROWS, lambda p, q: _both(target, draft, 50, 0.95)
    for sampler in ("with_replacement", "greedy", "top_k", "without_replacement"):
        for rows in (1, ROWS):
            yield "bound", f"{sampler}, n = 1..8, batch of {rows}", rows, _bound(sampler, EIGHT)
    for n in (8, 16, 32, 64):
        yield "bound", f"without_replacement, n = {n} alone", ROWS, _bound("without_replacement", (n,))
    yield "bound", "without_replacement, every n = 1..64", FEW, _bound("without_replacement", tuple(range(1, 65)))
    for name in ("rrs", "k_seq", "nss", "naive_tree"):
        yield "exact acceptance rate", f"{name}, n = 1..8", ROWS, _rate(name)
    for name, sampler in STEPS:
        rows = FEW if name == "importance_sampling" else ROWS
        yield "verification step", f"{name}, n = 4", rows, _step(name, sampler)
    for sampler in ("with_replacement", "without_replacement"):
        for n in (2, 4, 8):
            yield "optimal rule", f"prepare, {sampler}, n = {n}", FEW, _prepared(sampler, n)
    p, q = (to_probs(x, top_k=50) for x in (target, draft))
    drafts = SAMPLERS["without_replacement"].sample(q, 4, torch.Generator().manual_seed(0))
    yield "optimal rule", "prepare a batch cut to top-k 50, n = 4", ROWS, lambda _p, _q: prepare_batch(p, q, 4)
    ready = prepare_batch(p, q, 4)
    yield "optimal rule", "step of that batch", ROWS, lambda _p, _q: ready.step(drafts)


def _both(target: Tensor, draft: Tensor, top_k: int | None = None, top_p: float | None = None) -> Any:
    options: dict[str, Any] = {"temperature": 0.7, "top_k": top_k, "top_p": top_p}
    options = {name: value for name, value in options.items() if value is not None}
    return to_probs(target, **options), to_probs(draft, **options)


def _bound(sampler: str, counts: tuple[int, ...]) -> Callable[[Tensor, Tensor], Any]:
    return lambda p, q: optimal_acceptance(p, q, counts, sampler)


def _rate(name: str) -> Callable[[Tensor, Tensor], Any]:
    return lambda p, q: acceptance_rate(p, q, EIGHT, "with_replacement", name)


def _step(name: str, sampler: str) -> Callable[[Tensor, Tensor], Any]:
    generator, drawn = torch.Generator().manual_seed(1), {}

    def step(p: Tensor, q: Tensor) -> Any:
        if "drafts" not in drawn:  # in the warm-up
            drawn["drafts"] = SAMPLERS[sampler].sample(q, 4, torch.Generator().manual_seed(0))
        return VERIFIERS[name].step(p, q, drawn["drafts"], generator, sampler=sampler)

    return step


def _prepared(sampler: str, n: int) -> Callable[[Tensor, Tensor], Any]:
    return lambda p, q: [prepare(p[b], q[b], n, sampler) for b in range(p.shape[0])]


def _row(
    part: str, what: str, call: Callable[[Tensor, Tensor], Any], p: Tensor, q: Tensor, runs: int
) -> dict[str, Any]:
    print(f"{part}: {what}", file=sys.stderr)
    rows = p.shape[0]
    target, draft = (x[:rows].contiguous() for x in logits(SIZE, ROWS))
    mine, other = torch.empty_like(target), torch.empty_like(draft)
    times, softmax = interleaved(
        runs,
        lambda: call(p, q),
        lambda: (torch.softmax(target, -1, out=mine), torch.softmax(draft, -1, out=other)),
        clock=time.thread_time,
    )
    measured = per_position(statistics.median(times), statistics.median(softmax), rows)
    return {"part": part, "what": what, "rows": rows, **measured}
