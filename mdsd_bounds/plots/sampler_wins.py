"""Figure: sampler wins."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.style import COLOURS, axes, title


def sampler_wins(table: pd.DataFrame, ax: Any = None) -> Any:
    """Share of positions on which each sampler has the highest bound (ties within 1e-9 are shared), against n."""
    ax = axes(ax)
    temperature = min(table["temperature"])
    part = table[table["temperature"] == temperature].drop_duplicates(["sampler", "drafts", "row"])
    wide = part.pivot_table(index=["drafts", "row"], columns="sampler", values="value")
    best = wide.ge(wide.max(axis=1) - 1e-9, axis=0)
    share = best.div(best.sum(axis=1), axis=0).groupby("drafts").mean()[list(dict.fromkeys(part["sampler"]))]
    bottom = 0.0
    places = range(len(share))
    for i, name in enumerate(share.columns):
        # Hatching tells the bars apart where colour cannot.
        ax.bar(
            places,
            share[name],
            bottom=bottom,
            color=COLOURS[i % len(COLOURS)],
            hatch=["", "//", "..", "xx", "\\\\", "++"][i % 6],
            edgecolor="white",
            linewidth=0.5,
            label=title(name),
        )
        bottom = bottom + share[name].to_numpy()
    ax.set_xticks(list(places), [str(n) for n in share.index])
    ax.set_xlabel("number of drafts n")
    ax.set_ylabel("share of positions")
    ax.set_title(f"Sampler with the highest bound, temperature {temperature:g}")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
