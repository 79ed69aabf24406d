"""``mdsd log`` as users meet it: three forms of the same rows, kill -9 in each, one line for whatever is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps.base import Facts
from mdsd_bounds.dumps.convert import convert
from mdsd_bounds.dumps.inspect import sizes

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

from test_models import PROMPTS, content, rows_of
from tiny_models import ONE, OTHER, build, tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM

from mdsd_bounds.models import array_writer
from mdsd_bounds.models.capture import CaptureSettings, log_pair
from mdsd_bounds.models.loading import load_model
from mdsd_bounds.models.prompts import MAX_CHARACTERS
from tests.command import call

SMALL = ["--new-tokens", "4", "--batch-size", "2", "--seed", "3", "--store-dtype", "float32"]
STORES = ["logits", "hidden", "top-k"]


def gemma(folder: Path, words: Any) -> str:
    """Tied head, embedding scaled, norm with offset, logits soft-capped: what Gemma 2 does after the last layer."""
    torch.manual_seed(7)
    shape = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128}
    config = Gemma2Config(**shape, final_logit_softcapping=3.0, tie_word_embeddings=True)
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.6)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    words = tokenizer(ONE)
    build(root / "target", 0, words)
    build(root / "draft", 1, words, "qwen2", 2, len(words) + 3)
    build(root / "other", 3, tokenizer(OTHER, "dcbaĠĊ"), "llama", 1)
    gemma(root / "gemma", words)
    (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (root / "empty.txt").write_text("")
    (root / "blank.txt").write_text("ab\n\ncd\n")
    (root / "long.txt").write_text("ab\n" + "a" * (MAX_CHARACTERS + 1) + "\n")
    return root


def command(folder: Path, out: Path, *more: str, target: str = "target", draft: str = "draft") -> list[str]:
    models = ["--target", str(folder / target), "--draft", str(folder / draft) if (folder / draft).exists() else draft]
    return ["log", *models, "--prompts", str(folder / "prompts.txt"), "--out", str(out), *SMALL, *more]


@pytest.mark.parametrize("target", ["target", "gemma"])
@pytest.mark.parametrize("draft", ["draft", "early-exit:1"])
@pytest.mark.parametrize("mode", ["sampled", "teacher-forced"])
def test_three_forms_of_the_same_rows(  # type: ignore[no-untyped-def]
    folder: Path, target: str, draft: str, mode: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    prompts = ["--prompts", str(tmp_path / "p.txt")]
    (tmp_path / "p.txt").write_text("abc dab\ncab cab cab\nbad cad dab a\n")
    for store in STORES:
        arguments = command(folder, tmp_path / store, *prompts, "--mode", mode, "--store", store, "--top-k", "4",
                            target=target, draft=draft)  # fmt: skip
        code, text, notes = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, text.strip()) == (0, str(tmp_path / store))
        assert "a second" in notes
        assert "0 s left" in notes
    full, hidden, top = (rows_of(tmp_path / store) for store in STORES)
    for name in ("target_logits", "draft_logits"):
        torch.testing.assert_close(getattr(hidden, name), getattr(full, name), atol=1e-5, rtol=1e-5)
        probs = torch.log_softmax(getattr(full, name).double(), -1)
        kept = getattr(top, name)
        held = torch.isfinite(kept)
        assert (held.sum(-1) == 4).all()
        torch.testing.assert_close(kept[held], probs[held])
        missing = getattr(top, name.replace("logits", "cut"))[:, :2]
        torch.testing.assert_close(missing, (1 - kept.exp().sum(-1))[:, None].expand(-1, 2), atol=1e-12, rtol=1e-9)
    for column in ("doc", "position", "token"):
        assert torch.equal(getattr(full, column), getattr(hidden, column))
        assert torch.equal(getattr(full, column), getattr(top, column))
    # The heads are stored once, one for both models where they share it.
    heads = sorted(file.stem for file in (tmp_path / "hidden").glob("head*"))
    assert heads == (["head"] if draft.startswith("early") else ["head-draft", "head-target"])
    # Cut while logging or afterwards: the same rows.
    convert(tmp_path / "logits", tmp_path / "after.safetensors", top_k=4)
    after = rows_of(tmp_path / "after.safetensors")
    torch.testing.assert_close(after.target_logits, top.target_logits)
    torch.testing.assert_close(after.draft_cut, top.draft_cut)


def test_a_wrong_head_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(folder / "gemma"))
    settings = CaptureSettings(new_tokens=3, batch_size=2, store="hidden")
    log_pair(loaded, "early-exit:1", PROMPTS, tmp_path / "right", settings, report=lambda line: None)
    for wrong in (9.0, None):  # another soft-cap than the model applies, and none
        monkeypatch.setattr(loaded.model.config, "final_logit_softcapping", 3.0)
        own = type(loaded.model).forward

        def forward(self: Any, *given: Any, wrong: float | None = wrong, own: Any = own, **named: Any) -> Any:
            self.config.final_logit_softcapping = 3.0
            output = own(self, *given, **named)
            self.config.final_logit_softcapping = wrong
            return output

        with monkeypatch.context() as patch:
            patch.setattr(type(loaded.model), "forward", forward)
            with pytest.raises(InputError, match="changes its logits after the head"):
                log_pair(loaded, "early-exit:1", PROMPTS, tmp_path / "wrong", settings, report=lambda line: None)
        assert not (tmp_path / "wrong").exists()


KILLED = """
import os, sys
from mdsd_bounds.models import capture
own = capture._target_pass
def stop(loaded, part, settings, number, report):
    if number == 2: os.kill(os.getpid(), 9)
    return own(loaded, part, settings, number, report)
capture._target_pass = stop
from mdsd_bounds.cli import main
# One process a form, forked after the imports, which take longer than the runs.
for form in sys.argv.pop(1).split(","):
    child = os.fork()
    if child == 0:
        sys.argv = ["mdsd", *(part.replace("FORM", form) for part in sys.argv[1:])]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_with_signal_nine(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = command(folder, tmp_path / "FORM", "--store", "FORM", "--top-k", "3", draft="early-exit:1")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, ",".join(STORES), *arguments], env=environment, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"-9", b"-9", b"-9"]
    assert len(open_dump(tmp_path / "logits")) == 16
    for store in STORES:
        if store != "logits":
            with pytest.raises(InputError, match="unfinished, 2 parts written; run the same"):
                open_dump(tmp_path / store)
        again = [part.replace("FORM", store) for part in arguments]
        code, _, notes = call(*again, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0
        assert "goes on after 16 of 20 positions" in notes
        whole = [part.replace(str(tmp_path / store), str(tmp_path / "whole" / store)) for part in again]
        assert call(*whole, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
        assert content(tmp_path / store) == content(tmp_path / "whole" / store)
        assert len(open_dump(tmp_path / store)) == 20
        assert "already complete, 20 positions" in call(*again, capsys=capsys, monkeypatch=monkeypatch)[2]


def test_limits_and_inspect(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    found = {}
    for store in STORES:
        arguments = command(folder, tmp_path / store, "--store", store, "--max-positions", "7", "--quiet")
        code, _, notes = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, notes) == (0, "")
        code, text, _ = call(
            "inspect", str(tmp_path / store), "--format", "json", capsys=capsys, monkeypatch=monkeypatch
        )
        found[store] = json.loads(text)
        assert found[store]["positions"] == 7
    assert "target" in found["hidden"]["log p of the recorded tokens"]
    assert found["hidden"]["target"]["sha256"] == found["logits"]["target"]["sha256"]
    assert "of which the heads, once" in found["hidden"]["size"]
    assert "as float32 hidden states" in found["logits"]
    assert "as float32 hidden states" in found["top-k"]
    facts = Facts("x", "native", 1000, 151936, 152064, "float16", bytes=608_000_000, hidden_sizes=(1536, 896))
    assert sizes(facts) == {
        "size": "608.0 MB, 608.0 kB a position",
        "as full float16 logits": "608.0 MB, 608.0 kB a position",
        "as top-64 with tail mass": "1.6 MB, 1.6 kB a position",
        "as float32 hidden states": "1488.2 MB, 9.7 kB a position, of which the heads, once, 1478.5 MB",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--prompts", "empty.txt"], "the prompt file is empty"),
        (["--prompts", "blank.txt"], "line 2: empty prompt"),
        (["--prompts", "long.txt"], "line 2: 1048577 characters, more than 1048576"),
        (["--prompts", "nowhere.txt"], "no such file"),
        (["--prompts", "prompts.txt", "--max-prompt-tokens", "2"], "tokens, more than 2"),
        (["--target", "./nowhere"], "./nowhere: the model cannot be loaded"),
        (["--draft", "./nowhere"], "./nowhere: the model cannot be loaded"),
        (["--draft", "other"], "its tokenizer differs from the target's"),
        (["--draft", "other", "--token-map", "intersection", "--store", "hidden"], "store logits or top-k"),
        (["--draft", "prompt-lookup", "--store", "hidden"], "store logits or top-k"),
        (["--store", "top-k", "--top-k", "0"], "top_k 0"),
        (["--store", "everything"], "everything"),
        (["--mode", "dreamt"], "dreamt"),
        (["--temperature", "-1"], "temperature -1.0"),
        (["--max-positions", "0"], "max_positions 0"),
        (["--dtype", "float8"], "float8"),
        (["--device", "quantum"], "device 'quantum'"),
        (["--out", "prompts.txt"], "cannot make the dump's folder"),
    ],
)
def test_one_line_and_code_2(  # type: ignore[no-untyped-def]
    folder: Path, change: list[str], message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    given = [str(folder / part) if (folder / part).exists() else part for part in change]
    code, text, notes = call(*command(folder, tmp_path / "d"), *given, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, text) == (2, "")
    lines = [line for line in notes.splitlines() if line.startswith("mdsd:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.glob("d/*"))


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("store", ["hidden", "top-k"])
def test_disk_full_in_the_middle(folder: Path, store: str, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    own = array_writer.write_whole

    def full(path: Path, data: bytes, remedy: str) -> None:
        with monkeypatch.context() as disk:
            if path.name == "rows-000001.part":
                disk.setattr(os, "fsync", _no_space)
            own(path, data, remedy)

    arguments = command(folder, tmp_path / "d", "--store", store)
    with monkeypatch.context() as patch:
        patch.setattr(array_writer, "write_whole", full)
        code, _, notes = call(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "No space left on device" in notes.splitlines()[-1]
    assert sorted(file.name for file in (tmp_path / "d").glob("rows*")) == ["rows-000000.part"]
    assert not list((tmp_path / "d").glob("*.tmp"))
    assert not list((tmp_path / "d").glob(".*"))
    for out in ("d", "whole"):
        arguments[arguments.index("--out") + 1] = str(tmp_path / out)
        assert call(*arguments, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    assert content(tmp_path / "d") == content(tmp_path / "whole")


def test_damage_and_other_runs_are_named(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    arguments = command(folder, tmp_path / "d", "--store", "hidden")
    assert call(*arguments, capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    for more, message in ((["--seed", "4"], "another run"), (["--store", "top-k"], "another run")):
        code, _, notes = call(*arguments, *more, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert message in notes.splitlines()[-1]
    for name in ("rows.safetensors", "head-draft.safetensors"):
        whole = (tmp_path / "d" / name).read_bytes()
        (tmp_path / "d" / name).write_bytes(whole[:-9])
        code, _, notes = call("bounds", str(tmp_path / "d"), capsys=capsys, monkeypatch=monkeypatch)
        assert code == 2
        assert f"{name}: " in notes.splitlines()[-1]
        assert "truncated or corrupt" in notes.splitlines()[-1]
        (tmp_path / "d" / name).write_bytes(whole)
    (tmp_path / "d" / "facts.json").write_text("{")
    code, _, notes = call("inspect", str(tmp_path / "d"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "facts.json: no JSON" in notes.splitlines()[-1]


def test_mapped_drafts_in_three_forms(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A map in EAGLE-3's terms from a head of 12 columns into 40 target tokens; the others are exact zeros."""
    words = tokenizer(ONE)
    target = build(tmp_path / "wide", 8, words, "llama", 2, 40)
    goal = torch.arange(12) * 2 + 1
    save_file({"d2t": goal - torch.arange(12)}, tmp_path / "map.safetensors")
    # The draft embeds 12 tokens: it can read the given text, not whatever a head of 40 columns draws.
    (tmp_path / "p.txt").write_text("abc dab\ncab cab cab\n")
    for store in STORES:
        given = ["--target", target, "--mode", "teacher-forced", "--prompts", str(tmp_path / "p.txt")]
        more = [*given, "--token-map", str(tmp_path / "map.safetensors"), "--store", store, "--top-k", "5"]
        assert call(*command(folder, tmp_path / store, *more), capsys=capsys, monkeypatch=monkeypatch)[0] == 0
    more += ["--mode", "sampled"]
    code, _, notes = call(*command(folder, tmp_path / "drawn", *more), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "embeds 12 tokens and cannot read the target's token" in notes
    full, hidden, top = (rows_of(tmp_path / store) for store in STORES)
    assert [open_dump(tmp_path / store).facts.support for store in STORES] == ["mapped", "full, draft mapped", "top-k"]
    probs, again = (torch.softmax(batch.draft_logits.double(), -1) for batch in (full, hidden))
    torch.testing.assert_close(probs, again, atol=1e-6, rtol=1e-5)
    zeros = torch.ones(40, dtype=torch.bool)
    zeros[goal] = False
    assert (probs[:, zeros] == 0).all()
    assert (again[:, zeros] == 0).all()
    kept = torch.isfinite(top.draft_logits)
    torch.testing.assert_close(top.draft_logits[kept].exp(), probs[kept], atol=1e-7, rtol=1e-6)
