"""What a draft tree is, and how one is grown level by level over an abstract language model.

A language model here is a function ``distributions(paths) -> [B, V]``: the distribution of the next token after the
prefix followed by each path (a tuple of tokens; the empty path is the prefix itself).  Node 0 of a tree is the root,
the prefix; every other node is one drafted token.  Nodes stand in level order, and below one parent in draw order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError, Option
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT

Path = tuple[int, ...]
#: ``paths -> [B, V]`` float64: the distribution of the token after each path.
Distributions = Callable[[Sequence[Path]], Tensor]
#: ``(path, q [V], n, sampler, options) -> n drafts below the path in draw order``, :data:`NO_DRAFT` in empty slots.
Draw = Callable[[Path, Tensor, int, str, Mapping[str, Option]], Path]
#: Where random numbers come from: one generator for all, or one for each path (:func:`common_randomness`).
Source = torch.Generator | Callable[[Path], torch.Generator] | None


@dataclass(frozen=True)
class Stop:
    """Verification ends at ``node`` with ``probability`` and emits a token of ``probs`` [V]; no token if it is None.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, sampling, stops
    >>> model = MarginalDraft(torch.tensor([[0.6, 0.3, 0.1]] * 4, dtype=torch.float64))
    >>> tree = chain(model, sampling(torch.Generator().manual_seed(0)), 2)
    >>> [(stop.node, round(stop.probability, 4)) for stop in stops(tree, model(tree.paths), "block")]
    [(2, 1.0)]
    """

    node: int
    probability: float
    probs: Tensor | None


@dataclass(frozen=True)
class Tree:
    """Drafted tokens as a tree of N nodes, root included, with the distributions they were drawn from.

    Attributes
    ----------
    parents, tokens, depths : tuple of int
        ``[N]`` each; the root has parent -1, token -1 and depth 0.
    drafts : tuple of tuple of int
        ``[N]``: the drafts below each node in draw order, repeats and empty slots (-1) included; empty at leaves.
        Equal drafts below one parent share one node.
    distributions : Tensor
        ``[I, V]`` float64 draft distributions of the I nodes that were expanded.
    probs_row : tuple of int
        ``[N]``: row of ``distributions``, -1 at leaves.
    sampler : str
        How the drafts below a node were drawn, a name in :data:`mdsd_bounds.samplers.SAMPLERS`.
    options : mapping
        Options of that sampler.
    stop : frozenset of int
        Tokens that end the text: nothing is drafted below them and nothing is emitted after them.
    draft_passes : int
        Sequential forward passes of the draft model, one for all levels where it says ``one_pass``.
    adaptive : bool
        Whether how many drafts stand below a node depends on those drafts themselves (stochastic beam search); then
        only rules that take them one by one are lossless (:data:`mdsd_bounds.trees.verify.ONE_BY_ONE`).
    groups : tuple of tuple of int
        ``[N]``, or empty where all drafts of a node have subtrees of one shape: how many successive drafts do.  Of the
        *planned* shape: a rule that looked at the subtrees as drawn would not be lossless.
    shared : bool
        Whether all nodes of a level have the same drafts below them (:mod:`mdsd_bounds.trees.marginal`); then only
        rules that decide node by node are lossless.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, sampling
    >>> certain = MarginalDraft(torch.eye(3, dtype=torch.float64))
    >>> chain(certain, sampling(), 2).paths
    ((), (0,), (0, 1))
    """

    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    drafts: tuple[Path, ...]
    distributions: Tensor
    probs_row: tuple[int, ...]
    sampler: str
    options: Mapping[str, Option] = field(default_factory=dict)
    stop: frozenset[int] = frozenset()
    draft_passes: int = 0
    adaptive: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    shared: bool = False

    @property
    def size(self) -> int:
        """Drafted nodes, the root not counted: what the target's budget counts."""
        return len(self.tokens) - 1

    @property
    def length(self) -> int:
        """Depth of the deepest node."""
        return max(self.depths)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The tokens from the root to each node, ``[N]``."""
        paths: list[Path] = [()]
        for parent, token in zip(self.parents[1:], self.tokens[1:], strict=True):
            paths.append((*paths[parent], token))
        return tuple(paths)

    @cached_property
    def children(self) -> tuple[dict[int, int], ...]:
        """Of each node, token -> child node, in draw order."""
        below: tuple[dict[int, int], ...] = tuple({} for _ in self.tokens)
        for node in range(1, len(self.tokens)):
            below[self.parents[node]][self.tokens[node]] = node
        return below

    def ends(self, node: int) -> bool:
        """Whether the text ends at the node."""
        return node > 0 and self.tokens[node] in self.stop


def require_own_drafts(tree: Tree, rule: str) -> None:
    """Refuse a tree whose levels share their drafts, for a rule that looks across nodes.

    Raises
    ------
    InputError
        If :attr:`Tree.shared` is set.
    """
    if tree.shared:
        raise InputError(
            f"rule {rule!r} looks across nodes, but all nodes of a level of this tree share their drafts; use "
            "recursive or a verifier at every node, or let every node draw for itself"
        )


def grow(
    distributions: Distributions,
    length: int,
    wanted: Callable[[Path], int],
    pick: Callable[[Sequence[Path], Tensor], Sequence[Path]],
    sampler: str,
    options: Mapping[str, Option] | None = None,
    stop: Sequence[int] | frozenset[int] = (),
    adaptive: bool = False,
) -> Tree:
    """Grow a tree: at each level one draft forward pass for the nodes that want children, then their drafts.

    Parameters
    ----------
    distributions : callable
        The draft model.
    length : int
        Levels, at least 0; 0 is the root alone.
    wanted : callable
        Path -> number of drafts below it; 0 makes it a leaf, and its distribution is never asked for.
    pick : callable
        ``(paths, q [B, V]) -> drafts of each path``.
    sampler, options, stop, adaptive :
        As in :class:`Tree`.
    """
    parents, tokens, depths = [-1], [-1], [0]
    paths: list[Path] = [()]
    drafts: list[Path] = [()]
    probs_row = [-1]
    rows: list[Tensor] = []
    ends = frozenset(stop)
    level, draft_passes = [0], 0
    for depth in range(1, length + 1):
        open_nodes = [v for v in level if tokens[v] not in ends and wanted(paths[v]) > 0]
        if not open_nodes:
            break
        q = distributions([paths[v] for v in open_nodes])
        # A drafter that states all positions in one pass (trees/marginal.py) is called once.
        draft_passes = 1 if getattr(distributions, "one_pass", False) else draft_passes + 1
        level = []
        for v, probs, chosen in zip(open_nodes, q, pick([paths[v] for v in open_nodes], q), strict=True):
            if not any(token != NO_DRAFT for token in chosen):
                continue
            probs_row[v], drafts[v] = len(rows), tuple(chosen)
            rows.append(probs)
            for token in dict.fromkeys(token for token in chosen if token != NO_DRAFT):
                level.append(len(tokens))
                parents.append(v)
                tokens.append(token)
                depths.append(depth)
                paths.append((*paths[v], token))
                drafts.append(())
                probs_row.append(-1)
    held = torch.stack(rows) if rows else torch.zeros((0, 0), dtype=torch.float64)
    return Tree(
        tuple(parents),
        tuple(tokens),
        tuple(depths),
        tuple(drafts),
        held,
        tuple(probs_row),
        sampler,
        dict(options or {}),
        ends,
        draft_passes,
        adaptive,
    )


def sampling(source: Source = None) -> Draw:
    """Draw with the samplers' own routines: without replacement that is the exponential race, Gumbel-Top-k.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, rsd_c, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> trees = [rsd_c(draft, sampling(torch.Generator().manual_seed(3)), (2, 2)) for _ in range(2)]
    >>> trees[0].tokens == trees[1].tokens
    True
    """

    def draw(path: Path, q: Tensor, n: int, sampler: str, options: Mapping[str, Option]) -> Path:
        return tuple(get_sampler(sampler).sample(q[None], n, generator_at(source, path), **options)[0].tolist())

    return draw


def generator_at(source: Source, path: Path) -> torch.Generator | None:
    """The generator that draws below ``path``."""
    return source(path) if callable(source) else source


def common_randomness(seed: int) -> Callable[[Path], torch.Generator]:
    """A generator for each path, always begun anew: common random numbers for all trees below one prefix.

    Within a tree each node is drawn once, so its distribution is the builder's; between trees the drafts below one path
    come from the same random numbers.  Trees then share most of their nodes, and differences between them have less
    variance.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, common_randomness, rsd_c, sampling
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> source = common_randomness(5)
    >>> one = chain(draft, sampling(source), 1)
    >>> two = rsd_c(draft, sampling(source), (2,))
    >>> one.tokens[1] == two.drafts[0][0]
    True
    """

    def at(path: Path) -> torch.Generator:
        # A digest, not hash(): the same numbers in every run.
        digest = hashlib.sha256(repr((seed, path)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    return at


def whole_numbers(values: Sequence[int], name: str, least: int = 1) -> tuple[int, ...]:
    """A shape given by the user, checked.

    Raises
    ------
    InputError
        If it is empty or holds anything but integers of at least ``least``.
    """
    found = tuple(values)
    if not found:
        raise InputError(f"{name} is empty: give at least one number, for example 2,2,1")
    for value in found:
        if isinstance(value, bool) or int(value) != value or value < least:
            raise InputError(f"{name}={','.join(map(str, found))}: every entry must be an integer >= {least}")
    return tuple(int(value) for value in found)
