"""Figure: the paired gap to the bound against the number of drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.gap_lines import gap_figure
from mdsd_bounds.plots.layout import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gap_by_drafts(table: pd.DataFrame, ax: Axes | None = None, look: Look | None = None) -> Axes:
    """Bound minus acceptance of each verifier, in percentage points, against the number of drafts.

    The difference is taken at every position before it is averaged, so its interval is much narrower than those of the
    two levels.

    Parameters
    ----------
    table : DataFrame
        A per-position comparison or its summary.  Of several temperatures the lowest is drawn, unless they are the
        facet.
    ax : matplotlib Axes, optional
        Drawn on a new figure if not given.
    look : Look, optional
        Size, facet (sampler or temperature) and names.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    return gap_figure(table, ax, look, "drafts", "number of drafts n", "temperature", log=True)
