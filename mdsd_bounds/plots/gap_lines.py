"""What the figures of the paired gap share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.estimates import gaps
from mdsd_bounds.plots.interval_lines import interval_lines
from mdsd_bounds.plots.layout import INTERVALS, Frame, Look, Series, compose
from mdsd_bounds.plots.style import need_verifiers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gap_figure(
    table: pd.DataFrame, ax: Axes | None, look: Look | None, axis: str, label: str, other: str, *, log: bool = False
) -> Axes:
    """The paired gap of each verifier against ``axis``; facets are the sampler and the ``other`` of the two axes."""
    name = f"gap_by_{axis}"
    need_verifiers(table, name)

    def panel(ax: Axes, series: list[Series], scale: float) -> None:
        ax.axhline(0.0, color="#999999", linewidth=0.8 * scale, zorder=1)
        interval_lines(ax, series, axis, scale, factor=100.0, log=log)

    frame = Frame(
        name, panel, "What a better verifier could still add", label, "bound minus acceptance, percentage points",
        axis=axis, facets=("sampler", other), note=f"Bars: {INTERVALS}, paired by position.",
    )  # fmt: skip
    return compose(frame, gaps(table), ax, look)
