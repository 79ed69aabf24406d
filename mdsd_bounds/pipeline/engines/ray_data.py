"""A Ray cluster: parts as Ray Data tasks, or as calls of one actor per GPU where the cluster has GPUs.

Ray gives a part whose worker died to another one; a part counts as done when its file is there, so that nothing is lost
or doubled.  The cluster is the one that ``RAY_ADDRESS`` names, else one on this machine, else one started for the run.
Every worker opens the dump again and writes its parts itself: both must be on paths that all machines see.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdsd_bounds.dumps.base import Dump
from mdsd_bounds.dumps.how_to_read import named, parted
from mdsd_bounds.pipeline.engines.job import Job, compute_part
from mdsd_bounds.pipeline.part_files import Store
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import SAMPLERS, Sampler, registered_here
from mdsd_bounds.verifiers.registry import portable

#: How often a part is begun; Ray itself would go on for ever with a part that kills every worker.
TRIES = 4

#: Of a GPU, what each actor takes.
GPUS_PER_ACTOR = 1

#: What a worker does with one part: nothing, or the bytes of its table, or the error to show.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A job as it travels to workers: everything but the opened dump.

    ``folder`` is the caller's, from which its modules can be imported; ``samplers`` are those that it registered.
    """

    path: str
    job: Job
    store: Store | None
    gpu: bool
    begin: Callable[[int], int]
    folder: str = ""
    samplers: tuple[Sampler, ...] = ()


def run_ray(job: Job, parts: Sequence[int], store: Store | None) -> Iterator[tuple[int, pa.Table | None]]:
    """Compute the parts on a Ray cluster, in whatever order they finish.

    Raises
    ------
    InputError
        If Ray is missing, the results are in this process's memory, a row is bad, or workers die again and again.
    """
    if not parts:
        return
    ray = _import_ray()
    if store is not None and "memory" in store.fs.protocol:
        raise InputError(f"{store.out}: other processes cannot write to this one's memory; give a shared path")
    with _cluster(ray):
        gpus = _gpus(ray)
        label = _absolute(job.dump.facts.path)
        rules = tuple(portable(rule) for rule in job.settings.verifiers)
        settings = replace(job.settings, verifiers=rules)
        unread = replace(job, dump=Dump(job.dump.facts, _unread), settings=settings)
        own = registered_here(settings.samplers)
        worker = make_worker(Task(label, unread, store, bool(gpus), _counter(ray), os.getcwd(), own))
        # A GPU's worker stays, with the dump open; a core's worker is any free process.
        kind = {"fn_constructor_args": (worker,), "num_gpus": GPUS_PER_ACTOR, "concurrency": gpus} if gpus else {}
        try:
            rows = (
                ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
                .map_batches(_Actor if gpus else worker, batch_size=1, **kind)
                .iter_rows()
            )
            for row in rows:
                yield int(row["part"]), _answer(row, store)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{job.dump.facts.path}: the Ray cluster failed ({reason}); finished parts are intact: fix it and run "
                "again"
            ) from None


def make_worker(task: Task) -> Callable[[Any], Answer]:
    """What a worker runs for a batch of one part number."""
    opened: list[Job] = []

    def work(batch: Any) -> Answer:
        part = int(batch["part"][0])
        answer: dict[str, Any] = {"part": part, "table": b"", "error": "", "gone": False}
        rows = f"{task.job.dump.facts.path}: rows {task.job.parts[part][0][0]} to {task.job.parts[part][-1][1] - 1}"
        try:
            if (tries := task.begin(part)) > TRIES:
                raise InputError(
                    f"{rows}: {tries - 1} workers died over them, perhaps out of memory; finished parts are intact: "
                    "give workers more memory, or ask for fewer samplers or drafts, and run again"
                )
            if not opened:
                from mdsd_bounds.dumps import open_dump

                _prepare(task)
                opened.append(replace(task.job, dump=open_dump(task.path)))
            table = compute_part(opened[0], task.job.parts[part], "cuda" if task.gpu and _sees_gpu() else "cpu")
            if task.store is None:
                buffer = io.BytesIO()
                pq.write_table(table, buffer)
                answer["table"] = buffer.getvalue()
            else:
                task.store.write(part, table)
        except InputError as error:
            answer["error"] = str(error)
        except FileNotFoundError:
            answer["gone"] = True
        return {name: [value] for name, value in answer.items()}

    return work


def _prepare(task: Task) -> None:
    """What the caller's process has and a fresh one lacks: its folder to import from, and its own samplers."""
    if task.folder and task.folder not in sys.path:
        sys.path.append(task.folder)
    for sampler in task.samplers:
        SAMPLERS[sampler.name] = sampler


def _counter(ray: Any) -> Callable[[int], int]:
    """Counts how often each part was begun, in a process that outlives the workers."""

    class Counter:
        def __init__(self) -> None:
            self.tries: dict[int, int] = {}

        def begin(self, part: int) -> int:
            self.tries[part] = self.tries.get(part, 0) + 1
            return self.tries[part]

    counter = ray.remote(num_cpus=0)(Counter).remote()

    def begin(part: int) -> int:
        import ray

        tries: int = ray.get(counter.begin.remote(part))
        return tries

    return begin


class _Actor:
    """A worker that stays, with the dump open and a GPU of its own."""

    def __init__(self, worker: Callable[[Any], Answer]) -> None:
        self.worker = worker

    def __call__(self, batch: Any) -> Answer:
        return self.worker(batch)


def _answer(row: Answer, store: Store | None) -> pa.Table | None:
    if row["error"]:
        raise InputError(str(row["error"]))
    if row["gone"]:
        raise FileNotFoundError(row["part"])
    return pq.read_table(pa.BufferReader(row["table"])) if store is None else None


def _absolute(label: str) -> str:
    """The path of a dump as workers in other folders find it."""
    if "://" in label:
        return label
    name, how = parted(label)
    whole = Path(name).exists()
    joined = ",".join(os.path.abspath(path) for path in ([name] if whole else name.split(",")))
    return named(joined, head=how.head, tokenizer=os.path.abspath(how.tokenizer) if how.tokenizer else None)


def _unread(start: int, stop: int) -> Any:
    raise InputError("the dump is opened by the workers")


def _gpus(ray: Any) -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise InputError(f"--engine ray needs Ray ({error}); pip install 'mdsd-bounds[cluster]'") from None
    return ray


@contextlib.contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    started = not ray.is_initialized()
    if started:
        # stdout is data, and the progress on stderr is this program's own.
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    with warnings.catch_warnings():
        # Ray sets its own deprecated attributes when it makes the context.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Failures are raised, and said in one line, by the caller.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if started:
            ray.shutdown()
