"""Figure: the paired gap to the bound against the number of drafts."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.estimates import gaps
from mdsd_bounds.plots.interval_lines import interval_lines
from mdsd_bounds.plots.layout import INTERVALS, Frame, Look, Series, compose
from mdsd_bounds.plots.style import need_verifiers


def gap_by_drafts(table: pd.DataFrame, ax: Any = None, look: Look | None = None) -> Any:
    """Bound minus acceptance of each verifier, in percentage points, against the number of drafts.

    The difference is taken at every position before it is averaged, so its interval is much narrower than those of the
    two levels.

    Parameters
    ----------
    table : DataFrame
        A per-position comparison or its summary.  Of several temperatures the lowest is drawn, unless they are the
        facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (sampler or temperature) and names.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    need_verifiers(table, "gap_by_drafts")
    frame = Frame(
        "gap_by_drafts", _panel, "What a better verifier could still add", "number of drafts n",
        "bound minus acceptance, percentage points", axis="drafts", facets=("sampler", "temperature"),
        note=f"Bars: {INTERVALS}, paired by position.",
    )  # fmt: skip
    return compose(frame, gaps(table), ax, look)


def _panel(ax: Any, series: list[Series], scale: float) -> None:
    ax.axhline(0.0, color="#999999", linewidth=0.8 * scale, zorder=1)
    interval_lines(ax, series, "drafts", scale, factor=100.0, log=True)
