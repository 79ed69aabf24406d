"""Sequoia: the tree shape that maximises expected accepted tokens, given how often each child rank is accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Distributions, Draw, Path, Tree, grow, whole_numbers

#: Children of each node by rank, as nested tuples: ``()`` is a leaf, ``((), ())`` a node with two leaves.
Shape = tuple["Shape", ...]


def best_shape(acceptance: Sequence[float], budget: int, depth: int | None = None) -> tuple[Shape, float]:
    """The shape of ``budget`` drafted nodes with the most expected accepted tokens, and that number.

    With a_k the probability that a node's k-th child is the one accepted, a tree is worth
    ``F = sum over nodes of the product of a along the path``; the best of n nodes obeys
    ``F(n, d) = max over n_1 + ... + n_K = n - 1 of sum_k a_k (1 + F(n_k, d - 1))``.
    O(budget^2 K depth).  Source: Chen et al. 2024, arXiv 2402.12374 (Sequoia), section 4.1.

    Parameters
    ----------
    acceptance : sequence of float
        ``[K]`` a_1, a_2, ... in draw order; K is the most children a node may have.
    budget : int
        Nodes, at least 1.  Where K and ``depth`` leave no room for as many, the fullest best tree.
    depth : int or None
        Most levels.

    Raises
    ------
    InputError
        If an acceptance is outside [0, 1], they sum to more than one, or budget or depth is below 1.

    Examples
    --------
    >>> from mdsd_bounds.trees import best_shape
    >>> best_shape((0.6, 0.2), 4)
    (((((),),), ()), 1.376)
    """
    (budget,) = whole_numbers((budget,), "budget")
    levels = budget if depth is None else whole_numbers((depth,), "depth")[0]
    value, shape = planner(acceptance)(budget, levels, 0)
    return shape, value


def planner(acceptance: Sequence[float]) -> Callable[[int, int, int], tuple[float, Shape]]:
    """The dynamic programme itself, ``(nodes, levels, rank) -> (value, shape)``, which remembers what it has solved.

    The best use of at most ``nodes`` nodes for the children ``rank``, ``rank + 1``, ... of a node with ``levels``
    levels below it; rank 0 is a whole tree.  Errors as :func:`best_shape`.
    """
    ranks = tuple(float(a) for a in acceptance)
    if not ranks or any(not 0 <= a <= 1 for a in ranks) or sum(ranks) > 1 + 1e-9:
        raise InputError(f"acceptance={list(ranks)}: give the probability of each child rank, summing to at most 1")

    @cache
    def forest(nodes: int, level: int, rank: int) -> tuple[float, Shape]:
        if nodes == 0 or level == 0 or rank == len(ranks):
            return 0.0, ()
        best: tuple[float, Shape] = (0.0, ())
        for own in range(1, nodes + 1):
            below, shape = forest(own - 1, level - 1, 0)
            beside, siblings = forest(nodes - own, level, rank + 1)
            value = ranks[rank] * (1.0 + below) + beside
            if value > best[0]:
                best = (value, (shape, *siblings))
        return best

    return forest


def size_of(shape: Shape) -> int:
    """Drafted nodes of a shape."""
    return sum(1 + size_of(child) for child in shape)


def depth_of(shape: Shape) -> int:
    """Levels of a shape."""
    return max((1 + depth_of(child) for child in shape), default=0)


def shaped(distributions: Distributions, draw: Draw, shape: Shape, stop: Sequence[int] | frozenset[int] = ()) -> Tree:
    """A tree of the given shape; children are drawn without replacement and the k-th drawn gets the k-th subtree.

    Raises
    ------
    InputError
        If the shape has no nodes.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, best_shape, sampling, shaped
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> shape, accepted = best_shape((0.6, 0.2), 4)
    >>> tree = shaped(draft, sampling(torch.Generator().manual_seed(0)), shape)
    >>> tree.size, tree.length
    (4, 3)
    """
    if not shape:
        raise InputError("shape=(): a tree needs at least one node below the root; give a budget of at least 1")
    place: dict[Path, Shape] = {(): shape}

    def pick(paths: Sequence[Path], q: Tensor) -> list[Path]:
        chosen = []
        for path, probs in zip(paths, q, strict=True):
            drafts = draw(path, probs, len(place[path]), "without_replacement", {})
            place.update({(*path, token): below for token, below in zip(drafts, place[path], strict=True)})
            chosen.append(drafts)
        return chosen

    tree = grow(distributions, depth_of(shape), lambda path: len(place[path]), pick, "without_replacement", stop=stop)
    return replace(tree, groups=tuple(_runs(place[path]) for path in tree.paths))


def _runs(shape: Shape) -> tuple[int, ...]:
    """How many successive children of a shape have equal subtrees."""
    return tuple(len(list(run)) for _, run in groupby(shape))
