"""What ``mdsd advise`` would have said of the cells of ``scripts/studies/tree_decoding.py``, beside what was measured.

    python scripts/studies/tree_decoding_predicted.py [--target ... --draft ...] [--out out/tree_decoding]

A dump of the pair over the held-out prompts gives acceptances at single positions; the formulas and simulations of
``mdsd advise`` make tokens per target forward pass of them, and the cost of a step comes from texts that the
measurement does not use.  Nothing of the cells themselves enters the prediction.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tree_decoding import is_held_out
from tree_decoding_report import complete, interval, sums_of, text_of

from mdsd_bounds import open_dump
from mdsd_bounds._backend.whole_files import write_whole
from mdsd_bounds.models import CaptureSettings, load_model, log_pair, read_prompts
from mdsd_bounds.models.loading import silence
from mdsd_bounds.pipeline import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.trees.across import simulate_tree
from mdsd_bounds.trees.advise import Choice, Profile, profiles, resampled
from mdsd_bounds.trees.costs import costs_from
from mdsd_bounds.trees.rows import sampled_rows

#: Cells with a formula: builder and shape, sampler, verifier, branching vector.
FORMULAS: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "chain 4, recursive": ("without_replacement", "rrs_without_replacement", (1, 1, 1, 1)),
    "rsd_c 2,2, recursive": ("without_replacement", "rrs_without_replacement", (2, 2)),
    "rsd_c 2,2, nss": ("without_replacement", "nss", (2, 2)),
    "rsd_c 2,2, optimal": ("without_replacement", "optimal", (2, 2)),
}
#: Simulated: the cell with the formula, rule.
SIMULATED = {
    "chain 4, block": ("chain 4, recursive", "block"),
    "rsd_c 2,2, traversal": ("rsd_c 2,2, recursive", "traversal"),
    "rsd_c 2,2, sweep": ("rsd_c 2,2, recursive", "sweep"),
}
TREES, ROWS = 64, 200


def dump_of(arguments: argparse.Namespace) -> Path:
    """A dump of the pair: what the target writes after the held-out prompts."""
    folder: Path = arguments.out / "dump"
    prompts = [prompt for doc, prompt in enumerate(read_prompts("humaneval")) if is_held_out(doc)]
    settings = CaptureSettings(new_tokens=arguments.new_tokens)
    log_pair(load_model(str(arguments.target)), arguments.draft, prompts, folder, settings)
    return folder


def tokens_of(dump: Path) -> dict[str, np.ndarray]:
    """Predicted tokens per target forward pass of each cell, ``[1 + resamples]``."""
    source = open_dump(dump)
    names = tuple(dict.fromkeys(verifier for _, verifier, _ in FORMULAS.values()))
    settings = Settings(("without_replacement",), (1, 2), (1.0,), names, samples=64)
    table = run(source, settings)
    assert table is not None
    found, documents = profiles(table)
    by_rule = {profile.verifier: profile for profile in found}
    numbers = np.sort(table["row"].unique())
    rows = sampled_rows(source, settings, numbers, documents, ROWS)
    predicted = {}
    for cell, (_, rule, branching) in FORMULAS.items():
        predicted[cell] = Choice(by_rule[rule], branching).tokens(resampled(by_rule[rule], documents))
    for cell, (base, rule) in SIMULATED.items():
        sampler, reference, branching = FORMULAS[base]
        choice = Choice(Profile(sampler, rule, by_rule[reference].rates), branching)
        free = costs_from(0.1, None)
        (one,) = simulate_tree(by_rule[reference], choice, documents, free, rows, rules=(rule,), trees=TREES)
        predicted[cell] = one.tokens
    return predicted


def step_seconds(out: Path, docs: Sequence[int]) -> dict[str, float]:
    """Seconds of a step of each cell over texts kept apart; processor time in proportion to its parts."""
    found = {}
    for name, sums in sums_of(out, docs).items():
        found[name] = float(sums["seconds"][0] / sums["target_passes"][0])
    return found


def main() -> None:
    """Predict, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="models/smollm2-135m")
    parser.add_argument("--draft", default="chimera:out/chimera/hour")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/tree_decoding"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/tree_decoding"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    silence()
    docs = complete(arguments.out)
    held, apart = [d for d in docs if is_held_out(d)], [d for d in docs if not is_held_out(d)]
    predicted, measured, seconds = tokens_of(dump_of(arguments)), sums_of(arguments.out, held), {}
    if apart:
        seconds = step_seconds(arguments.out, apart)
    rows: list[dict[str, Any]] = []
    for cell, tokens in predicted.items():
        own, plain = measured[cell], measured["plain"]
        row: dict[str, Any] = {"cell": cell, "predicted": interval(tokens),
                               "measured": interval(own["tokens"] / own["target_passes"])}  # fmt: skip
        speed = (own["tokens"] / own["seconds"]) / (plain["tokens"] / plain["seconds"])
        row["measured_speed"] = interval(speed)
        if seconds:
            row["predicted_speed"] = interval(tokens / (seconds[cell] / seconds["plain"]))
        rows.append(row)
    found = {"texts": len(held), "texts_for_costs": len(apart), "new_tokens": arguments.new_tokens, "cells": rows}
    write_whole(arguments.results / "predicted.json", (json.dumps(found, indent=1) + "\n").encode())
    table = [
        "# What mdsd advise predicts of the decoded trees",
        "",
        "Written by `python scripts/studies/tree_decoding_predicted.py`; "
        f"{len(held)} texts that the draft head has not seen.",
        "",
        "| cell | tokens per target pass, predicted | measured | speed over plain, predicted | measured |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        said = text_of(row["predicted_speed"]) if "predicted_speed" in row else "-"
        table.append(
            f"| {row['cell']} | {text_of(row['predicted'])} | {text_of(row['measured'])} | {said} | "
            f"{text_of(row['measured_speed'])} |"
        )
    write_whole(arguments.results / "predicted.md", ("\n".join(table) + "\n").encode())
    print("\n".join(table))


if __name__ == "__main__":
    main()
