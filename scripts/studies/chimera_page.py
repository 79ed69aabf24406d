"""The stage ``page`` of ``scripts/studies/chimera.py``: tables, figures and one JSON of what was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend, root_of

ABLATIONS = ("full", "context", "trigram", "medusa")
LOSSES = {
    "ce": "cross-entropy",
    "tv": "total variation",
    "alpha2with": "alpha*_2 with",
    "alpha4with": "alpha*_4 with",
    "alpha4without": "alpha*_4 without",
}
OTHERS = {"early-exit:25": "early exit 25/30", "early-exit:20": "early exit 20/30", "prompt-lookup": "prompt lookup",
          "n-gram": "n-gram of the training text"}  # fmt: skip
TITLES = {
    "long": "Chimera, three depths",
    "full": "Chimera",
    "context": "without the trigram encoder",
    "trigram": "trigram encoder alone",
    "medusa": "target's state alone (Medusa)",
    "slower": "Chimera, a third of the rate",
    "slowercontext": "without the trigram encoder, a third of the rate",
    "least-squares": "before the first step (least squares)",
    **OTHERS,
    **{loss: f"trained on {said}" for loss, said in LOSSES.items()},
}
#: Columns of a per-position table, in this order.
COLUMNS = (("with", 1), ("with", 2), ("with", 4), ("without", 2), ("without", 4))
#: Levels of each tree that is drafted.
LEVELS = {"chain 4": 4, "rsd_c 2,2,1": 3, "rsd_s 3x3": 3, "dynamic 10x3x3": 3}


class Measured:
    """What ``measure`` left: per-position numbers by draft, seeds averaged position by position."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, dict[str, np.ndarray]] = {}
        for file in sorted(folder.glob("*.npz")):
            with np.load(file) as arrays:
                self._held[file.stem] = {name: arrays[name] for name in arrays.files}
        self.doc = next(iter(self._held.values()))["doc"]

    def seeds(self, name: str) -> list[str]:
        """Runs of one draft."""
        return [run for run in (name, f"{name}-0", f"{name}-1") if run in self._held]

    def values(self, name: str) -> np.ndarray:
        """``[positions, columns]``: alpha* of :data:`COLUMNS`, means over seeds."""
        runs = self.seeds(name)
        if not runs:
            raise SystemExit(f"{name}: nothing was measured; run the stage measure first")
        return np.asarray(np.mean([self._columns(self._held[run]) for run in runs], 0))

    def depths(self, name: str) -> np.ndarray:
        """``[positions, depths]``: acceptance of one draft."""
        return np.asarray(np.mean([self._held[run]["accepted"] for run in self.seeds(name)], 0))

    def trees(self, name: str) -> dict[str, np.ndarray]:
        """Tokens of one target forward pass at one place of every text, by tree."""
        file = self.folder / f"{name}-trees.json"
        lines = json.loads(file.read_text()) if file.exists() else []
        return {tree: np.array([line["emitted"] for line in lines if line["tree"] == tree]) for tree in LEVELS if lines}

    def interval(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and its 95% interval over documents, column by column."""
        return (values.mean(0), *bootstrap_interval(values, self.doc))

    @staticmethod
    def _columns(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        place = {1: 0, 2: 1, 4: 2}
        return np.stack([arrays[f"{kind}_replacement"][:, place[n]] for kind, n in COLUMNS], 1)


def page(arguments: argparse.Namespace) -> None:
    """Write ``tables.md``, ``results.json`` and the figures."""
    held = Measured(arguments.out / "measured")
    out: Path = arguments.results
    out.mkdir(parents=True, exist_ok=True)
    facts = {run.parent.name: json.loads(run.read_text()) for run in sorted(arguments.out.glob("*/head.json"))}
    costs = json.loads((held.folder / "costs.json").read_text()) if (held.folder / "costs.json").exists() else None
    parts = [
        "# Draft heads for SmolLM2-135M, measured",
        introduction(held),
        acceptance_table(held, facts),
        *([depth_table(held)] if held.seeds("long") else []),
        ablation_table(held),
        *([loss_table(held)] if held.seeds("ce") else []),
        *(tree_tables(held, costs) if costs else []),
        run_table(facts),
    ]
    write_whole(out / "tables.md", ("\n\n".join(parts) + "\n").encode())
    results = {
        "target": next(iter(facts.values()))["target"],
        "positions": len(held.doc),
        "documents": len(set(held.doc.tolist())),
        "columns": [f"{kind} {n}" for kind, n in COLUMNS],
        "means": {name: held.values(name).mean(0).round(6).tolist() for name in names(held)},
        "costs": costs,
        "heads": {name: _short(fact) for name, fact in facts.items()},
    }
    write_whole(out / "results.json", (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
    draw_drafts(held, out / "drafts.png")
    if held.seeds("ce"):
        draw_losses(held, out / "losses.png")


def introduction(held: Measured) -> str:
    """What the numbers are of."""
    positions, texts = len(held.doc), len(set(held.doc.tolist()))
    return (
        f"Made by `scripts/studies/chimera.py`. {positions} positions of {texts} texts, which the target wrote at "
        "temperature 1 after the prompts of the HumanEval problems held out; the whole vocabulary; 95% intervals over "
        "texts. Heads of two seeds are averaged position by position."
    )


def names(held: Measured) -> list[str]:
    """Drafts that were measured, in the order of the tables."""
    return [
        name
        for name in ("long", *ABLATIONS, "slower", "slowercontext", "least-squares", *OTHERS, *LOSSES)
        if held.seeds(name)
    ]


def title(name: str) -> str:
    """A draft's name as people read it."""
    return TITLES[name]


def cell(mean: float, low: float, high: float) -> str:
    """A mean and its interval."""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


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
    return "**Acceptance of one draft by depth**\n\n" + table(["draft", *(f"depth {i + 1}" for i in range(most))], rows)


def ablation_table(held: Measured) -> str:
    """What the full head has over each ablation and over the other drafts, paired position by position."""
    rows = []
    pairs = [("full", name) for name in ABLATIONS[1:]]
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
    cells = [f"{m:+.3f} [{a:+.3f}, {b:+.3f}]" for m, a, b in zip(mean, low, high, strict=True)]
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
    one = seconds["target 1"]
    draft_cost = {"long": seconds["head 1"] / one, "early-exit:25": seconds["early-exit:25 1"] / one}
    draft_cost["early-exit:20"] = draft_cost["early-exit:25"] * 20 / 25
    paper = paper_cost()
    for name in ("long", *OTHERS):
        found = held.trees(name)
        if not found:
            continue
        cells, line = [], []
        for tree, emitted in found.items():
            low, high = bootstrap_interval(emitted[:, None], np.arange(len(emitted)))
            cells.append(f"{emitted.mean():.2f} [{low[0]:.2f}, {high[0]:.2f}]")
            cost = draft_cost.get(name, 0.0)
            here = emitted.mean() / (LEVELS[tree] * cost + seconds["target 10"] / one)
            there = emitted.mean() / (1.0 + LEVELS[tree] * (paper if name == "long" else cost))
            line.append(f"{here:.2f} / {there:.2f}")
        rows.append([title(name), *cells])
        speeds.append([title(name), f"{draft_cost.get(name, 0.0):.2f}", *line])
    return [
        "**Tokens of one target forward pass** (recursive rejection)\n\n" + table(["draft", *LEVELS], rows),
        f"**Modelled speed-up**: at the costs measured here, one pass of the target over 10 tokens costing "
        f"{seconds['target 10'] / one:.2f} times one token / where such a pass costs as much as one token and the head "
        f"{paper:.2f} of it\n\n" + table(["draft", "cost of a draft pass", *LEVELS], speeds),
    ]


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


def draw_drafts(held: Measured, file: Path) -> None:
    """alpha*_n with replacement of every draft, against n."""
    ax = axes(None)
    shown = [name for name in names(held) if name not in (*LOSSES, "full", "context")]
    places = np.log2([1, 2, 4])
    for i, name in enumerate(shown):
        mean, low, high = held.interval(held.values(name)[:, :3])
        other = name in OTHERS
        shift = 0.04 * (i - (len(shown) - 1) / 2)
        # Drafts that are not trained heads have open markers: colours and shapes come round again.
        ax.errorbar(
            places + shift, mean, [mean - low, high - mean], marker=MARKERS[i % 8], color=COLOURS[i % 8],
            linestyle="--" if other else "-", markerfacecolor="white" if other else None, capsize=2, elinewidth=0.8,
            linewidth=1.2, label=title(name),
        )  # fmt: skip
    ax.set_xticks(places, ["1", "2", "4"])
    ax.set_title("What each draft lets a verifier accept; bars: 95% intervals over texts", fontsize=9)
    ax.set_xlabel("drafts n, with replacement")
    ax.set_ylabel("mean optimal acceptance rate")
    legend(ax, beside=True)
    root_of(ax).savefig(file, dpi=150, metadata={"Software": None})
    plt.close(root_of(ax))


def draw_losses(held: Measured, file: Path) -> None:
    """Paired differences to cross-entropy of heads that went on with another loss."""
    ax = axes(None)
    base = held.values("ce")
    shown = [name for name in list(LOSSES)[1:] if held.seeds(name)]
    for i, name in enumerate(shown):
        mean, low, high = held.interval(100 * (held.values(name) - base))
        places = np.arange(len(COLUMNS)) + 0.15 * (i - (len(shown) - 1) / 2)
        bars = np.stack([mean - low, high - mean])
        ax.errorbar(places, mean, bars, fmt="o", capsize=3, color=COLOURS[i], label=title(name))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(range(len(COLUMNS)), [f"alpha*_{n}\n{kind}" if n > 1 else "alpha*_1" for kind, n in COLUMNS])
    ax.set_title("Training losses against cross-entropy; bars: paired 95% intervals over texts", fontsize=9)
    ax.set_ylabel("percentage points over cross-entropy")
    legend(ax)
    root_of(ax).savefig(file, dpi=150, metadata={"Software": None})
    plt.close(root_of(ax))
