"""Figures.  One figure per file, and one line here: in :data:`FIGURES` those of per-position tables, which
``mdsd plot`` draws, and in :data:`FURTHER_FIGURES` those of other data.

Figures of tables are ``(table, ax=None, look=None) -> ax``; sizes, facets and legends are the work of
:mod:`mdsd_bounds.plots.layout`, colours and markers of :mod:`mdsd_bounds.plots.style`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mdsd_bounds.plots.acceptance_against_bound import acceptance_against_bound
from mdsd_bounds.plots.acceptance_by_drafts import acceptance_by_drafts
from mdsd_bounds.plots.acceptance_by_position import acceptance_by_position
from mdsd_bounds.plots.audit_evidence import audit_evidence
from mdsd_bounds.plots.equilibrium import equilibrium
from mdsd_bounds.plots.estimates import select
from mdsd_bounds.plots.gap_by_drafts import gap_by_drafts
from mdsd_bounds.plots.gap_by_temperature import gap_by_temperature
from mdsd_bounds.plots.layout import FACETS, SIZES, Look
from mdsd_bounds.plots.lossy_frontier import lossy_frontier
from mdsd_bounds.plots.majorant import majorant_figure
from mdsd_bounds.plots.priority_orders import priority_orders_figure
from mdsd_bounds.plots.sampler_wins import sampler_wins
from mdsd_bounds.plots.saving import kind_of, save_figure
from mdsd_bounds.plots.speed_by_nodes import speed_by_nodes
from mdsd_bounds.plots.style import COLOURS, axes, legend, style_of
from mdsd_bounds.plots.subset_curve import subset_curve
from mdsd_bounds.plots.tree_depths import tree_depths
from mdsd_bounds.plots.tree_protocols import tree_protocols
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FACETS",
    "FIGURES",
    "FURTHER_FIGURES",
    "SIZES",
    "Look",
    "acceptance_by_position",
    "axes",
    "equilibrium",
    "figure_files",
    "legend",
    "lossy_frontier",
    "majorant_figure",
    "priority_orders_figure",
    "save_figure",
    "save_figures",
    "select",
    "speed_by_nodes",
    "style_of",
    "subset_curve",
]

#: Figures of a per-position table, by name.
FIGURES: dict[str, Callable[..., Axes | Figure]] = {
    "acceptance_by_drafts": acceptance_by_drafts,
    "gap_by_drafts": gap_by_drafts,
    "gap_by_temperature": gap_by_temperature,
    "acceptance_against_bound": acceptance_against_bound,
    "sampler_wins": sampler_wins,
}
#: Figures of other data, by name; what each takes is in its docstring.
FURTHER_FIGURES: dict[str, Callable[..., Axes | Figure]] = {
    "speed_by_nodes": speed_by_nodes,
    "acceptance_by_position": acceptance_by_position,
    "lossy_frontier": lossy_frontier,
    "subset_curve": subset_curve,
    "majorant": majorant_figure,
    "priority_orders": priority_orders_figure,
    "equilibrium": equilibrium,
    "audit_evidence": audit_evidence,
    "tree_depths": tree_depths,
    "tree_protocols": tree_protocols,
}
#: Figures of a table that need more than one value of something: (column, where it counts).
_NEED_VERIFIERS = ("gap_by_drafts", "gap_by_temperature", "acceptance_against_bound")


def _suits(name: str, table: pd.DataFrame) -> bool:
    """Whether ``all`` draws a figure: the table holds what it shows, and more than one place along x."""
    if name in _NEED_VERIFIERS and not (table["verifier"] != "").any():
        return False
    if name == "gap_by_temperature":
        return bool(table["temperature"].nunique() > 1)
    return name != "sampler_wins" or bool(table["sampler"].nunique() > 1)


def figure_files(table: pd.DataFrame, out: str, figure: str = "all") -> dict[str, Path]:
    """Figures of a table by name, and the file that each of them goes to.

    Raises
    ------
    InputError
        If the figure is unknown, or no figure can be written under such a name.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.plots import figure_files
    >>> table = run(load_example(), Settings(("greedy",), (1, 2)))
    >>> figure_files(table, "bounds.png", "acceptance_by_drafts")
    {'acceptance_by_drafts': PosixPath('bounds.png')}
    """
    if figure != "all" and figure not in FIGURES:
        raise InputError(f"--figure {figure}: choose all or one of {', '.join(FIGURES)}")
    chosen = [name for name in FIGURES if _suits(name, table)] if figure == "all" else [figure]
    kind_of(out)
    path = Path(out)
    if len(chosen) == 1:
        return {chosen[0]: path}
    return {name: path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}") for name in chosen}


def save_figures(table: pd.DataFrame, out: str, figure: str = "all", look: Look | None = None) -> list[str]:
    """Draw the named figure (or all) and save it; returns the files written.

    Parameters
    ----------
    table : DataFrame
        A per-position table.
    out : str
        PNG, PDF or SVG file; several figures get its name as prefix.
    figure : str
        A name in :data:`FIGURES`, or ``"all"``: those that the table allows.  A facet that one of them cannot have is
        left out there.
    look : Look, optional
        Size, facet and names.

    Raises
    ------
    InputError
        If the figure is unknown, cannot have the facet, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.plots import save_figures
    >>> table = run(load_example(), Settings(("greedy",), (1, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [Path(path).name for path in save_figures(table, f"{folder}/bounds.svg", "acceptance_by_drafts")]
    ['bounds.svg']
    """
    import matplotlib

    matplotlib.use("Agg")
    look = look or Look()
    files = figure_files(table, out, figure)
    for name, file in files.items():
        try:
            drawn = FIGURES[name](table, look=look)
        except InputError:
            if figure != "all" or look.facet is None:
                raise
            drawn = FIGURES[name](table, look=Look(look.size, None, look.typed))
        save_figure(drawn.figure, file, dpi=150 if look.size == "screen" else 300, tight=False)
    return [str(file) for file in files.values()]
