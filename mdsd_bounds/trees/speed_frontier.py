"""Speed of the best tree of each size: where more nodes stop paying, for every sampler and verifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdsd_bounds.trees.advise import BEST, WITHIN, Choice, Costs, Profile, choices, resampled

__all__ = ["speed_by_nodes"]


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
        Of the two models (:func:`mdsd_bounds.trees.advise.costs_from`).
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
    """
    rows = []
    for profile in found:
        means = resampled(profile, documents)
        best: dict[int, tuple[float, Choice]] = {}
        for choice in choices(profile, most_nodes, most_depth):
            widths = choice.widths
            nodes, speed = sum(widths), float(choice.tokens(means[0])) / costs.of(widths)
            if nodes not in best or speed > best[nodes][0]:
                best[nodes] = speed, choice
        for nodes, (speed, choice) in sorted(best.items()):
            cost, tokens = costs.of(choice.widths), choice.tokens(means)
            low, high = np.quantile(tokens[1:] / cost, [0.025, 0.975]) if len(set(documents)) > 1 else (np.nan, np.nan)
            rows.append(
                {
                    "sampler": profile.sampler,
                    "verifier": "" if profile.verifier == BEST else profile.verifier,
                    "nodes": nodes,
                    "tree": choice.name,
                    "tokens": float(tokens[0]),
                    "speed": speed,
                    "speed_ci_low": float(low),
                    "speed_ci_high": float(high),
                }
            )
    table = pd.DataFrame(rows)
    real = table[(table["verifier"] != "") & ~table["verifier"].str.startswith(WITHIN)]
    table["choice"] = table.index == (real["speed"].idxmax() if len(real) else -1)
    return table.assign(alone=1.0 / costs.of([]), unit=costs.unit)
