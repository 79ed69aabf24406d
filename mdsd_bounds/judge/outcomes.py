"""Labels without annotators, from outcomes: does the program still pass when the draft's token stands in it?

The target writes each task's solution greedily, and the draft is asked at every token what it would have written.  At
the first place where they differ the draft's token is put in, the target finishes, and the task's tests run: the token
was harmless if they pass and harmful if not.  A harmless token stays, and mining goes on in the new text; after a
harmful one it goes on in the old text.  A task that the target's own solution fails gives no label.

After Garipov et al. 2025 (AutoJudge, arXiv 2504.20039), who mine answers of reasoning tasks in this way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdsd_bounds.judge.continuations import Continuations, Text, use_grouped_attention
from mdsd_bounds.judge.labels import TaskLabels, file_of, write_labels
from mdsd_bounds.judge.mining import begin_mining
from mdsd_bounds.judge.sandbox import Verdict
from mdsd_bounds.judge.solutions import Difference, Solutions, joined
from mdsd_bounds.judge.tasks import Task
from mdsd_bounds.models.drafts import Draft
from mdsd_bounds.models.loading import LoadedModel

Report = Callable[[str], None]
#: A verdict is taken up so many passes after its text has ended, however long the tests took: which texts share a
#: batch, on which their last digits depend, is then the same in every run.
PASSES_OF_A_TEST = 8
#: Progress is said at least this often.
QUIET_SECONDS = 30.0


@dataclass(frozen=True)
class MineSettings:
    """How labels are mined.

    Attributes
    ----------
    new_tokens : int
        Tokens of a solution at most; a longer one is cut there.
    lanes : int
        Texts continued at once.
    most_labels : int
        Labels of one task at most.
    minutes : float or None
        After this time no token is continued: tasks on their way are written with the labels they have.

    Examples
    --------
    >>> from mdsd_bounds.judge import MineSettings
    >>> MineSettings(new_tokens=128).new_tokens
    128
    """

    new_tokens: int = 160
    lanes: int = 32
    most_labels: int = 40
    minutes: float | None = None


@dataclass
class Progress:
    """A task on its way: the text that is mined, what is left to try in it, and the labels so far."""

    task: Task
    base: Text | None = None
    todo: list[Difference] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    own: str = ""


class Miner:
    """Mines tasks in order; a task's labels are written when it is finished."""

    def __init__(self, target: LoadedModel, draft: Draft, folder: Path, settings: MineSettings, report: Report) -> None:
        self.folder, self.settings, self.report = folder, settings, report
        self.solutions = Solutions(target, draft, settings.new_tokens)
        self.texts = Continuations(target, settings.lanes, self.solutions.ended)
        self.active: dict[str, Progress] = {}
        self.begun, self.finished, self.labels, self.total = time.monotonic(), 0, 0, 0

    def run(self, tasks: Sequence[Task]) -> None:
        """Mine all tasks that have no file yet."""
        todo = [task for task in tasks if not file_of(self.folder, task.name).exists()]
        if len(todo) < len(tasks):
            self.report(f"{self.folder}: goes on after {len(tasks) - len(todo)} of {len(tasks)} tasks")
        queue, self.total = iter(todo), len(todo)
        running: deque[tuple[int, Future[Verdict], Text]] = deque()
        said = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            while True:
                if self._out_of_time():
                    return
                while len(self.active) < self.settings.lanes and (task := next(queue, None)) is not None:
                    self.active[task.name] = Progress(task)
                    self.texts.submit(self.solutions.begin(task))
                if not self.active:
                    return
                for text in self.texts.step() if self.texts.busy else ():
                    run = self.active[text.key].task.run
                    due = self.texts.passes + PASSES_OF_A_TEST
                    running.append((due, pool.submit(run, self.solutions.completion(text)), text))
                while running and (running[0][0] <= self.texts.passes or not self.texts.busy):
                    _, verdict, text = running.popleft()
                    self._judged(text, verdict.result())
                if time.monotonic() - said > QUIET_SECONDS:
                    said = time.monotonic()
                    self._say()

    def _out_of_time(self) -> bool:
        """Whether the time is over; what is known of the tasks on their way is then kept."""
        minutes = self.settings.minutes
        if minutes is None or time.monotonic() - self.begun < 60 * minutes:
            return False
        for task in [task for task in self.active.values() if task.rows]:
            self._finish(task)
        return True

    def _judged(self, text: Text, verdict: Verdict) -> None:
        task = self.active[text.key]
        if task.base is None:
            task.own = f"{verdict.kind} {verdict.detail}".strip()
            if verdict.passed:
                task.base = text
                task.todo = self.solutions.differences(text, text.given)
        else:
            tried = task.todo.pop(0)
            task.rows.append(self._row(tried, text, verdict))
            if verdict.passed:
                task.base = joined(task.base, text)
                task.todo = self.solutions.differences(task.base, tried.place + 1)
        if task.base is None or not task.todo or len(task.rows) >= self.settings.most_labels:
            self._finish(task)
            return
        self.texts.submit(task.base.cut(text.key, task.todo[0].place, task.todo[0].token))

    def _row(self, tried: Difference, text: Text, verdict: Verdict) -> dict[str, Any]:
        return {
            "state": text.states[0],
            "label": int(verdict.passed),
            "place": tried.place - len(self.solutions.prompts[text.key]),
            "token": tried.token,
            "target_token": tried.own,
            "log_p": tried.log_p,
            "log_q": tried.log_q,
            "entropy": tried.entropy,
            "top": tried.top,
            "divergence": tried.divergence,
            "word": self.solutions.tokenizer.decode([tried.token]),
            "verdict": verdict.kind,
            "detail": verdict.detail,
            "text": self.solutions.completion(text),
        }

    def _finish(self, task: Progress) -> None:
        name = task.task.name
        write_labels(self.folder, TaskLabels(name, task.own, task.rows), self.solutions.width)
        self.solutions.forget(name)
        del self.active[name]
        self.finished, self.labels = self.finished + 1, self.labels + len(task.rows)
        self._say()

    def _say(self) -> None:
        spent = time.monotonic() - self.begun
        pending = sum(len(task.rows) for task in self.active.values())
        left = f", about {spent / self.finished * (self.total - self.finished):.0f} s left" if self.finished else ""
        self.report(
            f"{self.finished} of {self.total} tasks, {self.labels} labels and {pending} in tasks on their way, "
            f"{self.texts.made / spent:.1f} tokens a second, {spent:.0f} s{left}"
        )


def mine(
    target: LoadedModel,
    draft: str,
    tasks: Sequence[Task],
    out: str | Path,
    settings: MineSettings | None = None,
    *,
    dtype: str = "float32",
    report: Report = lambda line: None,
) -> Path:
    """Mine labels from outcomes; the same call after an interruption goes on after the last finished task.

    Parameters
    ----------
    target : LoadedModel
        The model that is to be served.
    draft : str
        As for :func:`mdsd_bounds.models.drafts.make_draft`.
    tasks : sequence of Task
        With tests.
    out : str or Path
        Folder of the labels.
    settings : MineSettings, optional
        See there.
    dtype : str
        Of a draft model's computation.
    report : callable
        Receives lines of progress.

    Raises
    ------
    InputError
        Where programs cannot be contained, the draft cannot be made, or the folder holds another run's labels.

    Examples
    --------
    Programs run in the sandbox, which needs root.  A random model solves no task, and a task that it does not solve
    gives no label:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.judge import MineSettings, Task, mine
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> lines = []
    >>> settings = MineSettings(new_tokens=8)
    >>> made = mine(target, "early-exit:1", [task], folder / "labels", settings, report=lines.append)
    >>> lines[-1]
    '1 of 1 tasks, 0 labels and 0 in tasks on their way, ... tokens a second, ... s, about 0 s left'
    """
    settings = settings or MineSettings()
    held = {name: value for name, value in asdict(settings).items() if name not in ("minutes", "lanes")}
    folder = Path(out)
    second, _ = begin_mining("outcome", target, draft, tasks, folder, held, dtype)
    use_grouped_attention(target.model)
    Miner(target, second, folder, settings, report).run(tasks)
    return folder
