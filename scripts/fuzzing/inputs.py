"""One damaged input after another, and what became of each."""

from __future__ import annotations

import random
import resource
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzzing.forms import FORMS, Form
from fuzzing.mutators import BY_ENDING
from mdsd_bounds import InputError

JUMP = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """``kind``: read, refused (one line of ours), foreign (any other exception) or vague (an error without the file's
    name, or of several lines).  ``where`` names the exception and the last place of ours it came through."""

    form: str
    number: int
    kind: str
    where: str
    seconds: float
    grown: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def prepare(form: Form, folder: Path) -> dict[Path, bytes]:
    """The good files of a form, by place in the folder; they can be read."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    form.make(folder)
    form.read(form.path.replace("{}", str(folder)))
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def damage(good: dict[Path, bytes], seed: str) -> tuple[Path, bytes]:
    """Which file is damaged, and its new content."""
    random_ = random.Random(seed)
    name = random_.choice(sorted(good))
    return name, BY_ENDING[name.suffix](good[name], random_)


def inputs(name: str, folder: Path, first: int, last: int) -> Iterator[Outcome]:
    """What inputs ``first`` to ``last`` of a form cause."""
    form = FORMS[name]
    good = prepare(form, folder)
    for number in range(first, last):
        file, data = damage(good, f"{name} {number}")
        # The whole folder anew: a reader may not write, but what it wrote would be read by the next.
        (folder / file).write_bytes(data)
        yield _read(name, number, form, folder)
        (folder / file).write_bytes(good[file])


def _read(name: str, number: int, form: Form, folder: Path) -> Outcome:
    before, start, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), ""
    try:
        form.read(form.path.replace("{}", str(folder)))
        kind = "read"
    except InputError as error:
        text = str(error)
        kind = "refused" if text.isprintable() and str(folder) in text else "vague"
        where = text if kind == "vague" else ""
    except Exception as error:
        kind, where = "foreign", f"{type(error).__name__} at {_place(error)}: {str(error)[:100]}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return Outcome(name, number, kind, where, time.process_time() - start, grown)


def _place(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "mdsd_bounds/" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere of ours"
