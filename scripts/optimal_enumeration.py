"""Check the optimal rules by enumeration on thousands of random small instances; report the worst errors.

    python scripts/optimal_enumeration.py --instances 170 --output docs/results/optimal_enumeration.json

Every instance lists all drafted sets with their probabilities by sequential draws (`tests/orders_by_enumeration.py`,
which shares nothing with the rules), feeds them to the prepared rule, and compares: r with the distribution of the
pick, the output with p, the acceptance with alpha* over *all* subsets of tokens, and the certificate's gap.  Samplers
without replacement list sets; with replacement all V^n sequences are listed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from orders_by_enumeration import (  # type: ignore[import-not-found]  # noqa: E402
    KINDS,
    as_drafts,
    best_acceptance,
    drafted,
    instance,
)

from mdsd_bounds.verifiers.optimal import prepare  # noqa: E402

#: Sampler -> tokens, drafts, and fixed tokens among the drafts.
CASES = {
    "without_replacement": ((8, 2, 0), (8, 4, 0), (8, 6, 0), (3, 4, 0)),
    "top_m_plus": ((8, 4, 1), (8, 6, 3), (4, 5, 2)),
    "greedy": ((8, 4, 3),),
    "top_k": ((8, 3, 3),),
    "with_replacement": ((6, 2, 0), (5, 3, 0), (3, 6, 0)),
}
SHAPES = [(sampler, *case) for sampler, cases in CASES.items() for case in cases]
LIMITS = {"r": 1e-13, "output": 1e-13, "acceptance": 1e-10, "gap": 1e-9}


def with_replacement(q: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drafts ``[V^n, n]``, their probabilities, and those of the drafted sets ``[2^V, 1]``."""
    drafts = np.array(list(itertools.product(range(len(q)), repeat=n)))
    chance = q[drafts].prod(1)
    mass = np.zeros((1 << len(q), 1))
    np.add.at(mass[:, 0], np.bitwise_or.reduce(1 << drafts, axis=1), chance)
    return drafts[chance > 0], chance[chance > 0], mass


def errors(p: np.ndarray, q: np.ndarray, sampler: str, n: int, fixed: int) -> dict[str, float]:
    """Largest differences between one prepared rule and what the definition says of it."""
    if sampler == "with_replacement":
        drafts, chance, mass = with_replacement(q, n)
    else:
        held = sum(1 << int(i) for i in np.argsort(-q, kind="stable")[:fixed] if q[i] > 0)
        mass = drafted(q[:, None], n - fixed, held)
        drafts, chance = as_drafts(mass[:, 0], n)
        if sampler == "greedy":
            # The random draft comes last.
            last = (held >> np.maximum(drafts, 0) & 1 == 0) | (drafts < 0)
            drafts = np.take_along_axis(drafts, np.argsort(last + 1 * (drafts < 0), 1, kind="stable"), 1)
    options: dict[str, Any] = {"m": fixed} if sampler == "top_m_plus" else {}
    rule = prepare(torch.from_numpy(p), torch.from_numpy(q), n, sampler, **options)
    given = torch.from_numpy(drafts)
    r = np.zeros(len(p))
    np.add.at(r, np.maximum(drafts, 0).ravel(), (rule.pick_distribution(given).numpy() * chance[:, None]).ravel())
    best = min(float(best_acceptance(p[:, None], mass)[0]), 1.0)
    return {
        "r": float(np.abs(r - rule.r.numpy()).max()),
        "output": float(np.abs(chance @ rule.output_distribution(given).numpy() - p).max()),
        "acceptance": abs(best - rule.acceptance),
        "gap": rule.gap,
    }


def run(instances: int, seed: int) -> list[dict[str, Any]]:
    """One line per shape: instances, and the worst errors with the kind of instance that had them."""
    lines, begun = [], time.monotonic()
    for done, (sampler, size, n, fixed) in enumerate(SHAPES, 1):
        worst, where = dict.fromkeys(LIMITS, 0.0), dict.fromkeys(LIMITS, "")
        for number, kind in enumerate(KINDS):
            rng = np.random.default_rng([seed, done, number])
            for _ in range(instances):
                p, q = instance(kind, size, rng)
                for name, value in errors(p, q, sampler, n, fixed).items():
                    if value >= worst[name]:
                        worst[name], where[name] = value, kind
        shape = {"sampler": sampler, "V": size, "drafts": n, "fixed": fixed, "instances": instances * len(KINDS)}
        lines.append(shape | {"worst": worst, "kind": where})
        left = (time.monotonic() - begun) * (len(SHAPES) - done) / done
        print(f"{done} of {len(SHAPES)} shapes, {left / 60:.1f} min left: {lines[-1]}", file=sys.stderr)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=60, help="instances of each kind and shape")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = run(arguments.instances, arguments.seed)
    total = sum(line["instances"] for line in lines)
    worst = {name: max(line["worst"][name] for line in lines) for name in LIMITS}
    passed = all(worst[name] <= limit for name, limit in LIMITS.items())
    print(f"{'passed' if passed else 'FAILED'}: {total:,} instances; worst errors {worst}; limits {LIMITS}")
    if arguments.output:
        result = {"passed": passed, "instances": total, "worst": worst, "limits": LIMITS, "shapes": lines}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
