"""A few ratios that the tests hold to what is recorded: never seconds, and only a threefold loss counts.

    python scripts/benchmarks/guard.py --record

writes ``recorded.json`` beside this file.  One thread, its processor time, and the shipped rows; the least of several
interleaved runs on each side, since other work on the machine can only add time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.timing import SHIPPED, interleaved, logits, machine, softmax_of_both

from mdsd_bounds import acceptance_rate, optimal_acceptance, to_probs

TITLE = "Guarded ratios to softmax of the same two rows, one thread, V = 151,936"

RECORDED = Path(__file__).with_name("recorded.json")
#: A ratio this many times the recorded one is a loss.
ALLOWED = 3.0
ROWS = 4
COUNTS = (1, 2, 4, 8)


def subjects() -> tuple[dict[str, Callable[[], Any]], Callable[[], Any]]:
    """What is timed, by name, and the reference."""
    target, draft = logits(151_936, ROWS)
    p, q = to_probs(target), to_probs(draft)
    calls: dict[str, Callable[[], Any]] = {"to_probs": lambda: (to_probs(target), to_probs(draft))}
    for sampler in ("with_replacement", "greedy"):
        calls[f"bound {sampler}"] = lambda sampler=sampler: optimal_acceptance(p, q, COUNTS, sampler)  # type: ignore[misc]
    calls["rate rrs"] = lambda: acceptance_rate(p, q, 4, sampler="with_replacement", verifier="rrs")
    return calls, softmax_of_both(target, draft)


def measure(runs: int) -> dict[str, float]:
    """Ratio of every subject to the reference."""
    with one_thread():
        calls, reference = subjects()
        ratios = {}
        for name, call in calls.items():
            mine, other = interleaved(runs, call, reference, clock=time.process_time)
            ratios[name] = min(mine) / min(other)
    return ratios


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch and compiled loops on one thread."""
    import numba

    threads, compiled = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        numba.set_num_threads(compiled)


def losses(measured: Mapping[str, float], recorded: Mapping[str, float]) -> dict[str, float]:
    """The subjects that are lost, with how many times the recorded ratio they take."""
    times = {name: measured[name] / recorded[name] for name in recorded}
    return {name: factor for name, factor in times.items() if factor > ALLOWED}


def table(runs: int) -> list[dict[str, Any]]:
    """The ratios beside those recorded."""
    recorded = json.loads(RECORDED.read_text())["ratios"]
    measured = measure(runs)
    return [
        {"subject": name, "ratio": ratio, "recorded": recorded.get(name), "times": ratio / recorded.get(name, ratio)}
        for name, ratio in measured.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--record", action="store_true", help="write what is measured to recorded.json")
    measured = measure(9)
    for name, ratio in measured.items():
        print(f"{name}: {ratio:.3g}")
    if parser.parse_args().record:
        content = {"rows": str(SHIPPED.name), "machine": machine(), "ratios": measured}
        RECORDED.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
