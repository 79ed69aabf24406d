"""Trees by name and shape, as people write them: ``chain 5``, ``paths 3x5``, ``rsd_c 2,2,1``, ``rsd_s 3x5``, ...

``rsd_c:SAMPLER 2,2,1`` has the same shape with drafts of another sampler below each node, such as ``with_replacement``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.trees.base import Distributions, Path, Source, Tree, grow, sampling, whole_numbers
from mdsd_bounds.trees.beam import rsd_s
from mdsd_bounds.trees.builders import chain, independent_paths, rsd_c
from mdsd_bounds.trees.decode import Build
from mdsd_bounds.trees.dynamic import dynamic_top_k
from mdsd_bounds.trees.sequoia import best_shape, shaped
from mdsd_bounds.trees.verify import require_fit
from mdsd_bounds.verifiers import Verifier

#: Tokens of the draft that a rule is tried on.
_TOKENS = 64
#: Builder -> how its shape is written.
SHAPES = {
    "chain": "length, for example 5",
    "paths": "paths x length, for example 3x5",
    "rsd_c": "branching vector, for example 2,2,1",
    "rsd_s": "width x length, for example 3x5",
    "sequoia": "nodes:acceptance of each child rank, for example 14:0.7,0.15,0.05",
    "dynamic": "nodes x top-k x length, for example 14x3x5",
}


def named_tree(builder: str, shape: str, stop: frozenset[int] = frozenset(), depth: int | None = None) -> Build:
    """A builder ``(draft distributions, source) -> tree`` from its name and shape.

    Parameters
    ----------
    builder, shape : str
        As :data:`SHAPES` says.  The builder ``rsd_c`` takes a draft sampler behind a colon, ``rsd_c:greedy``; without
        one it draws without replacement.
    stop : frozenset of int
        Tokens that end the text.
    depth : int or None
        Levels that there is room for: a deeper shape is built with as many (the root alone at 0).  It must depend on
        the text alone, never on what is drafted.

    Raises
    ------
    InputError
        If the builder is unknown, takes no other sampler or none of that name, or the shape is not written as
        :data:`SHAPES` says.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> build = named_tree("rsd_c", "2,1")
    >>> build(draft, torch.Generator().manual_seed(0)).depths
    (0, 1, 1, 2, 2)
    """
    family, sampler = _family(builder)
    make = partial(_rsd_c, sampler=sampler) if family == "rsd_c" else _MAKE[family]
    try:
        build = make(shape, stop, depth if depth else None)
    except ValueError as error:
        reason = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(f"shape {shape!r} of builder {builder!r}: give {SHAPES[family]}{reason}") from None
    return partial(_root_alone, sampler) if depth == 0 else build


def _family(builder: str) -> tuple[str, str]:
    """The builder's name and its draft sampler."""
    family, colon, sampler = builder.partition(":")
    if family not in SHAPES:
        raise InputError(f"unknown builder {family!r}; choose one of {', '.join(SHAPES)}")
    if not colon:
        return family, _SAMPLERS.get(family, "without_replacement")
    if family != "rsd_c":
        raise InputError(f"builder {builder!r}: only rsd_c takes another draft sampler; leave out ':{sampler}'")
    if get_sampler(sampler).takes != "one":
        raise InputError(
            f"builder {builder!r}: sampler {sampler!r} draws from several distributions, and a node has one draft "
            "distribution; take another sampler"
        )
    return family, sampler


def require_admitted(builder: str, shape: str, rule: str | Verifier) -> None:
    """Raise an error unless a rule fits the trees of a builder, on a tree of a flat draft: before models are loaded.

    Parameters
    ----------
    builder, shape : str
        As :func:`named_tree`.
    rule : str or Verifier
        As :func:`mdsd_bounds.trees.verify.stops`.

    Raises
    ------
    InputError
        As :func:`named_tree`, or if the rule is unknown, or does not fit.

    Examples
    --------
    >>> from mdsd_bounds.trees.named import require_admitted
    >>> require_admitted("chain", "3", "block")
    >>> require_admitted("rsd_s", "2x2", "optimal")
    Traceback (most recent call last):
        ...
    mdsd_bounds.problem.InputError: verifier 'optimal' looks at all drafts of a node together, but in a stochastic ...
    """

    def flat(paths: Sequence[Path]) -> Tensor:
        return torch.full((len(paths), _TOKENS), 1.0 / _TOKENS, dtype=torch.float64)

    require_fit(named_tree(builder, shape)(flat, torch.Generator().manual_seed(0)), rule)


#: Draft samplers of the builders that do not draw without replacement: a root alone has one, too, which rules ask for.
_SAMPLERS = {"paths": "with_replacement", "dynamic": "top_k"}


def _root_alone(sampler: str, distributions: Distributions, source: Source) -> Tree:
    return grow(distributions, 0, lambda path: 0, lambda paths, q: [], sampler)


def fixed_branching(builder: str, shape: str) -> tuple[int, ...]:
    """The branching vector of a chain or an RSD-C tree, for bounds that need one.

    Raises
    ------
    InputError
        For other builders and draft samplers, and for three and more drafts a node.
    """
    family, sampler = _family(builder)
    if family not in ("chain", "rsd_c") or sampler != "without_replacement":
        raise InputError(
            f"builder {builder!r}: the certified bound is here for chain and rsd_c, without replacement; "
            "leave out --bound"
        )
    named_tree(builder, shape)
    vector = (1,) * int(shape) if family == "chain" else tuple(int(part) for part in shape.split(","))
    if max(vector) > 2:
        raise InputError(
            f"shape {shape!r}: the certified bound is here for one or two drafts a node; leave out --bound"
        )
    return vector


def _chain(shape: str, stop: frozenset[int], depth: int | None) -> Build:
    (length,) = _sizes(shape, 1)
    return lambda distributions, source: chain(distributions, sampling(source), _least(length, depth), stop)


def _paths(shape: str, stop: frozenset[int], depth: int | None) -> Build:
    count, length = _sizes(shape, 2)
    levels = _least(length, depth)
    return lambda distributions, source: independent_paths(distributions, sampling(source), count, levels, stop)


def _rsd_c(shape: str, stop: frozenset[int], depth: int | None, sampler: str = "without_replacement") -> Build:
    vector = whole_numbers([int(part) for part in shape.split(",")], "branching")[:depth]
    return lambda distributions, source: rsd_c(distributions, sampling(source), vector, stop, sampler=sampler)


def _rsd_s(shape: str, stop: frozenset[int], depth: int | None) -> Build:
    width, length = _sizes(shape, 2)
    return lambda distributions, source: rsd_s(distributions, source, width, _least(length, depth), stop)


def _sequoia(shape: str, stop: frozenset[int], depth: int | None) -> Build:
    nodes, ranks = shape.split(":")
    plan, _ = best_shape([float(part) for part in ranks.split(",")], int(nodes), depth)
    return lambda distributions, source: shaped(distributions, sampling(source), plan, stop)


def _dynamic(shape: str, stop: frozenset[int], depth: int | None) -> Build:
    nodes, top_k, length = _sizes(shape, 3)
    return lambda distributions, source: dynamic_top_k(distributions, nodes, top_k, _least(length, depth), stop)


def _least(length: int, depth: int | None) -> int:
    return length if depth is None else min(length, depth)


_MAKE: dict[str, Callable[[str, frozenset[int], int | None], Build]] = {
    "chain": _chain,
    "paths": _paths,
    "rsd_s": _rsd_s,
    "sequoia": _sequoia,
    "dynamic": _dynamic,
}


def _sizes(shape: str, count: int) -> tuple[int, ...]:
    sizes = whole_numbers([int(part) for part in shape.split("x")], "shape")
    if len(sizes) != count:
        raise ValueError(shape)
    return sizes
