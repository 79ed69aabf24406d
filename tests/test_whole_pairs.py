"""Two files that belong together: a run that is killed never leaves one of them beside an older other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.convert import convert


class Killed(BaseException):
    """In place of signal 9."""


def dump(path: Path, seed: int) -> str:
    """A pair of random rows."""
    rows = np.random.default_rng(seed).normal(size=(2, 6, 5)).astype(np.float32)
    np.savez(path, target_logits=rows[0], draft_logits=rows[1], token=np.zeros(6, int))
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "kld", "json", "parquet"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_conversion_stopped_between_two_files_leaves_no_mixed_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stop: int
) -> None:
    first, second = (dump(tmp_path / f"{seed}.npz", seed) for seed in (1, 2))
    files = [tmp_path / f"{role}.{kind}" for role in ("target", "draft")]
    options: dict[str, Any] = {"top_k": 3} if kind in ("json", "parquet") else {}
    dst = ",".join(map(str, files))
    convert(first, dst, **options)
    old = [file.read_bytes() for file in files]
    convert(second, dst, force=True, **options)
    new = [file.read_bytes() for file in files]
    convert(first, dst, force=True, **options)
    own, seen = os.replace, 0

    def replace(*names: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise Killed
        own(*names)

    monkeypatch.setattr(os, "replace", replace)
    try:
        convert(second, dst, force=True, **options)
    except Killed:
        assert stop < 3
    monkeypatch.undo()
    left = [file.read_bytes() if file.exists() else None for file in files]
    assert left in ([old[0], None], [new[0], None], new)
    if None in left:
        with pytest.raises(InputError, match="no such file"):
            open_dump(dst)
    convert(second, dst, force=True, **options)
    assert [file.read_bytes() for file in files] == new
