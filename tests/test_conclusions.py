"""Every table begins with what it says; the first line is held against the numbers below it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds._backend.text_table import text_table
from mdsd_bounds.pipeline.conclusions import (
    bounds_in_words,
    comparison_in_words,
    gaussian_in_words,
    paired_in_words,
    speculation_in_words,
    world_in_words,
)
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.paired import paired
from mdsd_bounds.pipeline.rendering import fitted, render
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import summarise_comparison
from tests.command import call


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two drafts of one target, the second one worse."""
    folder, generator = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    target = generator.normal(size=(40, 12)).astype(np.float32) * 2
    found = []
    for name, noise in (("near", 0.5), ("far", 1.5)):
        draft = target + noise * generator.normal(size=target.shape).astype(np.float32)
        place = {"doc": np.arange(40) // 5, "position": np.arange(40) % 5}
        np.savez(folder / f"{name}.npz", target_logits=target, draft_logits=draft, **place)
        found.append(str(folder / f"{name}.npz"))
    return found


def test_compare_is_best_first_and_fits(pairs: list[str], capsys: Any, monkeypatch: Any) -> None:
    ask = ("compare", pairs[0], "--drafts", "1,2", "--samples", "20", "--quiet")
    code, text, _ = call(*ask, capsys=capsys, monkeypatch=monkeypatch)
    _, rows, _ = call(*ask, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    lines, held = text.splitlines(), json.loads(rows)
    assert code == 0
    assert lines[0] == held[0]["conclusion"]
    best = max((row for row in held if row["drafts"] == 2), key=lambda row: row["acceptance"])
    assert lines[0].startswith(
        f"With 2 drafts at temperature 1 {best['verifier']} on {best['sampler']} accepts most: {best['acceptance']:.4f}"
    )
    assert "NOT LOSSLESS" not in lines[0]
    assert max(map(len, lines[2:])) <= 100
    for drafts in (1, 2):
        acceptances = [row["acceptance"] for row in held if row["drafts"] == drafts]
        assert acceptances == sorted(acceptances, reverse=True)
    assert [row["drafts"] for row in held] == sorted(row["drafts"] for row in held)


@pytest.mark.parametrize("command", [("bounds",), ("compare", "--verifier", "rrs")])
def test_intervals_of_few_documents_are_called_rough(
    command: tuple[str, ...], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    logits = np.random.default_rng(1).normal(size=(2, 32, 9)).astype(np.float32)
    for documents in (1, 4, 16):
        np.savez(
            tmp_path / f"{documents}.npz", target_logits=logits[0], draft_logits=logits[1],
            doc=np.arange(32) * documents // 32, position=np.arange(32) % (32 // documents),
        )  # fmt: skip
        ask = ("--drafts", "2", "--sampler", "with_replacement", "--quiet")
        code, text, err = call(command[0], str(tmp_path / f"{documents}.npz"), *command[1:], *ask, capsys=capsys,
                               monkeypatch=monkeypatch)  # fmt: skip
        assert code == 0, err
        assert ("note: intervals over 4 documents are rough" in err) == (documents == 4)
        assert (f", {documents} documents, 32 positions)" in text) == (documents > 1)


def test_an_acceptance_above_the_bound_is_said(pairs: list[str]) -> None:
    from mdsd_bounds.verifiers import from_function

    lossy = from_function(lambda p, q, drafts, generator: drafts[:, 0], "first_draft")
    table = run(open_dump(pairs[0]), Settings(("with_replacement",), (1, 2), verifiers=("rrs", lossy), samples=20))
    assert table is not None
    said = comparison_in_words(summarise_comparison(table))
    assert said.startswith(
        "NOT LOSSLESS: first_draft accepts more than any lossless rule can, by 13.91 percentage points"
    )
    assert "Of the others: with 2 drafts at temperature 1 rrs on with_replacement accepts most" in said
    assert "rrs accepts more" not in said


def line(**changed: Any) -> dict[str, Any]:
    held = {"sampler": "greedy", "verifier": "rule", "drafts": 2, "temperature": 0.6, "positions": 7, "mean": 0.9,
            "certified_low": 0.9, "certified_high": 0.9, "ci_low": 0.8, "ci_high": 0.95}  # fmt: skip
    return held | changed


FEW = "accepts more than 0.9000 of the positions, for drafts of greedy"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, f"no lossless verifier {FEW} (95% interval 0.8000 to 0.9500, 7 positions)."),
        ({"ci_low": float("nan")}, f"no lossless verifier {FEW} (a single document, so no interval; 7 positions)."),
        (
            {"tv": 0.05, "certified_high": 0.95},
            f"no verifier within a total variation of 0.05 {FEW.replace('0.9000', '0.9500')}; the best accepts 0.9000 "
            "at least (95% interval 0.8000 to 0.9500, 7 positions).",
        ),
        ({"documents": 4}, f"no lossless verifier {FEW} (95% interval 0.8000 to 0.9500, 4 documents, 7 positions)."),
        # Every position stands for itself.
        ({"documents": 7}, f"no lossless verifier {FEW} (95% interval 0.8000 to 0.9500, 7 positions)."),
    ],
)
def test_bounds_in_words(changed: dict[str, Any], said: str) -> None:
    assert bounds_in_words(pd.DataFrame([line(**changed)])) == f"With 2 drafts at temperature 0.6 {said}"
    assert bounds_in_words(pd.DataFrame([line(**changed, drafts=1)])).startswith("With 1 draft at")


def test_two_drafts_on_the_same_positions(pairs: list[str], capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    ask = ("--paired", "--drafts", "2", "--sampler", "greedy", "--verifier", "greedy", "--quiet")
    code, text, err = call("compare", *pairs, *ask, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    assert re.match(
        r"With 2 drafts at temperature 1 on the same 40 positions near\.npz is ahead by \d+\.\d\d percentage points "
        r"\(greedy, greedy; 95% interval -\d+\.\d\d to -\d+\.\d\d, second minus first\)\.\n\n",
        text,
    )
    settings = Settings(("greedy",), (2,), verifiers=("greedy",))
    tables = []
    for i, path in enumerate(pairs):
        run(open_dump(path), settings, out=str(tmp_path / f"{i}.parquet"))
        tables.append(pd.read_parquet(tmp_path / f"{i}.parquet"))
    found = paired(*tables)
    # The rows may stand in any order; the mean and the interval are those of the differences.
    again = paired(tables[0], tables[1].sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(found, again)
    difference = tables[1]["acceptance"] - tables[0]["acceptance"]
    assert found["difference"][0] == pytest.approx(difference.mean())
    assert found["ci_low"][0] < difference.mean() < found["ci_high"][0] < 0
    # A difference that is the same everywhere is known, however much the positions differ among themselves.
    shifted = paired(tables[1], tables[1].assign(acceptance=tables[1]["acceptance"] + 0.01))
    level = summarise_comparison(tables[1])
    assert shifted["ci_low"][0] == pytest.approx(0.01) == shifted["ci_high"][0]
    assert level["ci_high"][0] - level["ci_low"][0] > 0.02
    # Two runs, as their tables.
    parquet = [str(tmp_path / f"{i}.parquet") for i in (0, 1)]
    _, same, _ = call("compare", *parquet, *ask, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    assert json.loads(same)[0]["difference"] == pytest.approx(found["difference"][0])
    assert paired_in_words(found, "a", "b").startswith("With 2 drafts at temperature 1 on the same 40 positions a is")
    _, out, _ = call("compare", parquet[0], parquet[0], *ask, capsys=capsys, monkeypatch=monkeypatch)
    assert "neither is ahead by 0.01 percentage points" in out.splitlines()[0]


def test_what_cannot_be_paired(pairs: list[str], capsys: Any, monkeypatch: Any) -> None:
    table = run(open_dump(pairs[0]), Settings(("greedy",), (2,)))
    assert table is not None
    with pytest.raises(InputError, match="second: lacks position 4 of document 7, one of 1"):
        paired(table, table[:-1])
    with pytest.raises(InputError, match="first: document 0 has position 0 twice"):
        paired(table.assign(position=0), table)
    with pytest.raises(InputError, match="share no sampler"):
        paired(table, table.assign(sampler="top_k"))
    for arguments in ((pairs[0], pairs[1]), (pairs[0], "--paired")):
        code, _, err = call("compare", *arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert "mdsd compare A B --paired" in err


def test_advice_says_where_it_rests_on_a_limit(pairs: list[str], capsys: Any, monkeypatch: Any) -> None:
    ask = (
        "advise",
        pairs[0],
        "--draft-cost",
        "0.01",
        "--sampler",
        "with_replacement",
        "--verifier",
        "rrs",
        "--quiet",
        "--rules",
        "none",
    )
    code, text, err = call(*ask, "--nodes", "3", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    assert text.startswith("fastest if verification cost nothing: with_replacement, rrs, ")
    assert "WARNING: the best tree has 3 nodes, the limit of the search" in err
    assert "WARNING: no cost curve was given" in err
    assert "speed is tokens per time of one target forward pass; behind is in percent" in err
    dear = ("--nodes", "8", "--depth", "6", "--target-cost", "1:1,3:3,9:20")
    _, text, err = call(*ask, *dear, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    assert "WARNING" not in err
    rows = json.loads(text)
    for row in rows:
        assert row["behind"] == pytest.approx(100 * (1 - row["speed"] / rows[0]["speed"]))


def test_the_optimal_rule_is_a_candidate(pairs: list[str], capsys: Any, monkeypatch: Any) -> None:
    ask = ("advise", pairs[0], "--draft-cost", "0.1", "--sampler", "greedy", "--nodes", "4", "--quiet")
    _, text, _ = call(*ask, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    assert any("optimal" in row["verifier"] for row in json.loads(text) if row["kind"] == "choice")


def test_wide_tables_lose_columns_and_never_the_interval() -> None:
    names = ["sampler", "verifier", "drafts", "temperature", "acceptance", "bound", "gap", "gap_ci_low", "gap_ci_high"]
    rows = [["without_replacement", "rrs_without_replacement", 2, 1.0, 0.5, 0.6, 0.1, 0.05, 0.15]] * 2
    text = fitted(pd.DataFrame(rows, columns=names).assign(share=0.8), [*names, "share"], ("share",))
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[1].split()[-3:] == ["gap", "ci_low", "ci_high"]
    assert "0.0500" in text


def test_continuous_states_in_words() -> None:
    rows = [
        {"delta": 1.0, "n": 4, "alpha_star": 0.92, "d_grs": 0.80, "rank_mixture": 0.90, "reflection": 0.6},
        {"delta": 2.0, "n": 1, "alpha_star": 0.32, "d_grs": 0.31, "rank_mixture": float("nan"), "reflection": 0.3},
    ]
    said = gaussian_in_words(pd.DataFrame(rows))
    assert "shift of 1 standard deviations the optimum of 4 drafts accepts 0.9200" in said
    assert "2.00 percentage points more than rank_mixture" in said
    assert "of 1 draft accepts 0.3200" in gaussian_in_words(pd.DataFrame(rows[1:]))
    methods = pd.DataFrame({"method": ["exact", "SynCoS", "Gen-L-Video"], "energy_distance": [5.0, 5.5, 7.0]})
    assert world_in_words(methods, 9).startswith("Of 2 methods from windows, SynCoS comes closest")
    assert "exact samples have 5)" in world_in_words(methods, 9)
    assert world_in_words(methods[:1], 9) == "1 method, 9 videos each; none of them works from windows."
    runs = {"steps": [50, 50], "draft": ["a", "b"], "tree": ["1x4", "2x3"], "rule": ["reflection", "optimal"]}
    runs |= {"target_passes": [12.0, 10.0], "target_passes_95": [0.5, 0.25], "steps_per_target_pass": [4.2, 5.0]}
    assert speculation_in_words(pd.DataFrame(runs)) == (
        "Fewest sequential target forward passes for 50 steps: 10.0 +- 0.2 (95%), "
        "with drafts b, tree 2x3 and rule optimal; 5.00 steps per target forward pass."
    )


def test_inspect_begins_with_what_the_file_is(pairs: list[str], capsys: Any, monkeypatch: Any) -> None:
    code, text, _ = call("inspect", pairs[0], capsys=capsys, monkeypatch=monkeypatch)
    _, facts, _ = call("inspect", pairs[0], "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert text.splitlines()[0] == json.loads(facts)["conclusion"]
    assert text.startswith(f"{pairs[0]} is a dump of 40 positions in 8 documents over 12 tokens; missing: the tokens")


def test_foreign_text_moves_no_column_and_no_cursor() -> None:
    text = text_table(["name", "x"], [["a\x1b[2J\nb", "1"], ["[bold]c", "22"]], [False, True])
    assert "\x1b" not in text
    assert "[bold]c" in text
    assert text_table(["name"], [["a|b"]], markdown=True).splitlines()[2] == "|a\\|b|"
    page = render(pd.DataFrame({"name": ["<b>"]}), "html", conclusion="<i>")
    assert "<b>" not in page
    assert page.startswith("<p>&lt;i&gt;</p>")


def test_no_interval_is_narrower_than_the_error_of_sampling() -> None:
    """Two documents whose sampled rates happen to agree: the interval over documents alone would have no width."""
    held = {"temperature": 1.0, "sampler": "with_replacement", "drafts": 1, "verifier": "mine", "value": 0.9}
    rows = [held | {"row": i, "doc": i // 2, "acceptance": 0.89, "mc_stderr": 0.02} for i in range(4)]
    found = summarise_comparison(pd.DataFrame(rows)).iloc[0]
    assert found["mc_stderr"] == pytest.approx(0.01)
    assert found["gap_ci_low"] == pytest.approx(0.01 - 0.0196)
    assert found["ci_high"] == pytest.approx(0.89 + 0.0196)
    exact = summarise_comparison(pd.DataFrame([row | {"mc_stderr": 0.0} for row in rows])).iloc[0]
    assert exact["gap_ci_low"] == exact["gap_ci_high"] == pytest.approx(0.01)


def test_no_table_shows_minus_zero() -> None:
    shown = text_table(["gap", "interval"], [["-0.0000", "-0.00000 to 0.00120"], ["-0.0001", "[-0.0000, -0.0012]"]])
    assert [line.split() for line in shown.splitlines()[2:]] == [
        ["0.0000", "0.00000", "to", "0.00120"],
        ["-0.0001", "[0.0000,", "-0.0012]"],
    ]
