"""A certified upper bound on the accepted tokens of every lossless rule on a tree: a dual of the joint programme (new).

For any ``mu >= 0`` on paths let ``g(v) = sum over y of p(y | v) mu_vy`` and ``c(u) = 1 - mu_u + g(u)``.  By weak
duality no lossless rule, not even one that knows p everywhere, accepts more in the mean than

    ``U(mu) = g(()) + E[ max over the nodes v of the tree, the root with 0, of the sum of c over the path to v ]``.

*Proof.*  Let x[T, v] be as at the head of :mod:`.bounds`.  With the multipliers mu for ``A(vy) <= A(v) p(y | v)``,

    ``sum A <= sum_u A(u) - sum_vy mu_vy (A(vy) - A(v) p(y | v)) = g(()) + sum_u A(u) c(u)``,

and the last sum is that of ``x[T, v]`` times the c on the path to v, at most the mean of the maximum.  QED

**Multipliers.**  ``mu_vy = 1 + g(vy)`` for y in a set B_v and 0 elsewhere, so that c is 0 on B and ``1 + g(u)`` off
it.  B_v follows from the distributions on v's own path; D(y | v) is the probability that y is drafted below v:

* ``loc``: the prefix of the p/q order that minimises ``w_v P(B) - kappa Q_v(B)``, ``w = 1`` at the root,
  ``w_vy = min(1, w_v p(y | v) / D(y | v))``;
* ``fi``: the tokens with ``p(path y) < kappa D(path y)``, as in full information;

kappa is 1 at the root and one of :data:`KAPPAS` below: eight certificates, each of them valid.

**From samples.**  ``g(v) = p(B_v) + sum over y in B_v of p(y | v) g(vy)``, the second sum without bias from the
children drafted, each divided by its D.  Inside the maximum the tree's own draws may not serve; :func:`sampled_bounds`
draws once more below such a node.  The maximum is convex, so that its mean can only rise: still a bound.  Two levels
need no such twin draws, for at the last level but one g is ``p(B_v)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT
from mdsd_bounds.samplers.inclusion import inclusion_probabilities
from mdsd_bounds.trees.base import Distributions, Path, Tree, sampling, whole_numbers

#: Factors of Q below the root.
KAPPAS = (0.5, 0.7, 0.85, 1.0)
#: The certificates: family and kappa.
CERTIFICATES = tuple((family, kappa) for family in ("loc", "fi") for kappa in KAPPAS)


@dataclass(frozen=True)
class Place:
    """A path, with what its multipliers depend on.

    Attributes
    ----------
    p, q : ndarray
        ``[V]`` distributions after the path.
    draws : int
        Drafts below it.
    replacement : bool
        Whether they are drawn with replacement.
    worth, text, drafted : float
        w, the probability of the path as text, and that it is drafted; one at the root.
    root : bool
        Whether the path is empty.
    """

    p: np.ndarray
    q: np.ndarray
    draws: int
    replacement: bool
    worth: float = 1.0
    text: float = 1.0
    drafted: float = 1.0
    root: bool = True

    @cached_property
    def inclusion(self) -> np.ndarray:
        """``[V]``: D(y | v)."""
        if self.replacement:
            return np.asarray(-np.expm1(self.draws * np.log1p(-np.minimum(self.q, 1 - 1e-16))))
        found = inclusion_probabilities(torch.from_numpy(self.q)[None], self.draws)
        if found is None:
            raise InputError(
                f"{self.draws} drafts without replacement: the certified bound is here for one or two drafts a node"
            )
        return found[0].numpy()

    @cached_property
    def inside(self) -> np.ndarray:
        """``[8, V]`` bool: B_v of each certificate."""
        rows = []
        order = np.argsort(np.divide(self.p, self.q, out=np.full(len(self.q), np.inf), where=self.q > 0), kind="stable")
        text = np.concatenate([[0.0], np.cumsum(self.p[order])])
        chance = prefix_chances(self.q[order], self.draws, self.replacement)
        for family, below in CERTIFICATES:
            kappa = 1.0 if self.root else below
            if family == "fi":
                rows.append(self.text * self.p < kappa * self.drafted * self.inclusion)
                continue
            inside = np.zeros(len(order), bool)
            inside[order[: int(np.argmin(self.worth * text - kappa * chance))]] = True
            rows.append(inside)
        return np.stack(rows)

    def child(self, token: int, p: np.ndarray, q: np.ndarray, draws: int) -> Place:
        """The path with one more token."""
        share, drafted = float(self.p[token]), float(self.inclusion[token])
        worth = min(1.0, self.worth * share / drafted) if drafted > 0 else 1.0
        text, below = self.text * share, self.drafted * drafted
        return Place(p, q, draws, self.replacement, worth, text, below, False)


def prefix_chances(q: np.ndarray, n: int, replacement: bool) -> np.ndarray:
    """``Q`` of the prefixes ``[V + 1]`` of ``q`` ``[V]`` as it is ordered, for one or two draws or with replacement.

    Raises
    ------
    InputError
        For three and more draws without replacement.
    """
    mass = np.concatenate([[0.0], np.cumsum(q)])
    if replacement or n == 1:
        return np.asarray(np.minimum(mass, 1.0) ** n)
    if n != 2:
        raise InputError(f"{n} drafts without replacement: the certified bound is here for one or two drafts a node")
    rest, hot = 1.0 - q, int(q.argmax())
    rest[hot] = q[:hot].sum() + q[hot + 1 :].sum()
    odds = np.where(rest > 0, q / np.where(rest > 0, rest, 1.0), 0.0)
    pairs = odds * mass[:-1] + q * np.concatenate([[0.0], np.cumsum(odds)[:-1]])
    return np.concatenate([[0.0], np.cumsum(pairs)])


@dataclass(frozen=True)
class Reading:
    """Paths read once: the models, the branching vector and the sampler of an RSD-C tree (or a chain).

    Attributes
    ----------
    target, draft : callable
        Distributions after paths.
    branching : tuple of int
        Drafts below a node of each level.
    sampler : str
        ``without_replacement`` or ``with_replacement``.
    stop : frozenset of int
        Tokens that end the text.
    """

    target: Distributions
    draft: Distributions
    branching: tuple[int, ...]
    sampler: str = "without_replacement"
    stop: frozenset[int] = frozenset()
    places: dict[Path, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_numbers(self.branching, "branching")
        if self.sampler not in ("without_replacement", "with_replacement"):
            raise InputError(
                f"sampler {self.sampler!r}: the certified bound is here for without_replacement and with_replacement"
            )

    def is_leaf(self, path: Path) -> bool:
        """Whether nothing is drafted below the path."""
        return len(path) >= len(self.branching) or bool(path and path[-1] in self.stop)

    def place(self, path: Path) -> Place:
        """What is known at a path."""
        if path not in self.places:
            self.read([path])
        return self.places[path]

    def read(self, paths: Sequence[Path]) -> None:
        """Read paths, parents before children, with one forward pass of either model."""
        wanted = list(dict.fromkeys(path for path in paths if path not in self.places and not self.is_leaf(path)))
        if wanted:
            for path, p, q in zip(wanted, self.target(wanted), self.draft(wanted), strict=True):
                self.give(path, p, q)

    def give(self, path: Path, p: Tensor, q: Tensor) -> None:
        """Take the distributions ``[V]`` after a path as known."""
        draws = self.branching[len(path)]
        if path:
            self.places[path] = self.place(path[:-1]).child(path[-1], p.numpy(), q.numpy(), draws)
        else:
            self.places[path] = Place(p.numpy(), q.numpy(), draws, get_sampler(self.sampler).replacement)


def exact_bounds(trees: Sequence[tuple[Tree, float]], reading: Reading) -> np.ndarray:
    """The eight bounds ``[8]`` from every tree with its probability; small V only.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import chain, exact_bounds
    >>> from mdsd_bounds.trees.certificate import Reading
    >>> from mdsd_bounds.trees.enumerate import tree_distribution
    >>> p = lambda paths: torch.tensor([[1 / 3, 2 / 3]] * len(paths), dtype=torch.float64)
    >>> q = lambda paths: torch.tensor([[2 / 3, 1 / 3]] * len(paths), dtype=torch.float64)
    >>> trees = tree_distribution(lambda m, d: chain(m, d, 2), q)
    >>> print(f"{exact_bounds(trees, Reading(p, q, (1, 1))).min() * 9:.6f}")  # block verification attains 11/9
    11.000000
    """
    known: dict[Path, np.ndarray] = {}

    def g(path: Path) -> np.ndarray:
        if path not in known:
            total = np.zeros(len(CERTIFICATES))
            if not reading.is_leaf(path):
                place = reading.place(path)
                for token in np.flatnonzero(place.inside.any(0) & (place.p > 0)):
                    total = total + place.inside[:, token] * place.p[token] * (1.0 + g((*path, int(token))))
            known[path] = total
        return known[path]

    return g(()) + sum(chance * _highest_path(tree, reading, g) for tree, chance in trees)


def sampled_bounds(
    tree: Tree, target: Tensor, reading: Reading, generator: torch.Generator | None = None
) -> np.ndarray:
    """Estimates ``[8]`` from one tree, whose means over trees are upper bounds: those of :func:`exact_bounds`, and at
    most what the twin draws add.

    Parameters
    ----------
    tree : Tree
        An RSD-C tree or a chain with the branching vector of ``reading``, which is a new one for each tree.
    target : Tensor
        ``[N, V]`` the target's distributions at its nodes.
    reading : Reading
        Its models are asked about twin draws alone, for trees of three levels and more.
    generator : torch.Generator, optional
        Draws the twins.

    Notes
    -----
    O(V log V) for each node with drafts, and the target's forward pass on the twins.
    """
    for v, row in enumerate(tree.probs_row):
        if row >= 0:
            reading.give(tree.paths[v], target[v], tree.distributions[row])
    draw = sampling(generator)

    drafts = dict(zip(tree.paths, tree.drafts, strict=True))

    def fresh(path: Path) -> Path:
        q = torch.from_numpy(reading.place(path).q)
        return draw(path, q, reading.place(path).draws, reading.sampler, {})

    highest = _highest_path(tree, reading, lambda path: _estimate(reading, path, fresh))
    return np.asarray(_estimate(reading, (), drafts.__getitem__) + highest)


def _estimate(reading: Reading, path: Path, drafts: Callable[[Path], Path]) -> np.ndarray:
    """g without bias, from the drafts below the path and below those."""
    if reading.is_leaf(path):
        return np.zeros(len(CERTIFICATES))
    place = reading.place(path)
    total = np.asarray(place.inside @ place.p)
    if len(path) + 1 < len(reading.branching):
        children = [token for token in dict.fromkeys(drafts(path)) if token != NO_DRAFT]
        reading.read([(*path, token) for token in children])
        for token in children:
            weight = place.inside[:, token] * place.p[token] / place.inclusion[token]
            if weight.any():
                total = total + weight * _estimate(reading, (*path, token), drafts)
    return total


def _highest_path(tree: Tree, reading: Reading, g: Callable[[Path], np.ndarray]) -> np.ndarray:
    """``[8]``: the largest sum of c over the path to a node, at least 0."""
    height = [np.zeros(len(CERTIFICATES))]
    for v in range(1, len(tree.tokens)):
        outside = ~reading.place(tree.paths[tree.parents[v]]).inside[:, tree.tokens[v]]
        c = outside * (1.0 + g(tree.paths[v])) if outside.any() else np.zeros(len(CERTIFICATES))
        height.append(height[tree.parents[v]] + c)
    return np.asarray(np.max(height, axis=0))
