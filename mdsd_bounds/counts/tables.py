"""An acceptance summary as lines, table, CSV or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mdsd_bounds._backend.printable import counted
from mdsd_bounds.counts.beside_bound import BesideBound
from mdsd_bounds.counts.rates import FEW, LENGTH, LENGTH_WITH_BONUS, RATE, AcceptanceSummary

_MEANING = {
    RATE: "accepted draft tokens / draft tokens",
    LENGTH: "accepted draft tokens / steps",
    LENGTH_WITH_BONUS: "1 + accepted draft tokens / steps",
    "position": "steps accepted up to here / steps",
    "conditional": "accepted here / accepted up to the one before",
}


def rows(summary: AcceptanceSummary) -> list[dict[str, Any]]:
    """One record for each definition: quantity, position, value, interval, counts and meaning."""
    return [
        {
            "quantity": name,
            "position": int(summary.position[place]),
            "value": float(summary.value[place]),
            "ci_low": float(summary.low[place]),
            "ci_high": float(summary.high[place]),
            "numerator": float(summary.numerator[place]),
            "denominator": float(summary.denominator[place]),
            "meaning": _MEANING[name],
        }
        for place, name in enumerate(summary.quantity)
    ]


def conclusion(summary: AcceptanceSummary) -> str:
    """The first line: who counted what, and the two numbers most asked for."""
    parts = []
    for name, text in ((RATE, "accepted/drafted"), (LENGTH_WITH_BONUS, "mean length with the bonus token")):
        place = summary.row(name)
        if place >= 0:
            low, high = summary.low[place], summary.high[place]
            parts.append(f"{text} {summary.value[place]:.4f} [{low:.4f}, {high:.4f}]")
    units = counted(len(summary.counts), summary.counts.unit)
    return f"{summary.counts.engine}, {units}: {', '.join(parts)} (95%)"


def as_json(summary: AcceptanceSummary, beside: Sequence[BesideBound] = ()) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "engine": summary.counts.engine,
        "unit": summary.counts.unit,
        "units": len(summary.counts),
        "level": 0.95,
        "intervals": summary.basis,
        "rates": rows(summary),
        "beside_bound": [vars(one) for one in beside],
        "notes": list(summary.counts.notes),
    }


def as_table(summary: AcceptanceSummary) -> pd.DataFrame:
    """The definitions as a table."""
    return pd.DataFrame(rows(summary))


def as_text(summary: AcceptanceSummary, beside: Sequence[BesideBound] = ()) -> str:
    """The conclusion, the table of all definitions, and what the intervals rest on."""
    lines = [conclusion(summary), *(one.sentence for one in beside), ""]
    header = ("quantity", "position", "value", "95% interval", "counts", "meaning")
    body = []
    for row in rows(summary):
        # Where lengths and no counts were printed, what is pooled is only as good as their weights.
        about = "~" if summary.counts.rounding else ""
        counted = f"{about}{row['numerator']:.10g}/{row['denominator']:.10g}"
        place = str(row["position"]) if row["position"] else "-"
        ends = f"{row['ci_low']:.4f} to {row['ci_high']:.4f}"
        body.append((row["quantity"], place, f"{row['value']:.4f}", ends, counted, row["meaning"]))
    widths = [max(len(line[i]) for line in (header, *body)) for i in range(len(header))]
    for line in (header, tuple("-" * width for width in widths), *body):
        cells = [
            cell.rjust(width) if 1 <= place <= 4 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", f"intervals: {summary.basis}", *_if_few(summary)])


def _if_few(summary: AcceptanceSummary) -> list[str]:
    """With few units their interval is wide, and what independent steps would give is of use beside it."""
    if not 2 <= len(summary.counts) < FEW:
        return []
    parts = [
        f"{name} {summary.steps_low[place]:.4f} to {summary.steps_high[place]:.4f}"
        for name in (RATE, LENGTH_WITH_BONUS)
        if (place := summary.row(name)) >= 0
    ]
    return [
        f"so few {summary.counts.unit}s leave much open; were all verification steps independent, which they are not: "
        + ", ".join(parts)
    ]
