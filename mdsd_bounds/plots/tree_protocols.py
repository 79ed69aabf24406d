"""Figure: block efficiency of tree families at fixed draft length or at fixed target budget."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.layout import INTERVALS
from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"length": "draft length (levels)", "budget": "target budget (nodes per target forward pass)"}
VALUES = {
    "block_efficiency": "tokens per target forward pass",
    "mbsu": "memory-bound speed-up",
    "speed": "tokens per second",
}


def tree_protocols(table: pd.DataFrame, protocol: str, value: str = "block_efficiency", ax: Axes | None = None) -> Axes:
    """One line a family, with 95% intervals over documents.

    Parameters
    ----------
    table : DataFrame
        Columns family, protocol (``length`` or ``budget``), size, and ``value``, ``{value}_low``, ``{value}_high``.
    protocol, value : str
        What is drawn: keys of :data:`AXES` and :data:`VALUES`.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    """
    ax = axes(ax)
    part = table[table["protocol"] == protocol]
    sizes = sorted(part["size"].unique())
    families = list(dict.fromkeys(part["family"]))
    for i, family in enumerate(families):
        rows = part[part["family"] == family].set_index("size").reindex(sizes).dropna(subset=[value])
        # Sizes stand at equal distances, families a little apart so that intervals do not cover each other.
        place = [sizes.index(size) + 0.09 * (i - (len(families) - 1) / 2) for size in rows.index]
        below, above = rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]
        ax.errorbar(
            place,
            rows[value],
            yerr=[below.clip(lower=0), above.clip(lower=0)],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=5.5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=family,
        )
    ax.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    ax.set_xlabel(AXES[protocol])
    ax.set_ylabel(VALUES[value])
    legend(ax, fontsize=8, title=textwrap.fill(f"Bars: {INTERVALS}", 22), title_fontsize=7)
    return ax
