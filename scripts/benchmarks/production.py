"""The production route of every sampler at three vocabularies, against softmax of the same two rows."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.timing import logits, medians, softmax_of_both

from mdsd_bounds import optimal_acceptance, to_law

TITLE = "All of n = 1, 2, 4, 8 together, per position"

VOCABULARIES = (32_000, 151_936, 262_144)
SAMPLERS = ("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus")
COUNTS = (1, 2, 4, 8)
ROWS = 8


def table(runs: int) -> list[dict[str, Any]]:
    """Every sampler, all of n = 1, 2, 4, 8 together, against softmax of the two rows in float32."""
    rows = []
    for size in VOCABULARIES:
        target, draft = logits(size, ROWS)
        p, q = to_law(target), to_law(draft)
        for sampler in SAMPLERS:
            print(f"V={size} {sampler}", file=sys.stderr)
            subject, reference = medians(
                lambda p=p, q=q, sampler=sampler: optimal_acceptance(p, q, COUNTS, sampler),  # type: ignore[misc]
                softmax_of_both(target, draft),
                runs,
            )
            bound = optimal_acceptance(p, q, COUNTS, sampler)
            rows.append(
                {
                    "vocabulary": size,
                    "sampler": sampler,
                    "ms_per_position": 1e3 * subject / ROWS,
                    "softmax_ms": 1e3 * reference / ROWS,
                    "ratio": subject / reference,
                    "widest_interval": float((bound.high - bound.low).max()),
                }
            )
    return rows
