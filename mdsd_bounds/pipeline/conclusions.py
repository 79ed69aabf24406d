"""What a summary says, in one sentence: the first line of a table and a field of its JSON."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mdsd_bounds._backend.printable import counted
from mdsd_bounds.verifiers.registry import vouched_for

#: Beyond rounding: an acceptance so far above its bound belongs to no lossless rule.
_ABOVE = 1e-6


def bounds_in_words(summary: pd.DataFrame) -> str:
    """The highest bound at the largest number of drafts, and what one draft reaches; a summary of bounds.

    Examples
    --------
    >>> import pandas as pd
    >>> from mdsd_bounds.pipeline import bounds_in_words
    >>> line = {"sampler": "greedy", "drafts": 2, "temperature": 1.0, "positions": 32, "mean": 0.91, "ci_low": 0.9,
    ...         "ci_high": 0.93, "certified_low": 0.91, "certified_high": 0.91}
    >>> bounds_in_words(pd.DataFrame([line]))
    'With 2 drafts at temperature 1 no lossless verifier accepts more than 0.9100 of the positions, for drafts of greedy (95% interval 0.9000 to 0.9300, 32 positions).'
    """  # noqa: E501 (a sentence)
    part, where = _at_most_drafts(summary)
    best = part.iloc[int(part["mean"].to_numpy().argmax())]
    # What nobody can exceed is the upper end of the certified interval; the middle is no bound of truncated rows.
    most, loose = best["certified_high"], best["certified_high"] - best["certified_low"]
    certified = f"; the best accepts {best['certified_low']:.4f} at least" if loose > 1e-4 else ""
    what = "no verifier" if best.get("tv", 0) > 0 else "no lossless verifier"
    within = f" within a total variation of {best['tv']:g}" if best.get("tv", 0) > 0 else ""
    return (
        f"{where} {what}{within} accepts more than {most:.4f} of the positions, for drafts of {best['sampler']}"
        f"{certified} ({_interval(best, 'ci', 1.0)}{_counts(best)})."
    )


def comparison_in_words(summary: pd.DataFrame) -> str:
    """The verifier that accepts most at the largest number of drafts, with its gap; a summary of a comparison.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings, comparison_in_words, summarise_comparison
    >>> from mdsd_bounds.pipeline.run import run
    >>> table = run(load_example(), Settings(("with_replacement",), (2,), verifiers=("rrs",)))
    >>> print(comparison_in_words(summarise_comparison(table)))
    With 2 drafts at temperature 1 rrs on with_replacement accepts most: 0.9192 of the positions, 1.30 percentage
    points below its bound (95% interval 0.56 to 2.10, 16 documents, 32 positions).
    """
    part, where = _at_most_drafts(summary)
    if "tv" in summary:
        best = _highest(part)
        return (
            f"{_most(best, where)} at a total variation of {best['tv']:.3g} from the target; "
            f"the best at that distance is {best['bound_at_tv']:.4f} ({_counts(best)})."
        )
    above = summary[(summary["gap_ci_high"] < -_ABOVE) | ((summary["gap"] < -_ABOVE) & (summary["mc_stderr"] == 0))]
    lossy, warning = set(above["verifier"]), ""
    if lossy:
        worst = above.iloc[int(above["gap"].to_numpy().argmin())]
        names = ", ".join(dict.fromkeys(above["verifier"]))
        warning = (
            f"NOT LOSSLESS: {names} accepts more than any lossless rule can, by {-100 * worst['gap']:.2f} percentage "
            f"points on {worst['sampler']} (see mdsd audit --verifier)."
        )
    part = part[~part["verifier"].isin(lossy)]
    if not len(part):
        return warning
    best = _highest(part)
    text = (
        f"{_most(best, where)}, {_number(100 * best['gap'], 2)} percentage points below its bound "
        f"({_interval(best, 'gap_ci', 100.0)}{_counts(best)})"
    )
    others = part[part["verifier"] != best["verifier"]]
    if len(others):
        second = _highest(others)
        text += (
            f"; next comes {_named(second)} with {second['acceptance']:.4f}, "
            f"{_number(100 * second['gap'], 2)} below its bound"
        )
    return f"{warning} Of the others: {text[0].lower()}{text[1:]}." if warning else f"{text}."


def _highest(part: pd.DataFrame) -> pd.Series[Any]:
    """The row that accepts most."""
    return part.iloc[int(part["acceptance"].to_numpy().argmax())]


def _most(row: pd.Series[Any], where: str) -> str:
    return f"{where} {_named(row)} accepts most: {row['acceptance']:.4f} of the positions"


def _named(row: pd.Series[Any]) -> str:
    """Verifier and sampler; a rule of somebody's own is marked, since an acceptance says nothing about losslessness."""
    mark = "" if vouched_for(row["verifier"]) else " (not audited)"
    return f"{row['verifier']}{mark} on {row['sampler']}"


def paired_in_words(summary: pd.DataFrame, first: str, second: str) -> str:
    """The setting in which two runs differ most surely; a summary of :func:`mdsd_bounds.pipeline.paired.paired`."""
    part, where = _at_most_drafts(summary)
    best = part.iloc[int(part["difference"].abs().to_numpy().argmax())]
    verifier = f", {best['verifier']}" if best["verifier"] else ""
    sure = "" if best["ci_low"] > 0 or best["ci_high"] < 0 else ", which may be chance"
    points = 100 * abs(best["difference"])
    ahead = f"{second if best['difference'] > 0 else first} is ahead by {points:.2f}"
    if points < 0.005:
        ahead, sure = "neither is ahead by 0.01", ""
    return (
        f"{where} on the same {int(best['positions'])} positions {ahead} percentage points "
        f"({best['sampler']}{verifier}; "
        f"{_interval(best, 'ci', 100.0)}second minus first){sure}."
    )


def gaussian_in_words(table: pd.DataFrame) -> str:
    """Where the optimum of a Gaussian step is furthest above the rules beside it; rows of ``mdsd diffusion table``."""
    rules = ["d_grs", "rank_mixture", "reflection"]
    left = table["alpha_star"] - table[rules].max(axis=1)
    row = table.iloc[int(left.to_numpy().argmax())]
    best = str(row[rules].astype(float).idxmax())
    return (
        f"At a shift of {row['delta']:g} standard deviations the optimum of {_many(int(row['n']), 'draft')} accepts "
        f"{row['alpha_star']:.4f} of the steps, {100 * left.max() + 0.0:.2f} percentage points more than {best}, the "
        "best rule beside it: the largest such difference of the table."
    )


def world_in_words(table: pd.DataFrame, videos: int) -> str:
    """The method from windows that is closest to the exact distribution; rows of ``mdsd diffusion world``."""
    other = table[~table["method"].isin(["exact", "whole video"])]
    if not len(other):
        return f"{_many(len(table), 'method')}, {videos} videos each; none of them works from windows."
    best = other.iloc[int(other["energy_distance"].to_numpy().argmin())]
    text = (
        f"Of {_many(len(other), 'method')} from windows, {best['method']} comes closest to the exact distribution "
        f"(energy distance {best['energy_distance']:.3g}, {videos} videos"
    )
    exact = table[table["method"] == "exact"]
    return text + (f"; exact samples have {exact['energy_distance'].iloc[0]:.3g})." if len(exact) else ").")


def speculation_in_words(table: pd.DataFrame) -> str:
    """The tree and rule with the fewest sequential target forward passes; rows of ``mdsd diffusion speculate``."""
    best = table.iloc[int(table["target_passes"].to_numpy().argmin())]
    return (
        f"Fewest sequential target forward passes for {int(best['steps'])} steps: {best['target_passes']:.1f} "
        f"+- {best['target_passes_95']:.1f} (95%), with drafts {best['draft']}, tree {best['tree']} and rule "
        f"{best['rule']}; {best['steps_per_target_pass']:.2f} steps per target forward pass."
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _at_most_drafts(summary: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The lines at the first temperature and total variation and the largest number of drafts, and which these are."""
    part = summary[summary["temperature"] == summary["temperature"].iloc[0]]
    if "tv" in part and "mean" in part:
        part = part[part["tv"] == part["tv"].iloc[0]]
    drafts = int(part["drafts"].max())
    word = "draft" if drafts == 1 else "drafts"
    return (
        part[part["drafts"] == drafts],
        f"With {drafts} {word} at temperature {float(part['temperature'].iloc[0]):g}",
    )


def _interval(line: Any, name: str, scale: float) -> str:
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    if low != low:
        return "a single document, so no interval; "
    digits = 4 if scale == 1.0 else 2
    return f"95% interval {_number(scale * low, digits)} to {_number(scale * high, digits)}, "


def _counts(line: Any) -> str:
    """What a mean and its interval rest on; a summary made by hand may lack the documents."""
    documents, positions = int(line.get("documents", 0)), int(line["positions"])
    units = f"{counted(documents, 'document')}, " if 1 < documents < positions else ""
    return units + counted(positions, "position")


def _number(x: float, digits: int) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return f"{round(x, digits) + 0.0:.{digits}f}"
