"""Logs whose lines stand out of order, or twice: the tests bet on each output by those before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.audit import audit_log
from mdsd_bounds.judge import curve_of_steps

Lines = list[dict[str, Any]]
Reader = Callable[[str], object]
READERS: tuple[Reader, ...] = (audit_log, open_dump, lambda name: curve_of_steps(name, [0.5]))
KEYS: dict[str, Callable[[dict[str, Any]], float]] = {
    "token": lambda x: float(x["token"]),
    "p": lambda x: -float(x["p"][x["token"]]),
    "back": lambda x: -float(x["position"]),
}


def lossless(count: int = 400, last: int = -1) -> list[Lines]:
    """Texts of a lossless rule, which ignores its drafts; with ``last`` a text ends at that token."""
    rng = np.random.default_rng(3)
    texts: list[Lines] = []
    for doc in range(count // 20):
        text: Lines = []
        while len(text) < 20 and not (text and text[-1]["token"] == last):
            p, q = rng.dirichlet(np.ones(4), 2)
            held = {
                "p": p.tolist(),
                "q": q.tolist(),
                "drafts": [int(rng.choice(4, p=q))],
                "sampler": "with_replacement",
            }
            text.append({"doc": doc, "position": len(text), "token": int(rng.choice(4, p=p)), **held})
        texts.append(text)
    return texts


def step(line: dict[str, Any], **other: Any) -> dict[str, Any]:
    """The same as a line of a step log."""
    sides = {
        name: [[x, line[side][x]] for x in range(4)] for name, side in (("target_candidates", "p"), ("candidates", "q"))
    }
    held = {"token": line["token"], "p": line["p"][line["token"]], **sides}
    accepted = int(line["token"] == line["drafts"][0])
    own = {"step": line["position"], "doc": line["doc"], "drafts": line["drafts"], "accepted": accepted}
    return {**own, "positions": [held], **other}


def written(path: Path, lines: Lines) -> str:
    """A log."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_sorted_log_of_a_lossless_rule_is_refused_and_never_called_lossy(tmp_path: Path) -> None:
    lines = [line for text in lossless() for line in text]
    assert not audit_log(written(tmp_path / "good", lines)).lossy
    for name, key in KEYS.items():
        path = written(tmp_path / name, sorted(lines, key=key))
        with pytest.raises(InputError, match=r"line \d+: doc \d+ position \d+ comes after its position \d+"):
            audit_log(path)


def test_texts_in_turn_are_in_order(tmp_path: Path) -> None:
    lines = [line for text in lossless() for line in text]
    report = audit_log(written(tmp_path / "log", sorted(lines, key=lambda line: line["position"])))
    assert not report.lossy
    assert not any("do not begin in the order" in note for note in report.notes)


def test_texts_written_as_they_ended_are_said(tmp_path: Path) -> None:
    texts = sorted(lossless(4000, last=0), key=len)
    report = audit_log(written(tmp_path / "log", [line for text in texts for line in text]))
    # What cannot be told from the file: that it is the order of the lines, and not the rule.
    assert report.lossy
    assert any("do not begin in the order of their numbers" in note for note in report.notes)


def test_steps_logged_twice_or_out_of_order_are_refused_by_every_reader(tmp_path: Path) -> None:
    lines = [step(line) for text in lossless(60) for line in text]
    good = written(tmp_path / "good.jsonl", lines)
    assert not audit_log(good, sampler="with_replacement").lossy
    assert len(open_dump(good)) == 60
    for name, wrong in (("twice", lines * 2), ("once more", [*lines[:3], lines[2]]), ("back", lines[::-1])):
        path = written(tmp_path / f"{name}.jsonl", wrong)
        for read in READERS:
            with pytest.raises(InputError, match=r"line \d+: step \d+ of doc \d+ comes after its step \d+"):
                read(path)
    # Without the number of a text there is nothing to hold against each other.
    bare = [{name: value for name, value in line.items() if name != "doc"} for line in lines]
    assert len(open_dump(written(tmp_path / "bare.jsonl", bare))) == 60


def test_a_step_has_at_most_one_position_more_than_it_accepted(tmp_path: Path) -> None:
    line = step(lossless(20)[0][0])
    path = written(tmp_path / "log.jsonl", [line | {"positions": line["positions"] * 3, "accepted": 0}])
    for read in READERS[:2]:
        with pytest.raises(InputError, match="3 positions, but 0 accepted drafts give at most one more"):
            read(path)


def test_several_drafts_of_one_position_are_no_chain(tmp_path: Path) -> None:
    line = step(lossless(20)[0][0])
    token = line["positions"][0]["token"]
    path = written(tmp_path / "log.jsonl", [line | {"drafts": [(token + 1) % 4, token], "accepted": 1}])
    with pytest.raises(InputError, match=f"its token {token} is none of its drafts"):
        audit_log(path, sampler="with_replacement")
