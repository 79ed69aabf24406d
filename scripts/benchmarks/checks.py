"""What the checks of a dump cost the loop once its shards were verified: processor time with them and without, in turn.

    python scripts/benchmarks/checks.py [--blocks 6] [--runs 5] [--folder /tmp]

The dump repeats the shipped rows in the native format and lies in the page cache.  *Without*: no checksum is looked
up, and rows pass the gate (:mod:`mdsd_bounds.dumps.checks`) unseen.  The sampler is the one with the fastest bounds, so
that the checks weigh most.  The least of the runs count: a busy machine makes processor time longer, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.streaming import write
from benchmarks.timing import machine
from torch import Tensor

from mdsd_bounds import open_dump
from mdsd_bounds._backend.memory import VARIABLE
from mdsd_bounds.dumps import base
from mdsd_bounds.dumps.checks import admit
from mdsd_bounds.dumps.formats import native
from mdsd_bounds.dumps.widths import align_widths
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.run import run


def _unseen(
    path: str, first: int, target: Tensor, draft: Tensor, columns: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return *align_widths(target, draft, path)[:2], columns


@contextlib.contextmanager
def _without() -> Iterator[None]:
    with mock.patch.object(base, "admit", _unseen), mock.patch.object(native, "_refuse_damaged"):
        yield


def _nothing() -> dict[str, list[float]]:
    return {"with": [], "without": []}


def measure(blocks: int, runs: int, folder: str | None) -> dict[str, Any]:
    """Seconds of processor time a run, the least, and their ratio; and of the gate alone, a block."""
    settings, times = Settings(("greedy",), (1, 2, 4, 8)), _nothing()
    os.environ[VARIABLE] = "1e6"
    with tempfile.TemporaryDirectory(dir=folder, prefix="mdsd-bench-") as place:
        path = Path(place) / "dump"
        write(path, blocks * BLOCK_ROWS)
        # Checksums of files that were just written are not remembered.
        time.sleep(3)
        for turn in range(runs + 1):
            for name in ("with", "without") if turn % 2 else ("without", "with"):
                with _without() if name == "without" else contextlib.nullcontext():
                    begun = time.process_time()
                    run(open_dump(path), settings)
                if turn:  # the first run verifies
                    times[name].append(time.process_time() - begun)
        batch = next(open_dump(path).batches(BLOCK_ROWS))
        gate = min(_seconds(lambda: admit("x", 0, batch.target_logits, batch.draft_logits, {})) for _ in range(20))
    least = {name: min(seconds) for name, seconds in times.items()}
    share = gate * blocks / least["without"]
    ratio = least["with"] / least["without"]
    return least | {"ratio": ratio, "gate_ms": 1e3 * gate, "gate_share": share, "blocks": blocks, "runs": runs}


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", help="where the dump is made, and removed again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(arguments.blocks, arguments.runs, arguments.folder) | {"machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
