"""The sweep: one probability vector over the tree's nodes is moved down layer by layer (new).

State: ``s_v >= 0`` on the nodes revealed so far, summing to one, and a distribution r_v at each; at first ``s = 1``
and ``r = p`` at the root.  A *step* reveals drafts below a set G of nodes.  With ``t(v, y) = s_v r_v(y)`` a single-step
rule (:mod:`.layer`) gives the drafts masses x(v, y), whatever was drafted, with

    (1) ``sum x <= 1``    and    (2) ``m(v, y) = E[x(v, y)] <= t(v, y)``, the mean over the drafts of this step.

Then, with ``f = (1 - sum x) / (1 - sum m)``,

    children: ``s = x``, ``r = p``;    v in G: ``s_v r_v <- (s_v r_v - m(v, .)) f``;    other nodes: ``s_u <- s_u f``.

In the end verification stops at v with probability s_v, and a token of r_v is emitted.

**Lossless.**  Let M be the mixture over the nodes: v with weight s_v, then a token of r_v, then the target's own text.
Before the first step M is the target's distribution; in the end it is that of the output.  A step leaves its mean over
the drafts as it is, for ``E[f] = 1``: a node outside G keeps ``s_u r_u``; v in G keeps ``s_v r_v - m(v, .)``, and its
children bring ``E[x(v, y)] = m(v, y)`` times "v y, then the target's text", which is what was taken.  The sum stays 1.
It is needed that which step comes next depends on nothing that is not revealed (:mod:`.plan`), and that m is exact.
Rounding, an unfinished search, or a poor choice of steps cost acceptance only.

On a chain this is block verification.  Node scores that coordinate the mass within a layer, and a sweep over layers,
are from Layer Verification (Cha, Cho and Yun, AdaptFM workshop at ICML 2026); the merged single-step rule and the
uniform pick are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds.samplers.base import NO_DRAFT, Sampler, draw
from mdsd_bounds.trees.base import Stop, Tree
from mdsd_bounds.trees.sweep.layer import Drafting, prepare_layer
from mdsd_bounds.trees.sweep.plan import drafting, layer_steps, require_sweep

#: Below this nothing is left of ``1 - sum m``: the children have all the probability.
_SPENT = 1e-15


@dataclass
class Held:
    """A revealed node: ``s r = factor * (start p - taken)``, ``taken`` at some tokens only."""

    probs: np.ndarray
    start: float
    factor: float = 1.0
    taken: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def at(self, token: np.ndarray) -> np.ndarray:
        """``s r`` at some tokens."""
        left = self.start * self.probs[token]
        for tokens, mass in self.taken:
            # Later steps of a node draw from fewer tokens than earlier ones, all of them among those.
            place = np.searchsorted(tokens, token)
            held = np.minimum(place, len(tokens) - 1)
            left = left - np.where(tokens[held] == token, mass[held], 0.0)
        return np.asarray(self.factor * np.maximum(left, 0.0))

    def total(self) -> float:
        """s."""
        return max(self.factor * (self.start - sum(float(mass.sum()) for _, mass in self.taken)), 0.0)

    def whole(self) -> np.ndarray:
        """``s r`` ``[V]``."""
        left = self.start * self.probs
        for tokens, mass in self.taken:
            left[tokens] -= mass
        return np.asarray(self.factor * np.maximum(left, 0.0))


def sweep_stops(tree: Tree, target: Tensor, *, merged: bool = True) -> list[Stop]:
    """The sweep on a tree.

    Parameters
    ----------
    tree : Tree
        Of any builder but the stochastic beam; the sampler draws from one distribution below a node.
    target : Tensor
        As :func:`mdsd_bounds.trees.stops`, which calls it by the name ``sweep``.
    merged : bool
        Whether the nodes of a layer make one step.  Otherwise they come one after the other, those with the largest s
        first: cheaper, and a little below.

    Raises
    ------
    InputError
        If the tree is a stochastic beam, or its sampler is not of the fixed-plus-random family.

    Notes
    -----
    O(k log k) for each component of a layer (at most twice as many as tokens that can be drafted), and O(V) a node.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, expected_accepted, rsd_c, sampling, stops
    >>> from mdsd_bounds.trees.sweep import sweep_stops
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = rsd_c(draft, sampling(torch.Generator().manual_seed(0)), (2, 1))
    >>> target = torch.tensor([[0.6, 0.3, 0.1]] * len(tree.paths), dtype=torch.float64)
    >>> round(expected_accepted(tree, sweep_stops(tree, target)), 4)
    2.0
    """
    return [_stop(tree, target, v, node) for v, node in swept(tree, target, merged=merged).items()]


def sampled_stop(tree: Tree, target: Tensor, generator: torch.Generator | None = None) -> Stop:
    """One of :func:`sweep_stops`, drawn with its probability: no distribution but its own is computed.

    Parameters
    ----------
    tree, target :
        As :func:`sweep_stops`.
    generator : torch.Generator or None
        Of the draw.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, rsd_c, sampling
    >>> from mdsd_bounds.trees.sweep import sampled_stop
    >>> generator = torch.Generator().manual_seed(0)
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = rsd_c(draft, sampling(generator), (2, 1))
    >>> target = torch.tensor([[0.6, 0.3, 0.1]] * len(tree.paths), dtype=torch.float64)
    >>> stop = sampled_stop(tree, target, generator)
    >>> stop.probs is None or round(float(stop.probs.sum()), 6)
    1.0
    """
    held = swept(tree, target)
    chance = torch.tensor([[node.total() for node in held.values()]], dtype=torch.float64)
    v = list(held)[int(draw(chance, generator)[0])]
    return _stop(tree, target, v, held[v])


def swept(tree: Tree, target: Tensor, *, merged: bool = True) -> dict[int, Held]:
    """The nodes that have any probability when all drafts are revealed; arguments as :func:`sweep_stops`."""
    sampler = require_sweep(tree)
    held = {0: Held(target[0].numpy(), 1.0)}
    for depth in range(tree.length):
        level = [v for v in held if tree.depths[v] == depth and tree.drafts[v] and held[v].total() > 0.0]
        level.sort(key=lambda v: -held[v].total())
        for step in layer_steps(tree, level, sampler, merged=merged):
            _reveal(tree, target, held, step, sampler)
    return {v: node for v, node in held.items() if node.total() > 0.0}


def _stop(tree: Tree, target: Tensor, v: int, node: Held) -> Stop:
    """Stopping at a node, with the distribution of the next token."""
    if tree.ends(v):
        return Stop(v, node.total(), None)
    if not node.taken:
        # Nothing was drafted below it: r is p.
        return Stop(v, node.total(), target[v])
    left = node.whole()
    mass = float(left.sum())
    # A total of a rounding error may stand beside a distribution of which nothing is left.
    return Stop(v, mass, torch.from_numpy(left / mass)) if mass > 0.0 else Stop(v, 0.0, target[v])


def _reveal(
    tree: Tree, target: Tensor, held: dict[int, Held], step: list[tuple[int, int, int]], sampler: Sampler
) -> None:
    """One step: move probability from the nodes to the drafts that it reveals below them."""
    nodes: list[int] = []
    draftings: list[Drafting] = []
    drafts: list[list[int]] = []
    for v, begin, end in step:
        drawn = drafting(tree, v, begin, end, sampler) if held[v].factor > 0.0 else None
        if drawn is not None:
            nodes.append(v)
            draftings.append(drawn)
            drafts.append([token for token in tree.drafts[v][begin:end] if token != NO_DRAFT])
    if not nodes:
        return
    rule = prepare_layer(draftings, [held[v].at(d.token) for v, d in zip(nodes, draftings, strict=True)])
    given, mean = rule.accept(drafts), rule.mean
    rest = 1.0 - float(mean.sum())
    factor = max(1.0 - float(sum(x.sum() for x in given)), 0.0) / rest if rest > _SPENT else 0.0
    for k, v in enumerate(nodes):
        node = held[v]
        node.taken.append((draftings[k].token, mean[rule.first[k] : rule.first[k + 1]] / node.factor))
    for node in held.values():
        node.factor *= factor
    for v, tokens, masses in zip(nodes, drafts, given, strict=True):
        for token, mass in zip(tokens, masses.tolist(), strict=True):
            child = tree.children[v][token]
            if child in held:
                # The same token was drafted twice below this node.
                held[child].start += mass
            else:
                held[child] = Held(target[child].numpy(), mass)
