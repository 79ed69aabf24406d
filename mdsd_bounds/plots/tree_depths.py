"""Figure: how far down a tree drafts are accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, axes, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tree_depths(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Probability that at least so many drafts are accepted, against their number, one line a tree.

    Parameters
    ----------
    table : DataFrame
        Columns tree, depth, accepted, low, high.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    """
    ax = axes(ax)
    for i, (name, rows) in enumerate(table.groupby("tree", sort=False)):
        rows = rows.sort_values("depth")
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(
            rows["depth"],
            rows["accepted"],
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            linestyle=DASHES[i % len(DASHES)],
            markersize=5,
            linewidth=1.3,
            label=name,
        )
    ax.set_xticks(sorted(table["depth"].unique()))
    ax.set_ylim(0, 1)
    ax.set_xlabel("depth")
    ax.set_ylabel("probability of accepting so many drafts")
    legend(ax, fontsize=8)
    return ax
