"""Figure: which sampler has the highest bound, position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from mdsd_bounds.plots.layout import Frame, Look, Series, compose
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Bounds closer than this are a tie: certified to 1e-8, they cannot be told apart further.
_TIE = 2e-8
_HATCHES: dict[Any, str] = {"-": "", "--": "////", "-.": "....", ":": "xxxx"}


def sampler_wins(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Share of positions on which one sampler alone has the highest bound, against n; ties are a bar of their own.

    With one draft, for example, with_replacement, without_replacement and greedy are the same distribution or tie.

    Parameters
    ----------
    table : DataFrame
        A per-position table of two or more samplers.  Of several temperatures the lowest is drawn, unless they are the
        facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (temperature) and names.

    Raises
    ------
    InputError
        If the table holds one sampler only.
    """
    if table["sampler"].nunique() < 2:
        raise InputError("figure sampler_wins: the table holds one sampler; run mdsd bounds with several (--sampler)")
    part = table.drop_duplicates(["temperature", "sampler", "drafts", "row"]).assign(verifier="")
    frame = Frame(
        "sampler_wins", _panel, "Sampler with the highest bound", "number of drafts n", "share of positions",
        by="sampler", axis="drafts", facets=("temperature",),
        note="A tie: the highest bounds cannot be told apart.",
    )  # fmt: skip
    return compose(frame, part, ax, look)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of positions by number of drafts (rows) that each sampler (columns) wins alone, and ``""`` for ties."""
    names = list(dict.fromkeys(rows["sampler"]))
    wide = rows.pivot_table(index=["drafts", "row"], columns="sampler", values="value")[names].dropna()
    best = wide.ge(wide.max(axis=1) - _TIE, axis=0)
    alone = best.sum(axis=1) == 1
    won = best.mul(alone, axis=0)
    won[""] = ~alone
    return won.groupby("drafts").mean()


def _panel(ax: Axes, series: list[Series], scale: float) -> None:
    share = shares(pd.concat([one.rows for one in series]))
    places = range(len(share))
    bottom = share[""] * 0.0
    drawn = [(one.name, one.label, one.style.colour, _HATCHES.get(one.style.dash, "\\\\")) for one in series]
    for name, label, colour, hatch in [*drawn, ("", "tie", "#DDDDDD", "")]:
        ax.bar(
            places, share[name], bottom=bottom, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5 * scale,
            label=label,
        )  # fmt: skip
        bottom = bottom + share[name]
    ax.set_xticks(list(places), [str(n) for n in share.index])
    ax.set_ylim(0.0, 1.0)
