"""``mdsd diffusion``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def mdsd(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from mdsd_bounds.cli import entry; entry()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_table() -> None:
    done = mdsd("diffusion", "table", "--delta", "1", "--drafts", "1,4", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["alpha_star"] for row in rows] == pytest.approx([0.617075, 0.924197], abs=1e-6)
    assert rows[1]["d_grs"] == pytest.approx(0.797811, abs=1e-6)
    assert rows[1]["rank_mixture"] == pytest.approx(0.8959, abs=1e-4)


@pytest.mark.parametrize("arguments", [("--delta=-1",), ("--drafts", "0"), ("--delta", "x")])
def test_bad_input_is_one_line(arguments: tuple[str, ...]) -> None:
    done = mdsd("diffusion", "table", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mdsd: ")


def test_world_and_speculate(tmp_path) -> None:
    picture = tmp_path / "strips.png"
    done = mdsd("diffusion", "world", "--method", "stages 1+3", "--videos", "3", "--out", str(picture), "--quiet")
    assert done.returncode == 0, done.stderr
    assert "stages 1+3" in done.stdout
    assert picture.stat().st_size > 5_000
    done = mdsd("diffusion", "world", "--method", "other", "--videos", "2", "--quiet")
    assert done.returncode == 2
    assert "choose among" in done.stderr
    done = mdsd("diffusion", "speculate", "--draft", "other", "--videos", "2", "--quiet")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
