"""Figure: acceptance against bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.layout import Frame, Look, Series, compose
from mdsd_bounds.plots.style import need_verifiers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def acceptance_against_bound(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Every position as a point: acceptance of each verifier against its bound; the diagonal is optimal.

    Parameters
    ----------
    table : DataFrame
        A per-position comparison.  The largest number of drafts and the lowest temperature are drawn, unless they are
        the facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet and names.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    need_verifiers(table, "acceptance_against_bound")
    known = table[(table["verifier"] != "") & table["acceptance"].notna()]
    frame = Frame(
        "acceptance_against_bound", _panel, "Each position against its bound",
        "bound (optimal acceptance of the sampler)", "acceptance rate",
        note="One point per position; on the diagonal nothing is left to gain.",
    )  # fmt: skip
    return compose(frame, known, ax, look)


def _panel(ax: Axes, series: list[Series], scale: float) -> None:
    lowest = 1.0
    for one in series:
        style = one.style.line(4.0 * scale)
        ax.plot(
            one.rows["value"], one.rows["acceptance"], linestyle="none", color=style["color"], marker=style["marker"],
            markersize=style["markersize"], markerfacecolor=style["markerfacecolor"], markeredgewidth=0.6 * scale,
            alpha=0.6, label=one.label,
        )  # fmt: skip
        lowest = min(lowest, float(one.rows["acceptance"].min()), float(one.rows["value"].min()))
    # From a little below the lowest point: on good pairs most of [0, 1] would be empty.
    low = max(0.0, 1.1 * lowest - 0.1)
    ax.plot([low, 1], [low, 1], color="#999999", linewidth=0.8 * scale, zorder=1)
