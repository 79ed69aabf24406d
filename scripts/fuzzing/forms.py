"""Every form that can be read: how a small good file of it is made, and how it is read to the end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fuzzing import count_files, files
from fuzzing.files import ROWS, Make, V
from fuzzing.server_answers import ANSWERS, llama_server, teacher_lists, vllm_completion
from mdsd_bounds.dumps import open_dump
from mdsd_bounds.dumps.inspect import inspect


@dataclass(frozen=True)
class Form:
    """``make`` writes files into an empty folder; ``read`` reads what ``path`` (``{}`` is the folder) names, whole."""

    make: Make
    path: str
    read: Callable[[str], Any]


def read_dump(path: str) -> int:
    """All rows of a dump, and its facts."""
    dump = open_dump(path)
    found = sum(len(batch.row) for batch in dump.batches(3))
    inspect(dump)
    return found


def _read_positions(path: str) -> Any:
    from mdsd_bounds.audit.logs import read_positions

    return read_positions(path, sampler="with_replacement")


def _read_trees(path: str) -> Any:
    from mdsd_bounds.trees.log import read_log, summarise_log, summary_table

    return summary_table({"log": summarise_log(read_log(path))})


def _read_table(path: str) -> Any:
    from mdsd_bounds.pipeline.rendering import render
    from mdsd_bounds.pipeline.tables import read_table, summarise, summarise_comparison

    table = read_table(path)
    found = summarise_comparison(table) if table["verifier"].astype(bool).any() else summarise(table)
    return [render(found, style) for style in ("table", "json", "csv")]


def _read_map(path: str) -> Any:
    from mdsd_bounds.models.vocabulary import read_map

    return read_map(path, 16)


def _read_prompts(path: str) -> Any:
    from mdsd_bounds.models.prompts import read_prompts

    return read_prompts(path)


def _read_costs(path: str) -> Any:
    from mdsd_bounds.trees.advise import costs_from

    return costs_from(None, path)


_dump = functools.partial(Form, read=read_dump)

#: Name -> form.
FORMS: dict[str, Form] = {
    "native": _dump(files.native, "{}"),
    "native, truncated rows": _dump(files.native_cut, "{}/dump"),
    "capture folder": _dump(files.capture, "{}"),
    "pair .npz": _dump(files.stored("x.npz", files.pair), "{}/x.npz"),
    "pair .npz, compressed": _dump(files.stored("packed.npz", files.pair), "{}/packed.npz"),
    "pair .safetensors": _dump(files.stored("x.safetensors", files.pair), "{}/x.safetensors"),
    "pair .pt": _dump(files.stored("x.pt", files.pair), "{}/x.pt"),
    "two .npy": _dump(files.converted("t.npy,d.npy"), "{}/t.npy,{}/d.npy"),
    "folder of .npy": _dump(files.converted("target_logits.npy,draft_logits.npy"), "{}"),
    "two .safetensors": _dump(
        files.both(
            files.stored("target_logits.safetensors", lambda: {"logits": files.random_rows(ROWS, V)}),
            files.stored("draft_logits.safetensors", lambda: {"draft_logits": files.random_rows(ROWS, V)}),
        ),
        "{}",
    ),
    "forward pass .safetensors": _dump(
        files.both(
            files.stored("t.safetensors", files.forward), files.stored("d.safetensors", lambda: files.forward(1))
        ),
        "{}/t.safetensors,{}/d.safetensors",
    ),
    "forward pass .pt": _dump(files.stored("x.pt", files.forward), "{}/x.pt,{}/x.pt"),
    "generate .pt": _dump(files.stored("x.pt", files.generated), "{}/x.pt,{}/x.pt"),
    "hidden states .safetensors": _dump(
        files.stored("x.safetensors", files.hidden), "{}/x.safetensors,{}/x.safetensors"
    ),
    "hidden states .npz": _dump(files.stored("x.npz", files.hidden), "{}/x.npz,{}/x.npz"),
    "hidden states .pt": _dump(files.stored("x.pt", files.hidden), "{}/x.pt,{}/x.pt"),
    "EAGLE-3 draft": _dump(
        files.both(
            files.stored("d.safetensors", files.eagle),
            files.stored("t.safetensors", lambda: {"logits": files.random_rows(ROWS, V)}),
        ),
        "{}/t.safetensors,{}/d.safetensors",
    ),
    "EAGLE-3 pair .npz": _dump(
        files.stored("x.npz", lambda: files.mapped() | {"draft_vocabulary": torch.tensor(V)}), "{}/x.npz"
    ),
    "llama.cpp": _dump(files.llama_cpp, "{}/t.kld,{}/d.kld"),
    "vLLM, one answer a line": _dump(files.answered(vllm_completion, "jsonl"), "{}/t.jsonl,{}/d.jsonl"),
    "vLLM, flat": _dump(files.answered(files.flat), "{}/t.json,{}/d.json"),
    **{f"answer: {name}": _dump(files.answered(answer), "{}/t.json,{}/d.json") for name, answer in ANSWERS.items()},
    "answers in an array": _dump(files.answered(llama_server, "array.json"), "{}/t.json,{}/d.json"),
    "teacher, parquet": _dump(files.answered(teacher_lists, "parquet"), "{}/t.parquet,{}/d.parquet"),
    "several heads .npz": _dump(files.heads, "{}/x.npz#head=1"),
    "chat, texts and tokenizer": _dump(files.texts_of_tokens, "{}/t.json,{}/d.json#tokenizer={}"),
    "llama.cpp, different chunks": _dump(files.different_chunks, "{}/t.kld,{}/d.kld"),
    "numbers of ml_dtypes .npy": _dump(files.small_floats("npy"), "{}/t.npy,{}/d.npy"),
    "float8 .safetensors": _dump(files.small_floats("safetensors"), "{}/x.safetensors"),
    "pair .parquet": _dump(files.columns, "{}/x.parquet"),
    "step log, compressed": _dump(files.packed_steps, "{}/x.jsonl.gz"),
    "audit log, array": Form(files.array_log, "{}/x.json", _read_positions),
    "DistillKit": _dump(files.texts, "{}/t.parquet,{}/d.parquet"),
    "DistillKit, compressed": _dump(files.packed, "{}/t.parquet,{}/d.parquet"),
    "top-k .safetensors": _dump(files.stored("x.safetensors", files.top_k), "{}/x.safetensors,{}/x.safetensors"),
    "top-k .npz": _dump(files.stored("x.npz", files.top_k), "{}/x.npz,{}/x.npz"),
    "top-k .pt": _dump(files.stored("x.pt", files.top_k), "{}/x.pt,{}/x.pt"),
    "top-k pair with cut": _dump(files.converted("x.safetensors", 3), "{}/x.safetensors"),
    "step log": _dump(files.steps(full=False), "{}/x.jsonl"),
    "step log, target's candidates": _dump(files.steps(full=True), "{}/x.jsonl"),
    "audit of a step log": Form(files.steps(full=True), "{}/x.jsonl", _read_positions),
    "audit log": Form(files.positions("full"), "{}/x.jsonl", _read_positions),
    "audit log, truncated rows": Form(files.positions("cut"), "{}/x.jsonl", _read_positions),
    "audit log, parquet": Form(files.positions("parquet"), "{}/x.parquet", _read_positions),
    "audit of a tree log": Form(files.trees, "{}/x.jsonl", _read_positions),
    "tree log": Form(files.trees, "{}/x.jsonl", _read_trees),
    "table of bounds": Form(files.table(compared=False), "{}/x.parquet", _read_table),
    "table of a comparison": Form(files.table(compared=True), "{}/x.parquet", _read_table),
    "token map .safetensors": Form(files.token_map("x.safetensors"), "{}/x.safetensors", _read_map),
    "token map .npz": Form(files.token_map("x.npz"), "{}/x.npz", _read_map),
    "token map .npy": Form(files.token_map("x.npy"), "{}/x.npy", _read_map),
    "prompts": Form(files.prompts("x.jsonl"), "{}/x.jsonl", _read_prompts),
    "prompts, compressed": Form(files.prompts("x.jsonl.gz"), "{}/x.jsonl.gz", _read_prompts),
    "costs of calls": Form(files.costs, "{}/x.json", _read_costs),
    "metrics pages of vLLM": Form(count_files.pages, "{}/a.txt,{}/b.txt", count_files.read_counts),
    "metrics page of SGLang": Form(count_files.sglang_page, "{}/x.txt", count_files.read_counts),
    "log of vLLM": Form(count_files.vllm_log, "{}/x.log", count_files.read_counts),
    "log of vLLM before V1": Form(count_files.old_vllm_log, "{}/x.log", count_files.read_counts),
    "log of llama.cpp": Form(count_files.llama_log, "{}/x.log", count_files.read_counts),
    "log of llama.cpp, totals": Form(count_files.llama_totals, "{}/x.log", count_files.read_counts),
    "log of SGLang": Form(count_files.sglang_log, "{}/x.log", count_files.read_counts),
    "counts in answers": Form(count_files.answers, "{}/x.jsonl", count_files.read_counts),
    "counts by position, JSON": Form(count_files.arrays_of_json, "{}/x.json", count_files.read_counts),
    "counts by position .npz": Form(count_files.positions, "{}/x.npz", count_files.read_counts),
    "logit bias": Form(count_files.bias, "{}/x.json", count_files.read_bias),
    "accepted tokens .npy": Form(count_files.steps, "{}/x.npy", count_files.read_counts),
}
