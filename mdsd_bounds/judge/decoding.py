"""Quality: which tasks are solved when a rule lets the draft's tokens pass, all rules over one tree of texts.

Decoding is greedy.  The target writes; where the draft would have written another token, the rule keeps that token or
does not.  A rule that keeps none gives the target's own solution, one that keeps all gives the draft's, as the target
continues it.  Texts that two rules share are written once, so that a further threshold costs only the texts that are
new with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.judge.continuations import Cache, Continuations, Text, use_grouped_attention
from mdsd_bounds.judge.labels import file_of
from mdsd_bounds.judge.outcomes import MineSettings
from mdsd_bounds.judge.sandbox import require_sandbox
from mdsd_bounds.judge.solutions import Difference, Solutions
from mdsd_bounds.judge.tasks import Task
from mdsd_bounds.models.drafts import make_draft
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError

#: Whether a rule keeps the draft's token: of the task's name, the difference, and the target's state after the token.
Rule = Callable[[str, Difference, Tensor], bool]

#: Asks for texts to be continued, and goes on when all of them are; returns rows in the end.
Asked = Generator[list[Text], None, list[dict[str, Any]]]


#: Tokens that a text is continued by before it is looked for a difference that a rule keeps: what the target would have
#: written after that is not needed.
CHUNK = 12


@dataclass
class _Node:
    """One text as far as it is written, and the texts that come of it; ``cache`` begins at ``begins``."""

    text: Text
    parent: _Node | None
    begins: int
    cache: Cache = field(default_factory=list)
    #: Differences before the place ``looked``.
    differences: list[tuple[Difference, Tensor]] = field(default_factory=list)
    looked: int = 0
    #: The last place of a complete solution.
    end: int = 0
    complete: bool = False
    passed: bool = False
    children: dict[tuple[int, int], _Node] = field(default_factory=dict)

    def cache_to(self, place: int) -> Cache:
        """Keys and values of the tokens before ``place``; what texts share is kept once."""
        if self.parent is None:
            return [(keys[:, :place], values[:, :place]) for keys, values in self.cache]
        if place <= self.begins:
            return self.parent.cache_to(place)
        before, own = self.parent.cache_to(self.begins), place - self.begins
        return [
            (torch.cat([k, keys[:, :own]], 1), torch.cat([v, values[:, :own]], 1))
            for (k, v), (keys, values) in zip(before, self.cache, strict=True)
        ]


def decode(
    target: LoadedModel,
    draft: str,
    tasks: Sequence[Task],
    rules: Mapping[str, Rule],
    out: str | Path,
    settings: MineSettings | None = None,
    *,
    dtype: str = "float32",
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Decode tasks under every rule; resumable task by task.

    Parameters
    ----------
    target, draft, tasks, settings, dtype, report
        As :func:`mdsd_bounds.judge.mine`.
    rules : mapping
        Name -> rule.  A folder belongs to one set of names.
    out : str or Path
        Folder: one JSON file a task.

    Returns
    -------
    list of dict
        One row for each task and rule: ``task``, ``rule``, ``passed``, ``tokens`` of the solution, ``accepted`` of them
        the draft's, ``kept`` of these other than the target's, and ``passes`` of the target with four drafts a pass.
        The token that the target itself adds after four accepted drafts is counted as the rule would have decided it.

    Examples
    --------
    Programs run in the sandbox, which needs root.  A random model solves no task, whatever the rule keeps:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.judge import MineSettings, Task, decode
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> rules = {"none": lambda task, difference, state: False, "all": lambda task, difference, state: True}
    >>> rows = decode(target, "early-exit:1", [task], rules, folder / "texts", MineSettings(new_tokens=8))
    >>> [(row["rule"], row["passed"]) for row in rows]
    [('none', False), ('all', False)]
    """
    settings = settings or MineSettings()
    require_sandbox()
    use_grouped_attention(target.model)
    solutions = Solutions(target, make_draft(draft, target, dtype, "cpu"), settings.new_tokens)
    texts = Continuations(target, settings.lanes, solutions.ended)
    folder = Path(out)
    done = {task.name: rows_file(folder, task.name, rules) for task in tasks}
    queue = iter([task for task in tasks if not done[task.name].exists()])
    running: dict[str, Asked] = {}
    awaited: Counter[str] = Counter()
    begun, finished = time.monotonic(), 0
    ready: list[str] = []
    while True:
        while len(running) < settings.lanes and (task := next(queue, None)) is not None:
            running[task.name] = _solve(solutions, task, rules)
            ready.append(task.name)
        for name in ready:
            try:
                asked = next(running[name])
            except StopIteration as end:
                del running[name]
                done[name].parent.mkdir(parents=True, exist_ok=True)
                write_whole(done[name], (json.dumps(end.value, indent=1) + "\n").encode())
                finished += 1
                report(f"{finished} tasks, {len(running)} on their way, {time.monotonic() - begun:.0f} s")
                continue
            awaited[name] = len(asked)
            for text in asked:
                texts.submit(text)
        ready = []
        if texts.busy:
            for text in texts.step():
                awaited[text.key] -= 1
                if not awaited[text.key]:
                    ready.append(text.key)
        elif not running:
            break
    return [row for path in done.values() for row in _rows(path)]


def rows_file(folder: Path, task: str, rules: Iterable[str]) -> Path:
    """Where the rows of a task under rules of these names are kept."""
    key = hashlib.sha256(json.dumps(sorted(rules)).encode()).hexdigest()[:12]
    return file_of(folder, task).with_suffix(f".{key}.json")


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it and run again") from None
    return found


def _solve(solutions: Solutions, task: Task, rules: Mapping[str, Rule]) -> Asked:
    """Ask for texts until every rule's solution of one task is known."""
    begun = solutions.begin(task)
    first = begun.given
    root = _Node(begun, None, 0, looked=first)
    yield from _go_on(solutions, task, root)
    rows = []
    for name, rule in rules.items():
        node, place, refused, kept = root, first, [], 0
        while True:
            hit = None
            for difference, state in node.differences:
                if difference.place < place:
                    continue
                if rule(task.name, difference, state):
                    hit = difference
                    break
                refused.append(difference.place)
            if hit is not None:
                kept, place = kept + 1, hit.place + 1
                branch = hit.place, hit.token
                if branch not in node.children:
                    tokens = [*node.text.tokens[: hit.place], hit.token]
                    states = node.text.states[: hit.place + 1 - first]
                    text = Text(task.name, tokens, first, states=states)
                    node.children[branch] = _Node(text, node, hit.place, looked=place)
                    yield from _go_on(solutions, task, node.children[branch])
                node = node.children[branch]
            elif node.complete:
                break
            else:
                place = max(place, node.looked)
                yield from _go_on(solutions, task, node)
        flags = [at not in set(refused) for at in range(first, node.end + 1)]
        rows.append(
            {
                "task": task.name,
                "rule": name,
                "passed": node.passed,
                "tokens": len(flags),
                "accepted": sum(flags),
                "kept": kept,
                "passes": passes(flags),
            }
        )
    solutions.forget(task.name)
    return rows


def _go_on(solutions: Solutions, task: Task, node: _Node) -> Generator[list[Text], None, None]:
    """Continue a text by some tokens, and look for differences in them."""
    text = node.text
    if node.cache or node.parent:
        text.cache = node.cache_to(len(text.tokens) - 1)
    # The target's own solution is wanted whole: speculative sampling writes it.
    text.stop = len(text.tokens) + CHUNK if node.parent else None
    yield [text]
    node.complete = solutions.ended(text)
    found = solutions.differences(text, node.looked)
    node.end = solutions.certain_place(text)
    node.looked = max(node.looked, node.end + 1)
    # The state after the draft's token: a text that ends with it, read in the same passes as all others.
    tried = [text.cut(task.name, one.place, one.token) for one in found]
    for other in tried:
        other.stop = len(other.tokens) + 1
    if tried:
        yield tried
    node.differences.extend((one, other.states[-1]) for one, other in zip(found, tried, strict=True))
    assert text.cache is not None
    node.cache = [(keys[:, node.begins :].clone(), values[:, node.begins :].clone()) for keys, values in text.cache]
    text.cache = None
    if node.complete:
        node.passed = task.run(solutions.completion(text)).passed


def passes(flags: Sequence[bool], drafts: int = 4) -> int:
    """Target passes over tokens of which some were accepted: each gives up to ``drafts`` of these and one more token.

    Examples
    --------
    >>> passes([True] * 10), passes([False] * 3), passes([True, False, True, True])
    (2, 3, 2)
    """
    place = count = 0
    while place < len(flags):
        run = 0
        while run < drafts and place + run < len(flags) and flags[place + run]:
            run += 1
        place, count = place + run + 1, count + 1
    return count
