"""One step of every verifier at two vocabularies, batches of 64, against softmax of the same rows.

The drafts are drawn beforehand.  Rules with a fast exact rate for all of n = 1..8 are timed for that as well.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from benchmarks.timing import logits, medians, per_position, softmax_of_both

from mdsd_bounds import SAMPLERS, VERIFIERS, to_probs

TITLE = "One verification step of a batch of 64, and the exact rate of n = 1..8, per position"

VOCABULARIES = (32_000, 151_936)
BATCH = 64
#: (verifier, sampler, numbers of drafts).
STEPS = (
    ("nss", "with_replacement", (4,)),
    ("naive_tree", "with_replacement", (4,)),
    ("rrs", "with_replacement", (2, 4, 8)),
    ("rrs_without_replacement", "without_replacement", (2, 4, 8)),
    ("rrs_without_replacement", "greedy", (4,)),
    ("k_seq", "with_replacement", (2, 4, 8)),
    ("spechub", "greedy", (2,)),
    ("greedy", "greedy", (4,)),
    ("importance_sampling", "with_replacement", (2, 4, 8)),
    ("gumbel_list", "with_replacement", (4,)),
    ("typical_acceptance", "without_replacement", (4,)),
    ("tv_budget", "with_replacement", (4,)),
)
RATES = ("rrs", "k_seq", "nss", "naive_tree")
EIGHT = tuple(range(1, 9))


def table(runs: int) -> list[dict[str, Any]]:
    """Milliseconds for each position and the ratio to softmax of both rows in float32, in turn."""
    rows = []
    for size in VOCABULARIES:
        target, draft = logits(size, BATCH)
        p, q = to_probs(target), to_probs(draft)
        softmax = softmax_of_both(target, draft)
        for name, sampler, counts in STEPS:
            for n in counts:
                print(f"V={size} {name} n={n}", file=sys.stderr)
                drafts = SAMPLERS[sampler].sample(q, n, torch.Generator().manual_seed(0))
                generator = torch.Generator().manual_seed(1)

                def step(name: str = name, sampler: str = sampler, drafts: Any = drafts, g: Any = generator) -> Any:
                    return VERIFIERS[name].step(p, q, drafts, g, sampler=sampler)  # noqa: B023

                rows.append(_row(size, name, sampler, n, "step", *medians(step, softmax, runs)))
        for name in RATES:
            print(f"V={size} {name} exact rate", file=sys.stderr)

            def rate(name: str = name) -> Any:
                return VERIFIERS[name].exact(p, q, EIGHT, sampler="with_replacement")  # noqa: B023

            rows.append(_row(size, name, "with_replacement", "1..8", "exact rate", *medians(rate, softmax, runs)))
    return rows


def _row(
    size: int, name: str, sampler: str, n: int | str, what: str, subject: float, reference: float
) -> dict[str, Any]:
    return {
        "vocabulary": size,
        "verifier": name,
        "sampler": sampler,
        "drafts": n,
        "what": what,
        **per_position(subject, reference, BATCH),
    }
