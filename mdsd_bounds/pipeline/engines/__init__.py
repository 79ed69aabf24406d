"""Who computes the parts of a run: this process, or a Ray cluster.

An engine is ``engine(job, parts, store) -> iterator of (part, table or None)``: it computes the parts asked for, in any
order, keeps each in the store where there is one, and hands it back where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mdsd_bounds.pipeline.engines.job import Job
from mdsd_bounds.pipeline.engines.local import run_local
from mdsd_bounds.pipeline.part_files import Store
from mdsd_bounds.problem import InputError

__all__ = ["ENGINES", "Engine", "Job", "Store", "get_engine"]

Engine = Callable[[Job, Sequence[int], Store | None], Iterator[tuple[int, Any]]]


def _run_ray(job: Job, parts: Sequence[int], store: Store | None) -> Iterator[tuple[int, Any]]:
    # Ray takes seconds to import, and may not be installed.
    from mdsd_bounds.pipeline.engines.ray_data import run_ray

    return run_ray(job, parts, store)


#: Name of ``--engine`` -> engine.
ENGINES: dict[str, Engine] = {"local": run_local, "ray": _run_ray}


def get_engine(name: str) -> Engine:
    """The engine of a name.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> from mdsd_bounds.pipeline.engines import get_engine
    >>> get_engine("local").__name__
    'run_local'
    """
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; choose {' or '.join(ENGINES)}")
    return ENGINES[name]
