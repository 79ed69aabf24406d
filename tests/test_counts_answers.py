"""JSON whose figures contradict its counts, or that holds the same counts at two levels: an error, or counted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdsd_bounds import InputError
from mdsd_bounds.counts import Counts, acceptance, read_counts


def read(folder: Path, *values: Any) -> Counts:
    """What JSON counts, a value a line."""
    (folder / "answers.json").write_text("\n".join(map(json.dumps, values)))
    return read_counts([folder / "answers.json"])


def refused(folder: Path, said: str, *values: Any) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(folder, *values)
    assert "answers.json" in str(caught.value)
    assert str(caught.value).isprintable()


# What stands beside the counts.

BENCH = {"spec_decode_num_drafts": 1000, "spec_decode_draft_tokens": 4000, "spec_decode_accepted_tokens": 1900}
META = {"completion_tokens": 101, "spec_verify_ct": 40, "spec_accepted_tokens": 60, "spec_draft_tokens": 120}


@pytest.mark.parametrize(
    "figures",
    [
        {"spec_decode_acceptance_rate": 47.5, "spec_decode_acceptance_length": 2.9},
        {"spec_decode_acceptance_rate": 0.475, "spec_decode_acceptance_length": 1.9},
        {
            "spec_decode_acceptance_rate": 47.53,
            "spec_decode_accepted_tokens": 1901,
            "spec_decode_acceptance_length": 2.901,
        },
        {"spec_decode_acceptance_rate": 48, "spec_decode_acceptance_length": 2.9},
        {"spec_decode_per_position_acceptance_rates": [0.8, 0.56, 0.34, 0.2]},
        {"spec_decode_per_position_acceptance_rates": {"0": 0.8, "1": 0.56, "2": 0.34, "3": 0.2}},
        {"spec_decode_per_position_acceptance_rates": []},
    ],
)
def test_figures_of_vllm_that_are_those_of_its_counts(tmp_path: Path, figures: dict[str, Any]) -> None:
    found = read(tmp_path, BENCH | figures)
    assert float(found.accepted[0]) == (BENCH | figures)["spec_decode_accepted_tokens"]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"spec_decode_acceptance_rate": 57.5},
            r"spec_decode_acceptance_rate is 57\.5, but 1900 of 4000 .* are 47\.5%",
        ),
        ({"spec_decode_acceptance_rate": 0.575}, r"is 0\.575, but 1900 of 4000 draft tokens are 47\.5%"),
        ({"spec_decode_acceptance_rate": 47.52}, r"is 47\.52, but 1900 of 4000"),
        ({"spec_decode_acceptance_rate": 0}, "is 0, but 1900 of 4000"),
        ({"spec_decode_acceptance_rate": 1}, "is 1, but 1900 of 4000"),
        ({"spec_decode_acceptance_length": 2.5}, r"is 2\.5, but 1900 tokens accepted in 1000 steps make 2\.9 with"),
        ({"spec_decode_acceptance_length": 3}, "is 3, but 1900 tokens accepted"),
        ({"spec_decode_per_position_acceptance_rates": [0.8, 0.56, 0.34, 0.25]}, "make 1950 accepted tokens, but 1900"),
        ({"spec_decode_per_position_acceptance_rates": [0.8, 0.56, 0.34]}, "make 1700 accepted tokens, but 1900"),
        ({"spec_decode_per_position_acceptance_rates": [80.0, 56.0, 34.0, 20.0]}, "rates are shares of the steps"),
        (
            {"spec_decode_num_drafts": 3, "spec_decode_per_position_acceptance_rates": [0.5125]},
            "is no number of 3 steps",
        ),
        ({"spec_decode_num_accepted_tokens": 1800}, "accepted_tokens is 1900 but .*num_accepted_tokens is 1800"),
    ],
)
def test_figures_of_vllm_that_contradict_its_counts(tmp_path: Path, figures: dict[str, Any], said: str) -> None:
    refused(tmp_path, said, BENCH | figures)


@pytest.mark.parametrize(
    "figures",
    [
        {"spec_accept_rate": 0.5, "spec_accept_length": 2.525},
        {"spec_accept_rate": 0.5, "spec_accept_length": 2.5},
        # Older versions count the token that the target adds.
        {"spec_accept_rate": 0.625},
        {"spec_accept_length": 1.5},
        {"spec_accept_histogram": [10, 10, 10, 10]},
        {"spec_correct_drafts_histogram": [10, 10, 10, 10]},
        # Made of the emitted tokens.
        {"spec_accept_histogram": [0, 10, 10, 10, 10]},
    ],
)
def test_figures_of_sglang_that_are_those_of_its_counts(tmp_path: Path, figures: dict[str, Any]) -> None:
    found = read(tmp_path, {"meta_info": META | figures})
    assert (found.drafts.tolist(), found.accepted.tolist()) == ([40], [60])
    if found.accepted_at.size:
        assert found.accepted_at.tolist() == [[30, 20, 10]]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"spec_accept_rate": 0.7}, r"spec_accept_rate is 0\.7, but 60 of 120 draft tokens are 50%"),
        ({"spec_accept_length": 3.1}, r"spec_accept_length is 3\.1, but 60 tokens accepted in 40 steps make 2\.5"),
        ({"spec_accept_histogram": [10, 10, 10, 11]}, "a histogram of 41 steps beside 40 verification steps"),
        ({"spec_accept_histogram": [10, 11, 9, 10]}, "a histogram of 59 accepted tokens, but 60 are stated"),
        ({"spec_accept_token_num": 61}, "spec_accepted_tokens is 60 but spec_accept_token_num is 61"),
        ({"completion_tokens": 50}, "60 accepted tokens in 40 steps, but 50 completion tokens"),
    ],
)
def test_figures_of_sglang_that_contradict_its_counts(tmp_path: Path, figures: dict[str, Any], said: str) -> None:
    refused(tmp_path, said, {"meta_info": META | figures})


def test_a_histogram_without_a_count_is_held_against_the_completion_tokens(tmp_path: Path) -> None:
    counted = {"spec_verify_ct": 40, "completion_tokens": 101}
    assert read(tmp_path, counted | {"spec_accept_histogram": [10, 10, 10, 10]}).accepted.tolist() == [60]
    assert read(tmp_path, counted | {"spec_accept_histogram": [0, 10, 10, 10, 10]}).accepted.tolist() == [60]
    refused(tmp_path, "of 80 accepted tokens in 40 steps, but 101", counted | {"spec_accept_histogram": [0, 20, 0, 20]})


def test_names_of_newer_versions_of_sglang(tmp_path: Path) -> None:
    names = {"spec_verify_ct": 3, "spec_num_correct_drafts": 9, "spec_num_proposed_drafts": 24, "completion_tokens": 12}
    found = read(tmp_path, {"meta_info": names | {"spec_accepted_drafts": 9, "spec_proposed_drafts": 24}})
    assert (found.accepted.tolist(), found.drafted.tolist()) == ([9], [24])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"accept_lengths": [1, 3, 2], "mean_accept_length": 3.0},
            "mean_accept_length is 3.0, but 3 tokens accepted in 3",
        ),
        ({"timings": {"draft_n": 10, "draft_n_accepted": 4, "draft_acceptance_rate": 0.9}}, r"is 0\.9, but 4 of 10"),
        ({"acceptance_rate": 0.9, "timings": {"draft_n": 10, "draft_n_accepted": 4}}, r"is 0\.9, but 4 of 10"),
        (
            {"accept_lengths": [2, 3, 2] * 9, "new_tokens": [90]},
            "but 90 tokens are new; give them with the bonus token",
        ),
        ({"accept_lengths": [2.5, 3.5]}, "holds a fraction: means of requests"),
    ],
)
def test_figures_beside_other_counts(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    refused(tmp_path, said, value)


def test_figures_above_several_requests_are_of_their_sum_or_their_mean(tmp_path: Path) -> None:
    requests = [{"timings": {"draft_n": n, "draft_n_accepted": a}} for n, a in ((40, 30), (120, 10))]
    for rate in (0.25, 25.0, 0.4167):
        assert len(read(tmp_path, {"acceptance_rate": rate, "results": requests})) == 2
        assert len(read(tmp_path, {"config": {"n": 1}, "summary": {"acceptance_rate": rate}, "results": requests})) == 2
    refused(tmp_path, r"acceptance_rate is 0\.31, but 40 of 160", {"acceptance_rate": 0.31, "results": requests})
    refused(tmp_path, "but 40 of 160", {"summary": {"acceptance_rate": 0.31}, "results": requests})
    lengths = [{"meta_info": META}, {"meta_info": META}]
    assert len(read(tmp_path, {"spec_accept_length": 2.525, "results": lengths})) == 2
    refused(tmp_path, r"spec_accept_length is 2\.8", {"spec_accept_length": 2.8, "results": lengths})


# Two levels.

STEPS = [[1, 3, 2, 5], [4, 4, 1, 6], [2, 2, 8]]
ALL = [length for one in STEPS for length in one]
EACH = [{"accept_lengths": one} for one in STEPS]
WHOLE = {"accept_lengths": ALL}


@pytest.mark.parametrize(
    ("values", "units"),
    [
        ([WHOLE | {"turns": EACH}], 3),
        ([{"summary": WHOLE, "requests": EACH}], 3),
        ([{"requests": EACH, "all_requests_summary": WHOLE}], 3),
        ([{"result": WHOLE, "summary": WHOLE}], 1),
        ([WHOLE | {"raw": WHOLE}], 1),
        ([{"meta_info": WHOLE, "__verbose": {"meta_info": WHOLE}}], 1),
        ([{"summary": WHOLE, "a": EACH[0], "b": EACH[1], "c": EACH[2]}], 3),
        ([{"by_set": {"a": EACH[0], "b": EACH[1:]}, "results": EACH, "overall": WHOLE}], 3),
        ([*EACH, WHOLE | {"type": "summary"}], 3),
        ([[*EACH, {"summary": WHOLE}]], 3),
        ([{"summary": True} | WHOLE, *EACH], 3),
        (EACH, 3),
        # A file of one request each, two of them alike.
        ([EACH[0], EACH[0]], 2),
        ([WHOLE | {"spec_verify_ct": 11, "completion_tokens": 38, "spec_draft_tokens": 77}], 1),
    ],
)
def test_the_same_steps_at_two_levels_are_counted_once(tmp_path: Path, values: list[Any], units: int) -> None:
    found = read(tmp_path, *values)
    if values != [EACH[0], EACH[0]]:
        assert (float(found.drafts.sum()), float(found.accepted.sum())) == (11, 27)
    assert len(found) == units


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [WHOLE | {"turns": EACH[:2]}],
            r"two levels, 27 accepted in 11 steps and inside 18 accepted in 8 steps \(turns\)",
        ),
        ([{"summary": WHOLE, "requests": EACH[:2]}], "'summary' counts 27 accepted in 11 steps, and the rest 18"),
        ([{"result": WHOLE, "again": WHOLE}], "'result' and 'again' count the same"),
        ([{"x": WHOLE, "a": EACH[0], "b": EACH[1], "c": EACH[2]}], "'x' counts as much as all other names together"),
        ([*EACH, WHOLE], "entry 4 of 4 counts as much as all others together"),
        ([WHOLE | {"spec_verify_ct": 12, "completion_tokens": 38}], "one object counts .* and, in another form"),
    ],
)
def test_levels_that_do_not_add_up_are_an_error(tmp_path: Path, values: list[Any], said: str) -> None:
    refused(tmp_path, said, *values)


def test_the_usage_of_an_answer_is_that_of_its_choices(tmp_path: Path) -> None:
    usage = {"completion_tokens_details": {"accepted_prediction_tokens": 60, "rejected_prediction_tokens": 60}}
    found = read(tmp_path, {"choices": [{"meta_info": META}], "usage": usage})
    assert found.engine == "SGLang"
    assert acceptance(found).row("length with bonus") >= 0
    usage["completion_tokens_details"]["accepted_prediction_tokens"] = 50
    refused(
        tmp_path,
        "'usage' counts 50 accepted of 110 draft tokens, and the rest 60 accepted of 120",
        {"choices": [{"meta_info": META}], "usage": usage},
    )


def test_answers_beside_log_lines_are_an_error(tmp_path: Path) -> None:
    line = "draft acceptance rate = 0.50000 (   20 accepted /    40 generated)"
    refused(
        tmp_path,
        "answers with counts and lines of a log",
        {"timings": {"draft_n": 10, "draft_n_accepted": 4}, "log": line},
    )


def test_figures_written_as_text_are_figures(tmp_path: Path) -> None:
    timings = {"draft_n": 40, "draft_n_accepted": 19}
    for rate in ("47.5%", "0.475", "48 %"):
        assert len(read(tmp_path, {"timings": timings | {"acceptance_rate": rate}})) == 1
    refused(tmp_path, "acceptance_rate is 57.5%, but 19 of 40", {"timings": timings | {"acceptance_rate": "57.5%"}})
    refused(tmp_path, "acceptance_rate is 0.475%, but 19 of 40", {"timings": timings | {"acceptance_rate": "0.475%"}})
    assert len(read(tmp_path, {"timings": timings | {"acceptance_rate": float("nan")}})) == 1


@pytest.mark.parametrize(
    "value",
    [
        {"draft_count": [1000, 900], "accept_count": [800, 500], "acceptance_rate": 0.8},
        {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1, "acceptance_rate": 0.85},
    ],
)
def test_figures_beside_counts_of_every_form(tmp_path: Path, value: dict[str, Any]) -> None:
    refused(tmp_path, r"acceptance_rate is 0\.85?, but", value)


def test_an_answer_without_a_step_is_left_out(tmp_path: Path) -> None:
    none = {"completion_tokens": 1, "spec_verify_ct": 0, "spec_accept_rate": 0.0, "spec_accept_length": 0}
    assert len(read(tmp_path, {"meta_info": META}, {"meta_info": none})) == 1


def test_pieces_of_a_stream_without_names_are_an_error(tmp_path: Path) -> None:
    pieces = [
        {"choices": [{"delta": {}}], "timings": {"draft_n": 10 * i, "draft_n_accepted": 4 * i}} for i in (1, 2, 3)
    ]
    refused(tmp_path, r"pieces of a stream \(delta\)", *pieces)
    assert len(read(tmp_path, pieces[-1])) == 1
