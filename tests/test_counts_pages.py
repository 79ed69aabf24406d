"""Metrics pages that are cut, damaged, or of more than one engine or model: an error, and no rate of half of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from mdsd_bounds import InputError
from mdsd_bounds.counts import Counts, read_counts

REACHED = (800, 560, 340, 200)


def vllm(times: int = 1, labels: str = 'model_name="m",engine="0"') -> str:
    """A page of vLLM: 1,000 steps, 4,000 draft tokens, 1,900 of them accepted, ``times`` over."""
    of = "vllm:spec_decode_num"
    lines = [f"{of}_drafts_total{{{labels}}} {1000 * times}", f"{of}_draft_tokens_total{{{labels}}} {4000 * times}"]
    lines += [f"{of}_accepted_tokens_total{{{labels}}} {1900 * times}"]
    for place, reached in enumerate(REACHED):
        lines.append(f'{of}_accepted_tokens_per_pos_total{{{labels},position="{place}"}} {reached * times}')
    return "\n".join(lines) + "\n"


def sglang(steps: str, tokens: str) -> str:
    """100 steps and 300 tokens of SGLang, under two sets of labels."""
    return f"sglang:spec_verify_calls_total{{{steps}}} 100\nsglang:generation_tokens_total{{{tokens}}} 300\n"


def read(folder: Path, *pages: str) -> Counts:
    """What pages count."""
    files = [folder / f"{number}.txt" for number in range(len(pages))]
    for file, text in zip(files, pages, strict=True):
        file.write_text(text)
    return read_counts(files)


@pytest.mark.parametrize("kept", range(1, 7))
def test_a_counter_that_is_gone_is_no_reset(tmp_path: Path, kept: int) -> None:
    # Taken for a reset, the whole of the second page would count: 2,000 steps for 1,000.
    cut = "".join(vllm(2).splitlines(keepends=True)[:kept])
    with pytest.raises(InputError, match=r"1\.txt: lacks vllm:spec_decode_num_.*a page that was cut short"):
        read(tmp_path, vllm(), cut)
    assert read(tmp_path, vllm(), vllm(2)).drafts.tolist() == [1000]


def test_a_counter_may_be_gone_after_a_restart(tmp_path: Path) -> None:
    first = vllm() + "process_start_time_seconds 1\n"
    second = "".join(vllm(2).splitlines(keepends=True)[:3]) + "process_start_time_seconds 2\n"
    assert read(tmp_path, first, second).drafts.tolist() == [2000]


@pytest.mark.parametrize(
    ("old", "new"),
    [("} 4000", "} 4000 tokens"), ("} 1900", "} 1900 12 13"), ("} 1000", "}"), ('engine="0"} 1000', "engine"), ],
)  # fmt: skip
def test_a_damaged_sample_of_a_counter_is_not_passed_over(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(InputError, match="is no sample"):
        read(tmp_path, vllm().replace(old, new))


def test_pages_joined_with_a_byte_order_mark_between_are_not_half_read(tmp_path: Path) -> None:
    # The steps of the second page were passed over, its tokens were not.
    with pytest.raises(InputError, match="line 8: vllm:spec_decode_num_drafts_total is no sample"):
        read(tmp_path, vllm() + "\ufeff" + vllm(1, 'model_name="m",engine="1"'))


def test_an_exemplar_behind_a_number_is_not_the_number(tmp_path: Path) -> None:
    page = vllm().replace("} 1900", '} 1900 # {trace_id="a"} 1 1.5')
    assert read(tmp_path, page).accepted.tolist() == [1900]
    page = vllm(1, 'model_name="a{b} 7",engine="0"')
    assert read(tmp_path, page).accepted.tolist() == [1900]


def test_other_names_that_begin_alike_are_left_alone(tmp_path: Path) -> None:
    more = 'vllm:spec_decode_num_drafts_created{model_name="m"} 1.7e9 x y\nvllm:spec_decode_num_drafts_bucket{ } \n'
    assert read(tmp_path, vllm() + more).drafts.tolist() == [1000]


@pytest.mark.parametrize("labels", ['model_name="m",tp_rank="0"', 'model_name="m",engine="0"', 'tp_rank="0"'])
def test_two_engines_on_one_page_are_not_summed(tmp_path: Path, labels: str) -> None:
    page = vllm(1, 'model_name="m",engine="0"' if "m" in labels.split('"') else 'engine="0"')
    with pytest.raises(InputError, match="counts of vLLM and of SGLang"):
        read(tmp_path, page + sglang(labels, labels))


def test_tokens_of_another_model_are_none_of_the_steps(tmp_path: Path) -> None:
    other = 'sglang:generation_tokens_total{model_name="other"} 100000\n'
    page = sglang('model_name="m",tp_rank="0"', 'model_name="m"')
    assert read(tmp_path, page + other).accepted.tolist() == [200]
    assert read(tmp_path, sglang('model_name="m"', 'model_name="m"') + other).accepted.tolist() == [200]
    for steps in ('tp_rank="0"', 'model_name="x",tp_rank="0"'):
        with pytest.raises(InputError, match="cannot be told"):
            read(tmp_path, sglang(steps, 'model_name="m"') + other)
    # Tokens of one rank alone beside the steps of two.
    with pytest.raises(InputError, match="cannot be told"):
        read(tmp_path, sglang('tp_rank="0"', 'tp_rank="0"') + 'sglang:spec_verify_calls_total{tp_rank="1"} 100\n')


def test_fewer_tokens_than_steps_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"300 sglang:generation_tokens in 400 sglang:spec_verify_calls"):
        read(tmp_path, sglang("", "").replace(" 100\n", " 400\n"))


def test_a_restart_is_told_by_the_times_at_which_counters_were_made(tmp_path: Path) -> None:
    # More on every counter, and yet a new process.
    first, second = (
        f"{vllm(times)}vllm:spec_decode_num_drafts_created {made}\n" for times, made in ((1, 1.70e9), (2, 1.71e9))
    )
    assert read(tmp_path, first, second).drafts.tolist() == [2000.0]
    same = f"{vllm(2)}vllm:spec_decode_num_drafts_created 1.70e9\n"
    assert read(tmp_path, first, same).drafts.tolist() == [1000.0]


@pytest.mark.parametrize(
    "answers",
    [
        [{"stop": False, "timings": {"draft_n": 10, "draft_n_accepted": 4}}],
        [{"id": "a", "timings": {"draft_n": 10 * i, "draft_n_accepted": 4 * i}} for i in (1, 2)],
        [{"meta_info": {"id": "a", "spec_verify_ct": i, "completion_tokens": 2 * i}} for i in (3, 6)],
    ],
)
@pytest.mark.parametrize("lines", [True, False])
def test_pieces_of_a_stream_are_no_answers(tmp_path: Path, answers: list[dict[str, object]], lines: bool) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, answers)) if lines else json.dumps(answers))
    with pytest.raises(InputError, match=r"pieces? of a stream"):
        read_counts([file])


@pytest.mark.parametrize(
    ("form", "how"),
    [
        (form, how)
        for form in ("page", "answers", "npz")
        for how in ("same", "link", "copy", "gzip")
        if (form, how) != ("npz", "gzip")  # archives are not read compressed once more
    ],
)
def test_one_content_given_twice_is_an_error(form: str, how: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    if form == "npz":
        np.savez(tmp_path / "a.npz", drafts=np.array([10]), accepted=np.array([4]), draft_tokens=np.array([20]))
        (tmp_path / "a.npz").rename(first)
    elif form == "page":
        names = {"num_drafts": 10, "num_draft_tokens": 20, "num_accepted_tokens": 4}
        first.write_text("".join(f"vllm:spec_decode_{name}_total {count}\n" for name, count in names.items()))
    else:
        first.write_text(json.dumps({"timings": {"draft_n": 10, "draft_n_accepted": 4}, "content": "a"}))
    if how == "link":
        second.symlink_to(first)
    elif how == "copy":
        second.write_bytes(first.read_bytes())
    elif how == "gzip":
        second.write_bytes(gzip.compress(first.read_bytes()))
    else:
        second = first
    with pytest.raises(InputError, match="would count twice"):
        read_counts([first, second], each=True)
