"""Figures of a page: SVG in the page itself, drawn once for wide and once for narrow screens."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas as pd

from mdsd_bounds.report.html import text


def figure(name: str, table: pd.DataFrame, facet: str | None, caption: str) -> str:
    """One registered figure as ``<figure>``; names as they are typed.

    Parameters
    ----------
    name : str
        In :data:`mdsd_bounds.plots.FIGURES`.
    table : DataFrame
        Per-position.
    facet : str or None
        As ``mdsd plot --facet``.
    caption : str
        What it shows, also for readers who do not see it.
    """
    drawn = []
    for kind, size in (("wide", "two-column"), ("narrow", "one-column")):
        svg = _inline(_svg(name, table, facet, size), f"{name}-{kind}")
        drawn.append(f'<div class="{kind}" role="img" aria-label="{text(caption)}">{svg}</div>')
    return f"<figure>{''.join(drawn)}<figcaption>{text(caption)}</figcaption></figure>"


def _svg(name: str, table: pd.DataFrame, facet: str | None, size: str) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots import FIGURES, Look

    stream = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "mdsd_bounds"}):
        drawn: Any = FIGURES[name](table, look=Look(size, facet, typed=True)).figure
        drawn.savefig(stream, format="svg")
    plt.close(drawn)
    return stream.getvalue()


def _inline(svg: str, prefix: str) -> str:
    """The ``<svg>`` alone, without comments and metadata, as wide as its place; its ids are those of no other."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub(r"url\(#", f"url(#{prefix}-", svg)
