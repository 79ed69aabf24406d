"""The verdict on a log: every test, its evidence, the positions that show it, and what it could have seen.

False alarms: the level ``alpha`` is shared equally by the three tests that can reject the null (wealth against "the
output has distribution p", chi-square, wealth against "acceptance is at most alpha*"), so that a lossless rule is
called lossy with probability at most alpha.  For the two wealth processes that holds at any stopping time; for the
chi-square it holds asymptotically, for a log whose length was not chosen by looking at it.  The check of the drafts
stands guard: it can only withdraw the bound test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdsd_bounds.audit.bound_test import BoundTest, bound_test
from mdsd_bounds.audit.cells import IMPOSSIBLE, Ints
from mdsd_bounds.audit.chi_square import ChiSquare, chi_square
from mdsd_bounds.audit.definitions import Figure, MarginalGain, acceptance_figures, marginal_gains
from mdsd_bounds.audit.draft_check import draft_check
from mdsd_bounds.audit.loss_meter import LossMeter, loss_meter
from mdsd_bounds.audit.martingale import Wager, wager
from mdsd_bounds.audit.positions import Positions
from mdsd_bounds.audit.power import Detectable, detectable, towards_draft, towards_probable
from mdsd_bounds.problem import InputError

#: Tests that can reject the null and share the level.
TESTS = 3
#: Level at which the drafts are taken not to follow the sampler: withdrawing the bound test wrongly costs power only.
_GUARD = 0.05
#: Positions shown as evidence.
SHOWN = 5


@dataclass(frozen=True)
class Test:
    """One test: its statistic in words, whether it rejects, and the threshold it was held against.

    ``refutes`` is None where the test was withdrawn, as what it assumes does not hold; then ``value`` says nothing and
    is NaN.
    """

    name: str
    statement: str
    value: float
    threshold: float
    refutes: bool | None
    decided_at: int | None = None

    @property
    def outcome(self) -> str:
        """``LOSSY``, ``not refuted`` or ``withdrawn``."""
        return "withdrawn" if self.refutes is None else "LOSSY" if self.refutes else "not refuted"


@dataclass(frozen=True)
class Witness:
    """One position that shows it: where it stands in the log, and what was output there."""

    place: int
    doc: int
    token: int
    p: float | None
    q: float | None
    rank: int
    evidence: float
    why: str


@dataclass(frozen=True)
class LogReport:
    """Verdict on N positions.

    Attributes
    ----------
    lossy : bool
        Whether a test rejects the null at level ``alpha``.
    tests, witnesses, power, figures, marginal_gains, notes : tuple
        The evidence, printed in this order.
    output, drafts : Wager
        Wealth on the output and (None where nothing can be said) on the drafts.
    chi : ChiSquare
    bound : BoundTest or None
    loss : LossMeter or None
        How far the output is from p at the least; None where alpha* is not known or the drafts are not the sampler's.

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.audit import from_arrays, judge
    >>> token = np.zeros(500, int)
    >>> report = judge(from_arrays(np.array([[0.1, 0.9]]), None, token[:, None], token, row=token))
    >>> report.lossy, report.positions
    (True, 500)
    """

    lossy: bool
    alpha: float
    positions: int
    tests: tuple[Test, ...]
    witnesses: tuple[Witness, ...]
    power: tuple[Detectable, ...]
    figures: tuple[Figure, ...]
    marginal_gains: tuple[MarginalGain, ...]
    notes: tuple[str, ...]
    output: Wager
    chi: ChiSquare
    drafts: Wager | None
    bound: BoundTest | None
    loss: LossMeter | None = None


def judge(positions: Positions, alpha: float = 0.01, notes: tuple[str, ...] = ()) -> LogReport:
    """Run every test on a log.

    Parameters
    ----------
    positions : Positions
        At least one.
    alpha : float
        Probability, in (0, 0.5], with which a lossless rule may be called lossy.
    notes : tuple of str
        Remarks of the reader, printed with the report.

    Raises
    ------
    InputError
        If there are no positions or alpha is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from mdsd_bounds.audit import from_arrays, judge
    >>> rng = np.random.default_rng(0)
    >>> p, q = np.tile([0.9, 0.1], (500, 1)), np.tile([0.5, 0.5], (500, 1))
    >>> drafts = rng.integers(0, 2, (500, 1))
    >>> judge(from_arrays(p, q, drafts, drafts[:, 0])).lossy
    True
    """
    if not 0 < alpha <= 0.5:
        raise InputError(f"--alpha {alpha}: give a false-alarm rate in (0, 0.5], for example 0.01")
    if len(positions) == 0:
        raise InputError("no positions to audit: the log is empty")
    level = alpha / TESTS
    places = positions.place_mass, positions.output_place
    output = wager(positions.p_mass, positions.cell, positions.tolerance, positions.drifts, places)
    chi = chi_square(positions.p_mass, positions.cell, positions.tolerance)
    drafts = draft_check(positions)
    sound = drafts is None or drafts.crossed(_GUARD) is None
    bound = bound_test(positions, level / 2)
    tests = [
        _wealth_test("output distribution (any time)", output, level, np.arange(len(positions))),
        Test(
            "output distribution (chi-square)",
            f"X = {chi.statistic:.4g} on {chi.freedom} degrees of freedom"
            if chi.freedom
            else "too few positions for two groups of cells; not run",
            chi.p_value,
            level,
            chi.p_value < level,
        ),
    ]
    remarks = list(notes)
    if bound is not None:
        # Wealth and confidence sequence share the test's level.
        test = _wealth_test("acceptance <= alpha*", bound.wager, level / 2, bound.positions)
        statement = (
            f"acceptance {bound.acceptance:.5f} (anytime interval {bound.low:.5f} to {bound.high:.5f}), "
            f"mean alpha* {bound.bound:.5f} over {len(bound.positions)} positions; {test.statement}"
        )
        above = bound.low > bound.bound
        if sound:
            refutes = bool(test.refutes) or above
            tests.append(Test(test.name, statement, test.value, level / 2, refutes, test.decided_at))
        else:
            statement = f"the drafts do not follow the stated sampler; {statement}"
            tests.append(Test(test.name, statement, float("nan"), level / 2, None))
            remarks.append("the drafts do not follow the stated sampler: the bound test is withdrawn; name the sampler")
    else:
        remarks.append("no bound test: it needs q, the drafts and the sampler (log them, or give --sampler)")
    if drafts is not None and not sound:
        remarks.append(f"drafts against the sampler: wealth {_power_of_ten(drafts.peak)}; {drafts.leader}")
    remarks.extend(_facts(positions))
    return LogReport(
        any(bool(test.refutes) for test in tests),
        alpha,
        len(positions),
        tuple(tests),
        tuple(_witnesses(positions, output, bound)),
        tuple(_power(positions, chi, output.families, level)),
        tuple(acceptance_figures(positions)),
        tuple(marginal_gains(positions)),
        tuple(remarks),
        output,
        chi,
        drafts,
        bound,
        # What a lossy rule does to the tokens that were left out is not known.
        loss_meter(positions) if sound and not positions.draft_slack.any() else None,
    )


def _wealth_test(name: str, won: Wager, level: float, index: Ints) -> Test:
    first = won.crossed(level)
    at = None if first is None else int(index[first])
    when = "" if at is None else f", reached after {at + 1} positions"
    return Test(
        name,
        f"wealth {_power_of_ten(won.peak)} at its peak, 1/level is {1 / level:.4g}{when}; leading bet: {won.leader}",
        float(np.exp(-won.peak)),
        level,
        first is not None,
        at,
    )


def _power_of_ten(log: float) -> str:
    if log == np.inf:
        return "infinite (a proof)"
    return f"{np.exp(log):.4g}" if log < 16 else f"10^{log / np.log(10):.1f}"


def _facts(positions: Positions) -> list[str]:
    flagged = positions.flag >= 0
    differ = flagged & (positions.flag != positions.accepted)
    remarks = []
    if bool(differ.any()):
        first = int(positions.place[differ][0])
        remarks.append(
            f"the engine's own 'accepted' differs from 'the output is one of the drafts' at {int(differ.sum())} of "
            f"{int(flagged.sum())} positions (first at {first}); the figures here use the latter"
        )
    none = positions.cell == IMPOSSIBLE
    if bool(none.any()):
        remarks.append(
            f"{int(none.sum())} outputs have p = 0, which no lossless rule outputs; if p was cut (top-p, top-k) or "
            "rounded otherwise than in the engine, give --tolerance"
        )
    if float(positions.tolerance.max()) > 1e-4:
        remarks.append(
            f"p is taken to be known to within {float(positions.tolerance.max()):.2g} in total variation (rounding of "
            "the log or --tolerance); deviations below that are not seen"
        )
    if not bool((positions.q_mass.sum(1) > 0).all()):
        remarks.append("q is not known at every position: there the tests use p alone")
    return remarks


def _witnesses(positions: Positions, output: Wager, bound: BoundTest | None) -> list[Witness]:
    gains = output.steps.copy()
    reason = np.full(len(gains), "output", dtype=object)
    if bound is not None:
        steps = bound.wager.steps
        better = steps > gains[bound.positions]
        gains[bound.positions[better]] = steps[better]
        reason[bound.positions[better]] = "acceptance"
    order = np.argsort(-gains, kind="stable")[:SHOWN]
    return [
        Witness(
            int(positions.place[i]),
            int(positions.doc[i]),
            int(positions.token[i]),
            _known(positions.p_token[i]),
            _known(positions.q_token[i]),
            int(positions.rank[i]),
            float(gains[i]),
            str(reason[i]),
        )
        for i in order
        if gains[i] > 0
    ]


def _power(positions: Positions, chi: ChiSquare, families: int, level: float) -> list[Detectable]:
    mass = positions.p_mass
    found = []
    if bool(np.isfinite(positions.distance).any()):
        known = np.nan_to_num(positions.distance)
        other = towards_draft(mass, positions.q_mass)
        found.append(detectable("towards the draft", mass, other, known, positions.tolerance, chi, families, level))
    other = towards_probable(mass)
    distance = np.clip(other - mass, 0, None).sum(1)
    found.append(detectable("towards the probable", mass, other, distance, positions.tolerance, chi, families, level))
    return found


def _known(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
