"""Figure: evidence against the rule as a log grows, one line a rule, and the level at which it rejects the null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mdsd_bounds.plots.saving import save_figure
from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, axes, legend, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mdsd_bounds.audit.report import LogReport


def audit_evidence(reports: Mapping[str, tuple[LogReport, bool]], ax: Axes | None = None) -> Axes:
    """Wealth against "the output has distribution p", on a logarithmic scale, over positions.

    Parameters
    ----------
    reports : mapping
        Name -> (report, whether it is drawn in colour as a lossy rule; lossless ones are grey).  A marker stands where
        the wealth first rejects the null.
    """
    ax = axes(ax)
    # Beyond twenty powers of ten more evidence says nothing more.
    top, bottom = 20.0, -3.0
    first = next(iter(reports.values()))[0]
    level = first.tests[0].threshold
    line = -np.log10(level)
    coloured = sound = 0
    for name, (report, lossy) in reports.items():
        height = np.maximum(report.output.running / np.log(10), bottom)
        over = np.flatnonzero(height > top)
        stop = int(over[0]) + 1 if len(over) else len(height)
        height, place = np.minimum(height[:stop], top + 1), np.arange(1, stop + 1)
        if not lossy:
            label = "lossless rules" if sound == 0 and len(reports) > 1 else title(name) if sound == 0 else None
            ax.plot(place, height, color="#888888", linewidth=0.9, label=label, zorder=1)
            sound += 1
            continue
        colour, marker = COLOURS[coloured % len(COLOURS)], MARKERS[coloured % len(MARKERS)]
        dash = DASHES[coloured % len(DASHES)]
        coloured += 1
        at = report.output.crossed(level)
        ax.plot(
            place,
            height,
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=7,
            markevery=[] if at is None else [at],
            linewidth=1.4,
            label=title(name),
        )
    ax.axhline(line, color="#000000", linewidth=0.8, linestyle=(0, (1, 2)))
    ax.annotate(
        f"rejects the null: wealth {1 / level:.3g}",
        (0.0, line),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        ha="left",
        fontsize=8,
    )
    ax.set_xscale("log")
    ax.set_ylim(bottom, top)
    ax.set_xlabel("positions logged")
    ax.set_ylabel("log10 of the wealth")
    ax.set_title(f"Evidence that the output distribution is not p (false-alarm rate {first.alpha:g})")
    legend(ax, fontsize=7)
    return ax


def save_evidence(reports: Mapping[str, tuple[LogReport, bool]], out: str) -> None:
    """Draw :func:`audit_evidence` and save it.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    save_figure(audit_evidence(reports).figure, out)
