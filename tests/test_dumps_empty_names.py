"""A dump without a name: what a variable that is not set would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import InputError, open_dump


@pytest.mark.parametrize("name", ["", ",", ".,", "target.npy,"])
def test_an_empty_name_is_not_the_working_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in ("target_logits", "draft_logits"):
        np.save(tmp_path / f"{side}.npy", np.random.default_rng(len(side)).normal(size=(4, 5)))
    monkeypatch.chdir(tmp_path)
    assert open_dump(".").facts.rows == 4
    with pytest.raises(InputError, match="a name is empty"):
        open_dump(name)
