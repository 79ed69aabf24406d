"""Generate text by draft trees: build, read in one target forward pass, verify, go on; every step kept for analysis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.base import Distributions, Path, Source, Tree
from mdsd_bounds.trees.real import TreeReader
from mdsd_bounds.trees.verify import RULES, Stop, Verified, sample_outcome, stops, verifier_of, verify
from mdsd_bounds.verifiers import Verifier


class Reader(Protocol):
    """What drafts below the end of a growing text."""

    @property
    def length(self) -> int:
        """Tokens of the text."""

    def distributions(self, paths: Sequence[Path], /) -> Tensor:
        """``[B, V]`` distributions of the token after each path."""

    def advance(self, tokens: Sequence[int], /) -> None:
        """Make tokens part of the text."""


#: ``(draft distributions, source of randomness) -> tree``.
Build = Callable[[Distributions, Source], Tree]


@dataclass(frozen=True)
class Step:
    """One target forward pass: the tree, the target's distributions at its nodes, and what came of it.

    Attributes
    ----------
    tree : Tree
        N nodes, the root included.
    target : Tensor
        ``[N, V]`` float64 distributions.
    outcomes : list of Stop or None
        Conditional distribution of the verification given the tree; None for rules coupled to their drafts, and where
        it was not asked for.
    verified : Verified
        The outcome.
    seconds : tuple of float
        Of drafting (models and draws), of the target's forward pass, of verification.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree, take_step
    >>> model = MarginalDraft(torch.tensor([[0.6, 0.3, 0.1]] * 4, dtype=torch.float64))
    >>> step = take_step(model, model, named_tree("chain", "2"), "block", torch.Generator().manual_seed(0))
    >>> len(step.verified.tokens)
    3
    """

    tree: Tree
    target: Tensor
    outcomes: list[Stop] | None
    verified: Verified
    seconds: tuple[float, float, float]


def take_step(
    target: Distributions,
    draft: Distributions,
    build: Build,
    rule: str | Verifier,
    generator: torch.Generator | None = None,
    *,
    analysed: bool = True,
) -> Step:
    """Draft a tree, read it with one target forward pass, and verify it.

    Unless ``analysed``, verification does what a decoder needs and no more (:func:`mdsd_bounds.trees.verify.verify`).

    Raises
    ------
    InputError
        If the rule does not fit the tree, or a reader finds no room in its context window.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, named_tree, take_step
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> def target(paths):
    ...     return torch.tensor([[0.6, 0.3, 0.1]] * len(paths), dtype=torch.float64)
    >>> step = take_step(target, draft, named_tree("rsd_c", "2,1"), "traversal", torch.Generator().manual_seed(0))
    >>> len(step.verified.tokens) <= 3, step.tree.size
    (True, 4)
    """
    begun = time.perf_counter()
    tree = build(draft, generator)
    drafted = time.perf_counter()
    distributions = target(tree.paths)
    read = time.perf_counter()
    verifier = rule if isinstance(rule, str) and rule in RULES else verifier_of(rule)
    if not analysed or (isinstance(verifier, Verifier) and verifier.output_distribution is None):
        outcomes, verified = None, verify(tree, distributions, rule, generator)
    else:
        outcomes = stops(tree, distributions, rule)
        verified = sample_outcome(tree, outcomes, generator)
    return Step(tree, distributions, outcomes, verified, (drafted - begun, read - drafted, time.perf_counter() - read))


def decode(
    target: TreeReader,
    draft: Reader,
    build: Build,
    rule: str | Verifier,
    new_tokens: int,
    generator: torch.Generator | None = None,
    stop: frozenset[int] = frozenset(),
    *,
    analysed: bool = True,
) -> Iterator[Step]:
    """Steps until ``new_tokens`` were emitted (the last step may go beyond) or a stop token was.

    The text that comes out has the target's distribution whatever the draft and the builder, if the rule is lossless.

    Parameters
    ----------
    target : TreeReader
        The target's reader.
    draft : Reader
        Over the same text: another :class:`mdsd_bounds.trees.real.TreeReader`, or the
        :class:`mdsd_bounds.trees.chimera.HeadReader` of a draft head.  Both move on with what is emitted.
    build : callable
        Builds the tree of a step; it should know the same stop tokens.
    rule : str or Verifier
        As :func:`mdsd_bounds.trees.verify.stops`.
    new_tokens : int
        At least 1.
    generator : torch.Generator, optional
        Draws drafts and outcomes.
    stop : frozenset of int
        Tokens that end the text.
    analysed : bool
        Whether the steps hold the conditional distribution of the verification; without it rules that decide node by
        node are faster.

    Raises
    ------
    InputError
        If ``new_tokens`` is below 1, the readers' texts differ in length, or the context window is exceeded.
    """
    return decode_while(target, draft, lambda left: build, rule, new_tokens, generator, stop, analysed=analysed)


def decode_while(
    target: TreeReader,
    draft: Reader,
    build_for: Callable[[int], Build | None],
    rule: str | Verifier,
    new_tokens: int,
    generator: torch.Generator | None,
    stop: frozenset[int],
    *,
    analysed: bool,
) -> Iterator[Step]:
    """The steps of :func:`decode` while ``build_for`` gives a builder for the number of tokens that are still wanted.

    Raises
    ------
    InputError
        If ``new_tokens`` is below 1, or the readers' texts differ in length.
    """
    if new_tokens < 1:
        raise InputError(f"new_tokens={new_tokens}: give an integer of at least 1")
    if target.length != draft.length:
        raise InputError(f"the target has read {target.length} tokens and the draft {draft.length}; give one text")
    left = new_tokens
    while left > 0:
        build = build_for(left)
        if build is None:
            return
        step = take_step(target.distributions, draft.distributions, build, rule, generator, analysed=analysed)
        yield step
        tokens = step.verified.tokens
        if not tokens or tokens[-1] in stop:
            return
        target.advance(tokens)
        draft.advance(tokens)
        left -= len(tokens)
