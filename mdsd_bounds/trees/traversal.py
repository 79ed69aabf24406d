"""Traversal verification of a draft tree, from leaves to the root."""

from __future__ import annotations

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT, mark
from mdsd_bounds.trees.base import Stop, Tree, require_own_drafts


def traversal_stops(tree: Tree, target: Tensor) -> list[Stop]:
    """Traversal verification (Weng et al. 2025, arXiv 2505.12398).

    A node v carries a weight w (1 at the root), a residual distribution r (at first p) and the distribution d of its
    next draft.  Its first child x has weight ``min(1, w r_x / d_x)``.  A node without (remaining) children is accepted
    with its weight; if it is rejected its parent loses it:

        ``S = sum (w r - d)_+,   r <- norm((w r - d)_+),   w <- S / (S + 1 - w),   d <- distribution of the next
        draft``.

    By induction the subtree of v is accepted with probability w exactly and continues with distribution r, whatever the
    order and number of later proposals.  On one path this is block verification.

    Raises
    ------
    InputError
        If drafts below one node were drawn with replacement: paths that share a node cannot be rejected one by one;
        or if all nodes of a level share their drafts.
    """
    require_own_drafts(tree, "traversal")
    sampler = get_sampler(tree.sampler)
    if any(len(drafts) > 1 for drafts in tree.drafts) and sampler.takes == "table":
        raise InputError(f"rule 'traversal' needs sequential draft distributions; sampler {tree.sampler!r} has none")
    if sampler.replacement and any(len(drafts) > 1 for drafts in tree.drafts):
        raise InputError(
            f"rule 'traversal' rejects one child at a time, but {tree.sampler!r} lets children share a node; "
            "draw without replacement"
        )
    found: list[Stop] = []
    rejected = 1.0

    def visit(node: int, weight: float) -> None:
        """Try the subtree of ``node``; what is not accepted in it leaves ``rejected``."""
        nonlocal rejected
        r = target[node]
        if tree.probs_row[node] >= 0:
            q = tree.distributions[tree.probs_row[node]][None]
            drawn = torch.zeros(q.shape, dtype=torch.bool)
            drafts = tree.drafts[node]
            for k, token in enumerate(drafts):
                if token == NO_DRAFT:
                    continue
                d = sampler.conditional(q, drawn, k, len(drafts), **tree.options)[0]
                visit(tree.children[node][token], min(1.0, weight * float(r[token] / d[token])))
                if rejected <= 0:
                    return
                surplus = float((weight * r - d).clamp(min=0.0).sum())
                r = surplus_distribution(weight, r, d)
                below = surplus + 1.0 - weight
                weight = surplus / below if below > 0 else 1.0
                drawn = mark(drawn, torch.tensor([token]))
        accepted = rejected * (1.0 if node == 0 else weight)
        if accepted > 0:
            found.append(Stop(node, accepted, None if tree.ends(node) else r))
        rejected -= accepted

    visit(0, 1.0)
    return found


def surplus_distribution(weight: float, r: Tensor, d: Tensor) -> Tensor:
    """``norm((w r - d)_+)``; r where nothing is left, a branch of probability zero."""
    left = (weight * r - d).clamp(min=0.0)
    mass = float(left.sum())
    return left / mass if mass > 0 else r
