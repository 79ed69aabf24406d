"""Labels without annotators, from substitutions: does a solution that passes still pass with one token replaced?

At random places of each task's own solution the draft's most probable other token stands in for the token, all else
stays, and the tests run.  It is cheap, one pass of each model and one run of the tests a label, but asks something
narrower than mining from outcomes: the rest of the text does not follow the token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdsd_bounds.judge.labels import TaskLabels, file_of, write_labels
from mdsd_bounds.judge.mining import begin_mining
from mdsd_bounds.judge.reading import DraftReader, read_with_cache, states_after
from mdsd_bounds.judge.scored import tokens_of
from mdsd_bounds.judge.tasks import Task
from mdsd_bounds.models.loading import LoadedModel

Report = Callable[[str], None]


@dataclass(frozen=True)
class SubstituteSettings:
    """Which substitutions are tried.

    Attributes
    ----------
    labels : int
        Places of a task, at most.
    seed : int
        Of their choice.
    most_tokens : int
        Tasks whose prompt and solution are longer are left out, and said to be.

    Examples
    --------
    >>> from mdsd_bounds.judge import SubstituteSettings
    >>> SubstituteSettings(labels=6).labels
    6
    """

    labels: int = 10
    seed: int = 0
    most_tokens: int = 1024


def substitute(
    target: LoadedModel,
    draft: str,
    tasks: Sequence[Task],
    out: str | Path,
    settings: SubstituteSettings | None = None,
    *,
    dtype: str = "float32",
    report: Report = lambda line: None,
) -> Path:
    """Mine labels from substitutions; the same call after an interruption goes on after the last finished task.

    Parameters and errors as :func:`mdsd_bounds.judge.mine`.

    Examples
    --------
    Programs run in the sandbox, which needs root.  That three tokens were tried does not say that three are harmful:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.judge import SubstituteSettings, Task, read_labels, substitute
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> made = substitute(target, "early-exit:1", [task], folder / "labels", SubstituteSettings(labels=3))
    >>> labels, _ = read_labels([made])
    >>> labels.columns["label"].shape
    torch.Size([3])
    """
    settings = settings or SubstituteSettings()
    folder = Path(out)
    second, width = begin_mining("substitution", target, draft, tasks, folder, asdict(settings), dtype)
    reader = DraftReader(second, target)
    todo = [task for task in tasks if not file_of(folder, task.name).exists()]
    begun, labels = time.monotonic(), 0
    for done, task in enumerate(todo, 1):
        found = _one_task(target, reader, task, settings)
        write_labels(folder, found, width)
        labels += len(found.rows)
        spent = time.monotonic() - begun
        left = spent / done * (len(todo) - done)
        report(f"{done} of {len(todo)} tasks, {labels} labels, {spent:.0f} s, about {left:.0f} s left")
    return folder


def _one_task(target: LoadedModel, reader: DraftReader, task: Task, settings: SubstituteSettings) -> TaskLabels:
    tokenizer = target.tokenizer
    tokens, first = tokens_of(tokenizer, task)
    if len(tokens) > settings.most_tokens:
        return TaskLabels(task.name, f"left out: {len(tokens)} tokens", [])
    own = task.run_program(str(tokenizer.decode(tokens)))
    if not own.passed:
        return TaskLabels(task.name, f"{own.kind} {own.detail}".strip(), [])
    log_p, cache = read_with_cache(target.model, tokens, first)
    log_p = log_p.log_softmax(-1)
    log_q = reader.logits(task.name, tokens, first).log_softmax(-1)
    reader.forget(task.name)
    known = target.model.get_input_embeddings().weight.shape[0]
    chosen = random.Random(f"{settings.seed} {task.name}").sample(
        range(len(tokens) - first), min(settings.labels, len(tokens) - first)
    )
    rows = []
    others = [_best_other(log_q[row], tokens[first + row], known) for row in sorted(chosen)]
    states = states_after(target.model, cache, [first + row for row in sorted(chosen)], others)
    for row, token, state in zip(sorted(chosen), others, states, strict=True):
        text = str(tokenizer.decode([*tokens[: first + row], token, *tokens[first + row + 1 :]]))
        verdict = task.run_program(text)
        rows.append(
            {
                "state": state,
                "label": int(verdict.passed),
                "place": row,
                "token": token,
                "target_token": tokens[first + row],
                "log_p": float(log_p[row, token]),
                "log_q": float(log_q[row, token]),
                "entropy": float(torch.special.entr(log_p[row].exp()).sum()),
                "top": float(log_p[row].max().exp()),
                "divergence": _divergence(log_p[row], log_q[row]),
                "word": tokenizer.decode([token]),
                "verdict": verdict.kind,
                "detail": verdict.detail,
                "text": text,
            }
        )
    return TaskLabels(task.name, own.kind, rows)


def _best_other(log_q: Tensor, own: int, known: int) -> int:
    """The draft's most probable token that is not the one that stands there."""
    best: list[Any] = log_q[:known].topk(2).indices.tolist()
    return int(best[1] if best[0] == own else best[0])


def _divergence(log_p: Tensor, log_q: Tensor) -> float:
    """``KL(p || q)`` in nats; columns of padding that one head lacks hold nothing."""
    width = min(len(log_p), len(log_q))
    return float((log_p[:width].exp() * (log_p[:width] - log_q[:width])).sum())
