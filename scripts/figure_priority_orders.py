"""Draw docs/figures/priority_orders.png: one real position of the shipped dump, truncated, and its tree of orders.

python scripts/figure_priority_orders.py [--row 24] [--drafts 4] [--top-k 14] [--out docs/figures/priority_orders.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

from mdsd_bounds import open_dump, to_probs
from mdsd_bounds.plots.priority_orders import priority_orders_figure

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--row", type=int, default=24)
    parser.add_argument("--drafts", type=int, default=4)
    parser.add_argument("--top-k", type=int, default=14)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "priority_orders.png")
    arguments = parser.parse_args()
    mpl.use("Agg")
    dump = open_dump(ROOT / "data" / "qwen2.5-coder-humaneval")
    (batch,) = dump.batches(1, start=arguments.row, stop=arguments.row + 1)
    p, q = (to_probs(x, top_k=arguments.top_k)[0] for x in (batch.target_logits, batch.draft_logits))
    priority_orders_figure(p, q, arguments.drafts).savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
