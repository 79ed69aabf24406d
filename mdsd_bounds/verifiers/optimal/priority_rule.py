"""The selection rule that a tree of strict priority orders is: which draft it picks, step by step.

Let top be the highest final position of a draft.  From the root, which holds everything: with the node's coin its own
order picks; otherwise go to the upper part if top lies in it, else to the lower one.  The drafts in the component that
is reached lie at its start or above; the one of the highest priority is picked, and among drafts of one bin each is as
likely as the others.  One uniform number serves all coins: what is left of it is uniform again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from mdsd_bounds._backend.numba_options import STEP
from mdsd_bounds.verifiers.optimal.order_tree import Tree


@dataclass(frozen=True)
class PriorityRule:
    """Places, ranks and coins.

    Attributes
    ----------
    token : ndarray
        ``[k]`` int32: the tokens that can be drafted, ascending; empty where ``item`` is indexed by all tokens.
    item : ndarray
        int32: item of each of these tokens, or of all ``[V]``, -1 where q = 0; empty where every token is an item.
    tree : Tree
        The orders.
    """

    token: np.ndarray
    item: np.ndarray
    tree: Tree

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """Probability ``[T, n]`` that each slot of ``drafts`` is the pick.  O(n N) a row at most."""
        out = np.zeros(drafts.shape)
        _pick_probabilities(drafts.numpy(), self.token, self.item, self.tree, out)
        return torch.from_numpy(out)

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``.  O(n (log k + nodes on the way)) a row; no logarithm, no exponential."""
        uniform = torch.rand(len(drafts), dtype=torch.float64, generator=generator).numpy()
        return torch.from_numpy(_pick_many(drafts.numpy(), uniform, self.token, self.item, self.tree))

    def summary(self) -> str:
        """Size of the tree."""
        orders = int((self.tree.offset >= 0).sum())
        return f"{orders:,} strict priority orders of {len(self.tree.place):,} items, {len(self.tree.rank):,} ranks"


@dataclass(frozen=True)
class PriorityMixture:
    """One of several trees, by a first coin.

    Attributes
    ----------
    chance : ndarray
        ``[K]``: probability of each tree.
    rules : tuple of PriorityRule
        The trees, over the same tokens.
    """

    chance: np.ndarray
    rules: tuple[PriorityRule, ...]

    def pick_distribution(self, drafts: Tensor) -> Tensor:
        """The mean of the trees' ``[T, n]``."""
        parts = zip(self.chance.tolist(), self.rules, strict=True)
        return sum((c * rule.pick_distribution(drafts) for c, rule in parts), torch.zeros(drafts.shape).double())

    def pick(self, drafts: Tensor, generator: torch.Generator | None) -> Tensor:
        """Slot of the pick ``[T]``."""
        chosen = torch.multinomial(torch.from_numpy(self.chance), len(drafts), True, generator=generator)
        slots = torch.zeros(len(drafts), dtype=torch.int64)
        for k, rule in enumerate(self.rules):
            some = (chosen == k).nonzero()[:, 0]
            slots[some] = rule.pick(drafts[some], generator)
        return slots

    def summary(self) -> str:
        """Number of trees, and their sizes."""
        parts = zip(self.chance.tolist(), self.rules, strict=True)
        return "; ".join(f"with probability {c:.3g} {rule.summary()}" for c, rule in parts)


@njit(**STEP)
def _find_places(drafts, token, item, place, found):  # type: ignore[no-untyped-def]
    """Final position of each draft, -1 for empty slots and tokens that cannot be drafted; returns the highest."""
    top = -1
    for slot in range(len(drafts)):
        x, found[slot] = drafts[slot], -1
        if x >= 0 and len(token):
            i = np.searchsorted(token, x)
            x = i if i < len(token) and token[i] == x else -1
        if x >= 0 and len(item):
            x = item[x]
        if x >= 0:
            found[slot] = place[x]
        top = max(top, found[slot])
    return top


@njit(**STEP)
def highest(found, tree, node):  # type: ignore[no-untyped-def]
    """Best rank among the drafts in the node's component, and how many have it."""
    best, count = -1, 0
    for position in found:
        if position >= tree.start[node]:
            rank = tree.rank[tree.offset[node] + position - tree.start[node]]
            if rank > best:
                best, count = rank, 1
            elif rank == best:
                count += 1
    return best, count


@njit(**STEP)
def pick_one(found, top, u, tree):  # type: ignore[no-untyped-def]
    """Slot of the pick for drafts at these positions, from one uniform number u."""
    node = 0
    while tree.cut[node] >= 0 and u >= tree.coin[node]:
        u = (u - tree.coin[node]) / (1.0 - tree.coin[node])
        node = tree.lower[node] + (top >= tree.cut[node])
    best, count = highest(found, tree, node)
    skip = min(int(u / tree.coin[node] * count), count - 1)
    for slot in range(len(found)):
        position = found[slot]
        if position >= tree.start[node] and tree.rank[tree.offset[node] + position - tree.start[node]] == best:
            if skip == 0:
                return slot
            skip -= 1
    return 0


@njit(cache=True, nogil=True)
def _pick_many(drafts, uniform, token, item, tree):  # type: ignore[no-untyped-def]
    """Slots ``[T]`` for drafts ``[T, n]``."""
    slots, found = np.zeros(len(drafts), np.int64), np.empty(drafts.shape[1], np.int64)
    for row in range(len(drafts)):
        top = _find_places(drafts[row], token, item, tree.place, found)
        if top >= 0:
            slots[row] = pick_one(found, top, uniform[row], tree)
    return slots


@njit(cache=True, nogil=True)
def _pick_probabilities(drafts, token, item, tree, out):  # type: ignore[no-untyped-def]
    """Add the probability of each slot to ``out`` ``[T, n]``."""
    found = np.empty(drafts.shape[1], np.int64)
    for row in range(len(drafts)):
        top = _find_places(drafts[row], token, item, tree.place, found)
        node, left = 0, 1.0 if top >= 0 else 0.0
        while left > 0.0:
            if tree.coin[node] > 0.0:
                best, count = highest(found, tree, node)
                for slot in range(len(found)):
                    place = found[slot]
                    if place >= tree.start[node] and tree.rank[tree.offset[node] + place - tree.start[node]] == best:
                        out[row, slot] += left * tree.coin[node] / count
            if tree.cut[node] < 0:
                break
            left *= 1.0 - tree.coin[node]
            node = tree.lower[node] + (top >= tree.cut[node])
