"""What an engine accepted beside what the best rule could accept on the same pair."""

from __future__ import annotations

from dataclasses import dataclass

from mdsd_bounds.counts.rates import CONDITIONAL, AcceptanceSummary


@dataclass(frozen=True)
class BesideBound:
    """The acceptance of the first draft token beside the optimal acceptance rate of one draft.

    Attributes
    ----------
    sampler : str
        How the drafts are drawn from q.
    engine, engine_low, engine_high : float
        Conditional acceptance at position 1 with its 95% interval; NaN where the counts have no positions.
    bound, bound_low, bound_high : float
        Mean of alpha* over the dump and its 95% interval over documents (or the certified one where that is wider).
    verdict : str
        ``below``, ``within`` or ``above``, by the intervals.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, acceptance, beside_bound, counts
    >>> found = acceptance(counts("vLLM", "total", [Unit(1000, 1000, 950, (950,))]))
    >>> beside_bound(found, "with_replacement", 0.9, 0.89, 0.91).verdict
    'above'
    """

    sampler: str
    engine: float
    engine_low: float
    engine_high: float
    bound: float
    bound_low: float
    bound_high: float
    verdict: str

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        ends = f"{self.engine:.4f} [{self.engine_low:.4f}, {self.engine_high:.4f}]"
        other = f"{self.bound:.4f} [{self.bound_low:.4f}, {self.bound_high:.4f}]"
        head = f"{self.sampler.replace('_', ' ')}: first draft token accepted {ends}, bound {other}"
        if self.verdict == "below":
            return f"{head}: the engine's rule leaves {self.bound - self.engine:.4f} on the table"
        if self.verdict == "above":
            return (
                f"{head}: above the bound, so the engine drafts otherwise, is lossy, or ran at another temperature "
                "or on other text than the dump"
            )
        return f"{head}: the two agree within their intervals; nothing is shown to be left on the table"


def beside_bound(
    summary: AcceptanceSummary, sampler: str, bound: float, bound_low: float, bound_high: float
) -> BesideBound | None:
    """Set the engine's first position beside a bound; None where the counts have no positions.

    The first draft token of a step is the only one whose acceptance the dump predicts directly: later ones are reached
    where the earlier ones were accepted, which happens more often in text that is easy to draft.

    Parameters
    ----------
    summary : AcceptanceSummary
        What the engine counted.
    sampler : str
        The draft sampler of the bound, for the sentence.
    bound, bound_low, bound_high : float
        Mean of alpha* and its interval.

    Examples
    --------
    >>> from mdsd_bounds.counts import Unit, acceptance, beside_bound, counts
    >>> found = acceptance(counts("vLLM", "total", [Unit(1000, 1000, 800, (800,))]))
    >>> beside_bound(found, "with_replacement", 0.9, 0.89, 0.91).verdict
    'below'
    """
    place = summary.row(CONDITIONAL, 1)
    if place < 0:
        return None
    value, low, high = (float(column[place]) for column in (summary.value, summary.low, summary.high))
    verdict = "below" if high < bound_low else "above" if low > bound_high else "within"
    return BesideBound(sampler, value, low, high, bound, bound_low, bound_high, verdict)
