"""How a run that mines labels begins, whatever gives the labels: it needs the sandbox, a draft, and its own folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdsd_bounds._backend.whole_files import remove_leftovers
from mdsd_bounds.judge.labels import TASKS, write_facts
from mdsd_bounds.judge.sandbox import require_sandbox
from mdsd_bounds.judge.tasks import Task, check_tasks, tasks_digest
from mdsd_bounds.models.drafts import Draft, make_draft
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError


def begin_mining(
    kind: str,
    target: LoadedModel,
    draft: str,
    tasks: Sequence[Task],
    folder: Path,
    settings: Mapping[str, Any],
    dtype: str,
) -> tuple[Draft, int]:
    """The draft, and the width of the target's states; ``mine.json`` says which run the folder belongs to.

    Raises
    ------
    InputError
        Where programs cannot be contained, the draft cannot be made, or the folder holds another run's labels.
    """
    require_sandbox()
    if not tasks:
        raise InputError("no task: give at least one")
    check_tasks(tasks, "tasks")
    second = make_draft(draft, target, dtype, "cpu")
    width = int(target.model.config.get_text_config().hidden_size)
    facts = {
        "kind": kind,
        "target": target.identity,
        "draft": second.identity,
        "tasks": tasks_digest(tasks),
        "settings": dict(settings),
        "width": width,
    }
    write_facts(folder, facts)
    for held in (folder, folder / TASKS):
        if held.is_dir():
            remove_leftovers(held)
    return second, width
