"""Names and working folders that few have: names of files that are no UTF-8, and a folder that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.command import call

#: A name in Latin-1, as archives from elsewhere leave them.
NAME = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder under such a name, with a pair of a few rows in it."""
    place = tmp_path / NAME
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    logits = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    np.savez(place / f"{NAME}.npz", target_logits=logits[0], draft_logits=logits[1], token=np.arange(6) % 5)
    return place


def test_names_that_are_no_utf8(folder: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    dump, table = str(folder / f"{NAME}.npz"), str(folder / f"{NAME}.parquet")
    rule = folder / f"{NAME}.py"
    rule.write_text("def step(p, q, drafts, rng):\n    return drafts[:, 0]\n")
    few = ("--sampler", "with_replacement", "--drafts", "1", "--quiet")
    pd.DataFrame({"target_logits": list(2 * np.eye(3)), "draft_logits": list(2 * np.eye(3))}).to_parquet(
        folder.parent / "plain"
    )
    os.replace(folder.parent / "plain", folder / NAME)
    for arguments in (
        ("bounds", dump, *few, "--out", table),
        ("bounds", dump, *few, "--out", table),  # answered from the table
        ("plot", table, "--out", str(folder / f"{NAME}.svg"), "--figure", "acceptance_by_drafts"),
        ("compare", table, table, "--paired", "--quiet"),
        ("inspect", str(folder / NAME)),
        ("convert", dump, f"{folder / NAME}-t.parquet,{folder / NAME}-d.parquet", "--top-k", "3"),
        ("inspect", f"{folder / NAME}-t.parquet,{folder / NAME}-d.parquet"),
        ("compare", dump, *few, "--verifier", f"{rule}:step", "--samples", "2", "--out", str(folder / "own.parquet")),
        (
            "audit",
            "--verifier",
            f"{rule}:step",
            "--sampler",
            "with_replacement",
            "--drafts",
            "1",
            "--dump",
            dump,
            "--steps",
            "2",
        ),
    ):
        code, _, errors = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert code == (1 if arguments[0] == "audit" else 0), (arguments[0], errors)


def test_a_damaged_table_among_two_is_one_line(folder: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    broken = folder / "broken.parquet"
    for data in (b"", b"PAR1", b"PAR1" + b"x" * 40 + b"PAR1"):
        broken.write_bytes(data)
        code, _, errors = call("compare", "example", str(broken), "--paired", capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert "broken.parquet: " in errors.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="a folder that is used cannot be removed here")
def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = "import os, sys, mdsd_bounds.cli as c; os.rmdir(os.getcwd()); sys.argv = ['mdsd', 'demo']; c.entry()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "gone", capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["mdsd: the working folder does not exist any more; change into another one"]
