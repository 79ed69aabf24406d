"""Every outcome of a random procedure with its probability: how the trees' distributions are shown exactly.

A procedure takes its random choices from a function ``choose(probs) -> index``.  Run once it samples; run by
:func:`outcomes` it is replayed for every sequence of choices of positive probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from mdsd_bounds.problem import Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT
from mdsd_bounds.trees.base import Distributions, Draw, Path, Tree, grow

#: ``probs [K], unnormalised -> index``.
Choose = Callable[[Tensor], int]
Result = TypeVar("Result")


def outcomes(procedure: Callable[[Choose], Result]) -> list[tuple[Result, float]]:
    """All results of ``procedure`` with their probabilities, which sum to one.

    The cost is one run of the procedure for each sequence of choices: for toy models only.
    """
    found: list[tuple[Result, float]] = []
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        begun = waiting.pop()
        made: list[int] = []
        weight = 1.0

        def choose(probs: Tensor, begun: tuple[int, ...] = begun, made: list[int] = made) -> int:
            nonlocal weight
            support = probs.nonzero()[:, 0].tolist()
            place = len(made)
            if place < len(begun):
                pick = begun[place]
            else:
                pick = support[0]
                waiting.extend((*made, other) for other in support[1:])
            made.append(pick)
            weight *= float(probs[pick] / probs.sum())
            return pick

        result = procedure(choose)
        found.append((result, weight))
    return found


def _choosing(choose: Choose) -> Draw:
    """Draw drafts one after the other from the sampler's conditional distributions by ``choose``."""

    def draw(path: Path, q: Tensor, n: int, sampler: str, options: Mapping[str, Option]) -> Path:
        drawn = torch.zeros((1, q.shape[0]), dtype=torch.bool)
        drafts = []
        for k in range(n):
            probs = get_sampler(sampler).conditional(q[None], drawn, k, n, **options)[0]
            token = choose(probs) if float(probs.sum()) > 0 else NO_DRAFT
            drafts.append(token)
            if token != NO_DRAFT:
                drawn[0, token] = True
        return tuple(drafts)

    return draw


def tree_distribution(
    build: Callable[[Distributions, Draw], Tree], distributions: Distributions
) -> list[tuple[Tree, float]]:
    """Every tree that ``build(distributions, draw)`` can make, with its probability."""
    return outcomes(lambda choose: build(distributions, _choosing(choose)))


def branching_trees(
    distributions: Distributions,
    branching: Sequence[int],
    sampler: str = "without_replacement",
    stop: Sequence[int] | frozenset[int] = (),
    *,
    ordered: bool = True,
) -> list[tuple[Tree, float]]:
    """Every RSD-C tree with its probability, as :func:`tree_distribution` finds them, much faster.

    Drafts are enumerated once for each path.  Without ``ordered`` trees that differ in the order of drafts alone are
    one: enough for bounds and for rules that do not look at the order, such as the sweep.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, branching_trees
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> trees = branching_trees(draft, (2,))
    >>> len(trees), round(sum(probability for _, probability in trees), 12)
    (6, 1.0)
    """
    ends = frozenset(stop)

    def below(path: Path) -> list[tuple[dict[Path, Path], float]]:
        """Drafts of all nodes at and below the path, with their probability."""
        if len(path) == len(branching) or (path and path[-1] in ends):
            return [({}, 1.0)]
        q = distributions([path])[0]
        found: dict[Path, float] = {}
        for drafts, chance in outcomes(lambda choose: _choosing(choose)(path, q, branching[len(path)], sampler, {})):
            name = drafts if ordered else tuple(sorted(drafts, reverse=True))
            found[name] = found.get(name, 0.0) + chance
        every: list[tuple[dict[Path, Path], float]] = []
        for drafts, chance in found.items():
            parts: list[tuple[dict[Path, Path], float]] = [({path: drafts}, chance)]
            for token in dict.fromkeys(token for token in drafts if token != NO_DRAFT):
                rest = known((*path, token))
                parts = [(chosen | more, a * b) for chosen, a in parts for more, b in rest]
            every += parts
        return every

    memory: dict[Path, list[tuple[dict[Path, Path], float]]] = {}

    def known(path: Path) -> list[tuple[dict[Path, Path], float]]:
        if path not in memory:
            memory[path] = below(path)
        return memory[path]

    def build(chosen: dict[Path, Path]) -> Tree:
        return grow(
            distributions,
            len(branching),
            lambda path: 1,
            lambda paths, q: [chosen[path] for path in paths],
            sampler,
            stop=ends,
        )

    return [(build(chosen), chance) for chosen, chance in known(())]


def beam_by_arrivals(
    distributions: Distributions, width: int, length: int, choose: Choose, stop: Sequence[int] | frozenset[int] = ()
) -> Tree:
    """RSD-S through its discrete twin: whole sequences arrive one by one, drawn without replacement.

    Give every sequence of ``length`` tokens (shorter where it ends in a stop token) an exponential arrival time of rate
    q(sequence); a prefix arrives with the first of its sequences.  Each level keeps the ``width`` first arrivals among
    the children of the kept nodes above it.  Stochastic beam search does this without visiting the whole tree; here the
    order of arrivals is drawn sequence by sequence, so that it can be enumerated.  O(V^length) per arrival.
    """
    ends = frozenset(stop)
    leaves = _all_sequences(distributions, length, ends)
    names = list(leaves)
    rate = torch.tensor([leaves[name] for name in names], dtype=torch.float64)
    arrived: list[Path] = []
    while True:
        levels = _first_arrivals(arrived, width, length, ends, set(names))
        if levels is not None:
            break
        place = choose(rate)
        arrived.append(names[place])
        rate = rate.clone()
        rate[place] = 0.0
    kept: dict[Path, list[int]] = {}
    for level in levels:
        for path in level:
            kept.setdefault(path[:-1], []).append(path[-1])
    return grow(
        distributions,
        length,
        lambda path: 1,
        lambda paths, q: [tuple(kept.get(path, ())) for path in paths],
        "without_replacement",
        stop=ends,
        adaptive=True,
    )


def _all_sequences(distributions: Distributions, length: int, ends: frozenset[int]) -> dict[Path, float]:
    done: dict[Path, float] = {}
    front: dict[Path, float] = {(): 1.0}
    for _ in range(length):
        following: dict[Path, float] = {}
        for path, weight in front.items():
            for token, value in enumerate(distributions([path])[0].tolist()):
                if value > 0:
                    (done if token in ends else following)[(*path, token)] = weight * value
        front = following
    return done | front


def _first_arrivals(
    arrived: list[Path], width: int, length: int, ends: frozenset[int], names: set[Path]
) -> list[list[Path]] | None:
    """Kept prefixes of each level in order of arrival; None while a level could still change."""
    parents: set[Path] = {()}
    levels = []
    for depth in range(1, length + 1):
        possible = {name[:depth] for name in names if len(name) >= depth and name[: depth - 1] in parents}
        order = list(dict.fromkeys(name[:depth] for name in arrived if name[:depth] in possible))[:width]
        if len(order) < min(width, len(possible)):
            return None
        levels.append(order)
        parents = {path for path in order if path[-1] not in ends}
    return levels
