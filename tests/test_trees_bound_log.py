"""The certified bound in logs of tree decoding: what is written, what is read again, and how it is summarised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdsd_bounds.dumps.step_schema import BoundRecord, StepRecord, TreeRecord, write_step
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import sampling
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.certificate import CERTIFICATES
from mdsd_bounds.trees.named import fixed_branching

pytest.importorskip("transformers", reason="the extra 'models' is not installed")
from test_trees_real import TEXT, tiny

from mdsd_bounds.report.page import decoded_trees
from mdsd_bounds.trees.bound_log import DEFAULT, step_bounds, summarise_bounds
from mdsd_bounds.trees.decode import decode
from mdsd_bounds.trees.log import in_words, read_log, record, summarise_log, summary_table
from mdsd_bounds.trees.real import TreeReader


def run(vector: tuple[int, ...], *, bound: bool, documents: int = 2) -> list[StepRecord]:
    """Lines of a log: a tiny pair, the sweep, a few tokens a document."""
    target, draft = tiny(seed=0), tiny(seed=0)
    lines = []
    for doc in range(documents):
        readers = TreeReader(target, [doc + 1, *TEXT]), TreeReader(draft, [doc + 1, *TEXT], skip=(2,))
        generator, twins = torch.Generator().manual_seed(doc), torch.Generator().manual_seed(doc + 99)
        build = lambda m, source: rsd_c(m, sampling(source), vector, {0})  # noqa: E731
        for k, step in enumerate(decode(*readers, build, "sweep", 8, generator, frozenset({0}))):
            limit = step_bounds(step, *readers, vector, twins, frozenset({0})) if bound else None
            lines.append(record(step, k, doc, "sweep", bound=limit))
    return lines


@pytest.mark.parametrize("vector", [(2, 2), (2, 1, 1)])
def test_bounds_do_not_change_what_is_decoded_and_stand_above_it(vector: tuple[int, ...], tmp_path: Path) -> None:
    plain, bounded = run(vector, bound=False), run(vector, bound=True)
    assert [line.tree.tokens for line in plain] == [line.tree.tokens for line in bounded]
    assert [line.tree.expected for line in plain] == pytest.approx([line.tree.expected for line in bounded], abs=1e-9)
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(json.dumps(write_step(line)) for line in bounded) + "\n")
    found = summarise_log(read_log(file))
    assert found["share"]["mean"] == pytest.approx(found["accepted_expected"]["mean"] / found["bound"]["mean"])
    assert found["share"]["ci_low"] <= found["share"]["mean"] <= found["share"]["ci_high"]
    row = summary_table({"x": found}).iloc[0]
    assert row["bound_low"] <= row["bound"] <= row["bound_high"]
    assert row["full_information"] == found["full_information"]["mean"] > 0
    assert row["full_information_low"] <= row["full_information"] <= row["full_information_high"]
    assert row["rule"] == found["rule"] != ""
    assert row["accepted_low"] <= row["accepted"] <= row["accepted_high"]
    assert 0 < row["verifying"] < 1
    assert "bound" not in summarise_log(plain)
    both = summary_table({"x": found, "y": summarise_log(plain)})
    assert f"accepts {100 * row['share']:.1f}% [" in in_words(both)
    assert "any lossless rule" not in in_words(both.iloc[1:])
    page = decoded_trees(both)
    assert f"{row['bound']:.3f} [{row['bound_low']:.3f}, {row['bound_high']:.3f}]" in page
    full = [row[f"full_information{end}"] for end in ("", "_low", "_high")]
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*full) in page
    assert page.count("–") == 3  # both bounds and the share of the log that has none


def test_the_certificate_of_one_half_is_chosen_on_the_other() -> None:
    bounds = np.full((4, len(CERTIFICATES)), 2.0)
    bounds[0:2, 1] = 1.0  # the least on document 0 is taken for document 1, where it is not the least
    bounds[2:4, 6] = 1.5
    lines = [
        StepRecord(0, doc, (), 0, tree=TreeRecord({}, (), bound=BoundRecord(tuple(row), 2.5)))
        for doc, row in zip([0, 0, 1, 1], bounds, strict=True)
    ]
    found = summarise_bounds(lines, np.full(4, 1.0))
    assert found["bound"]["mean"] == pytest.approx(2.0)
    assert found["share"]["mean"] == pytest.approx(0.5)
    one = summarise_bounds(lines[:2], np.full(2, 1.0))
    assert one["bound"]["mean"] == pytest.approx(bounds[0, DEFAULT])
    assert summarise_bounds([StepRecord(0, 0, (), 0)], np.ones(1)) == {}


@pytest.mark.parametrize("damage", [[1.0], [float("nan")] * 8, [-1.0] * 8, ["1"] * 8])
def test_damaged_bounds_are_refused(damage: list[Any], tmp_path: Path) -> None:
    line = write_step(run((2,), bound=True, documents=1)[0])
    line["bounds"] = damage
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"line 1: .*bounds|line 1"):
        read_log(file)


def test_builders_without_a_bound_are_refused() -> None:
    assert fixed_branching("chain", "3") == (1, 1, 1)
    assert fixed_branching("rsd_c", "2,1") == (2, 1)
    assert fixed_branching("rsd_c:without_replacement", "2,1") == (2, 1)
    for builder, shape in (("rsd_s", "2x2"), ("rsd_c:with_replacement", "2,2")):
        with pytest.raises(InputError, match="leave out --bound"):
            fixed_branching(builder, shape)
    with pytest.raises(InputError, match="one or two drafts"):
        fixed_branching("rsd_c", "3,1")
