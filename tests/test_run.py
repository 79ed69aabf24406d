"""The loop: the same bytes however it is cut, interrupted or shared, and one clear line when something breaks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.cli import main
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.pipeline import part_files as store
from mdsd_bounds.pipeline.engines import ENGINES, Job, job, local
from mdsd_bounds.pipeline.engines.job import reads
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.part_files import claim, open_store
from mdsd_bounds.pipeline.run import Execution, run

ROWS, SIZE = 6 * BLOCK_ROWS + 1, 40  # six blocks and a single row
SETTINGS = Settings(samplers=("with_replacement", "top_k"), drafts=(1, 3))
#: Monte Carlo rates have seeds that belong to blocks, so that they change where a block is cut elsewhere.
DRAWN = Settings(samplers=("without_replacement",), drafts=(3,), verifiers=("nss",), samples=4)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dump")
    generator = np.random.default_rng(0)
    target = generator.normal(size=(ROWS, SIZE)).astype(np.float32) * 2
    draft = target + generator.normal(size=(ROWS, SIZE)).astype(np.float32)
    np.save(folder / "target_logits.npy", target)
    np.save(folder / "draft_logits.npy", draft)
    return str(folder)


@pytest.fixture
def copied(pair: str, tmp_path: Path) -> Path:
    """The dump once more, for tests that damage it."""
    folder = tmp_path / "dump"
    folder.mkdir()
    for file in Path(pair).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def to_bytes(pair: str, out: Path, settings: Settings = SETTINGS, **options: Any) -> bytes:
    run(open_dump(pair), settings, out=str(out), force=True, **options)
    assert not Path(f"{out}.parts").exists()
    assert [path.name for path in out.parent.iterdir() if ".tmp" in path.name] == []
    return out.read_bytes()


@pytest.mark.parametrize("settings", [SETTINGS, DRAWN], ids=["bounds", "drawn"])
def test_same_bytes_for_every_batch_size_and_number_of_shards(pair: str, tmp_path: Path, settings: Settings) -> None:
    whole = to_bytes(pair, tmp_path / "whole.parquet", settings)
    for batch_rows in (1, BLOCK_ROWS + 1, 2 * BLOCK_ROWS, 10**6):
        assert to_bytes(pair, tmp_path / "batch.parquet", settings, execution=Execution(batch_rows=batch_rows)) == whole
    for shards in (2, 5, 9):
        out = tmp_path / f"{shards}.parquet"
        order = [*range(1, shards), 0]
        for index in order[:-1]:
            assert run(open_dump(pair), settings, out=str(out), shard=(index, shards)) is None
        assert not out.exists()
        assert to_bytes(pair, out, settings, shard=(0, shards)) == whole
    table = run(open_dump(pair), settings)
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "whole.parquet"))
    assert sorted(set(table["row"])) == list(range(ROWS))


def test_blocks_cut_elsewhere_are_seen(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The comparison of bytes above can fail: blocks that follow the batch size would give these.
    whole = to_bytes(pair, tmp_path / "whole.parquet", DRAWN)
    monkeypatch.setattr(job, "BLOCK_ROWS", 16)
    assert to_bytes(pair, tmp_path / "other.parquet", DRAWN) != whole


@pytest.mark.parametrize(
    ("samplers", "verifiers"),
    [
        (("with_replacement",), ()),
        # Rules that work on single rows: sums over a long vector are split among threads, unless they are held to one.
        (("without_replacement",), ("rrs_without_replacement", "nss")),
        (("top_m_plus",), ("optimal",)),
    ],
)
def test_same_numbers_with_one_thread_and_two(
    samplers: tuple[str, ...], verifiers: tuple[str, ...], tmp_path: Path
) -> None:
    dump = open_dump(Path(__file__).parent.parent / "data" / "qwen2.5-coder-humaneval")
    settings = Settings(samplers=samplers, drafts=(1, 2, 4), verifiers=verifiers, samples=4)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(to_bytes(str(dump.facts.path), tmp_path / f"{number}.parquet", settings, limit=3))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


@pytest.mark.parametrize("rows", [1, 2, *(k * BLOCK_ROWS + e for k in (1, 2) for e in (-1, 0, 1, 2)), 1000])
@pytest.mark.parametrize("max_parts", [1, 3, 10**6])
def test_blocks_and_parts_cover_every_row_once(pair: str, rows: int, max_parts: int) -> None:
    whole = Job(open_dump(pair), SETTINGS, rows, max_parts=max_parts)
    covered = [row for part in whole.parts for start, stop in part for row in range(start, stop)]
    assert covered == list(range(rows))
    assert len(whole.parts) <= max_parts
    assert all(stop - start > 1 for start, stop in whole.blocks) or rows == 1
    for batch_rows in (1, BLOCK_ROWS + 8, 2 * BLOCK_ROWS, 10**4):
        groups = reads(replace(whole, batch_rows=batch_rows), whole.blocks)
        assert [block for group in groups for block in group] == whole.blocks
        assert all(len(group) == 1 or group[-1][1] - group[0][0] <= batch_rows for group in groups)


def test_parts_of_several_blocks_hold_the_same_table(pair: str, tmp_path: Path) -> None:
    few = to_bytes(pair, tmp_path / "few.parquet", execution=Execution(max_parts=2))
    assert few == to_bytes(pair, tmp_path / "many.parquet")


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
@pytest.mark.parametrize("batch_rows", [1, BLOCK_ROWS, 2 * BLOCK_ROWS + 5, 10**6])
def test_batches_are_what_is_read_at_once(
    pair: str, batch_rows: int, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, read_rows = local.read, []

    def read(dump: Any, start: int, stop: int, *, text: bool) -> Any:
        read_rows.append((start, stop))
        return original(dump, start, stop, text=text)

    monkeypatch.setattr(local, "read", read)
    whole = Job(open_dump(pair), SETTINGS, len(open_dump(pair)))
    mine = whole.blocks[shard[0] :: shard[1]]
    run(
        open_dump(pair),
        SETTINGS,
        out=str(tmp_path / "out.parquet"),
        shard=shard,
        execution=Execution(batch_rows=batch_rows),
    )
    assert sum(stop - start for start, stop in read_rows) == sum(stop - start for start, stop in mine)
    # Blocks that are no neighbours are never read together.
    assert len(read_rows) == len(reads(replace(whole, batch_rows=batch_rows if shard == (0, 1) else 1), mine))
    if batch_rows == 10**6 and shard == (0, 1):
        assert len(read_rows) == 1


def test_a_shard_beyond_the_parts_leaves_nothing_behind(pair: str, tmp_path: Path) -> None:
    out, parts = tmp_path / "out.parquet", len(Job(open_dump(pair), SETTINGS, len(open_dump(pair))).parts)
    for index in range(parts + 2):
        run(open_dump(pair), SETTINGS, out=str(out), shard=(index, parts + 2))
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert out.read_bytes() == to_bytes(pair, tmp_path / "whole.parquet")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_that_is_kept_keeps_no_reader(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
    bad = rows.copy()
    bad[70, 3] = np.nan
    np.savez(tmp_path / "bad.npz", target_logits=rows, draft_logits=bad)
    before, kept = threading.active_count(), []
    for _ in range(4):
        with pytest.raises(InputError, match="row 70: NaN") as error:
            run(open_dump(tmp_path / "bad.npz"), SETTINGS)
        kept.append(error)
    assert threading.active_count() == before


def test_the_next_rows_are_read_while_the_present_ones_are_computed(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dump, begun, computed = open_dump(pair), [threading.Event() for _ in range(8)], []

    def read_rows(start: int, stop: int) -> Any:
        begun[start // BLOCK_ROWS].set()
        # Never more than the present read and the next are in memory.
        assert start // BLOCK_ROWS <= len(computed) + 1
        return dump.read_rows(start, stop)

    original = local.compute

    def compute(work: Job, batch: Any) -> pd.DataFrame:
        number = int(batch.row[0]) // BLOCK_ROWS
        if number < 5:
            assert begun[number + 1].wait(timeout=30), "the next rows are not being read"
        frame = original(work, batch)
        computed.append(number)
        return frame

    monkeypatch.setattr(local, "compute", compute)
    run(replace(dump, read_rows=read_rows), SETTINGS)
    assert computed == list(range(6))


def test_the_joined_file_is_written_group_by_group(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.parquet"
    to_bytes(pair, whole)
    monkeypatch.setattr(store, "GROUP_LINES", 200)
    out = tmp_path / "out.parquet"
    to_bytes(pair, out)
    lines = [pq.ParquetFile(out).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(out).num_row_groups)]
    assert len(lines) > 2
    assert all(number >= 200 for number in lines[:-1])
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(whole))


def test_killed_and_run_again(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = to_bytes(pair, tmp_path / "whole.parquet")
    out = tmp_path / "out.parquet"
    code = (
        "import glob, sys, time\nfrom mdsd_bounds import open_dump\n"
        "from mdsd_bounds.pipeline.evaluate_block import Settings\n"
        "from mdsd_bounds.pipeline.run import run\nfrom tests_settings import SETTINGS\n"
        "run(open_dump(sys.argv[1]), SETTINGS, out=sys.argv[2],"
        " progress=lambda *_: time.sleep(30 if len(glob.glob(sys.argv[2] + '.parts/*.parquet')) >= 3 else 0))\n"
    )
    (tmp_path / "tests_settings.py").write_text(
        "from mdsd_bounds.pipeline.evaluate_block import Settings\nfrom mdsd_bounds.sampling import SamplingOptions\n"
        f"SETTINGS = {SETTINGS!r}\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, pair, str(out)], cwd=tmp_path) as process:
        parts = Path(f"{out}.parts")
        _wait(lambda: len(list(parts.glob("*.parquet"))) >= 3)
        process.send_signal(signal.SIGKILL)
    done = len(list(parts.glob("*.parquet")))
    assert 3 <= done < 6
    computed: list[int] = []
    original = local.compute
    monkeypatch.setattr(
        local, "compute", lambda work, batch: computed.append(int(batch.row[0])) or original(work, batch)
    )
    assert to_bytes(pair, out) == whole
    assert len(computed) == 6 - done


def _wait(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


def test_a_second_run_of_the_same_shard_is_refused(pair: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out.parquet")

    def meet(done: int, total: int) -> None:
        if done == 0:
            with pytest.raises(InputError, match=r"another run is writing shard 1/2 there"):
                run(open_dump(pair), SETTINGS, out=out, shard=(1, 2))
            with pytest.raises(InputError, match=r"a run with --shard 1/2 is writing there"):
                run(open_dump(pair), SETTINGS, out=out, shard=(0, 1))
            with pytest.raises(InputError, match=r"other settings or another dump"):
                run(open_dump(pair), replace(SETTINGS, drafts=(2,)), out=out)

    assert run(open_dump(pair), SETTINGS, out=out, shard=(1, 2), progress=meet) is None
    run(open_dump(pair), SETTINGS, out=out)  # another number of shards afterwards goes on with what is there
    assert Path(out).read_bytes() == to_bytes(pair, tmp_path / "whole.parquet")


@pytest.mark.parametrize("place", ["file", "memory"])
def test_two_runs_without_locks_do_no_harm(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # As on object stores: a whole run comes, joins and removes the parts in the middle of another.
    monkeypatch.setattr(store, "_lock", lambda path, wait=False: os.open(path, os.O_RDWR | os.O_CREAT))
    out = f"memory://{tmp_path.name}/out.parquet" if place == "memory" else str(tmp_path / "out.parquet")
    met = []

    def meet(done: int, total: int) -> None:
        if done > 60 and not met:
            met.append(run(open_dump(pair), SETTINGS, out=out))

    table = run(open_dump(pair), SETTINGS, out=out, progress=meet)
    pd.testing.assert_frame_equal(table, met[0])
    fs, path = fsspec.core.url_to_fs(out)
    assert fs.cat_file(path) == to_bytes(pair, tmp_path / "whole.parquet")
    assert not fs.exists(f"{path}.parts")


def test_shards_that_finish_together(pair: str, tmp_path: Path) -> None:
    whole = to_bytes(pair, tmp_path / "whole.parquet")
    for attempt in range(5):
        out, gate, results = tmp_path / f"{attempt}.parquet", threading.Barrier(2), [None, None]

        def work(index: int, out: Path = out, gate: threading.Barrier = gate, results: list[Any] = results) -> None:
            def meet(done: int, total: int) -> None:
                if done == total:
                    gate.wait(timeout=30)

            results[index] = run(open_dump(pair), SETTINGS, out=str(out), shard=(index, 2), progress=meet)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert any(result is not None for result in results)
        assert out.read_bytes() == whole
        assert not Path(f"{out}.parts").exists()


def test_a_claim_ends_with_its_holder(pair: str, tmp_path: Path) -> None:
    place = open_store(str(tmp_path / "out.parquet"), "key")
    with claim(place, (0, 1)), pytest.raises(InputError, match="another run"), claim(place, (0, 1)):
        pass
    with claim(place, (0, 1)):
        pass


def test_a_dump_that_shrinks_is_named_and_finished_parts_stay(copied: Path, tmp_path: Path) -> None:
    file, out = copied / "target_logits.npy", tmp_path / "out.parquet"
    data = file.read_bytes()

    def shrink(done: int, total: int) -> None:
        if done >= 2 * BLOCK_ROWS:
            os.truncate(file, len(data) // 2)

    with pytest.raises(InputError, match=r"ends \d+ bytes early, .*; the file was cut short") as caught:
        run(open_dump(copied), SETTINGS, out=str(out), progress=shrink)
    assert "\n" not in str(caught.value)
    assert len(list(Path(f"{out}.parts").glob("*.parquet"))) >= 2
    assert not out.exists()
    file.write_bytes(data)
    assert to_bytes(str(copied), out) == to_bytes(str(copied), tmp_path / "whole.parquet")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_native_dump_that_shrinks(tmp_path: Path, damage: str) -> None:
    with DumpWriter(tmp_path / "native", shard_rows=BLOCK_ROWS) as writer:
        rows = torch.randn(3 * BLOCK_ROWS, SIZE, generator=torch.Generator().manual_seed(0))
        writer.append(rows, rows.flip(0))

    def shrink(done: int, total: int) -> None:
        shard = tmp_path / "native" / "shard-00002.safetensors"
        if damage == "gone":
            shard.unlink(missing_ok=True)
        else:
            os.truncate(shard, 1000)

    with pytest.raises(InputError, match=r"shard-00002.*(cannot be read|missing|gone)"):
        run(open_dump(tmp_path / "native"), SETTINGS, out=str(tmp_path / "out.parquet"), progress=shrink)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")],
    ids=["python", "torch"],
)
def test_out_of_memory_is_one_line(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = job.evaluate_block

    def evaluate(batch: Any, settings: Settings, name: str) -> pd.DataFrame:
        if int(batch.row[0]) == 2 * BLOCK_ROWS:
            raise error
        return original(batch, settings, name)

    monkeypatch.setattr(job, "evaluate_block", evaluate)
    out = tmp_path / "out.parquet"
    with pytest.raises(
        InputError, match=rf"rows {2 * BLOCK_ROWS} to {3 * BLOCK_ROWS - 1}: out of memory; .* finished parts are intact"
    ):
        run(open_dump(pair), SETTINGS, out=str(out))
    assert len(list(Path(f"{out}.parts").glob("*.parquet"))) == 2


def test_other_errors_are_not_taken_for_memory(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(job, "evaluate_block", evaluate)
    with pytest.raises(RuntimeError, match="a mistake"):
        run(open_dump(pair), SETTINGS)


def test_memory_that_really_ends(tmp_path: Path) -> None:
    rows = np.broadcast_to(np.linspace(-9.0, 9.0, 200_000, dtype=np.float16), (BLOCK_ROWS, 200_000))
    for name in ("target_logits", "draft_logits"):
        np.save(tmp_path / f"{name}.npy", rows)
    code = (
        "import resource, sys\nfrom mdsd_bounds import InputError, open_dump\n"
        "from mdsd_bounds.pipeline.run import run\n"
        "from mdsd_bounds.pipeline.evaluate_block import Settings\n"
        "settings = Settings(samplers=('top_k',), drafts=(1,))\n"
        "dump = open_dump(sys.argv[1])\nrun(dump, settings, limit=1)\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (60 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "try:\n    run(dump, settings)\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"rows 0 to {BLOCK_ROWS - 1}: out of memory" in done.stdout, done.stderr


def test_a_full_disk_while_parts_are_written(pair: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "mdsd_bounds.cli", "bounds", pair, "--sampler", "top_k", "--quiet", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "could not be written (File too large); finished parts are intact: make room" in done.stderr
    assert list(Path(f"{out}.parts").glob("*.tmp")) == []


def test_a_full_disk_while_the_parts_are_joined(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("what was there before")

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    original = store.Store._write_groups
    monkeypatch.setattr(store.Store, "_write_groups", lambda self, stream, parts: Full().write(b""))
    with pytest.raises(
        InputError, match=r"could not be written \(No space left on device\); finished parts are intact"
    ):
        run(open_dump(pair), SETTINGS, out=str(out), force=True)
    assert len(list(Path(f"{out}.parts").glob("*.parquet"))) == 6
    assert out.read_text() == "what was there before"
    monkeypatch.setattr(store.Store, "_write_groups", original)
    monkeypatch.setattr(local, "compute", None)  # nothing is computed again
    assert to_bytes(pair, out)


def test_a_damaged_part_is_named(pair: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(open_dump(pair), SETTINGS, out=str(out), shard=(0, 2))
    part = sorted(Path(f"{out}.parts").glob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match=r"damaged part .* delete it and run again"):
        run(open_dump(pair), SETTINGS, out=str(out), shard=(1, 2))
    part.unlink()
    assert to_bytes(pair, out) == to_bytes(pair, tmp_path / "whole.parquet")


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_results_go_to_any_file_system(pair: str, tmp_path: Path, scheme: str) -> None:
    out = f"file://{tmp_path}/out.parquet" if scheme == "file" else f"memory://{tmp_path.name}/out.parquet"
    assert run(open_dump(pair), SETTINGS, out=out, shard=(1, 2)) is None
    table = run(open_dump(pair), SETTINGS, out=out, shard=(0, 2))
    fs, path = fsspec.core.url_to_fs(out)
    assert fs.cat_file(path) == to_bytes(pair, tmp_path / "whole.parquet")
    assert not fs.exists(f"{path}.parts")
    assert len(table) == 4 * ROWS


def test_what_an_engine_prints_is_no_data(
    pair: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(*arguments: Any) -> Any:
        print("a worker died")
        return local.run_local(*arguments)

    monkeypatch.setitem(ENGINES, "noisy", noisy)
    monkeypatch.setattr(sys, "argv", ["mdsd", "bounds", pair, "--engine", "noisy", "--format", "json", "--quiet"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr()
    assert json.loads(shown.out)
    assert "a worker died" in shown.err


def test_unknown_engines_and_file_systems(pair: str) -> None:
    with pytest.raises(InputError, match="unknown engine 'gpu'; choose local or ray"):
        run(open_dump(pair), SETTINGS, execution=Execution("gpu"))
    with pytest.raises(InputError, match="nosuch"):
        run(open_dump(pair), SETTINGS, out="nosuch://bucket/out.parquet")


@pytest.mark.parametrize("kind", ["native", "npy"])
def test_dumps_at_urls_give_the_same_rows_and_results(pair: str, tmp_path: Path, kind: str) -> None:
    source = Path(pair)
    if kind == "native":
        source = tmp_path / "native"
        held = open_dump(pair)
        with DumpWriter(source, shard_rows=50) as writer:
            for batch in held.batches(40):
                writer.append(batch.target_logits, batch.draft_logits, doc=batch.row // 7)
    fs = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}/{kind}"
    for file in source.iterdir():
        fs.pipe_file(f"/{tmp_path.name}/{kind}/{file.name}", file.read_bytes())
    here, there = open_dump(source), open_dump(url)
    assert replace(here.facts, path="") == replace(there.facts, path="")
    for start, stop in ((0, 1), (30, 120), (150, ROWS), (0, ROWS)):
        for mine, other in zip(here.read_rows(start, stop)[:2], there.read_rows(start, stop)[:2], strict=True):
            assert torch.equal(mine, other)
    assert to_bytes(url, tmp_path / "there.parquet") == to_bytes(str(source), tmp_path / "here.parquet")
    assert to_bytes(f"file://{source}", tmp_path / "file.parquet") == (tmp_path / "here.parquet").read_bytes()
    with pytest.raises(InputError, match="no such file or folder"):
        open_dump(f"{url}/nothing")


def test_a_shard_that_goes_from_a_url(pair: str, tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "native", shard_rows=BLOCK_ROWS) as writer:
        rows = torch.randn(3 * BLOCK_ROWS, SIZE, generator=torch.Generator().manual_seed(0))
        writer.append(rows, rows.flip(0))
    fs = fsspec.filesystem("memory")
    for file in (tmp_path / "native").iterdir():
        fs.pipe_file(f"/{tmp_path.name}/{file.name}", file.read_bytes())
    dump = open_dump(f"memory://{tmp_path.name}")
    fs.rm(f"/{tmp_path.name}/shard-00002.safetensors")
    with pytest.raises(
        InputError, match=rf"memory://{tmp_path.name}: could not be fetched .* finished parts are intact"
    ):
        run(dump, SETTINGS, out=str(tmp_path / "out.parquet"))


def test_probabilities_are_not_taken_for_logits(tmp_path: Path) -> None:
    rows = torch.softmax(torch.randn(6, SIZE, generator=torch.Generator().manual_seed(0)), -1)
    np.savez(tmp_path / "distributions.npz", target_logits=rows.log().numpy(), draft_logits=rows.numpy())
    with pytest.raises(InputError, match=r"distributions.npz draft_logits: .* probabilities; save their logarithms"):
        run(open_dump(tmp_path / "distributions.npz"), SETTINGS)
    # A single row that is a distribution is named: no row of logits is one by chance.
    mixed = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(1))
    mixed[3] = rows[3]
    np.savez(tmp_path / "mixed.npz", target_logits=rows.log().numpy(), draft_logits=mixed.numpy())
    with pytest.raises(InputError, match=r"mixed.npz draft_logits: row 3 .* probabilities"):
        run(open_dump(tmp_path / "mixed.npz"), SETTINGS)
