"""Small compressed files that become large: told by what they state, before it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.containers import zip_members
from mdsd_bounds.dumps.containers.zip_members import Inflated


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"target_logits": (1, 1 << 21), "draft_logits": (1, 1 << 21)}, "2097152 tokens"),
        ({"target_ids": (1, 1 << 21), "target_logprobs": (1, 1 << 21)}, "2097152 tokens"),
        ({"target_hidden_states": (2, 1), "target_lm_head": (1 << 21, 1)}, "2097152 tokens"),
        ({"target_logits": (2, 8), "draft_logits": (2, 8), "d2t": (1 << 21,)}, "d2t: states a vocabulary of 2097152"),
        ({"target_logits": (2, 8), "draft_logits": (2, 8), "t2d": (1 << 21,)}, "t2d: states a vocabulary of 2097152"),
        ({"target_ids": (2, 4), "target_logprobs": (2, 4), "vocabulary": (1 << 21,)}, "give one integer"),
        ({"target_logits": (9 << 20, 1), "draft_logits": (9 << 20, 1), "doc": (9 << 20,)}, "of one value"),
        ({"target_logits": (1, 9 << 20, 1), "target_input_ids": (1, 9 << 20)}, "of one value"),
    ],
)
def test_small_files_that_become_large_are_not_read(
    arrays: dict[str, tuple[int, ...]], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ("ids", "d2t", "t2d", "vocabulary", "doc")
    held = {name: np.zeros(shape, np.int64 if name.endswith(whole) else np.float16) for name, shape in arrays.items()}
    # What is there for one model alone is there for the other.
    held |= {name.replace("target", "draft"): array for name, array in held.items() if f"draft_{name[7:]}" not in held}
    np.savez_compressed(tmp_path / "dump.npz", **held)  # type: ignore[arg-type]
    read: list[bytes] = []
    inflated = Inflated._some

    def counted(self: Inflated, most: int) -> bytes:
        read.append(inflated(self, most))
        return read[-1]

    monkeypatch.setattr(zip_members, "_CHECKED", 0)
    monkeypatch.setattr(Inflated, "_some", counted)
    with pytest.raises(InputError, match=told):
        open_dump(tmp_path / "dump.npz")
    assert sum(map(len, read)) < 1 << 20
