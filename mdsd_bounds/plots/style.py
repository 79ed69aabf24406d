"""Colours, markers and axes that every figure shares.  Colours read in colour-blind eyes and in grey."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds.problem import InputError

#: Okabe and Ito's palette, ordered so that neighbours also differ in lightness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":"]


def axes(ax: Any) -> Any:
    """The given axes, or plain new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Any, *, beside: bool = False, **options: Any) -> None:
    """The legend inside the axes, or beside them where asked for or where it would hide what is drawn."""
    number = len(ax.get_legend_handles_labels()[1])
    if number > 8:
        options |= {"ncols": 1 + (number > 24), "fontsize": 7}
        beside = True
    if beside:
        options |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)}
        if len(ax.figure.axes) == 1:
            # Room for it, so that the axes keep their width.
            ax.figure.set_figwidth(max(ax.figure.get_figwidth(), 8.8))
    ax.legend(frameon=False, **options)


def styles(pairs: Any) -> list[tuple[str, str, str]]:
    """(colour, marker, dash) of each (sampler, verifier): the colour says the sampler, marker and dash the verifier."""
    pairs = list(pairs)
    samplers, verifiers = ([*dict.fromkeys(pair[i] for pair in pairs)] for i in (0, 1))
    return [
        (
            COLOURS[samplers.index(sampler) % len(COLOURS)],
            MARKERS[verifiers.index(verifier) % len(MARKERS)],
            DASHES[(verifiers.index(verifier) + verifiers.index(verifier) // len(MARKERS)) % len(DASHES)],
        )
        for sampler, verifier in pairs
    ]


def title(name: Any) -> str:
    """A registry name as people read it."""
    return str(name).replace("_", " ")


def need_verifiers(table: pd.DataFrame, name: str) -> None:
    """Refuse a table of bounds alone for a figure that shows verifiers."""
    if not (table["verifier"] != "").any():
        raise InputError(f"figure {name}: the table holds bounds only; make it with mdsd compare --out")
