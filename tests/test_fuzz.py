"""Every readable form takes 100 damaged inputs: each is read or refused in one line that names the file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

SCRIPTS = str(Path(__file__).parents[1] / "scripts")
sys.path.insert(0, SCRIPTS)

from fuzzing.forms import FORMS  # noqa: E402
from fuzzing.inputs import JUMP, inputs  # noqa: E402

sys.path.remove(SCRIPTS)

from mdsd_bounds.dumps import single_model  # noqa: E402

COUNT = 100


@pytest.mark.parametrize("form", FORMS)
def test_damaged_inputs(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_model, "UNSTATED_WIDTH", 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(inputs(form, tmp_path / "input", 0, COUNT))
    assert [one for one in found if one.kind not in ("read", "refused") or one.grown > JUMP] == []
    # Damage that nothing notices would test nothing.
    assert sum(one.kind == "refused" for one in found) > COUNT / 5
