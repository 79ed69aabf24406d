"""Trees at fixed draft length and at fixed target budget, on the Qwen2.5-Coder pair: measure, then report.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b
    python scripts/make_data.py
    python scripts/study_trees.py measure [--models models] [--study out/study] [--out out/trees] [--minutes 30]
    python scripts/study_trees.py report [--out out/trees] [--results docs/results/trees]

``measure`` writes, resumable document by document:

- ``costs.json``: seconds of one draft forward pass and one target forward pass by the nodes read, on this machine;
- ``prefixes.jsonl``: every configuration at the same prefixes.  A prefix is a HumanEval prompt and the first tokens of
  a text that the target sampled (the study dump's token column), cut at a place drawn once per document: text
  positions, not the positions a run of the method would come to.  Drafts of all trees share their random numbers and
  their forward passes; given the tree, accepted tokens are exact expectations (Rao-Blackwell), not counts;
- ``runs.jsonl``: whole texts decoded by some of the methods, to see whether the two agree.

``report`` makes the tables and figures.  Temperature 1, the whole vocabulary; models in bfloat16 (several times faster
here than float32 when more than one token is read), distributions and verification in float64.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from study_trees_methods import BUDGETS, LENGTHS, STOPS, Method, chain_of, methods, run_methods, side_by_side
from torch import Tensor

from mdsd_bounds.distributions import to_probs
from mdsd_bounds.dumps import open_dump
from mdsd_bounds.dumps.containers.safetensors import open_safetensors
from mdsd_bounds.dumps.step_schema import write_step
from mdsd_bounds.models.loading import load_model
from mdsd_bounds.models.prompts import read_prompts
from mdsd_bounds.trees.base import Distributions, Source, Tree, common_randomness
from mdsd_bounds.trees.bounds import sampled_full_information
from mdsd_bounds.trees.decode import decode
from mdsd_bounds.trees.log import record
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.trees.verify import expected_accepted, expected_emitted, reach, stops
from mdsd_bounds.verifiers.rejection_paths import sample_paths

TARGET, DRAFT = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"
SEED = 0
#: A chain is drafted on only while this much probability is left that its end is reached.
LEFT = 0.003
RANK_ROWS = 240


def at_prefix(
    target: TreeReader, draft: TreeReader, configurations: Sequence[Method], doc: int
) -> Iterator[dict[str, Any]]:
    """Expected accepted tokens of every configuration and rule below one prefix."""
    source = common_randomness(SEED * 1_000_003 + doc)
    grown = 0
    for length in (6, 14, 30):
        tree = chain_of(length)(draft.distributions, source)
        grown = length
        weight = reach(tree, stops(tree, target.distributions(tree.paths), "recursive"))
        if tree.length < length or weight[-1] < LEFT:
            break
    for length in sorted({*LENGTHS, *BUDGETS}):
        tree = chain_of(min(length, grown))(draft.distributions, source)
        where = [f"length {length}"] * (length in LENGTHS) + [f"budget {length}"] * (length in BUDGETS)
        method = Method("chain", str(length), chain_of(length), ("recursive", "block"), length, length, tuple(where))
        yield from _judged(method, tree, target, doc)
    trees = side_by_side(draft.distributions, [partial(_built, method, source) for method in configurations])
    target.read([path for tree in trees for path in tree.paths])
    for method, tree in zip(configurations, trees, strict=True):
        yield from _judged(method, tree, target, doc)


def _built(method: Method, source: Source, distributions: Distributions) -> Tree:
    return method.build(distributions, source)


def _judged(method: Method, tree: Tree, target: TreeReader, doc: int) -> Iterator[dict[str, Any]]:
    distributions = target.distributions(tree.paths)
    bound = _full_information(method, tree, distributions)
    for rule in method.rules:
        ways = stops(tree, distributions, rule)
        weight = reach(tree, ways)
        by_depth = [
            sum(w for w, d in zip(weight, tree.depths, strict=True) if d == k) for k in range(1, tree.length + 1)
        ]
        places = _places(tree)
        by_child: dict[int, list[float]] = {}
        for v in range(1, len(tree.tokens)):
            entry = by_child.setdefault(places[v], [0.0, 0.0])
            entry[0] += weight[tree.parents[v]]
            entry[1] += weight[v]
        yield {
            "doc": doc,
            "family": method.family,
            "shape": method.shape,
            "rule": rule,
            "protocols": method.protocols,
            "length": method.length,
            "nodes": method.nodes,
            "held": tree.size,
            "draft_passes": tree.draft_passes,
            "accepted": expected_accepted(tree, ways),
            "emitted": expected_emitted(tree, ways),
            "bound": bound,
            "by_depth": [float(f"{x:.5g}") for x in by_depth],
            "by_child": [by_child[k] for k in sorted(by_child)],
        }


def _full_information(method: Method, tree: Tree, distributions: Tensor) -> float | None:
    """Where the probability of a path is known in closed form."""
    if method.family == "SpecTr":
        return sampled_full_information(tree, distributions, paths=int(method.shape.split("x")[0]))
    vector = [1] * method.length if method.family == "chain" else []
    vector = [int(n) for n in method.shape.split(",")] if method.family == "RSD-C" else vector
    return sampled_full_information(tree, distributions, branching=vector) if vector and max(vector) <= 2 else None


def _places(tree: Tree) -> list[int]:
    """Of each node its place among the children of its parent, from 1; 0 for the root."""
    places = [0] * len(tree.tokens)
    for children in tree.children:
        for place, v in enumerate(children.values(), 1):
            places[v] = place
    return places


def sampled_texts(study: Path) -> list[list[int]]:
    """The tokens that the target sampled after each prompt."""
    texts: dict[int, list[int]] = {}
    for docs, tokens in _columns(open_dump(study)):
        for doc, token in zip(docs, tokens, strict=True):
            texts.setdefault(doc, []).append(token)
    return [texts[doc] for doc in sorted(texts)]


def _columns(dump: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Documents and tokens without the logits where the dump is native."""
    for file in sorted(Path(dump.facts.path).glob("*.safetensors")):
        arrays = open_safetensors(file)
        yield arrays["doc"].whole().tolist(), arrays["token"].whole().tolist()


def rank_acceptance(study: Path, rows: int, most: int = 4) -> list[float]:
    """How often the k-th draft of a node is the one accepted, over evenly spaced rows of the study dump."""
    dump = open_dump(study)
    generator = torch.Generator().manual_seed(SEED)
    total = torch.zeros(most, dtype=torch.float64)
    places = [round(i * (len(dump) - 1) / (rows - 1)) for i in range(rows)]
    for row in places:
        (batch,) = dump.batches(1, start=row, stop=row + 1)
        p, q = to_probs(batch.target_logits)[0], to_probs(batch.draft_logits)[0]
        total += sample_paths(p, q, most, 32, generator).mean(-1)
    reached = torch.cat([torch.zeros(1, dtype=torch.float64), total / rows])
    return [float(x) for x in reached.diff().clamp(min=0.0)]


def costs(target: Any, draft: Any, text: Sequence[int], repeats: int = 5) -> dict[str, Any]:
    """Median seconds of a pass by nodes read; every repeat takes all sizes in turn so that load meets all alike."""
    sizes = {"target": (1, 2, 4, 7, 11, 15, 22, 31), "draft": (1, 2, 3, 5, 8)}
    times: dict[tuple[str, int], list[float]] = {}
    for repeat in range(repeats + 1):
        for name, model in (("target", target), ("draft", draft)):
            reader = TreeReader(model, text)
            reader.read([()])
            for size in sizes[name]:
                twin = reader.clone()
                twin.read([(token,) for token in range(1000, 1000 + size)])
                if repeat:
                    times.setdefault((name, size), []).append(twin.passes[-1][1])
    found: dict[str, Any] = {name: {str(n): statistics.median(times[name, n]) for n in sizes[name]} for name in sizes}
    found["context"] = len(text)
    found["least"] = {name: {str(n): min(times[name, n]) for n in sizes[name]} for name in sizes}
    return found


def measure(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * arguments.minutes
    ranks = _kept(out / "ranks.json", lambda: rank_acceptance(arguments.study, RANK_ROWS))
    target, draft = (load_model(str(arguments.models / name), arguments.dtype) for name in (TARGET, DRAFT))
    prompts = [list(target.tokenizer(prompt)["input_ids"]) for prompt in read_prompts("humaneval")]
    texts = sampled_texts(arguments.study)
    _kept(out / "facts.json", lambda: _facts(arguments.study, target, draft))
    _kept(out / "costs.json", lambda: costs(target.model, draft.model, prompts[0]))
    configurations = methods(ranks)
    share = time.monotonic() + arguments.prefix_share * (ends - time.monotonic())
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(SEED)).tolist()
    for doc in _left(out / "prefixes.jsonl", order):
        if time.monotonic() > share:
            break
        text = texts[doc]
        usable = next((i for i, token in enumerate(text) if token in STOPS), len(text))
        place = int(torch.randint(usable + 1, (1,), generator=torch.Generator().manual_seed(doc)))
        place = min(place, len(text) - 1)
        prefix = prompts[doc] + text[:place]
        readers = TreeReader(target.model, prefix), TreeReader(draft.model, prefix)
        begun = time.monotonic()
        lines = [{**line, "place": place} for line in at_prefix(*readers, configurations, doc)]
        _append(out / "prefixes.jsonl", lines)
        nodes = [sum(n for n, _ in reader.passes) for reader in readers]
        print(f"prefix {doc}: {time.monotonic() - begun:.0f} s, {nodes} tokens read", file=sys.stderr, flush=True)
    for doc in _left(out / "runs.jsonl", order):
        if time.monotonic() > ends:
            break
        readers = TreeReader(target.model, prompts[doc][:-1]), TreeReader(draft.model, prompts[doc][:-1])
        for reader in readers:
            reader.read([()])
        logged: list[dict[str, object]] = []
        decoders = run_methods(ranks)
        for name, build, rule in decoders:
            pair = [reader.clone() for reader in readers]
            for reader in pair:
                reader.advance(prompts[doc][-1:])
            generator = torch.Generator().manual_seed(SEED * 1_000_003 + doc)
            steps = decode(pair[0], pair[1], build, rule, arguments.new_tokens, generator, STOPS)
            logged += [{**write_step(record(step, k, doc, rule)), "method": name} for k, step in enumerate(steps)]
        _append(out / "runs.jsonl", logged)
        print(f"run {doc}: {len(decoders)} methods", file=sys.stderr, flush=True)


def _facts(study: Path, target: Any, draft: Any) -> dict[str, Any]:
    """What identifies the models and the dump that the prefixes come from."""
    return {
        "target": target.identity,
        "draft": draft.identity,
        "dump_manifest_sha256": hashlib.sha256((study / "manifest.json").read_bytes()).hexdigest(),
        "dump_rows": len(open_dump(study)),
    }


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    if not file.exists():
        file.write_text(json.dumps(make(), indent=1) + "\n")
    return json.loads(file.read_text())


def _left(file: Path, order: Sequence[int]) -> list[int]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {line["doc"] for line in lines}
    return [doc for doc in order if doc not in done]


def _append(file: Path, lines: Sequence[Mapping[str, object]]) -> None:
    # Whole documents at a time: a run that is stopped leaves no half.
    with file.open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=("measure", "report"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--study", type=Path, default=Path("out/study"))
    parser.add_argument("--out", type=Path, default=Path("out/trees"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/trees"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--prefix-share", type=float, default=0.7)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.stage == "measure":
        measure(arguments)
    else:
        from study_trees_report import report

        report(arguments.out, arguments.results)


if __name__ == "__main__":
    main()
