"""Draw docs/figures/first_screen.png: the bound and the published rules below it, from the summaries of the study.

python scripts/figure_first_screen.py [--results docs/results/study] [--out docs/figures/first_screen.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

from mdsd_bounds.plots.style import BOUND, VERIFIER_STYLES, tidy

ROOT = Path(__file__).parents[1]
DRAFTS = [1, 2, 4, 8]
#: Panel -> its heading, and its published rules as people read them.
PANELS = {
    "with_replacement": (
        "Drafts with replacement",
        {"k_seq": "K-SEQ (SpecTr)", "rrs": "recursive rejection (SpecInfer)"},
    ),
    "without_replacement": (
        "Drafts without replacement",
        {"rrs_without_replacement": "recursive rejection (RSD, Sequoia, EAGLE)"},
    ),
}


def lines(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """Lines at temperature 1 for the numbers of drafts shown."""
    for name, value in {"temperature": 1.0, **where}.items():
        table = table[table[name] == value]
    found = table.set_index("drafts").loc[DRAFTS].reset_index()
    assert list(found["drafts"]) == DRAFTS
    return found


def panel(ax: Any, sampler: str, bounds: pd.DataFrame, rules: pd.DataFrame) -> None:
    """The bound, the published rules of one sampler, and the gap of the best of them with its paired interval."""
    heading, named = PANELS[sampler]
    bound = lines(bounds, sampler=sampler)
    held = {name: lines(rules, sampler=sampler, verifier=name) for name in named}
    best = max(held.values(), key=lambda rows: rows["acceptance"].mean())
    ax.fill_between(DRAFTS, best["acceptance"], bound["mean"], color="#F5D76E", alpha=0.55, linewidth=0)
    label = "bound: no lossless verifier accepts more"
    ax.plot(DRAFTS, bound["mean"], color=BOUND.colour, linewidth=2.2, label=label)
    for name, rows in held.items():
        style = VERIFIER_STYLES[name]
        half = [rows["acceptance"] - rows["ci_low"], rows["ci_high"] - rows["acceptance"]]
        look = style.line(5.5, 1.5) | {"capsize": 2.5, "elinewidth": 0.8, "label": named[name]}
        ax.errorbar(DRAFTS, rows["acceptance"], half, **look)
    gap = best[best["drafts"] == 4].iloc[0]
    ends = gap["acceptance"], gap["acceptance"] + gap["gap"]
    ax.annotate("", (4, ends[0]), (4, ends[1]), arrowprops={"arrowstyle": "<->", "color": "#8A6D00", "linewidth": 1.4})
    ax.annotate(
        f"{100 * gap['gap']:.1f} percentage points left at n = 4\n"
        f"(95% interval {100 * gap['gap_ci_low']:.1f} to {100 * gap['gap_ci_high']:.1f}, paired)",
        (4, ends[1]),
        xytext=(8, 17),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="#6B5500",
    )
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    ax.set_title(heading, fontsize=11)
    ax.set_xscale("log", base=2)
    ax.set_xticks(DRAFTS, [str(n) for n in DRAFTS])
    ax.minorticks_off()
    ax.set_xlabel("number of drafts n")
    tidy(ax)


def figure(results: Path) -> Any:
    """Both panels."""
    bounds, rules = pd.read_csv(results / "bounds.csv"), pd.read_csv(results / "random_drafts.csv")
    drawn, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), sharey=True, layout="constrained")
    for ax, sampler in zip(axes, PANELS, strict=True):
        panel(ax, sampler, bounds, rules)
    axes[0].set_ylabel("acceptance rate")
    axes[0].set_ylim(0.84, 1.025)
    # The room above one is for words: no rate lies there.
    axes[0].set_yticks([0.85, 0.9, 0.95, 1.0])
    positions = int(bounds["positions"].iloc[0])
    drawn.supxlabel(
        f"Qwen2.5-Coder-1.5B drafted by 0.5B, HumanEval, {positions:,} positions, temperature 1. "
        "Bars: 95% interval over documents.",
        fontsize=8.5,
        color="#444444",
    )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results" / "study")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "first_screen.png")
    arguments = parser.parse_args()
    figure(arguments.results).savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
