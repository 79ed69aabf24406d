"""Whole texts decoded with draft trees by several rules: tokens per second, block efficiency, time spent verifying.

    python scripts/studies/tree_decoding.py measure --target models/smollm2-135m --draft early-exit:12 [--minutes 30]
    python scripts/studies/tree_decoding.py report [--results docs/results/tree_decoding]

``measure`` is resumable: every line of ``cells.jsonl`` is one text decoded in one cell, and what is there is not
decoded again.  The cells of a text come one after the other in an order drawn for each text, so that other work on the
machine meets all alike.  Time is the processor time of this process on one thread, which waiting for a busy machine is
not in; nevertheless only ratios of cells should be read.  Prompts are read before the clock starts.

The texts that a head trained by ``scripts/studies/chimera.py`` has not seen come first.

``report`` (:mod:`tree_decoding_report`) takes the texts that all cells have, and writes tables and a figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdsd_bounds.distributions import Warp
from mdsd_bounds.models.loading import load_model, silence
from mdsd_bounds.models.prompts import read_prompts
from mdsd_bounds.trees.drafting import drafting_from, stop_tokens
from mdsd_bounds.trees.generate import Plan, generate

#: Seconds of draft, target and verification in a line.
PARTS = ("draft", "target", "verify")


@dataclass(frozen=True)
class Cell:
    """One way of decoding."""

    builder: str
    shape: str
    rule: str
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """As it stands in the table."""
        tree = "plain" if self.builder == "plain" else f"{self.builder} {self.shape}, {self.rule}"
        return tree if self.temperature == 1.0 else f"{tree}, T {self.temperature:g}"


PLAIN = Cell("plain", "", "")
CELLS = (
    PLAIN,
    Cell("chain", "4", "recursive"),
    Cell("chain", "4", "block"),
    Cell("rsd_c", "2,2", "recursive"),
    Cell("rsd_c", "2,2", "nss"),
    Cell("rsd_c", "2,2", "traversal"),
    Cell("rsd_c", "2,2", "optimal"),
    Cell("rsd_c", "2,2", "sweep"),
    Cell("dynamic", "6x2x3", "recursive"),
    Cell("plain", "", "", 0.6),
    Cell("rsd_c", "2,2", "recursive", 0.6),
    Cell("rsd_c", "2,2", "sweep", 0.6),
)


def measure(arguments: argparse.Namespace) -> None:
    """Decode texts cell by cell until the minutes are over."""
    torch.set_num_threads(arguments.threads)
    silence()
    until = time.monotonic() + 60 * arguments.minutes
    file = arguments.out / "cells.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = {(line["doc"], line["cell"]) for line in lines_of(file)}
    target = load_model(arguments.target, arguments.dtype)
    drafting, stop = drafting_from(arguments.draft, target, arguments.dtype), stop_tokens(target)
    prompts = read_prompts(arguments.prompts)
    named: dict[str, Any] = {
        "target": Path(arguments.target).name,
        "draft": Path(arguments.draft).name,
        "prompts": arguments.prompts,
    }
    named["head"] = arguments.draft.startswith("chimera:")
    facts = {**named, "new_tokens": arguments.new_tokens, "dtype": arguments.dtype, "threads": arguments.threads}
    _same_run(arguments.out / "facts.json", facts)
    cells = [cell for cell in CELLS if not arguments.cells or cell.name in arguments.cells.split(";")]
    for cell in cells:  # Rules are compiled when they are first used, which is no part of decoding.
        decoded(drafting.readers(target.model, [1, 2, 3], warp=Warp(cell.temperature)), cell, 8, frozenset(), 0)
    drawn = np.random.default_rng(0).permutation(len(prompts)).tolist()
    order = sorted(drawn, key=lambda doc: not is_held_out(doc))[: arguments.texts]
    for count, doc in enumerate(order):
        for place in np.random.default_rng([1, doc]).permutation(len(cells)).tolist():
            cell = cells[place]
            if (doc, cell.name) in done:
                continue
            ids = list(target.tokenizer(prompts[doc])["input_ids"])
            readers = drafting.readers(target.model, ids, warp=Warp(cell.temperature))
            line = {"doc": doc, "cell": cell.name, **decoded(readers, cell, arguments.new_tokens, stop, doc)}
            with file.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        left = (until - time.monotonic()) / 60
        print(f"{count + 1} of {len(order)} texts, {left:.0f} minutes left", file=sys.stderr)
        if left <= 0:
            return


def is_held_out(doc: int) -> bool:
    """Whether a draft head trained on the same documents has not seen this one (every fifth of them)."""
    return doc % 5 == 4


def _same_run(file: Path, facts: dict[str, Any]) -> None:
    """Keep what the lines are of; lines of another run are not added to."""
    if file.exists() and json.loads(file.read_text()) != facts:
        raise SystemExit(f"{file}: the cells there are of another run; give another --out")
    file.write_text(json.dumps(facts) + "\n")


def decoded(readers: Any, cell: Cell, new_tokens: int, stop: frozenset[int], doc: int) -> dict[str, Any]:
    """Counts and seconds of one text."""
    for reader in readers:
        getattr(reader, "read_text", lambda: None)()
    plan = Plan("chain", "1", depth=0) if cell.builder == "plain" else Plan(cell.builder, cell.shape, cell.rule)
    generator = torch.Generator().manual_seed(doc)
    counts, parts = np.zeros(3, dtype=int), np.zeros(3)
    begun = time.process_time()
    for step in generate(readers[0], readers[1], plan, new_tokens, generator, stop):
        counts += [len(step.verified.tokens), 1, step.tree.size]
        parts += step.seconds
    seconds = time.process_time() - begun
    tokens, passes, nodes = counts.tolist()
    return {
        "tokens": tokens, "target_passes": passes, "nodes": nodes, "seconds": seconds,
        **dict(zip(PARTS, parts.tolist(), strict=True)),
    }  # fmt: skip


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("measure", "report"))
    parser.add_argument("--target", default="models/smollm2-135m")
    parser.add_argument("--draft", default="early-exit:12")
    parser.add_argument("--prompts", default="humaneval")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cells", help="names, separated by semicolons; all of them unless given")
    parser.add_argument("--draft-costs", type=float, nargs="+", default=[0.05, 0.1], help="modelled, in target passes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/tree_decoding"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/tree_decoding"))
    arguments = parser.parse_args()
    if arguments.stage == "measure":
        measure(arguments)
    else:
        from tree_decoding_report import report

        report(arguments.out, arguments.results, arguments.texts, arguments.draft_costs)


if __name__ == "__main__":
    main()
