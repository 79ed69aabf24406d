"""Cells: what every test of a log looks at in place of 150,000 tokens.

At each position the tokens are sorted into :data:`CELLS` cells by ``q/p`` (does the draft like the token more than the
target does?) and by p.  A cell's mass under p is known before the output is: if the output has distribution p, its cell
has these masses.  The cells of a position never depend on the drafts that were drawn nor on the output, and so a test
may choose its bets, its pooling and its alternatives from them.

Tokens alike in q/p and in p share a cell.  A second sorting tells them apart: :data:`PLACES` intervals of the
cumulative distribution, tokens in the order of their ids.  A source of random numbers that favours one end favours some
of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Edges of log2(q/p) and of p.
_RATIO_EDGES = np.array([-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
_LEVEL_EDGES = np.array([1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.9])
RATIOS, LEVELS = len(_RATIO_EDGES) + 1, len(_LEVEL_EDGES) + 1
#: The last cell holds the tokens with p = 0.
IMPOSSIBLE = RATIOS * LEVELS
CELLS = IMPOSSIBLE + 1

#: Of each cell: its step of q/p and of p (the impossible cell stands at the end of both orders it belongs to).
RATIO_OF = np.append(np.repeat(np.arange(RATIOS), LEVELS), RATIOS)
LEVEL_OF = np.append(np.tile(np.arange(LEVELS), RATIOS), LEVELS)

#: Intervals of the cumulative distribution over the tokens in the order of their ids, and scores in [-1, 1] of them.
PLACES = 8
PLACE_SCORE: Floats = np.linspace(-1.0, 1.0, PLACES)

_CENTRES = 2.0 ** np.array([-5.0, -3.5, -2.5, -1.5, -0.75, -0.25, 0.25, 0.75, 1.5, 3.0])
#: Scores in [-1, 1], one for each cell.  (q - p)/(q + p) is the best bet on a small drift of p towards q.
SCORES: dict[str, Floats] = {
    "draft's tokens": np.append(np.repeat((_CENTRES - 1) / (_CENTRES + 1), LEVELS), 1.0),
    "tokens with q > p": np.append(np.repeat(np.where(_CENTRES > 1, 1.0, -1.0), LEVELS), 1.0),
    "probable tokens": np.append(np.tile(np.linspace(-1.0, 1.0, LEVELS), RATIOS), -1.0),
}


def cells_of(p: Floats, q: Floats) -> Ints:
    """Cell of every token, same shape as p; without q (all zeros or p itself) only p tells cells apart."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(q) - np.log2(p)
    place = np.digitize(ratio, _RATIO_EDGES) * LEVELS + np.digitize(p, _LEVEL_EDGES)
    return np.where(p > 0, place, IMPOSSIBLE)


def places_of(p: Floats) -> Ints:
    """Interval of the cumulative distribution in which the middle of every token's share lies, same shape as p."""
    middle = np.cumsum(p, axis=1) - p / 2
    return np.clip((middle * PLACES).astype(np.int64), 0, PLACES - 1)


def cell_masses(cells: Ints, probs: Floats, count: int = CELLS) -> Floats:
    """Mass ``[B, count]`` that distributions ``[B, K]`` give to the cells ``[B, K]``."""
    rows = len(cells)
    flat = (cells + count * np.arange(rows)[:, None]).ravel()
    sums: Floats = np.bincount(flat, weights=probs.ravel(), minlength=rows * count).astype(np.float64)
    return sums.reshape((rows, count))
