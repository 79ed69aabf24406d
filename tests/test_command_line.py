"""What a stranger meets first: --version, -h, completion, lists, examples in every help, a demo without any file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdsd_bounds import SAMPLERS, VERIFIERS, __version__, acceptance_rate, load_example, optimal_acceptance, to_probs
from mdsd_bounds.cli import commands
from mdsd_bounds.cli.help_texts import HELP
from mdsd_bounds.dumps import READERS
from mdsd_bounds.trees.verify import RULES
from tests.command import call


def test_version(capsys: Any, monkeypatch: Any) -> None:
    assert call("--version", capsys=capsys, monkeypatch=monkeypatch) == (0, f"mdsd {__version__}\n", "")


@pytest.mark.parametrize("width", [80, 100])
def test_summaries_fit(width: int, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, text, _ = call("-h", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    listed = text.split("Commands:")[1].split("Exit codes")[0]
    assert max(map(len, text.splitlines())) <= 80
    # Each on one line, and none cut.
    for name, (short, _) in HELP.items():
        assert f"  {name} " in listed
        assert short in listed
    assert "..." not in listed


@pytest.mark.parametrize("name", list(HELP))
def test_every_help_has_examples_that_name_real_options(name: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, text, _ = call(name, "-h", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    for line in HELP[name][1]:
        assert line in text
        for word in line.split():
            assert not word.startswith("--") or word in text.split("Example")[0]


def test_no_command_lacks_its_help() -> None:
    names = {command.__name__.rstrip("_").replace("_", "-") for command in commands.COMMANDS}
    assert names == set(HELP)


def test_a_shell_can_complete() -> None:
    asked = {"_MDSD_COMPLETE": "complete_bash", "COMP_WORDS": "mdsd comp", "COMP_CWORD": "1", "PATH": "/usr/bin:/bin"}
    script = "from mdsd_bounds.cli import entry; entry()"
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], env=asked | {"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["compare"]
    del asked["_MDSD_COMPLETE"]
    shown = [sys.executable, "-m", "mdsd_bounds.cli", "--show-completion", "bash"]
    done = subprocess.run(shown, env=asked | {"PYTHONPATH": root}, capture_output=True, text=True, check=True)
    assert "complete -o default" in done.stdout


@pytest.mark.parametrize("what", ["samplers", "verifiers", "formats", "trees", "figures"])
def test_lists(what: str, capsys: Any, monkeypatch: Any) -> None:
    code, text, _ = call("list", what, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    _, rows, _ = call("list", what, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
    held = json.loads(rows)
    assert text.splitlines()[0] == held[0]["conclusion"]
    assert text.startswith(f"{len(held)} {what}")
    assert max(map(len, text.splitlines())) <= 100
    # Every one says in a line what it is.
    assert [row["name"] for row in held if len(row["what"]) < 10] == []
    registry: dict[str, Any] = {"samplers": SAMPLERS, "verifiers": VERIFIERS, "formats": READERS}
    if what in registry:
        assert [row["name"] for row in held] == list(registry[what])
    if what == "verifiers":
        assert {row["name"] for row in held if row["lossless"] != "yes"} == {
            name for name, rule in VERIFIERS.items() if not rule.lossless
        }
        assert all(row["paper"] for row in held)


def test_the_example_is_real_and_whole() -> None:
    dump = load_example()
    (batch,) = dump.batches(32)
    p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    assert tuple(p.shape) == (32, 151_936)
    assert len(set(batch.doc.tolist())) == 16
    # Each model keeps its own 512 most probable tokens; ties at the edge stay.
    for rows in (p, q):
        assert int((rows > 0).sum(1).min()) == 512
        assert int((rows > 0).sum(1).max()) <= 520
    shipped = Path(__file__).parents[1] / "data/qwen2.5-coder-humaneval"
    if shipped.exists():
        from mdsd_bounds import open_dump

        (whole,) = open_dump(str(shipped)).batches(32)
        for part, full in ((batch.target_logits, whole.target_logits), (batch.draft_logits, whole.draft_logits)):
            kept = torch.isfinite(part)
            assert torch.equal(part[kept].double(), full[kept].double())
        assert torch.equal(batch.token, whole.token)
    assert Path(dump.facts.path).stat().st_size < 1_000_000


def test_demo_needs_no_file(capsys: Any, monkeypatch: Any) -> None:
    code, text, err = call("demo", "--limit", "6", "--quiet", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    assert text.startswith("With 4 drafts at temperature 1 optimal on with_replacement accepts most: ")
    assert "next: mdsd compare" in err
    (batch,) = load_example().batches(6, stop=6)
    p, q = to_probs(batch.target_logits), to_probs(batch.draft_logits)
    best = optimal_acceptance(p, q, 4, "with_replacement")
    assert f"{float(best.value.mean()):.4f} of the positions, 0.00 percentage points below its bound" in text
    rate = acceptance_rate(p, q, 4, "with_replacement", "rrs")
    assert f"{float(rate.value.mean()):.4f}" in text


def test_costs_are_stated_and_are_those_of_the_page(capsys: Any, monkeypatch: Any) -> None:
    page = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    for what in ("samplers", "verifiers"):
        _, rows, _ = call("list", what, "--format", "json", capsys=capsys, monkeypatch=monkeypatch)
        for row in json.loads(rows):
            assert row["cost"] not in ("", "not stated")
            lines = [line for line in page.splitlines() if line.startswith(f"| `{row['name']}` |")]
            assert any(f"| {row['cost']} |" in line for line in lines)


def test_help_names_every_tree_rule(capsys: Any, monkeypatch: Any) -> None:
    _, text, _ = call("tree", "-h", capsys=capsys, monkeypatch=monkeypatch)
    shown = text[text.index("--rule") : text.index("--new-tokens")]
    assert [name for name in RULES if not re.search(rf"\b{name}\b", shown)] == []
