"""A dump of a pair whose rows also hold a judge's scores, so that acceptance and total variation are exact at any
threshold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mdsd_bounds._backend.whole_files import whole_folder
from mdsd_bounds.dumps.checks import SCORED
from mdsd_bounds.dumps.formats.native import DumpWriter
from mdsd_bounds.judge.head import JudgeHead
from mdsd_bounds.judge.reading import DraftReader, read_with_cache, states_after
from mdsd_bounds.judge.tasks import Task
from mdsd_bounds.models.drafts import make_draft
from mdsd_bounds.models.forward import to_store
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.problem import InputError


def log_scored(
    target: LoadedModel,
    draft: str,
    tasks: Sequence[Task],
    judge: JudgeHead,
    out: str | Path,
    *,
    rows: int = 32,
    dtype: str = "float32",
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Read the tasks' own solutions with both models, and score the draft's 8 most probable tokens at every place.

    Parameters
    ----------
    target, draft, dtype
        The pair.
    tasks : sequence of Task
        One document each.
    judge : JudgeHead
        Of this target.
    out : str or Path
        Folder of a native dump with the columns ``judge_token`` and ``judge_score``.
    rows : int
        Places of a solution, from its first token.
    report : callable
        Receives lines of progress.

    Raises
    ------
    InputError
        If the folder holds something already, or a solution has no token of its own.

    Notes
    -----
    Cost: a pass of each model over the text, and one of the target over eight tokens a place.  Tokens that were not
    scored are never approved, and their draft mass is said in the last line of progress.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from mdsd_bounds import open_dump
    >>> from mdsd_bounds.judge import JudgeHead, Task, log_scored
    >>> from mdsd_bounds.models import load_model, tiny_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> target = load_model(tiny_model(folder / "target"))
    >>> task = Task("double", "def f(x):", " return 2 * x", "def check(f): assert f(3) == 6", "f")
    >>> made = log_scored(target, "early-exit:1", [task], JudgeHead(torch.zeros(16), 0.0), folder / "dump", rows=5)
    >>> batch = next(open_dump(made).batches(5))
    >>> batch.judge_token.shape, float(batch.judge_score[0, 0])
    (torch.Size([5, 8]), 0.5)
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds something already; give another folder")
    second = make_draft(draft, target, dtype, "cpu")
    reader, model = DraftReader(second, target), target.model
    known = int(model.get_input_embeddings().weight.shape[0])
    notes: dict[str, Any] = {"target": target.identity, "draft": second.identity, "judge": dict(judge.facts)}
    begun, outside = time.monotonic(), []
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A run that is killed leaves nothing here, so that half of the tasks are never taken for all of them.
    with whole_folder(folder) as whole, DumpWriter(whole, shard_rows=256, notes=notes) as writer:
        for number, task in enumerate(tasks):
            tokens, first = tokens_of(target.tokenizer, task)
            tokens = tokens[: first + rows]
            log_p, cache = read_with_cache(model, tokens, first)
            log_q = reader.logits(task.name, tokens, first)
            reader.forget(task.name)
            q = torch.softmax(log_q, -1)
            best = q[:, :known].topk(SCORED)
            outside.append(1.0 - best.values.sum(-1))
            places = torch.arange(first, len(tokens)).repeat_interleave(SCORED).tolist()
            scores = judge.scores(states_after(model, cache, places, best.indices.reshape(-1).tolist()))
            writer.append(
                to_store(log_p, torch.float32, "target"),
                to_store(log_q, torch.float32, "draft"),
                doc=torch.full((len(log_p),), number),
                position=torch.arange(first, len(tokens)),
                token=torch.tensor(tokens[first:]),
                judge_token=best.indices,
                judge_score=scores.double().reshape(-1, SCORED),
            )
            left = (time.monotonic() - begun) / (number + 1) * (len(tasks) - number - 1)
            mass = float(torch.cat(outside).mean())
            report(
                f"{number + 1} of {len(tasks)} tasks, draft mass without a score {mass:.4f}, about {left:.0f} s left"
            )
    return folder


def tokens_of(tokenizer: Any, task: Task) -> tuple[list[int], int]:
    """Tokens of prompt and solution, and the place of the first that is not the prompt's.

    Raises
    ------
    InputError
        If there is none.
    """
    prompt = list(tokenizer(task.prompt, verbose=False)["input_ids"])
    tokens = list(tokenizer(task.prompt + task.solution, verbose=False)["input_ids"])
    # Where the prompt ends inside a token, the solution begins with that token.
    first = next((i for i, (a, b) in enumerate(zip(prompt, tokens, strict=False)) if a != b), len(prompt))
    if not 2 <= first < len(tokens):
        raise InputError(f"task {task.name}: {len(tokens)} tokens, none of them the solution's; give it a solution")
    return tokens, first
