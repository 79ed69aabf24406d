"""What README shows is what this code prints: its Python lines, and the output of its commands."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.command import call

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [body for _, body in BLOCKS if body.startswith("$ mdsd")]
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


def test_python_lines_print_what_they_show() -> None:
    shown = [body for kind, body in BLOCKS if kind == "pycon"]
    assert len(shown) == 1
    example = doctest.DocTestParser().get_doctest(shown[0], {}, "README.md", "README.md", 0)
    runner = doctest.DocTestRunner()
    held = example.globs
    runner.run(example, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0
    # The later block goes on with the same p and q.
    (further,) = [body for kind, body in BLOCKS if kind == "python"]
    exec(further, held)
    assert held["rule"].acceptance + held["rule"].gap == pytest.approx(float(held["bound"].value[2, 0]), abs=1e-6)


@pytest.mark.parametrize("body", COMMANDS, ids=lambda body: body.split()[2])
def test_commands_print_what_is_shown(body: str, capsys: Any, monkeypatch: Any) -> None:
    command, _, shown = body.replace("\\\n", " ").partition("\n")
    code, printed, _ = call(*shlex.split(command)[2:], "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    # Lines are wrapped in README, and it may stop early.
    wanted, found = shown.split("\n...")[0].split(), printed.split()
    assert len(wanted) > 40
    for old, new in zip(wanted, found, strict=False):
        assert NUMBER.sub("#", old) == NUMBER.sub("#", new)
        for one, other in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
            # Rounding errors themselves, and the last digit shown.
            assert float(other) == pytest.approx(float(one), abs=2e-3)


def test_three_commands_are_shown() -> None:
    assert [body.split()[2] for body in COMMANDS] == ["compare", "advise", "audit"]


def test_links_of_readme_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_page_on_choosing_shows_what_readme_shows() -> None:
    page = (ROOT / "docs" / "howto" / "choose.md").read_text()
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (body,) = [body for body in COMMANDS if body.startswith("$ mdsd advise")]
    assert body.startswith(f"$ {page.split('```')[1].strip()}\n")
    assert shown in body
