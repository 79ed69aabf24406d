"""The loop on a Ray cluster of two workers: the same bytes, and nothing lost when a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.pipeline.evaluate_block import BLOCK_ROWS, Settings
from mdsd_bounds.pipeline.run import Execution, run

ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")

ROWS, SIZE = 7 * BLOCK_ROWS + 6, 30  # eight parts
SETTINGS = Settings(samplers=("with_replacement", "without_replacement"), drafts=(1, 3))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dump") / "pair.npz"
    generator = np.random.default_rng(0)
    target = generator.normal(size=(ROWS, SIZE)).astype(np.float32) * 2
    np.savez(path, target_logits=target, draft_logits=target + generator.normal(size=target.shape).astype(np.float32))
    return str(path)


@pytest.fixture(scope="module")
def whole(pair: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("local") / "out.parquet"
    run(open_dump(pair), SETTINGS, out=str(out))
    return out.read_bytes()


@pytest.mark.usefixtures("cluster")
def test_a_worker_killed_in_the_middle_loses_nothing(
    pair: str, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdsd_bounds.pipeline.engines import ray_data

    original, killed = ray_data.make_worker, str(tmp_path / "killed-")

    def make_worker(task: Any) -> Any:
        work = original(task)

        def mortal(batch: Any) -> Any:
            part = int(batch["part"][0])
            first = not os.path.exists(f"{killed}{part}")
            if part in (2, 5) and first:
                open(f"{killed}{part}", "w").close()
                if part == 5:  # once with the part written but not yet reported
                    work(batch)
                os.kill(os.getpid(), signal.SIGKILL)
            return work(batch)

        return mortal

    monkeypatch.setattr(ray_data, "make_worker", make_worker)
    out, seen = tmp_path / "out.parquet", []
    assert run(open_dump(pair), SETTINGS, out=str(out), shard=(1, 3), execution=Execution("ray")) is None
    table = run(
        open_dump(pair),
        SETTINGS,
        out=f"file://{out}",
        execution=Execution("ray"),
        progress=lambda done, _: seen.append(done),
    )
    assert seen == sorted(set(seen))
    assert seen[0] == 2 * BLOCK_ROWS + 6  # parts 1, 4 and 7: the shard before is not computed again
    assert seen[-1] == ROWS
    assert {path.name for path in tmp_path.glob("killed-*")} == {"killed-2", "killed-5"}
    assert out.read_bytes() == whole
    assert table is not None
    assert not table.duplicated(["sampler", "drafts", "row"]).any()
    assert len(table) == 4 * ROWS


@pytest.mark.usefixtures("cluster")
def test_a_part_that_kills_every_worker_is_named(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mdsd_bounds.pipeline.engines import ray_data

    original = ray_data.make_worker
    monkeypatch.setattr(ray_data, "TRIES", 1)

    def make_worker(task: Any) -> Any:
        work, begin = original(task), task.begin

        def mortal(batch: Any) -> Any:
            if int(batch["part"][0]) == 1 and begin(1) <= 2:  # as the system ends what takes too much memory
                os.kill(os.getpid(), signal.SIGKILL)
            return work(batch)

        return mortal

    monkeypatch.setattr(ray_data, "make_worker", make_worker)
    with pytest.raises(
        InputError,
        match=rf"rows {BLOCK_ROWS} to {2 * BLOCK_ROWS - 1}: \d workers died over them, perhaps out of memory",
    ):
        run(open_dump(pair), SETTINGS, out=str(tmp_path / "out.parquet"), execution=Execution("ray"))


@pytest.mark.usefixtures("cluster")
def test_bad_rows_and_places_give_one_line(tmp_path: Path, pair: str) -> None:
    rows = np.zeros((2 * BLOCK_ROWS + 6, 5), dtype=np.float32)
    bad = rows.copy()
    bad[67, 2] = np.nan
    np.savez(tmp_path / "bad.npz", target_logits=bad, draft_logits=rows)
    with pytest.raises(InputError, match=r"bad.npz target_logits row 67: NaN"):
        run(open_dump(tmp_path / "bad.npz"), SETTINGS, execution=Execution("ray"))
    with pytest.raises(InputError, match="this one's memory; give a shared path"):
        run(open_dump(pair), SETTINGS, out="memory://out.parquet", execution=Execution("ray"))


@pytest.mark.usefixtures("cluster")
def test_actors_of_gpu_clusters(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The actors run on the processor here: the cluster has no GPU to give, and torch sees none.
    monkeypatch.setattr("mdsd_bounds.pipeline.engines.ray_data._gpus", lambda ray: 2)
    monkeypatch.setattr("mdsd_bounds.pipeline.engines.ray_data.GPUS_PER_ACTOR", 0)
    table = run(open_dump(pair), SETTINGS, execution=Execution("ray"))
    pd.testing.assert_frame_equal(table, run(open_dump(pair), SETTINGS))


def test_without_ray_the_extra_is_named(pair: str) -> None:
    code = "import sys\nsys.modules['ray'] = None\nfrom mdsd_bounds.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", code, "bounds", pair, "--engine", "ray"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'mdsd-bounds[cluster]'" in done.stderr
