"""How much memory a request may take, and the one line that refuses a larger one."""

from __future__ import annotations

import os
from pathlib import Path

from mdsd_bounds.problem import InputError

#: Environment variable with the limit in GB (1e9 bytes); without it, what the machine or its container has free.
VARIABLE = "MDSD_MEMORY_GB"


def memory_limit() -> float:
    """Bytes that one request may take: :data:`VARIABLE` where it is set, else what is free; infinite if unknown.

    Raises
    ------
    InputError
        If the variable holds no positive number.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return min(_free_on_machine(), _free_in_container())
    try:
        limit = float(given) * 1e9
    except ValueError:
        limit = float("nan")
    if not limit > 0:
        raise InputError(f"{VARIABLE}={given!r}: give a positive number of GB, for example {VARIABLE}=8")
    return limit


def require_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse ``what`` if it needs more bytes than :func:`memory_limit`.

    Raises
    ------
    InputError
        Naming what was asked for, the size it would need, the size given, and the remedy.
    """
    limit = memory_limit()
    if needed > limit:
        raise InputError(
            f"{what} would need {needed / 1e9:.3g} GB, more than the {limit / 1e9:.3g} GB given ({remedy}, or raise "
            f"{VARIABLE})"
        )


def _free_on_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return float("inf")


def _free_in_container() -> float:
    try:
        group = Path("/sys/fs/cgroup")
        most, used = (group / name for name in ("memory.max", "memory.current"))
        return float(most.read_text()) - float(used.read_text())
    except (OSError, ValueError):
        # Not in a container, or one without a limit ("max").
        return float("inf")
