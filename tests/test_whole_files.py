"""What killed runs leave beside their output, and what is not theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdsd_bounds._backend.whole_files import whole_file, whole_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from mdsd_bounds._backend.whole_files import whole_file, whole_folder
with whole_file(sys.argv[1]) as one, whole_folder(Path(sys.argv[2])) as two:
    one.write_text("half"), (two / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name.startswith(".mdsd-"))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing is removed")
def test_the_next_run_removes_what_a_killed_one_left_of_the_same_file(tmp_path: Path) -> None:
    out, inside = tmp_path / "table.csv", tmp_path / "dump"
    code = subprocess.run([sys.executable, "-c", KILLED, str(out), str(inside)], check=False).returncode
    assert code == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 2
    assert not out.exists()
    foreign = tmp_path / f".mdsd-{'a' * 32}.tmp"
    foreign.write_text("of somebody else")
    write_whole(tmp_path / "other.csv", b"whole")
    assert len(hidden(tmp_path)) == 3
    write_whole(out, b"whole")
    assert len(hidden(tmp_path)) == 2
    with whole_folder(inside) as temporary:
        (temporary / "a").write_text("whole")
    assert hidden(tmp_path) == [foreign.name]
    assert out.read_bytes() == b"whole"


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    with whole_file(out) as first:
        first.write_text("first")
        write_whole(out, b"second")
        assert first.read_text() == "first"
    assert out.read_text() == "first"
    assert hidden(tmp_path) == []
