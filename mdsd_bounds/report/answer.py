"""What a report says first: what is left on the table, and which sampler, verifier, number of drafts and tree to take.

Everything is read from per-position tables.  The number of drafts is the smallest after which the next one asked for
adds less than :data:`WORTH` to the best acceptance; with costs, the tree says how many drafts a node gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from mdsd_bounds.pipeline.tables import bootstrap_interval, summarise, summarise_comparison
from mdsd_bounds.trees.advise import BEST, Costs, advise, profiles
from mdsd_bounds.trees.speed_frontier import frontier

#: Acceptance that one more step in the number of drafts must add to be worth it.
WORTH = 0.01
#: Gaps below this are rounding: the rule attains its bound.
ATTAINED = 1e-6
#: Most nodes and levels of the trees that are looked at.
NODES, DEPTH = 16, 8


@dataclass(frozen=True)
class Answer:
    """The recommendation at one temperature.

    Attributes
    ----------
    temperature, sampler, verifier, drafts :
        The setting; ``verifier`` is empty where none was compared.
    acceptance, bound : float
        Mean acceptance of the verifier (of the bound, where none was compared), and the highest bound of any sampler at
        this number of drafts.
    best_sampler : str
        The sampler of that bound.
    left : (float, float, float)
        ``bound - acceptance``, paired by position, with its 95% interval over documents.
    more : (int, float, float, float) or None
        The next number of drafts asked for and what it adds, with its 95% interval; None if there is none.
    second : (str, float, float, float) or None
        The best other sampler, and by how much its bound is lower, with its 95% interval.
    tree : mapping or None
        ``name``, ``tokens``, ``sampler``, ``verifier``, and ``speed`` and ``alone`` (without drafts) where costs were
        given; None where the numbers of drafts have gaps or nothing was compared.
    positions, documents : int
        What the answer rests on.
    logs : DataFrame or None
        What text decoded with draft trees gave (:func:`mdsd_bounds.trees.log.summary_table`), where logs were given.

    Examples
    --------
    >>> from mdsd_bounds.report import Answer
    >>> found = Answer(
    ...     temperature=1.0, sampler="with_replacement", verifier="rrs", drafts=2, acceptance=0.81, bound=0.84,
    ...     best_sampler="without_replacement", left=(0.03, 0.02, 0.04), more=(3, 0.006, 0.004, 0.008), second=None,
    ...     positions=1000, documents=100,
    ... )
    >>> f"{found.verifier} with {found.drafts} drafts leaves {found.left[0]:.2f} on the table"
    'rrs with 2 drafts leaves 0.03 on the table'
    """

    temperature: float
    sampler: str
    verifier: str
    drafts: int
    acceptance: float
    bound: float
    best_sampler: str
    left: tuple[float, float, float]
    more: tuple[int, float, float, float] | None
    second: tuple[str, float, float, float] | None
    positions: int
    documents: int
    tree: Mapping[str, Any] | None = field(default=None)
    logs: pd.DataFrame | None = field(default=None)


def answer(
    bounds: pd.DataFrame, comparison: pd.DataFrame | None, temperature: float, costs: Costs | None = None
) -> Answer:
    """The recommendation at one temperature.

    Parameters
    ----------
    bounds : DataFrame
        Per-position table of bounds (:func:`mdsd_bounds.pipeline.run.run` without verifiers, or with: bounds of the
        same rows are the same).
    comparison : DataFrame or None
        The same positions with verifiers; None or empty where nothing was compared.
    temperature : float
        One of the table's.
    costs : Costs, optional
        Of the two models (:func:`mdsd_bounds.trees.advise.costs_from`); without them trees are ranked by tokens per
        target forward pass.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.report import answer
    >>> dump, settings = load_example(), Settings(("with_replacement",), (1, 2), temperatures=(1.0,))
    >>> found = answer(run(dump, settings, limit=8), None, 1.0)
    >>> found.sampler, found.drafts, found.positions
    ('with_replacement', 2, 8)
    """
    bounds = bounds[bounds["temperature"] == temperature]
    if (bounds["verifier"] != "").any():
        # A comparison repeats the bounds of a row for every verifier.
        bounds = bounds.drop_duplicates(["row", "sampler", "drafts"]).assign(verifier="")
    compared = comparison is not None and len(comparison) > 0
    table = comparison[comparison["temperature"] == temperature] if compared and comparison is not None else bounds
    column = "acceptance" if compared else "value"
    table = table[table[column].notna()]
    means = table.groupby(["drafts", "sampler", "verifier"], sort=False)[column].mean()
    best = means.groupby("drafts", sort=True).max()
    drafts = _enough(best)
    sampler, verifier = means.loc[drafts].idxmax()
    mine = _rows(table, drafts, sampler, verifier)[column]
    at = bounds[bounds["drafts"] == drafts]
    order = at.groupby("sampler", sort=False)["value"].mean().sort_values(ascending=False, kind="stable")
    documents = bounds.drop_duplicates("row").set_index("row")["doc"]
    top = str(order.index[0])
    ceiling = _rows(at, drafts, top, "")["value"]
    # What nobody can exceed is the upper end of the certified intervals; their middle is no bound of truncated rows.
    bound = float(at.groupby("sampler", sort=False)["certified_high"].mean().max())
    second = None
    if len(order) > 1:
        other = str(order.index[1])
        second = (other, *_difference(ceiling, _rows(at, drafts, other, "")["value"], documents))
    more, later = None, [n for n in best.index if n > drafts]
    if later:
        again = means.loc[later[0]].idxmax()
        more = (int(later[0]), *_difference(_rows(table, later[0], *again)[column], mine, documents))
    return Answer(
        temperature, str(sampler), str(verifier), int(drafts), float(mine.mean()), bound, top,
        _difference(ceiling, mine, documents), more, second, len(documents), int(documents.nunique()),
        _tree(table, costs) if compared else None,
    )  # fmt: skip


def _enough(best: pd.Series) -> int:
    """The smallest number of drafts after which the next adds less than :data:`WORTH`."""
    counts = list(best.index)
    for n, following in pairwise(counts):
        if best[following] - best[n] < WORTH:
            return int(n)
    return int(counts[-1])


def _rows(table: pd.DataFrame, drafts: int, sampler: str, verifier: str) -> pd.DataFrame:
    part = table[(table["drafts"] == drafts) & (table["sampler"] == sampler) & (table["verifier"] == verifier)]
    return part.set_index("row")


def _difference(above: pd.Series, below: pd.Series, documents: pd.Series) -> tuple[float, float, float]:
    """Mean difference of two quantities at the same positions, and its 95% interval over documents."""
    difference = (above - below).dropna()
    low, high = bootstrap_interval(difference.to_numpy()[:, None], documents.loc[difference.index].to_numpy())
    return float(difference.mean()), float(low[0]), float(high[0])


def _tree(table: pd.DataFrame, costs: Costs | None) -> Mapping[str, Any] | None:
    """The best tree over the numbers of drafts 1, 2, ... that stand in the table without a gap."""
    counts = {int(n) for n in table["drafts"].unique()}
    most = next(n for n in range(1, max(counts) + 2) if n not in counts) - 1
    if most < 2:
        return None
    found, documents = profiles(table[table["drafts"] <= most])
    if not any(profile.verifier != BEST for profile in found):
        return None
    if costs is not None:
        advice = advise(found, documents, costs, NODES, DEPTH)
        row = advice[advice["kind"] == "choice"].iloc[0]
        alone = float(advice[advice["kind"] == "no drafts"]["speed"].iloc[0])
        speeds = {"speed": float(row["speed"]), "alone": alone, "unit": costs.unit}
    else:
        trees = frontier(found, documents, NODES, DEPTH)
        row = trees[trees["verifier"] != BEST].sort_values("tokens", kind="stable").iloc[-1]
        speeds = {}
    return {
        "name": row["tree"], "tokens": float(row["tokens"]), "sampler": row["sampler"], "verifier": row["verifier"],
        "nodes": int(row["nodes"]), "most": most, **speeds,
    }  # fmt: skip


def best_others(comparison: pd.DataFrame, found: Answer) -> pd.Series | None:
    """Where the recommended rule attains the bound: the best other verifier at the same setting, with its gap."""
    part = comparison[
        (comparison["temperature"] == found.temperature)
        & (comparison["drafts"] == found.drafts)
        & (comparison["verifier"] != found.verifier)
        & comparison["acceptance"].notna()
    ]
    if found.left[0] > ATTAINED or part.empty:
        return None
    row: pd.Series = summarise_comparison(part).sort_values("acceptance", kind="stable").iloc[-1]
    return row


def sampler_lines(bounds: pd.DataFrame) -> pd.DataFrame:
    """The bound of every sampler and number of drafts, with what is certified and what sampling leaves open."""
    summary = summarise(bounds)
    return summary.assign(certified=np.maximum(summary["certified_high"] - summary["certified_low"], 0.0))
