"""``mdsd diffusion``."""

from __future__ import annotations

import json
import sys

import pytest

from mdsd_bounds.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of one command in this process."""
    monkeypatch.setattr(sys, "argv", ["mdsd", "diffusion", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_table(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "table", "--delta", "1", "--drafts", "1,4", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["alpha_star"] for row in rows] == pytest.approx([0.617075, 0.924197], abs=1e-6)
    assert rows[1]["d_grs"] == pytest.approx(0.797811, abs=1e-6)
    assert rows[1]["rank_mixture"] == pytest.approx(0.8959, abs=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("table", "--delta=-1"),
        ("table", "--drafts", "0"),
        ("table", "--delta", "x"),
        ("world", "--method", "other", "--videos", "2", "--quiet"),
        ("speculate", "--draft", "other", "--videos", "2", "--quiet"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], monkeypatch, capsys) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("mdsd: ")


def test_world(tmp_path, monkeypatch, capsys) -> None:
    picture = tmp_path / "strips.png"
    options = ("--method", "stages 1+3", "--videos", "3", "--out", str(picture), "--quiet")
    assert run(monkeypatch, "world", *options) == 0
    assert "stages 1+3" in capsys.readouterr().out
    assert picture.stat().st_size > 5_000


def test_speculate(monkeypatch, capsys) -> None:
    options = ("--draft", "frozen-x0", "--steps", "2", "--videos", "2", "--quiet", "--format", "json")
    assert run(monkeypatch, "speculate", *options) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in rows} == {"reflection", "d_grs", "rank_mixture", "optimal"}
