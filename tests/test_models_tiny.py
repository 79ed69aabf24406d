"""The tiny model of examples: what cannot be made is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

from mdsd_bounds import InputError
from mdsd_bounds.models import tiny_model


@pytest.mark.parametrize("given", [{"layers": 0}, {"layers": 1.5}, {"layers": True}, {"noise": -1.0}, {"seed": 2**70}])
def test_what_is_out_of_range_is_an_error(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give"):
        tiny_model(tmp_path / "model", **given)


def test_the_name_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name in (tmp_path / "file", ""):
        with pytest.raises(InputError, match="is no folder"):
            tiny_model(name)
    assert (tmp_path / "file").read_text() == "mine"
