"""One page about one dump: bounds, verifiers against them, and figures, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mdsd_bounds._backend.origin import MARKER
from mdsd_bounds._backend.printable import printable
from mdsd_bounds.pipeline.tables import COMPARED, cell, summarise, summarise_comparison

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.88rem; }
th, td { padding: 0.22rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th.text, td.text { text-align: left; } thead th { border-bottom: 2px solid #444; }
.scroll { overflow-x: auto; } img { max-width: 100%; } .note { color: #555; font-size: 0.88rem; }
.lead { font-size: 1.08rem; }
"""
_BOUNDS = [
    "sampler",
    "drafts",
    "temperature",
    "positions",
    "mean",
    "certified_low",
    "certified_high",
    "ci_low",
    "ci_high",
]
_GAPS = [*COMPARED, "mc_stderr"]


def html_report(
    bounds: pd.DataFrame, comparison: pd.DataFrame | None, facts: Mapping[str, Any], version: str, run: str = ""
) -> str:
    """The page.

    Parameters
    ----------
    bounds : DataFrame
        Per-position table of bounds (:func:`mdsd_bounds.pipeline.run.run` without verifiers).
    comparison : DataFrame or None
        Per-position table with verifiers over the same dump; None where verifiers were not or cannot be compared.
    facts : mapping
        What the dump holds (:func:`mdsd_bounds.dumps.inspect_dump`).
    version : str
        Of this package, printed at the foot.
    run : str
        What identifies the run; :func:`run_of` finds it again.

    Returns
    -------
    str
        HTML with inline style and images.
    """
    summary = summarise(bounds)
    parts = [f"<h1>{_text(facts.get('path', 'dump'))}</h1>", f'<p class="lead">{_headline(summary)}</p>']
    parts += [
        "<h2>Best acceptance of any lossless verifier</h2>",
        _table(summary[_BOUNDS]),
        '<p class="note"><b>mean</b>: average over positions of alpha* = 1 + min over token sets H of '
        "(P(H) - Pr[all drafts in H]). <b>certified low</b>, <b>high</b>: average of the certified interval. "
        "<b>ci low</b>, <b>high</b>: 95% bootstrap interval over documents.</p>",
        *_by_temperature(bounds, ("acceptance_by_drafts", "sampler_wins")),
    ]
    if comparison is not None and len(comparison):
        gaps = summarise_comparison(comparison)
        parts += [
            "<h2>Verifiers against their bounds</h2>",
            f"<p>{_advice(gaps)}</p>",
            _table(gaps[_GAPS]),
            '<p class="note"><b>low</b>, <b>high</b>: 95% bootstrap interval of the acceptance over documents. '
            "<b>gap</b>: what a better verifier could still add with the same drafts. <b>share</b>: part of the bound "
            "that is attained. <b>carlo stderr</b>: error of acceptances estimated from samples; 0 where they are "
            "exact.</p>",
            *_figures(comparison, ("gap_by_temperature",)),
            *_by_temperature(comparison, ("acceptance_against_bound",)),
        ]
    rows = pd.DataFrame({"fact": list(facts), "value": [str(value) for value in facts.values()]})
    parts += ["<h2>The dump</h2>", _table(rows), f'<p class="note">mdsd_bounds {_text(version)}</p>']
    title = f"<title>{_text(facts.get('path', 'dump'))}: acceptance bounds</title>"
    origin = f'<meta name="generator" content="{MARKER}"><meta name="run" content="{_text(run)}">'
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{origin}{title}<style>{_STYLE}</style></head>'
    return head + "<body>" + "\n".join(parts) + "</body></html>\n"


def run_of(path: str) -> str | None:
    """What identifies the run of a page written before; None where there is no such page."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    found = re.search(rf'content="{MARKER}"><meta name="run" content="([^"]*)"', head)
    return found.group(1) if found and head.startswith("<!doctype html>") else None


def _headline(summary: pd.DataFrame) -> str:
    """The best sampler at the largest number of drafts, at the lowest temperature asked for."""
    part = summary[summary["temperature"] == summary["temperature"].min()]
    part = part[part["drafts"] == part["drafts"].max()]
    best = part.sort_values("mean").iloc[-1]
    return (
        f"With {int(best['drafts'])} drafts at temperature {best['temperature']:g}, the best of the draft samplers is "
        f"<b>{_plain(best['sampler'])}</b>: no lossless verifier accepts more than <b>{best['mean']:.4f}</b> of the "
        f"positions ({int(best['positions'])} positions, standard error {best['stderr']:.4f})."
    )


def _advice(gaps: pd.DataFrame) -> str:
    closest = gaps.sort_values("gap").drop_duplicates(["sampler", "drafts", "temperature"])
    worst = closest.iloc[-1]
    return (
        f"Of the verifiers compared here, the best of each setting is at most {100 * worst['gap']:.2f} percentage "
        "points below its bound "
        f"({_plain(worst['verifier'])} on {_plain(worst['sampler'])}, n = {int(worst['drafts'])}, "
        f"T = {worst['temperature']:g}); a better verifier could add that, "
        "and only a better draft what is missing beyond the bound."
    )


def _by_temperature(table: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    parts = (table[table["temperature"] == temperature] for temperature in sorted(table["temperature"].unique()))
    return [image for part in parts for image in _figures(part, names)]


def _figures(table: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots import FIGURES

    images = []
    for name in names:
        ax = FIGURES[name](table)
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
        plt.close(ax.figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        images.append(f'<p><img alt="{_plain(name)}" src="data:image/png;base64,{data}"></p>')
    return images


def _table(table: pd.DataFrame) -> str:
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    kind = ["" if number else ' class="text"' for number in numeric]
    header = "".join(f"<th{k}>{_plain(name)}</th>" for k, name in zip(kind, table.columns, strict=True))
    body = []
    for row in table.itertuples(index=False, name=None):
        cells = zip(kind, table.columns, row, strict=True)
        body.append("<tr>" + "".join(f"<td{k}>{_cell(name, value)}</td>" for k, name, value in cells) + "</tr>")
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return _text(value) if name in ("value", "fact") else _plain(value)
    return cell(name, value)


def _plain(name: Any) -> str:
    return _text(str(name).replace("_", " "))


def _text(value: Any) -> str:
    return html.escape(printable(str(value)))
