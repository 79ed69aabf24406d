"""The formats that are read: how each is recognised by its content, and how it is opened.

A format is one record of :data:`READERS` (both models) or one entry of :data:`SIDES` (one model).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mdsd_bounds.dumps.base import Dump, size_on_disk
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import beginning, opening
from mdsd_bounds.dumps.formats.array_files import array_form, open_arrays
from mdsd_bounds.dumps.formats.array_pairs import (
    columns_beside,
    open_npy_pair,
    open_pair_file,
    open_safetensors_pair,
)
from mdsd_bounds.dumps.formats.distillkit import is_distillkit, open_distillkit
from mdsd_bounds.dumps.formats.llama_cpp import MAGIC, open_llama_cpp
from mdsd_bounds.dumps.formats.named_arrays import (
    FACTS,
    has_pair,
    needs_care,
    open_named,
    read_facts,
    says_more,
)
from mdsd_bounds.dumps.formats.native import MANIFEST, open_native
from mdsd_bounds.dumps.formats.several_heads import has_heads, open_heads
from mdsd_bounds.dumps.formats.step_log import is_step_log, open_step_log
from mdsd_bounds.dumps.formats.top_logprobs import is_top_logprobs, open_top_logprobs
from mdsd_bounds.dumps.formats.top_logprobs.tokenizer import resolver
from mdsd_bounds.dumps.hidden_states import is_head
from mdsd_bounds.dumps.how_to_read import PLAIN, HowToRead
from mdsd_bounds.dumps.single_model import Side, pair_sides
from mdsd_bounds.dumps.swapped_axes import refuse_swapped_axes
from mdsd_bounds.dumps.unrecognised import described
from mdsd_bounds.problem import InputError


def _is_native(paths: list[Path]) -> bool:
    return len(paths) == 1 and (paths[0] / MANIFEST).exists()


def _open_npy(paths: list[Path], label: str, how: HowToRead) -> Dump:
    target, draft = _pair_in_folder(paths, ".npy")
    return open_npy_pair(target, draft, label, columns_beside(target, draft))


def _pair_in_folder(paths: list[Path], suffix: str) -> list[Path]:
    if len(paths) == 1 and paths[0].is_dir():
        files = [paths[0] / f"{name}{suffix}" for name in ("target_logits", "draft_logits")]
        return files if all(file.exists() for file in files) else []
    return paths


def _pair_of(paths: list[Path]) -> list[Path]:
    """Target and draft: two paths, or the files of a folder with a file of logits a model."""
    files = _pair_in_folder(paths, ".npy")
    return files if len(files) == 2 else _pair_in_folder(paths, ".safetensors")


def _all_of(paths: list[Path], form: str, count: int) -> bool:
    return len(paths) == count and all(array_form(path) == form for path in paths)


def _is_plain(path: Path) -> bool:
    """Whether a file of arrays is one matrix of logits and nothing that says how its rows are to be read."""
    arrays = open_arrays(path)
    named = {"hidden_states", "ids", "token_ids", "top_ids", "indices"}
    plain = not named & set(arrays) and all(len(array.shape) <= 2 for array in arrays.values())
    return plain and not needs_care(path) and not says_more(path)


def _is_named(path: Path) -> bool:
    if path.is_dir():
        return not (path / MANIFEST).exists() and any(path.glob("*.safetensors"))
    return bool(array_form(path))


def _is_named_pair(paths: list[Path]) -> bool:
    # A folder with a file of logits a model is two files of one matrix each.
    if len(paths) != 1 or not _is_named(paths[0]) or (paths[0] / "target_logits.safetensors").exists():
        return False
    if not has_pair(paths[0]):
        return False
    # Two matrices and columns have readers of their own; what says more of its rows is read array by array.
    return not {"target_logits", "draft_logits"} <= set(open_arrays(paths[0])) or needs_care(paths[0])


Recognise = Callable[[list[Path]], bool]
Open = Callable[[list[Path], str, HowToRead], Dump]

#: One-model formats: name -> (does the content look like it, how to open it as target or draft).
SIDES: dict[str, tuple[Callable[[Path], bool], Callable[[Path, str, HowToRead], Side]]] = {
    "llama.cpp": (
        lambda path: beginning(path).startswith(MAGIC),
        lambda path, role, how: open_llama_cpp(path),
    ),
    "distillkit": (is_distillkit, lambda path, role, how: open_distillkit(path)),
    "top-logprobs": (is_top_logprobs, lambda path, role, how: open_top_logprobs(path, resolver(how))),
    "arrays": (_is_named, lambda path, role, how: open_named(path, role)),
}


def _join(paths: list[Path], label: str, how: HowToRead) -> Dump:
    paths = _pair_of(paths)
    target, draft = (open_side(path, role, how) for path, role in zip(paths, ("target", "draft"), strict=True))
    dump = pair_sides(target, draft, label)
    doubt = refuse_swapped_axes(label, target, draft, (dump.facts.target_width, dump.facts.draft_width))
    return replace(dump, facts=replace(dump.facts, notes=dump.facts.notes | doubt)) if doubt else dump


def _open_named_pair(path: Path, label: str, how: HowToRead) -> Dump:
    """Both models in one file or folder; ``facts.json``, where a capture left it, says what they are."""
    dump = _join([path, path], label, how)
    once = sum(array.bytes for name, array in open_arrays(path).items() if is_head(name))
    facts = replace(dump.facts, bytes=size_on_disk(path), fixed_bytes=once)
    if (path / FACTS).is_file():
        metadata = read_facts(path)
        sizes = metadata.pop("hidden_sizes", None)
        sizes = facts.hidden_sizes or (sizes and tuple(sizes))
        facts = replace(facts, notes=facts.notes | metadata, hidden_sizes=sizes)
    return replace(dump, facts=facts)


class Reader(NamedTuple):
    """A format: what it is in a line, whether the content looks like it, and how it is opened."""

    what: str
    recognise: Recognise
    open: Open


#: Formats by name.  ``paths`` is one path, or target and draft; two one-model files of any formats of :data:`SIDES` are
#: joined.
READERS: dict[str, Reader] = {
    "native": Reader(
        "a folder of safetensors shards with a manifest, written by mdsd log and mdsd convert",
        _is_native,
        lambda paths, label, how: open_native(paths[0]),
    ),
    "step-log": Reader(
        "JSONL or parquet, one line a position: distributions, drafts and the token that came out",
        lambda paths: len(paths) == 1 and is_step_log(paths[0]),
        lambda paths, label, how: open_step_log(paths[0]),
    ),
    "heads": Reader("a draft of several heads, logits [N, K, V] beside the target's [N, V]", has_heads, open_heads),
    "arrays": Reader(
        "a folder or archive of named arrays with facts beside them",
        _is_named_pair,
        lambda paths, label, how: _open_named_pair(paths[0], label, how),
    ),
    "npz": Reader(
        "target_logits and draft_logits [N, V] in one .npz",
        lambda paths: _all_of(paths, "npz", 1),
        lambda paths, label, how: open_pair_file(paths[0], "npz"),
    ),
    "npy": Reader(
        "target_logits.npy and draft_logits.npy in a folder",
        lambda paths: (
            _all_of(pair := _pair_in_folder(paths, ".npy"), "npy", 2) and all(_is_plain(path) for path in pair)
        ),
        _open_npy,
    ),
    "safetensors": Reader(
        "target_logits and draft_logits in one or two .safetensors files",
        lambda paths: (
            _all_of(files := _pair_in_folder(paths, ".safetensors"), "safetensors", 1)
            or (_all_of(files, "safetensors", 2) and all(_is_plain(path) for path in files))
        ),
        lambda paths, label, how: open_safetensors_pair(_pair_in_folder(paths, ".safetensors"), label),
    ),
    "pt": Reader(
        "a torch file of two tensors; pickled code is never run",
        lambda paths: _all_of(paths, "pt", 1),
        lambda paths, label, how: open_pair_file(paths[0], "pt"),
    ),
    "parquet": Reader(
        "columns target_logits and draft_logits",
        lambda paths: _all_of(paths, "parquet", 1) and has_pair(paths[0]),
        lambda paths, label, how: open_pair_file(paths[0], "parquet"),
    ),
    "joined": Reader(
        "two one-model files, TARGET,DRAFT: llama.cpp, DistillKit, top log-probabilities, arrays",
        lambda paths: len(files := _pair_of(paths)) == 2 and all(side_format(path) for path in files),
        _join,
    ),
}


def side_format(path: Path) -> str:
    """Name in :data:`SIDES` of the format that a one-model file has; empty where there is none."""
    return next((name for name, (recognise, _) in SIDES.items() if recognise(path)), "")


def open_side(path: str | os.PathLike[str], role: str = "", how: HowToRead = PLAIN) -> Side:
    """Open one model's file in any format of :data:`SIDES`, as the ``target`` or ``draft`` that it is.

    Raises
    ------
    InputError
        If it does not exist, the format is unknown, or the content is damaged.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mdsd_bounds.dumps import open_side
    >>> file = tempfile.mkdtemp() + "/draft.npy"
    >>> np.save(file, np.zeros((3, 8), dtype=np.float32))
    >>> open_side(file, "draft").rows
    3
    >>> open_side("nowhere.npy")
    Traceback (most recent call last):
        ...
    mdsd_bounds.problem.InputError: nowhere.npy: no such file or folder; give a one-model file
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"{file}: no such file or folder; give a one-model file")
    with opening(), reading(file, "one-model file"):
        name = side_format(file)
        if not name:
            raise InputError(f"{file}: not recognised as any of {', '.join(SIDES)}; {described(file)}")
    with opening(), reading(file, name):
        side = SIDES[name][1](file, role, how)

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        with reading(file, name) as place:
            place.at = f"rows {start} to {stop - 1}"
            return side.read(start, stop, width)

    return replace(side, read=read)
