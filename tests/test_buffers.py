"""Memory used again never holds two things at once, and rows read past the system's cache are the same rows."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds._backend.buffers import LEAST_BYTES, PAGE, buffer, buffers_kept
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.dumps import safetensors_shard as shard
from mdsd_bounds.pipeline.engines.job import read

SIZE = (3, LEAST_BYTES)
WIDTH, ROWS, SHARD_ROWS = 40_000, 130, 50


def test_memory_comes_back_when_nothing_looks_at_it_any_more() -> None:
    with buffers_kept():
        first = buffer(SIZE, torch.uint8)
        place = first.data_ptr()
        part = first[1:, 5:].view(torch.int8).numpy()[:, ::2]
        del first
        gc.collect()
        other = buffer(SIZE, torch.uint8)
        assert other.data_ptr() != place, "a slice still looks at the first one"
        part[:] = 1
        other.fill_(2)
        assert (part == 1).all()
        del part
        assert buffer(SIZE, torch.uint8).data_ptr() == place


def test_memory_is_of_the_asked_kind_and_place() -> None:
    with buffers_kept():
        for offset in (0, 2, 4094, 3 * PAGE + 96):
            made = buffer((2, LEAST_BYTES), torch.float16, offset)
            assert made.shape == (2, LEAST_BYTES)
            assert made.dtype == torch.float16
            assert made.is_contiguous()
            assert made.data_ptr() % PAGE == offset % PAGE
        assert buffer((2, LEAST_BYTES), torch.float64, 4091).data_ptr() % 8 == 0
        assert buffer((3, 5), torch.float64).shape == (3, 5)
        assert buffer((0, LEAST_BYTES), torch.float64).shape == (0, LEAST_BYTES)


def test_memory_is_given_back_after_the_last_loop() -> None:
    from mdsd_bounds._backend import buffers

    outside = buffer(SIZE, torch.uint8)
    with buffers_kept():
        late = buffer(SIZE, torch.uint8)
        with buffers_kept():
            buffer(SIZE, torch.uint8)
        assert sum(map(len, buffers._free.values())) == 1, "the outer loop still runs"
    assert not buffers._free
    late.fill_(1)
    del late, outside
    assert not buffers._free, "nobody would use it again"


def test_no_more_is_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from mdsd_bounds._backend import buffers

    monkeypatch.setattr(buffers, "MOST_BYTES", 5 * LEAST_BYTES)
    with buffers_kept():
        for rows in range(1, 9):
            buffer((rows, LEAST_BYTES), torch.uint8)
        assert 0 < sum(size * len(held) for size, held in buffers._free.items()) <= 5 * LEAST_BYTES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking while threads run is what is tested
def test_a_child_forked_while_the_lock_is_held_goes_on() -> None:
    from mdsd_bounds._backend import buffers

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with buffers._lock:
            held.set()
            done.wait(timeout=30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(timeout=30)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        with buffers_kept():
            buffer(SIZE, torch.uint8)
        os._exit(0 if not buffers._free else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_threads_never_share_memory_in_use() -> None:
    wrong = []

    def work(mark: int) -> None:
        for _ in range(200):
            mine = buffer(SIZE, torch.uint8)
            mine[:, ::4096] = mark
            if not bool((mine[:, ::4096] == mark).all()):
                wrong.append(mark)

    with buffers_kept():
        threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("past") / "dump"
    generator = torch.Generator().manual_seed(0)
    with DumpWriter(path, shard_rows=SHARD_ROWS) as writer:
        rows = [torch.randn(ROWS, width, generator=generator).half() for width in (WIDTH, WIDTH + 3)]
        writer.append(*rows, doc=torch.arange(ROWS))
    return path


@pytest.fixture
def past_cache(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every dump counts as too large for the cache; what reading past it said."""
    monkeypatch.setenv("MDSD_MEMORY_GB", "0.001")
    said: list[bool] = []
    plain = shard._read_past_cache

    def spy(*given: object) -> bool:
        said.append(plain(*given))  # type: ignore[arg-type]
        return said[-1]

    monkeypatch.setattr(shard, "_read_past_cache", spy)
    return said


@pytest.mark.parametrize(("start", "stop"), [(0, 50), (0, 130), (7, 48), (50, 100), (90, 130), (49, 51), (129, 130)])
def test_rows_read_past_the_cache_are_the_same(
    start: int, stop: int, dump: Path, past_cache: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with buffers_kept():
        found = read(open_dump(dump), start, stop)
        monkeypatch.delenv("MDSD_MEMORY_GB")
        held = read(open_dump(dump), start, stop)
    for name in ("target_logits", "draft_logits", "row", "doc"):
        assert torch.equal(getattr(found, name), getattr(held, name))
    if stop - start > 20 and not any(past_cache):
        pytest.skip("this file system cannot read past its cache")


def test_a_shard_replaced_while_it_is_read_is_one_of_the_two(
    tmp_path: Path, past_cache: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        with DumpWriter(tmp_path / name, shard_rows=50) as writer:
            writer.append(*(torch.full((50, WIDTH), value, dtype=torch.float16) for _ in range(2)))
    first, second = (tmp_path / name / "shard-00000.safetensors" for name in "ab")
    spied = shard._read_past_cache

    def replace_first(*given: object) -> bool:
        if second.exists():
            os.replace(second, first)
        return spied(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(shard, "_read_past_cache", replace_first)
    with buffers_kept():
        rows = read(open_dump(tmp_path / "a"), 0, 50)
    assert not second.exists()
    assert (rows.target_logits == 1).all()
    assert (rows.draft_logits == 1).all()


def test_a_file_system_that_refuses_is_read_as_ever(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = read(open_dump(dump), 0, 50)
    monkeypatch.setenv("MDSD_MEMORY_GB", "0.001")
    place = shard._fill
    asked = []

    def refuse(stream: object, place_: int, memory: memoryview) -> None:
        if len(memory) % PAGE == 0 and memory:
            asked.append(len(memory))
            raise OSError(errno.EINVAL, "Invalid argument")
        place(stream, place_, memory)  # type: ignore[arg-type]

    monkeypatch.setattr(shard, "_fill", refuse)
    with buffers_kept():
        found = read(open_dump(dump), 0, 50)
    assert asked
    assert torch.equal(found.target_logits, held.target_logits)
    assert torch.equal(found.draft_logits, held.draft_logits)


def test_a_disk_that_fails_is_named(dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSD_MEMORY_GB", "0.001")

    def fail(stream: object, place: int, memory: memoryview) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shard, "_fill", fail)
    with buffers_kept(), pytest.raises(InputError, match=r"shard-00000.*Input/output error"):
        read(open_dump(dump), 0, 50)
