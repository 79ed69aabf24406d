"""Figures: one style for a name in every figure, nothing over anything else, sizes to the point, filters and facets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from mdsd_bounds.cli import main  # noqa: E402
from mdsd_bounds.pipeline.tables import summarise, summarise_comparison  # noqa: E402
from mdsd_bounds.plots import FIGURES, FURTHER_FIGURES, Look, save_figures, select, style_of  # noqa: E402
from mdsd_bounds.plots.layout import INTERVALS, SIZES  # noqa: E402
from mdsd_bounds.plots.sampler_wins import shares  # noqa: E402
from mdsd_bounds.plots.style import BOUND, SAMPLER_STYLES, VERIFIER_STYLES, styles_of  # noqa: E402
from mdsd_bounds.problem import InputError  # noqa: E402
from mdsd_bounds.samplers import SAMPLERS  # noqa: E402
from mdsd_bounds.verifiers import VERIFIERS  # noqa: E402

ROOT = Path(__file__).parents[1]
LOSSLESS = [name for name, rule in VERIFIERS.items() if rule.lossless and name in VERIFIER_STYLES]
LONG = "a_rule_of_my_own_with_a_name_that_goes_on_and_on_until_nobody_can_read_it_any_more"


def table_of(
    samplers: list[str],
    verifiers: list[str],
    drafts: tuple[int, ...] = (1, 2, 4, 8),
    temperatures: tuple[float, ...] = (1.0,),
    documents: int = 6,
) -> pd.DataFrame:
    """A per-position table of made-up numbers with the order of real ones."""
    random = np.random.default_rng(0)
    rows = np.arange(2 * documents)
    base, parts = random.beta(3, 2, size=len(rows)), []
    for temperature, (place, sampler), n in itertools.product(temperatures, enumerate(samplers), drafts):
        bound = 1 - (1 - base) ** (1 + 0.4 * np.log2(n) + 0.1 * place * (n > 1))
        for k, verifier in enumerate(verifiers or [""]):
            below = 0.01 * k * random.random(len(rows))
            parts.append(
                pd.DataFrame(
                    {
                        "temperature": temperature,
                        "sampler": sampler,
                        "drafts": n,
                        "verifier": verifier,
                        "row": rows,
                        "doc": rows // 2,
                        "position": rows,
                        "acceptance": np.clip(bound - below, 0, 1) if verifier else np.nan,
                        "mc_stderr": 0.0 if verifier else np.nan,
                        "value": bound,
                        "certified_low": bound,
                        "certified_high": bound,
                        "subset_size": 3,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def boxes(figure: Any) -> list[tuple[str, Any]]:
    """(text, box on the page) of everything written on a figure."""
    figure.canvas.draw()
    labels = {}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            # Ticks outside the limits keep their labels and are not drawn.
            drawn = {id(tick) for tick in axis._update_ticks()}
            labels |= {id(tick.label1): id(tick) in drawn for tick in axis.get_major_ticks() + axis.get_minor_ticks()}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if labels.get(id(text), True)]


def collisions(figure: Any) -> list[str]:
    """What lies over what, or leaves the page: texts over texts, the legend over a panel."""
    found = boxes(figure)
    faults = [
        f"{a!r} over {b!r}"
        for (a, one), (b, other) in itertools.combinations(found, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]
    page = figure.bbox
    faults += [
        f"{text!r} leaves the page"
        for text, box in found
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1
    ]
    for legend in figure.legends:
        box = legend.get_window_extent()
        faults += [
            f"the legend covers {ax.get_title()!r}" for ax in figure.axes if box.overlaps(ax.get_window_extent())
        ]
    return faults


CASES = {
    "one series": table_of(["with_replacement"], ["rrs"], (4,)),
    "eight series and more": table_of(
        ["with_replacement", "without_replacement", "greedy"], LOSSLESS, temperatures=(0.6, 1.0)
    ),
    "long names": table_of(["with_replacement", LONG], [LONG, "module.path:RULE", "rrs"], temperatures=(0.6, 1.0)),
    "bounds alone": table_of([*SAMPLERS][:6], [], tuple(range(1, 9)), (0.2, 0.6, 1.0)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_lies_over_anything_else(name: str, case: str, size: str) -> None:
    table = CASES[case]
    if (name == "sampler_wins" and case == "one series") or (case == "bounds alone" and name.startswith("gap")):
        with pytest.raises(InputError, match=name):
            FIGURES[name](table, look=Look(size))
        return
    if name == "acceptance_against_bound" and case == "bounds alone":
        return
    ax = FIGURES[name](table, look=Look(size))
    faults = collisions(ax.figure)
    width = ax.figure.get_figwidth()
    plt.close(ax.figure)
    assert not faults, "\n".join(faults)
    if size != "screen":
        assert width == SIZES[size].width


def test_a_collision_is_seen() -> None:
    """The test of the test: a legend in the panel, and two texts at one place."""
    figure, ax = plt.subplots()
    ax.plot([0, 1], label="line")
    ax.text(0.5, 0.5, "here")
    ax.text(0.5, 0.5, "there")
    figure.legend(loc="center")
    faults = collisions(figure)
    plt.close(figure)
    assert any("'here' over 'there'" in fault for fault in faults)
    assert any("legend covers" in fault for fault in faults)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_lies_over_anything_else_in_further_figures(size: str) -> None:
    """Ten lossy rules, and speed by nodes of eight rules on three samplers."""
    random = np.random.default_rng(0)
    rules = pd.DataFrame(
        [
            {
                "drafts": n,
                "rule": f"rule {k} with a long name",
                "tv": tv,
                "acceptance": 0.9 + tv / (k + 1),
                "alpha": 0.9,
            }
            for n, k, tv in itertools.product((1, 2, 4), range(10), (0.01, 0.05, 0.1))
        ]
    )
    speeds = pd.DataFrame(
        [
            {"sampler": sampler, "verifier": verifier, "nodes": nodes, "tree": "2,1,1", "speed": 1 + random.random()}
            for sampler, verifier, nodes in itertools.product(["greedy", "top_k", LONG], ["", *LOSSLESS], range(1, 20))
        ]
    )
    speeds = speeds.assign(speed_ci_low=1.0, speed_ci_high=2.0, alone=1.0, unit="target forward pass")
    speeds["choice"] = speeds.index == 30
    for name, table in (("lossy_frontier", rules), ("speed_by_nodes", speeds)):
        ax = FURTHER_FIGURES[name](table, look=Look(size))
        faults = collisions(ax.figure)
        plt.close(ax.figure)
        assert not faults, "\n".join(faults)


def test_a_figure_is_one_file_and_stands_in_the_gallery() -> None:
    """Every registered figure has its file under its name, and an example whose code draws it."""
    gallery = "\n".join(path.read_text() for path in (ROOT / "docs" / "examples").glob("plot_*.py"))
    for name, draw in (FIGURES | FURTHER_FIGURES).items():
        assert draw.__module__ == f"mdsd_bounds.plots.{name}"
        assert draw.__name__ in gallery, name


# --- one style --------------------------------------------------------------------------------------------------------


def test_every_registered_name_has_a_style_of_its_own() -> None:
    assert set(SAMPLER_STYLES) == set(SAMPLERS)
    assert set(VERIFIERS) >= set(VERIFIER_STYLES)
    for styles in (SAMPLER_STYLES, VERIFIER_STYLES):
        looks = {(style.colour, style.marker, style.filled) for style in styles.values()}
        assert len(looks) == len(styles)
    assert BOUND not in VERIFIER_STYLES.values()


#: Machado, Oliveira and Fernandes 2009, severity 1.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(colour: str, matrix: Any) -> np.ndarray:
    """CIE L*a*b* of a colour as an eye with this deficiency sees it."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_are_told_apart_by_all_eyes(deficiency: str) -> None:
    for styles in (SAMPLER_STYLES, {name: VERIFIER_STYLES[name] for name in LOSSLESS}):
        seen = {name: lab(style.colour, DEFICIENCIES[deficiency]) for name, style in styles.items()}
        for (one, a), (other, b) in itertools.combinations(seen.items(), 2):
            assert np.linalg.norm(a - b) > 10, (one, other)
        # On white paper.
        assert all(colour[0] < 80 for colour in seen.values())


def test_a_name_has_one_colour_in_every_figure_and_company() -> None:
    def colours(name: str, table: pd.DataFrame) -> dict[str, Any]:
        ax = FIGURES[name](table)
        handles, labels = ax.get_legend_handles_labels()
        plt.close(ax.figure)
        return {
            label: getattr(handle, "lines", [handle])[0].get_color()
            for handle, label in zip(handles, labels, strict=True)
        }

    many, few = CASES["eight series and more"], table_of(["with_replacement"], ["my_rule", "nss", "rrs"])
    for name in ("acceptance_by_drafts", "gap_by_drafts", "gap_by_temperature", "acceptance_against_bound"):
        assert colours(name, many)["rrs"] == colours(name, few)["rrs"] == VERIFIER_STYLES["rrs"].colour
        assert colours(name, few)["my rule"] == style_of("my_rule").colour


def test_unknown_names_never_share_a_style() -> None:
    names = [f"rule_{k}" for k in range(60)]
    styles = styles_of([*names, *VERIFIER_STYLES])
    assert len(set(styles.values())) == len(styles)
    marks = {style.marker for style in VERIFIER_STYLES.values()}
    assert not marks & {styles[name].marker for name in names}


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_the_gap_figure_shows_the_paired_interval() -> None:
    table = table_of(["with_replacement"], ["rrs", "k_seq"])
    ax = FIGURES["gap_by_drafts"](table)
    summary = summarise_comparison(table)
    for bar in ax.containers:
        expected = summary[summary["verifier"] == bar.get_label().replace(" ", "_")]
        assert bar.lines[0].get_ydata() == pytest.approx(100 * expected["gap"].to_numpy())
        ends = np.array([segment[:, 1] for segment in bar.lines[2][0].get_segments()])
        assert ends[:, 0] == pytest.approx(100 * expected["gap_ci_low"].to_numpy())
        assert ends[:, 1] == pytest.approx(100 * expected["gap_ci_high"].to_numpy())
    assert any(INTERVALS in text for text, _ in boxes(ax.figure))
    plt.close(ax.figure)


def test_a_summary_draws_the_same_as_its_table() -> None:
    compared, bounds = table_of(["greedy"], ["rrs", "nss"]), table_of(["greedy", "top_k"], [])
    for name, table, summary in (
        ("gap_by_drafts", compared, summarise_comparison(compared)),
        ("acceptance_by_drafts", bounds, summarise(bounds)),
    ):
        drawn = []
        for given in (table, summary):
            ax = FIGURES[name](given)
            drawn.append([line.get_ydata() for line in ax.lines])
            plt.close(ax.figure)
        assert len(drawn[0]) == len(drawn[1])
        for a, b in zip(*drawn, strict=True):
            assert np.asarray(a) == pytest.approx(np.asarray(b))


def test_ties_are_a_bar_of_their_own() -> None:
    table = table_of(["with_replacement", "without_replacement"], [], (1, 2))
    share = shares(table)
    assert share.loc[1, ""] == 1.0
    assert share.loc[2, "without_replacement"] == 1.0
    assert share.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])


def test_verifiers_of_two_samplers_stand_in_two_panels() -> None:
    table = table_of(["with_replacement", "greedy"], ["rrs"], temperatures=(0.6, 1.0))
    ax = FIGURES["gap_by_drafts"](table, look=Look(facet="temperature"))
    assert [panel.get_title().replace("\u00a0", " ") for panel in ax.figure.axes] == [
        "with replacement, T = 0.6",
        "with replacement, T = 1",
        "greedy, T = 0.6",
        "greedy, T = 1",
    ]
    plt.close(ax.figure)
    with pytest.raises(InputError, match="do not fit one axes"):
        FIGURES["gap_by_drafts"](table, ax=plt.figure().gca())
    plt.close("all")


def test_missing_cells_are_left_out() -> None:
    """A rule that is made for one number of drafts, one sampler without verifiers, and a rate that is unknown."""
    table = table_of(["with_replacement", "greedy"], ["rrs", "spechub"], (1, 2, 4))
    table = table[(table["verifier"] != "spechub") | (table["drafts"] == 2)]
    table = table[(table["sampler"] != "greedy") | (table["drafts"] != 1)]
    table.loc[(table["verifier"] == "rrs") & (table["drafts"] == 4), "acceptance"] = np.nan
    for name in FIGURES:
        ax = FIGURES[name](table)
        faults = collisions(ax.figure)
        plt.close(ax.figure)
        assert not faults, name
    ax = FIGURES["gap_by_drafts"](table)
    assert [len(bar.lines[0].get_xdata()) for bar in ax.containers] == [2, 1]
    plt.close(ax.figure)


def test_one_document_has_no_interval_and_draws() -> None:
    table = table_of(["with_replacement"], ["rrs"], documents=1)
    for name in ("acceptance_by_drafts", "gap_by_drafts"):
        ax = FIGURES[name](table)
        assert all(not bar.has_yerr for bar in ax.containers)
        plt.close(ax.figure)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
@pytest.mark.parametrize("size", ["one-column", "two-column"])
def test_files_have_the_size_asked_for(kind: str, size: str, tmp_path: Path) -> None:
    out = tmp_path / f"figure.{kind}"
    table = table_of(["with_replacement"], ["rrs"])
    save_figures(table, str(out), "gap_by_drafts", Look(size))
    inches = SIZES[size].width
    content = out.read_bytes()
    if kind == "png":
        assert int.from_bytes(content[16:20], "big") == round(300 * inches)
    elif kind == "svg":
        assert f'width="{72 * inches:g}pt"'.encode() in content
    else:
        assert f"/MediaBox [ 0 0 {72 * inches:g} ".encode() in content
        assert b"/Subtype /Type3" not in content
    save_figures(table, str(out), "gap_by_drafts", Look(size))
    assert out.read_bytes() == content


# --- the command ------------------------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mdsd", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_filters_and_splits(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    results, out = str(tmp_path / "rows.parquet"), tmp_path / "figure.svg"
    table_of(["with_replacement", "greedy"], ["rrs", "nss", "k_seq"], temperatures=(0.6, 1.0)).to_parquet(results)
    plot = ("plot", results, "--out", str(out), "--figure", "gap_by_drafts")
    options = ["--sampler", "greedy", "--verifier", "nss,rrs", "--facet", "temperature", "--size", "two-column"]
    assert call(monkeypatch, *plot, *options) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text()
    # Text is drawn as shapes, with what it says beside it.
    assert "<!-- nss -->" in text
    assert "k seq" not in text
    for wrong, message in (
        (["--verifier", "optimal"], "--verifier optimal: not in the table, which holds rrs, nss, k_seq"),
        (["--sampler", "top_k"], "--sampler top_k: not in the table"),
        (["--facet", "drafts"], "cannot be split so"),
        (["--facet", "nothing"], "choose one of sampler, temperature, drafts"),
        (["--size", "poster"], "choose one of screen, one-column, two-column"),
    ):
        assert call(monkeypatch, *plot, *wrong) == 2
        assert message in capsys.readouterr().err
    # All figures: those that cannot have the facet are drawn without it.
    assert call(monkeypatch, "plot", results, "--out", str(tmp_path / "all.png"), "--facet", "drafts") == 0
    assert len(capsys.readouterr().out.split()) == len(FIGURES)


def test_select_keeps_the_order_asked_for() -> None:
    table = table_of(["with_replacement", "greedy"], ["rrs", "nss"])
    assert list(dict.fromkeys(select(table, ["greedy", "with_replacement"])["sampler"])) == [
        "greedy",
        "with_replacement",
    ]
