"""``mdsd diffusion table|world|speculate``: continuous states."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

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
    from mdsd_bounds.pipeline.conclusions import gaussian_in_words
    from mdsd_bounds.pipeline.rendering import render

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
    found = pd.DataFrame(rows)
    print(render(found, format.value, conclusion=gaussian_in_words(found)))


@diffusion.command("world")
def world(
    method: Annotated[str, typer.Option("--method", help="Methods, comma-separated, or all.")] = "all",
    videos: Annotated[int, typer.Option("--videos", min=2, help="Videos a method.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    out: Annotated[str | None, typer.Option("--out", help="Draw the first video of each method here (PNG).")] = None,
    format: Style = Format.table,
    quiet: Quiet = False,
) -> None:
    """Long videos from windows, SynCoS among them, where every distribution is known: agreement, motion, distance."""
    from mdsd_bounds.diffusion import synchronised, tables
    from mdsd_bounds.pipeline.conclusions import world_in_words
    from mdsd_bounds.pipeline.rendering import render

    names = synchronised.ALL if method == "all" else tuple(name.strip() for name in method.split(","))
    table, found = tables.world_table(videos, names, seed, _teller(quiet))
    if out is not None:
        from mdsd_bounds.plots.diffusion import world_strips

        _save(world_strips(found), out)
    print(render(table, format.value, conclusion=world_in_words(table, videos)))


@diffusion.command("speculate")
def speculate(
    draft: Annotated[
        str, typer.Option("--draft", help="windows-4, windows-8, windows-16, frozen-x0, frozen-drift; several.")
    ] = "windows-8,frozen-x0",
    steps: Annotated[int, typer.Option("--steps", min=2, max=1000, help="Denoising steps.")] = 50,
    videos: Annotated[int, typer.Option("--videos", min=2, help="Videos a cell.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    format: Style = Format.table,
    quiet: Quiet = False,
) -> None:
    """Lossless long videos from cheap drafts: target forward passes and rows of chains and trees, rule by rule."""
    from mdsd_bounds.diffusion import tables
    from mdsd_bounds.pipeline.conclusions import speculation_in_words
    from mdsd_bounds.pipeline.rendering import render

    names = tuple(name.strip() for name in draft.split(","))
    found = tables.speculation_table(videos, steps, names, seed, _teller(quiet))
    print(render(found, format.value, conclusion=speculation_in_words(found)))


def _teller(quiet: bool) -> Callable[[str], None]:
    return lambda text: None if quiet else print(text, file=sys.stderr, flush=True)


def _save(figure: Any, out: str) -> None:
    from mdsd_bounds.problem import InputError

    try:
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise InputError(f"{out}: the figure could not be written ({error})") from None
