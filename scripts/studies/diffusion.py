"""What remakes the figures and tables of docs/diffusion.md and docs/syncos.md.

    python scripts/studies/diffusion.py figure|world|speculate [--out docs/results/diffusion]

``figure`` takes seconds, ``world`` and ``speculate`` minutes each on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import torch

from mdsd_bounds.diffusion import tables
from mdsd_bounds.plots.diffusion import acceptance_figure, world_strips

OUT = Path(__file__).parents[2] / "docs" / "results" / "diffusion"
VIDEOS, TRIAL = 120, 2_000


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def figure(out: Path) -> None:
    acceptance_figure().savefig(out / "acceptance.png", dpi=130)


def world(out: Path) -> None:
    table, videos = tables.world_table(VIDEOS, tell=tell)
    table.round(5).to_csv(out / "world.csv", index=False)
    world_strips(videos).savefig(out / "world.png", dpi=130)


def speculate(out: Path) -> None:
    steps = pd.concat([tables.one_step(40, n) for n in (50, 200)])
    steps.round(5).to_csv(out / "one_step.csv", index=False)
    tables.speculation_table(VIDEOS, 50, tell=tell).round(5).to_csv(out / "speculation.csv", index=False)
    tables.same_distribution(TRIAL, 50, tell=tell).round(6).to_csv(out / "same_distribution.csv", index=False)
    more = tables.speculation_table(VIDEOS, 200, ("windows-8",), tell=tell)
    more.round(5).to_csv(out / "speculation_200.csv", index=False)


STAGES = {"figure": figure, "world": world, "speculate": speculate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    STAGES[arguments.stage](arguments.out)


if __name__ == "__main__":
    main()
