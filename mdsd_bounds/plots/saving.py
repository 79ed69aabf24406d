"""Save a figure whole, under the name given, and marked as ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdsd_bounds._backend.origin import MARKER
from mdsd_bounds._backend.whole_files import whole_file
from mdsd_bounds.plots.style import root_of
from mdsd_bounds.problem import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": MARKER},
    "pdf": {"Creator": MARKER, "CreationDate": None},
    "svg": {"Creator": [MARKER], "Date": None},
    "ps": {"Creator": MARKER},
    "eps": {"Creator": MARKER},
}


def kind_of(path: str | Path) -> str:
    """The format by the ending, PNG where there is none.

    Raises
    ------
    InputError
        If no figure can be written so.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kind, known = Path(path).suffix.lower().lstrip(".") or "png", FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise InputError(f"{path}: no figure can be written as .{kind}; choose .png, .pdf or .svg")
    return kind


#: Fonts stay fonts in PDF files, and the same figure is the same bytes.
_SETTINGS: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": MARKER}


def save_figure(figure: Axes | Figure | SubFigure, path: str | Path, dpi: int = 150, tight: bool = True) -> None:
    """Write a matplotlib figure and close it.

    Parameters
    ----------
    figure : matplotlib Figure, or axes of it
        What is written.
    path : str
        PNG, PDF, SVG or whatever else matplotlib writes, by its ending.
    dpi : int
        Of pixel formats.
    tight : bool
        Cut to what is drawn; otherwise the size stays as it is, to the point.

    Raises
    ------
    InputError
        If the ending is of no format, or the file cannot be written; nothing half-written stays.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.plots import save_figure, subset_curve
    >>> ax = subset_curve([0.6, 0.3, 0.1], [0.2, 0.3, 0.5], 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(ax, Path(folder) / "curve.svg")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['curve.svg']
    """
    import matplotlib.pyplot as plt

    root = root_of(figure)
    try:
        kind = kind_of(path)
        cut = "tight" if tight else None
        with whole_file(path) as temporary, plt.rc_context(_SETTINGS):
            root.savefig(temporary, dpi=dpi, bbox_inches=cut, format=kind, metadata=_METADATA.get(kind))
    finally:
        plt.close(root)
