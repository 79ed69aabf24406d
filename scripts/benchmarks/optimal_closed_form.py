"""The optimal rules in closed form (with replacement, greedy, top_k), on full and on truncated rows."""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

import torch
from benchmarks.timing import interleaved, logits, softmax_of_both
from torch import Tensor

from mdsd_bounds import SAMPLERS, to_probs
from mdsd_bounds.verifiers.optimal import Prepared, prepare

TITLE = (
    "Optimal verifier in closed form, per position: prepare and step, V = 151,936 and supports of 20 to 1,000 tokens"
)

SAMPLER_NAMES = ("with_replacement", "greedy", "top_k")
COUNTS = (2, 4, 8)
ROWS = 4
#: Tokens that each row keeps; None keeps all.
KEPT = (None, 1000, 100, 50, 20)
#: Positions that one call of a step serves.
BATCH = 256


def table(runs: int) -> list[dict[str, Any]]:
    """Medians over rows and runs, in turn with float32 softmax of the same two rows.

    ``prepare_ms`` and ``excess_ms`` (the table that a rejected position is drawn from, made when first needed) are for
    rows of V = 151,936 with ``support`` tokens; ``compact_ms`` prepares the same rows given on their support.
    ``step_us`` is for one position in a batch of 256 that share a rule.
    """
    target, draft = logits(151_936, ROWS)
    rows = []
    for kept in KEPT:
        p, q = (_truncated(to_probs(x), kept) for x in (target, draft))
        for sampler in SAMPLER_NAMES:
            for n in COUNTS:
                print(f"{sampler} n={n} support={kept or 'all'}", file=sys.stderr)
                rows.append({"sampler": sampler, "drafts": n, "support": kept or p.shape[-1]})
                rows[-1].update(_measured(p, q, n, sampler, (target, draft), min(runs, 5)))
    return rows


def _excess(kept: list[Prepared]) -> Tensor:
    return torch.from_numpy(kept[0].residual[0])


def _measured(p: Tensor, q: Tensor, n: int, sampler: str, scores: tuple[Tensor, Tensor], runs: int) -> dict[str, float]:
    softmax, whole, compact, excess, step = (list[float]() for _ in range(5))
    gap = 0.0
    # Drafts of the first row: sampling them takes longer than everything measured here.
    drafts = SAMPLERS[sampler].sample(q[:1].expand(BATCH, -1), n, torch.Generator().manual_seed(0))
    stepping = prepare(p[0], q[0], n, sampler)
    for b in range(ROWS):
        some = (q[b] > 0) | (p[b] > 0)
        small_p, small_q = p[b][some], q[b][some]
        gap = max(gap, prepare(p[b], q[b], n, sampler).gap)
        kept: list[Prepared] = []

        def prepared(b: int = b, kept: list[Prepared] = kept) -> None:
            kept[:] = [prepare(p[b], q[b], n, sampler)]

        times = interleaved(
            runs,
            softmax_of_both(*(x[b : b + 1] for x in scores)),
            prepared,
            partial(_excess, kept),
            partial(prepare, small_p, small_q, n, sampler),
            lambda: stepping.step(drafts),
        )
        for held, found in zip((softmax, whole, excess, compact, step), times, strict=True):
            held += found
    reference = statistics.median(softmax)
    return {
        "prepare_ms": 1e3 * statistics.median(whole),
        "prepare_ratio": statistics.median(whole) / reference,
        "excess_ms": 1e3 * statistics.median(excess),
        "compact_ms": 1e3 * statistics.median(compact),
        "compact_ratio": statistics.median(compact) / reference,
        "step_us": 1e6 * statistics.median(step) / BATCH,
        "softmax_ms": 1e3 * reference,
        "worst_gap": gap,
    }


def _truncated(x: Tensor, kept: int | None) -> Tensor:
    if kept is None:
        return x
    value, token = x.topk(kept)
    return torch.zeros_like(x).scatter_(-1, token, value / value.sum(-1, keepdim=True))
