"""Figures of continuous states: acceptance against the shift, strips of frames, and cells with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mdsd_bounds.diffusion import gaussian
from mdsd_bounds.diffusion.rank_mixture import best_rank_mixture
from mdsd_bounds.plots.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Rules beneath the optimum: label, colour, dash.
_RULES = (
    ("optimum (any rule)", "#000000", "-"),
    ("best rank mixture", COLOURS[2], "--"),
    ("recursive rejection (D-GRS)", COLOURS[0], "-."),
    ("reflection, one draft", COLOURS[3], ":"),
)


def acceptance_figure(counts: tuple[int, ...] = (2, 4, 8), high: float = 4.0) -> Figure:
    """alpha*_n against delta with the published rules beneath, one panel a number of drafts; below, what they lose."""
    import matplotlib.pyplot as plt

    deltas = np.linspace(0.02, high, 160)
    coarse = np.linspace(0.05, high, 40)
    figure, rows = plt.subplots(
        2, len(counts), figsize=(3.6 * len(counts), 5.6), layout="constrained", sharex=True, sharey="row"
    )
    for column, n in enumerate(counts):
        best = gaussian.optimal_acceptance(deltas, n)
        mixture = np.array([best_rank_mixture(delta, n).acceptance for delta in coarse])
        lines = (
            (deltas, best),
            (coarse, mixture),
            (deltas, gaussian.d_grs(deltas, n)),
            (deltas, gaussian.reflection(deltas)),
        )
        top, bottom = rows[0, column], rows[1, column]
        for (label, colour, dash), (x, y) in zip(_RULES, lines, strict=True):
            top.plot(x, y, dash, color=colour, label=label, linewidth=1.4)
            if label != _RULES[0][0] and "one draft" not in label:
                bottom.plot(x, 100 * (gaussian.optimal_acceptance(x, n) - y), dash, color=colour, linewidth=1.4)
        top.set_title(f"n = {n}")
        bottom.set_xlabel("delta = |m_p - m_q| / s")
    rows[0, 0].set_ylabel("acceptance")
    rows[1, 0].set_ylabel("below the optimum,\npercentage points")
    # The curves fall fastest with few drafts, which leaves room there.
    rows[0, 0].legend(frameon=False, fontsize=8, loc="upper right")
    for ax in rows.ravel():
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(bottom=0.0)
    return figure


def strips_figure(strips: Mapping[str, np.ndarray], title: str, marks: int = 0) -> Figure:
    """One strip of frames a row: ``[frames, d]`` numbers as columns of colour, or ``[frames, h, w]`` pictures.

    ``marks`` draws a line every so many frames.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(strips), 1, figsize=(10.0, 0.9 * len(strips) + 0.9), layout="constrained", squeeze=False
    )
    for (name, video), ax in zip(strips.items(), axes[:, 0], strict=True):
        if video.ndim == 2:
            ax.imshow(video.T, aspect="auto", cmap="RdBu_r", vmin=-2.0, vmax=2.0, interpolation="nearest")
        else:
            ax.imshow(np.concatenate(list(video), axis=1), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        if marks and video.ndim == 2:
            for place in range(marks, len(video), marks):
                ax.axvline(place - 0.5, color="#000000", linewidth=0.4, alpha=0.5)
        ax.set_yticks([])
        ax.set_xticks([])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def world_strips(videos: Mapping[str, Tensor]) -> Figure:
    """Figure: the first video of each method, lines between disjoint windows."""
    import matplotlib

    matplotlib.use("Agg")

    strips = {name: video[0].numpy() for name, video in videos.items()}
    return strips_figure(strips, "First video of each method: 64 frames of 8 numbers, lines every 16 frames", 16)
