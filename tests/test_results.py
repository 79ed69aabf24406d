"""Summaries: standard errors that respect documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.pipeline import tables as results
from mdsd_bounds.pipeline.rendering import render
from mdsd_bounds.pipeline.tables import COLUMNS, bootstrap_interval, document_means, read_table, summarise_comparison


def test_document_standard_error_covers() -> None:
    """Positions of one document share an effect: the naive error would be far too small."""
    generator = np.random.default_rng(0)
    naive_misses = misses = 0
    for _ in range(400):
        sizes = generator.integers(5, 15, 30)
        documents = np.repeat(np.arange(30), sizes)
        values = generator.normal(0, 1, 30)[documents] + 0.1 * generator.normal(size=len(documents))
        mean, stderr = document_means(values, documents)
        misses += abs(mean) > 1.96 * stderr
        naive_misses += abs(mean) > 1.96 * values.std() / np.sqrt(len(values))
    assert misses / 400 < 0.11
    assert naive_misses / 400 > 0.3


def test_bootstrap_agrees_with_the_linearised_error() -> None:
    generator = np.random.default_rng(1)
    documents = np.repeat(np.arange(60), generator.integers(3, 9, 60))
    values = generator.normal(size=60)[documents] + generator.normal(size=len(documents))
    mean, stderr = document_means(values, documents)
    low, high = bootstrap_interval(values[:, None], documents)
    assert float(high[0] - low[0]) == pytest.approx(2 * 1.96 * stderr, rel=0.15)
    assert low[0] < mean < high[0]


def test_one_document_has_no_error() -> None:
    assert np.isnan(document_means(np.ones(5), np.zeros(5))[1])
    assert np.isnan(bootstrap_interval(np.ones((5, 1)), np.zeros(5))[0]).all()


def test_json_has_no_nan_and_tables_align() -> None:
    table = pd.DataFrame({"sampler": ["a", "bb"], "mean": [0.5, float("nan")], "drafts": [1, 10]})
    assert '"mean": null' in render(table, "json")
    lines = render(table, "table").splitlines()
    assert len({len(line) for line in lines}) == 1
    with pytest.raises(InputError):
        render(table, "yaml")


def test_a_table_without_the_columns_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pd.DataFrame({name: [0] for name in COLUMNS[:-1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="subset_size"):
        read_table(str(tmp_path / "x.parquet"))


def test_settings_that_share_resamples_get_the_intervals_they_get_alone() -> None:
    random = np.random.default_rng(3)
    parts = []
    for drafts, documents in ((1, np.arange(60) // 3), (2, np.arange(60) // 3), (4, np.arange(60) // 6)):
        part = dict.fromkeys(COLUMNS, 0.0) | {"sampler": "s", "verifier": "v", "drafts": drafts, "temperature": 1.0}
        parts.append(
            pd.DataFrame(part | {"doc": documents, "value": random.random(60), "acceptance": random.random(60)})
        )
    together = summarise_comparison(pd.concat(parts, ignore_index=True))
    alone = pd.concat([summarise_comparison(part) for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-12)


def test_resamples_in_pieces_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    values, documents = random.random((500, 3)), random.integers(0, 70, 500)
    whole = bootstrap_interval(values, documents)
    monkeypatch.setattr(results, "_DRAWN", 700)
    for at_once, in_pieces in zip(whole, bootstrap_interval(values, documents), strict=True):
        np.testing.assert_allclose(in_pieces, at_once, rtol=1e-13)


def test_tables_of_earlier_versions_are_named(tmp_path: Path) -> None:
    old = pd.DataFrame({name: [0.5] for name in COLUMNS if not name.startswith(("certified", "mc_"))})
    old = old.assign(low=[0.4], high=[0.6], acceptance_stderr=[0.0])
    old.to_parquet(tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"old\.parquet.*low \(now certified_low\).*run it again"):
        read_table(str(tmp_path / "old.parquet"))
