"""What the figures of comparisons draw: means and 95% intervals over documents, of per-position tables or summaries."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from mdsd_bounds.pipeline.tables import summarise, summarise_comparison
from mdsd_bounds.problem import InputError

#: What identifies a point of a figure.
KEYS = ["temperature", "sampler", "drafts", "verifier"]


def select(
    table: pd.DataFrame, samplers: Iterable[str] | None = None, verifiers: Iterable[str] | None = None
) -> pd.DataFrame:
    """The rows of these samplers and verifiers, in the order given; None keeps all.

    Raises
    ------
    InputError
        If the table holds none of a name; those that it holds are listed.

    Examples
    --------
    >>> import pandas as pd
    >>> from mdsd_bounds.plots import select
    >>> table = pd.DataFrame({"sampler": ["greedy", "with_replacement"], "drafts": [1, 1]})
    >>> select(table, samplers=["greedy"])
      sampler  drafts
    0  greedy       1
    """
    for column, names in (("sampler", samplers), ("verifier", verifiers)):
        if names is None:
            continue
        there = [name for name in dict.fromkeys(table[column]) if name != ""]
        for name in names:
            if name not in there:
                raise InputError(
                    f"--{column} {name}: not in the table, which holds {', '.join(map(str, there)) or 'none'}"
                )
        order = {name: place for place, name in enumerate(names)}
        table = table[table[column].isin(list(order))]
        table = table.iloc[table[column].map(order).to_numpy().argsort(kind="stable")]
    return table


def acceptances(table: pd.DataFrame) -> pd.DataFrame:
    """Bounds (verifier ``""``) and acceptances: :data:`KEYS`, estimate, low, high, certified_low, certified_high.

    Parameters
    ----------
    table : DataFrame
        Per-position (:func:`mdsd_bounds.pipeline.run.run`), or a summary of one.
    """
    if "row" not in table:
        return _of_summary(table)
    # Each position stands once in the bound, however many verifiers were compared.
    once = table.drop_duplicates(["temperature", "sampler", "drafts", "row"])
    parts = [_named(summarise(once), "mean").assign(verifier="")]
    if compared := _compared(table):
        parts.append(_named(summarise_comparison(compared[0]), "acceptance"))
    return pd.concat(parts, ignore_index=True)


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Bound minus acceptance of each verifier, paired by position: :data:`KEYS`, estimate, low, high."""
    if "row" in table:
        table = summarise_comparison(_compared(table)[0])
    found = table.rename(columns={"gap": "estimate", "gap_ci_low": "low", "gap_ci_high": "high"})
    return found[[*KEYS, "estimate", "low", "high"]]


def _compared(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows with a verifier whose acceptance is known; no part if there is none."""
    part = table[(table["verifier"] != "") & table["acceptance"].notna()]
    return [part] if len(part) else []


def _named(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    return summary.rename(columns={column: "estimate", "ci_low": "low", "ci_high": "high"})


def _of_summary(table: pd.DataFrame) -> pd.DataFrame:
    if "ci_low" not in table:
        # Summaries of earlier versions hold a standard error instead of an interval.
        table = table.assign(
            ci_low=table["mean"] - 1.96 * table["stderr"], ci_high=table["mean"] + 1.96 * table["stderr"]
        )
    column = "acceptance" if "verifier" in table else "mean"
    found = _named(table.drop(columns=["mean"] if column == "acceptance" else [], errors="ignore"), column)
    return found if "verifier" in found else found.assign(verifier="")
