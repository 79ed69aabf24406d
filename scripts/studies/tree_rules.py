"""Tree rules as shares of the joint optimum on random instances, and on adversarial ones: tables of docs/trees.md.

    python scripts/studies/tree_rules.py random|certificates|adversarial|times [--seeds N] [--out FOLDER]

Every share is exact: all trees of a toy language model of a few tokens are added up.  ``random`` takes minutes on one
core, ``certificates`` (1,000 instances of bounds and the sweep) as well, ``adversarial`` longer.  ``times`` measures
one verification of trees on rows of the shipped example, cut to the 50 most probable tokens.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mdsd_bounds import load_example
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.sampling import SamplingOptions
from mdsd_bounds.trees.base import Path as Tokens
from mdsd_bounds.trees.base import Tree, sampling
from mdsd_bounds.trees.bounds import full_information, joint_optimum, node_optimum
from mdsd_bounds.trees.builders import independent_paths, rsd_c
from mdsd_bounds.trees.certificate import Reading, exact_bounds
from mdsd_bounds.trees.enumerate import branching_trees, tree_distribution
from mdsd_bounds.trees.rows import Exchangeable, Rows, sampled_rows
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.sweep import rule, sweep_stops
from mdsd_bounds.trees.sweep.layer import Drafting, LayerRule, prepare_layer
from mdsd_bounds.trees.verify import Stop, expected_accepted, stops, verify

OUT = Path(__file__).parents[2] / "docs" / "results" / "tree_rules"
Trees = list[tuple[Tree, float]]
KINDS = ("random", "related", "peaked", "swapped", "hot_cold")


class Toy:
    """A target and a draft over V tokens: a distribution for every path, from parameters that can be perturbed."""

    def __init__(self, kind: str, seed: int, size: int) -> None:
        self.kind, self.seed, self.size = kind, seed, size
        self.memory: dict[Tokens, tuple[np.ndarray, np.ndarray]] = {}

    def pair(self, path: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Logits of target and draft after a path."""
        if path not in self.memory:
            generator = np.random.default_rng([self.seed, KINDS.index(self.kind), len(path), *path])
            a, b = generator.standard_normal((2, self.size))
            self.memory[path] = {
                "random": (1.5 * a, 1.5 * b),
                "related": (1.5 * a + 0.7 * b, 1.5 * a),
                "peaked": (4 * a, 4 * a + 2 * b),
                "swapped": (2 * a, 2 * np.roll(a, 1)),
                "hot_cold": (2.5 * a, 0.8 * a),
            }[self.kind]
        return self.memory[path]

    def model(self, which: int) -> Callable[[Sequence[Tokens]], torch.Tensor]:
        """0: the target; 1: the draft."""

        def probs(paths: Sequence[Tokens]) -> torch.Tensor:
            rows = np.stack([self.pair(tuple(path))[which] for path in paths])
            weight = np.exp(rows - rows.max(1, keepdims=True))
            return torch.from_numpy(weight / weight.sum(1, keepdims=True))

        return probs


#: Name -> (branching vector or None, sampler, size of the vocabulary, share of the seeds).
SHAPES: dict[str, tuple[tuple[int, ...] | None, str, int, float]] = {
    "chain 3": ((1, 1, 1), "without_replacement", 3, 0.25),
    "rsd_c 2,2": ((2, 2), "without_replacement", 3, 1.0),
    "rsd_c 2,1 (4 tokens)": ((2, 1), "without_replacement", 4, 0.5),
    "rsd_c 2,1,1": ((2, 1, 1), "without_replacement", 3, 0.5),
    "rsd_c 3,1 (4 tokens)": ((3, 1), "without_replacement", 4, 0.1),
    "rsd_c 2,2,1": ((2, 2, 1), "without_replacement", 3, 0.05),
    "i.i.d. 2,2": ((2, 2), "with_replacement", 3, 0.25),
    "paths 2x2": (None, "with_replacement", 3, 0.25),
    "sequoia ((2),0)": (None, "without_replacement", 3, 0.25),
}


def trees_of(shape: str, toy: Toy, *, ordered: bool) -> Trees:
    """Every tree of a shape."""
    vector, sampler, _, _ = SHAPES[shape]
    draft = toy.model(1)
    if vector is not None:
        return branching_trees(draft, vector, sampler, ordered=ordered)
    if shape.startswith("paths"):
        return tree_distribution(lambda m, d: independent_paths(m, d, 2, 2), draft)
    return tree_distribution(lambda m, d: shaped(m, d, (((), ()), ())), draft)


def remember_layers() -> None:
    """Layers that many trees have in common, the root's above all, are prepared once."""
    known: dict[tuple[object, ...], LayerRule] = {}

    def prepare(draftings: Sequence[Drafting], targets: Sequence[np.ndarray]) -> LayerRule:
        shape = tuple((d.token.tobytes(), d.probs.tobytes(), d.draws, d.replacement) for d in draftings)
        key = (shape, tuple(t.tobytes() for t in targets))
        if key not in known:
            if len(known) > 20_000:
                known.clear()
            known[key] = prepare_layer(draftings, targets)
        return known[key]

    rule.prepare_layer = prepare  # type: ignore[attr-defined]


def accepted(trees: Trees, toy: Toy, verification: Callable[[Tree, torch.Tensor], list[Stop]]) -> float:
    """Accepted tokens of a rule in the mean."""
    target = toy.model(0)
    return sum(chance * expected_accepted(tree, verification(tree, target(tree.paths))) for tree, chance in trees)


def measure(shape: str, toy: Toy, *, deep: bool = False) -> dict[str, float]:
    """Accepted tokens of every rule and bound on one instance."""
    vector, sampler, _, _ = SHAPES[shape]
    sets = trees_of(shape, toy, ordered=False)
    target, draft = toy.model(0), toy.model(1)
    found = {
        "joint_optimum": joint_optimum(sets, target),
        "full_information": full_information(sets, target),
        "sweep": accepted(sets, toy, sweep_stops),
        "sweep_in_sequence": accepted(sets, toy, lambda t, x: sweep_stops(t, x, merged=False)),
    }
    if vector is not None:
        found["node_optimum"] = node_optimum(target, draft, vector, sampler)
        if max(vector) <= 2 or sampler == "with_replacement":
            reading = Reading(target, draft, vector, sampler)
            found["certificate"] = float(exact_bounds(sets, reading).min())
    every = sets if vector is None or deep else trees_of(shape, toy, ordered=True)
    if not deep:
        found["recursive"] = accepted(every, toy, lambda t, x: stops(t, x, "recursive"))
    if sampler == "without_replacement" and not deep:
        found["traversal"] = accepted(every, toy, lambda t, x: stops(t, x, "traversal"))
    if shape.startswith("paths"):
        found["greedy_multi_path"] = accepted(every, toy, lambda t, x: stops(t, x, "greedy_multi_path"))
    if shape.startswith("chain"):
        found["block"] = accepted(every, toy, lambda t, x: stops(t, x, "block"))
    return found


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def random_instances(out: Path, seeds: int) -> None:
    """The table over shapes: mean and worst share of the joint optimum."""
    rows, begun = [], time.perf_counter()
    for seed in range(seeds):
        for shape, (_, _, size, share) in SHAPES.items():
            # Every 1/share-th seed, so that what is finished is balanced however early it is stopped.
            if int((seed + 1) * share) == int(seed * share) and seed:
                continue
            for kind in KINDS:
                found = measure(shape, Toy(kind, seed, size), deep=shape == "rsd_c 2,2,1")
                rows.append({"shape": shape, "kind": kind, "seed": seed, **found})
        tell(f"seed {seed}: {len(rows)} instances, {time.perf_counter() - begun:.0f} s")
        table = pd.DataFrame(rows)
        table["shape"] = pd.Categorical(table["shape"], list(SHAPES))
        table = table.sort_values(["shape", "seed"], kind="stable").astype({"shape": str})
        table.round(9).to_csv(out / "instances.csv", index=False)
        write_table(table, out / "random.md")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Mean and worst share of the joint optimum, by shape."""
    names = [name for name in ORDER if name in table]
    lines = [
        "| tree | instances | joint optimum | " + " | ".join(HEADS[name] for name in names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    without = table["shape"].str.startswith("rsd_c")
    parts = [*((shape, table[table["shape"] == shape]) for shape in table["shape"].unique())]
    for title, part in [*parts, ("RSD-C, all", table[without]), ("all", table)]:
        if not len(part):
            continue
        cells = []
        for name in names:
            share = (part[name] / part["joint_optimum"]).dropna()
            bound = name in ("certificate", "full_information")
            worst = share.max() if bound else share.min()
            cells.append(f"{share.mean():.4f} / {worst:.3f}" if len(share) == len(part) else "-")
        lines.append(f"| {title} | {len(part)} | {part['joint_optimum'].mean():.3f} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n")


ORDER = (
    "recursive",
    "traversal",
    "block",
    "greedy_multi_path",
    "node_optimum",
    "sweep_in_sequence",
    "sweep",
    "certificate",
    "full_information",
)
HEADS = {
    "recursive": "recursive",
    "traversal": "traversal",
    "block": "block",
    "greedy_multi_path": "greedy multi-path",
    "node_optimum": "node optimum",
    "sweep_in_sequence": "sweep, nodes in sequence",
    "sweep": "**sweep**",
    "certificate": "certificate",
    "full_information": "full information",
}


def certificates(out: Path, seeds: int) -> None:
    """The bound and the sweep beside the joint optimum, 4 shapes and 5 kinds, ``seeds`` each (50: 1,000 instances)."""
    rows, begun = [], time.perf_counter()
    for shape in ("rsd_c 2,2", "rsd_c 2,1 (4 tokens)", "chain 3", "rsd_c 2,1,1"):
        vector, sampler, size, _ = SHAPES[shape]
        for seed in range(seeds):
            for kind in KINDS:
                toy = Toy(kind, 10_000 + seed, size)
                sets = trees_of(shape, toy, ordered=False)
                best = joint_optimum(sets, toy.model(0))
                bounds = exact_bounds(sets, Reading(toy.model(0), toy.model(1), vector or (), sampler)) / best
                full = full_information(sets, toy.model(0)) / best
                row = {"least": bounds.min(), "loc_1": bounds[3], "full_information": full}
                row["sweep"] = accepted(sets, toy, sweep_stops) / best
                rows.append({"shape": shape, "kind": kind, "seed": seed, "joint_optimum": best, **row})
        tell(f"{shape}: {time.perf_counter() - begun:.0f} s")
    table = pd.DataFrame(rows)
    table.round(9).to_csv(out / "certificates.csv", index=False)
    write_certificates(table, out / "certificates.md")


def write_certificates(table: pd.DataFrame, path: Path) -> None:
    """Mean and worst of the bounds and of the sweep, over the joint optimum, by shape."""
    lines = [
        "| tree | instances | below the optimum | least of eight | loc, kappa 1 | full information | the sweep |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, part in [*table.groupby("shape", sort=False), ("all", table)]:
        below = int((part["least"] < 1 - 1e-8).sum())
        cells = [f"{part[name].mean():.4f} / {part[name].max():.3f}" for name in ("least", "loc_1", "full_information")]
        cells.append(f"{part['sweep'].mean():.4f} / {part['sweep'].min():.3f}")
        lines.append(f"| {title} | {len(part)} | {below} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n")


def share_of_optimum(shape: str, toy: Toy) -> float:
    """The sweep's share of the joint optimum."""
    sets = trees_of(shape, toy, ordered=False)
    return accepted(sets, toy, sweep_stops) / joint_optimum(sets, toy.model(0))


def beside_traversal(shape: str, toy: Toy) -> float:
    """Accepted tokens of the sweep over those of traversal."""
    own = accepted(trees_of(shape, toy, ordered=False), toy, sweep_stops)
    return own / accepted(trees_of(shape, toy, ordered=True), toy, lambda t, x: stops(t, x, "traversal"))


#: What the hill climbing makes small.
SOUGHT = {"share of the joint optimum": share_of_optimum, "beside traversal": beside_traversal}


def adversarial(out: Path, steps: int) -> None:
    """Hill climbing on the logits towards a sweep far below the joint optimum, and towards one below traversal."""
    rows = []
    for shape in ("rsd_c 2,1,1", "rsd_c 2,2"):
        for name, value_of in SOUGHT.items():
            best, least = climbed(shape, value_of, steps)
            found = measure(shape, best)
            shares = {k: v / found["joint_optimum"] for k, v in found.items()}
            rows.append({"shape": shape, "sought": name, "steps": steps, **shares})
            tell(f"{shape}, {name}: {least:.4f}")
            pd.DataFrame(rows).round(6).to_csv(out / "adversarial.csv", index=False)


def climbed(shape: str, value_of: Callable[[str, Toy], float], steps: int) -> tuple[Toy, float]:
    """The toy with the least value from the best of fifteen starts; steps get smaller, and some paths stay at times."""
    size, generator = SHAPES[shape][2], np.random.default_rng(len(shape))
    starts = [Toy(kind, seed, size) for kind in KINDS for seed in range(3)]
    values = [value_of(shape, toy) for toy in starts]
    best, least = starts[int(np.argmin(values))], min(values)
    for step in range(steps):
        trial = Toy(best.kind, best.seed, size)
        scale = 2.0 * 0.02 ** (step / steps) + 0.05
        for path, (p, q) in best.memory.items():
            moved = generator.random() < 0.5
            noise = scale * generator.standard_normal((2, size)) * moved
            trial.memory[path] = (np.clip(p + noise[0], -12, 12), np.clip(q + noise[1], -12, 12))
        value = value_of(shape, trial)
        if value < least:
            least, best = value, trial
    return best, least


#: Rules whose time is measured.
TIMED = ("sweep", "traversal", "recursive", "optimal")


def times(out: Path, trees: int) -> None:
    """Milliseconds of processor time of one verification: best of seven, median over trees."""
    cut, every = SamplingOptions(top_k=50), np.arange(32)
    settings = Settings(("without_replacement",), (1,), target=cut, draft=cut)
    rows = sampled_rows(load_example(), settings, every, every, 32)
    held = ((rows.target > 0) | (rows.draft > 0)).any(0)
    narrow = replace(rows, target=rows.target[:, held].contiguous(), draft=rows.draft[:, held].contiguous())
    lines = [f"| vocabulary | tree | nodes | {' | '.join(TIMED)} |", "|---|---|---|" + "---|" * len(TIMED)]
    for some in (rows, narrow):
        lines += _times_of(some, trees)
    (out / "times.md").write_text("\n".join(lines) + "\n")


def _times_of(rows: Rows, trees: int) -> list[str]:
    lines = []
    for vector in ((1, 1, 1, 1), (2, 2), (2, 2, 1), (2, 2, 2)):
        found: dict[str, list[float]] = {name: [] for name in TIMED}
        for seed in range(trees + 1):
            model, generator = Exchangeable(rows, seed % 32, np.random.default_rng(seed)), torch.Generator()
            tree = rsd_c(model.draft, sampling(generator.manual_seed(seed)), vector)
            target = model.target(tree.paths)
            for name in TIMED:
                spent = []
                for _ in range(7):
                    begun = time.thread_time()
                    verify(tree, target, name, generator)
                    spent.append(time.thread_time() - begun)
                found[name].append(1000 * min(spent))
        # The first tree compiles.
        cells = [f"{rows.target.shape[1]:,}", ",".join(map(str, vector)), str(sum(np.cumprod(vector)))]
        cells += [f"{np.median(found[name][1:]):.2f}" for name in TIMED]
        lines.append(f"| {' | '.join(cells)} |")
        tell(lines[-1])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("random", "certificates", "adversarial", "times"))
    parser.add_argument("--seeds", type=int, help="Seeds of each kind, steps of hill climbing, or trees.")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage != "times":
        remember_layers()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages = {
        "random": (random_instances, 40),
        "certificates": (certificates, 50),
        "adversarial": (adversarial, 300),
        "times": (times, 12),
    }
    stage, seeds = stages[arguments.stage]
    stage(arguments.out, arguments.seeds or seeds)


if __name__ == "__main__":
    main()
