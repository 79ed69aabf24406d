"""Tasks solved under each rule: the part of the judge's page that is read from decoded texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, binomtest

from mdsd_bounds.judge import read_tasks
from mdsd_bounds.judge.labels import file_of
from mdsd_bounds.plots import save_figure
from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend

QUALITY = (
    "{tasks} HumanEval tasks, greedy decoding of the Qwen2.5-Coder pair, judges fitted on labels of other tasks. "
    "`gained` and `lost` are tasks solved by one of the two only, against speculative sampling; the interval of the "
    "difference is exact (Clopper-Pearson on the discordant tasks). {power}"
)
#: The reference of quality.
LOSSLESS = "speculative sampling"


def decoded_rows(folder: Path, most: int | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the first ``most`` tasks that were decoded under every rule, and the tasks that were not."""
    rows: list[dict[str, Any]] = []
    unfinished = []
    for task in read_tasks("humaneval")[:most]:
        held = sorted(folder.glob("tasks/" + file_of(Path(), task.name).stem + ".*.json"))
        rows += json.loads(held[0].read_text()) if held else []
        unfinished += [] if held else [task.name]
    return rows, unfinished


def quality(found: list[dict[str, Any]], unfinished: list[str], measured: dict[str, Any], figure: Path) -> list[str]:
    """Lines of the table, with its figure written."""
    rows = pd.DataFrame(found)
    solved = rows.pivot(index="task", columns="rule", values="passed")
    tasks = len(solved)
    lines = [
        "## Tasks solved", "",
        QUALITY.format(tasks=tasks, power=_power(tasks)), "",
        "| rule | accepted | tokens per target pass (4 drafts) | solved | gained / lost | difference, "
        "percentage points | p | minus a random judge of about equal acceptance |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    sums = rows.groupby("rule")[["accepted", "tokens"]].sum()
    shares = sums["accepted"] / sums["tokens"]
    random = [rule for rule in shares.index if rule.startswith("random judge")]
    if unfinished:
        share = 100 / (tasks + len(unfinished))
        lines[3:3] = [
            f"{len(unfinished)} further tasks among the first {tasks + len(unfinished)} were not decoded to the end "
            f"({', '.join(unfinished)}). Each could move a difference by "
            f"{share:.1f} percentage points.", "",
        ]  # fmt: skip
    table = []
    for rule, part in rows.groupby("rule", sort=False):
        gained, lost = _discordant(solved, str(rule), LOSSLESS)
        low, high = difference_interval(gained, lost, tasks)
        p = 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)
        accepted, speed = part["accepted"].sum() / part["tokens"].sum(), part["tokens"].sum() / part["passes"].sum()
        table.append({"rule": rule, "accepted": accepted, "tokens_a_pass": speed, "solved": int(part["passed"].sum()),
                      "gained": gained, "lost": lost, "low": low, "high": high, "p": p})  # fmt: skip
        lines.append(
            f"| {rule} | {accepted:.4f} | {speed:.2f} | {int(part['passed'].sum())} | {gained} / {lost} | "
            f"{100 * (gained - lost) / tasks:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {p:.3f} | "
            f"{_beside_random(solved, str(rule), random, shares)} |"
        )
    measured["quality"] = {"tasks": tasks, "unfinished": unfinished, "rules": table}
    _quality_figure(table, tasks, figure)
    return [*lines, "", f"![tasks solved and tokens per target pass]({figure.name})", ""]


def _discordant(solved: pd.DataFrame, rule: str, other: str) -> tuple[int, int]:
    """Tasks that only the first solves, and those that only the other does."""
    return int((solved[rule] & ~solved[other]).sum()), int((~solved[rule] & solved[other]).sum())


def _beside_random(solved: pd.DataFrame, rule: str, random: list[str], shares: pd.Series) -> str:
    """The paired difference to the random judge that accepts about as much, where there is one."""
    nearest = min(random, key=lambda name: abs(shares[name] - shares[rule]))
    if rule in random or abs(shares[nearest] - shares[rule]) > 0.01:
        return ""
    gained, lost = _discordant(solved, rule, nearest)
    low, high = (100 * end for end in difference_interval(gained, lost, len(solved)))
    return f"{100 * (gained - lost) / len(solved):+.1f} [{low:+.1f}, {high:+.1f}] ({nearest.split()[-1]})"


def _quality_figure(table: list[dict[str, Any]], tasks: int, file: Path) -> None:
    """Change in solved tasks against tokens per target pass, one line a family of rules, 95% intervals."""
    ax = axes(None)
    families: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        name = row["rule"].rsplit(" ", 1)[0] if row["rule"][-1].isdigit() else row["rule"]
        families.setdefault(name, []).append(row)
    for i, (name, rows) in enumerate(families.items()):
        rows = sorted(rows, key=lambda row: row["tokens_a_pass"])
        middle = np.array([100 * (row["gained"] - row["lost"]) / tasks for row in rows])
        spread = np.abs(np.array([[100 * row["low"], 100 * row["high"]] for row in rows]).T - middle)
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "capsize": 2}
        ax.errorbar([row["tokens_a_pass"] for row in rows], middle, yerr=spread, label=name, linewidth=1.2, **look)
    ax.axhline(0.0, color="#555555", linewidth=1.0, linestyle=":")
    ax.set_xlabel("tokens per target forward pass, four drafts")
    ax.set_ylabel("change in solved tasks, percentage points (95%)")
    legend(ax)
    save_figure(ax, file)


def difference_interval(gained: int, lost: int, tasks: int) -> tuple[float, float]:
    """95% interval of the difference of two paired shares, exact given the number of discordant tasks."""
    m = gained + lost
    if m == 0:
        # None of the tasks differs: the share of those that do is below the exact limit.
        limit = 1 - 0.025 ** (1 / tasks)
        return -limit, limit
    low = 0.0 if gained == 0 else float(beta.ppf(0.025, gained, m - gained + 1))
    high = 1.0 if gained == m else float(beta.ppf(0.975, gained + 1, m - gained))
    return (2 * low - 1) * m / tasks, (2 * high - 1) * m / tasks


def _power(tasks: int) -> str:
    """What so many tasks can show."""
    discordant = round(0.1 * tasks)
    low, high = difference_interval(discordant // 2, discordant - discordant // 2, tasks)
    half = 50 * (high - low)
    return (
        f"With {tasks} tasks and one in ten discordant the interval is {half:.1f} percentage points to either side, so "
        "that a loss of one percentage point cannot be seen."
    )
