"""The command line as users meet it: data on stdout, one line and exit code 2 on bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mdsd_bounds import SAMPLERS, optimal_acceptance, to_probs
from mdsd_bounds.cli import options
from tests.command import call

ROWS, SIZE = 70, 50


@pytest.fixture
def dump(tmp_path: Path) -> str:
    generator = np.random.default_rng(0)
    target = generator.normal(size=(ROWS, SIZE)).astype(np.float32) * 2
    draft = target + generator.normal(size=(ROWS, SIZE)).astype(np.float32)
    np.savez(tmp_path / "pair.npz", target_logits=target, draft_logits=draft, doc=np.arange(ROWS) // 7)
    return str(tmp_path / "pair.npz")


def test_bounds_equal_the_library(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = str(tmp_path / "rows.parquet")
    code, text, _ = call(
        "bounds", dump, "--sampler", "all", "--drafts", "1,2,4,8", "--temperature", "0.5,1",
        "--format", "json", "--out", out, capsys=capsys, monkeypatch=monkeypatch,
    )  # fmt: skip
    assert code == 0
    rows = json.loads(text)
    assert len(rows) == 6 * 4 * 2
    assert set(rows[0]) >= {"sampler", "drafts", "temperature", "positions", "mean", "certified_low", "stderr"}
    data = np.load(dump)
    table = pd.read_parquet(out)
    assert not Path(f"{out}.parts").exists()
    for row in rows:
        p, q = (to_probs(data[name], temperature=row["temperature"]) for name in ("target_logits", "draft_logits"))
        bound = optimal_acceptance(p, q, row["drafts"], row["sampler"])
        assert row["mean"] == pytest.approx(float(bound.value.mean()), abs=1e-10)
        assert row["certified_low"] <= row["mean"] <= row["certified_high"]
        assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        assert row["positions"] == ROWS
        assert row["stderr"] > 0
        part = table.query(
            "sampler == @row['sampler'] and drafts == @row['drafts'] and temperature == @row['temperature']"
        )
        assert np.allclose(part["value"], bound.value.numpy(), atol=1e-9)


def test_formats(dump: str, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    code, text, _ = call("bounds", dump, "--drafts", "2", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    first, blank, *table = text.splitlines()
    assert re.fullmatch(
        r"With 2 drafts at temperature 1 no lossless verifier accepts more than 0\.\d{4} of the positions, "
        r"for drafts of \w+ \(95% interval 0\.\d{4} to 0\.\d{4}, \d+ documents, \d+ positions\)\.",
        first,
    )
    assert blank == ""
    assert max(map(len, table)) <= 100
    assert table[0].split() == ["certified_", "certified_"]
    assert table[1].split()[:5] == ["sampler", "drafts", "temperature", "positions", "mean"]
    ask = ("bounds", dump, "--drafts", "2", "--format")
    code, text, _ = call(*ask, "markdown", capsys=capsys, monkeypatch=monkeypatch)
    assert text.splitlines()[0] == first
    assert text.splitlines()[2].startswith("|sampler")
    code, text, _ = call(*ask, "html", capsys=capsys, monkeypatch=monkeypatch)
    assert text.startswith("<p>With 2 drafts")
    assert text.count("<tr") == 4
    code, text, _ = call(*ask, "json", capsys=capsys, monkeypatch=monkeypatch)
    assert {row["conclusion"] for row in json.loads(text)} == {first}
    assert list(json.loads(text)[0]) == [
        "sampler", "drafts", "temperature", "documents", "positions", "mean", "certified_low", "certified_high",
        "stderr", "ci_low", "ci_high", "conclusion",
    ]  # fmt: skip
    code, text, _ = call("bounds", dump, "--drafts", "2", "--format", "csv", capsys=capsys, monkeypatch=monkeypatch)
    assert len(text.splitlines()) == 4
    code, text, _ = call("inspect", dump, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    assert json.loads(text)["positions"] == ROWS
    code, text, _ = call("inspect", dump, capsys=capsys, monkeypatch=monkeypatch)
    assert "vocabulary" in text


@pytest.mark.parametrize("command", ["bounds", "compare", "advise", "draft-temperature"])
def test_warnings_stand_in_the_json_too(command: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    more = ["--draft-cost", "0.1"] if command == "advise" else ["--drafts", "2"]
    more += ["--folds", "2"] if command == "draft-temperature" else []
    for name, draft in (("good", rows + 0.1), ("late", np.roll(rows, 2, 0))):
        path = str(tmp_path / f"{name}.npz")
        np.savez(path, target_logits=rows, draft_logits=draft, doc=np.arange(12) // 6)
        code, text, said = call(command, path, "--format", "json", *more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, said
        assert ("two rows later" in said) == (name == "late")
        for row in json.loads(text):
            assert "two rows later" in row["warnings"][0] if name == "late" else "warnings" not in row


def test_interrupted_and_sharded_runs_give_the_same_bytes(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    arguments = ["bounds", dump, "--drafts", "1,3", "--quiet"]
    call(*arguments, "--out", str(whole), capsys=capsys, monkeypatch=monkeypatch)
    code, text, note = call(*arguments, "--out", str(parts), "--shard", "1/2", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (0, "")
    assert "every shard" in note
    code, text, note = call(
        "bounds", dump, "--drafts", "1", "--out", str(parts), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "other settings" in note
    call(*arguments, "--out", str(parts), "--shard", "0/2", capsys=capsys, monkeypatch=monkeypatch)
    assert parts.read_bytes() == whole.read_bytes()


def test_plot(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = str(tmp_path / "rows.parquet")
    call("bounds", dump, "--out", out, "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    figure = str(tmp_path / "figure.png")
    code, text, _ = call(
        "plot", out, "--out", figure, "--figure", "acceptance_by_drafts", capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, text.strip()) == (0, figure)
    assert Path(figure).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bounds", "nothing.npz"], "nothing.npz: no such file"),
        (["bounds", "DUMP", "--drafts", "0"], "at least 1"),
        (["bounds", "DUMP", "--drafts", "9" * 20], "more drafts than"),
        (["bounds", "DUMP", "--drafts", "two"], "separated by commas"),
        (["bounds", "DUMP", "--sampler", "magic"], "unknown sampler 'magic'"),
        (["bounds", "DUMP", "--temperature", "-1"], "temperature=-1.0"),
        (["bounds", "DUMP", "--top-p", "2"], "top_p=2.0"),
        (["bounds", "DUMP", "--shard", "0/2"], "--shard needs --out"),
        (["bounds", "DUMP", "--shard", "2/2", "--out", "x"], "from 0 to N-1"),
        (["bounds", "DUMP", "--out", "no/such/folder/x.parquet"], "does not exist"),
        (["bounds", "DUMP", "--format", "yaml"], "yaml"),
        (["bounds"], "Missing argument"),
        (["plot", "nothing.parquet", "--out", "x.png"], "no such file"),
        (["plot", "DUMP", "--out", "x.png"], "read as parquet file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments: list[str], message: str, dump: str, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    code, text, note = call(*[dump if a == "DUMP" else a for a in arguments], capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    lines = [line for line in note.splitlines() if line.startswith("mdsd:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(dump: str, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    locked, allowed = Path(dump).parent, os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode & os.W_OK == 0 or (Path(path) != locked and allowed(path, mode))
    )
    for command in ("bounds", "compare", "report"):
        code, text, note = call(command, dump, "--out", str(locked / "x"), capsys=capsys, monkeypatch=monkeypatch)
        assert (code, text) == (2, "")
        assert len(note.splitlines()) == 1
        assert "change its permissions, or write elsewhere" in note


def test_a_bad_row_is_named_with_file_and_number(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    target = np.zeros((40, 5), dtype=np.float32)
    target[37, 2] = np.nan
    np.savez(tmp_path / "bad.npz", target_logits=target, draft_logits=np.zeros((40, 5), dtype=np.float32))
    out = tmp_path / "out.parquet"
    code, text, note = call(
        "bounds", str(tmp_path / "bad.npz"), "--out", str(out), "--quiet", capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, text) == (2, "")
    assert "bad.npz target_logits row 37: NaN" in note
    assert not out.exists()


@pytest.mark.parametrize(("name", "code"), [("DUMP", 0), ("nothing.npz", 2)])
def test_a_process_ends_with_its_code_and_all_its_output(name: str, code: int, dump: str) -> None:
    arguments = ["bounds", dump if name == "DUMP" else name, "--drafts", "1", "--format", "csv", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "mdsd_bounds.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == (4 if code == 0 else 0)
    assert len(done.stderr.splitlines()) == (0 if code == 0 else 1)


def test_help_answers_without_torch() -> None:
    code = "import sys\nsys.argv = ['mdsd', '--help']\ntry:\n import mdsd_bounds.cli as c; c.main()\n"
    code += "except SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert "bounds" in done.stdout
    assert done.stdout.strip().endswith("False")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_rows_on_a_device_stay_there() -> None:
    p = torch.full((2, 8), 0.125, device="cuda")
    assert optimal_acceptance(p, p, 2).value.is_cuda


def test_results_are_never_parquet_under_another_name(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "rows.csv"
    code, text, note = call("bounds", dump, "--out", str(out), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    assert f"name it {tmp_path / 'rows.parquet'}" in note
    assert not list(tmp_path.glob("rows*"))


def test_a_comparison_says_which_cells_come_from_samples(dump: str, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ask = ("compare", dump, "--sampler", "without_replacement", "--samples", "20", "--limit", "6")
    _, sampled, _ = call(*ask, "--verifier", "nss", "--drafts", "4", capsys=capsys, monkeypatch=monkeypatch)
    _, exact, _ = call(*ask, "--verifier", "nss", "--drafts", "1", capsys=capsys, monkeypatch=monkeypatch)
    assert sampled.splitlines()[3].split()[-1] == "stderr"
    assert "stderr" not in exact


def test_progress_in_a_log_file_is_a_line_now_and_then(capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    now = [100.0]
    monkeypatch.setattr(options.time, "monotonic", lambda: now[0])
    with options.progress_bar("somewhere/dump", quiet=False) as report:
        assert report is not None
        report(64, 1064)  # finished before this run
        for done in range(1, 11):
            now[0] += 8
            report(64 + 100 * done, 1064)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["dump: 364 of 1064, 56 s left", "dump: 664 of 1064, 32 s left", "dump: 964 of 1064, 8 s left"]


def test_a_reader_that_leaves_is_no_verdict(dump: str) -> None:
    """141, the code of a process ended by the signal: 0 and 1 are verdicts of an audit."""
    command = [sys.executable, "-m", "mdsd_bounds.cli", "bounds", dump, "--drafts", "1", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sampler", ""), "give at least one name"),
        (("--sampler", ","), "give at least one name"),
        (("--out", "FOLDER"), "is a folder; name a file in it"),
    ],
)
def test_what_cannot_be_asked(  # type: ignore[no-untyped-def]
    arguments: tuple[str, str], message: str, dump: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    option, value = arguments
    value = str(tmp_path) if value == "FOLDER" else value
    code, text, note = call("bounds", dump, option, value, "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    assert message in note
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.parts"))


def test_all_may_stand_beside_other_names() -> None:
    assert options.names_in("greedy,all")[0] == "greedy"
    assert set(options.names_in("greedy,all")) == set(SAMPLERS) - {"joint"}


def test_default_verifiers_are_those_that_fit(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = str(tmp_path / "page.html")
    ask = ("--sampler", "without_replacement", "--limit", "14", "--quiet")
    code, _, _ = call("report", dump, "--out", out, *ask, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    code, _, note = call(
        "report", dump, "--out", out, "--verifier", "rrs", *ask, capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "does not fit the samplers" in note


def test_plots_take_one_temperature_and_say_which(dump: str, capsys, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table, out = str(tmp_path / "rows.parquet"), str(tmp_path / "f.png")
    call("bounds", dump, "--temperature", "0.5,1", "--out", table, "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    plot = ("plot", table, "--out", out, "--figure", "sampler_wins")
    _, _, note = call(*plot, capsys=capsys, monkeypatch=monkeypatch)
    assert "figures of one take 0.5" in note
    code, _, note = call(*plot, "--temperature", "1", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, note) == (0, "")
    code, _, note = call(*plot, "--temperature", "2", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "which holds 0.5, 1" in note


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_that_cannot_be_written_is_one_line(dump: str) -> None:
    command = [sys.executable, "-m", "mdsd_bounds.cli", "bounds", dump, "--drafts", "1", "--quiet"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["mdsd: the output could not be written (No space left on device)"]


def test_a_dump_without_documents_is_a_note(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rows = np.random.default_rng(0).normal(size=(9, 20))
    np.savez(tmp_path / "pair.npz", target_logits=rows, draft_logits=rows)
    _, _, note = call("bounds", str(tmp_path / "pair.npz"), "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    assert "names no documents" in note
