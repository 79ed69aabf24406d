"""Toy language models over a few tokens, with every continuation in reach, and the exact distributions of verification."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mdsd_bounds.trees.base import Path, Tree
from mdsd_bounds.trees.verify import Stop


def toy(seed: int, size: int = 3, zeros: bool = False, sharp: float = 1.0) -> Callable[[Sequence[Path]], Tensor]:
    """A distribution for every path, drawn once; with ``zeros`` about a third of the entries are zero (never all)."""
    memory: dict[Path, Tensor] = {}

    def probs(path: Path) -> Tensor:
        if path not in memory:
            key = seed
            for token in path:
                key = key * 31 + token + 1
            generator = torch.Generator().manual_seed(key)
            weight = torch.rand(size, dtype=torch.float64, generator=generator) ** sharp
            if zeros:
                weight = weight * (torch.rand(size, generator=generator) > 0.35)
                weight[key % size] += 0.1
            memory[path] = weight / weight.sum()
        return memory[path]

    return lambda paths: torch.stack([probs(tuple(path)) for path in paths])


def sequence_distribution(
    distributions: Callable[[Sequence[Path]], Tensor], length: int, stop: frozenset[int] = frozenset()
) -> dict:
    """Probability of every text of ``length`` tokens, or shorter where it ends in a stop token."""
    done: dict[Path, float] = {}
    front: dict[Path, float] = {(): 1.0}
    for _ in range(length):
        following: dict[Path, float] = {}
        for path, weight in front.items():
            for token, value in enumerate(distributions([path])[0].tolist()):
                (done if token in stop else following)[(*path, token)] = weight * value
        front = following
    return done | front


def emitted_distribution(
    trees: Sequence[tuple[Tree, float]],
    target: Callable[[Sequence[Path]], Tensor],
    stops: Callable[[Tree, Tensor], list[Stop]],
    length: int,
    stop: frozenset[int] = frozenset(),
) -> dict:
    """Distribution of the text that verification begins and the target finishes, ``length`` tokens, over all trees."""
    begun: dict[Path, float] = defaultdict(float)
    for tree, chance in trees:
        for way in stops(tree, target(tree.paths)):
            path = tree.paths[way.node]
            if way.probs is None:
                begun[path] += chance * way.probability
                continue
            for token, value in enumerate(way.probs.tolist()):
                begun[(*path, token)] += chance * way.probability * value
    probs: dict[Path, float] = defaultdict(float)
    for path, weight in begun.items():
        if weight == 0.0:
            continue
        rest = {(): 1.0}
        if not (path and path[-1] in stop):
            rest = sequence_distribution(
                lambda paths, p=path: target([(*p, *x) for x in paths]), length - len(path), stop
            )
        for tail, value in rest.items():
            probs[path + tail] += weight * value
    return probs


def worst_difference(found: dict, wanted: dict) -> float:
    return max(abs(found.get(key, 0.0) - wanted.get(key, 0.0)) for key in {*found, *wanted})


def all_paths(size: int, length: int) -> list[Path]:
    return [path for n in range(1, length + 1) for path in itertools.product(range(size), repeat=n)]
