"""Speed of the best tree of each size: where more nodes stop paying, for every sampler and verifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdsd_bounds.trees.advise import BEST, WITHIN, Choice, Profile, Scored, choices, resampled, scored
from mdsd_bounds.trees.costs import Costs

__all__ = ["frontier", "speed_by_nodes"]


def frontier(found: Sequence[Profile], documents: np.ndarray, most_nodes: int, most_depth: int) -> pd.DataFrame:
    """Most tokens per target forward pass for each number of nodes, by sampler, verifier and family of trees."""
    rows = []
    for profile in found:
        means = resampled(profile, documents)
        best: dict[tuple[str, int], tuple[float, Choice]] = {}
        for choice in choices(profile, most_nodes, most_depth):
            family = "Sequoia" if choice.shape else "chain" if set(choice.branching) == {1} else "branching"
            key, value = (family, sum(choice.widths)), float(choice.tokens(means[0]))
            if key not in best or value > best[key][0]:
                best[key] = (value, choice)
        for (family, nodes), (value, choice) in sorted(best.items(), key=lambda item: item[0]):
            low, high = np.quantile(choice.tokens(means[1:]), [0.025, 0.975])
            rows.append(
                {
                    "sampler": profile.sampler,
                    "verifier": profile.verifier,
                    "family": family,
                    "nodes": nodes,
                    "tree": choice.name,
                    "tokens": value,
                    "ci_low": float(low),
                    "ci_high": float(high),
                }
            )
    return pd.DataFrame(rows)


def speed_by_nodes(
    found: Sequence[Profile], documents: np.ndarray, costs: Costs, most_nodes: int = 32, most_depth: int = 8
) -> pd.DataFrame:
    """For every profile and number of nodes the fastest tree, ``speed = tokens / cost``, with its 95% interval.

    Parameters
    ----------
    found : sequence of Profile
        Of each sampler and verifier, and of the bound (:func:`mdsd_bounds.trees.advise.profiles`).
    documents : ndarray
        ``[positions]`` document of each position.
    costs : Costs
        Of the two models (:func:`mdsd_bounds.trees.costs.costs_from`).
    most_nodes, most_depth : int
        Limits of the trees.

    Returns
    -------
    DataFrame
        Columns sampler, verifier (empty for the best possible rule at single nodes), nodes, tree, tokens, speed,
        speed_ci_low, speed_ci_high, choice (true in one row: the fastest rule that exists), alone (speed without
        drafts) and unit (of cost).

    Notes
    -----
    Cost: every tree within the limits is scored once on the means; intervals are for the best of each size alone.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.trees import costs_from, profiles, speed_by_nodes
    >>> table = run(load_example(), Settings(("with_replacement",), (1, 2), verifiers=("rrs",)))
    >>> found, documents = profiles(table)
    >>> speeds = speed_by_nodes(found, documents, costs_from(0.1, "1:1,8:1.3"), most_nodes=4)
    >>> speeds.columns.tolist()[:7]
    ['sampler', 'verifier', 'nodes', 'tree', 'tokens', 'speed', 'speed_ci_low']
    """
    rows = []
    for profile in found:
        means = resampled(profile, documents)
        best: dict[int, Scored] = {}
        for choice in choices(profile, most_nodes, most_depth):
            one, nodes = scored(choice, means[:1], costs), sum(choice.widths)
            if nodes not in best or one.speed[0] > best[nodes].speed[0]:
                best[nodes] = one
        for nodes, one in sorted(best.items()):
            whole = scored(one.choice, means, costs)
            low, high = np.quantile(whole.speed[1:], [0.025, 0.975])
            rows.append(
                {
                    "sampler": profile.sampler,
                    "verifier": "" if profile.verifier == BEST else profile.verifier,
                    "nodes": nodes,
                    "tree": whole.choice.name,
                    "tokens": float(whole.tokens[0]),
                    "speed": float(whole.speed[0]),
                    "speed_ci_low": float(low),
                    "speed_ci_high": float(high),
                }
            )
    table = pd.DataFrame(rows)
    real = table[(table["verifier"] != "") & ~table["verifier"].str.startswith(WITHIN)]
    table["choice"] = table.index == (real["speed"].idxmax() if len(real) else -1)
    return table.assign(alone=1.0 / costs.of([]), unit=costs.unit)
