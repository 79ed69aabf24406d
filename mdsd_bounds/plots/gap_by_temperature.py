"""Figure: the paired gap to the bound against the temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.gap_lines import gap_figure
from mdsd_bounds.plots.layout import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gap_by_temperature(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Bound minus acceptance of each verifier, in percentage points, against temperature.

    Parameters
    ----------
    table : DataFrame
        A per-position comparison or its summary.  The largest number of drafts is drawn, unless drafts are the facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (sampler or drafts) and names.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    return gap_figure(table, ax, look, "temperature", "temperature", "drafts")
