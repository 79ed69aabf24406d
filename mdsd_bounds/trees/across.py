"""Block verification, traversal verification and the sweep in the model of :mod:`mdsd_bounds.trees.advise`.

Rules that look across nodes have no acceptance at a single node.  Their tokens per target forward pass are simulated
where :mod:`mdsd_bounds.trees.advise` has formulas: in a language model with one position of the dump after each path,
drawn independently (:class:`mdsd_bounds.trees.rows.Exchangeable`).  A rule that decides node by node stands as a
control variate: its tokens in that model are known from the formula, so that

    tokens = formula of the node-by-node rule + mean over trees of (rule - node-by-node rule, both given the tree),

both exact given the tree and the same trees for all rules.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from mdsd_bounds._backend.threads import one_torch_thread
from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.advise import (
    BEST,
    Choice,
    Costs,
    Profile,
    Scored,
    choices,
    resampled,
    scored,
)
from mdsd_bounds.trees.base import Tree, sampling
from mdsd_bounds.trees.builders import rsd_c
from mdsd_bounds.trees.resampling import document_weights, weighted_means
from mdsd_bounds.trees.rows import Exchangeable, Rows
from mdsd_bounds.trees.sequoia import shaped
from mdsd_bounds.trees.timing import timed
from mdsd_bounds.trees.verify import expected_emitted, stops

#: Rules that look across nodes.
RULES = ("block", "traversal", "sweep")
#: Node-by-node rules whose formula is known, best first, and the name under which a tree is verified by them.
REFERENCES: Mapping[str, str] = {
    "rrs_without_replacement": "recursive",
    "rrs": "recursive",
    "greedy": "greedy",
    "optimal": "optimal",
    "nss": "nss",
}
#: Trees of each sampler that are simulated: those with the most speed at the bound of single nodes.
_SHORTLIST = 2
#: Samplers of which the fixed-plus-random rules know the distribution of every draft.
SAMPLERS = ("without_replacement", "with_replacement", "greedy", "top_k", "top_m_plus")


def simulated(
    found: Sequence[Profile],
    documents: np.ndarray,
    costs: Costs,
    rows: Rows,
    *,
    rules: Sequence[str] = RULES,
    limits: tuple[int, int] = (32, 8),
    trees: int = 16,
    progress: Callable[[float, int], None] | None = None,
) -> list[Scored]:
    """Tokens and time of every rule that looks across nodes, on the trees of each sampler that admit it.

    Parameters
    ----------
    found : sequence of Profile
        With the bound and a rule of :data:`REFERENCES` for each sampler; samplers without are left out.
    documents : ndarray
        ``[positions]`` of the profiles.
    costs : Costs
        Of the two models.
    rows : Rows
        Positions of the same dump, which the trees are made of.
    rules : sequence of str
        Of :data:`RULES`; ``block`` stands on chains, the others on trees with several drafts a node (on chains they
        do the same as ``block``).
    limits : (int, int)
        Most nodes and levels.
    trees : int
        Simulated for each shape, at least 2.
    progress : callable, optional
        ``(done, total)``.

    Returns
    -------
    list of Scored
        Where a rule does not admit a tree, there is none.  Intervals resample the documents of the formula's positions
        and, with the same weights, of the trees' roots; what the other nodes' positions add is in them as noise.
    """
    work = list(_shortlist(found, documents, costs, rules, limits))
    results: list[Scored] = []
    for done, (reference, choice, wanted) in enumerate(work):
        results += simulate_tree(reference, choice, documents, costs, rows, rules=wanted, trees=trees)
        if progress is not None:
            progress(done + 1, len(work))
    return results


def simulate_tree(
    reference: Profile,
    choice: Choice,
    documents: np.ndarray,
    costs: Costs,
    rows: Rows,
    *,
    rules: Sequence[str] = RULES,
    trees: int = 16,
) -> list[Scored]:
    """One tree of :func:`simulated` under every rule that admits it.

    Parameters
    ----------
    reference : Profile
        Of a node-by-node rule of :data:`REFERENCES`.
    choice : Choice
        The tree; its profile names the sampler.
    documents, costs, rows, rules, trees
        As :func:`simulated`.
    """
    weights = document_weights(len(np.unique(documents)))
    own = choice if choice.shape else Choice(reference, choice.branching)
    base = scored(own, resampled(reference, documents), costs).tokens
    results = []
    with one_torch_thread():
        gains, seconds, roots = _gains(rows, choice, REFERENCES[reference.verifier], rules, trees)
    index = np.searchsorted(np.unique(documents), rows.documents[roots])
    for rule, gain in gains.items():
        profile = Profile(choice.profile.sampler, rule, reference.rates)
        tokens = base + weighted_means(gain[:, None], index, weights)[:, 0]
        named = Choice(profile, choice.branching, choice.shape)
        time = statistics.median(seconds[rule])
        results.append(Scored(named, tokens, costs.of(choice.widths, time), time))
    return results


def _shortlist(
    found: Sequence[Profile], documents: np.ndarray, costs: Costs, rules: Sequence[str], limits: tuple[int, int]
) -> list[tuple[Profile, Choice, tuple[str, ...]]]:
    """(node-by-node rule, tree, rules) to be simulated."""
    work: list[tuple[Profile, Choice, tuple[str, ...]]] = []
    chains = False
    for sampler in SAMPLERS:
        mine = {profile.verifier: profile for profile in found if profile.sampler == sampler}
        name = next((name for name in REFERENCES if name in mine), None)
        if name is None or BEST not in mine:
            continue
        mean = resampled(mine[BEST], documents)[:1]
        ranked = sorted(choices(mine[BEST], *limits), key=lambda c, mean=mean: -scored(c, mean, costs).speed[0])  # type: ignore[misc]
        branching = [c for c in ranked if not _is_chain(c) and not (c.shape and sampler != "without_replacement")]
        wanted = tuple(rule for rule in rules if rule != "block")
        work += [
            (mine[name], Choice(mine[name], c.branching, c.shape), wanted) for c in branching[:_SHORTLIST] if wanted
        ]
        # One random draft is a draw from q whatever the sampler: chains once.
        if "block" in rules and not chains and sampler != "top_k":
            lines = sorted((c for c in ranked if _is_chain(c) and c.branching), key=lambda c: len(c.branching))
            best = max(range(len(lines)), key=lambda i: scored(lines[i], mean, costs).speed[0])
            near = lines[max(0, min(best, len(lines) - _SHORTLIST)) :][:_SHORTLIST]
            work += [(mine[name], Choice(mine[name], c.branching), ("block",)) for c in near]
            chains = True
    return work


def _is_chain(choice: Choice) -> bool:
    return max(choice.widths) == 1


def _gains(
    rows: Rows, choice: Choice, reference: str, rules: Sequence[str], trees: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]], np.ndarray]:
    """Of each rule that admits the tree its tokens minus the reference's ``[trees]`` and seconds; rows of the roots."""
    roots = np.arange(trees) * len(rows.documents) // trees % len(rows.documents)
    gains: dict[str, list[float]] = {rule: [] for rule in rules}
    seconds: dict[str, list[float]] = {rule: [] for rule in rules}
    for number, root in enumerate(roots):
        generator = torch.Generator().manual_seed(number)
        model = Exchangeable(rows, int(root), np.random.default_rng([number, int(root)]))
        tree = _tree(choice, model, generator)
        target = model.target(tree.paths)
        base = expected_emitted(tree, stops(tree, target, reference))
        for rule in list(gains):
            try:
                gains[rule].append(expected_emitted(tree, stops(tree, target, rule)) - base)
            except InputError:
                del gains[rule], seconds[rule]
                continue
            seconds[rule].append(timed(tree, target, rule, generator))
    return {rule: np.array(values) for rule, values in gains.items()}, seconds, roots


def _tree(choice: Choice, model: Exchangeable, generator: torch.Generator) -> Tree:
    if choice.shape:
        return shaped(model.draft, sampling(generator), choice.shape)
    return rsd_c(model.draft, sampling(generator), choice.branching, sampler=choice.profile.sampler)
