"""Lines with 95% intervals over a few places along x, series set side by side so that their bars stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mdsd_bounds.plots.layout import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def interval_lines(
    ax: Axes, series: Sequence[Series], column: str, scale: float = 1.0, factor: float = 1.0, log: bool = False
) -> list[np.ndarray]:
    """Draw ``factor`` times estimate, low and high of each series against ``column``; returns where each one stands.

    Parameters
    ----------
    ax : matplotlib Axes
        Where.
    series : sequence of Series
        Rows with ``column``, estimate, low and high; an interval of NaN (a single document) is left out.
    column : str
        What stands along x.
    scale, factor : float
        Of lines and markers; of the values.
    log : bool
        Whether x is on a scale of powers of two.
    """
    places = sorted({float(value) for one in series for value in one.rows[column]})
    along = np.log2(places) if log else np.asarray(places)
    # Half of what lies between two places at most, and less where few series need it.
    room = min(0.5, 0.08 * len(series)) * min((b - a for a, b in pairwise(along)), default=1.0)
    stand = []
    for i, one in enumerate(series):
        rows = one.rows.sort_values(column)
        shift = room * ((i + 0.5) / len(series) - 0.5)
        own = rows[column].to_numpy(dtype=float)
        x = own * 2.0**shift if log else own + shift
        y, low, high = (factor * rows[name].to_numpy(dtype=float) for name in ("estimate", "low", "high"))
        bars = np.maximum(np.stack([y - low, high - y]), 0.0) if np.isfinite(low).any() else None
        bold = 1.5 if one.style.marker is None else 1.0
        ax.errorbar(
            x, y, yerr=bars, **one.style.line(4.8 * scale, 1.3 * bold * scale), elinewidth=0.8 * scale,
            capsize=1.8 * scale, markeredgewidth=0.8 * scale, label=one.label, zorder=3 if one.name else 2,
        )  # fmt: skip
        stand.append(x)
    if log:
        ax.set_xscale("log", base=2)
    ax.minorticks_off()
    ax.set_xticks(_few(places), [f"{place:g}" for place in _few(places)])
    return stand


def _few(places: list[float]) -> list[float]:
    """Places that are labelled: all of them, or powers of two where there are many."""
    if len(places) <= 5:
        return places
    powers = [place for place in places if float(np.log2(place)).is_integer()] if min(places) >= 1 else []
    return powers if len(powers) > 1 else places[:: -(-len(places) // 5)]
