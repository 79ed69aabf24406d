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


def title(name: Any) -> str:
    """A registry name as people read it."""
    return str(name).replace("_", " ")


def need_verifiers(table: pd.DataFrame, name: str) -> None:
    """Refuse a table of bounds alone for a figure that shows verifiers."""
    if not (table["verifier"] != "").any():
        raise InputError(f"figure {name}: the table holds bounds only; make it with mdsd compare --out")
