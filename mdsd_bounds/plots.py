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
    for i, (sampler, part) in enumerate(table.groupby("sampler", sort=False)):
        # Each position stands once in the bound, however many verifiers were compared.
        one = part.drop_duplicates(["drafts", "row"])
        _line(ax, one, "value", f"{_title(sampler)}: bound", i, 0, counts)
        for j, (verifier, rows) in enumerate(part[part["verifier"] != ""].groupby("verifier", sort=False)):
            _line(ax, rows, "acceptance", f"{_title(sampler)}: {verifier}", i, j + 1, counts)
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


def _line(ax: Any, part: pd.DataFrame, column: str, label: str, colour: int, style: int, counts: list[int]) -> None:
    centre, low, high = [], [], []
    for n in counts:
        rows = part[part["drafts"] == n]
        interval = bootstrap_interval(rows[[column]].to_numpy(), rows["doc"].to_numpy())
        centre.append(rows[column].mean())
        low.append(interval[0][0])
        high.append(interval[1][0])
    hue = COLOURS[colour % len(COLOURS)]
    ax.plot(
        counts,
        centre,
        color=hue,
        marker=MARKERS[colour % len(MARKERS)],
        linestyle=DASHES[style % len(DASHES)],
        markersize=5,
        linewidth=1.6 if style == 0 else 1.0,
        label=label,
    )
    if style == 0:
        ax.fill_between(counts, low, high, color=hue, alpha=0.12, linewidth=0)


def _title(name: Any) -> str:
    return str(name).replace("_", " ")
