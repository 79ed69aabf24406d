"""What remakes the figures and tables of docs/diffusion.md and docs/syncos.md.

    python scripts/studies/diffusion.py figure|world|speculate|digits [--out docs/results/diffusion]

``figure`` takes seconds, ``world`` and ``speculate`` minutes each on one core, ``digits`` about half an hour, of
which 7 minutes are training; the trained weights are kept beside the tables and read from there the next time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import torch
from safetensors.torch import load, save

from mdsd_bounds.diffusion import tables
from mdsd_bounds.diffusion.digits import CANVAS, Network, method_table, speculation_table, train
from mdsd_bounds.plots.diffusion import acceptance_figure, strips_figure, world_strips

OUT = Path(__file__).parents[2] / "docs" / "results" / "diffusion"
VIDEOS, TRIAL, STEPS = 120, 2_000, 2_500


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


def digits(out: Path) -> None:
    weights = out / "digits.safetensors"
    if weights.exists():
        network = Network().eval()
        network.load_state_dict(load(weights.read_bytes()))
    else:
        begun = time.process_time()
        network = train(STEPS, tell=tell)
        tell(f"trained in {(time.process_time() - begun) / 60.0:.1f} minutes of one core")
        weights.write_bytes(save(network.state_dict()))
    names = ("whole video", "disjoint windows", "Gen-L-Video", "stages 1+3", "SynCoS")
    table, videos = method_table(network, 100, names, tell=tell)
    table.round(5).to_csv(out / "digits.csv", index=False)
    strips = {
        name: ((video[0] + 1.0) / 2.0).reshape(-1, CANVAS, CANVAS).clamp(0.0, 1.0).numpy()
        for name, video in videos.items()
    }
    strips_figure(strips, "First video of each method: 24 frames").savefig(out / "digits.png", dpi=130)
    speculation_table(network, 40, tell=tell).round(5).to_csv(out / "digits_speculation.csv", index=False)


STAGES = {"digits": digits, "figure": figure, "world": world, "speculate": speculate}


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
