"""Traffic counts once, and whole: series that come and go, pages that were cut between two lines, padded arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.counts import Unit, counts, read_counts

NAMES = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


def page(file: Path, engines: dict[int, tuple[int, int, int]], started: float | None = None) -> Path:
    lines = [
        f'vllm:spec_decode_{name}_total{{engine="{engine}",model_name="m"}} {held[place]}\n'
        for place, name in enumerate(NAMES)
        for engine, held in engines.items()
    ]
    first = "" if started is None else f"process_start_time_seconds {started}\n"
    file.write_text(first + "".join(lines))
    return file


def test_a_series_that_is_missing_from_one_page(tmp_path: Path) -> None:
    first = page(tmp_path / "1", {0: (1000, 2000, 900), 1: (1000, 2000, 100)})
    second = page(tmp_path / "2", {0: (1100, 2200, 1000)})
    third = page(tmp_path / "3", {0: (1200, 2400, 1100), 1: (1200, 2400, 150)})
    found = read_counts([first, second, third])
    assert found.drafts.tolist() == [100, 300]
    assert found.accepted.tolist() == [100, 150]


def test_a_series_that_is_missing_when_the_server_starts_anew(tmp_path: Path) -> None:
    first = page(tmp_path / "1", {0: (1000, 2000, 900), 1: (100, 200, 10)}, 1.0)
    second = page(tmp_path / "2", {0: (10, 20, 9)}, 2.0)
    third = page(tmp_path / "3", {0: (20, 40, 18), 1: (200, 400, 50)}, 2.0)
    assert read_counts([first, second, third]).drafts.tolist() == [10, 210]


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5, 6])
def test_a_page_that_was_cut_between_two_lines(kept: int, tmp_path: Path) -> None:
    whole = page(tmp_path / "x", {0: (1000, 2000, 900), 1: (1000, 2000, 900)})
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[:kept]))
    if kept == 6:
        assert read_counts([whole]).accepted.tolist() == [1800]
        return
    with pytest.raises(InputError):
        read_counts([whole])


def test_snapshots_may_be_equal(tmp_path: Path) -> None:
    first = page(tmp_path / "1", {0: (1000, 2000, 900)})
    second = page(tmp_path / "2", {0: (1100, 2200, 990)})
    assert read_counts([first, first, second]).drafts.sum() == 100


def test_padding_in_unsigned_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 2], [3, -1]]).astype("u1"))
    with pytest.raises(InputError, match="signed integers"):
        read_counts([tmp_path / "x.npy"])
    np.save(tmp_path / "y.npy", np.array([[1, 2], [3, 0]], dtype="u1"))
    assert read_counts([tmp_path / "y.npy"]).accepted.tolist() == [3, 3]


def test_later_positions_are_drafted_no_more_often() -> None:
    with pytest.raises(ValueError, match="position 1 drafted 1000 times, the next one 1200 times"):
        counts("MLC", "total", [Unit(1000, 2200, 900, (600, 300), (1000, 1200))])
