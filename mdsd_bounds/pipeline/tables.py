"""Tidy per-position tables and their summaries, with intervals that respect documents.

A per-position table has one line for each (temperature, sampler, drafts, row of the dump) and, when verifiers were
compared, for each verifier.  A summary has one line per setting.  Positions of one document are not independent, so
standard errors and bootstrap intervals treat the *document* as the unit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdsd_bounds._backend.memory import require_memory
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.files import open_file
from mdsd_bounds.dumps.containers.parquet import open_parquet
from mdsd_bounds.pipeline.checked_tables import refuse_damaged
from mdsd_bounds.problem import InputError

#: What identifies a setting; ``verifier`` is empty in tables of bounds.
SETTING = ["temperature", "sampler", "drafts", "verifier"]
#: Columns of a per-position table.
COLUMNS = [
    *SETTING,
    "row",
    "doc",
    "position",
    "acceptance",
    "mc_stderr",
    "value",
    "certified_low",
    "certified_high",
    "subset_size",
]
#: Columns of tables that earlier versions wrote, with what they are called now.
_RENAMED = {
    "low": "certified_low",
    "high": "certified_high",
    "acceptance_stderr": "mc_stderr",
    "carlo_stderr": "mc_stderr",
}
#: Optional column: whether some probability of the row is subnormal or underflows to zero
#: (:func:`mdsd_bounds._backend.underflow.underflows`).
UNDERFLOW = "underflow"
#: Columns of a comparison's summary that people read first.
COMPARED = [
    "sampler",
    "verifier",
    "drafts",
    "temperature",
    "acceptance",
    "bound",
    "gap",
    "gap_ci_low",
    "gap_ci_high",
    "share",
]
#: The same for lossy verifiers, which are set against the optimum at their own total variation.
COMPARED_LOSSY = [*COMPARED[:5], "ci_low", "ci_high", "tv", "bound", "bound_at_tv", "gap_at_tv"]
_WORDS = ("sampler", "verifier")
#: Numbers that not every table holds, and numbers that are unknown in some rows.
_NUMBERS, _MAY_LACK = ("tv",), ("acceptance", "mc_stderr", "tv", "subset_size")
#: Bytes that a cell takes while a table is read.
_CELL = 32
#: Resamples of a bootstrap interval; its ends then vary by about two percent of the interval's width.
BOOTSTRAP = 2000
#: Below so many documents the bootstrap has too little to draw from.
FEW_DOCUMENTS = 10
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

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.pipeline import document_means
    >>> mean, stderr = document_means(np.array([0.6, 0.8, 0.7, 0.9]), np.array([0, 0, 1, 1]))
    >>> round(mean, 4), round(stderr, 4)
    (0.75, 0.05)
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

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.pipeline import bootstrap_interval
    >>> values, documents = np.array([[0.6], [0.8], [0.7], [0.9], [0.5], [0.7]]), np.array([0, 0, 1, 1, 2, 2])
    >>> low, high = bootstrap_interval(values, documents)
    >>> bool(low[0] <= values.mean() <= high[0])
    True
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
    """One line per setting of a table of bounds: documents, positions, mean, its certificate and its sampling error.

    ``certified_low`` and ``certified_high`` are the means of the certified intervals: what rounding, quadrature and
    truncated rows leave open.  ``stderr`` (:func:`document_means`) is the sampling uncertainty of ``mean``, with
    documents as the unit.  The 95% interval of ``certified_low`` (:func:`bootstrap_interval`) starts at ``ci_low``, and
    that of ``certified_high`` ends at ``ci_high``, so that both uncertainties lie between them.  Bounds within a total
    variation have a line for each ``tv``.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings, summarise
    >>> from mdsd_bounds.pipeline.run import run
    >>> summarise(run(load_example(), Settings(("greedy",), (1, 2)))).columns.tolist()
    ['sampler', 'drafts', 'temperature', 'documents', 'positions', 'mean', 'certified_low', 'certified_high', 'stderr',
    'ci_low', 'ci_high']
    """
    rows = []
    settings = list(_settings(table, ["tv"] if "tv" in table else []))
    # The ends of the certified interval: of truncated rows that of its middle would leave out what is not known.
    ends = _intervals([part for _, part in settings], lambda part: [part["certified_low"], part["certified_high"]])
    for (setting, part), (low, high) in zip(settings, ends, strict=True):
        mean, stderr = document_means(part["value"].to_numpy(), part["doc"].to_numpy())
        temperature, sampler, drafts, _, *tv = setting
        rows.append(
            {
                "sampler": sampler,
                "drafts": int(drafts),
                "temperature": float(temperature),
                **({"tv": float(tv[0])} if tv else {}),
                "documents": int(part["doc"].nunique()),
                "positions": len(part),
                "mean": mean,
                "certified_low": float(part["certified_low"].to_numpy().mean()),
                "certified_high": float(part["certified_high"].to_numpy().mean()),
                "stderr": stderr,
                "ci_low": float(low[0]),
                "ci_high": float(high[1]),
            }
        )
    return pd.DataFrame(rows)


def summarise_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """One line per setting of a comparison: acceptance, bound, gap and share of the bound, with intervals.

    ``gap = bound - acceptance`` per position, so its 95% interval ``gap_ci_low`` to ``gap_ci_high`` is paired;
    ``share = mean acceptance / mean bound``.  All intervals have documents as the unit.  ``mc_stderr`` is the Monte
    Carlo standard error of the mean acceptance, 0 where the rates are exact; no interval is narrower than 1.96 of them
    to either side, which few documents would otherwise allow.
    Lossy verifiers have a column ``tv``, the mean total variation between their output distribution and the target's;
    ``bound_at_tv``, the most that any rule accepts which has the same total variation at every position,
    ``mean of min(1, alpha* + tv)``; and ``gap_at_tv``, what the verifier leaves of that.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings, summarise_comparison
    >>> from mdsd_bounds.pipeline.run import run
    >>> found = summarise_comparison(run(load_example(), Settings(("with_replacement",), (2,), verifiers=("rrs",))))
    >>> found[["verifier", "drafts", "documents", "positions"]]
      verifier  drafts  documents  positions
    0      rrs       2         16         32
    """
    rows = []
    settings = list(_settings(table))
    ends = _intervals(
        [part for _, part in settings], lambda part: [part["acceptance"], part["value"] - part["acceptance"]]
    )
    for (setting, part), (low, high) in zip(settings, ends, strict=True):
        temperature, sampler, drafts, verifier = setting
        mean, bound = float(part["acceptance"].mean()), float(part["value"].mean())
        gap = float((part["value"] - part["acceptance"]).to_numpy().mean())
        stderr = float(np.sqrt(np.square(part["mc_stderr"].to_numpy()).sum()) / len(part))
        if stderr > 0:
            # NaN, of a single document, stays.
            middle = np.array([mean, gap])
            low, high = np.minimum(low, middle - 1.96 * stderr), np.maximum(high, middle + 1.96 * stderr)
        rows.append(
            {
                "sampler": sampler,
                "verifier": verifier,
                "drafts": int(drafts),
                "temperature": float(temperature),
                "documents": int(part["doc"].nunique()),
                "positions": len(part),
                "acceptance": mean,
                "ci_low": float(low[0]),
                "ci_high": float(high[0]),
                "bound": bound,
                "gap": gap,
                "gap_ci_low": float(low[1]),
                "gap_ci_high": float(high[1]),
                "share": mean / bound if bound > 0 else float("nan"),
                "mc_stderr": stderr,
                **(_at_own_tv(part) if "tv" in part else {}),
            }
        )
    return pd.DataFrame(rows)


def _at_own_tv(part: pd.DataFrame) -> dict[str, float]:
    tv, acceptance = part["tv"].to_numpy(), part["acceptance"].to_numpy()
    best = np.minimum(part["value"].to_numpy() + tv, 1.0)
    return {
        "tv": float(tv.mean()),
        "bound_at_tv": float(best.mean()),
        "gap_at_tv": float((best - acceptance).mean()),
    }


def read_table(path: str) -> pd.DataFrame:
    """A per-position table from a parquet file written by ``mdsd bounds --out`` or ``mdsd compare --out``.

    Raises
    ------
    InputError
        If the file is missing, damaged, no parquet file, or lacks the columns of a per-position table.

    Examples
    --------
    >>> import tempfile
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings, read_table
    >>> from mdsd_bounds.pipeline.run import run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = run(load_example(), Settings(("greedy",), (1,)), out=f"{folder}/bounds.parquet")
    ...     table = read_table(f"{folder}/bounds.parquet")
    >>> len(table)
    32
    """
    remedy = "give a file written by mdsd bounds or compare"
    with reading(path, "parquet table", remedy):
        if not Path(path).exists():
            raise InputError(f"{path}: no such file; make it with mdsd bounds DUMP --out {path}")
        held = open_file(Path(path))
        refuse_damaged(held.stream(), held.size, f"{path}: the results there are damaged ({{}}); run it again")
        file = open_parquet(Path(path))
        names = file.schema_arrow.names
        missing = [name for name in COLUMNS if name not in names]
        if missing and (old := [f"{name} (now {_RENAMED[name]})" for name in names if name in _RENAMED]):
            raise InputError(f"{path}: written by an earlier version, with the columns {', '.join(old)}; run it again")
        if missing:
            raise InputError(f"{path}: lacks the columns {', '.join(missing)}; {remedy}")
        rows = file.metadata.num_rows
        require_memory(_CELL * rows * len(names), f"{path}: {rows} rows of {len(names)} columns", "split the table")
        table: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
        for name in _MAY_LACK:
            # A column without a single number has no type in the file.
            if name in table and table[name].isna().all():
                table[name] = table[name].astype(float)
        for name in table.columns:
            if wrong := _wrong(str(name), table[name]):
                raise InputError(f"{path}: the column {name} {wrong}; {remedy}")
        if table.empty:
            raise InputError(f"{path}: holds no positions; {remedy}")
    return table


def _wrong(name: str, column: pd.Series[Any]) -> str:
    """What is wrong with a column of a table read from a file; empty if nothing is."""
    if name in _WORDS:
        return "" if all(isinstance(value, str) for value in column) else "holds something other than names"
    if name not in COLUMNS and name not in _NUMBERS:
        return ""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        return f"is of type {column.dtype}, not of numbers"
    if name not in _MAY_LACK and not np.isfinite(column.to_numpy(dtype=float)).all():
        return "has no number in some rows"
    return ""


def _settings(table: pd.DataFrame, further: Sequence[str] = ()) -> Iterable[tuple[tuple[Any, ...], pd.DataFrame]]:
    groups: Iterable[tuple[Any, pd.DataFrame]] = table.groupby([*SETTING, *further], sort=False, dropna=False)
    return groups


def _intervals(
    parts: Sequence[pd.DataFrame], quantities: Callable[[pd.DataFrame], list[pd.Series]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Intervals of the quantities of each part; neighbours with the same documents share one set of resamples."""
    for _, alike in itertools.groupby(parts, key=lambda part: part["doc"].to_numpy().tobytes()):
        same = list(alike)
        columns = [column for part in same for column in quantities(part)]
        found = bootstrap_interval(np.stack(columns, 1), same[0]["doc"].to_numpy())
        yield from zip(*(ends.reshape(len(same), -1) for ends in found), strict=True)


def _by_document(values: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, index = np.unique(documents, return_inverse=True)
    counts = np.bincount(index).astype(float)
    sums = np.stack([np.bincount(index, weights=column) for column in values.T], 1)
    return sums, counts


def few_documents(documents: int) -> list[str]:
    """A note where intervals rest on so few documents that they are rough; none for one, which has no interval."""
    if not 1 < documents < FEW_DOCUMENTS:
        return []
    return [
        f"intervals over {documents} documents are rough, and rather too narrow than too wide: documents are their "
        f"unit, whatever the number of positions; {FEW_DOCUMENTS} texts or more are better"
    ]


def underflow_notes(table: pd.DataFrame) -> list[str]:
    """One line for each temperature at which float64 cannot hold some probability in full; a table may lack the column.

    The answers hold for the rows as float64 holds them: all methods, samplers and verifiers see the same ones.
    """
    if UNDERFLOW not in table:
        return []
    lines = []
    for temperature, part in table.groupby("temperature"):
        rows = part.drop_duplicates("row")
        if count := int(rows[UNDERFLOW].sum()):
            lines.append(
                f"{count} of {len(rows)} positions at temperature {temperature:g} have tokens below 2.2e-308, the "
                "smallest normal float64, or rounded to zero: the answers are for the rows as float64 holds them"
            )
    return lines
