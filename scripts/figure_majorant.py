"""Draw docs/figures/majorant.png: one real position of the shipped dump and its optimal rule.

python scripts/figure_majorant.py [--row 24] [--drafts 4] [--out docs/figures/majorant.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds.plots.majorant import majorant_figure

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--row", type=int, default=24, help="row of the shipped dump")
    parser.add_argument("--drafts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "majorant.png")
    arguments = parser.parse_args()
    dump = open_dump(ROOT / "data" / "qwen2.5-coder-humaneval")
    (batch,) = dump.batches(len(dump))
    p, q = to_probs(batch.target_logits[arguments.row]), to_probs(batch.draft_logits[arguments.row])
    figure = majorant_figure(p, q, arguments.drafts)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
