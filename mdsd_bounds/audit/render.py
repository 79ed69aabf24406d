"""Reports as text for reading and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mdsd_bounds._backend.printable import printable
from mdsd_bounds._backend.text_table import text_table
from mdsd_bounds.audit.bound_gap import in_words
from mdsd_bounds.audit.power import POWER
from mdsd_bounds.audit.report import LogReport
from mdsd_bounds.audit.rule import EXACT, RuleReport
from mdsd_bounds.audit.self_check import Checked

Table = Sequence[Sequence[str]]
_MORE = "(every test, its power, and the acceptance in every definition: --verbose)"


def log_data(report: LogReport) -> dict[str, Any]:
    """A log's report as plain data."""
    return _document(
        {
            "verdict": verdict(report),
            "lossy": report.lossy,
            "alpha": report.alpha,
            "positions": report.positions,
            "loss": None if report.loss is None else asdict(report.loss),
            "tests": [{**asdict(test), "outcome": test.outcome} for test in report.tests],
            "evidence": [asdict(witness) for witness in report.witnesses],
            "power": [{**asdict(found), "probability": POWER} for found in report.power],
            "acceptance": [asdict(figure) for figure in report.figures],
            "n_drafts": [asdict(gain) for gain in report.marginal_gains],
            "log_wealth": report.output.running.tolist()[-1],
            "notes": list(report.notes),
        }
    )


def rule_data(report: RuleReport) -> dict[str, Any]:
    """A rule's report as plain data."""
    return _document(
        {
            "verdict": _rule_verdict(report),
            "verifier": report.name,
            "lossy": report.lossy,
            "enumeration": [{**asdict(row), "lossless": row.lossless} for row in report.enumerated],
            "steps": [{"log": name, **log_data(part)} for name, part in report.steps],
            "bound": [asdict(gap) for gap in report.gaps],
        }
    )


def check_data(checked: list[Checked]) -> dict[str, Any]:
    """A self-check as plain data."""
    return _document(
        {
            "as_known": all(row.as_known for row in checked),
            "rules": [
                {
                    "rule": row.rule.name,
                    "sampler": row.counted.sampler,
                    "lossless": row.rule.lossless,
                    "defect": row.counted.defect,
                    "flagged_by_enumeration": not row.counted.lossless,
                    "flagged_by_log": row.report.lossy,
                    "flagged_after": row.report.tests[0].decided_at,
                    "chi_square_p": row.report.chi.p_value,
                    "as_known": row.as_known,
                }
                for row in checked
            ],
        }
    )


def verdict(report: LogReport) -> str:
    """One line."""
    if report.lossy:
        which = ", ".join(test.name for test in report.tests if test.refutes)
        return f"LOSSY: refuted by {which} (false-alarm rate {report.alpha:g})"
    return f"not refuted: {report.positions} positions are what a lossless rule may write (level {report.alpha:g})"


def _rule_verdict(report: RuleReport) -> str:
    """One line."""
    bad = [row for row in report.enumerated if not row.lossless]
    if bad:
        worst = max(bad, key=lambda row: row.defect)
        return (
            f"LOSSY: by enumeration its output distribution is off by {worst.defect:.3g} "
            f"({worst.sampler}, n={worst.drafts}, {worst.row})"
        )
    if any(part.lossy for _, part in report.steps):
        where = "; ".join(name for name, part in report.steps if part.lossy)
        how = (
            "its distribution is lossless but its steps do not follow it" if report.enumerated else "its steps show it"
        )
        return f"LOSSY: {how} ({where})"
    if not report.enumerated:
        return "not refuted: the rule gives steps only, and they are what a lossless rule may do"
    worst = max(report.enumerated, key=lambda row: row.defect)
    return f"lossless on every enumerated row (largest defect {worst.defect:.2g} <= {EXACT:g}); its steps agree"


def log_text(report: LogReport, verbose: bool = True) -> str:
    """A log's report for reading; the verdict, its tests and its evidence alone where it is not ``verbose``."""
    parts = [f"verdict: {verdict(report)}", *_loss(report), "", "tests", _tests(report)]
    if report.lossy and report.witnesses:
        rows = [
            [
                str(w.place), str(w.doc), str(w.token), _number(w.p, 4), _number(w.q, 4),
                "-" if w.rank < 0 else str(w.rank + 1), f"x {np.exp(min(w.evidence, 700)):.3g}", w.why,
            ]
            for w in report.witnesses
        ]  # fmt: skip
        head = ["line", "doc", "token", "p", "q", "draft", "wealth", "of"]
        parts += ["", "positions that weigh most against the rule", _aligned([head, *rows])]
    if not verbose:
        return "\n".join([*parts, "", _MORE])
    parts += ["", f"power: smallest mean TV(output, p) seen with probability {POWER:g}", _power(report)]
    rows = [[figure.name, _number(figure.value, 5), figure.definition] for figure in report.figures]
    parts += ["", "acceptance, as it is variously defined", _aligned(rows)]
    rows = [
        [str(x.drafts), _number(x.bound, 5), _number(x.gain, 5), _number(x.observed, 5), str(x.positions)]
        for x in report.marginal_gains
    ]
    head = ["n", "alpha* (bound)", "gain", "observed in the first n", "positions with n drafts"]
    parts += ["", "marginal gain by number of drafts", _aligned([head, *rows])]
    if report.notes:
        parts += ["", *(f"note: {printable(note)}" for note in report.notes)]
    return "\n".join(parts)


def rule_text(report: RuleReport, verbose: bool = True) -> str:
    """A rule's report for reading; without the tests on its steps where it is not ``verbose``."""
    parts = [f"verdict: {printable(report.name)}: {_rule_verdict(report)}"]
    if report.gaps:
        head = ["sampler", "n", "rows", "acceptance", "bound", "gap", "95% interval of the gap", "Monte Carlo error"]
        rows = [
            [
                x.sampler, str(x.drafts), str(x.positions), f"{x.acceptance:.5f}", f"{x.bound:.5f}", f"{x.gap:.5f}",
                "-" if x.ci_low != x.ci_low else f"{x.ci_low:.5f} to {x.ci_high:.5f}", f"{x.mc_stderr:.5f}",
            ]
            for x in report.gaps
        ]  # fmt: skip
        parts += [f"bound: {in_words(report.gaps)}", "", "acceptance on the rows of the dump", _aligned([head, *rows])]
    if report.enumerated:
        head = [
            "sampler",
            "n",
            "rows",
            "largest |distribution - p|",
            "largest TV",
            "acceptance - alpha*",
            "worst row",
            "verdict",
        ]
        rows = [
            [
                row.sampler, str(row.drafts), str(row.rows), f"{row.defect:.2e}", f"{row.tv:.2e}",
                f"{row.excess + 0.0:.1e}", row.row, "lossless" if row.lossless else "LOSSY",
            ]
            for row in report.enumerated
        ]  # fmt: skip
        parts += ["", "enumeration of every draft tuple", _aligned([head, *rows])]
        worst = max(report.enumerated, key=lambda row: row.defect)
        if not worst.lossless:
            parts += ["", f"worst row ({worst.sampler}, n={worst.drafts}, {worst.row})"]
            parts.append(
                _aligned(
                    [
                        ["p", *_distributions(worst.p)],
                        ["q", *_distributions(worst.q)],
                        ["output", *_distributions(worst.probs)],
                    ]
                )
            )
    if not verbose:
        shown = [[f"  {name}", verdict(part)] for name, part in report.steps]
        return "\n".join([*parts, "", "steps", _aligned(shown), "", _MORE])
    for name, part in report.steps:
        parts += ["", f"steps on {name}: {verdict(part)}", *_loss(part), _tests(part)]
        parts.append("detectable TV: " + _power_line(part))
        if part.lossy:
            parts += [f"note: {note}" for note in part.notes]
    return "\n".join(parts)


def check_text(checked: list[Checked]) -> str:
    """A self-check for reading."""
    head = ["rule", "sampler", "known", "defect", "enumeration", "log", "flagged after", "chi-square p"]
    rows = []
    for row in checked:
        at = row.report.tests[0].decided_at
        rows.append(
            [
                row.rule.name,
                row.counted.sampler,
                "lossless" if row.rule.lossless else "lossy",
                f"{row.counted.defect:.1e}",
                "lossless" if row.counted.lossless else "LOSSY",
                "LOSSY" if row.report.lossy else "not refuted",
                "-" if at is None else str(at + 1),
                f"{row.report.chi.p_value:.2g}",
            ]
        )
    good = all(row.as_known for row in checked)
    outcome = "all as known" if good else "NOT all as known: the audit itself is broken"
    return "\n".join([f"self-check: {outcome}", "", _aligned([head, *rows])])


def _loss(report: LogReport) -> list[str]:
    """What the acceptances say of the distance, in one line."""
    if report.loss is None:
        return []
    meter = report.loss
    shown = f"at least {meter.low:.4f} of total variation from the target" if meter.low > 0 else "none shown"
    return [
        f"loss: {shown} ({100 * (1 - meter.level):g}%, at any time); mean acceptance - mean alpha* = "
        f"{meter.difference:+.5f} over {meter.positions} positions"
    ]


def _tests(report: LogReport) -> str:
    rows = [
        [
            f"  {test.name}",
            test.outcome,
            "" if test.refutes is None else f"p <= {min(test.value, 1.0):.3g}, level {test.threshold:.3g};",
            test.statement,
        ]
        for test in report.tests
    ]
    return _aligned(rows)


def _power(report: LogReport) -> str:
    head = ["  direction", "chi-square", "any time", "TV of the whole way"]
    rows = [[f"  {x.direction}", _seen(x.chi_square), _seen(x.wealth), f"{x.whole:.4g}"] for x in report.power]
    return _aligned([head, *rows])


def _power_line(report: LogReport) -> str:
    return "; ".join(
        f"{x.direction} {_seen(x.chi_square)} (chi-square), {_seen(x.wealth)} (any time)" for x in report.power
    )


def _seen(x: float | None) -> str:
    return "not even all of it" if x is None else f"{x:.4g}"


def _distributions(x: Any) -> list[str]:
    if x and isinstance(x[0], list | tuple):
        return ["; ".join(" ".join(f"{v:.4g}" for v in row) for row in x)]
    return [f"{v:.6g}" for v in x]


def _number(x: float | None, digits: int) -> str:
    return "-" if x is None else f"{x:.{digits}g}"


def _aligned(rows: Table) -> str:
    return text_table([], rows)


def _document(x: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in x.items()}


def _plain(x: Any) -> Any:
    """Only what JSON knows: infinities and NaN become null, numpy numbers plain ones."""
    if isinstance(x, dict):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float) and not np.isfinite(x):
        return None
    return x
