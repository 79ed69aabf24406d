"""Figure: acceptance of lossy rules against the total variation of their output, under the line that no rule passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.layout import Frame, Look, Series, compose, require_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Total variations that are drawn, from zero.
MOST = 0.16


def lossy_frontier(
    table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None, registered: Mapping[str, str] | None = None
) -> Axes:
    """Mean acceptance against mean total variation from the target, one line a rule, a panel for each number of drafts.

    The star is the lossless optimum alpha*, the line above it ``min(1, alpha* + TV)``: no rule lies in the grey.

    Parameters
    ----------
    table : DataFrame
        Columns drafts, rule, tv, acceptance and alpha; the points of a rule are joined in the order of tv.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given; one number of drafts only.
    look : Look, optional
        Size.
    registered : mapping, optional
        Rule -> name of the verifier whose style it has; others have one of their own name.

    Raises
    ------
    InputError
        If columns are missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from mdsd_bounds.plots import lossy_frontier
    >>> table = pd.DataFrame({"drafts": [1, 1], "tv": [0.0, 0.1], "acceptance": [0.8, 0.9]})
    >>> ax = lossy_frontier(table.assign(rule="tv_budget", alpha=0.8))
    >>> len(ax.get_lines()) > 0
    True
    """
    require_columns("lossy_frontier", table, ("drafts", "rule", "tv", "acceptance", "alpha"))
    look = look or Look()
    names = registered or {}
    given = table.assign(verifier=[names.get(rule, rule) for rule in table["rule"]])
    frame = Frame(
        "lossy_frontier", _panel, "Acceptance that a lossy rule buys", "mean total variation from the target",
        "mean acceptance rate", facets=("drafts",),
        note="Star: lossless optimum alpha*.  Line: alpha* + TV, above which no rule can lie.",
    )  # fmt: skip
    return compose(frame, given, ax, Look(look.size, "drafts", look.typed))


def _panel(ax: Axes, series: list[Series], scale: float) -> None:
    alpha = float(series[0].rows["alpha"].iloc[0])
    ends = [0.0, min(1 - alpha, MOST), MOST]
    line = [alpha, min(1.0, alpha + MOST), min(1.0, alpha + MOST)]
    ax.fill_between(ends, line, 1.004, color="#000000", alpha=0.07, linewidth=0)
    ax.plot(ends, line, color="#000000", linewidth=1.4 * scale, zorder=2)
    ax.plot([0], [alpha], linestyle="none", color="#000000", marker="*", markersize=10 * scale, zorder=5)
    for one in series:
        rows = one.rows.sort_values("tv")
        ax.plot(rows["tv"], rows["acceptance"], label=str(rows["rule"].iloc[0]), **one.style.line(4.8 * scale, scale))
    ax.set_xlim(-0.005, MOST)
