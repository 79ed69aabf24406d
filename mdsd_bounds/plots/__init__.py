"""Figures of per-position tables.  One figure per file, ``(table, ax=None) -> ax``, and one line in :data:`FIGURES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds.plots.acceptance_against_bound import acceptance_against_bound
from mdsd_bounds.plots.acceptance_by_drafts import acceptance_by_drafts
from mdsd_bounds.plots.equilibrium import equilibrium
from mdsd_bounds.plots.gap_by_temperature import gap_by_temperature
from mdsd_bounds.plots.sampler_wins import sampler_wins
from mdsd_bounds.plots.subset_curve import subset_curve
from mdsd_bounds.problem import InputError

__all__ = ["FIGURES", "equilibrium", "save_figures", "subset_curve"]

#: Figures of a per-position table, by name.
FIGURES: dict[str, Callable[..., Any]] = {
    "acceptance_by_drafts": acceptance_by_drafts,
    "gap_by_temperature": gap_by_temperature,
    "acceptance_against_bound": acceptance_against_bound,
    "sampler_wins": sampler_wins,
}
#: Those that need a table of mdsd compare.
NEED_VERIFIERS = ("gap_by_temperature", "acceptance_against_bound")


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
    compared = bool((table["verifier"] != "").any())
    chosen = [name for name in FIGURES if compared or name not in NEED_VERIFIERS] if figure == "all" else [figure]
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
