"""Speed against nodes: the best tree of each size, and the choice that mdsd advise names."""

from __future__ import annotations

import numpy as np
import pytest

from mdsd_bounds.problem import InputError
from mdsd_bounds.trees.advise import BEST, Profile, advise, choices, costs_from
from mdsd_bounds.trees.speed_frontier import speed_by_nodes

COSTS = costs_from(0.15, "1:1,8:1.1,16:1.4")


def found() -> list[Profile]:
    random = np.random.default_rng(0)
    bound = np.sort(random.uniform(0.5, 1.0, (12, 3)), axis=1)
    return [
        Profile("with_replacement", "rrs", bound - 0.05),
        Profile("with_replacement", "k_seq", bound - 0.03),
        Profile("with_replacement", BEST, bound),
        Profile("top_k", "rrs_without_replacement", bound - 0.2),
        Profile("top_k", BEST, bound - 0.1),
    ]


DOCUMENTS = np.arange(12) // 3


def test_the_choice_is_the_one_that_advise_names() -> None:
    table = speed_by_nodes(found(), DOCUMENTS, COSTS, 10, 5)
    advice = advise(found(), DOCUMENTS, COSTS, 10, 5)
    (row,), best = table[table["choice"]].to_dict("records"), advice.iloc[0]
    for name in ("sampler", "verifier", "tree", "nodes"):
        assert row[name] == best[name]
    for name in ("speed", "speed_ci_low", "speed_ci_high", "tokens"):
        assert row[name] == pytest.approx(best[name])
    alone = advice[advice["kind"] == "no drafts"]["speed"].iloc[0]
    assert (table["alone"] == alone).all()


def test_each_size_has_its_fastest_tree() -> None:
    table = speed_by_nodes(found(), DOCUMENTS, COSTS, 8, 4)
    for profile in found():
        name = "" if profile.verifier == BEST else profile.verifier
        rows = table[(table["sampler"] == profile.sampler) & (table["verifier"] == name)].set_index("nodes")["speed"]
        by_size: dict[int, list[float]] = {}
        for choice in choices(profile, 8, 4):
            speed = float(choice.tokens(profile.rates.mean(0))) / COSTS.of(choice.widths)
            by_size.setdefault(sum(choice.widths), []).append(speed)
        assert rows.to_dict() == pytest.approx({nodes: max(speeds) for nodes, speeds in by_size.items()})
    # No rule that exists is faster than the bound of its sampler.
    wide = table.pivot_table(index=["sampler", "nodes"], columns="verifier", values="speed")
    assert (wide.le(wide[""] + 1e-12, axis=0) | wide.isna()).to_numpy().all()


def test_one_document_has_no_interval() -> None:
    table = speed_by_nodes(found(), np.zeros(12), COSTS, 4, 4)
    assert table["speed_ci_low"].isna().all()


def test_the_figure_marks_the_choice() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mdsd_bounds.plots import Look
    from mdsd_bounds.plots import speed_by_nodes as draw
    from mdsd_bounds.plots.layout import SIZES

    table = speed_by_nodes(found(), DOCUMENTS, COSTS, 10, 5)
    (row,) = table[table["choice"]].to_dict("records")
    for size in SIZES:
        ax = draw(table, look=Look(size))
        rings = [
            line for panel in ax.figure.axes for line in panel.lines if line.get_markersize() > 8 * SIZES[size].scale
        ]
        (ring,) = [line for line in rings if line.get_marker() == "o"]
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (row["nodes"], row["speed"])
        note = ax.figure.legends[0].get_title().get_text().replace("\n", " ")
        assert row["tree"] in note
        assert "95% interval over documents" in note
        plt.close(ax.figure)
    # Five nodes have a chain alone here, slower than trees of four and of six: it would be a dent in the line.
    lines = [line.get_ydata() for panel in draw(table).figure.axes for line in panel.lines if len(line.get_xdata()) > 2]
    plt.close("all")
    assert len(lines) == 5
    for speeds in lines:
        turns = np.sign(np.diff(speeds))
        assert (np.diff(turns) <= 0).all(), "a line rises to its best size, and falls behind it"
    parts = [part["speed"].to_numpy() for _, part in table.groupby(["sampler", "verifier"])]
    assert any((np.diff(np.sign(np.diff(part))) > 0).any() for part in parts), "the table itself has dents"
    with pytest.raises(InputError, match="lacks choice"):
        draw(table.drop(columns="choice"))
