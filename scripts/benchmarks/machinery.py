"""What hand-made machinery brings, each piece beside what would stand in its place: the reason for keeping it.

One thread and its processor time, the system's part included; reading from a cold page cache in elapsed time as well.
A ratio above one is time saved.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.guard import one_thread
from benchmarks.streaming import forget, write
from benchmarks.timing import interleaved, logits
from numba import njit

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds._backend.buffers import _pages, buffer, buffers_kept
from mdsd_bounds._backend.memory import VARIABLE
from mdsd_bounds.bounds.search.ratio_cells import sort_by_ratio
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS

TITLE = "Machinery beside what would stand in its place (ratio above 1: time saved)"

SIZE = 151_936
Pair = tuple[str, str, Callable[[], Any], Callable[[], Any]]


def table(runs: int) -> list[dict[str, Any]]:
    """Milliseconds of each piece and of its stand-in."""
    with one_thread(), tempfile.TemporaryDirectory(prefix="mdsd-bench-") as place:
        path = Path(place) / "dump"
        write(path, 4 * BLOCK_ROWS)
        pairs = [*_memory(), *_softmax(), *(_sort(many) for many in (20, 200, 20_000))]
        with buffers_kept():
            rows = [_row(*pair, runs, time.thread_time) for pair in pairs]
        for clock in (time.thread_time, time.perf_counter):
            rows.append(_read(path, runs, clock))
        return rows


def _memory() -> list[Pair]:
    """Rows of a block of 64 positions, written once: used memory, and fresh memory from either library."""
    shape = (BLOCK_ROWS, SIZE)
    size = 8 * BLOCK_ROWS * SIZE

    def kept() -> None:
        buffer(shape, torch.float64).fill_(1.0)

    return [
        ("kept buffers", "torch.empty", kept, lambda: torch.empty(shape, dtype=torch.float64).fill_(1.0)),
        ("pages from numpy", "torch.empty", lambda: _pages(size).fill(1), lambda: _bytes(size).fill_(1)),
    ]


def _bytes(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _plain_softmax(given: torch.Tensor, kept: torch.Tensor) -> None:
    torch.softmax(given.double(), -1, out=kept)


def _softmax() -> list[Pair]:
    target, _ = logits(SIZE, 16)
    half = target.to(torch.float16)
    kept = torch.empty(16, SIZE, dtype=torch.float64)
    plain = "torch.softmax in float64, unchecked"
    return [
        (
            f"softmax kernel with its checks, {name} logits",
            plain,
            functools.partial(to_probs, given, out=kept),
            functools.partial(_plain_softmax, given, kept),
        )
        for name, given in (("float32", target), ("float16", half))
    ]


@njit(cache=True)
def _by_argsort(ratio, token, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        order = np.argsort(ratio, kind="mergesort")
        ratio[order], token[order]


@njit(cache=True)
def _by_stretches(ratio, token, spare_ratio, spare_token, start, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        sort_by_ratio(ratio.copy(), token.copy(), spare_ratio, spare_token, start)


def _sort(many: int) -> Pair:
    ratio, token = np.random.default_rng(many).uniform(0.9, 1.1, many), np.arange(many)
    spare = np.empty(many), np.empty(many, np.int64), np.empty(many + 1, np.int64)
    times = max(1, 20_000 // many)
    return (
        f"sort of {many:,} tokens of one cell",
        "numpy's stable argsort, compiled",
        functools.partial(_by_stretches, ratio, token, *spare, times),
        functools.partial(_by_argsort, ratio, token, times),
    )


def _read(path: Path, runs: int, clock: Callable[[], float]) -> dict[str, Any]:
    """A dump read past the page cache, and through it, from a cold cache."""

    def reading(limit: str) -> Callable[[], None]:
        def run() -> None:
            with mock.patch.dict(os.environ, {VARIABLE: limit}):
                for _ in open_dump(path).batches(BLOCK_ROWS):
                    pass

        return run

    forgetting = lambda: forget(path)  # noqa: E731
    with buffers_kept():
        _, past, _, through = interleaved(runs, forgetting, reading("0.1"), forgetting, reading("1e6"), clock=clock)
    name = "elapsed" if clock is time.perf_counter else "processor"
    return _line(f"read past the page cache, {name}", "read through it", past, through)


def _row(
    what: str, instead: str, mine: Callable[[], Any], other: Callable[[], Any], runs: int, clock: Callable[[], float]
) -> dict[str, Any]:
    print(what, file=sys.stderr)
    return _line(what, instead, *interleaved(runs, mine, other, clock=clock))


def _line(what: str, instead: str, mine: list[float], other: list[float]) -> dict[str, Any]:
    one, two = statistics.median(mine), statistics.median(other)
    return {"what": what, "instead of": instead, "ms": 1e3 * one, "instead_ms": 1e3 * two, "ratio": two / one}
