"""The figure of the tree shows the components that run."""

from __future__ import annotations

import pytest
from harness import row

from mdsd_bounds import InputError
from mdsd_bounds.verifiers.optimal import prepare


def test_one_bar_for_each_component() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots.priority_orders import priority_orders_figure

    p, q = row(9, 1), row(9, 2)
    figure = priority_orders_figure(p, q, 3, names={0: "the"})
    above, below = figure.axes
    tree = prepare(p, q, 3).rule.tree  # type: ignore[attr-defined]
    assert len(above.patches) == len(tree.coin) - 1
    assert "the" in [label.get_text() for label in below.get_xticklabels()]
    heights = sorted(bar.get_height() for bar in below.patches[:9])
    assert heights == pytest.approx(sorted(p.tolist()))
    plt.close(figure)
    with pytest.raises(InputError, match="can be drafted"):
        priority_orders_figure(p, q, 9)
