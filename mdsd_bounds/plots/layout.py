"""Panels, legend and sizes of the figures of comparisons: a figure says what one panel shows, this file the rest.

Facets give one panel to each sampler, temperature or number of drafts.  Verifiers of several samplers are never drawn
in one panel: a colour then says one thing.  The legend stands below the panels and covers nothing; its title says what
is fixed and what the intervals are.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mdsd_bounds.plots.style import BOUND, Style, styles_of, tidy, title
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FACETS", "INTERVALS", "SIZES", "Frame", "Look", "Series", "compose"]

FACETS = ("sampler", "temperature", "drafts")
INTERVALS = "95% interval over documents"
#: Inches that a legend of two lines takes.
_LEGEND = 0.6


@dataclass(frozen=True)
class Size:
    """Width in inches, font size in points, most panels side by side, and whether a title stands above."""

    width: float
    font: float
    across: int
    titled: bool
    panel: float

    @property
    def scale(self) -> float:
        """Of lines and markers."""
        return self.font / 10.0


#: Sizes of a figure.  Paper sizes have no title, which is the caption's work.
SIZES: dict[str, Size] = {
    "screen": Size(8.8, 10.0, 3, True, 3.1),
    "one-column": Size(3.4, 7.0, 2, False, 2.0),
    "two-column": Size(7.0, 8.0, 4, False, 2.2),
}


@dataclass(frozen=True)
class Look:
    """What a caller may choose: ``size`` (:data:`SIZES`), ``facet`` (:data:`FACETS` or None), and ``typed`` names.

    Raises
    ------
    InputError
        If the size or the facet is unknown.

    Examples
    --------
    >>> from mdsd_bounds.plots import Look
    >>> Look(size="one-column", facet="temperature")
    Look(size='one-column', facet='temperature', typed=False)
    """

    size: str = "screen"
    facet: str | None = None
    typed: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"--size {self.size}: choose one of {', '.join(SIZES)}")
        if self.facet is not None and self.facet not in FACETS:
            raise InputError(f"--facet {self.facet}: choose one of {', '.join(FACETS)}")

    def name(self, name: object) -> str:
        """A registry name: as people read it, or as it is typed."""
        return str(name) if self.typed else title(name)


@dataclass(frozen=True)
class Series:
    """One line or group of points of a panel."""

    name: str
    label: str
    style: Style
    rows: pd.DataFrame


@dataclass(frozen=True)
class Frame:
    """What a figure is: its name, what a panel draws, and what stands around the panels.

    ``panel(ax, series, scale)`` draws.  ``axis`` is the column along x; ``by`` is the column that tells series apart
    (the empty verifier is the bound, called ``bound``); ``facets`` are those that make sense.
    """

    name: str
    panel: Callable[[Axes, list[Series], float], None]
    heading: str
    xlabel: str
    ylabel: str
    by: str = "verifier"
    axis: str = ""
    facets: tuple[str, ...] = FACETS
    note: str = ""
    bound: str = "bound (any lossless rule)"
    sharex: bool = True


def compose(frame: Frame, table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Draw a figure; returns its first axes.

    Parameters
    ----------
    frame : Frame
        What is drawn.
    table : DataFrame
        Columns temperature, sampler, drafts, verifier, and what the panel needs.
    ax : matplotlib Axes, optional
        Draw one panel there, with the legend beside it; otherwise on a new figure.
    look : Look, optional
        Size, facet and names.

    Raises
    ------
    InputError
        If the facet makes no sense for this figure, or one panel would have to hold several samplers.
    """
    look = look or Look()
    panels, fixed, together = _panels(frame, table, look)
    note = "  ".join(part for part in (fixed, frame.note) if part)
    if ax is not None:
        if len(panels) > 1:
            named = ", ".join(name for name, _ in panels)
            raise InputError(f"figure {frame.name}: {len(panels)} panels ({named}) do not fit one axes; give no ax")
        frame.panel(ax, _series(frame, panels[0][1], look, table), 1.0)
        ax.set(xlabel=frame.xlabel, ylabel=frame.ylabel, title=_heading(frame, panels, fixed))
        handles, labels = _entries([ax])
        ax.legend(handles, labels, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.02),
                  title=textwrap.fill(frame.note, 28), title_fontsize=7, alignment="left")  # fmt: skip
        return ax
    return _figure(frame, panels, note, look, table, together)


def require_columns(figure: str, table: pd.DataFrame, names: Sequence[str], remedy: str = "") -> None:
    """Refuse a table that lacks columns.

    Raises
    ------
    InputError
        Naming the columns that are missing, then ``remedy``.
    """
    missing = [name for name in names if name not in table]
    if missing:
        raise InputError(f"figure {figure}: lacks {', '.join(missing)}{remedy}")


def _figure(
    frame: Frame,
    panels: list[tuple[str, pd.DataFrame]],
    note: str,
    look: Look,
    table: pd.DataFrame,
    together: int,
) -> Axes:
    """All panels on a new figure, the legend below them."""
    import matplotlib.pyplot as plt

    size = SIZES[look.size]
    across = min(len(panels), size.across)
    if 1 < together <= size.across:
        # Rows and columns are facets.
        across = together
    elif len(panels) == 4 and size.across == 3:
        across = 2
    down = -(-len(panels) // across)
    width = size.width if across > 1 or not size.titled else 0.78 * size.width
    with plt.rc_context({"font.size": size.font, "axes.titlesize": size.font, "axes.linewidth": 0.8 * size.scale}):
        figure, grid = plt.subplots(
            down, across, figsize=(width, size.panel * down + _LEGEND), layout="constrained", squeeze=False,
            sharex=frame.sharex, sharey=True,
        )  # fmt: skip
        shown = list(grid.flat)[: len(panels)]
        for ax in list(grid.flat)[len(panels) :]:
            ax.remove()
        letters = int(width / across * 72 / (0.62 * size.font))
        for k, (ax, (name, rows)) in enumerate(zip(shown, panels, strict=True)):
            tidy(ax)
            frame.panel(ax, _series(frame, rows, look, table), size.scale)
            ax.tick_params(labelsize=0.9 * size.font, labelleft=k % across == 0, labelbottom=k + across >= len(panels))
            if len(panels) > 1:
                ax.set_title(textwrap.fill(name, max(letters - 4, 8)), fontsize=size.font)
            # One label for each column and row, where the panel below or to the left is the last.
            high = int(0.78 * size.panel * 72 / (0.52 * size.font))
            ax.set_xlabel(textwrap.fill(frame.xlabel, max(letters - 4, 8)) if k + across >= len(panels) else "")
            ax.set_ylabel(textwrap.fill(frame.ylabel, high) if k % across == 0 else "")
        if size.titled:
            fixed = note.removesuffix(frame.note).rstrip()
            figure.suptitle(
                textwrap.fill(_heading(frame, panels, fixed), int(width * 72 / (0.68 * size.font))),
                fontsize=1.1 * size.font,
            )
        below(figure, _entries(shown), note if not size.titled else frame.note, 0.9 * size.font)
    first: Axes = shown[0]
    return first


def below(figure: Figure, entries: tuple[list[Artist], list[str]], note: str, font: float) -> None:
    """The legend below all axes, in as many columns as fit; names that are too long for the figure are broken."""
    handles, names = entries
    inches = figure.get_figwidth()
    letters = int(inches * 72 / (0.58 * font))
    labels = [textwrap.fill(name, max(letters - 8, 12)) for name in names]
    options: dict[str, Any] = {
        "loc": "outside lower center", "frameon": False, "fontsize": font, "title": textwrap.fill(note, letters),
        "title_fontsize": 0.95 * font, "handlelength": 3.0, "columnspacing": 1.4,
    }  # fmt: skip
    for columns in range(min(len(labels), 6), 0, -1):
        legend = figure.legend(handles, labels, ncols=columns, **options)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= 0.98 * figure.bbox.width:
            # Panels keep their height however many names stand below them.
            figure.set_figheight(figure.get_figheight() + max(0.0, box.height / figure.dpi - _LEGEND))
            return
        legend.remove()


def _panels(frame: Frame, table: pd.DataFrame, look: Look) -> tuple[list[tuple[str, pd.DataFrame]], str, int]:
    """(title, rows) of each panel; what all of them share, in words; and how many belong in one row, 0 for any."""
    if look.facet is not None and look.facet not in frame.facets:
        raise InputError(
            f"--facet {look.facet}: the figure {frame.name} cannot be split so; choose one of {', '.join(frame.facets)}"
        )
    compared = frame.by == "verifier" and bool((table["verifier"] != "").any())
    facets = [look.facet] if look.facet is not None else []
    fixed = []
    for column, least in (("temperature", True), ("drafts", False)):
        if column == frame.axis or column in facets or column not in table:
            continue
        values = sorted(table[column].unique())
        chosen = values[0] if least else values[-1]
        table = table[table[column] == chosen]
        fixed.append(_value(column, chosen, look))
    if compared and "sampler" in table and "sampler" not in facets:
        if table["sampler"].nunique() > 1:
            facets.insert(0, "sampler")
        else:
            fixed.insert(0, look.name(table["sampler"].iloc[0]))
    kept = {
        column: list(dict.fromkeys(table[column])) if column == "sampler" else sorted(table[column].unique())
        for column in facets
    }
    # Of two facets the columns are the one with more values that still fit side by side.
    across = SIZES[look.size].across
    order = sorted(kept, key=lambda column: len(kept[column]) if len(kept[column]) <= across else 0)
    panels = []
    for cell in itertools.product(*(kept[column] for column in order)):
        part, where = table, dict(zip(order, cell, strict=True))
        for column, value in where.items():
            part = part[part[column] == value]
        if len(part):
            panels.append((", ".join(_value(column, where[column], look) for column in facets), part))
    whole = len(kept) == 2 and len(panels) == len(kept[order[0]]) * len(kept[order[1]])
    return panels, ", ".join(fixed), len(kept[order[1]]) if whole else 0


def _value(column: str, value: object, look: Look) -> str:
    if column == "sampler":
        return look.name(value)
    # Spaces that do not break.
    return {"temperature": "T\u00a0=\u00a0{:g}", "drafts": "n\u00a0=\u00a0{:g}"}[column].format(value)


def _heading(frame: Frame, panels: list[tuple[str, pd.DataFrame]], fixed: str) -> str:
    named = [panels[0][0] if len(panels) == 1 else "", fixed]
    return ": ".join(part for part in (frame.heading, ", ".join(part for part in named if part)) if part)


def _series(frame: Frame, rows: pd.DataFrame, look: Look, table: pd.DataFrame) -> list[Series]:
    """The series of a panel: the bound first, then verifiers or samplers in the order of the table.

    Styles are those of the whole table, so that panels agree.
    """
    if frame.by == "sampler" or not (table["verifier"] != "").any():
        styles = styles_of(table["sampler"], "sampler")
        return [
            Series(str(name), look.name(name), styles[str(name)], part)
            for name, part in rows.groupby("sampler", sort=False)
        ]
    styles = styles_of((name for name in table["verifier"] if name), "verifier")
    found = [
        Series("", frame.bound, BOUND, part) if name == "" else
        Series(str(name), look.name(name), styles[str(name)], part)
        for name, part in rows.groupby("verifier", sort=False)
    ]  # fmt: skip
    return sorted(found, key=lambda series: series.name != "")


def _entries(axes: list[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and labels of all panels, each label once."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
