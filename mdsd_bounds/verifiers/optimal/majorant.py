"""The optimal pick distribution r* in closed form: the concave majorant of the points (P, Q) over prefixes.

Over the prefixes H_k of the p/q order take the points ``(P(H_k), Q(H_k))`` and their least concave majorant.  Then

    ``r*_i = p_i * slope of the majorant over token i``

is the distribution of some selection rule, and ``sum min(p, r*) = alpha*``.  The segments of the majorant are *blocks*:
strict priority between blocks is forced, inside a block there is freedom.  Proof: ``docs/optimal_verifier.md``, section
2.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mdsd_bounds.bounds.search.prefix_scan import prefix_curves
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler


@dataclass(frozen=True)
class Majorant:
    """The points of one position and their least concave majorant.

    Attributes
    ----------
    order : array
        ``[V]``: tokens by p/q ascending (fixed tokens of the sampler first, tokens with q = 0 last).
    target, mass : array
        ``[V + 1]``: P and Q of the prefixes, the empty one first.
    corner : array
        Sizes of the prefixes that are corners of the majorant, the empty prefix and the whole vocabulary included.
    r : array
        ``[V]`` r*, by token.
    """

    order: np.ndarray
    target: np.ndarray
    mass: np.ndarray
    corner: np.ndarray
    r: np.ndarray

    @property
    def slope(self) -> np.ndarray:
        """``r*/p`` of the block between each corner and the next; infinite where the block has no target mass."""
        rise, run = np.diff(self.mass[self.corner]), np.diff(self.target[self.corner])
        held = run > 0
        return np.where(held, rise / np.where(held, run, 1.0), np.inf)


def majorant(p: Tensor, q: Tensor, n: int, sampler: str = "without_replacement", **options: object) -> Majorant:
    """Points, majorant and r* of one position.

    Parameters
    ----------
    p, q : Tensor
        ``[V]`` float64 distributions.
    n : int
        Number of drafts.
    sampler : str
        A sampler whose minimising subset is a prefix.

    Raises
    ------
    InputError
        If the sampler has no prefix order.

    Notes
    -----
    O(V log V) besides the points themselves.  Tokens with p = 0, where the slope is infinite, keep strict priority.
    """
    rule = get_sampler(sampler)
    if rule.split is None:
        raise InputError(f"majorant: the sampler {sampler!r} has no prefix order")
    fixed, random = rule.split(n, **options)
    target, mass, _, order = prefix_curves(p[None], q[None], fixed, [random], rule.replacement)
    points = target[0].numpy(), np.maximum.accumulate(mass[0, 0].numpy())
    corner = _upper_hull(*points)
    tokens = order[0].numpy()
    probs, plain = p.numpy()[tokens], np.diff(points[1])
    r = np.zeros(len(probs))
    for begin, end in itertools.pairwise(corner):
        share, whole = probs[begin:end], points[0][end] - points[0][begin]
        rise = points[1][end] - points[1][begin]
        r[begin:end] = rise * share / share.sum() if whole > 0 else plain[begin:end]
    by_token = np.empty_like(r)
    by_token[tokens] = r
    return Majorant(tokens, *points, corner, by_token)


def _upper_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Places of the corners of the least concave majorant of points with x and y not decreasing.  O(number)."""
    kept: list[int] = []
    for k in range(len(x)):
        if len(kept) > 1 and x[k] == x[kept[-1]] and y[k] == y[kept[-1]]:
            # A token without mass goes to the block before it.
            kept[-1] = k
            continue
        while len(kept) > 1:
            i, j = kept[-2], kept[-1]
            if (y[j] - y[i]) * (x[k] - x[j]) > (y[k] - y[j]) * (x[j] - x[i]):
                break
            kept.pop()
        kept.append(k)
    return np.array(kept)
