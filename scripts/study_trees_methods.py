"""The trees that :mod:`study_trees` compares: every builder at every size, and many of them built at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdsd_bounds.trees.base import Distributions, Tree, sampling
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.builders import chain, independent_paths, nodes_of, rsd_c
from mdsd_bounds.trees.decode import Build
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.sequoia import best_shape, depth_of, shaped

STOPS = frozenset({151643, 151645})
LENGTHS = (2, 3, 4, 5)
BUDGETS = (6, 10, 14, 21, 30)


@dataclass(frozen=True)
class Method:
    """One builder at one size: how the trees are made, how they may be verified, and where it is compared."""

    family: str
    shape: str
    build: Build
    rules: tuple[str, ...]
    length: int
    nodes: int
    protocols: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.family} {self.shape}"


def methods(ranks: Sequence[float]) -> list[Method]:
    """Every configuration but the chains, which grow only as far as they may be accepted."""
    found = []
    without, independent = ("recursive", "traversal"), ("rrs", "k_seq")

    def add(family: str, shape: str, build: Build, rules: tuple[str, ...], length: int, nodes: int, where: str) -> None:
        found.append(Method(family, shape, build, rules, length, nodes, (where,)))

    for length in LENGTHS:
        where = f"length {length}"
        for vector in ((3, *[1] * (length - 1)), (2, 2, *[1] * (length - 2))):
            add("RSD-C", _text(vector), _rsd_c(vector), without, length, nodes_of(vector), where)
        add("SpecTr", f"3x{length}", _paths(3, length), independent, length, 3 * length, where)
        add("RSD-S", f"3x{length}", _beam(3, length), without, length, 3 * length, where)
        add(
            "Sequoia",
            f"{3 * length} deep {length}",
            _shape(ranks, 3 * length, length),
            without,
            length,
            3 * length,
            where,
        )
        add(
            "EAGLE-2",
            f"{3 * length} deep {length}",
            _top(3 * length, length),
            ("recursive",),
            length,
            3 * length,
            where,
        )
    vectors = {
        6: ((2, 2), (2, 1, 1), (3, 1)),
        10: ((2, 2, 1), (2, 1, 1, 1, 1)),
        14: ((2, 2, 2), (2, 2, 1, 1), (2, 1, 1, 1, 1, 1, 1)),
        21: ((3, 2, 2), (3, 1, 1, 1, 1, 1, 1)),
        30: ((2, 2, 2, 2), (2, 2, 2, 1, 1), (2, 2, 1, 1, 1, 1, 1, 1)),
    }
    beams = {6: ((2, 3), (3, 2)), 10: ((2, 5),), 14: ((2, 7),), 21: ((3, 7),), 30: ((5, 6), (3, 10))}
    for budget in BUDGETS:
        where = f"budget {budget}"
        for vector in vectors[budget]:
            add("RSD-C", _text(vector), _rsd_c(vector), without, len(vector), budget, where)
        for width, length in beams[budget]:
            add("SpecTr", f"{width}x{length}", _paths(width, length), independent, length, budget, where)
            add("RSD-S", f"{width}x{length}", _beam(width, length), without, length, budget, where)
        shape, _ = best_shape(ranks, budget, 10)
        add("Sequoia", f"{budget}", _shape(ranks, budget, 10), without, depth_of(shape), budget, where)
        add(
            "EAGLE-2",
            f"{budget}",
            _top(budget, min(budget // 2, 7)),
            ("recursive",),
            min(budget // 2, 7),
            budget,
            where,
        )
    return _merged(found)


def _merged(found: Sequence[Method]) -> list[Method]:
    """Configurations that stand in several protocols once."""
    merged: dict[str, Method] = {}
    for method in found:
        held = merged.get(method.name)
        places = (*held.protocols, *method.protocols) if held else method.protocols
        merged[method.name] = Method(**{**vars(method), "protocols": places})
    return list(merged.values())


def _text(vector: Sequence[int]) -> str:
    return ",".join(map(str, vector))


def _rsd_c(vector: Sequence[int]) -> Build:
    return lambda distributions, source: rsd_c(distributions, sampling(source), vector, STOPS)


def _paths(count: int, length: int) -> Build:
    return lambda distributions, source: independent_paths(distributions, sampling(source), count, length, STOPS)


def _beam(width: int, length: int) -> Build:
    return lambda distributions, source: rsd_s(distributions, source, width, length, STOPS)


def _shape(ranks: Sequence[float], budget: int, depth: int) -> Build:
    shape, _ = best_shape(ranks, budget, depth)
    return lambda distributions, source: shaped(distributions, sampling(source), shape, STOPS)


def _top(budget: int, length: int) -> Build:
    return lambda distributions, source: dynamic_top_k(distributions, budget, 3, length, STOPS)


def chain_of(length: int) -> Build:
    return lambda distributions, source: chain(distributions, sampling(source), length, STOPS)


def side_by_side(read: Distributions, builds: Sequence[Callable[[Distributions], Tree]]) -> list[Tree]:
    """Build many trees at once: whenever all of them wait for distributions, one pass reads what they wait for."""
    trees: list[Any] = [None] * len(builds)
    meeting = threading.Condition()
    waiting: dict[int, Any] = {}
    answers: dict[int, Tensor | BaseException] = {}
    running = set(range(len(builds)))

    def ask(number: int, paths: Any) -> Tensor:
        with meeting:
            waiting[number] = list(paths)
            meeting.notify_all()
            meeting.wait_for(lambda: number in answers)
            answer = answers.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def work(number: int) -> None:
        try:
            trees[number] = builds[number](lambda paths: ask(number, paths))
        except BaseException as error:  # handed to the caller below
            trees[number] = error
        with meeting:
            running.discard(number)
            meeting.notify_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(builds))]
    for thread in threads:
        thread.start()
    while True:
        with meeting:
            meeting.wait_for(lambda: len(waiting) == len(running))
            if not running:
                break
            asked, wanted = dict(waiting), sorted({path for paths in waiting.values() for path in paths})
            waiting.clear()
            try:
                read(wanted)
                answers.update({number: read(paths) for number, paths in asked.items()})
            except BaseException as error:
                answers.update(dict.fromkeys(asked, error))
            meeting.notify_all()
    for thread in threads:
        thread.join()
    for tree in trees:
        if isinstance(tree, BaseException):
            raise tree
    return trees


def run_methods(ranks: Sequence[float]) -> list[tuple[str, Build, str]]:
    """Methods decoded end to end: name, builder, rule."""
    return [
        ("chain 5", chain_of(5), "recursive"),
        ("chain 5", chain_of(5), "block"),
        ("SpecTr 3x5", _paths(3, 5), "rrs"),
        ("RSD-C 2,2,1,1", _rsd_c((2, 2, 1, 1)), "recursive"),
        ("RSD-C 2,2,1,1", _rsd_c((2, 2, 1, 1)), "traversal"),
        ("RSD-S 3x5", _beam(3, 5), "recursive"),
        ("Sequoia 14", _shape(ranks, 14, 10), "recursive"),
    ]
