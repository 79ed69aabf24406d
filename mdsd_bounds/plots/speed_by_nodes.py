"""Figure: speed of the best tree of each size, with the choice marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.layout import INTERVALS, Frame, Look, Series, compose, require_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("sampler", "verifier", "nodes", "tree", "speed", "speed_ci_low", "speed_ci_high", "choice", "alone", "unit")


def speed_by_nodes(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Tokens per unit of cost against nodes per target forward pass, a panel for each sampler.

    The black line is the best that any rule at single nodes could reach.  A ring marks the fastest rule that exists,
    whose 95% interval is shaded; the grey line is the speed without drafts.  Sizes that are slower than a smaller and
    than a larger one of the same line are left out: they are no choice, only sizes that few trees have (five and seven
    nodes have a chain alone).

    Parameters
    ----------
    table : DataFrame
        From :func:`mdsd_bounds.trees.speed_frontier.speed_by_nodes`; one that lacks its columns is an error.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given; one sampler only.
    look : Look, optional
        Size and names.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.plots import speed_by_nodes
    >>> from mdsd_bounds.trees import costs_from, profiles
    >>> from mdsd_bounds.trees import speed_by_nodes as speeds
    >>> table = run(load_example(), Settings(("with_replacement",), (1, 2), verifiers=("rrs",)))
    >>> found, documents = profiles(table)
    >>> ax = speed_by_nodes(speeds(found, documents, costs_from(0.1, "1:1,8:1.3"), most_nodes=8))
    >>> ax.get_xlabel() != ""
    True
    """
    require_columns("speed_by_nodes", table, _COLUMNS, "; give trees.speed_frontier.speed_by_nodes")
    chosen = table[table["choice"]]
    note = "Grey: no drafts.  Left out: sizes slower than a smaller and a larger one."
    unit = "second" if table["unit"].iloc[0] == "second" else "time of one target forward pass"
    if len(chosen):
        row = chosen.iloc[0]
        name = (look or Look()).name
        note = (
            f"Ring: the choice, drafts {name(row['sampler'])}, verifier {name(row['verifier'])}, tree {row['tree']}.  "
            f"Shaded: its {INTERVALS}.  {note}"
        )
    frame = Frame(
        "speed_by_nodes", _panel, "Speed of the best tree of each size", "nodes per target forward pass",
        f"tokens per {unit}", facets=("sampler",), note=note,
        bound="any rule at single nodes (bound)",
    )  # fmt: skip
    return compose(frame, table, ax, look)


def _without_dents(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows by size those that are faster than every smaller one, or than every larger one."""
    speed = rows["speed"]
    rising = speed > speed.cummax().shift(fill_value=-1.0)
    falling = speed > speed[::-1].cummax().shift(fill_value=-1.0)[::-1]
    return rows[rising | falling]


def _panel(ax: Axes, series: list[Series], scale: float) -> None:
    ax.axhline(series[0].rows["alone"].iloc[0], color="#999999", linewidth=1.0 * scale, zorder=1)
    for one in series:
        rows = _without_dents(one.rows.sort_values("nodes"))
        # A marker every few sizes: the line has one point for each.
        ax.plot(
            rows["nodes"], rows["speed"], markevery=max(1, len(rows) // 8), label=one.label,
            **one.style.line(4.5 * scale, 1.3 * scale), zorder=3 if one.name else 2,
        )  # fmt: skip
        if not rows["choice"].any():
            continue
        row = rows[rows["choice"]].iloc[0]
        if rows["speed_ci_low"].notna().all():
            ax.fill_between(
                rows["nodes"], rows["speed_ci_low"], rows["speed_ci_high"], color=one.style.colour, alpha=0.15,
                linewidth=0,
            )  # fmt: skip
        ax.plot(
            [row["nodes"]], [row["speed"]], linestyle="none", marker="o", markersize=12 * scale, markerfacecolor="none",
            markeredgecolor="#000000", markeredgewidth=1.6 * scale, zorder=6,
        )  # fmt: skip
