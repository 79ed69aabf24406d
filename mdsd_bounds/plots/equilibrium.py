"""Figure: equilibrium of a draft sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.layout import require_columns
from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, axes, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def equilibrium(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How often the token of each rank under q is in the minimising subset H*; flat where no sampler does better.

    Parameters
    ----------
    shares : DataFrame
        From :func:`mdsd_bounds.diagnostics.equilibrium`; bars are one standard error over documents.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.diagnostics import equilibrium as shares_in_subset
    >>> from mdsd_bounds.plots import equilibrium
    >>> ax = equilibrium(shares_in_subset(load_example().batches(4), (2,)))
    >>> ax.get_xlabel() != ""
    True
    """
    columns = ("temperature", "drafts", "rank", "share", "stderr")
    require_columns("equilibrium", shares, columns, "; give diagnostics.equilibrium(...)")
    ax = axes(ax)
    temperatures, counts = sorted(shares["temperature"].unique()), sorted(shares["drafts"].unique())
    lines = [(t, n) for t in temperatures for n in counts]
    for i, (temperature, n) in enumerate(lines):
        part = shares[(shares["temperature"] == temperature) & (shares["drafts"] == n)].sort_values("rank")
        # Bars of curves that coincide are set side by side.
        shift = 1.0 + 0.05 * (i - (len(lines) - 1) / 2)
        ax.errorbar(
            part["rank"] * shift,
            part["share"],
            yerr=part["stderr"],
            color=COLOURS[temperatures.index(temperature) % len(COLOURS)],
            linestyle=DASHES[counts.index(n) % len(DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            linewidth=1.3,
            elinewidth=0.7,
            capsize=2,
            label=f"T = {temperature:g}, n = {n}",
        )
    ranks = sorted(shares["rank"].unique())
    ax.set_xscale("log", base=2)
    powers = [rank for rank in ranks if rank & (rank - 1) == 0]
    ax.set_xticks(powers, [str(rank) for rank in powers])
    ax.minorticks_off()
    ax.set_ylim(0.0, 1.05)
    ax.set_xlabel("rank of the token under q")
    ax.set_ylabel("share of positions with the token in H*")
    ax.set_title("Equilibrium diagnostic: a level curve is what the best sampler has")
    legend(ax, fontsize=8, title="Bars: one standard\nerror over documents", title_fontsize=7)
    return ax
