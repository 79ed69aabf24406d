"""Figure: acceptance against bound."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.style import axes, legend, need_verifiers, styles, title


def acceptance_against_bound(table: pd.DataFrame, ax: Any = None) -> Any:
    """Every position as a point: acceptance of each verifier against its bound; the diagonal is optimal."""
    need_verifiers(table, "acceptance_against_bound")
    ax = axes(ax)
    n, temperature = max(table["drafts"]), min(table["temperature"])
    part = table[(table["drafts"] == n) & (table["temperature"] == temperature)]
    groups = list(part.groupby(["sampler", "verifier"], sort=False))
    for ((sampler, verifier), rows), (colour, marker, _) in zip(
        groups, styles(pair for pair, _ in groups), strict=True
    ):
        ax.scatter(
            rows["value"],
            rows["acceptance"],
            s=16,
            alpha=0.6,
            color=colour,
            marker=marker,
            linewidths=0,
            label=f"{title(sampler)}: {title(verifier)}",
        )
    # From a little below the lowest point: on good pairs most of [0, 1] would be empty.
    low = max(0.0, 1.1 * float(min(part["acceptance"].min(), part["value"].min())) - 0.1)
    ax.plot([low, 1], [low, 1], color="#999999", linewidth=0.8)
    ax.set_xlabel("bound (optimal acceptance of the sampler)")
    ax.set_ylabel("acceptance")
    ax.set_title(f"Each position against its bound, n = {n}, temperature {temperature:g}")
    legend(ax, fontsize=7, loc="upper left")
    return ax
