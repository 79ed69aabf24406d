"""``mdsd diffusion table|world|speculate``: continuous states."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mdsd_bounds.cli.options import Format, Quiet, Style, numbers_in

diffusion = typer.Typer(help="Several drafts of a diffusion step: the optimum, long videos from windows, speculation.")


@diffusion.command("table")
def table(
    delta: Annotated[str, typer.Option("--delta", help="Shifts |m_p - m_q|/s, comma-separated.")] = "0.25,0.5,1,2,3,4",
    drafts: Annotated[str, typer.Option("--drafts", help="Numbers of drafts, comma-separated.")] = "1,2,4,8",
    format: Style = Format.table,
) -> None:
    """Acceptance of the optimum and of the published rules for Gaussian steps of equal variance."""
    import pandas as pd

    from mdsd_bounds.diffusion import gaussian
    from mdsd_bounds.diffusion.rank_mixture import best_rank_mixture
    from mdsd_bounds.results import render

    rows = []
    for shift in numbers_in(delta, "--delta", float):
        for n in numbers_in(drafts, "--drafts", int):
            best = gaussian.optimal_acceptance(shift, n)
            rows.append(
                {
                    "delta": shift,
                    "n": n,
                    "alpha_star": best,
                    "1 - alpha_star": gaussian.optimal_rejection(shift, n),
                    "d_grs": gaussian.d_grs(shift, n),
                    # The programme is for up to 64 ranks; with more drafts the column stays empty.
                    "rank_mixture": best_rank_mixture(shift, n).acceptance if n <= 64 else float("nan"),
                    "reflection": gaussian.reflection(shift),
                    "joint_ceiling": gaussian.joint_ceiling(shift, n),
                }
            )
    print(render(pd.DataFrame(rows), format.value))
