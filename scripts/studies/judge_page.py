"""The stage ``page`` of ``scripts/studies/judge.py``: tables and figures of what was run, and what was not."""

from __future__ import annotations

import argparse
import io
import json
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import torch
from judge_quality import decoded_rows, quality

from mdsd_bounds import open_dump
from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.judge import Fitted, Labels, fit, harm_by_share, plane, read_labels, read_tasks
from mdsd_bounds.judge.evidence import auc_with_intervals, token_type
from mdsd_bounds.judge.labels import read_task
from mdsd_bounds.judge.plane import CONFIDENT
from mdsd_bounds.plots import save_figure
from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend

#: Shares of the draft's tokens approved, at which harm is compared.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
HEAD = (
    "Written by `python scripts/studies/judge.py page`. The method, and what the numbers mean, are in "
    "[judge.md](../../judge.md)."
)
HARM = (
    "Of the draft's tokens that differ from the target's, each score approves the same share. The table gives the "
    "share of the approved that break the program, with 95% intervals over tasks, and under it the difference to the "
    "judge. Approving all of them: {every:.3f}."
)
PLANE = (
    "{rows} positions of {documents} solutions, temperature 1, one draft; exact. The judge was fitted on labels of "
    "other tasks and scores the draft's eight most probable tokens; the others are never approved."
)
#: Ways to deal tasks into folds.
FOLDINGS = 10


def page(arguments: argparse.Namespace, titles: dict[str, str]) -> None:
    """Measure and write everything that has been run; what was run before and is not there now stays as it stands."""
    results: Path = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    kept, measured = _sections(results / "tables.md"), _numbers(results / "measured.json")
    found: dict[str, list[str]] = {}
    for kind, title in titles.items():
        folder, heading = arguments.out / kind, f"Labels from {title}"
        if folder.exists():
            own = measured.setdefault(kind, {})
            found[heading] = _labels(kind, folder, title, own, results / f"harm-{kind}.png")
        else:
            found[heading] = kept.get(heading, [f"## {heading}", "", "Not run.", ""])
    folders = [arguments.out / "outcome", arguments.out / "substitution-qwen"]
    both = "A judge of both kinds of labels"
    found[both] = _both(folders, measured) if all(f.exists() for f in folders) else kept.get(both, [])
    for kind, title in titles.items():
        dump, heading = arguments.out / f"{kind}-dump", f"Acceptance and total variation, {title}"
        if dump.exists():
            found[heading] = _plane(dump, title, measured.setdefault(kind, {}), results / f"plane-{kind}.png")
        else:
            found[heading] = kept.get(heading, [])
    rows, unfinished = decoded_rows(arguments.out / "decode", arguments.tasks)
    solved = "Tasks solved"
    if rows:
        write_whole(results / "decoded.csv", pd.DataFrame(rows).to_csv(index=False).encode())
        found[solved] = quality(rows, unfinished, measured, results / "solved.png")
    else:
        found[solved] = kept.get(solved, [f"## {solved}", "", "Not run.", ""])
    lines = ["# Judge Decoding: what was measured", "", HEAD, "", *(line for part in found.values() for line in part)]
    write_whole(results / "tables.md", ("\n".join(lines).rstrip() + "\n").encode())
    write_whole(results / "measured.json", (json.dumps(measured, indent=1, sort_keys=True) + "\n").encode())


def _sections(file: Path) -> dict[str, list[str]]:
    """Sections of an earlier page by heading."""
    found: dict[str, list[str]] = {}
    for part in (file.read_text() if file.exists() else "").split("\n## ")[1:]:
        lines = ("## " + part.rstrip()).splitlines()
        found[lines[0].removeprefix("## ")] = [*lines, ""]
    return found


def _numbers(file: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return held


def _labels(kind: str, folder: Path, title: str, measured: dict[str, Any], figure: Path) -> list[str]:
    labels, facts = read_labels([folder])
    own: Counter[str] = Counter()
    for path in (folder / "tasks").glob("*.safetensors"):
        _, notes = read_task(path)
        own["passed" if notes["own"].startswith("passed") else "failed"] += 1
    label = labels.columns["label"]
    measured |= {
        "labels": len(labels), "harmless": int(label.sum()), "tasks": sum(own.values()), "solved": own["passed"],
        "settings": facts["settings"], "target": facts["target"], "draft": facts["draft"],
    }  # fmt: skip
    share = f"{int(label.sum())} harmless ({float(label.float().mean()):.1%})"
    tried = f"{sum(own.values())} tasks tried, of which the solution itself passed in {own['passed']}"
    counts = f"{tried}; {len(labels)} labels, {share}. Both models with linear layers in 8 bits."
    lines = [f"## Labels from {title}", "", counts, "", _by_type(labels), ""]
    try:
        found = fit(labels, facts)
    except ValueError as error:
        return [*lines, f"No judge can be fitted: {error}.", ""]
    measured["auc"] = {name: [a.value, a.low, a.high] for name, a in found.auc.items()}
    measured["gain"] = {name: [a.value, a.low, a.high] for name, a in found.gain.items()}
    measured["learned"] = found.learned
    said = (
        "knows more than p and the kind of token say"
        if found.learned
        else ("learned nothing that p or the kind of token does not say, as far as these labels show")
    )
    lines += [f"**The judge {said}.** Scores of tasks held out of the fit, 95% intervals over tasks:", "",
              "| score | ROC-AUC | judge minus it |", "| --- | --- | --- |"]  # fmt: skip
    for name, auc in found.auc.items():
        gain = found.gain.get(name)
        minus = "" if gain is None else f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        lines.append(_row(name, [str(auc), minus]))
    dealt = [fit(labels, facts, seed, resamples=20).auc["judge"].value for seed in range(FOLDINGS)]
    measured["foldings"] = dealt
    lines += ["", f"Over {FOLDINGS} ways to deal the tasks into folds the judge's ROC-AUC is {min(dealt):.3f} to "
              f"{max(dealt):.3f}, in the mean {np.mean(dealt):.3f}; the intervals above are of the first."]  # fmt: skip
    if kind.startswith("substitution"):
        lines += _in_code(folder, labels, found, measured)
    _write_labels(figure.with_name(f"labels-{kind}.csv"), labels, found)
    scores = scores_of(labels, found)
    table = harm_by_share(scores, label, labels.group, SHARES)
    measured["harm"] = table.to_dict("records")
    every = 1 - float(label.float().mean())
    head = "| score | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
    lines += ["", "### Harm at equal acceptance", "", HARM.format(every=every), "", head]
    lines.append("| --- |" + " --- |" * len(SHARES))
    for name in scores:
        part = list(table[table["score"] == name].itertuples())
        lines.append(_row(name, [f"{r.harmful:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in part]))
        if name != "judge":
            gaps = [f"{r.difference:+.3f} [{r.difference_low:+.3f}, {r.difference_high:+.3f}]" for r in part]
            lines.append(_row("", gaps))
    _harm_figure(table, every, title, figure)
    return [*lines, "", f"![harm at equal acceptance]({figure.name})", ""]


def _write_labels(file: Path, labels: Labels, found: Fitted) -> None:
    """The labels without the states, and the score of each by a judge that has not seen its task."""
    columns = {name: column.numpy() for name, column in labels.columns.items()}
    tasks = [labels.tasks[g] for g in labels.group.tolist()]
    table = pd.DataFrame({"task": tasks, "word": labels.words, **columns, "judge": found.held_out.numpy()})
    write_whole(file, table.to_csv(index=False, float_format="%.6g").encode())


def _both(folders: list[Path], measured: dict[str, Any]) -> list[str]:
    """Does a judge of both kinds of labels know more of outcomes than one of outcomes alone?"""
    outcomes, facts = read_labels(folders[:1])
    joined, _ = read_labels(folders)
    part = slice(len(outcomes))
    scores = {
        "judge of both": fit(joined, facts).held_out[part],
        "judge of outcomes": fit(outcomes, facts).held_out,
        "log p": outcomes.columns["log_p"],
    }
    label = outcomes.columns["label"]
    auc, gain = auc_with_intervals(scores, label, outcomes.group, "judge of both", 2000, 0)
    measured["both"] = {"labels": len(joined), "tested_on": len(outcomes), "auc": {k: str(a) for k, a in auc.items()},
                        "gain": {k: str(a) for k, a in gain.items()}}  # fmt: skip
    rows = [_row(name, [str(a), str(gain.get(name, ""))]) for name, a in auc.items()]
    return [
        "## A judge of both kinds of labels", "",
        f"Fitted on {len(joined)} labels of the Qwen2.5-Coder pair, {len(outcomes)} of them outcomes; scores of the "
        "outcomes alone, tasks held out of the fit.", "",
        "| score | ROC-AUC on outcomes | judge of both minus it |", "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def scores_of(labels: Labels, found: Fitted) -> dict[str, torch.Tensor]:
    """Every score that could approve a token, higher is approved first; the judge's are held out."""
    c = labels.columns
    least = torch.minimum(torch.tensor(0.09).log(), torch.tensor(0.3).log() - c["entropy"])
    sure = (c["top"] > CONFIDENT).float()
    return {
        "judge": found.held_out,
        "log p": c["log_p"],
        "p over max p": c["log_p"] - c["top"].log(),
        "KL threshold": -c["divergence"] - 1e3 * sure,
        "typical acceptance": c["log_p"] - least,
        "at random": torch.rand(len(labels), generator=torch.Generator().manual_seed(0)),
    }


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _in_code(folder: Path, labels: Labels, found: Fitted, measured: dict[str, Any]) -> list[str]:
    """The control: only tokens of code itself, neither in a comment or a text nor after the last statement."""
    solutions = {task.name: task.prompt + task.solution for task in read_tasks("humaneval")}
    inside = []
    for path in sorted((folder / "tasks").glob("*.safetensors")):
        _, notes = read_task(path)
        whole = solutions[notes["task"]]
        quiet = quiet_characters(whole)
        for text in json.loads(notes["text"]):
            place = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), len(whole) - 1)
            inside.append(place not in quiet and bool(whole[place:].strip()))
    keep = torch.tensor(inside)
    label = labels.columns["label"][keep]
    scores = {"judge": found.held_out[keep], "log p": labels.columns["log_p"][keep]}
    auc, gain = auc_with_intervals(scores, label, labels.group[keep], "judge", 2000, 0)
    measured["in_code"] = {"labels": len(label), "harmless": int(label.sum()), "auc": str(auc["judge"])}
    said = (
        f"Control: {len(label)} of these labels replace a token of code itself, neither in a comment or a text nor "
        f"after the last statement; {int(label.sum())} are harmless. There the judge has {auc['judge']}, log p "
        f"{auc['log p']}; difference {gain['log p']}."
    )
    return ["", said, ""]


def quiet_characters(program: str) -> set[int]:
    """Characters in comments and texts."""
    starts = [0, *np.cumsum([len(line) + 1 for line in program.split("\n")]).tolist()]
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(program).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            (first, left), (last, right) = token.start, token.end
            found |= set(range(starts[first - 1] + left, starts[last - 1] + right))
    return found


def _by_type(labels: Labels) -> str:
    label = labels.columns["label"].tolist()
    kinds = [token_type(word) for word in labels.words]
    count, good = Counter(kinds), Counter(kind for kind, y in zip(kinds, label, strict=True) if y)
    parts = [f"{kind} {good[kind]} of {n}" for kind, n in count.most_common()]
    return "Harmless by the kind of the draft's token: " + ", ".join(parts) + "."


def _harm_figure(table: pd.DataFrame, every: float, title: str, file: Path) -> None:
    ax = axes(None)
    for i, (name, part) in enumerate(table.groupby("score", sort=False)):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.plot(part["approved"], part["harmful"], color=colour, marker=marker, label=name, linewidth=1.6)
        if name == "judge":
            ax.fill_between(part["approved"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
    ax.axhline(every, color="#555555", linewidth=1.0, linestyle=":")
    ax.set_xlabel("share of the draft's differing tokens approved")
    ax.set_ylabel("share of the approved that break the program")
    ax.set_title(f"Labels from {title}", fontsize=9)
    legend(ax)
    save_figure(ax, file)


def _plane(dump: Path, title: str, measured: dict[str, Any], figure: Path) -> list[str]:
    from judge import THRESHOLDS

    held = open_dump(dump)
    table = plane(held, THRESHOLDS)
    documents = len({int(d) for batch in held.batches(64) for d in (batch.doc if batch.doc is not None else ())})
    measured["plane"] = json.loads(table.to_json(orient="records"))
    lines = [
        f"## Acceptance and total variation, {title}", "",
        PLANE.format(rows=len(held), documents=documents), "",
        "| rule | parameter | acceptance | TV | line alpha\\* + TV |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    rows: Any = table.itertuples()
    for row in rows:
        parameter = "" if np.isnan(row.parameter) else f"{row.parameter:.3g}"
        lines.append(f"| {row.rule} | {parameter} | {row.acceptance:.4f} | {row.tv:.4f} | {row.bound:.4f} |")
    ax = axes(None)
    for i, (name, part) in enumerate(table.groupby("rule", sort=False)):
        part = part.sort_values("tv")
        look: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linewidth": 1.4,
        }
        ax.plot(part["tv"], part["acceptance"], linestyle="none" if len(part) == 1 else "-", label=name, **look)
    ax.set_xlabel("mean total variation from the target")
    ax.set_ylabel("mean acceptance, one draft")
    legend(ax)
    save_figure(ax, figure)
    return [*lines, "", f"![acceptance and total variation]({figure.name})", ""]
