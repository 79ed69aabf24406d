"""Runs killed with signal 9 come to the same bytes: a short version of ``make chaos``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import load_script

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

SCRIPT = Path(__file__).parent.parent / "scripts" / "chaos.py"


def test_ten_kills_over_all_commands(tmp_path: Path) -> None:
    # In a process of its own: children are forked from it before it has threads.
    out, page = tmp_path / "chaos.json", tmp_path / "page.md"
    arguments = ["--kills", "10", "--seed", "7", "--out", str(out), "--page", str(page)]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (out.read_text() if out.exists() else "")
    assert "10 of 10 resumed to the same bytes" in done.stdout
    assert page.read_text().count("| 2 |") >= 5


def test_a_command_that_does_not_resume_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_script(SCRIPT)
    job = module.Job("none", (), "rows")
    known = module.Reference({"rows": b"whole"}, 1.0, 1)
    monkeypatch.setattr(module, "kill_once", lambda *_: "at a random time")

    def finish(job: Any, folder: Path) -> int:
        (folder / "rows").write_bytes(b"half")
        (folder / "stderr.txt").write_text("")
        return 0

    monkeypatch.setattr(module, "finish", finish)
    found = module.attack(job, known, tmp_path / "x", module.random.Random(0), True)
    assert found["resumed"] is False


def test_the_page_keeps_what_others_wrote(tmp_path: Path) -> None:
    module, file = load_script(SCRIPT), tmp_path / "page.md"
    file.write_text("# Title\n\nbefore\n")
    rows = [{"command": "bounds", "killed": "at a random time", "twice": False, "resumed": True}]
    module.put_section(file, module.page(rows, 0))
    file.write_text(file.read_text() + "\nafter\n")
    module.put_section(file, module.page(rows, 1))
    text = file.read_text()
    assert text.startswith("# Title\n\nbefore\n\n<!-- chaos")
    assert text.endswith("after\n")
    assert text.count("## Killed runs") == 1
    assert "seed 1" in text
