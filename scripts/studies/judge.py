"""Judge Decoding measured: labels, what a judge learns from them, exact acceptance, quality; docs/results/judge.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b smollm2-135m
    python scripts/studies/judge.py mine|decode|log|page [--models models] [--out out/judge]

Every stage resumes where it stopped.  ``mine`` mines labels from outcomes and from substitutions with the Qwen pair,
and from substitutions with SmolLM2; ``log`` fits a judge on some tasks and scores the draft's tokens on the others;
``decode`` solves the tasks under every rule with judges of other tasks; ``page`` fits, measures and writes what has
been run so far, and says what has not; what was written before and is not in ``--out`` stays.  Root is needed for the
sandbox.  The whole of it wants some hours of a processor with many cores; with ``--tasks`` a stage uses the first so
many tasks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.judge import (
    JudgeHead,
    Labels,
    MineSettings,
    SubstituteSettings,
    decode,
    fit,
    fit_head,
    log_scored,
    mine,
    read_labels,
    read_tasks,
    substitute,
)
from mdsd_bounds.judge.decoding import rows_file
from mdsd_bounds.judge.evidence import folds_of
from mdsd_bounds.judge.solutions import Difference
from mdsd_bounds.models.loading import load_model, silence


@dataclass(frozen=True)
class Source:
    """Where labels come from: the pair, and how they are mined."""

    target: str
    draft: str
    mined: str
    title: str


SOURCES = {
    "outcome": Source(
        "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "outcome", "outcomes, Qwen2.5-Coder 1.5B drafted by 0.5B"
    ),
    "substitution": Source(
        "smollm2-135m", "early-exit:25", "substitution", "substitutions, SmolLM2-135M drafted by its first 25 layers"
    ),
    "substitution-qwen": Source(
        "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "substitution", "substitutions, Qwen2.5-Coder 1.5B drafted by 0.5B"
    ),
}
#: Thresholds of the curve.
THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)
#: Tasks that are logged with scores; the judge is fitted on the others.
LOGGED = 16
#: Labels of a task by substitution, and tokens of a solution.
SUBSTITUTED, NEW_TOKENS = 6, 160


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def place(name: str, arguments: argparse.Namespace) -> str:
    """A model's folder, or a draft made from the target."""
    folder = arguments.models / name
    return str(folder) if folder.exists() else name


def run_mine(arguments: argparse.Namespace) -> None:
    tasks = read_tasks("humaneval")[: arguments.tasks]
    for kind, source in SOURCES.items():
        if arguments.kind not in (None, kind):
            continue
        target = load_model(place(source.target, arguments), "int8")
        out, draft = arguments.out / kind, place(source.draft, arguments)
        if source.mined == "outcome":
            settings = MineSettings(NEW_TOKENS, arguments.lanes, minutes=arguments.minutes)
            mine(target, draft, tasks, out, settings, dtype="int8", report=say)
        else:
            substitute(target, draft, tasks, out, SubstituteSettings(SUBSTITUTED), dtype="int8", report=say)


def part_of(labels: Labels, keep: Tensor) -> Labels:
    """Some of the labels."""
    words = [word for word, kept in zip(labels.words, keep.tolist(), strict=True) if kept]
    columns = {name: column[keep] for name, column in labels.columns.items()}
    return Labels(labels.states[keep], columns, labels.group[keep], words, labels.tasks)


def run_log(arguments: argparse.Namespace) -> None:
    kind = arguments.kind or "substitution"
    labels, facts = read_labels([arguments.out / kind])
    tasks = read_tasks("humaneval")
    logged = {task.name for task in tasks[:LOGGED]}
    keep = torch.tensor([labels.tasks[g] not in logged for g in labels.group.tolist()])
    judge = fit(part_of(labels, keep), facts, resamples=200).head
    source = SOURCES[kind]
    target = load_model(place(source.target, arguments), "int8")
    out = arguments.out / f"{kind}-dump"
    draft = place(source.draft, arguments)
    log_scored(target, draft, tasks[:LOGGED], judge, out, rows=24, dtype="int8", report=say)


def held_out_heads(folders: list[Path], kept: Path) -> Callable[[str], JudgeHead]:
    """For each task a judge that was fitted on the labels of other tasks.

    They are written to ``kept``, and read from there where the labels are gone: decoding goes on with the same judges.
    """
    if all(folder.exists() for folder in folders):
        labels, facts = read_labels(folders)
        fold = folds_of(torch.arange(len(labels.tasks)))
        penalty = fit(labels, facts, resamples=200).head.facts["penalty"]
        label = labels.columns["label"]
        train = [fold[labels.group] != k for k in range(5)]
        heads = [fit_head(labels.states[keep], label[keep], penalty) for keep in train]
        weight, bias = np.stack([head.weight.numpy() for head in heads]), np.array([head.bias for head in heads])
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, tasks=np.array(labels.tasks), fold=fold.numpy(), weight=weight, bias=bias)
    held = np.load(kept, allow_pickle=False)
    judges = [JudgeHead(torch.tensor(w), float(b)) for w, b in zip(held["weight"], held["bias"], strict=True)]
    fold_of = dict(zip(held["tasks"].tolist(), held["fold"].tolist(), strict=True))
    # A task without labels was seen by no head.
    return lambda task: judges[fold_of.get(task, 0)]


def rules_of(judges: dict[str, Callable[[str], JudgeHead]]) -> dict[str, Callable[..., bool]]:
    """Every rule of the curve; ``judges`` give the head for a task."""

    def chance(task: str, one: Difference) -> float:
        digest = hashlib.sha256(f"{task} {one.place} {one.token}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64

    rules: dict[str, Callable[..., bool]] = {
        "speculative sampling": lambda task, one, state: False,
        "accept always": lambda task, one, state: True,
    }
    for name, head_of in judges.items():
        for t in THRESHOLDS:
            rules[f"{name} {t}"] = lambda task, one, state, t=t, of=head_of: float(of(task).scores(state)) > t
    for rate in (0.1, 0.3, 0.6):
        rules[f"random judge {rate}"] = lambda task, one, state, rate=rate: chance(task, one) < rate
    for ratio in (0.5, 0.1, 0.01):
        rules[f"p over max p {ratio}"] = lambda task, one, state, r=ratio: torch.tensor(one.log_p).exp() > r * one.top
    for limit in (0.1, 0.3, 1.0):
        rules[f"KL threshold {limit}"] = lambda task, one, state, k=limit: one.divergence < k and one.top <= 0.9
    for epsilon in (0.3, 0.09, 0.01):

        def typical(task: str, one: Difference, state: Tensor, e: float = epsilon) -> bool:
            least = min(e, e**0.5 * float(torch.tensor(-one.entropy).exp()))
            return bool(float(torch.tensor(one.log_p).exp()) > least)

        rules[f"typical acceptance {epsilon}"] = typical
    return rules


def restore(arguments: argparse.Namespace, rules: list[str]) -> None:
    """Take the tasks of ``decoded.csv`` as decoded, where its judges are the ones that are kept."""
    file = arguments.results / "decoded.csv"
    if (arguments.out / "outcome").exists() or not file.exists():
        return
    for task, part in pd.read_csv(file).groupby("task"):
        path = rows_file(arguments.out / "decode", str(task), rules)
        if set(part["rule"]) == set(rules) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, (part.to_json(orient="records", indent=1) + "\n").encode())


def keep(arguments: argparse.Namespace, rules: list[str]) -> None:
    """Write the tasks that are decoded so far to ``decoded.csv``, from which another machine can go on."""
    files = [rows_file(arguments.out / "decode", task.name, rules) for task in read_tasks("humaneval")]
    rows = [row for file in files if file.exists() for row in json.loads(file.read_text())]
    write_whole(arguments.results / "decoded.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    say(f"{len(rows)} rows so far")


def run_decode(arguments: argparse.Namespace) -> None:
    source = SOURCES["outcome"]
    tasks = read_tasks("humaneval")[: arguments.tasks]
    target = load_model(place(source.target, arguments), "int8")
    mined = [arguments.out / "outcome", arguments.out / "substitution-qwen"]
    judges = {
        "judge": held_out_heads(mined[:1], arguments.results / "heads-outcome.npz"),
        "judge of both": held_out_heads(mined, arguments.results / "heads-both.npz"),
    }
    rules = rules_of(judges)
    restore(arguments, list(rules))
    begun = time.monotonic()
    try:
        rows = decode(
            target, place(source.draft, arguments), tasks, rules, arguments.out / "decode",
            MineSettings(NEW_TOKENS, arguments.lanes), dtype="int8", report=say,
        )  # fmt: skip
    finally:
        keep(arguments, list(rules))
    (arguments.out / "decode.json").write_text(json.dumps(rows) + "\n")
    say(f"{len(rows)} rows, {time.monotonic() - begun:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("mine", "log", "decode", "page"))
    parser.add_argument("--kind", choices=tuple(SOURCES), help="one kind of labels (default: all; log: substitution)")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("out/judge"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/judge"))
    parser.add_argument("--tasks", type=int, help="the first so many tasks")
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--minutes", type=float, help="of mining outcomes")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    silence()
    if arguments.stage == "page":
        from judge_page import page

        page(arguments, {kind: source.title for kind, source in SOURCES.items()})
    else:
        {"mine": run_mine, "log": run_log, "decode": run_decode}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
