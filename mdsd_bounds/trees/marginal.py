"""Drafters that read the text once: one distribution for each position ahead, whatever stands between.

Multi-token prediction heads and block-diffusion drafters state the *marginal* distribution of the token at each of the
next L positions in one pass.  As a draft model that is a distribution of the path's length alone.

**Builders.**  All take such a source as any other; it costs one draft forward pass a tree (:attr:`Tree.draft_passes`)
instead of one a level.  Since the same distribution stands below every node of a level, a tree may also use the *same
drafts* there: :func:`product_tree`, the Cartesian product of the levels, as Medusa's trees are.

**Rules.**  Where every node draws for itself nothing changes: no rule asks how a distribution came about.  Where a
level shares its drafts, rules that decide at one node after the other from the root stay lossless: whether a node is
reached depends on the levels above it, of which its drafts are independent.  Rules that look across nodes are not:
after a sibling's subtree the traversal has seen these very drafts, and the sweep takes the drafts of a layer for
independent.  They raise an error on such trees (:attr:`Tree.shared`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.trees.base import Distributions, Draw, Path, Tree, grow, whole_numbers


class MarginalDraft:
    """A draft model that is one distribution for each position ahead.

    Parameters
    ----------
    probs : Tensor
        ``[L, V]`` float64: row l is the distribution of the token l + 1 positions ahead.

    Raises
    ------
    InputError
        If it is not a matrix of distributions, or a path asks for more than L positions.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, rsd_c, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64))
    >>> tree = rsd_c(draft, sampling(torch.Generator().manual_seed(0)), (2, 1))
    >>> tree.size, tree.draft_passes
    (4, 1)
    """

    #: All positions come from one pass of the drafter.
    one_pass = True

    def __init__(self, probs: Tensor) -> None:
        total = probs.sum(-1) if probs.ndim == 2 and len(probs) else torch.zeros(1)
        if probs.dtype != torch.float64 or bool((probs < 0).any()) or not bool(((total - 1).abs() < 1e-9).all()):
            raise InputError(
                f"marginals of shape {tuple(probs.shape)}, {probs.dtype}: give [L, V] float64 rows that sum to one"
            )
        self.probs = probs

    def __call__(self, paths: Sequence[Path]) -> Tensor:
        """``[B, V]``: the distributions after the paths."""
        longest = max((len(path) for path in paths), default=0)
        if longest >= len(self.probs):
            raise InputError(
                f"the drafter states {len(self.probs)} positions, and the tree asks for position {longest + 1}; "
                "give a shorter tree"
            )
        return self.probs[[len(path) for path in paths]]


def product_tree(
    distributions: Distributions,
    draw: Draw,
    branching: Sequence[int],
    stop: Sequence[int] | frozenset[int] = (),
    *,
    sampler: str = "without_replacement",
    **options: Option,
) -> Tree:
    """The Cartesian product of levels: all nodes of level l - 1 have the same ``branching[l-1]`` drafts below them.

    For a draft whose distributions depend on the path's length alone (:class:`MarginalDraft`).  With the sampler
    ``top_k`` it is the tree of Medusa (Cai et al. 2024, arXiv 2401.10774), up to pruning.

    Raises
    ------
    InputError
        If an entry of the branching vector is not an integer of at least 1, or two nodes of a level have different
        distributions.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, product_tree, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = product_tree(draft, sampling(torch.Generator().manual_seed(0)), (2, 2))
    >>> tree.shared, tree.size, tree.draft_passes
    (True, 6, 1)
    """
    vector = whole_numbers(branching, "branching")
    drafted: dict[int, Path] = {}

    def pick(paths: Sequence[Path], q: Tensor) -> list[Path]:
        depth = len(paths[0])
        if bool((q != q[0]).any()):
            raise InputError("nodes of one level have different distributions: a product tree needs a MarginalDraft")
        if depth not in drafted:
            known: Mapping[str, Option] = options
            drafted[depth] = draw(paths[0], q[0], vector[depth], sampler, known)
        return [drafted[depth]] * len(paths)

    tree = grow(distributions, len(vector), lambda path: vector[len(path)], pick, sampler, options, stop)
    return replace(tree, shared=True)
