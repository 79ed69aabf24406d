"""Figure: the paired gap to the bound against the temperature."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.estimates import gaps
from mdsd_bounds.plots.interval_lines import interval_lines
from mdsd_bounds.plots.layout import INTERVALS, Frame, Look, Series, compose
from mdsd_bounds.plots.style import need_verifiers


def gap_by_temperature(table: pd.DataFrame, ax: Any = None, look: Look | None = None) -> Any:
    """Bound minus acceptance of each verifier, in percentage points, against temperature.

    Parameters
    ----------
    table : DataFrame
        A per-position comparison or its summary.  The largest number of drafts is drawn, unless drafts are the facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (sampler or drafts) and names.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    need_verifiers(table, "gap_by_temperature")
    frame = Frame(
        "gap_by_temperature", _panel, "What a better verifier could still add", "temperature",
        "bound minus acceptance, percentage points", axis="temperature", facets=("sampler", "drafts"),
        note=f"Bars: {INTERVALS}, paired by position.",
    )  # fmt: skip
    return compose(frame, gaps(table), ax, look)


def _panel(ax: Any, series: list[Series], scale: float) -> None:
    ax.axhline(0.0, color="#999999", linewidth=0.8 * scale, zorder=1)
    interval_lines(ax, series, "temperature", scale, factor=100.0)
