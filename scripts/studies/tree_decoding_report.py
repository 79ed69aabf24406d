"""The stage ``report`` of ``scripts/studies/tree_decoding.py``: what the better rules bring, in tokens and in time.

Every interval is of texts drawn with replacement, the same ones for all cells, so that differences are paired.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tree_decoding import CELLS, PARTS, is_held_out, lines_of

from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.plots import save_figure
from mdsd_bounds.plots.style import COLOURS, axes
from mdsd_bounds.trees.resampling import document_weights

MEASURED = ("tokens", "target_passes", "nodes", "seconds", *PARTS)
#: Pairs of rules on the same trees.
PAIRS = (
    ("chain 4, block", "chain 4, recursive"),
    ("rsd_c 2,2, nss", "rsd_c 2,2, recursive"),
    ("rsd_c 2,2, traversal", "rsd_c 2,2, recursive"),
    ("rsd_c 2,2, optimal", "rsd_c 2,2, recursive"),
    ("rsd_c 2,2, sweep", "rsd_c 2,2, recursive"),
    ("rsd_c 2,2, sweep", "rsd_c 2,2, traversal"),
    ("rsd_c 2,2, sweep", "rsd_c 2,2, optimal"),
    ("rsd_c 2,2, sweep, T 0.6", "rsd_c 2,2, recursive, T 0.6"),
)
#: Draft forward passes of a step.
LEVELS = {"plain": 0, "chain": 4, "rsd_c": 2, "dynamic": 3}


def report(out: Path, results: Path, most: int, costs: Sequence[float]) -> None:
    """Tables, figure and numbers of the first ``most`` texts that every measured cell has.

    The lines themselves are kept beside them, so that ``--out`` of the results remakes the tables.

    ``costs`` are those of a draft forward pass in target forward passes, where both only wait for their weights to be
    read; the figure has the last of them.
    """
    facts = json.loads((out / "facts.json").read_text())
    docs = complete(out)[:most]
    parts = {"all": docs}
    if facts["head"]:
        parts = {"held out": [doc for doc in docs if is_held_out(doc)], "all": docs}
    found: dict[str, Any] = {**facts, "sha256": hashlib.sha256((out / "cells.jsonl").read_bytes()).hexdigest()}
    drafter = f"the head {facts['draft']}" if facts["head"] else facts["draft"]
    page = [f"# Draft trees decoded: {facts['target']}, drafted by {drafter}", ""]
    page += ["Written by `python scripts/studies/tree_decoding.py report`.", ""]
    for title, chosen in parts.items():
        if not chosen:
            continue
        sums = sums_of(out, chosen)
        cells = [_cell_row(name, sums, costs) for name in sums]
        pairs = [_pair_row(a, b, sums) for a, b in PAIRS if a in sums and b in sums]
        found[title] = {"texts": len(chosen), "cells": cells, "pairs": pairs}
        said = f"{len(chosen)} texts, up to {facts['new_tokens']} new tokens each; 95% intervals over texts."
        page += [f"## Texts: {title}", "", said, "", *_cells_table(cells), "", *_pairs_table(pairs), ""]
        page += [*_modelled_table(cells, costs), ""]
    results.mkdir(parents=True, exist_ok=True)
    if out != results:
        write_whole(results / "cells.jsonl", (out / "cells.jsonl").read_bytes())
        write_whole(results / "facts.json", (out / "facts.json").read_bytes())
    write_whole(results / "cells.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(results / "tables.md", "\n".join(page).encode())
    first = next(part for part in parts if part in found)
    _figure(found[first]["cells"], costs[-1], results / "speed.png")
    print("\n".join(page))


def complete(out: Path) -> list[int]:
    """Texts that every measured cell has, in the order in which they were decoded."""
    lines = lines_of(out / "cells.jsonl")
    cells = {line["cell"] for line in lines}
    docs = list(dict.fromkeys(line["doc"] for line in lines))
    done = {(line["doc"], line["cell"]) for line in lines}
    return [doc for doc in docs if all((doc, cell) in done for cell in cells)]


def sums_of(out: Path, docs: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Of each cell its counts and seconds over the texts, ``[1 + resamples]``."""
    lines = lines_of(out / "cells.jsonl")
    weights = document_weights(len(docs))
    found = {}
    for cell in CELLS:
        by_doc = {line["doc"]: line for line in lines if line["cell"] == cell.name}
        if by_doc:
            sums = {key: weights @ np.array([by_doc[d][key] for d in docs], float) for key in MEASURED}
            # Parts were read from the clock, which also runs while other processes do: shares of the processor time.
            busy = sums["seconds"] / sum(sums[part] for part in PARTS)
            found[cell.name] = sums | {part: sums[part] * busy for part in PARTS}
    return found


def _plain_of(name: str) -> str:
    return "plain" + (name[name.index(", T") :] if ", T" in name else "")


def _cell_row(name: str, sums: Mapping[str, Mapping[str, np.ndarray]], costs: Sequence[float]) -> dict[str, Any]:
    held, base = sums[name], sums.get(_plain_of(name))
    speed, efficiency = held["tokens"] / held["seconds"], held["tokens"] / held["target_passes"]
    whole = float(held["seconds"][0])
    row: dict[str, Any] = {
        "cell": name,
        "nodes": float(held["nodes"][0] / held["target_passes"][0]),
        "block_efficiency": interval(efficiency),
        "tokens_per_second": interval(speed),
        "over_plain": interval(speed / (base["tokens"] / base["seconds"])) if base else None,
        "drafting": float(held["draft"][0] / whole),
        "verifying": float(held["verify"][0] / whole),
        "verify_ms": float(1000 * held["verify"][0] / held["target_passes"][0]),
    }
    levels = LEVELS[name.split()[0].rstrip(",")]
    for cost in costs:
        # Verification may take this much of a target forward pass until plain decoding is as fast.
        row[f"modelled_{cost:g}"] = interval(efficiency / (1 + levels * cost))
        row[f"room_{cost:g}"] = interval(efficiency - 1 - levels * cost)
    return row


def _pair_row(a: str, b: str, sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    one, two = sums[a], sums[b]
    per_pass = one["tokens"] / one["target_passes"] - two["tokens"] / two["target_passes"]
    ratio = one["tokens"] * two["seconds"] / (one["seconds"] * two["tokens"])
    # The verification time of rule a at which both give the same tokens per second.
    rest = one["seconds"] - one["verify"]
    even = 1000 * (one["tokens"] * two["seconds"] / two["tokens"] - rest) / one["target_passes"]
    return {
        "rule": a,
        "beside": b,
        "tokens_per_pass": interval(per_pass),
        "speed_ratio": interval(ratio),
        "even_ms": interval(even),
        "verify_ms": float(1000 * one["verify"][0] / one["target_passes"][0]),
    }


def _cells_table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [
        "| cell | nodes | tokens per target pass | speed over plain | drafting | verifying | ms a verification |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in cells:
        ratio = "-" if row["over_plain"] is None or row["cell"].startswith("plain") else text_of(row["over_plain"])
        table.append(
            f"| {row['cell']} | {row['nodes']:.1f} | {text_of(row['block_efficiency'])} | {ratio} | "
            f"{100 * row['drafting']:.0f}% | {100 * row['verifying']:.1f}% | {row['verify_ms']:.1f} |"
        )
    return table


def _pairs_table(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [
        "| rule | beside | tokens per target pass | speed ratio | ms a verification | equal speed at, ms |",
        "|---|---|---|---|---|---|",
    ]
    table += [
        f"| {row['rule']} | {row['beside']} | {text_of(row['tokens_per_pass'], '+.3f')} | "
        f"{text_of(row['speed_ratio'])} | {row['verify_ms']:.1f} | {text_of(row['even_ms'], '.1f')} |"
        for row in pairs
    ]
    return table


def _modelled_table(cells: Sequence[Mapping[str, Any]], costs: Sequence[float]) -> list[str]:
    head = " | ".join(f"speed, draft {cost:g} | room for verification, draft {cost:g}" for cost in costs)
    table = [f"| cell | {head} |", "|---|" + "---|---|" * len(costs)]
    for row in cells:
        if not row["cell"].startswith("plain"):
            parts = [f"{text_of(row[f'modelled_{c:g}'])} | {text_of(row[f'room_{c:g}'])}" for c in costs]
            table.append(f"| {row['cell']} | " + " | ".join(parts) + " |")
    return table


def _figure(cells: Sequence[Mapping[str, Any]], cost: float, file: Path) -> None:
    """Speed over plain decoding of every cell, as measured and as modelled where a pass reads its weights once."""
    rows = [row for row in cells if not row["cell"].startswith("plain")][::-1]
    ax = axes(plt.subplots(figsize=(6.4, 0.42 * len(rows) + 1.3))[1])
    modelled = (f"modelled_{cost:g}", f"modelled, draft {cost:g}", -0.13)
    for number, (key, label, shift) in enumerate([("over_plain", "measured on this processor", 0.13), modelled]):
        places = np.arange(len(rows)) + shift
        values = np.array([row[key] for row in rows])
        errors = np.abs(values[:, 1:].T - values[:, 0])
        style: dict[str, Any] = {"color": COLOURS[number], "fmt": "os"[number], "markersize": 5, "linestyle": "none"}
        ax.errorbar(values[:, 0], places, xerr=errors, label=label, capsize=2, **style)
    ax.axvline(1.0, color="#555555", linewidth=1.0, linestyle=":")
    ax.set_yticks(np.arange(len(rows)), [row["cell"] for row in rows])
    ax.set_xlabel("tokens per second over plain decoding (95% intervals over texts)")
    ax.set_xlim(left=0.0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
    save_figure(ax, file)


def interval(values: np.ndarray) -> list[float]:
    """The value and its 95% interval over texts."""
    return [float(values[0]), *(float(x) for x in np.quantile(values[1:], [0.025, 0.975]))]


def text_of(values: Sequence[float], form: str = ".2f") -> str:
    """``value [low, high]``."""
    return f"{values[0]:{form}} [{values[1]:{form}}, {values[2]:{form}}]"
