"""Summaries: standard errors that respect documents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.results import COLUMNS, bootstrap_interval, document_means, read_table, render


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
