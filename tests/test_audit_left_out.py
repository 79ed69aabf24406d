"""Logs whose probabilities were rounded, or that lack the lines of one token: no verdict may rest on that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.audit import audit_log, read_positions
from mdsd_bounds.audit.log_lines import read_log
from mdsd_bounds.audit.rounded import with_rounding

Entry = dict[str, Any]
SIZE, END = 12, 5


def texts(
    seed: int, number: int, *, decimals: int | None = None, end: bool = True, lossy: bool = False, pairs_of: int = 1000
) -> list[Entry]:
    """Texts drawn by speculative sampling with one draft; each ends with the token END, which is its last line."""
    rng = np.random.default_rng(seed)
    lines, pairs = [], [rng.dirichlet(np.full(SIZE, 0.4), 2) for _ in range(pairs_of)]
    for doc in range(number):
        for position in range(200):
            p, q = pairs[rng.integers(len(pairs))]
            p = 0.95 * p
            p[END] += 0.05
            draft = int(rng.choice(SIZE, p=q))
            rest = np.clip(p - q, 0, None)
            kept = rng.random() < p[draft] / q[draft]
            token = draft if kept else int(rng.choice(SIZE, p=q if lossy else rest / rest.sum()))
            written = p if decimals is None else p.round(decimals)
            entry = {"doc": doc, "position": position, "q": q.tolist(), "drafts": [draft], "token": token}
            lines.append(entry | {"p": written.tolist(), "sampler": "with_replacement"})
            if token == END:
                break
        if not end and lines[-1]["token"] == END:
            lines.pop()
    return lines


def written(tmp_path: Path, lines: list[Entry]) -> str:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_a_log_without_the_lines_of_the_end_token_is_no_verdict(tmp_path: Path) -> None:
    path = written(tmp_path, texts(0, 60, end=False, pairs_of=2))
    assert audit_log(path, left_out=()).lossy
    with pytest.raises(InputError, match=rf"no line outputs token {END} .*--left-out {END};.*--left-out none"):
        audit_log(path)
    report = audit_log(path, left_out=(END,))
    assert not report.lossy
    assert report.bound is not None
    assert report.loss is None
    assert "given that they are none of the tokens left out (5)" in " ".join(report.notes)


def test_a_lossy_rule_is_found_without_the_lines_of_the_end_token(tmp_path: Path) -> None:
    path = written(tmp_path, texts(1, 60, end=False, lossy=True, pairs_of=2))
    assert audit_log(path).lossy
    assert audit_log(path, left_out=(END,)).lossy


def test_with_all_lines_nothing_is_excused(tmp_path: Path) -> None:
    path = written(tmp_path, texts(2, 60))
    assert not audit_log(path).lossy
    with pytest.raises(InputError, match=r"line \d+: the output is token 5, whose lines --left-out says are not there"):
        audit_log(path, left_out=(END,))


def test_acceptance_above_the_bound_is_found_though_some_token_never_comes_up(tmp_path: Path) -> None:
    """Every draft is accepted: of 160 outputs only the acceptances tell it."""
    rng = np.random.default_rng(12)
    p = np.full(60, 0.975 / 59)
    p[7] = 0.025
    lines: list[Entry] = []
    for i in range(160):
        q = p * np.exp(rng.normal(size=60) * 0.25)
        q[7] = 0.0
        draft = int(rng.choice(60, p=q / q.sum()))
        entry = {"doc": 0, "position": i, "p": p.tolist(), "q": (q / q.sum()).tolist(), "drafts": [draft]}
        lines.append(entry | {"token": draft, "sampler": "with_replacement"})
    path = written(tmp_path, lines)
    report = audit_log(path, left_out=(7,))
    assert [test.refutes for test in report.tests] == [False, False, True]
    assert audit_log(path).lossy


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_given_that_a_token_was_left_out_is_no_verdict_by_itself(tmp_path: Path, seed: int) -> None:
    """A rule that attains alpha* (one draft), with an end token of which much mass is left out."""
    path = written(tmp_path, texts(20 + seed, 120, end=False, pairs_of=2))
    report = audit_log(path, left_out=(END,))
    assert not report.lossy
    assert report.bound is not None
    assert report.bound.acceptance < report.bound.bound


def test_what_is_no_token_is_not_left_out(tmp_path: Path) -> None:
    """-1 would be the last token of the vocabulary."""
    path = written(tmp_path, texts(5, 20))
    assert not audit_log(path).lossy
    with pytest.raises(InputError, match="--left-out -1: give the ids of tokens, from 0 on, or none"):
        audit_log(path, left_out=(-1,))


def test_the_distribution_given_that_a_token_was_left_out(tmp_path: Path) -> None:
    rows: list[Entry] = [
        {"p": [0.5, 0.25, 0.25], "token": 1},
        {"p": {"0": 0.5, "2": 0.3}, "token": 2},
        {"p": {"1": 0.5, "2": 0.3}, "token": 2},
        {"p": [1.0, 0.0, 0.0], "token": 1},
    ]
    found = read_positions(written(tmp_path, rows), left_out=(0,))
    assert found.p_token[:3].tolist() == pytest.approx([0.5, 0.6, 0.3])
    # Of an unlisted token it is known that it is no more probable than any listed one, and lies in the tail.
    assert found.tolerance.tolist() == pytest.approx([2e-6, 2e-6, 0.2 + 1e-6, 1.0 + 1e-6])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_a_lossless_rule_with_rounded_probabilities(tmp_path: Path, seed: int, decimals: int) -> None:
    """Rows are kept where they sum to one, as rounded rows often do: their sums show nothing."""
    lines = [line for line in texts(seed, 4000 // 12, decimals=decimals) if abs(sum(line["p"]) - 1) < 1e-12]
    path = written(tmp_path, [line | {"doc": 0, "position": i} for i, line in enumerate(lines)])
    assert not audit_log(path).lossy
    # The numbers say by how much they may be off.
    held = with_rounding(read_log(path))
    for line in held:
        assert line.p is not None
        assert line.p.defect == pytest.approx(0.5 * 10**-decimals * np.count_nonzero(line.p.probs), abs=1e-9)


def test_rounding_that_moves_p_is_allowed_for(tmp_path: Path) -> None:
    """With one decimal the least probabilities are none, which makes this rule look lossy."""
    lines = [line for line in texts(7, 300, decimals=1) if abs(sum(line["p"]) - 1) < 1e-12]
    path = written(tmp_path, [line | {"doc": 0, "position": i} for i, line in enumerate(lines)])
    assert audit_log(path, tolerance=1e-6).lossy
    assert not audit_log(path).lossy


def test_a_few_round_rows_are_exact(tmp_path: Path) -> None:
    rows: list[Entry] = [{"p": [0.5, 0.3, 0.2], "token": 0}, {"p": [0.1, 0.2, 0.7], "token": 2}]
    assert float(read_positions(written(tmp_path, rows * 200)).tolerance.max()) < 1.1e-6


def test_a_stated_tolerance_is_taken_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, [line for line in texts(3, 20, decimals=3) if abs(sum(line["p"]) - 1) < 1e-12])
    assert float(read_positions(path, tolerance=0.0).tolerance.max()) < 1e-12
    assert float(read_positions(path).tolerance.max()) > 1e-3


def test_probabilities_in_full_digits_are_not_widened(tmp_path: Path) -> None:
    assert float(read_positions(written(tmp_path, texts(4, 20))).tolerance.max()) < 1.1e-6
