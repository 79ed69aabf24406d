"""Figure: gap by temperature."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.plots.style import axes, legend, need_verifiers, styles, title


def gap_by_temperature(table: pd.DataFrame, ax: Any = None) -> Any:
    """Bound minus acceptance of each verifier against temperature, at the largest number of drafts all share."""
    need_verifiers(table, "gap_by_temperature")
    ax = axes(ax)
    n = max(table["drafts"])
    part = table[table["drafts"] == n]
    temperatures = sorted(part["temperature"].unique())
    groups = list(part.groupby(["sampler", "verifier"], sort=False))
    # Side by side at each temperature, or bars and markers would cover one another.
    room = min((0.25 * (b - a) for a, b in pairwise(temperatures)), default=1.0)
    drawn = enumerate(zip(groups, styles(pair for pair, _ in groups), strict=True))
    for i, (((sampler, verifier), rows), (colour, marker, dash)) in drawn:
        shift = room * (i + 0.5 - len(groups) / 2) / len(groups)
        means, below, above = [], [], []
        for temperature in temperatures:
            cell = rows[rows["temperature"] == temperature]
            gap = (cell["value"] - cell["acceptance"]).to_numpy()
            low, high = bootstrap_interval(gap[:, None], cell["doc"].to_numpy())
            means.append(float(gap.mean()))
            below.append(max(means[-1] - low[0], 0.0))
            above.append(max(high[0] - means[-1], 0.0))
        ax.errorbar(
            [temperature + shift for temperature in temperatures],
            means,
            yerr=[below, above],
            color=colour,
            marker=marker,
            linestyle=dash,
            linewidth=1.2,
            elinewidth=0.7,
            capsize=2,
            label=f"{title(sampler)}: {title(verifier)}",
        )
    ax.set_xlabel("temperature")
    ax.set_xticks(temperatures, [f"{temperature:g}" for temperature in temperatures])
    ax.set_ylabel("bound minus acceptance")
    ax.set_title(f"What a better verifier could still add, n = {n}")
    ax.axhline(0, color="#999999", linewidth=0.8)
    legend(ax, beside=True, fontsize=7)
    return ax
