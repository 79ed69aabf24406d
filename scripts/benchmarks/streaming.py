"""The loop over a dump on disk against its two limits: the same blocks computed from memory, and the disk alone.

    python scripts/benchmarks/streaming.py [--gigabytes 20] [--folder /tmp] [--sampler greedy]

The dump repeats the shipped rows (or rows drawn to look like them) in the native format; its files are dropped from the
page cache before each timed pass, so that the disk is read.  A small dump is read as one too large for that cache is,
past it, unless ``--through-cache`` is given.  ``share`` is the loop's rate over the lower of the two limits.  Peak
memory is that of a process of its own that runs ``mdsd bounds`` over the whole dump, with the join.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.timing import logits, machine

from mdsd_bounds import open_dump
from mdsd_bounds._backend.buffers import buffers_kept
from mdsd_bounds._backend.memory import VARIABLE
from mdsd_bounds.dumps import Dump, DumpWriter, LogitBatch
from mdsd_bounds.pipeline.engines.job import Job, compute, read
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.run import run

TITLE = "The loop over a dump on disk, n = 1, 2, 4, 8, V = 151,936"

SAMPLERS = ("greedy", "with_replacement")
SIZE = 151_936
#: Blocks of a timed pass: a quarter of the dump, for the first read of a pass has nothing to overlap with.
BLOCKS = 4
#: Blocks held in memory at most; they are computed in turn until there were as many as in a pass.
HELD = 32


def table(
    runs: int,
    gigabytes: float = 1.2,
    folder: str | None = None,
    samplers: tuple[str, ...] = SAMPLERS,
    verifiers: tuple[str, ...] = (),
    through_cache: bool = False,
) -> list[dict[str, Any]]:
    """One row per sampler; with ``verifiers``, of ``mdsd compare``."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="mdsd-bench-") as place, _memory(through_cache):
        path = Path(place) / "dump"
        write(path, max(int(gigabytes * 1e9 / (4 * SIZE)), BLOCKS * BLOCK_ROWS))
        facts = {"verifiers": ", ".join(verifiers), "through_cache": through_cache}
        return [rates(path, sampler, runs, verifiers) | whole(path, sampler, verifiers) | facts for sampler in samplers]


@contextlib.contextmanager
def _memory(through_cache: bool) -> Iterator[None]:
    """Dumps opened meanwhile count as small, or as too large for the page cache."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1e6" if through_cache else "0.1"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def write(path: Path, rows: int) -> None:
    """A native dump of the shipped rows in another order each time round."""
    target, draft = (x.half() for x in logits(SIZE, BLOCK_ROWS))
    with DumpWriter(path, shard_rows=BLOCK_ROWS) as writer:
        for start in range(0, rows, BLOCK_ROWS):
            order = torch.randperm(BLOCK_ROWS, generator=torch.Generator().manual_seed(start))
            order = order[: rows - start]
            writer.append(target[order], draft[order])
    os.sync()


def forget(path: Path) -> None:
    """Drop a dump's files from the page cache."""
    for file in path.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def rates(path: Path, sampler: str, runs: int, verifiers: tuple[str, ...]) -> dict[str, Any]:
    """Seconds per position of the loop, of its blocks from memory and of reading alone, in turn."""
    dump, settings = open_dump(path), Settings(samplers=(sampler,), drafts=(1, 2, 4, 8), verifiers=verifiers)
    job = Job(dump, settings, len(dump))
    shards = max(len(job.blocks) // max(BLOCKS, len(job.blocks) // 4), 1)
    times: dict[str, list[float]] = {"loop": [], "memory": [], "disk": []}
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        for turn in range(runs + 1):
            mine = job.blocks[turn % shards :: shards]
            held = [read(dump, *block) for block in mine[:HELD]]
            held = [held[i % len(held)] for i in range(len(mine))]
            rows = dict.fromkeys(times, sum(stop - start for start, stop in mine))
            rows["memory"] = sum(len(batch.row) for batch in held)
            out = str(Path(place) / f"{turn}.parquet")
            calls: dict[str, Callable[[], Any]] = {
                "loop": lambda out=out, turn=turn: run(dump, settings, out=out, shard=(turn % shards, shards)),  # type: ignore[misc]
                "memory": lambda held=held: _compute_all(job, held),  # type: ignore[misc]
                "disk": lambda mine=mine: _read_all(dump, mine),  # type: ignore[misc]
            }
            for name, call in calls.items():
                forget(path)
                begun = time.perf_counter()
                call()
                if turn:
                    times[name].append((time.perf_counter() - begun) / rows[name])
    loop, memory, disk = (1e3 * statistics.median(times[name]) for name in times)
    return {
        "sampler": sampler,
        "loop_ms": loop,
        "memory_ms": memory,
        "disk_ms": disk,
        "share": max(memory, disk) / loop,
        "disk_MB_per_s": 4 * SIZE / 1e3 / disk,
    }


def _read_all(dump: Dump, blocks: list[tuple[int, int]]) -> None:
    with buffers_kept():
        for block in blocks:
            read(dump, *block)


def _compute_all(job: Job, batches: list[LogitBatch]) -> None:
    with buffers_kept():
        for batch in batches:
            compute(job, batch)


def whole(path: Path, sampler: str, verifiers: tuple[str, ...]) -> dict[str, Any]:
    """Peak memory and time of ``mdsd bounds`` or ``mdsd compare`` over the whole dump, in a process of its own."""
    forget(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        asked = ["compare", "--verifier", ",".join(verifiers)] if verifiers else ["bounds"]
        command = [sys.executable, "-m", "mdsd_bounds.cli", *asked, str(path), "--sampler", sampler, "--quiet"]
        # The parent's own peak would be handed down by a fork.
        code = (
            "import json, resource, subprocess, sys, time\nbegun = time.perf_counter()\n"
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
            "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
            "print(json.dumps([peak, time.perf_counter() - begun]))\n"
        )
        out = str(Path(place) / "out.parquet")
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--out", out], check=True, capture_output=True, text=True
        )
        peak, seconds = json.loads(done.stdout)
        dump = open_dump(path)
        return {
            "gigabytes": dump.facts.bytes / 1e9,
            "peak_GB": peak * 1024 / 1e9,
            "whole_ms": 1e3 * seconds / len(dump),
            "result_bytes": Path(out).stat().st_size / len(dump),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", help="where the dump is made, and removed again")
    parser.add_argument("--sampler", default=",".join(SAMPLERS))
    parser.add_argument("--verifier", default="", help="verifiers of mdsd compare; without them, mdsd bounds")
    parser.add_argument("--out", type=Path, help="a JSON of scripts/bench.py whose part on streaming is replaced")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--through-cache", action="store_true", help="read as a dump that fits the page cache is read")
    arguments = parser.parse_args()
    samplers = tuple(arguments.sampler.split(","))
    verifiers = tuple(name for name in arguments.verifier.split(",") if name)
    rows = table(arguments.runs, arguments.gigabytes, arguments.folder, samplers, verifiers, arguments.through_cache)
    part = {"title": TITLE, "machine": machine(), "rows": rows}
    print(json.dumps(part, indent=1))
    if arguments.out is not None:
        held = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        arguments.out.write_text(json.dumps(held | {"streaming": part}, indent=1))
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
