"""Which drafts are revealed together: fixed by the shape of the tree and by what has been revealed, by nothing else.

A plan that looked at a draft before it is revealed would not be lossless.  So the sizes of groups come from
:attr:`Tree.groups`, which a builder writes from the planned shape: where drawn subtrees were cut short by a stop token
or by a distribution with few tokens, the plan is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT, Sampler, fixed_mask
from mdsd_bounds.trees.base import Tree, require_own_drafts
from mdsd_bounds.trees.sweep.layer import Drafting

#: Tokens in the support of a node up to which three and more drafts without replacement are revealed together.
_MOST_TOGETHER = 128


def require_sweep(tree: Tree) -> Sampler:
    """The sampler of a tree on which the sweep is lossless.

    Raises
    ------
    InputError
        If the tree is a stochastic beam, its levels share their drafts, or its sampler is not of the fixed-plus-random
        family.
    """
    require_own_drafts(tree, "sweep")
    sampler = get_sampler(tree.sampler)
    if tree.adaptive:
        raise InputError(
            "rule 'sweep' reveals the drafts of a layer together, but in a stochastic beam how many stand below a node "
            "depends on them; use recursive, or draw an RSD-C tree"
        )
    if sampler.split is None:
        raise InputError(
            f"rule 'sweep' needs draws from one distribution below a node; sampler {tree.sampler!r} has none: "
            "use with_replacement, without_replacement, top_k, greedy or top_m_plus"
        )
    return sampler


def groups_below(tree: Tree, node: int, sampler: Sampler) -> tuple[int, ...]:
    """Sizes of the groups of drafts below a node, in draw order.

    Fixed tokens come one by one: their distribution is one-hot, and nothing is lost.  The random drafts that follow
    come together as far as their planned subtrees are equal; without replacement from a wide support two at a time.
    """
    count = len(tree.drafts[node])
    planned = tree.groups[node] if tree.groups else (count,)
    fixed, _ = sampler.splits([count], tree.options, "rule 'sweep'")[0]
    sizes: list[int] = [1] * fixed
    at_once = count
    if count > 2 and not sampler.replacement:
        support = int((tree.distributions[tree.probs_row[node]] > 0).sum())
        at_once = count if support <= _MOST_TOGETHER else 2
    done = 0
    for size in planned:
        rest = min(size, done + size - fixed)
        done += size
        if rest > 0:
            sizes.extend([at_once] * (rest // at_once) + [rest % at_once] * (rest % at_once > 0))
    return tuple(sizes)


def layer_steps(
    tree: Tree, nodes: Sequence[int], sampler: Sampler, *, merged: bool
) -> Iterator[list[tuple[int, int, int]]]:
    """Steps of a layer: lists of (node, first draft, end), slots of :attr:`Tree.drafts`.

    ``merged``: the k-th groups of all nodes together; otherwise one node after the other, in the order given.
    """
    spans = {}
    for node in nodes:
        ends = list(accumulate(groups_below(tree, node, sampler)))
        spans[node] = [(node, begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    if not merged:
        for node in nodes:
            yield from ([span] for span in spans[node])
        return
    for k in range(max(map(len, spans.values()), default=0)):
        yield [spans[node][k] for node in nodes if k < len(spans[node])]


def drafting(tree: Tree, node: int, begin: int, end: int, sampler: Sampler) -> Drafting | None:
    """How the drafts ``begin`` to ``end`` of a node are drawn, given those before; None if nothing is left to draw."""
    q = tree.distributions[tree.probs_row[node]]
    fixed, _ = sampler.splits([len(tree.drafts[node])], tree.options, "rule 'sweep'")[0]
    if begin < fixed:
        token = tree.drafts[node][begin]
        return None if token == NO_DRAFT else Drafting(np.array([token]), np.ones(1), 1, True)
    rates = q.numpy()
    # Of truth values: numpy takes ten times as long to find what is not zero among numbers.
    support = np.flatnonzero(rates > 0.0)
    gone = [] if sampler.replacement else [token for token in tree.drafts[node][:begin] if token != NO_DRAFT]
    if fixed:
        gone += fixed_mask(q[None], fixed)[0].nonzero()[:, 0].tolist()
    if gone:
        support = support[~np.isin(support, gone)]
    if not len(support):
        return None
    draws = end - begin if sampler.replacement else min(end - begin, len(support))
    probs = rates[support]
    return Drafting(support, probs / probs.sum(), draws, sampler.replacement)
