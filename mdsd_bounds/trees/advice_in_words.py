"""What advice says, in one line."""

from __future__ import annotations

import pandas as pd

from mdsd_bounds.trees.costs import Costs


def in_words(advice: pd.DataFrame, costs: Costs | None = None) -> str:
    """The first two rows, and what is left above them, in one line.

    Parameters
    ----------
    advice : DataFrame
        As :func:`mdsd_bounds.trees.advise.advise` gives it.
    costs : Costs, optional
        With what it was found: where they leave out the time of verification, the line says so.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.trees import costs_from, in_words, profiles
    >>> from mdsd_bounds.trees.advise import advise
    >>> table = run(load_example(), Settings(("with_replacement",), (1, 2), verifiers=("rrs",)))
    >>> advice = advise(*profiles(table), costs_from(0.1, "1:1,8:1.3"))
    >>> in_words(advice)[:40]
    'fastest: with_replacement, rrs, 2,2,1,1,'
    """
    real = advice[advice["kind"] == "choice"]
    best = real.iloc[0]
    tree = f"{best['sampler']}, {best['verifier']}, {best['tree']}"
    free = costs is not None and costs.seconds is None
    text = f"fastest{' if verification cost nothing' if free else ''}: {tree} ({best['speed']:.3g})"
    alone = float(advice[advice["kind"] == "no drafts"]["speed"].iloc[0])
    if alone >= best["speed"]:
        even = ", even if verification cost nothing" if free else ""
        text = f"decode without drafts{even}: the best tree ({tree}) {_beside(best['speed'] / alone)}"
    if len(real) > 1:
        second = real.iloc[1]
        least = second["behind_ci_low"]
        sure = ("certain at 95%" if least > 0 else "not certain at 95%") if least == least else "from a single document"
        text += f"; runner-up: {second['sampler']}, {second['verifier']}, {second['tree']} "
        text += f"({second['behind']:.1f}% behind, {sure})"
    bounds, draft = advice[advice["kind"] == "better verifier"], advice[advice["kind"] == "better draft"].iloc[0]
    most = max(0.0, float(bounds["speed"].max() / best["speed"] - 1.0))
    lossy = advice[advice["kind"] == "lossy"]
    fastest = lossy.groupby("verifier", sort=False)["speed"].max().to_dict()
    bought = [
        f"; {str(name).removeprefix('any ')} of the target at every position {100 * (speed / best['speed'] - 1.0):.1f}%"
        for name, speed in fastest.items()
    ]
    return (
        text
        + f"; a better rule at the nodes could add {100 * most:.1f}% at most, a better draft on the same tree up to "
        f"{100 * (draft['speed'] / best['speed'] - 1.0):.0f}%" + "".join(bought)
    )


def _beside(ratio: float) -> str:
    """A speed as a share of that without drafts, at most one."""
    return "is no faster" if ratio > 0.995 else f"reaches only {ratio:.2f} times that speed"
