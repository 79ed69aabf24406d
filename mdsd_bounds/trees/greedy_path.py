"""Greedy multi-path block verification: of K independent paths the best one is verified as a block.

After Thomas and Pal 2026 (arXiv 2602.16961).  At every prefix the tokens are put in the order of p/q.  That orders
whole paths, first difference first, and the path verified is the greatest of the K.  With Lambda the draft's
probability of all paths below a prefix in this order and Q that of the prefix itself, the greatest path runs through
the prefix with probability

    ``(Lambda + Q)^K - Lambda^K``,

so that its next token y, with l(y) the mass of q below y in the order, has the distribution

    ``r(y) = [ (Lambda + Q (l + q)(y))^K - (Lambda + Q l(y))^K ] / [ (Lambda + Q)^K - Lambda^K ]``.

The greatest path is therefore *one* path drawn token by token from r, where r depends on the target along that path
alone, and block verification of it against r is lossless (:func:`mdsd_bounds.trees.verify.block_stops`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Tree


def greatest_path(tree: Tree, target: Tensor) -> tuple[Tree, list[int]]:
    """The greatest path as a chain whose drafts come from r, and the node of the tree behind each of its nodes.

    Parameters
    ----------
    tree : Tree
        K independent paths (:func:`mdsd_bounds.trees.builders.independent_paths`).
    target : Tensor
        ``[N, V]`` float64.

    Raises
    ------
    InputError
        If the tree cannot have been made of independent paths: another number of drafts stands below a node than paths
        run through it.

    Notes
    -----
    O(V log V) for each node of the path.
    """
    count = _paths(tree)
    node, nodes, rows = 0, [0], []
    below, share = 0.0, 1.0  # Lambda and Q over Lambda + Q, which rescaling leaves r unchanged by
    while tree.probs_row[node] >= 0:
        q, p = tree.distributions[tree.probs_row[node]], target[node]
        order = _order(p, q)
        ordered = q[order]
        low = torch.zeros_like(q)
        low[order] = ordered.cumsum(0) - ordered
        r = share * q * _power_sum(below + share * (low + q), below + share * low, count)
        rows.append(r / r.sum())
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        token = max(tree.drafts[node], key=lambda token: int(rank[token]))
        below, share = below + share * float(low[token]), share * float(q[token])
        scale = below + share
        below, share = below / scale, share / scale
        node = tree.children[node][token]
        nodes.append(node)
    length = len(nodes) - 1
    chain = replace(
        tree,
        parents=tuple(range(-1, length)),
        tokens=tuple(tree.tokens[v] for v in nodes),
        depths=tuple(range(length + 1)),
        drafts=(*((tree.tokens[v],) for v in nodes[1:]), ()),
        distributions=torch.stack(rows) if rows else tree.distributions,
        probs_row=(*range(length), -1),
    )
    return chain, nodes


def _order(p: Tensor, q: Tensor) -> Tensor:
    """Tokens in ascending order of p/q, ties by their number; a fixed order, as the rule's distribution needs."""
    ratio = torch.where(q > 0, p / q.clamp(min=torch.finfo(q.dtype).tiny), torch.zeros_like(p))
    return torch.argsort(ratio, stable=True)


def _power_sum(high: Tensor, low: Tensor, count: int) -> Tensor:
    """``(high^K - low^K) / (high - low)`` as a sum of positive terms."""
    total, power = torch.ones_like(high), torch.ones_like(low)
    for _ in range(count - 1):
        power = power * low
        total = total * high + power
    return total


def _paths(tree: Tree) -> int:
    """K, where as many drafts stand below each node as paths run through it."""
    through: Counter[int] = Counter({0: len(tree.drafts[0])})
    for node, children in enumerate(tree.children):
        for token, child in children.items():
            through[child] = tree.drafts[node].count(token)
    one_path = through[0] <= 1
    wrong = [v for v, drafts in enumerate(tree.drafts) if drafts and len(drafts) != through[v]]
    if wrong or (tree.sampler != "with_replacement" and not one_path):
        raise InputError(
            "rule 'greedy_multi_path' verifies the greatest of K independent paths; build the tree with paths KxL, or "
            "use sweep"
        )
    return through[0]
