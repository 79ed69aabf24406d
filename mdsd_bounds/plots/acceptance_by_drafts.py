"""Figure: acceptance by drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.estimates import acceptances
from mdsd_bounds.plots.interval_lines import interval_lines
from mdsd_bounds.plots.layout import INTERVALS, Frame, Look, Series, compose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: With more lines than this in a panel, bars stand on the bound alone: the levels share most of their uncertainty.
MOST_BARS = 5


def acceptance_by_drafts(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Optimal acceptance rate, and acceptance of verifiers where compared, against the number of drafts.

    Bars are 95% intervals over documents (sampling uncertainty).  Where rows are truncated, the mean of their certified
    intervals is a shaded band.  With verifiers each sampler has a panel of its own,
    and with more than :data:`MOST_BARS` lines in it bars stand on the bound alone.

    Parameters
    ----------
    table : DataFrame
        A per-position table or a summary.  Of several temperatures the lowest is drawn, unless they are the facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (sampler or temperature) and names.

    Returns
    -------
    matplotlib Axes
        The first panel; ``.figure`` is the figure.
    """
    found = acceptances(table)
    compared = bool((found["verifier"] != "").any())
    banded = bool(((found["certified_high"] - found["certified_low"]) > 1e-3).any())
    crowded = found["verifier"].nunique() > MOST_BARS
    whose = " of the bound; see gap_by_drafts for the verifiers" if crowded else ""
    note = f"Bars: {INTERVALS}{whose}." + ("  Shaded: certified interval of truncated rows." if banded else "")
    heading = "Acceptance and its bound" if compared else "Optimal acceptance of any lossless verifier"
    if crowded:
        found.loc[found["verifier"] != "", ["low", "high"]] = float("nan")
    frame = Frame(
        "acceptance_by_drafts", _panel, heading, "number of drafts n", "acceptance rate", axis="drafts",
        facets=("sampler", "temperature"), note=note,
    )  # fmt: skip
    return compose(frame, found, ax, look)


def _panel(ax: Axes, series: list[Series], scale: float) -> None:
    for one, place in zip(series, interval_lines(ax, series, "drafts", scale, log=True), strict=True):
        rows = one.rows.sort_values("drafts")
        if one.rows["verifier"].ne("").any() or (rows["certified_high"] - rows["certified_low"]).max() < 1e-3:
            continue
        ends = rows["certified_low"].to_numpy(), rows["certified_high"].to_numpy()
        ax.fill_between(place, *ends, color=one.style.colour, alpha=0.16, linewidth=0)
        for end in ends:
            ax.plot(place, end, color=one.style.colour, linewidth=0.6 * scale, alpha=0.7)
