"""Figure: acceptance against bound."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, need_verifiers, title


def acceptance_against_bound(table: pd.DataFrame, ax: Any = None) -> Any:
    """Every position as a point: acceptance of each verifier against its bound; the diagonal is optimal."""
    need_verifiers(table, "acceptance_against_bound")
    ax = axes(ax)
    n, temperature = max(table["drafts"]), min(table["temperature"])
    part = table[(table["drafts"] == n) & (table["temperature"] == temperature)]
    for i, ((sampler, verifier), rows) in enumerate(part.groupby(["sampler", "verifier"], sort=False)):
        ax.scatter(
            rows["value"],
            rows["acceptance"],
            s=9,
            alpha=0.6,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linewidths=0,
            label=f"{title(sampler)}: {title(verifier)}",
        )
    ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    ax.set_xlabel("bound (optimal acceptance of the sampler)")
    ax.set_ylabel("acceptance")
    ax.set_title(f"Each position against its bound, n = {n}, temperature {temperature:g}")
    ax.legend(fontsize=7, loc="upper left")
    return ax
