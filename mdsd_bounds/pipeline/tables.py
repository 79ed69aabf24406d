"""Tidy per-position tables and their summaries, with intervals that respect documents.

A per-position table has one line for each (temperature, sampler, drafts, row of the dump) and, when verifiers were
compared, for each verifier.  A summary has one line per setting.  Positions of one document are not independent, so
standard errors and bootstrap intervals treat the *document* as the unit.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mdsd_bounds.problem import InputError

#: What identifies a setting; ``verifier`` is empty in tables of bounds.
SETTING = ["temperature", "sampler", "drafts", "verifier"]
#: Columns of a per-position table.
COLUMNS = [*SETTING, "row", "doc", "position", "acceptance", "acceptance_stderr", "value", "low", "high", "subset_size"]
#: Columns of a comparison's summary that people read first.
COMPARED = ["sampler", "verifier", "drafts", "temperature", "acceptance", "low", "high", "bound", "gap", "share"]
#: Resamples of a bootstrap interval; its ends then vary by about two percent of the interval's width.
BOOTSTRAP = 2000
#: Entries of the resamples held at once.
_DRAWN = 1 << 22


def document_means(values: np.ndarray, documents: np.ndarray) -> tuple[float, float]:
    """Mean over positions and its standard error with documents as the independent units.

    ``mean = sum_d y_d / sum_d n_d`` with y_d the sum and n_d the count of document d;
    ``stderr^2 = D/(D-1) sum_d (y_d - mean n_d)^2 / (sum_d n_d)^2`` (linearised ratio estimator).

    Parameters
    ----------
    values : ndarray
        ``[N]`` one number per position.
    documents : ndarray
        ``[N]`` document of each position.

    Returns
    -------
    mean, stderr : float
        ``stderr`` is NaN with a single document: one document says nothing about the next.
    """
    sums, counts = _by_document(values[:, None], documents)
    mean = float(sums[:, 0].sum() / counts.sum())
    number = len(counts)
    if number < 2:
        return mean, float("nan")
    residual = sums[:, 0] - mean * counts
    return mean, float(np.sqrt(number / (number - 1) * np.square(residual).sum()) / counts.sum())


def bootstrap_interval(
    values: np.ndarray, documents: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over positions, resampling whole documents with replacement.

    Parameters
    ----------
    values : ndarray
        ``[N, K]``: K quantities per position; they share the resamples, so differences of columns stay paired.
    documents : ndarray
        ``[N]``.
    level : float
        Coverage aimed at, in (0, 1).
    seed : int
        Seed of the resamples.

    Returns
    -------
    low, high : ndarray
        ``[K]``; NaN with a single document.
    """
    sums, counts = _by_document(values, documents)
    number = len(counts)
    if number < 2:
        empty = np.full(values.shape[1], np.nan)
        return empty, empty
    random, means = np.random.default_rng(seed), np.empty((BOOTSTRAP, values.shape[1]))
    # A few resamples at a time: all of them would be a matrix of 2000 columns as long as the table.
    some = max(1, _DRAWN // number)
    for first in range(0, BOOTSTRAP, some):
        size = min(some, BOOTSTRAP - first)
        draws = random.multinomial(number, np.full(number, 1 / number), size=size)
        means[first : first + size] = (draws @ sums) / (draws @ counts)[:, None]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One line per setting of a table of bounds: positions, mean, low, high, stderr.

    ``low`` and ``high`` are the means of the certified intervals: what rounding, quadrature and cut rows leave open.
    ``stderr`` is what the sample of documents leaves open (:func:`document_means`).
    """
    rows = []
    for setting, part in _settings(table):
        mean, stderr = document_means(part["value"].to_numpy(), part["doc"].to_numpy())
        temperature, sampler, drafts, _ = setting
        rows.append(
            {
                "sampler": sampler,
                "drafts": int(drafts),
                "temperature": float(temperature),
                "positions": len(part),
                "mean": mean,
                "low": float(part["low"].to_numpy().mean()),
                "high": float(part["high"].to_numpy().mean()),
                "stderr": stderr,
            }
        )
    return pd.DataFrame(rows)


def summarise_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """One line per setting of a comparison: acceptance, bound, gap and share of the bound, with intervals.

    ``gap = bound - acceptance`` per position, so its interval is paired; ``share = mean acceptance / mean bound``.
    ``stderr`` joins the spread over documents with the Monte Carlo error of the acceptances (where not exact).
    Lossy verifiers have a column ``tv``: the mean total variation between their output law and the target's.
    """
    rows = []
    settings = list(_settings(table))
    for (setting, part), (low, high) in zip(settings, _gap_intervals([part for _, part in settings]), strict=True):
        temperature, sampler, drafts, verifier = setting
        documents = part["doc"].to_numpy()
        acceptance, bound = part["acceptance"].to_numpy(), part["value"].to_numpy()
        mean, spread = document_means(acceptance, documents)
        carlo = float(np.sqrt(np.square(part["acceptance_stderr"].to_numpy()).sum()) / len(part))
        rows.append(
            {
                "sampler": sampler,
                "verifier": verifier,
                "drafts": int(drafts),
                "temperature": float(temperature),
                "positions": len(part),
                "acceptance": mean,
                "mean": mean,
                "bound": float(bound.mean()),
                "gap": float((bound - acceptance).mean()),
                "share": mean / float(bound.mean()) if bound.mean() > 0 else float("nan"),
                "low": float(low[0]),
                "high": float(high[0]),
                "gap_low": float(low[1]),
                "gap_high": float(high[1]),
                "bound_low": float(part["low"].to_numpy().mean()),
                "bound_high": float(part["high"].to_numpy().mean()),
                "stderr": float(np.hypot(spread, carlo)),
                "mc_stderr": carlo,
                **({"tv": float(part["tv"].to_numpy().mean())} if "tv" in part else {}),
            }
        )
    return pd.DataFrame(rows)


def render(table: pd.DataFrame, style: str, columns: Sequence[str] | None = None) -> str:
    """A summary as text: ``table`` (aligned for reading), ``csv`` or ``json`` (a list of rows).

    Raises
    ------
    InputError
        If the style is none of these.
    """
    if style == "json":
        return json.dumps([_plain(row) for row in table.to_dict("records")], indent=1)
    if style == "csv":
        return table.to_csv(index=False).rstrip("\n")
    if style != "table":
        raise InputError(f"--format {style}: choose table, csv or json")
    shown = table[list(columns)] if columns is not None else table
    return _aligned(shown)


def read_table(path: str) -> pd.DataFrame:
    """A per-position table from a parquet file written by ``mdsd bounds --out`` or ``mdsd compare --out``.

    Raises
    ------
    InputError
        If the file is missing, is no parquet file, or lacks the columns of a per-position table.
    """
    try:
        # By path: a Python file object handed to Arrow's threads can abort the process when it ends.
        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with mdsd bounds DUMP --out {path}") from None
    except Exception as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"{path}: lacks the columns {', '.join(missing)}; give a file written by mdsd bounds or compare"
        )
    return table


def _settings(table: pd.DataFrame) -> Iterable[tuple[tuple[Any, ...], pd.DataFrame]]:
    groups: Iterable[tuple[Any, pd.DataFrame]] = table.groupby(SETTING, sort=False, dropna=False)
    return groups


def _gap_intervals(parts: Sequence[pd.DataFrame]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Intervals of acceptance and gap for each part; neighbours with the same documents share one set of resamples."""
    for _, alike in itertools.groupby(parts, key=lambda part: part["doc"].to_numpy().tobytes()):
        same = list(alike)
        columns = [column for part in same for column in (part["acceptance"], part["value"] - part["acceptance"])]
        found = bootstrap_interval(np.stack(columns, 1), same[0]["doc"].to_numpy())
        yield from zip(*(ends.reshape(-1, 2) for ends in found), strict=True)


def _by_document(values: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, index = np.unique(documents, return_inverse=True)
    counts = np.bincount(index).astype(float)
    sums = np.stack([np.bincount(index, weights=column) for column in values.T], 1)
    return sums, counts


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    # NaN is no JSON; an unknown number is null.
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _aligned(table: pd.DataFrame) -> str:
    header = [str(name) for name in table.columns]
    body = [[cell(name, value) for name, value in zip(header, row, strict=True)] for row in _rows(table)]
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _rows(table: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return table.itertuples(index=False, name=None)


def cell(name: str, value: Any) -> str:
    """One value of a summary as people read it."""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    # Adding zero turns a rounded minus zero into zero.
    return f"{value:g}" if name == "temperature" else f"{round(value, 5) + 0.0:.5f}"
