"""Labels on disk: one file a task, written whole, so that a run that was killed goes on after the last task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.dumps.containers.safetensors import load_safetensors, safetensors_bytes, safetensors_notes
from mdsd_bounds.judge.tasks import file_name
from mdsd_bounds.problem import InputError

FACTS, TASKS = "mine.json", "tasks"
#: Columns of labels beside the state, with their dtype.
COLUMNS = {
    "label": torch.int8,
    "place": torch.int64,
    "token": torch.int64,
    "target_token": torch.int64,
    "log_p": torch.float32,
    "log_q": torch.float32,
    "entropy": torch.float32,
    "top": torch.float32,
    "divergence": torch.float32,
}


@dataclass(frozen=True)
class Labels:
    """Labels of one task, or of many joined.

    Attributes
    ----------
    states : Tensor
        ``[N, H]`` of the target's last layer after the draft token, before the final norm.
    columns : dict
        ``label`` 1 where the tests still pass; ``place`` of the token in its text; ``token``; ``target_token``, the
        target's own; ``log_p`` and ``log_q`` of the token, ``entropy`` of p in
        nats, ``top`` its largest probability, and ``divergence``, KL(p || q) in nats.  ``[N]`` each.
    group : Tensor
        ``[N]`` which task.
    words : list of str
        The token in its text, as the target's tokenizer writes it.
    tasks : list of str
        Names of the tasks, by ``group``.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.judge import Labels
    >>> columns, task = {"label": torch.tensor([1, 0, 1])}, torch.tensor([0, 0, 1])
    >>> labels = Labels(torch.zeros(3, 8), columns, task, ["+", "-", "x"], ["first", "second"])
    >>> len(labels), [labels.tasks[group] for group in labels.group]
    (3, ['first', 'first', 'second'])
    """

    states: Tensor
    columns: dict[str, Tensor]
    group: Tensor
    words: list[str] = field(repr=False)
    tasks: list[str] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class TaskLabels:
    """What one task gave: how its own solution ended, and one row a label."""

    task: str
    own: str
    rows: list[dict[str, Any]] = field(repr=False)


def file_of(folder: Path, task: str) -> Path:
    """Where a task's labels lie."""
    return folder / TASKS / (file_name(task) + ".safetensors")


def write_labels(folder: Path, found: TaskLabels, width: int) -> None:
    """Write one task's labels whole."""
    states = torch.stack([row["state"] for row in found.rows]) if found.rows else torch.zeros(0, width)
    arrays = {"states": states.float().contiguous()}
    for name, dtype in COLUMNS.items():
        arrays[name] = torch.tensor([row[name] for row in found.rows], dtype=dtype)
    kept = {key: json.dumps([row[key] for row in found.rows]) for key in ("word", "verdict", "detail", "text")}
    path = file_of(folder, found.task)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors_bytes(arrays, {"task": found.task, "own": found.own, **kept})
    write_whole(path, data, "finished tasks are kept: make room")


def read_task(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Arrays and metadata of one file.

    Raises
    ------
    InputError
        If it is truncated or holds something else.
    """
    remedy = "delete it and mine the task again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    arrays = load_safetensors(data, path, remedy)
    notes = safetensors_notes(data)
    if not {"states", *COLUMNS} <= arrays.keys() or not {"task", "own", "word"} <= notes.keys():
        raise InputError(f"{path}: no file of labels; {remedy}")
    return arrays, notes


def read_labels(folders: Sequence[str | Path]) -> tuple[Labels, dict[str, Any]]:
    """All labels of one or more folders, and what their ``mine.json`` says (of the first).

    Tasks of the same name in two folders are one group.

    Raises
    ------
    InputError
        If there is no label, two folders differ in target or width, or a state is not finite.

    Examples
    --------
    Tokens of a solution replaced by what a draft would have written, each tried in the sandbox (which needs root):

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.judge import SubstituteSettings, Task, read_labels, substitute
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> made = substitute(target, "early-exit:1", [task], folder / "labels", SubstituteSettings(labels=3))
    >>> labels, facts = read_labels([made])
    >>> len(labels), labels.states.shape, facts["kind"]
    (3, torch.Size([3, 16]), 'substitution')
    """
    names: dict[str, int] = {}
    parts, words, groups = [], [], []
    facts = [read_facts(Path(folder)) for folder in folders]
    for folder, own in zip(folders, facts, strict=True):
        if own["target"].get("sha256") != facts[0]["target"].get("sha256") or own["width"] != facts[0]["width"]:
            raise InputError(f"{folder}: labels of another target than {folders[0]}; fit each by itself")
        for path in sorted((Path(folder) / TASKS).glob("*.safetensors")):
            arrays, notes = read_task(path)
            if not bool(torch.isfinite(arrays["states"]).all()):
                row = int((~torch.isfinite(arrays["states"])).any(-1).nonzero()[0])
                raise InputError(f"{path} row {row}: a state is not finite; delete the file and mine the task again")
            group = names.setdefault(notes["task"], len(names))
            parts.append(arrays)
            words.extend(json.loads(notes["word"]))
            groups.append(torch.full((len(arrays["label"]),), group))
    if not sum(map(len, groups)):
        raise InputError(f"{', '.join(map(str, folders))}: no label yet; run mdsd judge mine")
    columns = {name: torch.cat([part[name] for part in parts]) for name in COLUMNS}
    found = Labels(torch.cat([part["states"] for part in parts]), columns, torch.cat(groups), words, list(names))
    return found, facts[0]


def read_facts(folder: Path) -> dict[str, Any]:
    """``mine.json``.

    Raises
    ------
    InputError
        If the folder has none.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
        return {**facts, "target": dict(facts["target"]), "width": int(facts["width"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no folder of labels ({FACTS}: {error}); make one with mdsd judge mine") from None


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``mine.json``, or compare with the one that is there.

    Raises
    ------
    InputError
        If the folder belongs to another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    if (folder / FACTS).exists():
        held = read_facts(folder)
        wrong = next((key for key in facts if held.get(key) != json.loads(text)[key]), None)
        if wrong is not None:
            raise InputError(f"{folder}: labels of another run ({wrong} differs); give another folder")
        return
    write_whole(folder / FACTS, text.encode())
