"""Where advice rests on a limit of the search or on a cost that nobody gave, said in a line each."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mdsd_bounds.trees.costs import Costs


def limits_reached(advice: pd.DataFrame, costs: Costs, most_nodes: int, most_depth: int) -> Iterator[str]:
    """Warnings about the best tree: at the limit of the search, or found without a cost of the nodes read.

    Parameters
    ----------
    advice : DataFrame
        As :func:`mdsd_bounds.trees.advise.advise` gives it.
    costs : Costs
        With what it was found.
    most_nodes, most_depth : int
        The limits of the search.
    """
    best = advice[advice["kind"] == "choice"].iloc[0]
    for value, most, option in ((best["nodes"], most_nodes, "--nodes"), (best["depth"], most_depth, "--depth")):
        if value >= most:
            what = "nodes" if option == "--nodes" else "levels"
            yield (
                f"the best tree has {int(value)} {what}, the limit of the search: a larger one may be faster still; "
                f"raise {option}"
            )
    if len({cost for _, cost in costs.target}) == 1:
        yield (
            "no cost curve was given: a target forward pass over all nodes is taken to cost what one over a single "
            "token does, which favours large trees; measure it and give --target-cost 1:1,8:1.1,32:1.6"
        )
    elif costs.batch * (best["nodes"] + 1) > costs.widest:
        of_a_batch = f" for each of {costs.batch} texts" if costs.batch > 1 else ""
        yield (
            f"the best tree has {int(best['nodes'])} nodes{of_a_batch}, and the last cost given is for {costs.widest} "
            "tokens: beyond it the cost is taken to stay the same; measure more and give it in --target-cost"
        )
