"""Time per position of the bounds, as a ratio to ``torch.softmax`` of the same two rows in the same run.

    python scripts/bench.py [--out out/bench.json] [--quick]

Two tables: the production route for each sampler at three vocabularies, and the independent solvers on problems small
enough for them (HiGHS, cvxpy, OR-tools max-flow and min-cost flow, POT's emd; one that would not finish is left out
at that size).  Every figure is a median; runs of the reference and of the subject alternate, so that a change in the
machine's speed meets both.  Rows are those of the shipped dump at V = 151,936, and drawn to look like them elsewhere.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds import open_dump, optimal_acceptance, to_law
from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.draft_sets import draft_sets

VOCABULARIES = (32_000, 151_936, 262_144)
SAMPLERS = ("with_replacement", "without_replacement", "greedy", "top_k", "top_m_plus")
COUNTS = (1, 2, 4, 8)
SHIPPED = Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval"
ROWS = 8


def logits(size: int) -> tuple[Tensor, Tensor]:
    """Rows ``[ROWS, size]`` float32 of a target and a draft."""
    if size == 151_936 and SHIPPED.exists():
        (batch,) = open_dump(SHIPPED).batches(ROWS, stop=ROWS)
        return batch.target_logits.float(), batch.draft_logits.float()
    generator = torch.Generator().manual_seed(size)
    shape = torch.stack(
        [-1.8 * torch.arange(1, size + 1).log()[torch.randperm(size, generator=generator)] for _ in range(ROWS)]
    )
    return tuple(shape + 0.8 * torch.randn(ROWS, size, generator=generator) for _ in range(2))  # type: ignore[return-value]


def medians(subject: Callable[[], Any], reference: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Median seconds of each, run in turn after one warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for call, kept in zip((subject, reference), times, strict=True):
            begun = time.perf_counter()
            call()
            if run:
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def production(runs: int) -> list[dict[str, Any]]:
    """Every sampler, all of n = 1, 2, 4, 8 together, against softmax of the two rows in float32."""
    table = []
    for size in VOCABULARIES:
        target, draft = logits(size)
        p, q = to_law(target), to_law(draft)
        for sampler in SAMPLERS:
            print(f"V={size} {sampler}", file=sys.stderr)
            subject, reference = medians(
                lambda p=p, q=q, sampler=sampler: optimal_acceptance(p, q, COUNTS, sampler),
                lambda a=target, b=draft: (torch.softmax(a, -1), torch.softmax(b, -1)),
                runs,
            )
            bound = optimal_acceptance(p, q, COUNTS, sampler)
            table.append(
                {
                    "vocabulary": size,
                    "sampler": sampler,
                    "ms_per_position": 1e3 * subject / ROWS,
                    "softmax_ms": 1e3 * reference / ROWS,
                    "ratio": subject / reference,
                    "widest_interval": float((bound.high - bound.low).max()),
                }
            )
    return table


def min_cost_flow(p: np.ndarray, sets: Any) -> float:
    """Acceptance by OR-tools' minimum-cost flow: what cannot be accepted pays one."""
    from ortools.graph.python import min_cost_flow as flow

    scale = 1e12
    source, token = sets.edges()
    count, size = len(sets.mass), len(p)
    supply = np.floor(sets.mass * scale).astype(np.int64)
    room = np.floor(p * scale).astype(np.int64)
    spill = count + size
    graph = flow.SimpleMinCostFlow()
    graph.add_arcs_with_capacity_and_unit_cost(source, count + token, supply[source], np.zeros(len(source), np.int64))
    graph.add_arcs_with_capacity_and_unit_cost(
        np.arange(count), np.full(count, spill), supply, np.ones(count, np.int64)
    )
    graph.add_arcs_with_capacity_and_unit_cost(
        count + np.arange(size), np.full(size, spill), room, np.zeros(size, np.int64)
    )
    graph.set_nodes_supplies(np.arange(count), supply)
    graph.set_nodes_supplies(np.array([spill]), np.array([-int(supply.sum())]))
    if graph.solve() != graph.OPTIMAL:
        raise RuntimeError("min-cost flow found no optimum")
    return 1.0 - graph.optimal_cost() / scale


def emd(p: np.ndarray, sets: Any) -> float:
    """Acceptance by POT's exact transport on the dense cost matrix sets x (tokens + nothing)."""
    import ot

    cost = np.ones((len(sets.mass), len(p)))
    source, token = sets.edges()
    cost[source, token] = 0.0
    return 1.0 - float(ot.emd2(sets.mass / sets.mass.sum(), p / p.sum(), cost, numItermax=2_000_000))


def oracles(runs: int) -> list[dict[str, Any]]:
    """Independent solvers at n = 2 without replacement, beside the prefix scan on the same row."""
    limits = {"lp": 200, "cvxpy": 200, "maxflow": 1000, "min_cost_flow": 200, "emd": 100, "prefix": 1000}
    table = []
    for size in (20, 50, 100, 200, 1000):
        generator = torch.Generator().manual_seed(size)
        p, q = (torch.softmax(2 * torch.randn(1, size, generator=generator, dtype=torch.float64), -1) for _ in range(2))
        truth = float(optimal_acceptance(p, q, 2, "without_replacement").value[0])
        problem, *_ = make_problem(p, q, 2, "without_replacement")
        sets = draft_sets(problem, 0, 2)
        for name, largest in limits.items():
            if size > largest:
                continue
            print(f"V={size} {name}", file=sys.stderr)
            if name in ("min_cost_flow", "emd"):
                solver = min_cost_flow if name == "min_cost_flow" else emd
                call = lambda solver=solver, p=p, sets=sets: solver(p[0].numpy(), sets)  # noqa: E731
            else:
                call = lambda name=name, p=p, q=q: float(  # noqa: E731
                    optimal_acceptance(p, q, 2, "without_replacement", method=name).value[0]
                )
            subject, reference = medians(call, lambda p=p, q=q: optimal_acceptance(p, q, 2), runs)
            table.append(
                {
                    "vocabulary": size,
                    "sets": len(sets.mass),
                    "solver": name,
                    "ms": 1e3 * subject,
                    "times_prefix": subject / reference,
                    "difference": call() - truth,
                }
            )
    return table


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    names = list(rows[0])
    cells = [[f"{row[n]:.3g}" if isinstance(row[n], float) else str(row[n]) for n in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    for line in [names, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    parser.add_argument("--quick", action="store_true", help="three runs of each instead of seven")
    arguments = parser.parse_args()
    runs = 3 if arguments.quick else 7
    result = {"machine": machine(), "production": production(runs), "oracles": oracles(runs)}
    print(" ".join(f"{key}: {value};" for key, value in result["machine"].items()))  # type: ignore[attr-defined]
    show("All of n = 1, 2, 4, 8 together, per position", result["production"])  # type: ignore[arg-type]
    show("n = 2 without replacement, one position", result["oracles"])  # type: ignore[arg-type]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
