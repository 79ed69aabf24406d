"""Logs of several sources, exported logs, logs of several engines: every report counts once, or it is an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from server_lines import LLAMA, SGLANG, old, pooled, read, statistics, vllm

from mdsd_bounds import InputError
from mdsd_bounds.counts import Unit
from mdsd_bounds.counts.log_totals import Total, added

# Running totals of several sources.


def test_implementations_of_llama_cpp_are_counted_apart(tmp_path: Path) -> None:
    lines = [statistics("ngram_simple", 5, 187, 73), statistics("draft", 10, 110, 98)]
    lines += [statistics("ngram_simple", 8, 300, 100), statistics("draft", 25, 275, 200)]
    found = read(tmp_path, "\n".join(lines))
    # As one counter: 73 + 98 + 100 + 100 accepted of 187 + 110 + 300 + 275.
    assert pooled(found) == (300, 575)
    assert "totals of 2 sources" in " ".join(found.notes)
    assert "reset" not in " ".join(found.notes)


@pytest.mark.parametrize(
    "names",
    [
        ("(EngineCore_0 pid=11) INFO ", "(EngineCore_1 pid=12) INFO "),
        ("(VllmWorkerProcess pid=7) INFO 01-01 10:00:0{} ", "(VllmWorkerProcess pid=8) INFO 01-01 10:00:0{} "),
        ("[engine=0] ", "[engine=1] "),
        ("INFO 01-01 10:00:0{} Engine 000: ", "INFO 01-01 10:00:0{} Engine 001: "),
        ("vllm-1  | INFO ", "vllm-2  | INFO "),
        ("[pod/vllm-0/vllm] INFO ", "[pod/vllm-1/vllm] INFO "),
        ("vllm-7f9c4-abcde vllm INFO ", "vllm-7f9c4-fghij vllm INFO "),
        ("Jan 01 10:00:0{} host vllm[11]: ", "Jan 01 10:00:0{} host vllm[12]: "),
        ("2026-01-01T10:00:0{}Z hosta vllm[11]: ", "2026-01-01T10:00:0{}Z hostb vllm[11]: "),
        ("a.log:{}:INFO ", "b.log:{}:INFO "),
        ("0: INFO ", "1: INFO "),
        ("[1,0]<stdout>: ", "[1,1]<stdout>: "),
        ("[vllm-a] INFO ", "[vllm-b] INFO "),
        ("[8081] 3.07.590.86{} I ", "[8082] 3.07.590.86{} I "),
    ],
)
@pytest.mark.parametrize(
    "write", [lambda n, a, by: old(n, a, by), lambda n, a, by: statistics("draft", n, 5 * n, a, by)]
)
def test_workers_are_counted_apart(tmp_path: Path, names: tuple[str, str], write: object) -> None:
    steps = [(100, 200), (1000, 1500), (150, 300), (1100, 1700), (200, 350)]
    lines = [write(n, a, names[at % 2].format(at)) for at, (n, a) in enumerate(steps)]  # type: ignore[operator]
    assert pooled(read(tmp_path, "\n".join(lines))) == (350 + 1700, 1000 + 5500)


def test_files_that_tail_has_named_are_counted_apart(tmp_path: Path) -> None:
    text = f"==> a.log <==\n{old(100, 200)}\n\n==> b.log <==\n{old(90, 100)}\n\n==> a.log <==\n{old(150, 300)}\n"
    assert pooled(read(tmp_path, text)) == (400, 1200)


@pytest.mark.parametrize(
    "steps",
    [
        [(100, 200), (1000, 1500), (150, 300), (1100, 1700), (200, 350)],
        [(1000, 1500), (50, 70), (1010, 1520)],
        [(100, 200), (900, 1000), (150, 300), (950, 1100)],
        [(100, 200), (90, 150), (110, 210)],
        # Three and four that take turns.
        [(1000, 1500), (50, 70), (500, 800), (1010, 1520), (60, 80), (510, 820), (1020, 1540)],
        [(1000, 1500), (50, 70), (350, 500), (700, 900), (1010, 1520), (60, 80), (360, 520), (710, 950), (1020, 1530)],
        # More steps, and fewer accepted: neither is above the other.
        [(100, 300), (200, 100), (110, 320), (210, 120), (120, 330)],
    ],
)
def test_totals_that_take_turns_without_a_name_are_an_error(tmp_path: Path, steps: list[tuple[int, int]]) -> None:
    with pytest.raises(InputError, match=r"server\.log line \d: (some|the) totals (fall|rise) .* in a file of its own"):
        read(tmp_path, "\n".join(old(n, a) for n, a in steps))


def test_random_turns_of_named_sources_are_right_and_of_unnamed_ones_seldom_wrong() -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        ends = []
        lines = []
        for name in "ab":
            heights = random.integers(0, 3000) + np.cumsum(random.integers(1, 200, random.integers(2, 12)))
            ends.append(int(heights[-1]))
            lines += [
                (place, name, int(n)) for place, n in zip(np.sort(random.random(len(heights))), heights, strict=True)
            ]
        units = [(name, Unit(float(n), 4.0 * n, 2.0 * n)) for _, name, n in sorted(lines)]
        found, _ = added([Total(f"line {at}", name, unit) for at, (name, unit) in enumerate(units)])
        assert sum(one.drafts or 0 for one in found) == sum(ends)
        try:
            found, _ = added([Total(f"line {at}", "", unit) for at, (_, unit) in enumerate(units)])
        except ValueError:
            continue
        wrong += sum(one.drafts or 0 for one in found) != sum(ends)
    # Totals that never fall look like one counter.
    assert wrong < 30


@pytest.mark.parametrize(
    ("runs", "resets"),
    [
        ([range(100, 1100, 100), range(50, 700, 100)], 1),
        # Runs that grow beyond the height from which they fell.
        ([range(100, 1100, 100), range(50, 2000, 100)], 1),
        ([range(100, 2100, 100), range(50, 2500, 100), range(30, 3000, 100)], 2),
        # Two single lines.
        ([[1000], [50]], 1),
        ([[100], [90, 150, 200]], 1),
        # A run that was short between two others.
        ([range(100, 1100, 100), [30, 60], range(40, 4000, 100)], 2),
    ],
)
def test_a_restart_is_one(tmp_path: Path, runs: list[range], resets: int) -> None:
    found = read(tmp_path, "\n".join(old(n, 2 * n) for run in runs for n in run))
    assert float(found.drafts.sum()) == sum(run[-1] for run in runs)
    assert f"reset {resets} times" in " ".join(found.notes)


def test_a_restart_with_another_process_is_no_reset(tmp_path: Path) -> None:
    lines = [old(n, 2 * n, "(EngineCore pid=1) ") for n in (10, 20)] + [
        old(n, 2 * n, "(EngineCore pid=2) ") for n in (5, 30)
    ]
    assert float(read(tmp_path, "\n".join(lines)).drafts.sum()) == 50


def test_lines_that_all_begin_otherwise_are_not_taken_for_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one source or several"):
        read(tmp_path, "\n".join(old(n, 2 * n, f"worker-{n} ") for n in (10, 20, 30, 40)))
    # Names of requests, of which each has two lines.
    with pytest.raises(
        InputError, match="whether 'req-1', 'req-2', 'req-3' are sources that count apart cannot be told"
    ):
        read(tmp_path, "\n".join(old(n, 2 * n, f"req-{n // 100} ") for n in (100, 150, 200, 250, 300, 350)))


@pytest.mark.parametrize(
    "lines",
    [
        [old(n, 2 * n) for n in (500, 400, 300, 200, 100)],
        [old(200, 400, "2026-01-01 10:00:10 "), old(100, 200, "2026-01-01 10:00:00 ")],
        [
            old(200, 400, "INFO 01-01 10:00:10 "),
            old(250, 500, "INFO 01-01 10:00:20 "),
            old(100, 200, "INFO 01-01 10:00:00 "),
        ],
    ],
)
def test_totals_that_stand_newest_first_are_an_error(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(InputError, match="newest first, or joined out of order; give the lines in the order"):
        read(tmp_path, "\n".join(lines))


def test_slots_that_count_apart_are_told_by_their_names(tmp_path: Path) -> None:
    slot = "slot print_timing: id {} | task {} | "
    steps = [(0, 100), (1, 1000), (0, 150), (1, 1100), (0, 200)]
    lines = [statistics("draft", n, 4 * n, n, slot.format(name, at)) for at, (name, n) in enumerate(steps)]
    assert pooled(read(tmp_path, "\n".join(lines))) == (1300, 5200)
    # A counter of the whole server goes on from slot to slot.
    lines = [statistics("draft", n, 4 * n, n, slot.format(n % 2, n)) for n in (11, 20, 31)]
    assert pooled(read(tmp_path, "\n".join(lines))) == (31, 124)


# Exported logs.

REPORTS = [vllm(190, 400, "INFO 10:00:00 "), vllm(5, 40, "INFO 10:00:10 "), vllm(30, 60, "INFO 10:00:20 ")]
RIGHT = (225.0, 500.0)
EXPORTS = {
    "array of records": json.dumps([{"log": line + "\n", "stream": "stdout"} for line in REPORTS]),
    "array of records, indented": json.dumps([{"log": line, "n": i} for i, line in enumerate(REPORTS)], indent=2),
    "array of lines": json.dumps(REPORTS),
    "one string": json.dumps("\n".join(REPORTS)),
    "escaped newlines": json.dumps({"logs": "\r\n".join(["started", *REPORTS])}),
    "escaped newlines, indented": json.dumps({"status": "ok", "logs": "\n".join(REPORTS)}, indent=4),
    "a record a line": "\n".join(json.dumps({"log": line + "\n", "time": i}) for i, line in enumerate(REPORTS)),
    "records behind a prefix": "\n".join(
        "2026-01-01T00:00:00Z stdout F " + json.dumps({"msg": one}) for one in REPORTS
    ),
    "two reports behind a prefix": f"vllm-1 | {json.dumps({'msg': chr(10).join(REPORTS)})}",
    "records without a break": "".join(json.dumps({"log": line}) for line in REPORTS),
    "indented records in a row": "\n".join(json.dumps({"log": line}, indent=2) for line in REPORTS),
    "JSON in a string": "\n".join(json.dumps({"log": json.dumps({"message": line})}) for line in REPORTS),
    "Loki": json.dumps(
        {"data": {"result": [{"stream": {"pod": "a"}, "values": [[str(i), x] for i, x in enumerate(REPORTS)]}]}}
    ),
    "Elasticsearch": json.dumps(
        {
            "hits": {
                "hits": [
                    {"_source": {"message": x, "event": {"original": "2026 " + x}}, "fields": {"message": [x]}}
                    for x in REPORTS
                ]
            }
        }
    ),
    "journald": "\n".join(json.dumps({"MESSAGE": list(x.encode()) if i else x}) for i, x in enumerate(REPORTS)),
    "colours": "\n".join(
        x.replace("Accepted: ", "Accepted: \x1b[1;32m").replace(" tokens, D", "\x1b[0m tokens, D") for x in REPORTS
    ),
    "carriage returns": "progress 10%\r" + "\r".join(REPORTS),
    "CRLF": "\r\n".join(REPORTS) + "\r\n",
}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_report_of_an_exported_log_is_counted(tmp_path: Path, name: str) -> None:
    assert pooled(read(tmp_path, EXPORTS[name])) == RIGHT


def test_several_reports_on_a_line_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"server\.log line 2: 3 reports on one line; give the log as it was written"):
        read(tmp_path, f"start\nb'{chr(92)}n'.join([{', '.join(map(repr, REPORTS))}])\n")
    with pytest.raises(InputError, match="2 reports on one line"):
        read(tmp_path, SGLANG.format(0, "", "2.50") + " " + SGLANG.format(1, "", "1.50"))


def test_a_record_that_holds_some_reports_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same report stands under 'tail' and under 'log'"):
        read(tmp_path, json.dumps({"tail": REPORTS[1:], "log": REPORTS}))


def test_a_log_joined_to_a_copy_of_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 4: the same as line 2, its time included"):
        read(tmp_path, "\n".join([*REPORTS, REPORTS[1]]))
    # Without a time, two requests may be alike.
    assert pooled(read(tmp_path, f"{LLAMA}\n{LLAMA}\n")) == (40, 80)


def test_records_name_their_source(tmp_path: Path) -> None:
    pods = [{"log": old(n, 2 * n), "kubernetes": {"pod_name": f"vllm-{n % 2}"}} for n in (101, 1000, 151, 1100, 201)]
    assert float(read(tmp_path, "\n".join(map(json.dumps, pods))).drafts.sum()) == 1301


@pytest.mark.parametrize(
    "cut",
    [
        REPORTS[2][:70],
        "INFO SpecDecoding metrics: Mean acceptance length: 2.77,\nAccepted: 626 tokens, Drafted: 1062 tokens",
        "INFO SpecDecoding metrics: Accepted: 1.234 tokens, Drafted: 2.468 tokens",
        "draft acceptance = 0.5 (20 accepted",
        "statistics draft: #gen drafts = 3, #acc drafts = 2",
        "Speculative metrics: Draft acceptance rate: 0.642, Mean acceptance length: 3.0",
    ],
)
def test_a_report_that_cannot_be_read_is_not_passed_over(tmp_path: Path, cut: str) -> None:
    with pytest.raises(InputError, match=r"server\.log line 3: a report without its counts"):
        read(tmp_path, "\n".join([*REPORTS[:2], cut]))


def test_separated_thousands_are_read(tmp_path: Path) -> None:
    line = "SpecDecoding metrics: Accepted: 1,234 tokens, Drafted: 2,468 tokens, Avg Draft acceptance rate: 50.0%"
    assert pooled(read(tmp_path, f"{line}\n{vllm(5, 10)}")) == (1239, 2478)
