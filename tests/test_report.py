"""The HTML report says what the tables say, and stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from mdsd_bounds import open_dump
from mdsd_bounds.cli import main
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import summarise


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(6, 40)).astype("f4")
    path = tmp_path / "<pair>.npz"
    np.savez(path, target_logits=target, draft_logits=target + rng.normal(size=(6, 40)).astype("f4"))
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mdsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_report_holds_the_numbers_of_the_library(dump: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "report.html"
    options = ["--drafts", "1,2", "--temperature", "0.5,1.0", "--quiet"]
    assert call(monkeypatch, "report", str(dump), "--out", str(out), *options) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    samplers = ("with_replacement", "without_replacement", "greedy", "top_k")
    table = run(open_dump(dump), Settings(samplers, (1, 2), (0.5, 1.0)))
    assert table is not None
    for mean in summarise(table)["mean"]:
        assert f"{mean:.5f}" in page
    assert "rrs without replacement" in page
    # Three figures of one temperature, for each of the two, and one over both.
    assert page.count("data:image/png") == 7
    # Names from outside are text, not markup; nothing is fetched.
    assert "<pair>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    HTMLParser().feed(page)


def test_bounds_alone_and_bad_input(dump: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "report.html"
    assert call(monkeypatch, "report", str(dump), "--out", str(out), "--verifier", "none", "--quiet") == 0
    assert "Verifiers against" not in out.read_text()
    assert call(monkeypatch, "report", str(dump), "--out", str(tmp_path / "no" / "x.html"), "--quiet") == 2
    assert "make it first" in capsys.readouterr().err


def test_notes_of_a_dump_bring_no_control_characters_into_the_page(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with DumpWriter(tmp_path / "d", notes={"a\x1b[31m": "b\u202e\u2066\x07"}) as writer:
        writer.append(torch.randn(3, 20), torch.randn(3, 20))
    out = tmp_path / "r.html"
    assert call(monkeypatch, "report", str(tmp_path / "d"), "--out", str(out), "--verifier", "none", "--quiet") == 0
    page = out.read_text()
    assert "a\\x1b[31m" in page
    assert not set("\x1b\x07\u202e\u2066") & set(page)
