"""Two runs on the same positions: the paired difference of bounds and acceptances, with documents as the unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mdsd_bounds.pipeline.tables import SETTING, bootstrap_interval
from mdsd_bounds.problem import InputError

_PLACE = ["doc", "position"]


def paired(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str] = ("first", "second")) -> pd.DataFrame:
    """Second minus first, position by position, for every setting that both tables hold.

    Positions are matched by document and position.  A difference of two rows on the same text is free of how hard that
    text is, so that its interval is much narrower than those of the two means.

    Parameters
    ----------
    first, second : DataFrame
        Per-position tables of :func:`mdsd_bounds.pipeline.run.run`: two drafts for one target, or two runs.
    names : tuple of str
        What to call them in errors.

    Returns
    -------
    DataFrame
        sampler, verifier (empty for bounds), drafts, temperature, positions; the means ``first`` and ``second``,
        ``difference`` = second - first in [-1, 1], and its 95% interval ``ci_low`` to ``ci_high`` (NaN with a single
        document); largest absolute difference first.

    Raises
    ------
    InputError
        If they share no setting, or their positions are not the same.
    """
    rows = []
    groups: dict[Any, pd.DataFrame] = dict(iter(second.groupby(SETTING, sort=False)))
    settings: list[tuple[Any, pd.DataFrame]] = list(first.groupby(SETTING, sort=False))
    for key, part in settings:
        if key not in groups:
            continue
        temperature, sampler, drafts, verifier = key
        column = "acceptance" if verifier else "value"
        left, right = (side.set_index(_PLACE)[column] for side in (part, groups[key]))
        _refuse_other_positions(left, right, names)
        right = right.loc[left.index]
        difference = (right - left).to_numpy()
        low, high = bootstrap_interval(difference[:, None], left.index.get_level_values("doc").to_numpy())
        rows.append(
            {
                "sampler": sampler,
                "verifier": verifier,
                "drafts": int(drafts),
                "temperature": float(temperature),
                "positions": len(left),
                "first": float(left.mean()),
                "second": float(right.mean()),
                "difference": float(np.mean(difference)),
                "ci_low": float(low[0]),
                "ci_high": float(high[0]),
            }
        )
    if not rows:
        raise InputError(
            f"{names[0]} and {names[1]} share no sampler, verifier, number of drafts and temperature; run both with "
            "the same options"
        )
    found = pd.DataFrame(rows)
    return found.iloc[found["difference"].abs().argsort(kind="stable")[::-1]].reset_index(drop=True)


def _refuse_other_positions(left: pd.Series[Any], right: pd.Series[Any], names: tuple[str, str]) -> None:
    for name, side in zip(names, (left, right), strict=True):
        if side.index.has_duplicates:
            doc, position = side.index[side.index.duplicated()][0]
            raise InputError(f"{name}: document {doc} has position {position} twice; positions cannot be paired")
    other = left.index.symmetric_difference(right.index)
    if len(other):
        doc, position = other[0]
        missing = names[1] if (doc, position) in left.index else names[0]
        raise InputError(
            f"{missing}: lacks position {position} of document {doc}, one of {len(other)} that only one of the two "
            "holds; log both drafts on the same texts, or give both the same --limit"
        )
