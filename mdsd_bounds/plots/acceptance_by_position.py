"""Figure: what an engine accepted at each draft position, and the bound of the same pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdsd_bounds.plots.style import DASHES, MARKERS, axes, legend, style_of, title
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mdsd_bounds.counts import AcceptanceSummary, BesideBound


def acceptance_by_position(
    summary: AcceptanceSummary, beside: Sequence[BesideBound] = (), ax: Axes | None = None
) -> Axes:
    """Conditional and cumulative acceptance by draft position with 95% intervals; bounds as lines with their intervals.

    Parameters
    ----------
    summary : AcceptanceSummary
        From :func:`mdsd_bounds.counts.acceptance`.
    beside : sequence of BesideBound
        Bounds of the same pair, drawn as lines across.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.

    Raises
    ------
    InputError
        If the counts have no positions.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, acceptance, counts
    >>> from mdsd_bounds.plots import acceptance_by_position
    >>> found = acceptance(counts("vLLM", "total", [Unit(1000, 3000, 1900, (800, 600, 500))]))
    >>> ax = acceptance_by_position(found)
    >>> len(ax.get_lines()) > 0
    True
    """
    names = np.array(summary.quantity)
    if not (names == "position").any():
        raise InputError(
            "--figure: the counts have no draft positions; metrics pages of vLLM and its log lines have them"
        )
    ax = axes(ax)
    for place, (name, label) in enumerate(
        (("conditional", "given that all before were accepted"), ("position", "all up to here accepted"))
    ):
        chosen = names == name
        value, low, high = (column[chosen] for column in (summary.value, summary.low, summary.high))
        ax.errorbar(
            summary.position[chosen] + 0.06 * (2 * place - 1),
            value,
            yerr=np.maximum([value - low, high - value], 0.0),
            color=("#000000", "#777777")[place],
            marker=MARKERS[place],
            linestyle=DASHES[place],
            capsize=2,
            elinewidth=0.8,
            label=label,
        )
    for one in beside:
        # The name may go on with its setting: "with_replacement, n = 4".
        style = style_of(one.sampler.split(",")[0], "sampler")
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.dash}
        ax.axhspan(one.bound_low, one.bound_high, color=style.colour, alpha=0.15, linewidth=0)
        ax.axhline(one.bound, linewidth=1.2, **line)
        ax.plot([], [], label=f"bound: {title(one.sampler)}", **line)
    positions = sorted({int(place) for place in summary.position if place})
    if len(positions) <= 20:
        ax.set_xticks(positions)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("draft position")
    ax.set_ylabel("acceptance rate")
    steps = summary.denominator[summary.row("position", 1)]
    ax.set_title(f"{summary.counts.engine}: {steps:,.0f} verification steps")
    legend(ax, fontsize=8, title="Bars: 95% interval", title_fontsize=7)
    return ax
