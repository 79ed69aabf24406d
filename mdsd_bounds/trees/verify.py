"""Verification of a draft tree: where it stops and what it emits there.

Given the tree and the target's distribution at every node, each rule is a list of *stops*: it ends at node v with some
probability, having accepted the path to v, and then emits one more token from a distribution.  That is the rule's whole
conditional distribution, so expected accepted tokens need no sampling, and a lossless rule can be checked by adding up.

Rules are node by node with any registered verifier, by name; ``recursive`` (RSD: node by node, recursive rejection
against the sampler's own conditional distributions), ``block`` (one path), ``greedy_multi_path`` (the greatest of
several independent paths, :mod:`mdsd_bounds.trees.greedy_path`), ``traversal`` (leaf to root,
:mod:`mdsd_bounds.trees.traversal`) and ``sweep`` (layer by layer, :mod:`mdsd_bounds.trees.sweep`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.base import NO_DRAFT, draw
from mdsd_bounds.trees.base import Stop as Stop
from mdsd_bounds.trees.base import Tree, require_own_drafts
from mdsd_bounds.trees.greedy_path import greatest_path
from mdsd_bounds.trees.sweep import sampled_stop, sweep_stops
from mdsd_bounds.trees.traversal import surplus_distribution, traversal_stops
from mdsd_bounds.verifiers import VERIFIERS, Verifier, get_verifier
from mdsd_bounds.verifiers.base import require_pair


@dataclass(frozen=True)
class Verified:
    """One verification: accepted path of nodes (root left out), and the tokens emitted: the path's and one more.

    After a stop token nothing more is emitted: then ``tokens`` is the accepted path alone.

    Examples
    --------
    >>> from mdsd_bounds.trees import Verified
    >>> two_accepted = Verified(nodes=(1, 2), tokens=(17, 5, 9))
    >>> len(two_accepted.tokens) - len(two_accepted.nodes)
    1
    """

    nodes: tuple[int, ...]
    tokens: tuple[int, ...]


Rule = Callable[[Tree, Tensor], list[Stop]]

#: Verifiers whose output distribution L_k given k drafts is a martingale: its mean over the next draft, given those
#: before, is L_k again.  By optional stopping they stay lossless where a draft is left out depending on those before
#: it.
ONE_BY_ONE = ("rrs_without_replacement", "nss")


def stops(tree: Tree, target: Tensor, rule: str | Verifier) -> list[Stop]:
    """The conditional distribution of a verification given the tree.

    Parameters
    ----------
    tree : Tree
        N nodes.
    target : Tensor
        ``[N, V]`` float64: the target's distribution after each node.
    rule : str or Verifier
        A name in :data:`RULES`, or a verifier (by name or as a record) to stand at every node.

    Returns
    -------
    list of Stop
        Probabilities sum to one.

    Raises
    ------
    InputError
        If the rule does not fit the tree's sampler or shape, or is coupled to its drafts (no distribution given the
        drafts).

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, sampling, stops
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = chain(draft, sampling(torch.Generator().manual_seed(0)), 2)
    >>> target = torch.tensor([[0.6, 0.3, 0.1]] * 3, dtype=torch.float64)
    >>> found = stops(tree, target, "block")
    >>> round(sum(stop.probability for stop in found), 12)
    1.0
    """
    _require_rows(tree, target)
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule](tree, target)
    return _node_stops(tree, target, verifier_of(rule))


def verifier_of(rule: str | Verifier) -> Verifier:
    """The verifier that stands at every node; the rules of trees are named with the verifiers where it is unknown."""
    if isinstance(rule, str) and rule not in VERIFIERS:
        raise InputError(f"unknown rule {rule!r}; choose one of {', '.join((*RULES, *VERIFIERS))}")
    return get_verifier(rule)


def _require_rows(tree: Tree, target: Tensor) -> None:
    if target.ndim != 2 or target.shape[0] != len(tree.tokens):
        raise InputError(
            f"target has shape {tuple(target.shape)}; give one distribution for each of {len(tree.tokens)} nodes"
        )


def _node_stops(tree: Tree, target: Tensor, verifier: Verifier) -> list[Stop]:
    """Node by node from the root: the verifier's output goes down if it was drafted, else it is the last token."""
    _require_verifier(tree, verifier)
    if verifier.output_distribution is None:
        raise InputError(
            f"verifier {verifier.name!r} is coupled to its drafts and has no distribution given them; use verify"
        )

    def probs(node: int, q: Tensor) -> Tensor:
        drafts = torch.tensor([tree.drafts[node]])
        return verifier.probs(target[node][None], q[None], drafts, sampler=tree.sampler, **tree.options)[0]

    return _downward(tree, target, probs)


def require_fit(tree: Tree, rule: str | Verifier) -> None:
    """Raise an error unless ``rule``, as :func:`stops` takes it, is lossless on this tree.

    Rules of :data:`RULES` are run on it with a flat target, since their errors come before anything else.
    """
    if not (isinstance(rule, str) and rule in RULES):
        _require_verifier(tree, verifier_of(rule))
        return
    size = tree.distributions.shape[1]
    RULES[rule](tree, torch.full((len(tree.tokens), size), 1.0 / size, dtype=torch.float64))


def _require_verifier(tree: Tree, verifier: Verifier) -> None:
    """Refuse a verifier that is not lossless at the nodes of this tree."""
    require_pair(verifier, tree.sampler, tuple(len(drafts) for drafts in tree.drafts if drafts))
    if tree.adaptive and verifier.name not in ONE_BY_ONE:
        raise InputError(
            f"verifier {verifier.name!r} looks at all drafts of a node together, but in a stochastic beam their number "
            f"depends on them; use one of recursive, traversal, {', '.join(ONE_BY_ONE)}"
        )


def recursive_stops(tree: Tree, target: Tensor) -> list[Stop]:
    """Recursive rejection at every node (Jeon et al. 2024, arXiv 2402.14160).

    r = p at first; the k-th draft x of distribution d is accepted with ``min(1, r_x / d_x)``; on rejection
    ``r <- norm((r - d)_+)`` and d becomes the distribution of the next draft given those before.  Without replacement
    this is RSD's rule; deterministic drafts have one-hot distributions.
    """
    sampler = get_sampler(tree.sampler)

    def probs(node: int, q: Tensor) -> Tensor:
        drafts = tree.drafts[node]
        drawn = torch.zeros((1, q.shape[0]), dtype=torch.bool)
        r, left = target[node], 1.0
        output = torch.zeros_like(r)
        for k, token in enumerate(drafts):
            if token == NO_DRAFT:
                continue
            d = sampler.conditional(q[None], drawn, k, len(drafts), **tree.options)[0]
            accepted = left * min(1.0, float(r[token] / d[token]))
            output[token] += accepted
            left -= accepted
            r = surplus_distribution(1.0, r, d)
            drawn[0, token] = True
        return output + left * r

    return _downward(tree, target, probs)


def _downward(tree: Tree, target: Tensor, distribution_at: Callable[[int, Tensor], Tensor]) -> list[Stop]:
    """Stops of a rule that decides node by node by an output distribution given the node's drafts."""
    reach = [0.0] * len(tree.tokens)
    reach[0] = 1.0
    found = []
    for node, weight in enumerate(reach):
        if weight == 0.0:
            continue
        if tree.ends(node):
            found.append(Stop(node, weight, None))
            continue
        if tree.probs_row[node] < 0:
            found.append(Stop(node, weight, target[node]))
            continue
        probs = distribution_at(node, tree.distributions[tree.probs_row[node]]).clone()
        probs = probs / probs.sum()
        for token, child in tree.children[node].items():
            reach[child] = weight * float(probs[token])
            probs[token] = 0.0
        left = float(probs.sum())
        if left > 0:
            found.append(Stop(node, weight * left, probs / left))
    return found


def block_stops(tree: Tree, target: Tensor) -> list[Stop]:
    """Block verification of one path (Sun et al. 2024, arXiv 2403.10444, algorithm 2).

    ``w_i = min(1, w_{i-1} p(x_i)/q(x_i))``, ``h_i = S_i / (S_i + 1 - w_i)`` with
    ``S_i = sum (w_i p - q)_+`` after x_i, and ``h_L = w_L``; the longest prefix whose test h_i succeeds is accepted,
    and the next token comes from ``norm((w_i p - q)_+)``, or from p after the whole path.

    Raises
    ------
    InputError
        If a node has more than one draft.
    """
    if any(len(drafts) > 1 for drafts in tree.drafts):
        raise InputError("rule 'block' verifies one path; use 'traversal' for trees")
    weights = [1.0]
    for node in range(1, len(tree.tokens)):
        q = tree.distributions[tree.probs_row[node - 1]]
        token = tree.tokens[node]
        weights.append(min(1.0, weights[-1] * float(target[node - 1, token] / q[token])))
    last = len(weights) - 1
    found = []
    remaining = 1.0
    for node in range(last, -1, -1):
        if node == last:
            test = weights[node]
            probs = None if tree.ends(node) else target[node]
        else:
            q = tree.distributions[tree.probs_row[node]]
            surplus = float((weights[node] * target[node] - q).clamp(min=0.0).sum())
            below = surplus + 1.0 - weights[node]
            # Both vanish only where the longer prefix has been accepted for certain.
            test = surplus / below if below > 0 else 1.0
            probs = surplus_distribution(weights[node], target[node], q)
        probability = remaining * (1.0 if node == 0 else test)
        if probability > 0:
            found.append(Stop(node, probability, probs))
        remaining -= probability
        if remaining <= 0:
            break
    return found


def _greedy_multi_path_stops(tree: Tree, target: Tensor) -> list[Stop]:
    """Block verification of the greatest of K independent paths (Thomas and Pal 2026, arXiv 2602.16961).

    Raises
    ------
    InputError
        If the tree is not made of independent paths, or all nodes of a level share their drafts.
    """
    require_own_drafts(tree, "greedy_multi_path")
    chain, nodes = greatest_path(tree, target)
    return [replace(way, node=nodes[way.node]) for way in block_stops(chain, target[nodes])]


def verify(tree: Tree, target: Tensor, rule: str | Verifier, generator: torch.Generator | None = None) -> Verified:
    """Verify once.  Arguments: :func:`stops`.

    Rules that decide node by node go down from the root and look at no node that they do not come to; the others sample
    an outcome of :func:`stops`, the sweep without computing the distributions of the rest.  The outcome has the same
    distribution either way.
    """
    _require_rows(tree, target)
    if isinstance(rule, str) and rule in RULES:
        if rule == "sweep":
            return _emit(tree, sampled_stop(tree, target, generator), generator)
        if rule != "recursive":
            return sample_outcome(tree, stops(tree, target, rule), generator)
        return _step_down(tree, target, lambda node, q: _accept_in_turn(tree, target, node, q, generator), generator)
    verifier = verifier_of(rule)
    _require_verifier(tree, verifier)

    def step(node: int, q: Tensor) -> int:
        drafts = torch.tensor([tree.drafts[node]])
        output, _ = verifier.step(target[node][None], q[None], drafts, generator, sampler=tree.sampler, **tree.options)
        return int(output[0])

    return _step_down(tree, target, step, generator)


def sample_outcome(tree: Tree, outcomes: list[Stop], generator: torch.Generator | None = None) -> Verified:
    """Sample an outcome from the conditional distribution ``outcomes``."""
    chance = torch.tensor([[outcome.probability for outcome in outcomes]], dtype=torch.float64)
    return _emit(tree, outcomes[int(draw(chance, generator)[0])], generator)


def _emit(tree: Tree, outcome: Stop, generator: torch.Generator | None) -> Verified:
    path = tree.paths[outcome.node]
    last = () if outcome.probs is None else (int(draw(outcome.probs[None], generator)[0]),)
    return Verified(_ancestors(tree, outcome.node), path + last)


def _step_down(
    tree: Tree, target: Tensor, step: Callable[[int, Tensor], int], generator: torch.Generator | None
) -> Verified:
    """From the root, ``step(node, q)`` outputs a token at each node that is come to."""
    node = 0
    while not tree.ends(node):
        if tree.probs_row[node] < 0:
            token = int(draw(target[node][None], generator)[0])
        else:
            token = step(node, tree.distributions[tree.probs_row[node]])
        if token not in tree.children[node]:
            return Verified(_ancestors(tree, node), (*tree.paths[node], token))
        node = tree.children[node][token]
    return Verified(_ancestors(tree, node), tree.paths[node])


def _accept_in_turn(tree: Tree, target: Tensor, node: int, q: Tensor, generator: torch.Generator | None) -> int:
    """One step of recursive rejection (:func:`recursive_stops`)."""
    sampler, drafts = get_sampler(tree.sampler), tree.drafts[node]
    drawn = torch.zeros((1, q.shape[0]), dtype=torch.bool)
    r = target[node]
    for k, token in enumerate(drafts):
        if token == NO_DRAFT:
            continue
        d = sampler.conditional(q[None], drawn, k, len(drafts), **tree.options)[0]
        if float(torch.rand((), dtype=torch.float64, generator=generator)) * float(d[token]) < float(r[token]):
            return token
        r = surplus_distribution(1.0, r, d)
        drawn[0, token] = True
    return int(draw(r[None], generator)[0])


def _ancestors(tree: Tree, node: int) -> tuple[int, ...]:
    path: list[int] = []
    while node > 0:
        path.append(node)
        node = tree.parents[node]
    return tuple(reversed(path))


def expected_accepted(tree: Tree, outcomes: list[Stop]) -> float:
    """Accepted tokens expected given the tree, ``sum of probability * depth``.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, expected_accepted, sampling, stops
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = chain(draft, sampling(torch.Generator().manual_seed(0)), 2)
    >>> target = torch.tensor([[0.6, 0.3, 0.1]] * 3, dtype=torch.float64)
    >>> round(expected_accepted(tree, stops(tree, target, "block")), 4)
    0.08
    """
    return sum(outcome.probability * tree.depths[outcome.node] for outcome in outcomes)


def expected_emitted(tree: Tree, outcomes: list[Stop]) -> float:
    """Tokens emitted per target forward pass expected given the tree: accepted, and one more unless the text ended.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, expected_accepted, expected_emitted, sampling, stops
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = chain(draft, sampling(torch.Generator().manual_seed(0)), 2)
    >>> found = stops(tree, torch.tensor([[0.6, 0.3, 0.1]] * 3, dtype=torch.float64), "block")
    >>> round(expected_emitted(tree, found) - expected_accepted(tree, found), 12)
    1.0
    """
    return sum(outcome.probability * (tree.depths[outcome.node] + (outcome.probs is not None)) for outcome in outcomes)


def reach(tree: Tree, outcomes: list[Stop]) -> tuple[float, ...]:
    """Probability ``[N]`` that each node is on the accepted path, given the tree; 1 at the root.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, chain, reach, sampling, stops
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> tree = chain(draft, sampling(torch.Generator().manual_seed(0)), 2)
    >>> found = stops(tree, torch.tensor([[0.6, 0.3, 0.1]] * 3, dtype=torch.float64), "block")
    >>> [round(x, 4) for x in reach(tree, found)]
    [1.0, 0.04, 0.04]
    """
    weight = [0.0] * len(tree.tokens)
    for outcome in outcomes:
        weight[outcome.node] += outcome.probability
    for node in range(len(weight) - 1, 0, -1):
        weight[tree.parents[node]] += weight[node]
    return tuple(weight)


#: Rules beside the registered verifiers.
RULES: dict[str, Rule] = {
    "recursive": recursive_stops,
    "block": block_stops,
    "greedy_multi_path": _greedy_multi_path_stops,
    "traversal": traversal_stops,
    "sweep": sweep_stops,
}
