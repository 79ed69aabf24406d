"""Figure: acceptance by drafts."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.plots.style import COLOURS, DASHES, MARKERS, axes, legend, title


def acceptance_by_drafts(table: pd.DataFrame, ax: Any = None) -> Any:
    """Optimal acceptance rate (and verifiers, where compared) against the number of drafts, with 95% intervals.

    Bars are what the sample of documents leaves open.  Where rows are cut (top-k, floored), the mean of their certified
    intervals is a shaded band.

    Parameters
    ----------
    table : DataFrame
        A per-position table.  With several temperatures the lowest is drawn.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes(ax)
    temperature = table["temperature"].min()
    table = table[table["temperature"] == temperature]
    counts = sorted(table["drafts"].unique())
    lines = _distinct_lines(table)
    shaded = False
    for i, (label, part, column, colour, style) in enumerate(lines):
        shift = 2 ** (0.14 * (i - (len(lines) - 1) / 2) / max(len(lines) - 1, 1))
        _line(ax, part, column, label, colour, style, counts, shift)
        shaded = (column == "value" and _band(ax, part, colour, counts, shift)) or shaded
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.set_xlabel("number of drafts n")
    ax.set_ylabel("acceptance rate")
    what = "Acceptance and its bound" if (table["verifier"] != "").any() else "Optimal acceptance"
    ax.set_title(f"{what}, temperature {temperature:g}, {table['row'].nunique()} positions")
    note = "bars: 95% over documents\nshaded: certified interval of truncated rows" if shaded else None
    legend(ax, fontsize=8, loc="lower right", title=note, title_fontsize=7)
    return ax


def _distinct_lines(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str, int, int]]:
    """(label, rows, column, colour, style) of each curve; curves that coincide everywhere share one line and label."""
    lines: list[tuple[str, pd.DataFrame, str, int, int]] = []
    seen: list[pd.Series] = []
    for colour, (sampler, part) in enumerate(table.groupby("sampler", sort=False)):
        # Each position stands once in the bound, however many verifiers were compared.
        bound = part.drop_duplicates(["drafts", "row"]).sort_values(["drafts", "row"])
        values = bound["value"].reset_index(drop=True)
        twin = next((i for i, other in enumerate(seen) if (other - values).abs().max() < 1e-9), None)
        seen.append(values)
        if twin is not None and not (part["verifier"] != "").any():
            label, rows, column, hue, dash = lines[twin]
            lines[twin] = (f"{label} = {title(sampler)}", rows, column, hue, dash)
            continue
        several = (table["verifier"] != "").any()
        lines.append((title(sampler) + (": bound" if several else ""), bound, "value", colour, 0))
        for style, (verifier, rows) in enumerate(part[part["verifier"] != ""].groupby("verifier", sort=False), 1):
            lines.append((f"{title(sampler)}: {title(verifier)}", rows, "acceptance", colour, style))
    return lines


def _band(ax: Any, part: pd.DataFrame, colour: int, counts: list[int], shift: float) -> bool:
    """Shade the mean certified interval where it is wide enough to be seen; says whether it was."""
    means = part.groupby("drafts")[["certified_low", "certified_high"]].mean().reindex(counts).dropna()
    if (means["certified_high"] - means["certified_low"]).max() < 1e-3:
        return False
    hue = COLOURS[colour % len(COLOURS)]
    places = [n * shift for n in means.index]
    ax.fill_between(places, means["certified_low"], means["certified_high"], color=hue, alpha=0.16, linewidth=0)
    for edge in ("certified_low", "certified_high"):
        ax.plot(places, means[edge], color=hue, linewidth=0.6, alpha=0.7)
    return True


def _line(
    ax: Any, part: pd.DataFrame, column: str, label: str, colour: int, style: int, counts: list[int], shift: float
) -> None:
    places, centre, below, above = [], [], [], []
    for n in counts:
        rows = part[part["drafts"] == n]
        if rows.empty:
            continue
        low, high = bootstrap_interval(rows[[column]].to_numpy(), rows["doc"].to_numpy())
        mean = float(rows[column].mean())
        places.append(n * shift)
        centre.append(mean)
        below.append(max(mean - low[0], 0.0))
        above.append(max(high[0] - mean, 0.0))
    ax.errorbar(
        places,
        centre,
        yerr=[below, above],
        color=COLOURS[colour % len(COLOURS)],
        marker=MARKERS[(colour + style) % len(MARKERS)],
        linestyle=DASHES[style % len(DASHES)],
        markersize=5,
        linewidth=1.6 if style == 0 else 1.0,
        elinewidth=0.7,
        capsize=2,
        label=label,
    )
