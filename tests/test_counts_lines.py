"""Logs of several engines, ranks and figures on one line: contradictions and cut lines are errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_lines import LLAMA, SGLANG, old, pooled, read, statistics, vllm

from mdsd_bounds import InputError
from mdsd_bounds.counts import acceptance

# Several engines.


@pytest.mark.parametrize(
    "lines",
    [
        [vllm(190, 400), LLAMA],
        [SGLANG.format(0, "", "2.50"), vllm(190, 400)],
        [vllm(190, 400), old(100, 200)],
        [LLAMA, SGLANG.format(0, "", "2.50")],
    ],
)
def test_reports_of_several_engines_are_an_error(tmp_path: Path, lines: list[str]) -> None:
    for turn in (lines, lines[::-1]):
        with pytest.raises(InputError, match=r"reports of several engines, .* \(line \d\), .*in a file of its own"):
            read(tmp_path, "\n".join(turn))


def test_requests_of_llama_cpp_are_read_and_its_totals_of_the_same_tokens_are_not(tmp_path: Path) -> None:
    assert pooled(read(tmp_path, f"{LLAMA}\n{statistics('draft', 10, 40, 20)}")) == (20, 40)


def test_ranks_that_run_the_same_batches_count_once(tmp_path: Path) -> None:
    lines = [
        SGLANG.format(at, f" TP{rank}", length) for at, length in enumerate(("2.50", "1.50")) for rank in (0, 1, 2)
    ]
    assert len(read(tmp_path, "\n".join(lines))) == 2
    lines = [SGLANG.format(0, f" DP{rank} TP{rank}", length) for rank, length in enumerate(("2.50", "1.50"))]
    found = read(tmp_path, "\n".join(lines))
    summary = acceptance(found)
    assert len(found) == 2
    assert summary.value[summary.row("length with bonus")] == pytest.approx(2.0)


# Figures on one line.


def test_means_of_llama_cpp_are_held_against_its_counts(tmp_path: Path) -> None:
    line = "draft acceptance = 0.63158 (   24 accepted /    38 generated), mean len =  {}"
    assert read(tmp_path, line.format("2.85")).drafts.tolist() == [13]
    with pytest.raises(InputError, match=r"a mean length of 9\.85, which no number of steps makes of 24"):
        read(tmp_path, line.format("9.85"))
    total = "statistics ngram-mod: #calls(b,g,a) =    4    542     31, #gen drafts =     {}, #acc drafts =    28, "
    total += "#gen tokens =    920, #acc tokens =   527, #mean acc len = {}, #acc rate/pos = (0.903, 0.806)"
    found = read(tmp_path, total.format(31, "18.00"))
    # Two of some thirty positions are listed.
    assert (found.drafts.tolist(), found.accepted_at.size) == ([31], 0)
    assert read(tmp_path, total.format(40, "18.00")).drafts.tolist() == [31]
    with pytest.raises(InputError, match=r"a mean length of 8\.00, but 527 accepted tokens in 31 drafts make 18\.00"):
        read(tmp_path, total.format(31, "8.00"))


def test_rates_of_long_totals_do_not_give_what_was_added(tmp_path: Path) -> None:
    line = "#gen drafts = {}, #acc drafts = {}, #gen tokens = {}, #acc tokens = {}, #acc rate/pos = ({}, 0.500)"
    lines = [line.format(20000, 16000, 40000, 26000, "0.800"), line.format(20100, 16020, 40200, 26070, "0.797")]
    found = read(tmp_path, "\n".join(lines))
    assert found.accepted_at.size == 0
    assert "rates by position are left out" in " ".join(found.notes)
    assert read(tmp_path, lines[1]).accepted_at.shape == (1, 2)


@pytest.mark.parametrize("cut", [", 0.6", ", 0.60, 0.500", ", 0.600"])
def test_rates_by_position_that_were_cut_are_an_error(tmp_path: Path, cut: str) -> None:
    line = "SpecDecoding metrics: Mean acceptance length: 3.10, Accepted: 210 tokens, Drafted: 300 tokens, "
    line += "Per-position acceptance rate: 0.800, 0.700, 0.600"
    assert read(tmp_path, line).drafts.tolist() == [100]
    with pytest.raises(InputError, match=r"cut short|the rates by position make"):
        read(tmp_path, line.replace(", 0.600", "" if cut == ", 0.600" else cut))


def test_totals_of_which_some_rise_and_some_fall_are_no_restart(tmp_path: Path) -> None:
    lines = [statistics("draft", 10, 40, 20), statistics("draft", 20, 80, 40), statistics("draft", 30, 120, 6)]
    with pytest.raises(InputError, match="line 3: some totals rise from line 2 and others fall"):
        read(tmp_path, "\n".join(lines))


def test_another_number_of_draft_tokens_is_another_counter(tmp_path: Path) -> None:
    lines = [old(200, 500), old(500, 1000).replace("tokens: 5,", "tokens: 4,")]
    assert float(read(tmp_path, "\n".join(lines)).drafts.sum()) == 200 + 2500 / 4


@pytest.mark.parametrize(
    "end", ["accept len: 2.5", "accept len: 2.50, accept rate: 0", "accept len: 2.50, accept rate: 0.00"]
)
def test_a_line_of_sglang_that_was_cut_is_an_error(tmp_path: Path, end: str) -> None:
    with pytest.raises(InputError, match="line 2"):
        read(tmp_path, f"{SGLANG.format(0, '', '2.50')}\n[10:00:01] Decode batch. #running-req: 1, {end}")


def test_accept_rates_of_sglang_that_count_the_token_of_the_target(tmp_path: Path) -> None:
    line = "[10:00:0{}] Decode batch. #running-req: 1, accept len: {}, accept rate: {}, cuda graph: True"
    with_it = [line.format(0, "2.50", "0.62"), line.format(1, "3.50", "0.88")]
    found = read(tmp_path, "\n".join(with_it))
    summary = acceptance(found)
    # 1.5 and 2.5 of 3 draft tokens; as printed 0.75.
    assert summary.value[summary.row("accepted/drafted")] == pytest.approx(4 / 6)
    assert "counted with the token of the target" in " ".join(found.notes)
    without = [line.format(0, "2.50", "0.38"), line.format(1, "3.50", "0.62")]
    summary = acceptance(read(tmp_path, "\n".join(without)))
    assert summary.value[summary.row("accepted/drafted")] == pytest.approx(4 / 8)


def test_sources_of_lines_that_are_pooled_are_named(tmp_path: Path) -> None:
    found = read(tmp_path, "\n".join([vllm(19, 40, "(APIServer pid=1) "), vllm(5, 40, "(APIServer pid=2) ")]))
    assert "2 sources are pooled (APIServer pid=1" in " ".join(found.notes)
    assert "repeated" in " ".join(read(tmp_path, f"{vllm(19, 40)} [repeated 3x across cluster]").notes)


def test_a_page_that_ends_within_a_number_is_an_error(tmp_path: Path) -> None:
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    page = "\n".join(f"vllm:spec_decode_{name}_total {n}" for name, n in zip(names, (1000, 4000, 1900), strict=True))
    assert pooled(read(tmp_path, page + "\n")) == (1900, 4000)
    with pytest.raises(InputError, match="ends the page without a line break"):
        read(tmp_path, page[:-2])
