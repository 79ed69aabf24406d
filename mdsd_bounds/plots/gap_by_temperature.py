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

    Parameters and errors as :func:`mdsd_bounds.plots.gap_by_drafts`, with temperature and drafts in each other's place:
    the largest number of drafts is drawn, unless drafts are the facet.
    """
    return gap_figure(table, ax, look, "temperature", "temperature", "drafts")
