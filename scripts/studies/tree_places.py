"""Lossless tree rules on the same trees of a real pair, and their share of the certified bound.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b
    python scripts/studies/tree_places.py measure [--target models/qwen2.5-coder-1.5b --draft models/qwen2.5-coder-0.5b]
    python scripts/studies/tree_places.py report [--results docs/results/tree_places]

One place in each HumanEval document, drawn once, in its own solution.  At a place each shape's tree is drawn, and every
rule verifies the same tree: accepted tokens are exact expectations given the tree.  The bound is estimated from the
tree and from twin draws (docs/trees.md); which of its eight certificates is taken for one half of the documents is
chosen on the other half.  ``measure`` is resumable by document.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tree_decoding import lines_of
from tree_decoding_report import interval, text_of

from mdsd_bounds.distributions import Warp
from mdsd_bounds.judge import Task, read_tasks
from mdsd_bounds.models.loading import load_model, silence
from mdsd_bounds.trees.base import common_randomness
from mdsd_bounds.trees.bound_log import chosen_crosswise
from mdsd_bounds.trees.bounds import sampled_full_information
from mdsd_bounds.trees.certificate import Reading, sampled_bounds
from mdsd_bounds.trees.drafting import drafting_from, stop_tokens
from mdsd_bounds.trees.named import fixed_branching, named_tree
from mdsd_bounds.trees.resampling import document_weights
from mdsd_bounds.trees.verify import expected_accepted, stops

SHAPES = ("2,2", "2,1,1", "2,2,1")
RULES = ("recursive", "traversal", "optimal", "sweep")
#: Pairs of rules whose difference is reported.
PAIRS = (("sweep", "traversal"), ("sweep", "recursive"), ("sweep", "optimal"), ("optimal", "traversal"))


def measure(arguments: argparse.Namespace) -> None:
    """One line a document and shape, until the minutes are over."""
    torch.set_num_threads(arguments.threads)
    silence()
    until = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "places.jsonl"
    done = {line["doc"] for line in lines_of(file)}
    target = load_model(arguments.target, arguments.dtype)
    drafting, stop = drafting_from(arguments.draft, target, arguments.dtype), stop_tokens(target)
    facts = {"target": target.identity, "draft": Path(arguments.draft).name, "dtype": arguments.dtype}
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    tasks = read_tasks("humaneval")
    order = [d for d in np.random.default_rng(0).permutation(len(tasks)).tolist() if d not in done]
    for count, doc in enumerate(order, 1):
        if time.monotonic() > until:
            return
        ids = _text(target.tokenizer, tasks[doc], doc)
        readers = drafting.readers(target.model, ids, warp=Warp(arguments.temperature))
        found = [{"doc": doc, "text": len(ids), **line} for line in _shapes(readers, stop, doc)]
        with file.open("a") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in found))
        left = (until - time.monotonic()) / 60
        print(f"{count} of {len(order)} documents, {left:.0f} minutes left", file=sys.stderr, flush=True)


def _text(tokenizer: Any, task: Task, doc: int) -> list[int]:
    """The prompt and the beginning of the task's own solution, cut at a place drawn once."""
    prompt = list(tokenizer(task.prompt)["input_ids"])
    whole = list(tokenizer(task.prompt + task.solution)["input_ids"])
    return whole[: int(np.random.default_rng([2, doc]).integers(len(prompt), max(len(whole), len(prompt) + 1)))]


def _shapes(readers: Any, stop: frozenset[int], doc: int) -> Iterator[dict[str, Any]]:
    target, draft = readers
    for shape in SHAPES:
        # The first drafts of all shapes share their random numbers.
        tree = named_tree("rsd_c", shape, stop)(draft.distributions, common_randomness(doc))
        read = target.distributions(tree.paths)
        accepted, seconds = {}, {}
        for rule in RULES:
            begun = time.thread_time()
            accepted[rule] = expected_accepted(tree, stops(tree, read, rule))
            seconds[rule] = time.thread_time() - begun
        branching = fixed_branching("rsd_c", shape)
        reading = Reading(target.distributions, draft.distributions, branching, tree.sampler, stop)
        bounds = sampled_bounds(tree, read, reading, torch.Generator().manual_seed(doc))
        full = sampled_full_information(tree, read, branching=branching)
        yield {"shape": shape, "nodes": tree.size, "accepted": accepted, "seconds": seconds,
               "bounds": bounds.tolist(), "full_information": full}  # fmt: skip


def report(arguments: argparse.Namespace) -> None:
    """Means, paired differences and shares of the bound, with 95% intervals over documents."""
    lines = lines_of(arguments.out / "places.jsonl")
    if not lines:
        raise SystemExit(f"{arguments.out}: nothing was measured")
    facts = json.loads((arguments.out / "facts.json").read_text())
    documents = sorted({line["doc"] for line in lines})
    weights = document_weights(len(documents))
    found: dict[str, Any] = {**facts, "documents": len(documents), "shapes": {}}
    tables = []
    for shape in SHAPES:
        mine = sorted((line for line in lines if line["shape"] == shape), key=lambda line: documents.index(line["doc"]))
        accepted = {rule: np.array([line["accepted"][rule] for line in mine]) for rule in RULES}
        means = {rule: (weights @ values) / len(documents) for rule, values in accepted.items()}
        every = np.array([line["bounds"] for line in mine])
        bound = (weights @ chosen_crosswise(every, np.arange(len(mine)) % 2 == 1)) / len(documents)
        held: dict[str, Any] = {"bound": interval(bound)}
        for rule in RULES:
            held[rule] = {"accepted": interval(means[rule]), "share": interval(means[rule] / bound)}
        held["differences"] = {f"{a} - {b}": interval(means[a] - means[b]) for a, b in PAIRS}
        found["shapes"][shape] = held
        tables += [f"**Shape ({shape})**: certified bound {text_of(held['bound'], '.4f')} accepted tokens", "",
                   "| rule | accepted tokens | share of the bound |", "|---|---|---|"]  # fmt: skip
        tables += [
            f"| {r} | {text_of(held[r]['accepted'], '.4f')} | {text_of(held[r]['share'], '.4f')} |" for r in RULES
        ]
        tables += ["", "| difference | accepted tokens |", "|---|---|"]
        tables += [f"| {name} | {text_of(values, '+.4f')} |" for name, values in held["differences"].items()] + [""]
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "places.json").write_text(json.dumps(found, indent=1) + "\n")
    page = "# Tree rules on the same trees of a real pair\n\n"
    page += "Written by `python scripts/studies/tree_places.py report`. "
    page += f"{len(documents)} HumanEval documents, one place each; 95% intervals over documents.\n\n"
    (arguments.results / "table.md").write_text(page + "\n".join(tables).rstrip() + "\n")
    print(page + "\n".join(tables))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("measure", "report"))
    parser.add_argument("--target", default="models/qwen2.5-coder-1.5b")
    parser.add_argument("--draft", default="models/qwen2.5-coder-0.5b")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/tree_places"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/tree_places"))
    arguments = parser.parse_args()
    (measure if arguments.stage == "measure" else report)(arguments)


if __name__ == "__main__":
    main()
