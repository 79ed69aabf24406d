"""The figures of ``scripts/studies/chimera.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from chimera_measured import COLUMNS, LOSSES, OTHERS, TEXTS, Measured, names, title

from mdsd_bounds.plots.style import COLOURS, MARKERS, axes, legend, root_of, tidy


def draw_drafts(every: Mapping[str, Measured], file: Path) -> None:
    """alpha*_n with replacement of every draft, against n, on each text."""
    figure, panels = plt.subplots(1, len(every), figsize=(11.5, 4.4), sharey=True, layout="constrained")
    left_out = (*LOSSES, "full", "context", "long", "slowercontext")
    shown = [name for name in names(every["documents"]) if name not in left_out]
    places = np.log2([1, 2, 4])
    for ax, (kind, held) in zip(panels, every.items(), strict=True):
        tidy(ax)
        for i, name in enumerate(shown):
            mean, low, high = held.interval(held.values(name)[:, :3])
            other = name in OTHERS
            shift = 0.04 * (i - (len(shown) - 1) / 2)
            # Drafts that are not trained heads have open markers: colours and shapes come round again.
            ax.errorbar(
                places + shift, mean, [mean - low, high - mean], marker=MARKERS[i % 8], color=COLOURS[i % 8],
                linestyle="--" if other else "-", markerfacecolor="white" if other else None, capsize=2, elinewidth=0.8,
                linewidth=1.2, label=title(name),
            )  # fmt: skip
        ax.set_xticks(places, ["1", "2", "4"])
        ax.set_title(TEXTS[kind], fontsize=10)
        ax.set_xlabel("drafts n, with replacement")
    panels[0].set_ylabel("mean optimal acceptance rate")
    legend(panels[-1], beside=True)
    figure.suptitle("What each draft lets a verifier accept; bars: 95% intervals over documents", fontsize=10)
    figure.savefig(file, dpi=150, metadata={"Software": None})
    plt.close(figure)


def draw_losses(held: Measured, file: Path) -> None:
    """Paired differences to cross-entropy of heads that went on with another loss."""
    ax = axes(None)
    base = held.values("ce")
    shown = [name for name in list(LOSSES)[1:] if held.seeds(name)]
    for i, name in enumerate(shown):
        mean, low, high = held.interval(100 * (held.values(name) - base))
        places = np.arange(len(COLUMNS)) + 0.15 * (i - (len(shown) - 1) / 2)
        bars = np.stack([mean - low, high - mean])
        ax.errorbar(places, mean, bars, fmt="o", capsize=3, color=COLOURS[i], label=title(name))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(range(len(COLUMNS)), [f"alpha*_{n}\n{kind}" if n > 1 else "alpha*_1" for kind, n in COLUMNS])
    ax.set_title("Training losses against cross-entropy; bars: paired 95% intervals over texts", fontsize=9)
    ax.set_ylabel("percentage points over cross-entropy")
    legend(ax)
    root_of(ax).savefig(file, dpi=150, metadata={"Software": None})
    plt.close(root_of(ax))
