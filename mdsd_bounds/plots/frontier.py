"""Figure: tokens per target call against nodes per call."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend, title

#: Verifier name under which the bound stands.
BEST = "any (alpha*)"


def frontier(table: pd.DataFrame, ax: Any = None) -> Any:
    """The best trees of each size, with 95% intervals over documents.

    Parameters
    ----------
    table : DataFrame
        Columns sampler, verifier, family, nodes, tokens, ci_low, ci_high (:func:`mdsd_bounds.trees.advise.frontier`).
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    for i, (label, part) in enumerate(_lines(table)):
        bound = label.startswith("any rule")
        colour, place = "#000000" if bound else COLOURS[i % 6], part["nodes"].to_numpy()
        ax.plot(
            place,
            part["tokens"],
            color=colour,
            linestyle="--" if bound else "-",
            marker=None if bound else MARKERS[i % len(MARKERS)],
            # Small trees that branch best are chains: an open marker shows both.
            markersize=8 if label == "chain" else 4.5,
            markerfacecolor="none" if label == "chain" else colour,
            linewidth=1.2,
            zorder=4 if label == "chain" else 3,
            label=label,
        )
        if label == "chain" or i == 1:
            ax.fill_between(place, part["ci_low"], part["ci_high"], color=colour, alpha=0.12, linewidth=0)
    ax.set_xlabel("nodes per target call")
    ax.set_ylabel("tokens per target call")
    ax.set_title("Best trees of each size, positions exchangeable")
    legend(ax, beside=True, fontsize=8, title="bands: 95% over documents", title_fontsize=7)
    return ax


def _lines(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Label and frontier: chains, the best published rule of each sampler, and the bound of any rule at the nodes."""
    chains = table["family"] == "chain"
    bound = table["verifier"] == BEST
    lines = [("chain", table[chains & ~bound])]
    for sampler, part in table[~chains & ~bound].groupby("sampler", sort=False):
        lines.append((title(sampler), part))
    lines[1:] = sorted(lines[1:], key=lambda line: -float(line[1]["tokens"].max()))
    lines.append(("any rule at the nodes (bound)", table[bound]))
    return [(label, _rising(part)) for label, part in lines if len(part)]


def _rising(part: pd.DataFrame) -> pd.DataFrame:
    """The best of each size; more nodes than the best tree needs do no harm, so what falls is left out."""
    best = part.sort_values("tokens").drop_duplicates("nodes", keep="last").sort_values("nodes")
    return best[best["tokens"] >= best["tokens"].cummax()]
