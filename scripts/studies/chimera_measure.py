"""The stage ``measure`` of ``scripts/studies/chimera.py``: every draft on text that was not trained on."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mdsd_bounds._backend.whole_files import whole_file, write_whole
from mdsd_bounds.bounds import make_problem, solve
from mdsd_bounds.distributions import to_probs
from mdsd_bounds.models.chimera import (
    Chimera,
    HeadDraft,
    Shape,
    StateStore,
    TargetSide,
    continue_text,
    head_draft,
    read_documents,
    read_facts,
    states_of,
    target_side,
)
from mdsd_bounds.models.chimera.start import least_squares
from mdsd_bounds.models.chimera.text import held_out, windows
from mdsd_bounds.models.drafts import make_draft
from mdsd_bounds.models.loading import LoadedModel
from mdsd_bounds.models.self_draft import prompt_lookup_distribution
from mdsd_bounds.trees.base import common_randomness
from mdsd_bounds.trees.chimera import HeadReader
from mdsd_bounds.trees.named import named_tree
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.trees.verify import expected_emitted, stops

#: Tokens that the target writes after each prompt, and the prompts continued together.
NEW, TOGETHER = 32, 8
#: Tokens at the beginning of a document that are not measured.
SKIPPED = 8
#: Of every text each second position is measured: neighbours say nearly the same.
STRIDE = 2
SEED = 0
COUNTS, SAMPLERS = (1, 2, 4), ("with_replacement", "without_replacement")
#: Trees: builder and shape.
TREES = (("chain", "4"), ("rsd_c", "2,2,1"), ("rsd_s", "3x3"), ("dynamic", "10x3x3"))
#: Windows of the training text that the n-gram draft counts in.
COUNTED = 100
#: A full head before its first step.
START = "least-squares"
#: Where the target's states of a study lie.
STATES: dict[Path, Path] = {}
#: Heads below which trees are grown, the first of which is timed.
MAIN = ("hour", "long")
OTHERS = ("early-exit:25", "early-exit:20", "prompt-lookup", "n-gram")


@dataclass(frozen=True)
class Text:
    """Tokens, the first that is measured, the first after the prompt, and the target's states at all but the last."""

    ids: list[int]
    start: int
    prompt: int
    states: Tensor

    @property
    def measured(self) -> range:
        """Places of the tokens predicted where the text is measured."""
        return range(self.start, len(self.ids), STRIDE)


@dataclass(frozen=True)
class LookupReader:
    """n-gram counts of a text that grows, with the interface of a draft model's reader."""

    text: list[int]
    before: list[int]
    width: int

    def distributions(self, paths: Sequence[tuple[int, ...]]) -> Tensor:
        """``[B, V]`` float64."""
        rows = [prompt_lookup_distribution([*self.before, *self.text, *path], self.width) for path in paths]
        return torch.stack(rows).exp()


def measure(arguments: argparse.Namespace, target: LoadedModel, heads: Mapping[str, str | None]) -> None:
    """Measure the drafts named, or all: acceptance on both texts, and of the main ones trees and costs.

    ``heads`` are the names of the study's heads, and which head each of them began with.
    """
    out: Path = arguments.out / "measured"
    out.mkdir(parents=True, exist_ok=True)
    STATES[arguments.out] = arguments.cache or arguments.out / "states"
    before = training_tokens(target)
    names = arguments.names or [*OTHERS, *heads, START]
    for name in [name for name in names if name in heads]:
        while arguments.wait and not (arguments.out / name / "head.json").exists():
            time.sleep(5.0)
        if not (arguments.out / name / "head.json").exists():
            print(f"{name}: not trained yet", file=sys.stderr, flush=True)
            names.remove(name)
    own = own_texts(target, out)
    for kind, texts in (("documents", documents(target)), ("own", own)):
        targets = [to_probs(target_side(target).logits(text.states[text.start - 1 :: STRIDE])) for text in texts]
        for name in names:
            file = out / kind / f"{name}.npz"
            # What a loss changes is measured on the text that the heads went on with.
            if not file.exists() and (kind == "own" or heads.get(name) is None):
                measure_one(name, file, texts, targets, reading(name, target, arguments.out, before))
    if "hour" in names and not (out / "costs.json").exists():
        found = costs(own[0], target, head_draft(str(arguments.out / "hour"), target))
        write_whole(out / "costs.json", (json.dumps(found, indent=1) + "\n").encode())
    grow(arguments, own, target, [name for name in names if name in (*OTHERS, *MAIN)], before)


def measure_one(
    name: str, file: Path, texts: Sequence[Text], targets: Sequence[Tensor], read: Callable[[Text], list[Tensor]]
) -> None:
    """Measure and keep one draft on one text."""
    begun = time.monotonic()
    arrays = acceptances(texts, targets, read)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    means = arrays["accepted"].mean(0).round(4).tolist()
    print(f"{name}, {file.parent.name}: {means}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def grow(
    arguments: argparse.Namespace, texts: Sequence[Text], target: LoadedModel, names: Sequence[str], before: list[int]
) -> None:
    """Trees of each draft below one text after another, until all are there or the minutes have passed."""
    begun = time.monotonic()
    files = {name: arguments.out / "measured" / f"{name}-trees.json" for name in names}
    lines = {name: json.loads(file.read_text()) if file.exists() else [] for name, file in files.items()}
    missing = [
        (doc, name) for doc in range(len(texts)) for name in names if all(line["doc"] != doc for line in lines[name])
    ]
    for done, (doc, name) in enumerate(missing):
        spent = time.monotonic() - begun
        if spent > 60 * arguments.minutes:
            print(f"trees: stopped at text {doc + 1} of {len(texts)}; run again for the rest", file=sys.stderr)
            return
        lines[name] += trees(doc, texts[doc], target, name, arguments.out, before)
        write_whole(files[name], json.dumps(lines[name]).encode())
        print(f"{name}: trees below text {doc + 1}, {done + 1} of {len(missing)}", file=sys.stderr, flush=True)


def documents(target: LoadedModel) -> list[Text]:
    """The held-out HumanEval documents, prompt and solution, read by the target."""
    found = []
    for document in held_out(read_documents("humaneval")[0]):
        ids, prompt = (
            list(target.tokenizer(s)["input_ids"]) for s in (document.text, document.text[: document.prompt])
        )
        found.append(Text(ids, SKIPPED, len(prompt), states_of(target.model, ids[:-1])))
    return found


def own_texts(target: LoadedModel, out: Path) -> list[Text]:
    """The target's continuations of the held-out prompts with its states, drawn once and kept."""
    file = out / "texts.safetensors"
    if not file.exists():
        (documents,) = read_documents("humaneval")
        prompts = [list(target.tokenizer(d.text[: d.prompt])["input_ids"]) for d in held_out(documents)]
        arrays: dict[str, Tensor] = {}
        for first in range(0, len(prompts), TOGETHER):
            part = prompts[first : first + TOGETHER]
            seen: list[Tensor] = []
            hook = target.model.get_decoder().register_forward_hook(
                lambda _, __, output, seen=seen: seen.append(output[0].detach().float().clone())
            )
            found = continue_text(target.model, part, NEW, SEED + first)
            hook.remove()
            for k, (ids, prompt) in enumerate(zip(found, part, strict=True)):
                # Prompts are padded on the left; every later pass reads one token.
                states = [seen[0][k, -len(prompt) :], *(more[k] for more in seen[1:])]
                name = f"{first + k:03d}"
                arrays |= {f"{name}.ids": torch.tensor(ids), f"{name}.start": torch.tensor(len(prompt))}
                arrays[f"{name}.states"] = torch.cat(states).contiguous()
            print(f"{first + len(part)} of {len(prompts)} prompts continued", file=sys.stderr, flush=True)
        write_whole(file, save(arrays))
    held = load(file.read_bytes())
    numbers = sorted({name.partition(".")[0] for name in held})
    starts = [int(held[f"{n}.start"]) for n in numbers]
    return [
        Text(held[f"{n}.ids"].tolist(), start, start, held[f"{n}.states"])
        for n, start in zip(numbers, starts, strict=True)
    ]


def training_tokens(target: LoadedModel) -> list[int]:
    """Tokens of the first training windows."""
    found: list[int] = []
    every = windows(read_documents("humaneval,stdlib"), target.tokenizer, 256)
    for _ in range(COUNTED):
        found += next(every).tokens
    return found


def reading(name: str, target: LoadedModel, out: Path, before: list[int]) -> Callable[[Text], list[Tensor]]:
    """``text -> logits [R, V]`` of the draft at each depth it distinguishes."""
    if name == "n-gram":
        lookup = make_draft("prompt-lookup", target, "float32", "cpu")
        return lambda text: [lookup.read([[*before, *text.ids]], [len(before) + text.start])[::STRIDE]]
    if name in OTHERS:
        draft = make_draft(name, target, "float32", "cpu")
        return lambda text: [draft.read([text.ids], [text.start])[::STRIDE]]
    network, side = start_of(target, out) if name == START else loaded(name, target, out)

    def read(text: Text) -> list[Tensor]:
        with torch.no_grad():
            embedded = side.embed(torch.tensor([text.ids[:-1]]))
            entering = network(embedded, text.states[None])[:, 0, text.start - 1 :: STRIDE]
            return list(side.logits(entering))

    return read


def loaded(name: str, target: LoadedModel, out: Path) -> tuple[Chimera, TargetSide]:
    """A trained head."""
    head = head_draft(str(out / name), target)
    return head.network, head.side


def start_of(target: LoadedModel, out: Path) -> tuple[Chimera, TargetSide]:
    """The head before its first step, on the windows that the ablations use."""
    facts = read_facts(out / "full-0")
    side = target_side(target)
    torch.manual_seed(facts["recipe"]["seed"])
    network = Chimera(Shape(**facts["shape"]), side.gain)
    store = StateStore(STATES.get(out, out / "states"), target, read_documents("humaneval,stdlib"), 256)
    least_squares(network, side, store, facts["windows"])
    return network.eval(), side


def acceptances(
    texts: Sequence[Text], targets: Sequence[Tensor], read: Callable[[Text], list[Tensor]]
) -> dict[str, np.ndarray]:
    """Of every position: its text, whether it lies after the prompt, ``1 - TV`` by depth, and ``alpha*_n`` of the first
    depth for both samplers.
    """
    names = ("doc", "after", "accepted", *SAMPLERS)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for doc, (text, p) in enumerate(zip(texts, targets, strict=True)):
        rows = [to_probs(logits) for logits in read(text)]
        parts["doc"].append(np.full(len(p), doc))
        parts["after"].append(np.array(text.measured) >= text.prompt)
        parts["accepted"].append(torch.stack([torch.minimum(p, q).sum(-1) for q in rows], 1).numpy())
        for sampler in SAMPLERS:
            found = solve(make_problem(p, rows[0], COUNTS, sampler)[0]).value.T.numpy()
            # Two routes to the same number: the exact search, and the sum of the minima.
            assert np.abs(found[:, 0] - parts["accepted"][-1][:, 0]).max() < 1e-8
            parts[sampler].append(found)
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def trees(doc: int, text: Text, target: LoadedModel, name: str, out: Path, before: list[int]) -> list[dict[str, Any]]:
    """Tokens expected of one target forward pass, given each tree, at one place of a text."""
    head = None if name in OTHERS else head_draft(str(out / name), target)
    place = int(torch.randint(4, NEW - 4, (1,), generator=torch.Generator().manual_seed(doc)))
    prefix = text.ids[: text.start + place]
    reader = TreeReader(target.model, prefix, states=head is not None)
    draft: Any
    if head is not None:
        draft = HeadReader(reader, head, prefix)
    elif name.startswith("early-exit"):
        draft = TreeReader(target.model, prefix, skip=range(int(name.partition(":")[2]), 30))
    else:
        draft = LookupReader(prefix, before if name == "n-gram" else [], int(target_width(target)))
    source = common_randomness(SEED * 1_000_003 + doc)
    grown = [named_tree(*tree)(draft.distributions, source) for tree in TREES]
    reader.read([path for tree in grown for path in tree.paths])
    lines = []
    for (builder, shape), tree in zip(TREES, grown, strict=True):
        ways = stops(tree, reader.distributions(tree.paths), "recursive")
        emitted = expected_emitted(tree, ways)
        lines.append({"doc": doc, "tree": f"{builder} {shape}", "emitted": emitted, "nodes": tree.size})
    return lines


def target_width(target: LoadedModel) -> int:
    """Columns of the target's head."""
    return int(target.model.get_output_embeddings().weight.shape[0])


def costs(text: Text, target: LoadedModel, head: HeadDraft, repeats: int = 12) -> dict[str, Any]:
    """Seconds of a processor in one pass, by nodes read: median and least of repeats in which all take turns.

    Processor time of one thread, so that what else the machine does matters little.
    """
    times: dict[str, list[float]] = {}
    base = TreeReader(target.model, text.ids, states=True)
    early = TreeReader(target.model, text.ids, skip=range(25, 30))
    drafting = HeadReader(base, head, text.ids)
    base.read_text()
    early.read_text()
    drafting.read([()])
    for repeat in range(repeats + 1):
        for nodes in (1, 10):
            paths = [(), *((token,) for token in range(1000, 999 + nodes))]
            drafting.advance([])
            for name, reader in (("head", drafting), ("target", base.clone()), ("early-exit:25", early.clone())):
                begun = time.process_time()
                reader.read(paths)
                if repeat:
                    times.setdefault(f"{name} {nodes}", []).append(time.process_time() - begun)
    found = {name: {"median": statistics.median(t), "least": min(t)} for name, t in times.items()}
    trained = sum(weight.numel() for weight in head.network.parameters())
    return {"seconds": found, "context": len(text.ids), "trained_numbers": trained, "threads": torch.get_num_threads()}
