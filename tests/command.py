"""The command ``mdsd`` as its entry point runs it, without a process."""

from __future__ import annotations

import sys

import pytest

from mdsd_bounds.cli import main


def call(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``mdsd`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mdsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, output.out, output.err
