"""What no lossless rule can exceed on a tree: full information, the joint optimum, and the best rule node by node.

Accepted tokens are ``sum over paths of A(path)``, A(path) the probability that a path is accepted.  A lossless rule has

    (1) ``A(path) <= Pr(path drafted)``    and    (2) ``A(path y) <= A(path) p(y | path)``,  ``A(()) = 1``.

*Proof of (2).*  The text has distribution p, so it begins with the path and goes on with y with probability p(path) p(y
| path). It begins with the path either because the path is accepted, or because verification ended earlier and the
target went on by itself; in the second case the next token has distribution p(. | path).  Hence it has that
distribution in the first case too: the text goes on with y after an *accepted* path with probability ``A(path) p(y |
path)``, and y accepted is part of that.

Conversely any A that satisfies (2) and comes from ``x[T, v] >= 0`` (tree T drafted, its node v the end of the accepted
path, ``sum_v x[T, v] <= Pr(T)``, the rest accepting nothing) is that of a lossless rule: after the path emit y with the
mass ``A(path) p(y | path) - A(path y)`` that is left.  So the joint optimum is the linear programme

    maximise ``sum A``,  ``A(path) = sum over T and v at or below the path of x[T, v]``,  subject to (2),

in which a tree counts only as the set of its paths.  Its optimum is known to such a rule only if it knows p everywhere;
rules that are to be right whatever the target is at unread nodes may fall short of it.  Whether they must is open.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mdsd_bounds.bounds import make_problem
from mdsd_bounds.bounds.oracles.draft_sets import draft_sets
from mdsd_bounds.problem import InputError
from mdsd_bounds.samplers import get_sampler
from mdsd_bounds.samplers.inclusion import inclusion_probabilities
from mdsd_bounds.trees.base import Distributions, Path, Tree, whole_numbers

#: Variables of a joint programme beyond which it is refused.
MAX_VARIABLES = 300_000


def full_information(trees: Sequence[tuple[Tree, float]], target: Distributions) -> float:
    """``sum over paths of min(p(path), Pr(path drafted))`` from every tree with its probability; small V only.

    An upper bound on accepted tokens: a path cannot be accepted more often than it is drafted, nor than it is the text.
    Attained by a verifier that may look at all of p before it drafts, and in general by no rule on a tree.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, branching_trees, full_information
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> def target(paths):
    ...     return torch.tensor([[0.6, 0.3, 0.1]] * len(paths), dtype=torch.float64)
    >>> round(full_information(branching_trees(draft, (2,)), target), 4)
    0.8857
    """
    drafted: defaultdict[Path, float] = defaultdict(float)
    for tree, chance in trees:
        for path in tree.paths[1:]:
            drafted[path] += chance
    return sum(min(chance, _path_probability(path, target)) for path, chance in drafted.items())


def joint_optimum(trees: Sequence[tuple[Tree, float]], target: Distributions) -> float:
    """Most accepted tokens of any lossless rule on these trees: the linear programme above, solved by HiGHS.

    Parameters
    ----------
    trees : sequence of (Tree, float)
        Every tree with its probability (:func:`mdsd_bounds.trees.enumerate.tree_distribution`).
    target : callable
        The target's distributions.

    Returns
    -------
    float
        The optimum, within the solver's tolerance of 1e-9 on every constraint.

    Raises
    ------
    InputError
        If there are more than :data:`MAX_VARIABLES` variables or the solver stops short.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds.trees import MarginalDraft, branching_trees, joint_optimum, node_optimum
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> def target(paths):
    ...     return torch.tensor([[0.6, 0.3, 0.1]] * len(paths), dtype=torch.float64)
    >>> best = joint_optimum(branching_trees(draft, (2, 1)), target)
    >>> best >= node_optimum(target, draft, (2, 1)), round(best, 4)
    (True, 1.5)
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    mass: defaultdict[frozenset[Path], float] = defaultdict(float)
    for tree, chance in trees:
        mass[frozenset(tree.paths[1:])] += chance
    ends = [(number, path) for number, paths in enumerate(mass) for path in sorted(paths)]
    if len(ends) > MAX_VARIABLES:
        raise InputError(
            f"{len(ends)} variables, more than {MAX_VARIABLES}; use a smaller vocabulary or a smaller tree"
        )
    paths = sorted({path for _, path in ends}, key=lambda path: (len(path), path))
    row_of = {path: len(mass) + i for i, path in enumerate(paths)}
    below: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        below[path[:-1]].append(path)
    share = {path: float(target([path[:-1]])[0, path[-1]]) for path in paths}
    limit = np.concatenate([np.array(list(mass.values())), np.zeros(len(paths))])
    entries: list[tuple[int, int, float]] = []
    for column, (number, end) in enumerate(ends):
        entries.append((number, column, 1.0))
        for k in range(1, len(end) + 1):
            # A(path) - A(parent) p <= 0; below the root the limit is p itself.
            entries.append((row_of[end[:k]], column, 1.0))
        for path in (path for k in range(1, len(end) + 1) for path in below[end[:k]]):
            entries.append((row_of[path], column, -share[path]))
    for path in paths:
        if len(path) == 1:
            limit[row_of[path]] = share[path]
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    matrix = coo_array((values, (rows, columns)), shape=(len(limit), len(ends))).tocsr()
    gain = np.array([float(len(path)) for _, path in ends])
    solved = linprog(
        -gain,
        A_ub=matrix,
        b_ub=limit,
        method="highs",
        options={"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9},
    )
    if solved.status != 0:
        raise InputError(f"the joint programme was not solved: {solved.message}")
    return float(-solved.fun)


def node_optimum(
    target: Distributions,
    draft: Distributions,
    branching: Sequence[int],
    sampler: str = "without_replacement",
    path: Path = (),
) -> float:
    """Most accepted tokens of a lossless rule that decides node by node, on an RSD-C tree; small V only.

    With W(path) the optimum below a node, and r[S, i] the mass of the drafted set S whose token i is output,

        ``W(path) = max sum r[S, i] (1 + W(path i))``,  ``sum_i r[S, i] <= Pr(S)``,  ``sum_S r[S, i] <= p_i``,

    the transport programme of alpha* with the worth of what lies below as reward.  At the last level W is alpha*.
    Rules that look across levels (block, traversal) may exceed it; the joint optimum they may not.

    Examples
    --------
    >>> import torch
    >>> from mdsd_bounds import optimal_acceptance
    >>> from mdsd_bounds.trees import MarginalDraft, node_optimum
    >>> draft = MarginalDraft(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    >>> def target(paths):
    ...     return torch.tensor([[0.6, 0.3, 0.1]] * len(paths), dtype=torch.float64)
    >>> bound = optimal_acceptance([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2)
    >>> round(node_optimum(target, draft, (2,)), 4), round(float(bound.value), 4)
    (0.8857, 0.8857)
    """
    vector = whole_numbers(branching, "branching")
    if len(path) == len(vector):
        return 0.0
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    p, q = target([path]), draft([path])
    problem, _, _ = make_problem(p, q, vector[len(path)], sampler)
    sets = draft_sets(problem, 0, vector[len(path)])
    source, token = sets.edges()
    below = {int(i): node_optimum(target, draft, vector, sampler, (*path, int(i))) for i in np.unique(token)}
    gain = np.array([1.0 + below[int(i)] for i in token])
    rows = np.concatenate([source, len(sets.mass) + token])
    columns = np.tile(np.arange(len(source)), 2)
    size = len(sets.mass) + p.shape[1]
    matrix = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, len(source))).tocsr()
    solved = linprog(-gain, A_ub=matrix, b_ub=np.concatenate([sets.mass, p[0].numpy()]), method="highs")
    if solved.status != 0:
        raise InputError(f"the programme at path {path} was not solved: {solved.message}")
    return float(-solved.fun)


def sampled_full_information(
    tree: Tree, target: Tensor, *, branching: Sequence[int] | None = None, paths: int | None = None
) -> float:
    """An unbiased estimate of :func:`full_information` from one tree: ``sum over nodes of min(1, p(path)/D(path))``.

    D(path) = Pr(path drafted); the mean over trees is ``sum D min(1, p/D)``.  O(V) for each expanded node.

    Parameters
    ----------
    tree : Tree
        Made by :func:`~mdsd_bounds.trees.builders.rsd_c` or :func:`~mdsd_bounds.trees.builders.independent_paths`.
    target : Tensor
        ``[N, V]`` distributions of the target.
    branching : sequence of int
        Of an RSD-C tree drawn without replacement, entries 1 and 2: D is a product of inclusion probabilities.
    paths : int
        Of independent paths, their number: ``D = 1 - (1 - q(path))^K``.

    Raises
    ------
    InputError
        Unless exactly one of the two is given, or where D has no closed form here.
    """
    if (branching is None) == (paths is None):
        raise InputError("give the branching vector of an RSD-C tree or the number of independent paths")
    sampler = get_sampler(tree.sampler)
    plain = not sampler.replacement and all(sampler.is_random(n, **tree.options) for n in branching or ())
    if branching is not None and not plain:
        raise InputError(f"sampler {tree.sampler!r}: the probability of a path is known for without_replacement")
    total = 0.0
    text, drafted = [1.0] * len(tree.tokens), [1.0] * len(tree.tokens)
    for v in range(1, len(tree.tokens)):
        parent, token = tree.parents[v], tree.tokens[v]
        q = tree.distributions[tree.probs_row[parent]]
        n = 1 if branching is None else branching[tree.depths[parent]]
        text[v] = text[parent] * float(target[parent, token])
        drafted[v] = drafted[parent] * float(inclusion(q, token, n))
        chance = drafted[v] if paths is None else -math.expm1(paths * math.log1p(-min(drafted[v], 1 - 1e-16)))
        total += min(1.0, text[v] / chance)
    return total


def inclusion(q: Tensor, token: int, n: int) -> Tensor:
    """Probability that ``token`` is among n = 1 or 2 draws without replacement from q ``[V]``.

    ``q_i`` for one, ``q_i (1 + sum_{j != i} q_j / (1 - q_j))`` for two.

    Raises
    ------
    InputError
        For other n.
    """
    included = inclusion_probabilities(q[None], n)
    if n < 1 or included is None:
        raise InputError(f"n={n}: inclusion probabilities are in closed form for one or two drafts")
    return included[0, token].clamp(max=1.0)


def _path_probability(path: Path, distributions: Distributions) -> float:
    chance = 1.0
    for k, token in enumerate(path):
        chance *= float(distributions([path[:k]])[0, token])
    return chance
