"""The page about one dump: the answer, the gap figure, tables that sort and fold, positions, provenance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdsd_bounds._backend.origin import MARKER
from mdsd_bounds._backend.printable import counted
from mdsd_bounds.pipeline.tables import few_documents, summarise_comparison
from mdsd_bounds.report.answer import ATTAINED, WORTH, Answer, best_others, sampler_lines
from mdsd_bounds.report.figures import figure
from mdsd_bounds.report.html import Column, code, fold, interval, number, table, text
from mdsd_bounds.report.positions import Explored, Name, positions_html
from mdsd_bounds.verifiers.registry import vouched_for

_HERE = Path(__file__).parent


def html_report(
    bounds: pd.DataFrame,
    comparison: pd.DataFrame | None,
    answers: Sequence[Answer],
    facts: Mapping[str, Any],
    version: str,
    run: str = "",
    explored: Sequence[Explored] = (),
    name: Name | None = None,
) -> str:
    """The page.

    Parameters
    ----------
    bounds : DataFrame
        Per-position table of bounds (:func:`mdsd_bounds.pipeline.run.run` without verifiers).
    comparison : DataFrame or None
        Per-position table with verifiers over the same dump; None where verifiers were not or cannot be compared.
    answers : sequence of Answer
        One for each temperature (:func:`mdsd_bounds.report.answer`); the page leads with the first.
    facts : mapping
        What the dump holds (:func:`mdsd_bounds.dumps.inspect_dump`).
    version : str
        Of this package, printed at the foot.
    run : str
        What identifies the run; :func:`run_of` finds it again.
    explored : sequence of Explored
        Positions (:func:`mdsd_bounds.report.explore`).
    name : callable, optional
        What a token is called (:func:`mdsd_bounds.report.read_tokenizer`).

    Returns
    -------
    str
        HTML with inline style, script and figures; it asks for no other file.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> from mdsd_bounds.pipeline import Settings
    >>> from mdsd_bounds.pipeline.run import run
    >>> from mdsd_bounds.report import answer, html_report
    >>> bounds = run(load_example(), Settings(("with_replacement",), (1, 2)), limit=8)
    >>> page = html_report(bounds, None, [answer(bounds, None, 1.0)], {"path": "my_dump"}, "0.1.0")
    >>> page.startswith("<!doctype html>"), "<h1>my_dump</h1>" in page
    (True, True)
    """
    path = str(facts.get("path", "dump"))
    # Of one dump, or of a target and a draft.
    title = ", ".join(Path(part).name or part for part in path.split(","))
    compared = comparison if comparison is not None and len(comparison) else None
    parts = [f"<header><h1>{text(title)}</h1>{_nav(compared, explored)}</header>", "<main>"]
    parts += [_answer(answers[0], compared), *_others(answers)]
    parts += _figures(bounds, compared)
    parts += ['<h2 id="tables">Tables</h2>', *_tables(bounds, compared)]
    if answers[0].logs is not None:
        parts += ['<h2 id="trees">Draft trees</h2>', decoded_trees(answers[0].logs)]
    if explored:
        parts += [
            '<section id="positions"><h2>Positions</h2>',
            f"<p>The {len(explored)} positions at which the recommended rule accepts least"
            ", with one draw of drafts each (seeded by the row).</p>",
            '<p class="keys">Keys: <kbd>j</kbd> next, <kbd>k</kbd> previous position.</p>',
            positions_html(explored, name),
            "</section>",
        ]
    parts += ['<h2 id="dump">The dump</h2>', _provenance(facts), "</main>"]
    parts.append(f'<footer><p class="note">Made by mdsd_bounds {text(version)}.</p></footer>')
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{MARKER}"><meta name="run" content="{text(run)}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}: acceptance bounds</title><style>{(_HERE / 'page.css').read_text()}</style></head>"
    )
    script = (_HERE / "page.js").read_text()
    return f"{head}<body>{chr(10).join(parts)}<script>{script}</script></body></html>\n"


def run_of(path: str) -> str | None:
    """What identifies the run of a page written before; None where there is no such page.

    Examples
    --------
    >>> from mdsd_bounds.report import run_of
    >>> run_of("no_such_report.html") is None
    True
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(1024).decode("utf-8", "replace")
    except OSError:
        return None
    found = re.search(rf'content="{MARKER}"><meta name="run" content="([^"]*)"', head)
    return found.group(1) if found and head.startswith("<!doctype html>") else None


def _nav(compared: pd.DataFrame | None, explored: Sequence[Explored]) -> str:
    places = [("figures", "Figures"), ("tables", "Tables"), ("positions", "Positions"), ("dump", "The dump")]
    links = [f'<a href="#{place}">{name}</a>' for place, name in places if place != "positions" or explored]
    return f'<nav aria-label="Parts of the page">{"".join(links)}</nav>'


def _percent(value: float, digits: int = 2) -> str:
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def _range(difference: tuple[float, float, float]) -> str:
    """A difference in percentage points with its interval."""
    _, low, high = difference
    known = f" [{_percent(low)}, {_percent(high)}]" if low == low else ""
    return f"{_percent(difference[0])}{known}"


def _answer(found: Answer, compared: pd.DataFrame | None) -> str:
    """The first sentence and the recommendation."""
    setting = f"With {counted(found.drafts, 'draft')} at temperature {found.temperature:g}"
    where = f"{counted(found.positions, 'position')} of {counted(found.documents, 'document')}"
    few = "".join(f" Note: {line}." for line in few_documents(found.documents))
    ceiling = (
        f"no lossless verifier with any of the samplers compared can accept more than "
        f"<b>{_percent(found.bound)}%</b> ({code(found.best_sampler)})"
    )
    if not found.verifier:
        lead = f"{setting}, {ceiling}, over {where}."
    elif found.left[0] <= ATTAINED:
        lead = (
            f"{setting}, {code(found.verifier)} on {code(found.sampler)} accepts <b>{_percent(found.acceptance)}%</b>, "
            f"which is the bound: {ceiling}. <b>Nothing is left on the table</b> for another verifier or one of these "
            "samplers; only a better draft could add more."
        )
        other = None if compared is None else best_others(compared, found)
        if other is not None:
            lead += (
                f" The best other rule, {code(other['verifier'])} on {code(other['sampler'])}, accepts "
                f"{_percent(float(other['acceptance']))}%."
            )
    else:
        lead = (
            f"{setting}, {code(found.verifier)} on {code(found.sampler)} accepts "
            f"<b>{_percent(found.acceptance)}%</b>; {ceiling}. "
            f"<b>{_percent(found.left[0])} percentage points are left on the table</b>; "
            "beyond the bound only a better draft could add more."
        )
    items = "".join(
        f"<div><dt>{head}</dt><dd>{value}<small>{more}</small></dd></div>" for head, value, more in _items(found)
    )
    return (
        f'<p class="lead">{lead}</p><dl class="answer">{items}</dl>'
        f'<p class="note">Over {where}. Brackets are 95% intervals over documents (bootstrap), paired by position '
        "where two things are compared; without brackets there is one document, which says nothing about the next."
        f"{few}</p>"
    )


def _items(found: Answer) -> list[tuple[str, str, str]]:
    """(what, the recommendation, why) in HTML."""
    items = []
    if found.verifier:
        items.append(("Left on the table", f"{_range(found.left)}", "percentage points below the best sampler's bound"))
    sampler = found.sampler if found.verifier else found.best_sampler
    why = ""
    if found.second is not None:
        name, *difference = found.second
        why = f"highest bound: {code(found.best_sampler)}, {_range((difference[0], difference[1], difference[2]))} "
        why += f"percentage points above {code(name)}"
    items.append(("Sampler", code(sampler), why))
    if found.verifier:
        accepts = f"accepts {_percent(found.acceptance)}% of positions"
        if not vouched_for(found.verifier):
            accepts += f"; nobody has checked that it is lossless: {code(f'mdsd audit --verifier {found.verifier}')}"
        items.append(("Verifier", code(found.verifier), accepts))
    more = (
        "largest number of drafts requested; any smaller one requested would lose at least "
        f"{_percent(WORTH, 0)} percentage point"
    )
    if found.more is not None:
        n, *difference = found.more
        added = _range((difference[0], difference[1], difference[2]))
        more = f"going to {n} adds {added} percentage points"
    items.append(("Drafts n", str(found.drafts), more))
    items.append(("Tree", *_tree(found)))
    return items


def _tree(found: Answer) -> tuple[str, str]:
    tree = found.tree
    if tree is None:
        return "–", "needs verifiers, and numbers of drafts 1, 2, ... without gaps (--drafts 1,2,3,4)"
    rule = f"{code(tree['verifier'])} on {code(tree['sampler'])}, {tree['nodes']} nodes: {tree['tokens']:.2f} tokens"
    rule += " per target forward pass"
    if "speed" in tree:
        gain = f"{tree['speed'] / tree['alone']:.2f} times the speed of no drafts, by the costs given"
        return text(tree["name"]), f"{rule}; {gain}"
    option = '<span class="option">--draft-cost</span>'
    return text(tree["name"]), (
        f"{rule}, assuming {counted(tree['nodes'], 'node')} cost the same as one; give {option} to rank by speed"
    )


def _others(answers: Sequence[Answer]) -> list[str]:
    """The recommendation at every temperature, where there are several."""
    if len(answers) < 2:
        return []
    columns = [
        Column("temperature", lambda a: f"{a.temperature:g}", lambda a: a.temperature),
        Column("sampler", lambda a: code(a.sampler), lambda a: a.sampler),
        Column("verifier", lambda a: code(a.verifier or "–"), lambda a: a.verifier),
        Column("n", lambda a: str(a.drafts), lambda a: a.drafts),
        Column("acceptance, %", lambda a: _percent(a.acceptance), lambda a: a.acceptance),
        Column("left, percentage points", lambda a: _range(a.left), lambda a: a.left[0]),
    ]
    return [table(answers, columns, "The same question at every temperature")]


def _figures(bounds: pd.DataFrame, compared: pd.DataFrame | None) -> list[str]:
    facet = "temperature" if bounds["temperature"].nunique() > 1 else None
    parts = ['<h2 id="figures">Figures</h2>']
    gap = "What each verifier leaves below its bound, in percentage points, by number of drafts; 95% intervals."
    level = "The most that any lossless verifier accepts, by sampler and number of drafts; 95% intervals."
    wins = "Share of positions at which each sampler has the highest bound."
    if compared is not None:
        parts.append(figure("gap_by_drafts", compared, facet, gap))
        parts.append(fold("Bounds of the samplers", figure("acceptance_by_drafts", bounds, facet, level)))
    else:
        parts.append(figure("acceptance_by_drafts", bounds, facet, level))
    if bounds["sampler"].nunique() > 1:
        parts.append(fold("Which sampler wins where", figure("sampler_wins", bounds, facet, wins)))
    if compared is not None:
        points = "Each position: acceptance of each verifier against its bound, at the largest n."
        parts.append(fold("Every position", figure("acceptance_against_bound", compared, facet, points)))
    return parts


def _tables(bounds: pd.DataFrame, compared: pd.DataFrame | None) -> list[str]:
    parts = []
    setting = [
        Column("sampler", lambda row: code(row["sampler"]), lambda row: row["sampler"]),
        Column("n", lambda row: str(row["drafts"]), lambda row: row["drafts"]),
        Column("T", lambda row: f"{row['temperature']:g}", lambda row: row["temperature"]),
    ]
    if compared is not None:
        gaps = summarise_comparison(compared[compared["acceptance"].notna()])
        gaps = gaps.sort_values("acceptance", ascending=False, kind="stable")
        rows: list[Any] = gaps.sort_values(["temperature", "drafts"], kind="stable").to_dict("records")
        exact = all(row["mc_stderr"] == 0 for row in rows)
        columns = [
            setting[0],
            Column("verifier", lambda row: code(row["verifier"]), lambda row: row["verifier"]),
            *setting[1:],
            Column("acceptance", lambda row: number(row["acceptance"], 5), lambda row: row["acceptance"]),
            Column("bound", lambda row: number(row["bound"], 5), lambda row: row["bound"]),
            Column(
                "gap, percentage points",
                lambda row: f"{_range((row['gap'], row['gap_ci_low'], row['gap_ci_high']))}",
                lambda row: row["gap"],
            ),
            Column("share of the bound, %", lambda row: _percent(row["share"], 1), lambda row: row["share"]),
        ]
        if not exact:
            columns.append(
                Column(
                    "Monte Carlo std. error",
                    lambda row: number(row["mc_stderr"], 5) if row["mc_stderr"] else "exact",
                    lambda row: row["mc_stderr"],
                )
            )
        caption = "Of each n the highest acceptance first. The gap's 95% interval is paired by position."
        parts.append(fold(f"Verifiers against their bounds ({len(rows)} rows)", table(rows, columns, caption), True))
    lines = sampler_lines(bounds).to_dict("records")
    columns = [
        *setting,
        Column("bound", lambda row: number(row["mean"], 5), lambda row: row["mean"]),
        Column(
            "95% interval", lambda row: interval(row["ci_low"], row["ci_high"], 4) or "–", lambda row: row["ci_low"]
        ),
        Column("certified width", lambda row: f"{row['certified']:.1e}", lambda row: row["certified"]),
    ]
    caption = (
        "Best acceptance of any lossless verifier: the mean over positions of alpha* = 1 + min over token sets H of "
        "(P(H) − Pr[all drafts in H]). Certified width: what rounding, quadrature and truncated rows leave open."
    )
    parts.append(fold(f"Bounds of the samplers ({len(lines)} rows)", table(lines, columns, caption), compared is None))
    return parts


def decoded_trees(logs: pd.DataFrame) -> str:
    """Table of what draft trees gave when text was decoded (:func:`mdsd_bounds.trees.log.summary_table`)."""

    def column(head: str, name: str, low: str, high: str, scale: float = 1.0) -> Column:
        def cell(row: Mapping[str, Any]) -> str:
            if (value := row.get(name, float("nan"))) != value:
                return "–"
            return f"{number(scale * value, 3)} {interval(scale * row[low], scale * row[high], 3)}"

        return Column(head, cell, lambda row: row.get(name, float("nan")))

    columns = [
        Column("rule", lambda row: code(row["rule"]), lambda row: row["rule"]),
        Column("log", lambda row: text(row["tree"]), lambda row: row["tree"]),
        column("tokens per target forward pass", "block_efficiency", "ci_low", "ci_high"),
        column("accepted", "accepted", "accepted_low", "accepted_high"),
        column("certified bound", "bound", "bound_low", "bound_high"),
        column("full information", "full_information", "full_information_low", "full_information_high"),
        column("share of the bound, %", "share", "share_low", "share_high", 100.0),
        Column("time verifying, %", lambda row: _percent(row["verifying"], 1), lambda row: row["verifying"]),
    ]
    caption = (
        "Decoded text, 95% intervals over documents. Certified bound: no lossless rule accepts more in the mean at "
        "these places (mdsd tree --bound). Full information: another such bound, mostly the larger one."
    )
    rows: list[Any] = logs.to_dict("records")
    return fold(f"Decoding with draft trees ({counted(len(rows), 'log')})", table(rows, columns, caption), True)


def _provenance(facts: Mapping[str, Any]) -> str:
    """Facts of the dump; notes that are records themselves are laid out, a line each."""
    lines: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [(f"{name}: {key}", inner) for key, inner in value.items()]
        else:
            lines.append((str(name), value))
    columns = [
        Column("fact", lambda line: text(line[0]), lambda line: line[0]),
        Column("value", lambda line: text(line[1]), lambda line: str(line[1])),
    ]
    return fold("Facts and provenance", table(lines, columns, "What the dump and its reader say of it"))
