"""Lines of a tree log that contradict themselves: an error of the line, never a summary."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.step_schema import read_step, write_step
from mdsd_bounds.trees import MarginalDraft, named_tree, read_log, record, summarise_log, summary_table, take_step
from mdsd_bounds.trees.log import in_words

LINE: dict[str, Any] = {
    **{"step": 0, "doc": 0, "rule": "recursive", "sampler": "without_replacement", "drafts": [1, 0, 1, 0]},
    **{"accepted": 2, "parents": [0, 0, 1, 2], "slots": {"0": [1, 0], "1": [1], "2": [0]}, "path": [1, 3]},
    **{"q": [0.3, 0.6, 0.3, 0.6], "p": [0.2, 0.5, 0.2, 0.5], "reach": [0.6, 0.1, 0.4, 0.05], "tokens": [1, 1, 2]},
    **{"expected": 1.15, "emitted": 2.15, "draft_passes": 1, "seconds": [0.1, 0.1, 0.1]},
    "positions": [{"token": 1, "p": 0.2}, {"token": 1, "p": 0.2}, {"token": 2, "p": 0.3}],
}

WRONG: dict[str, tuple[Mapping[str, Any], str]] = {
    "siblings as a path": ({"path": [1, 2]}, "node 2 is below 0, not 1"),
    "a node twice": ({"path": [1, 1]}, "node 1 is below 0, not 1"),
    "a path from below": ({"path": [3, 1]}, "node 3 is below 1, not 0"),
    "tokens of another path": ({"tokens": [0, 0, 2]}, r"drafts of the path are \[1, 1\]"),
    "positions of another text": ({"positions": [{"token": 0, "p": 0.5}]}, r"positions hold tokens \[0\]"),
    "q of fewer nodes": ({"q": [0.5]}, "q has 1 numbers for 4 drafts"),
    "p of more nodes": ({"p": [0.1] * 5}, "p has 5 numbers for 4 drafts"),
    "slots of other tokens": ({"slots": {"0": [7, 8]}}, r"slots hold \[7, 8\] below node 0"),
    "slots of no node": ({"slots": {"9": [1]}}, r"below node 9"),
    "a child reached more often": ({"reach": [0.1, 0.1, 0.9, 0.05]}, "below node 1 is more"),
    "siblings above one": ({"reach": [0.8, 0.8, 0.4, 0.1]}, "below node 0 is more"),
    "expected elsewhere": ({"expected": 0.5, "emitted": 1.5}, "reach sums to 1.15, but expected is 0.5"),
    "expected below the leaves": ({"reach": None, "expected": 9.0, "emitted": 10.0}, "expected is 9 in a tree of 2"),
    "emitted below expected": ({"emitted": 0.1}, "at most one is added"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_line_that_contradicts_its_tree_is_an_error(tmp_path: Path, wrong: str) -> None:
    change, message = WRONG[wrong]
    log = tmp_path / "tree.jsonl"
    log.write_text("\n".join(json.dumps(line) for line in (LINE, copy.deepcopy(LINE) | {"step": 1} | change)))
    with pytest.raises(InputError, match=message) as error:
        read_log(log)
    assert "line 2" in str(error.value)
    with pytest.raises(InputError, match=message):
        open_dump(log)


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        *((rule, "rsd_c 2,2,1") for rule in ("recursive", "traversal", "sweep")),
        *(("recursive", shape) for shape in ("paths 3x2", "rsd_s 3x3")),
        ("block", "chain 3"),
    ],
)
def test_lines_that_decoding_writes_are_read(tmp_path: Path, rule: str, shape: str) -> None:
    q, p = (torch.tensor([row] * 4, dtype=torch.float64) for row in ([0.5, 0.3, 0.15, 0.05], [0.4, 0.2, 0.3, 0.1]))
    generator, build = torch.Generator().manual_seed(0), named_tree(*shape.split())
    steps = [take_step(MarginalDraft(p), MarginalDraft(q), build, rule, generator) for _ in range(20)]
    lines = [write_step(record(step, number, 0, rule)) for number, step in enumerate(steps)]
    log = tmp_path / "tree.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    assert summarise_log(read_log(log))["target_passes"] == 20
    assert read_step(lines[0], whole_tree=True).tree.rule == rule


def test_a_name_without_an_encoding_is_escaped(tmp_path: Path) -> None:
    log = tmp_path / "tree.jsonl"
    log.write_text(json.dumps(LINE | {"rule": "half \ud800", "sampler": "\x1b[2J"}))
    lines = read_log(log)
    assert (lines[0].tree.rule, lines[0].tree.sampler) == ("half \\ud800", "\\x1b[2J")
    assert summary_table({"log": summarise_log(lines)})["rule"].tolist() == ["half \\ud800"]


def test_a_log_of_one_document_says_that_it_has_no_interval(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(LINE) + "\n")
    said = in_words(summary_table({"log": summarise_log(read_log(tmp_path / "log.jsonl"))}))
    assert said == "recursive emits 2.150 tokens per target forward pass over 1 document (so no interval)"


def test_texts_that_take_turns_in_a_log_are_documents(tmp_path: Path) -> None:
    """Steps of several texts that went through the models together, a line or an array of lines each."""
    lines = [{**LINE, "doc": doc, "step": step} for step in (0, 1) for doc in (0, 1, 2)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "arrays.jsonl").write_text(json.dumps(lines[:3]) + "\n" + json.dumps(lines[3:]) + "\n")
    for name in ("lines.jsonl", "arrays.jsonl"):
        summary = summarise_log(read_log(tmp_path / name))
        assert (summary["documents"], summary["target_passes"]) == (3, 6)
