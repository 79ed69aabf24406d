"""One function per figure: ``(table, ax=None) -> ax``.  Colours read in colour-blind eyes and in grey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds.problem import InputError
from mdsd_bounds.results import bootstrap_interval

#: Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":"]


def acceptance_by_drafts(table: pd.DataFrame, ax: Any = None) -> Any:
    """Optimal acceptance rate (and verifiers, where compared) against the number of drafts, with 95% intervals.

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
    ax = _axes(ax)
    temperature = table["temperature"].min()
    table = table[table["temperature"] == temperature]
    counts = sorted(table["drafts"].unique())
    lines = _distinct_lines(table)
    for i, (label, part, column, colour, style) in enumerate(lines):
        shift = 2 ** (0.14 * (i - (len(lines) - 1) / 2) / max(len(lines) - 1, 1))
        _line(ax, part, column, label, colour, style, counts, shift)
    ax.set_xscale("log", base=2)
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.minorticks_off()
    ax.set_xlabel("number of drafts n")
    ax.set_ylabel("acceptance rate")
    ax.set_title(f"Optimal acceptance, temperature {temperature:g}, {table['row'].nunique()} positions")
    ax.legend(fontsize=8, loc="lower right")
    return ax


FIGURES: dict[str, Callable[..., Any]] = {"acceptance_by_drafts": acceptance_by_drafts}


def save_figures(table: pd.DataFrame, out: str, figure: str = "all") -> list[str]:
    """Draw the named figure (or all) and save it; returns the files written.

    Raises
    ------
    InputError
        If the figure is unknown or the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if figure != "all" and figure not in FIGURES:
        raise InputError(f"--figure {figure}: choose all or one of {', '.join(FIGURES)}")
    chosen = list(FIGURES) if figure == "all" else [figure]
    path = Path(out)
    written = []
    for name in chosen:
        target = path if len(chosen) == 1 else path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}")
        ax = FIGURES[name](table)
        try:
            ax.figure.savefig(target, dpi=150, bbox_inches="tight")
        except (OSError, ValueError) as error:
            raise InputError(f"{target}: the figure could not be written ({error})") from None
        finally:
            plt.close(ax.figure)
        written.append(str(target))
    return written


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
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
            lines[twin] = (f"{label} = {_title(sampler)}", rows, column, hue, dash)
            continue
        several = (table["verifier"] != "").any()
        lines.append((_title(sampler) + (": bound" if several else ""), bound, "value", colour, 0))
        for style, (verifier, rows) in enumerate(part[part["verifier"] != ""].groupby("verifier", sort=False), 1):
            lines.append((f"{_title(sampler)}: {verifier}", rows, "acceptance", colour, style))
    return lines


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


def _title(name: Any) -> str:
    return str(name).replace("_", " ")
