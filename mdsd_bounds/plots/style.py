"""One look for every figure: the colour, marker and dash of a sampler or a verifier are the same wherever it is drawn.

Colours read in colour-blind eyes (the tests simulate three kinds) and beside every colour stand a marker and a dash, so
that a figure also reads in grey.  A name that no registry holds, such as a user's own rule, gets a style that depends
on the name alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.typing import LineStyleType, MarkerType

__all__ = [
    "BOUND",
    "COLOURS",
    "DASHES",
    "MARKERS",
    "SAMPLER_STYLES",
    "VERIFIER_STYLES",
    "Style",
    "axes",
    "legend",
    "need_verifiers",
    "style_of",
    "styles_of",
    "tidy",
    "title",
]

#: Okabe and Ito's palette, ordered so that neighbours also differ in lightness: for tokens, trees and other series
#: that are neither samplers nor verifiers.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":"]
#: Dashes that no named style of the maps below has.
_FURTHER_DASHES = [(0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)), (0, (6, 2, 2, 2)), (0, (1, 3))]
#: Markers that no named style of the maps below has.
_FURTHER_MARKERS: list[MarkerType] = ["p", "d", "h", (4, 1, 0), (3, 1, 0), (3, 1, 180)]


@dataclass(frozen=True)
class Style:
    """How one series is drawn: ``colour``, ``marker`` (None: none), ``dash``, and whether its marker is filled."""

    colour: str
    marker: MarkerType | None
    dash: LineStyleType = "-"
    filled: bool = True

    def line(self, size: float = 5.0, width: float = 1.3) -> dict[str, Any]:
        """Keyword arguments of a matplotlib line."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "markersize": size * (1.5 if self.marker == "*" else 1.0),
            "markerfacecolor": self.colour if self.filled else "white",
            "linewidth": width,
        }


#: The bound alpha*, whatever the sampler.
BOUND = Style("#000000", None, "-")
#: By sampler: Okabe and Ito's colours.
SAMPLER_STYLES: dict[str, Style] = {
    "with_replacement": Style("#0072B2", "o", "-"),
    "without_replacement": Style("#E69F00", "s", "--"),
    "greedy": Style("#009E73", "^", "-."),
    "top_k": Style("#D55E00", "D", ":"),
    "top_m_plus": Style("#56B4E9", "v", "--"),
    "independent": Style("#CC79A7", "P", "-."),
    "joint": Style("#555555", "X", ":"),
}
#: By verifier: Tol's muted colours, sand and cyan darkened; rules that are lossy have open markers.
VERIFIER_STYLES: dict[str, Style] = {
    "rrs": Style("#332288", "o", "--"),
    "k_seq": Style("#117733", "^", "-."),
    "rrs_without_replacement": Style("#CC6677", "s", ":"),
    "greedy": Style("#88BBEE", "D", "--"),
    "nss": Style("#C9A227", "v", "-."),
    "naive_tree": Style("#999933", "P", ":"),
    "spechub": Style("#AA4499", "X", "--"),
    "importance_sampling": Style("#44AA99", "<", "-."),
    "gumbel_list": Style("#882255", ">", ":"),
    "optimal": Style("#000000", "*", (0, (1, 1))),
    "typical_acceptance": Style("#332288", "o", ":", filled=False),
    "top_k_membership": Style("#117733", "^", "--", filled=False),
    "cactus": Style("#CC6677", "s", "-.", filled=False),
    "mentored_decoding": Style("#88BBEE", "D", ":", filled=False),
    "judge": Style("#44AA99", "<", ":", filled=False),
    "tv_budget": Style("#882255", "v", "--", filled=False),
}
_MAPS = {"sampler": SAMPLER_STYLES, "verifier": VERIFIER_STYLES}


def style_of(name: str, kind: str = "verifier") -> Style:
    """The style of a ``"sampler"`` or ``"verifier"``; the same for the same name, in any figure and any session.

    A name without a style of its own gets one of 192 from a checksum of the name.

    Examples
    --------
    >>> from mdsd_bounds.plots import style_of
    >>> style_of("rrs").colour, style_of("my_rule") == style_of("my_rule")
    ('#332288', True)
    """
    known = _MAPS[kind]
    if name in known:
        return known[name]
    # The colour may be that of a registered name: marker and dash are of no other.
    number = zlib.crc32(f"{kind} {name}".encode())
    palette = [style.colour for style in known.values()][:8]
    return Style(
        palette[number % 8],
        _FURTHER_MARKERS[number // 8 % 6],
        _FURTHER_DASHES[number // 48 % 4],
    )


def styles_of(names: Iterable[str], kind: str = "verifier") -> dict[str, Style]:
    """The style of each name; of two unknown names with the same one, the later in the alphabet gets another marker."""
    found = {name: style_of(name, kind) for name in sorted(set(names))}
    taken: set[Style] = set()
    for name, style in found.items():
        place = 0
        while style in taken and place < 24:
            style = Style(style.colour, _FURTHER_MARKERS[place % 6], _FURTHER_DASHES[place // 6])
            place += 1
        taken.add(style)
        found[name] = style
    return found


def tidy(ax: Axes) -> Axes:
    """A light grid, and no frame above and to the right."""
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def axes(ax: Axes | None) -> Axes:
    """The given axes, or plain new ones.

    Examples
    --------
    >>> from mdsd_bounds.plots import axes
    >>> ax = axes(None)
    >>> axes(ax) is ax
    True
    """
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    return tidy(ax)


def root_of(part: Axes | Figure | SubFigure) -> Figure:
    """The whole figure that axes, or a part of it, belong to."""
    from matplotlib.figure import Figure

    figure = part.figure
    return figure if isinstance(figure, Figure) else root_of(figure)


def legend(ax: Axes, *, beside: bool = True, **options: Any) -> None:
    """The legend beside the axes, where it hides nothing; inside them where ``beside`` is false.

    Examples
    --------
    >>> from mdsd_bounds.plots import axes, legend
    >>> ax = axes(None)
    >>> line = ax.plot([1, 2], [0.6, 0.7], label="rrs")
    >>> legend(ax)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['rrs']
    """
    number = len(ax.get_legend_handles_labels()[1])
    if number > 8:
        options |= {"ncols": 1 + (number > 24), "fontsize": 7}
        beside = True
    if beside:
        options |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)}
        if len(ax.figure.axes) == 1:
            # Room for it, so that the axes keep their width.
            root = root_of(ax)
            root.set_figwidth(max(root.get_figwidth(), 8.8))
    ax.legend(frameon=False, **options)


def title(name: object) -> str:
    """A registry name as people read it."""
    return str(name).replace("_", " ")


def need_verifiers(table: pd.DataFrame, name: str) -> None:
    """Raise an error for a table of bounds alone where a figure shows verifiers.

    Raises
    ------
    InputError
        If the table holds no verifier.
    """
    if "verifier" not in table or not (table["verifier"] != "").any():
        raise InputError(f"figure {name}: the table holds bounds only; make it with mdsd compare --out")
