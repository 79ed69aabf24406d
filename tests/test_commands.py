"""The boundary of the command line: exit codes, one line, nothing replaced, nothing raw on the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mdsd_bounds import InputError, open_dump
from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli import commands, exits
from mdsd_bounds.cli.terminal import Guarded
from tests.command import call

ROWS, SIZE = 70, 20
#: Every command with the fewest arguments it takes; PLACE stands for where it writes.
CALLS = {
    "demo": ["demo", "--limit", "2", "--quiet"],
    "list": ["list", "samplers"],
    "bounds": ["bounds", "PAIR", "--drafts", "1", "--sampler", "greedy", "--quiet"],
    "compare": ["compare", "PAIR", "--drafts", "1", "--sampler", "greedy", "--quiet"],
    "advise": [
        "advise",
        "PAIR",
        "--sampler",
        "greedy",
        "--most-drafts",
        "1",
        "--nodes",
        "1",
        "--draft-cost",
        "0.1",
        "--quiet",
    ],
    "acceptance": ["acceptance", "COUNTS", "--dump", "PAIR", "--quiet"],
    "tree": ["tree", "LOG"],
    "audit": ["audit", "LOG"],
    "draft-temperature": ["draft-temperature", "PAIR", "--ratios", "1.0"],
    "log": ["log", "--target", "T", "--draft", "D", "--prompts", "PAIR", "--out", "PLACE"],
    "train-draft": ["train-draft", "--target", "T", "--text", "PAIR", "--steps", "1", "--out", "PLACE"],
    "convert": ["convert", "PAIR", "PLACE"],
    "inspect": ["inspect", "PAIR"],
    "plot": ["plot", "TABLE", "--out", "PLACE"],
    "report": ["report", "PAIR", "--drafts", "1", "--sampler", "greedy", "--quiet", "--out", "PLACE"],
}
#: Those that write one file, with the option that names it and an ending it takes.
WRITING = {
    "bounds": ("--out", ".parquet"),
    "compare": ("--out", ".parquet"),
    "advise": ("--figure", ".png"),
    "acceptance": ("--figure", ".png"),
    "audit": ("--figure", ".png"),
    "convert": ("", ".npz"),
    "plot": ("--out", ".png"),
    "report": ("--out", ".html"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    write_pair(folder / "pair.npz", 0)
    found = {"PAIR": str(folder / "pair.npz"), "TABLE": str(folder / "table.parquet"), "LOG": str(folder / "log.jsonl")}
    found["COUNTS"] = str(Path(__file__).parent / "data" / "counts" / "vllm_metrics.txt")
    line = {"p": [0.5, 0.5], "q": [0.5, 0.5], "drafts": [0], "token": 0, "sampler": "with_replacement"}
    Path(found["LOG"]).write_text(json.dumps(line) + "\n")
    run = ["bounds", found["PAIR"], "--drafts", "1", "--sampler", "greedy", "--quiet", "--out", found["TABLE"]]
    subprocess.run([sys.executable, "-m", "mdsd_bounds.cli", *run], check=True, capture_output=True)
    return found


def write_pair(path: Path, seed: int, rows: int = ROWS) -> str:
    generator = np.random.default_rng(seed)
    target = generator.normal(size=(rows, SIZE)).astype(np.float32)
    draft = target + generator.normal(size=target.shape).astype(np.float32)
    np.savez(path, target_logits=target, draft_logits=draft, doc=np.arange(rows) // 7)
    return str(path)


def arguments_of(name: str, inputs: dict[str, str], place: str) -> list[str]:
    return [place if part == "PLACE" else inputs.get(part, part) for part in CALLS[name]]


def test_every_command_is_attacked_here() -> None:
    assert set(CALLS) == {command.__name__.rstrip("_").replace("_", "-") for command in commands.COMMANDS}


# --- how commands end ------------------------------------------------------------------------------------------------


class _Foreign(BaseException):
    """What no library should raise."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a\nmistake \x1b[2J"), 3, r"unexpected ValueError: a mistake \x1b[2J at test_commands.py:"),
        (RecursionError("too deep"), 3, "unexpected RecursionError: too deep"),
        (AssertionError(), 3, "unexpected AssertionError"),
        (EOFError("ended"), 3, "unexpected EOFError: ended"),
        (SystemExit(0), 3, "called sys.exit(0)"),
        (SystemExit(1), 3, "called sys.exit(1)"),
        (_Foreign("odd"), 3, "unexpected _Foreign: odd"),
        (MemoryError(), 2, "out of memory; use fewer"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 2, "out of memory; use fewer"),
        (PermissionError(13, "Permission denied", "a\x1bfile"), 2, r"a\x1bfile: Permission denied; change its"),
        (OSError(5, "Input/output error"), 2, "could not be read or written (Input/output error)"),
        (ModuleNotFoundError("No module named 'ray.data'", name="ray.data"), 2, "pip install 'mdsd-bounds[cluster]'"),
        (InputError("row 3: bad"), 2, "mdsd: row 3: bad"),
        (KeyboardInterrupt(), 130, "mdsd: interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_is_raised_is_one_line_and_its_code(  # type: ignore[no-untyped-def]
    name: str, error: BaseException, code: int, message: str, inputs: dict[str, str], tmp_path: Path, capsys,
    monkeypatch,
) -> None:  # fmt: skip
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("typer.core.TyperCommand.invoke", fail)
    found = call(*arguments_of(name, inputs, str(tmp_path / "x")), capsys=capsys, monkeypatch=monkeypatch)
    assert found[:2] == (code, "")
    assert len(found[2].splitlines()) == (0 if code == 141 else 1)
    assert message in found[2]
    assert "\x1b" not in found[2]


def test_debug_adds_the_traceback(inputs: dict[str, str], capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("typer.core.TyperCommand.invoke", lambda *_: {}["missing"])
    for arguments in (["inspect", inputs["PAIR"], "--debug"], ["--debug", "inspect", inputs["PAIR"]]):
        code, _, notes = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 3
        assert "Traceback (most recent call last)" in notes
        assert notes.splitlines()[-1].startswith("mdsd: unexpected KeyError: 'missing'")


def test_an_import_that_fails_is_no_verdict(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['typer'] = None\nsys.argv = ['mdsd', 'audit', 'x']\n"
    code += "import mdsd_bounds.cli as c\nc.entry()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode not in (0, 1)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", ["abc", "", "-3", "nan"])
def test_a_memory_limit_that_is_no_number_is_an_error(  # type: ignore[no-untyped-def]
    name: str, value: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("MDSD_MEMORY_GB", value)
    code, _, notes = call(*arguments_of(name, inputs, str(tmp_path / "x")), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "MDSD_MEMORY_GB" in notes


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["plot", "TABLE", "--out", "x.png"], "matplotlib", "plot"),
        (["report", "PAIR", "--out", "x.html"], "matplotlib", "plot"),
        (["advise", "PAIR", "--figure", "x.png"], "matplotlib", "plot"),
        (["audit", "LOG", "--figure", "x.png"], "matplotlib", "plot"),
        (["bounds", "PAIR", "--engine", "ray"], "ray", "cluster"),
        (["compare", "PAIR", "--engine", "ray"], "ray", "cluster"),
        (["log", "--target", "T", "--draft", "D", "--prompts", "PAIR", "--out", "x"], "transformers", "models"),
        (["tree", "--target", "T", "--draft", "D", "--prompts", "PAIR", "--out", "x"], "transformers", "models"),
    ],
)
def test_a_missing_package_is_said_before_any_work(  # type: ignore[no-untyped-def]
    arguments: list[str], module: str, extra: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("mdsd_bounds.dumps.open_dump", lambda path: pytest.fail("work was begun"))
    monkeypatch.setattr("mdsd_bounds.pipeline.tables.read_table", lambda path: pytest.fail("work was begun"))
    code, _, notes = call(*[inputs.get(a, a) for a in arguments], capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert len(notes.splitlines()) == 1
    assert f"pip install 'mdsd-bounds[{extra}]'" in notes
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "def step(p, q, drafts, generator):\n    raise SystemExit(0)"])
def test_a_rule_that_leaves_is_no_verdict(body: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "leaving_rule.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "leaving_rule", raising=False)
    code, out, notes = call(
        "audit", "--verifier", "leaving_rule:step", "--quiet", capsys=capsys, monkeypatch=monkeypatch
    )
    assert (code, out) == (2, "")
    assert "SystemExit" in notes or "called sys.exit(0)" in notes


def test_closed_streams_are_no_place_for_results(inputs: dict[str, str], tmp_path: Path) -> None:
    command = f"{sys.executable} -m mdsd_bounds.cli"
    done = subprocess.run(f"{command} inspect {inputs['PAIR']} >&-", shell=True, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "mdsd: stdout is closed: the result has nowhere to go; redirect it to a file\n"
    done = subprocess.run(f"{command} inspect nothing 2>&-", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("name", ["bounds", "compare"])
def test_an_interruption_says_that_the_same_command_resumes(name: str, tmp_path: Path) -> None:
    pair, out = write_pair(tmp_path / "pair.npz", 0, 64 * 200), tmp_path / "rows.parquet"
    command = [sys.executable, "-m", "mdsd_bounds.cli", *CALLS[name], "--out", str(out)]
    command = [pair if part == "PAIR" else part for part in command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(list(Path(f"{out}.parts").glob("*.parquet"))) >= 2)
        process.send_signal(signal.SIGINT)
        shown, notes = process.communicate(timeout=60)
    assert (process.returncode, shown) == (130, "")
    assert notes == f"mdsd: interrupted; finished parts are in {out}.parts; the same command resumes there\n"


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.025)
    raise AssertionError("nothing happened for a minute")


# --- what is written where -------------------------------------------------------------------------------------------


def writing(name: str, inputs: dict[str, str], place: str) -> list[str]:
    option, _ = WRITING[name]
    arguments = arguments_of(name, inputs, place)
    if name == "plot":
        arguments += ["--figure", "acceptance_by_drafts"]
    return arguments if "PLACE" in CALLS[name] else [*arguments, option, place]


@pytest.mark.parametrize("name", WRITING)
def test_files_of_others_and_inputs_stay(
    name: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path / f"out{WRITING[name][1]}"
    place.write_bytes(b"somebody else's")
    code, out, notes = call(*writing(name, inputs, str(place)), capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert "--force" in notes.splitlines()[-1]
    assert place.read_bytes() == b"somebody else's"
    # With leave, it is replaced; the same command needs no leave for what it wrote itself.
    for force in (["--force"], [] if name != "convert" else ["--force"]):
        assert call(*writing(name, inputs, str(place)), *force, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
        assert place.read_bytes() != b"somebody else's"
    assert [file.name for file in tmp_path.iterdir()] == [place.name]
    # An input is never replaced: under its name, through a link, or through a second name of the same file.
    source = inputs["TABLE" if name == "plot" else "LOG" if name == "audit" else "PAIR"]
    before = Path(source).read_bytes()
    (tmp_path / f"link{WRITING[name][1]}").symlink_to(source)
    os.link(source, tmp_path / f"hard{WRITING[name][1]}")
    for same in (f"link{WRITING[name][1]}", f"hard{WRITING[name][1]}"):
        code, _, notes = call(
            *writing(name, inputs, str(tmp_path / same)), "--force", capsys=capsys, monkeypatch=monkeypatch
        )
        assert code == 2
        assert "is read by this command" in notes
        assert Path(source).read_bytes() == before


@pytest.mark.parametrize("name", WRITING)
def test_places_that_cannot_be(name: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ending = WRITING[name][1]
    (tmp_path / f"folder{ending}").mkdir()
    (tmp_path / f"folder{ending}" / "file").write_text("")
    for place in (f"no/such/x{ending}", f"{'a' * 300}{ending}", f"folder{ending}"):
        code, out, notes = call(*writing(name, inputs, str(tmp_path / place)), capsys=capsys, monkeypatch=monkeypatch)
        assert (code, out) == (2, ""), place
        assert len(notes.splitlines()) == 1


@pytest.mark.parametrize("name", WRITING)
def test_devices_and_pipes_are_not_replaced(
    name: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    """Renaming a file over /dev/null works for root, and ends every program that writes there."""
    ending = WRITING[name][1]
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"link{ending}").symlink_to(f"pipe{ending}")
    for place in ("pipe", "link"):
        arguments = [*writing(name, inputs, str(tmp_path / f"{place}{ending}")), "--force"]
        code, out, notes = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, out) == (2, "")
        assert "is a device or a pipe" in notes
        assert (tmp_path / f"{place}{ending}").is_fifo()


@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_is_full_leaves_what_was_there(  # type: ignore[no-untyped-def]
    name: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:
    place = tmp_path / f"out{WRITING[name][1]}"
    place.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        arguments = [*writing(name, inputs, str(place)), "--force"]
        code, _, notes = call(*arguments, capsys=capsys, monkeypatch=disk)
    assert code == 2
    assert "could not be written (No space left on device)" in notes
    assert place.read_bytes() == b"before"
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["bounds", "compare"])
def test_a_finished_table_is_answered_from(name: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    inputs, out = {"PAIR": write_pair(tmp_path / "pair.npz", 0)}, tmp_path / "rows.parquet"
    arguments = writing(name, inputs, str(out))
    first = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    data, state = out.read_bytes(), out.stat()
    with monkeypatch.context() as nothing:
        nothing.setattr("mdsd_bounds.pipeline.engines.local.compute", None)
        again = call(*arguments, capsys=capsys, monkeypatch=nothing)
        moved = inputs["PAIR"].replace("pair", "renamed")
        os.link(inputs["PAIR"], moved)
        elsewhere = call(*writing(name, {"PAIR": moved}, str(out)), capsys=capsys, monkeypatch=nothing)
    assert again[:2] == elsewhere[:2] == first[:2]
    assert "holds these results already" in again[2]
    assert out.stat().st_mtime_ns == state.st_mtime_ns
    assert call(*arguments, "--force", capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    assert out.read_bytes() == data
    assert out.stat().st_ino != state.st_ino
    # Other settings, or other rows under the same name: the table is not theirs.
    for change in (["--limit", "50"], ["--temperature", "0.5"]):
        code, _, notes = call(*arguments, *change, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert "another run" in notes
    write_pair(Path(inputs["PAIR"]), 1)
    assert call(*arguments, capsys=capsys, monkeypatch=monkeypatch)[0] == 2
    assert out.read_bytes() == data


# --- what reaches the terminal ---------------------------------------------------------------------------------------

EVIL = "a\x1b[31m\x1b]0;title\x07\n\r\u202eb\u2066\x9b\u2028c"


def plain(text: str) -> bool:
    return all(character.isprintable() for line in text.split("\n") for character in line)


def test_printable_escapes_all_that_is_not_seen() -> None:
    assert printable(EVIL) == r"a\x1b[31m\x1b]0;title\x07\n\r\u202eb\u2066\x9b\u2028c"
    assert printable("naïve 漢字 🙂 \u00a0|") == "naïve 漢字 🙂 \u00a0|"
    for number in range(0x110000):
        shown = printable(chr(number))
        assert shown == chr(number) or shown.isascii()
    assert not any(printable(chr(n)) == chr(n) for n in (*range(32), *range(127, 160), *range(0x202A, 0x202F), 0x61C))


def test_notes_speak_for_nobody_else(tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import torch

    from mdsd_bounds.dumps import DumpWriter

    rows = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    names = (
        "positions",
        "vocabulary",
        "path",
        " Positions",
        "kind\u200b",
        "size",
        "verified",
        "log p of the recorded tokens",
    )
    notes = dict.fromkeys(names, f"lie {EVIL}") | {EVIL: EVIL, "who": "me"}
    with DumpWriter(tmp_path / "d", notes=notes) as writer:
        writer.append(rows, rows, token=torch.zeros(9, dtype=torch.int64))
    code, text, _ = call("inspect", str(tmp_path / "d"), "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    found = json.loads(text)
    assert (code, found["positions"], found["vocabulary"], found["path"]) == (0, 9, 30, str(tmp_path / "d"))
    assert found["who"] == "me"
    assert "lie" not in found["log p of the recorded tokens"] + found["kind"] + found["size"]
    assert sum("lie" in str(value) for value in found.values()) == len(names)
    for style in ("table", "csv"):
        code, text, _ = call("inspect", str(tmp_path / "d"), "--format", style, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0
        assert plain(text)
        assert sum(line.startswith("positions") for line in text.splitlines()) == 1
    facts, _, notes_shown = text.partition("who")
    assert facts
    assert notes_shown


@pytest.mark.parametrize("name", [name for name in CALLS if name not in {"demo", "list"}])  # they read no file
def test_names_in_errors_are_shown_and_not_obeyed(  # type: ignore[no-untyped-def]
    name: str, inputs: dict[str, str], tmp_path: Path, capsys, monkeypatch
) -> None:
    folder = tmp_path / "evil\x1b]0;x\x07\u202e"
    folder.mkdir()
    wrong = folder / "x.npz"
    np.savez(wrong, **{EVIL: np.zeros((2, 2))})
    pd.DataFrame({EVIL: [1]}).to_parquet(folder / "x.parquet")
    for file in (wrong, folder / "x.parquet", folder / "nothing"):
        named = {key: str(file) for key in inputs}
        code, out, notes = call(
            *arguments_of(name, named, str(tmp_path / "x.png")), capsys=capsys, monkeypatch=monkeypatch
        )
        assert (code, out) == (2, ""), notes
        assert plain(notes)


def test_what_libraries_print_is_escaped_too() -> None:
    import io

    stream = io.StringIO()
    guarded = Guarded(stream)
    print(EVIL, "fine\tline", file=guarded)  # type: ignore[arg-type]
    guarded.writelines(["\x1b", "x"])
    assert "\x1b" not in stream.getvalue()
    assert "fine\tline\n" in stream.getvalue()
    with pytest.raises(TypeError):
        guarded.write(b"")  # type: ignore[arg-type]


def test_codes_are_those_of_the_page() -> None:
    assert (exits.GOOD, exits.LOSSY, exits.INPUT, exits.UNEXPECTED) == (0, 1, 2, 3)
    assert open_dump
