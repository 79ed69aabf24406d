"""Chains, independent paths and RSD-C: trees whose numbers of drafts are fixed beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.trees.base import Distributions, Draw, Path, Tree, grow, whole_numbers


def chain(distributions: Distributions, draw: Draw, length: int, stop: Sequence[int] | frozenset[int] = ()) -> Tree:
    """One path of ``length`` drafts (Leviathan et al. 2023; Chen et al. 2023).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = chain(draft, sampling(torch.Generator().manual_seed(0)), 3)
    >>> tree.size, tree.depths
    (3, (0, 1, 2, 3))
    """
    (length,) = whole_numbers((length,), "length")
    return rsd_c(distributions, draw, (1,) * length, stop)


def rsd_c(
    distributions: Distributions,
    draw: Draw,
    branching: Sequence[int],
    stop: Sequence[int] | frozenset[int] = (),
    *,
    sampler: str = "without_replacement",
    **options: Option,
) -> Tree:
    """A constant branching vector: every node at depth l - 1 gets ``branching[l-1]`` drafts.

    RSD-C (Jeon et al. 2024, arXiv 2402.14160) draws them without replacement by Gumbel-Top-k; any other draft sampler
    may be named.  ``sum_l prod_{i<=l} b_i`` nodes at most; fewer where a distribution holds fewer tokens than children.

    Raises
    ------
    InputError
        If an entry of the branching vector is not an integer of at least 1.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, rsd_c, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = rsd_c(draft, sampling(torch.Generator().manual_seed(0)), (2, 1))
    >>> tree.size, tree.depths, tree.sampler
    (4, (0, 1, 1, 2, 2), 'without_replacement')
    """
    vector = whole_numbers(branching, "branching")

    def pick(paths: Sequence[Path], q: Tensor) -> list[Path]:
        return [draw(path, probs, vector[len(path)], sampler, options) for path, probs in zip(paths, q, strict=True)]

    return grow(distributions, len(vector), lambda path: vector[len(path)], pick, sampler, options, stop)


def independent_paths(
    distributions: Distributions, draw: Draw, count: int, length: int, stop: Sequence[int] | frozenset[int] = ()
) -> Tree:
    """``count`` independent paths of ``length`` drafts (SpecTr, Sun et al. 2023, arXiv 2310.15141).

    Paths that agree share nodes: below a node stand as many independent drafts as paths run through it.  The
    distributions are those of separate paths, while the target evaluates each distinct prefix once.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, independent_paths, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = independent_paths(draft, sampling(torch.Generator().manual_seed(0)), 2, 3)
    >>> len(tree.drafts[0]), tree.length
    (2, 3)
    """
    (count,) = whole_numbers((count,), "count")
    (length,) = whole_numbers((length,), "length")
    through: Counter[Path] = Counter({(): count})

    def pick(paths: Sequence[Path], q: Tensor) -> list[Path]:
        chosen = []
        for path, probs in zip(paths, q, strict=True):
            drafts = draw(path, probs, through[path], "with_replacement", {})
            through.update((*path, token) for token in drafts)
            chosen.append(drafts)
        return chosen

    return grow(distributions, length, lambda path: through[path], pick, "with_replacement", stop=stop)


def nodes_of(branching: Sequence[int]) -> int:
    """Nodes of an RSD-C tree, ``sum_l prod_{i<=l} b_i``."""
    total, level = 0, 1
    for entry in whole_numbers(branching, "branching"):
        level *= entry
        total += level
    return total


def branchings(budget: int, length: int | None = None, most: int = 4) -> list[tuple[int, ...]]:
    """Non-increasing branching vectors with exactly ``budget`` nodes (and ``length`` levels), entries up to ``most``.

    Non-increasing, because a second chance is worth most where it is reached most often.
    """
    found: list[tuple[int, ...]] = []

    def extend(vector: tuple[int, ...], level: int, left: int) -> None:
        if left == 0 and (length is None or len(vector) == length):
            found.append(vector)
        for entry in range(min(most, vector[-1] if vector else most), 0, -1):
            if level * entry <= left and (length is None or len(vector) < length):
                extend((*vector, entry), level * entry, left - level * entry)

    extend((), 1, budget)
    return found
