"""Tables and figures of the tree study, from what ``study_trees.py measure`` wrote; see there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdsd_bounds.dumps.step_schema import read_step
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.plots.style import root_of
from mdsd_bounds.plots.tree_depths import tree_depths
from mdsd_bounds.plots.tree_protocols import tree_protocols
from mdsd_bounds.trees.log import summarise_log, summary_table

FAMILIES = ("chain", "SpecTr", "RSD-C", "RSD-S", "Sequoia", "EAGLE-2")
RATIOS = (0.05, 0.1, 0.3)
#: The rule each family is published with; the others stand in the table too.
PUBLISHED = {"chain": "recursive", "SpecTr": "k_seq", "RSD-C": "recursive", "RSD-S": "recursive"}


def report(out: Path, results: Path) -> None:
    """Write the CSV and JSON tables and the figures into ``results``."""
    results.mkdir(parents=True, exist_ok=True)
    facts, costs, ranks = (json.loads((out / f"{name}.json").read_text()) for name in ("facts", "costs", "ranks"))
    lines = pd.DataFrame([json.loads(line) for line in (out / "prefixes.jsonl").read_text().splitlines()])
    ratio = costs["draft"]["1"] / costs["target"]["1"]
    table = configurations(lines, costs, ratio)
    table["exchangeable"] = [
        _exchangeable(family, shape, ranks) for family, shape in zip(table["family"], table["shape"], strict=True)
    ]
    _csv(table, results / "configurations.csv")
    best = families(table)
    _csv(best, results / "protocols.csv")
    _csv(comparisons(lines, best), results / "claims.csv")
    _csv(rules(lines), results / "rules.csv")
    _csv(within_budget(table, ratio), results / "within_budget.csv")
    depths, children = by_depth(lines), by_child(lines)
    _csv(depths, results / "depths.csv")
    _csv(children, results / "children.csv")
    summary = {**facts, "costs": costs, "cost_ratio": ratio, "rank_acceptance": ranks}
    summary |= {"prefixes": int(lines["doc"].nunique())}
    (results / "facts.json").write_text(json.dumps(summary, indent=1) + "\n")
    if (out / "runs.jsonl").exists():
        runs = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
        _csv(run_table(runs, table), results / "runs.csv")
    draw(best, depths, results)
    (results / "tables.md").write_text(markdown(best, results, summary))
    print(f"{results}: tables of {summary['prefixes']} prefixes")


def configurations(lines: pd.DataFrame, costs: dict[str, Any], ratio: float) -> pd.DataFrame:
    """One row for each tree and rule: block efficiency, its interval, speed-ups and tokens per second."""
    rows = []
    for (family, shape, rule), part in lines.groupby(["family", "shape", "rule"], sort=False):
        low, high = bootstrap_interval(
            part[["emitted", "bound"]].fillna(np.nan).to_numpy(float), part["doc"].to_numpy()
        )
        length = int(part["length"].iloc[0])
        widths = _widths(str(family), str(shape), length, int(part["nodes"].iloc[0]))
        seconds = sum(_at(costs["draft"], n) for n in [1, *widths[:-1]]) + _at(
            costs["target"], 1 + int(part["nodes"].iloc[0])
        )
        mean = float(part["emitted"].mean())
        rows.append(
            {
                "family": family,
                "shape": shape,
                "rule": rule,
                "protocols": ";".join(part["protocols"].iloc[0]),
                "length": length,
                "nodes": int(part["nodes"].iloc[0]),
                "distinct_nodes": float(part["held"].mean()),
                "block_efficiency": mean,
                "block_efficiency_low": float(low[0]),
                "block_efficiency_high": float(high[0]),
                "accepted": float(part["accepted"].mean()),
                "full_information": float(part["bound"].mean()) if part["bound"].notna().all() else np.nan,
                **_scaled("mbsu", mean, low[0], high[0], ratio * length + 1),
                **{f"mbsu_{c:g}": mean / (c * length + 1) for c in RATIOS},
                **_scaled("speed", mean, low[0], high[0], seconds),
            }
        )
    return pd.DataFrame(rows)


def _scaled(name: str, mean: float, low: float, high: float, by: float) -> dict[str, float]:
    return {name: mean / by, f"{name}_low": float(low) / by, f"{name}_high": float(high) / by}


def _widths(family: str, shape: str, length: int, nodes: int) -> list[int]:
    """Nodes of each level; shapes that are not uniform are taken as even over their levels."""
    if family == "chain":
        return [1] * length
    if family in ("SpecTr", "RSD-S"):
        return [int(shape.split("x")[0])] * length
    if family == "RSD-C":
        return [int(n) for n in np.cumprod([int(n) for n in shape.split(",")])]
    return [max(1, round(nodes / length))] * length


def _at(curve: dict[str, float], nodes: int) -> float:
    return float(np.interp(nodes, [int(n) for n in curve], list(curve.values())))


def _exchangeable(family: str, shape: str, ranks: Sequence[float]) -> float:
    """Block efficiency that mean acceptances at single positions predict: what mdsd advise goes by."""
    rates = np.cumsum(ranks)
    vector = [1] * int(shape) if family == "chain" else []
    vector = [int(n) for n in shape.split(",")] if family == "RSD-C" else vector
    return 1.0 + float(np.cumprod([rates[n - 1] for n in vector]).sum()) if vector else float("nan")


def within_budget(table: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """Of each family the tree of at most so many nodes with the highest memory-bound speed-up, for several ratios."""
    rows = []
    for cost in (*RATIOS, ratio):
        for budget in (6, 10, 14, 21, 30):
            for family in FAMILIES:
                rule = PUBLISHED.get(family, "recursive")
                part = table[(table["nodes"] <= budget) & (table["family"] == family) & (table["rule"] == rule)]
                by = (cost * part["length"] + 1).to_numpy()
                place = int(np.argmax(part["block_efficiency"].to_numpy() / by))
                taken = part.iloc[place]
                rows.append(
                    {
                        "cost_ratio": cost,
                        "budget": budget,
                        "family": family,
                        "shape": taken["shape"],
                        "mbsu": taken["block_efficiency"] / by[place],
                        "low": taken["block_efficiency_low"] / by[place],
                        "high": taken["block_efficiency_high"] / by[place],
                    }
                )
    return pd.DataFrame(rows)


def families(table: pd.DataFrame) -> pd.DataFrame:
    """Of each family and size the shape with the highest block efficiency under the family's published rule."""
    rows = []
    for protocol, sizes in (("length", (2, 3, 4, 5)), ("budget", (6, 10, 14, 21, 30))):
        for size in sizes:
            held = table[[f"{protocol} {size}" in part.split(";") for part in table["protocols"]]]
            for family in FAMILIES:
                rule = PUBLISHED.get(family, "recursive")
                part = held[(held["family"] == family) & (held["rule"] == rule)]
                if len(part):
                    row = part.iloc[int(np.argmax(part["block_efficiency"].to_numpy()))]
                    rows.append({"protocol": protocol, "size": size, **row.drop("protocols")})
    return pd.DataFrame(rows)


def comparisons(lines: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """RSD against the chain and SpecTr at every size: paired difference of block efficiency with its interval."""
    wide = lines.pivot_table(index="doc", columns=["family", "shape", "rule"], values="emitted")
    rows = []
    for (protocol, size), part in best.groupby(["protocol", "size"], sort=False):
        held = {row["family"]: (row["family"], row["shape"], row["rule"]) for _, row in part.iterrows()}
        for family in ("RSD-C", "RSD-S"):
            for other in ("chain", "SpecTr"):
                difference = (wide[held[family]] - wide[held[other]]).dropna()
                low, high = bootstrap_interval(difference.to_numpy()[:, None], difference.index.to_numpy())
                rows.append(
                    {
                        "protocol": protocol,
                        "size": size,
                        "method": f"{family} {held[family][1]}",
                        "against": f"{other} {held[other][1]}",
                        "difference": float(difference.mean()),
                        "low": float(low[0]),
                        "high": float(high[0]),
                        "ahead": "yes" if low[0] > 0 else "no" if high[0] < 0 else "open",
                    }
                )
    return pd.DataFrame(rows)


def rules(lines: pd.DataFrame) -> pd.DataFrame:
    """What block and traversal verification add on the same trees, and K-SEQ against recursive rejection; paired."""
    wide = lines.pivot_table(index="doc", columns=["family", "shape", "rule"], values="emitted")
    rows = []
    for family, shape in dict.fromkeys((column[0], column[1]) for column in wide.columns):
        held = list(wide[family][shape].columns)
        base = "recursive" if "recursive" in held else "rrs"
        for rule in held:
            if rule == base:
                continue
            difference = (wide[family, shape, rule] - wide[family, shape, base]).dropna()
            low, high = bootstrap_interval(difference.to_numpy()[:, None], difference.index.to_numpy())
            rows.append(
                {
                    "family": family,
                    "shape": shape,
                    "rule": rule,
                    "over": base,
                    "gain": float(difference.mean()),
                    "low": float(low[0]),
                    "high": float(high[0]),
                }
            )
    return pd.DataFrame(rows)


def by_depth(lines: pd.DataFrame) -> pd.DataFrame:
    """Probability of accepting at least d drafts, of every tree and rule."""
    rows = []
    for (family, shape, rule), part in lines.groupby(["family", "shape", "rule"], sort=False):
        depth = max(len(values) for values in part["by_depth"])
        held = np.array([values + [0.0] * (depth - len(values)) for values in part["by_depth"]])
        for d, mean in enumerate(held.mean(0), 1):
            rows.append({"family": family, "shape": shape, "rule": rule, "depth": d, "accepted": float(mean)})
    return pd.DataFrame(rows)


def by_child(lines: pd.DataFrame) -> pd.DataFrame:
    """Share of visits to a parent in which its k-th child is the one accepted."""
    rows = []
    for (family, shape, rule), part in lines.groupby(["family", "shape", "rule"], sort=False):
        for k in range(max(len(values) for values in part["by_child"])):
            held = np.array([values[k] for values in part["by_child"] if len(values) > k])
            asked, taken = held.sum(0)
            rows.append(
                {
                    "family": family,
                    "shape": shape,
                    "rule": rule,
                    "child": k + 1,
                    "visits": asked,
                    "share": taken / asked,
                }
            )
    return pd.DataFrame(rows)


def run_table(runs: Sequence[dict[str, Any]], table: pd.DataFrame) -> pd.DataFrame:
    """Whole texts: block efficiency, realised and expected, tokens per second, and the same tree at the prefixes."""
    named = {(f"{row['family']} {row['shape']}", row["rule"]): row for row in table.to_dict("records")}
    found: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys((line["method"], line["rule"]) for line in runs):
        part = [line for line in runs if (line["method"], line["rule"]) == key]
        found["|".join(key)] = summarise_log([read_step(line, whole_tree=True) for line in part])
    held = summary_table(found)
    held.insert(1, "rule", [name.split("|")[1] for name in held["tree"]])
    held["tree"] = [name.split("|")[0] for name in held["tree"]]
    at = [named.get((tree, rule)) for tree, rule in zip(held["tree"], held["rule"], strict=True)]
    for end in ("", "_low", "_high"):
        held[f"at_prefixes{end}"] = [row[f"block_efficiency{end}"] if row else np.nan for row in at]
    held["draft_seconds"] = [found[f"{t}|{r}"]["seconds"][0] for t, r in zip(held["tree"], held["rule"], strict=True)]
    held["target_seconds"] = [found[f"{t}|{r}"]["seconds"][1] for t, r in zip(held["tree"], held["rule"], strict=True)]
    held["verify_seconds"] = [found[f"{t}|{r}"]["seconds"][2] for t, r in zip(held["tree"], held["rule"], strict=True)]
    return held


def markdown(best: pd.DataFrame, results: Path, facts: dict[str, Any]) -> str:
    """The main tables as people read them."""
    parts = [
        "# Tables of the tree study",
        f"{facts['prefixes']} prefixes, one of each document.  Cells: block efficiency, 95% interval over documents, "
        "the tree (2,1 x6: two children of the root, then six levels without branches).  "
        f"Draft forward pass over target forward pass, one token each: {facts['cost_ratio']:.3f}.",
    ]
    for protocol, title in (("length", "Fixed draft length"), ("budget", "Fixed target budget")):
        held = best[best["protocol"] == protocol]
        sizes = list(dict.fromkeys(held["size"]))
        lines = [f"## {title}", "| family | " + " | ".join(map(str, sizes)) + " |", "|---|" + "---|" * len(sizes)]
        for family in dict.fromkeys(held["family"]):
            rows = held[held["family"] == family].set_index("size")
            cells = [_cell(rows.loc[size]) if size in rows.index else "" for size in sizes]
            lines.append(f"| {family} ({rows['rule'].iloc[0]}) | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    for name, title in (
        ("claims", "RSD against the baselines, paired"),
        ("within_budget", "Memory-bound speed-up with at most so many nodes"),
        ("rules", "Other rules on the same trees, paired"),
        ("runs", "Whole texts decoded"),
    ):
        if (results / f"{name}.csv").exists():
            table = pd.read_csv(results / f"{name}.csv")
            parts.append(f"## {title}\n" + _table(_runs(table) if name == "runs" else table))
    return "\n\n".join(parts) + "\n"


def _cell(row: Any) -> str:
    low, high = row["block_efficiency_low"], row["block_efficiency_high"]
    # A long run of levels without branches is counted, so that the table fits a page.
    shape = re.sub(r",1(?:,1){3,}$", lambda run: f",1 x{run[0].count('1')}", str(row["shape"]))
    return f"{row['block_efficiency']:.2f} [{low:.2f}, {high:.2f}] {shape}"


def _runs(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of the decoded texts that people compare, intervals beside their values; the CSV has all of them."""
    found = table[["tree", "rule", "documents", "target_passes"]].copy()
    for name, low, high in (
        ("block_efficiency", "low", "high"),
        ("at_prefixes", "at_prefixes_low", "at_prefixes_high"),
    ):
        spread = zip(table[name], table[low], table[high], strict=True)
        found[name] = [f"{a:.2f} [{b:.2f}, {c:.2f}]" for a, b, c in spread]
    return found.assign(tokens_per_second=table["tokens_per_second"], verify_seconds=table["verify_seconds"])


def _table(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(best: pd.DataFrame, depths: pd.DataFrame, results: Path) -> None:
    """PNG figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for protocol in ("length", "budget"):
        figure, places = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
        for place, value in zip(places, ("block_efficiency", "mbsu"), strict=True):
            place.grid(alpha=0.25, linewidth=0.6)
            place.spines[["top", "right"]].set_visible(False)
            tree_protocols(best, protocol, value, place)
        places[0].get_legend().remove()
        figure.suptitle(f"Qwen2.5-Coder 1.5B drafted by 0.5B, HumanEval, temperature 1: fixed {protocol}")
        figure.savefig(results / f"fixed_{protocol}.png", dpi=150)
        plt.close(figure)
    shown = [
        ("chain", "14"),
        ("SpecTr", "2x7"),
        ("RSD-C", "2,2,1,1"),
        ("RSD-S", "2x7"),
        ("Sequoia", "14"),
        ("EAGLE-2", "14"),
    ]
    parts = []
    for family, shape in shown:
        rule = PUBLISHED.get(family, "recursive")
        part = depths[(depths["family"] == family) & (depths["shape"] == shape) & (depths["rule"] == rule)]
        parts.append(part.assign(tree=f"{family} {shape}"))
    held = pd.concat(parts)
    ax = tree_depths(held[held["depth"] <= 10])
    ax.set_title("14 nodes per target forward pass: how deep drafts are accepted")
    root_of(ax).savefig(results / "depths.png", dpi=150)
    plt.close(root_of(ax))


def _csv(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False, float_format="%.5g")
