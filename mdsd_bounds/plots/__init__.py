"""Figures of per-position tables.  One figure per file, ``(table, ax=None) -> ax``, and one line in :data:`FIGURES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds.plots.acceptance_against_bound import acceptance_against_bound
from mdsd_bounds.plots.acceptance_by_drafts import acceptance_by_drafts
from mdsd_bounds.plots.acceptance_by_position import acceptance_by_position
from mdsd_bounds.plots.equilibrium import equilibrium
from mdsd_bounds.plots.gap_by_temperature import gap_by_temperature
from mdsd_bounds.plots.sampler_wins import sampler_wins
from mdsd_bounds.plots.saving import kind_of, save_figure
from mdsd_bounds.plots.subset_curve import subset_curve
from mdsd_bounds.problem import InputError

__all__ = ["FIGURES", "acceptance_by_position", "equilibrium", "figure_files", "save_figures", "subset_curve"]

#: Figures of a per-position table, by name.
FIGURES: dict[str, Callable[..., Any]] = {
    "acceptance_by_drafts": acceptance_by_drafts,
    "gap_by_temperature": gap_by_temperature,
    "acceptance_against_bound": acceptance_against_bound,
    "sampler_wins": sampler_wins,
}
#: Those that need a table of mdsd compare.
NEED_VERIFIERS = ("gap_by_temperature", "acceptance_against_bound")


def figure_files(table: pd.DataFrame, out: str, figure: str = "all") -> dict[str, Path]:
    """Figures of a table by name, and the file that each of them goes to.

    Raises
    ------
    InputError
        If the figure is unknown, or no figure can be written under such a name.
    """
    if figure != "all" and figure not in FIGURES:
        raise InputError(f"--figure {figure}: choose all or one of {', '.join(FIGURES)}")
    compared = bool((table["verifier"] != "").any())
    chosen = [name for name in FIGURES if compared or name not in NEED_VERIFIERS] if figure == "all" else [figure]
    kind_of(out)
    path = Path(out)
    if len(chosen) == 1:
        return {chosen[0]: path}
    return {name: path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}") for name in chosen}


def save_figures(table: pd.DataFrame, out: str, figure: str = "all") -> list[str]:
    """Draw the named figure (or all) and save it; returns the files written.

    Raises
    ------
    InputError
        If the figure is unknown or the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    files = figure_files(table, out, figure)
    for name, file in files.items():
        save_figure(FIGURES[name](table).figure, file)
    return [str(file) for file in files.values()]
