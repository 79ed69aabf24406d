"""Dynamic draft trees (EAGLE-2): expand where the draft is confident, keep the most probable nodes.  No randomness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdsd_bounds.samplers.base import NO_DRAFT, top_tokens
from mdsd_bounds.trees.base import Distributions, Path, Tree, grow, whole_numbers


def dynamic_top_k(
    distributions: Distributions, budget: int, top_k: int, length: int, stop: Sequence[int] | frozenset[int] = ()
) -> Tree:
    """The ``budget`` most probable nodes of a beam of ``top_k`` nodes with ``top_k`` children each.

    A node is worth the draft's probability of its path.  Each level expands the ``top_k`` worthiest nodes of the level
    above into their ``top_k`` tokens; at the end the ``budget`` worthiest nodes of all levels stay (shallower first
    among equals, so that parents stay with their children).  Children are the most probable tokens of their
    distribution, deterministic given the prefix: the ``top_k`` draft sampler.
    Source: Li et al. 2024, arXiv 2406.16858 (EAGLE-2), sections 4.1 and 4.2.

    Raises
    ------
    InputError
        If a number is below 1.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, dynamic_top_k
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> dynamic_top_k(draft, 4, 2, 3).paths
    ((), (2,), (1,), (2, 2), (2, 1))
    """
    (budget, top_k, length) = whole_numbers((budget, top_k, length), "budget, top_k, length")
    worth: dict[Path, float] = {(): 1.0}
    held: dict[Path, Tensor] = {}
    ends = frozenset(stop)

    draft_passes = 0
    level: list[Path] = [()]
    for _ in range(length):
        front = sorted(level, key=lambda path: -worth[path])[:top_k]
        if not front:
            break
        q = distributions(front)
        draft_passes = 1 if getattr(distributions, "one_pass", False) else draft_passes + 1
        level = []
        for path, probs, tokens in zip(front, q, top_tokens(q, top_k).tolist(), strict=True):
            held[path] = probs
            for token in tokens:
                if token != NO_DRAFT:
                    child = (*path, token)
                    worth[child] = worth[path] * float(probs[token])
                    if token not in ends:
                        level.append(child)
    order = sorted((path for path in worth if path), key=lambda path: (-worth[path], len(path)))
    kept: dict[Path, list[int]] = {}
    for path in order[:budget]:
        kept.setdefault(path[:-1], []).append(path[-1])

    def again(paths: Sequence[Path]) -> Tensor:
        return torch.stack([held[path] for path in paths])

    tree = grow(
        again,
        length,
        lambda path: len(kept.get(path, ())),
        lambda paths, q: [tuple(kept[path]) for path in paths],
        "top_k",
        stop=ends,
    )
    return _with_passes(tree, draft_passes)


def _with_passes(tree: Tree, draft_passes: int) -> Tree:
    from dataclasses import replace

    return replace(tree, draft_passes=draft_passes)
