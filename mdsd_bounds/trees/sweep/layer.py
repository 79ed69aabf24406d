"""One step of the sweep: the drafts of several nodes are revealed, and each is given a part of the probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.sweep.arrivals import make_arrivals
from mdsd_bounds.trees.sweep.bins import MOST_ITEMS, bin_tokens, token_pick
from mdsd_bounds.trees.sweep.prefixes import Layer
from mdsd_bounds.trees.sweep.search import Components, pick_drafts, solve_layer
from mdsd_bounds.trees.sweep.uniform_pick import marks

#: Acceptance that may be left open in all leaves together, and the slack of one coin (absolute); both where several
#: nodes have many tokens, of which the last digits take a fifth of the time, and where tokens share bins, which lose
#: more than that.
EXACT, CLOSE, BINNED = (1e-10, 1e-12), (1e-5, 1e-8), (1e-6, 1e-8)
#: Tokens of a layer that are few.
_FEW = 64
#: Probabilities from which on all arithmetic here has its digits, and the bits of a gap that is as good as any.
_LEAST, _GAP = 2.0**-800, 80


def _left_open(items: list[int]) -> tuple[float, float]:
    """Tolerance and slack of a layer whose nodes have so many tokens."""
    if max(items) > MOST_ITEMS:
        return BINNED
    return CLOSE if len(items) > 1 and sum(items) > _FEW else EXACT


@dataclass(frozen=True)
class Drafting:
    """The drafts that a step reveals below one node.

    Attributes
    ----------
    token : ndarray
        ``[k]`` int64: the tokens that can be drafted, ascending.
    probs : ndarray
        ``[k]``: their probabilities, all positive, which sum to one.
    draws : int
        Drafts; without replacement no more than k, and at most two where k exceeds
        :data:`~mdsd_bounds.trees.sweep.bins.MOST_ITEMS`.
    replacement : bool
        Whether they are independent.
    """

    token: np.ndarray
    probs: np.ndarray
    draws: int
    replacement: bool

    @property
    def pairs(self) -> bool:
        """Whether these are two draws without replacement."""
        return self.draws == 2 and not self.replacement

    @property
    def many(self) -> bool:
        """Whether these are three or more draws without replacement."""
        return self.draws > 2 and not self.replacement


@dataclass(frozen=True)
class LayerRule:
    """A rule for one step: a pick among all drafts, accepted with ``min(1, t / r)``.

    Attributes
    ----------
    draftings : tuple of Drafting
        One for each of m nodes; the k_v tokens of all nodes stand one after the other below.
    first : ndarray
        ``[m + 1]``: the tokens of node v are ``first[v]`` to ``first[v + 1]``.
    target, pick : ndarray
        ``[sum k_v]``: what may be accepted, t, and the distribution of the pick, r.
    item : ndarray
        ``[sum k_v]``: the item of each token.
    components : Components
        The rule that runs.
    bound : float
        ``1 + min over B of t(B) - Q(B)``: more cannot be accepted by any rule.
    """

    draftings: tuple[Drafting, ...]
    first: np.ndarray
    target: np.ndarray
    pick: np.ndarray
    item: np.ndarray
    components: Components
    bound: float

    @property
    def mean(self) -> np.ndarray:
        """``[sum k_v]``: probability that each token is accepted, ``min(t, r)``."""
        return np.asarray(np.minimum(self.target, self.pick))

    @property
    def gap(self) -> float:
        """What the rule falls short of :attr:`bound`."""
        return self.bound - float(self.mean.sum())

    def accept(self, drafts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Probability that each draft is accepted, given all ``drafts`` below the m nodes; their sum is at most one."""
        counts = [len(below) for below in drafts]
        node = np.repeat(np.arange(len(drafts)), counts)
        place = np.concatenate(
            [
                first + drafting.token.searchsorted(below)
                for first, drafting, below in zip(self.first, self.draftings, drafts, strict=False)
            ]
        )
        chance = pick_drafts(self.components, node, self.components.place[self.item[place]])
        target, pick = self.target[place], self.pick[place]
        # Where r = 0 nothing is ever picked.
        accepted = chance * np.divide(np.minimum(target, pick), pick, out=np.ones_like(pick), where=pick > 0)
        return [accepted[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]


def without_gaps(probs: np.ndarray, draws: int) -> np.ndarray:
    """Probabilities with the same draws without replacement up to 2^-79, of which no draw is left to the least numbers.

    Where all smaller tokens together have less than 2^-80 of one, a draw hardly tells how much less, and the draws
    after that one depend on their ratios alone: they are multiplied by a power of two.  O(k), and O(k log k) where the
    last draw falls on such tokens.

    Parameters
    ----------
    probs : ndarray
        ``[k]``, all positive.
    draws : int
        At most k.

    Examples
    --------
    >>> import numpy as np
    >>> [float(np.log2(x)) for x in without_gaps(np.array([2.0**-1070, 1.0, 2.0**-1068]), 2)]
    [-82.0, 0.0, -80.0]
    """
    if probs.min() >= _LEAST or np.partition(probs, -draws)[-draws] >= _LEAST:
        return probs
    order = np.argsort(-probs, kind="stable")
    sizes = probs[order]
    smaller = np.append(np.cumsum(sizes[:0:-1])[::-1], 0.0)
    lift = np.where(smaller > 0, np.frexp(sizes)[1] - _GAP - np.frexp(smaller)[1], 0).clip(min=0)
    found = np.empty_like(probs)
    found[order] = np.ldexp(sizes, np.append(0, np.cumsum(lift)[:-1]))
    return found


def prepare_layer(draftings: Sequence[Drafting], targets: Sequence[np.ndarray]) -> LayerRule:
    """The rule that accepts the most drafts of a step.

    Parameters
    ----------
    draftings : sequence of Drafting
        One for each of m nodes, independent of each other.
    targets : sequence of ndarray
        ``[k_v]`` each, ``t >= 0``: of no token may more be accepted; the sum of all is at most one.

    Returns
    -------
    LayerRule
        Its ``mean`` sums to :attr:`LayerRule.bound` within 1e-10 where every token is an item (up to
        :data:`~mdsd_bounds.trees.sweep.bins.MOST_ITEMS` a node), within 1e-5 where these are more than 64 of several
        nodes, some 1e-5 less where tokens share bins.  Whatever the search does, ``pick`` is the distribution of the
        rule that runs.

    Raises
    ------
    InputError
        If three or more drafts without replacement are to be revealed at a node with too many tokens.

    Notes
    -----
    O(k log k) for each component, of which there are at most twice as many as items; O(k n T) with three and more draws
    without replacement, T the 55 to 113 nodes of the quadrature.
    """
    draftings = [replace(d, probs=without_gaps(d.probs, d.draws)) if d.pairs or d.many else d for d in draftings]
    parts = [bin_tokens(d.probs, t, d.pairs) for d, t in zip(draftings, targets, strict=True)]
    if any(d.many and len(d.token) > MOST_ITEMS for d in draftings):
        raise InputError(
            f"three and more draws without replacement from more than {MOST_ITEMS} tokens cannot be revealed in one "
            "step; reveal two at a time"
        )
    first_item = np.array([0, *accumulate(len(part.mass) for part in parts)])
    mark, weight = marks(sum(d.draws for d in draftings))
    layer = Layer(
        first_item,
        np.array([d.draws for d in draftings]),
        np.array([d.pairs for d in draftings]),
        np.array([d.many for d in draftings]),
        np.array([at + x.hot if d.pairs else -1 for at, x, d in zip(first_item, parts, draftings, strict=False)]),
        np.concatenate([part.mass for part in parts]),
        np.concatenate([part.odds for part in parts]),
        np.concatenate([part.squares for part in parts]),
        np.concatenate([part.within for part in parts]),
        mark,
        weight,
        make_arrivals([d.probs for d in draftings], [d.draws for d in draftings], [d.many for d in draftings]),
    )
    asked = np.concatenate([part.target for part in parts])
    tolerance, slack = _left_open([len(drafting.token) for drafting in draftings])
    components, coefficient, bound = solve_layer(layer, asked, tolerance, slack)
    item = np.concatenate([start + part.item for start, part in zip(first_item, parts, strict=False)])
    q, odds = np.concatenate([d.probs for d in draftings]), np.concatenate([part.token_odds for part in parts])
    return LayerRule(
        tuple(draftings),
        np.array([0, *accumulate(len(d.token) for d in draftings)]),
        np.concatenate(targets),
        token_pick(coefficient, item, odds, q),
        item,
        components,
        bound,
    )
