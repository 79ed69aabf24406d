"""The stage ``page`` of ``scripts/studies/chimera.py``: tables, figures and one JSON of what was measured."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chimera_figures import draw_drafts, draw_losses
from chimera_measured import ABLATIONS, COLUMNS, LEVELS, LOSSES, MAIN, OTHERS, TEXTS, TITLES, Measured, names, title

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.pipeline.tables import bootstrap_interval

#: Acceptance of one draft that the long run was to reach, and what it was to have over early exit 25/30 at least.
GOAL, OVER = 0.45, 0.03


def page(arguments: argparse.Namespace) -> None:
    """Write ``tables.md``, ``results.json`` and the figures."""
    folder: Path = arguments.out / "measured"
    every = {kind: Measured(folder, kind) for kind in TEXTS}
    own = every["own"]
    out: Path = arguments.results
    out.mkdir(parents=True, exist_ok=True)
    facts = {run.parent.name: json.loads(run.read_text()) for run in sorted(arguments.out.glob("*/head.json"))}
    costs = json.loads((folder / "costs.json").read_text()) if (folder / "costs.json").exists() else None
    parts = ["# Draft heads for SmolLM2-135M, measured", introduction(every), goal(every)]
    for kind, held in every.items():
        parts += [f"## On {TEXTS[kind]}", acceptance_table(held, facts)]
        parts += [depth_table(held), ablation_table(held)]
    parts += ["## Losses and trees, on the target's own text", *([loss_table(own)] if own.seeds("ce") else [])]
    parts += [*(tree_tables(own, costs) if costs else []), "## How the heads were made", run_table(facts)]
    write_whole(out / "tables.md", ("\n\n".join(parts) + "\n").encode())
    results = {
        "target": next(iter(facts.values()))["target"],
        "texts": {kind: numbers(held) for kind, held in every.items()},
        "columns": [f"{kind} {n}" for kind, n in COLUMNS],
        "trees": {name: found for name in (*MAIN, *OTHERS) if (found := own.trees(name))},
        "costs": costs,
        "heads": {name: _short(fact) for name, fact in facts.items()},
        "measured_sha256": {
            str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.rglob("*"))
            if file.suffix in (".npz", ".json", ".safetensors")
            and file.parent in (folder, *(folder / k for k in TEXTS))
        },
    }
    write_whole(out / "results.json", (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
    draw_drafts(every, out / "drafts.png")
    if own.seeds("ce"):
        draw_losses(own, out / "losses.png")


def introduction(every: Mapping[str, Measured]) -> str:
    """What the numbers are of."""
    documents, own = (every[kind] for kind in TEXTS)
    return (
        f"Made by `scripts/studies/chimera.py`. The **held-out HumanEval documents** are every fifth problem with its "
        f"canonical solution, read as they stand (teacher-forced): {len(documents.doc)} positions of "
        f"{len(set(documents.doc.tolist()))} documents, every second token after the first eight. The **target's own "
        f"text** is what it wrote at temperature 1 after the prompts of the same problems: {len(own.doc)} positions of "
        f"{len(set(own.doc.tolist()))} texts. The whole vocabulary; 95% intervals over documents. Heads of two seeds "
        "are averaged position by position."
    )


def goal(every: Mapping[str, Measured]) -> str:
    """Whether the long run reaches what it was to reach, on each text."""
    rows = []
    for kind, held in every.items():
        if not (held.seeds("hour") and held.seeds("early-exit:25")):
            return ""
        one, other = held.values("hour")[:, :1], held.values("early-exit:25")[:, :1]
        parts: dict[str, np.ndarray | None] = {TEXTS[kind]: None}
        if not held.after.all():
            parts |= {f"{TEXTS[kind]}, prompts": ~held.after, f"{TEXTS[kind]}, solutions": held.after}
        for said, of in parts.items():
            three = [tuple(float(x[0]) for x in held.interval(values, of)) for values in (one, other, one - other)]
            reached = "yes" if three[0][0] >= GOAL and three[2][1] >= OVER else "no"
            number = len(held.doc) if of is None else int(of.sum())
            rows.append([said, str(number), cell(*three[0]), cell(*three[1]), signed(*three[2]), reached])
    head = ["text", "positions", TITLES["hour"], OTHERS["early-exit:25"], "paired difference", "reached"]
    return (
        f"**The goal of the long run**: 1 - TV of at least {GOAL} at the first depth, and at least {OVER} over early "
        "exit 25/30 at the lower end of the paired interval\n\n" + table(head, rows)
    )


def numbers(held: Measured) -> dict[str, Any]:
    """What the tables of one text say, in numbers: mean and 95% interval of each column."""

    def triples(values: np.ndarray) -> list[list[float]]:
        found: list[list[float]] = np.stack(held.interval(values), 1).round(6).tolist()
        return found

    found = names(held)
    return {
        "positions": len(held.doc),
        "documents": len(set(held.doc.tolist())),
        "after_the_prompt": int(held.after.sum()),
        "alpha": {name: triples(held.values(name)) for name in found},
        "by_depth": {name: triples(depths) for name in found if (depths := held.depths(name)).shape[1] > 1},
        "long_run_minus": {name: triples(held.values("hour") - held.values(name)) for name in found if name != "hour"}
        if "hour" in found
        else {},
    }


def cell(mean: float, low: float, high: float) -> str:
    """A mean and its interval."""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def signed(mean: float, low: float, high: float) -> str:
    """A difference and its interval."""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def acceptance_table(held: Measured, facts: Mapping[str, Any]) -> str:
    """Every draft: alpha* by sampler and number of drafts."""
    rows = []
    for name in names(held):
        if name in LOSSES:
            continue
        seeds = len(held.seeds(name))
        steps = next((str(facts[run]["steps"]) for run in held.seeds(name) if run in facts), "")
        cells = [cell(*triple) for triple in zip(*held.interval(held.values(name)), strict=True)]
        rows.append([title(name), f"{steps} x {seeds}" if steps else "", *cells])
    heads = [f"alpha*_{n} {kind}" if n > 1 else "alpha*_1 = 1 - TV" for kind, n in COLUMNS]
    return "**Optimal acceptance rates**\n\n" + table(["draft", "steps x seeds", *heads], rows)


def depth_table(held: Measured) -> str:
    """Acceptance of one draft by depth, of heads with several."""
    rows = []
    for name in names(held):
        depths = held.depths(name)
        if depths.shape[1] > 1:
            rows.append([title(name), *(cell(*triple) for triple in zip(*held.interval(depths), strict=True))])
    most = max((len(row) - 1 for row in rows), default=0)
    rows = [row + [""] * (most + 1 - len(row)) for row in rows]
    return "**Acceptance of one draft by depth**\n\n" + table(["draft", *(f"depth {i + 1}" for i in range(most))], rows)


def ablation_table(held: Measured) -> str:
    """What the full head has over each ablation and over the other drafts, paired position by position."""
    rows = []
    pairs = [("hour", name) for name in ("early-exit:25", "prompt-lookup", "n-gram", "slower", *ABLATIONS)]
    pairs += [("full", name) for name in ABLATIONS[1:]]
    pairs += [("slower", name) for name in ("full", "slowercontext", "least-squares", *OTHERS)]
    for one, other in pairs:
        if held.seeds(one) and held.seeds(other):
            rows.append(difference_row(held, one, other))
    heads = [f"alpha*_{n} {kind}" if n > 1 else "alpha*_1" for kind, n in COLUMNS]
    return "**Paired differences**\n\n" + table(["difference", "with one draft", *heads], rows)


def difference_row(held: Measured, one: str, other: str) -> list[str]:
    """A paired difference of two drafts, and whether the first is above for one draft."""
    mean, low, high = held.interval(held.values(one) - held.values(other))
    verdict = "above" if low[0] > 0 else "below" if high[0] < 0 else "not told apart"
    cells = [signed(*triple) for triple in zip(mean, low, high, strict=True)]
    return [f"{title(one)} - {title(other)}", verdict, *cells]


def loss_table(held: Measured) -> str:
    """Heads that went on from one head with different losses, and their paired differences to cross-entropy."""
    rows = []
    base = held.values("ce")
    for name in LOSSES:
        if held.seeds(name):
            cells = [cell(*t) for t in zip(*held.interval(held.values(name)), strict=True)]
            rows.append([title(name), *cells])
    for name in list(LOSSES)[1:]:
        if held.seeds(name):
            difference = held.interval(held.values(name) - base)
            cells = [f"{m:+.4f} [{a:+.4f}, {b:+.4f}]" for m, a, b in zip(*difference, strict=True)]
            rows.append([f"{title(name)} - cross-entropy", *cells])
    heads = [f"alpha*_{n} {kind}" if n > 1 else "alpha*_1" for kind, n in COLUMNS]
    return "**Losses, from one start**\n\n" + table(["head", *heads], rows)


def tree_tables(held: Measured, costs: Mapping[str, Any]) -> list[str]:
    """Tokens of one target forward pass by tree, and what they would be worth at measured costs."""
    rows, speeds = [], []
    seconds = {name: value["median"] for name, value in costs["seconds"].items()}
    one, ten = seconds["target 1"], seconds["target 10"]
    draft_cost = dict.fromkeys(MAIN, seconds["head 1"] / one)
    draft_cost["early-exit:25"] = seconds["early-exit:25 1"] / one
    draft_cost["early-exit:20"] = draft_cost["early-exit:25"] * 20 / 25
    paper = paper_cost()
    for name in (*MAIN, *OTHERS):
        found = held.trees(name)
        if not found:
            continue
        cells, line = [], []
        for tree, emitted in found.items():
            values = np.array(list(emitted.values()))
            cells.append("{:.2f} [{:.2f}, {:.2f}]".format(*over_texts(values)))
            cost = draft_cost.get(name, 0.0)
            here = values.mean() / (LEVELS[tree] * cost + ten / one)
            there = values.mean() / (1.0 + LEVELS[tree] * (paper if name in MAIN else cost))
            line.append(f"{here:.2f} / {there:.2f}")
        rows.append([title(name), str(len(values)), *cells])
        speeds.append([title(name), f"{draft_cost.get(name, 0.0):.2f}", *line])
    return [
        "**Tokens of one target forward pass** (recursive rejection)\n\n"
        + table(["draft", "texts", *LEVELS], [*rows, *tree_differences(held)]),
        f"**Modelled speed-up**: at the costs measured here, one pass of the target over 10 tokens costing "
        f"{ten / one:.2f} times one token / where such a pass costs as much as one token and the head "
        f"{paper:.2f} of it\n\n" + table(["draft", "cost of a draft pass", *LEVELS], speeds),
    ]


def tree_differences(held: Measured) -> list[list[str]]:
    """The long run's trees less those of other drafts below the same texts."""
    rows = []
    one = held.trees("hour")
    for name in OTHERS:
        other = held.trees(name)
        if one and other:
            both = {tree: sorted(one[tree].keys() & other[tree].keys()) for tree in LEVELS}
            values = {tree: np.array([one[tree][d] - other[tree][d] for d in both[tree]]) for tree in LEVELS}
            cells = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*over_texts(v)) for v in values.values()]
            rows.append([f"{title('hour')} - {title(name)}", str(len(both["chain 4"])), *cells])
    return rows


def over_texts(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of one number a text, and its 95% interval."""
    low, high = bootstrap_interval(values[:, None], np.arange(len(values)))
    return float(values.mean()), float(low[0]), float(high[0])


def paper_cost() -> float:
    """The head's share of the weights of a target of 7B: width 4096, 32 layers of inner width 11008, 32,000 tokens."""
    size, inner, words = 4096, 11008, 32000
    layer = 4 * size**2 + 3 * size * inner
    head = 12 * size**2 + 12 * size**2 + 2 * size**2 + words * size
    return head / (32 * layer + words * size)


def run_table(facts: Mapping[str, Any]) -> str:
    """How the heads were made."""
    rows = [
        [
            name,
            fact["recipe"]["variant"],
            fact["recipe"]["loss"],
            str(fact["steps"]),
            str(fact["recipe"]["seed"]),
            fact["sha256"][:12],
        ]
        for name, fact in facts.items()
    ]
    head = ["run", "variant", "loss", "steps", "seed", "SHA-256"]
    return "**Heads**\n\n" + table(head, rows)


def _short(fact: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fact[name] for name in ("sha256", "steps", "recipe", "text_sha256", "windows", "versions")}
