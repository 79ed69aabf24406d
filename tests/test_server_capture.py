"""Dumps of intervals from servers: what is stored holds the truth, failures are one line, and a killed run goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.models.server_capture import ServerSettings, log_servers
from mdsd_bounds.models.servers import Server
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from tests.toy_server import Toy, V, logprobs_of, serving, tokens_of

TEXTS = ["the quick brown fox jumps over the lazy dog", "pack my box", "five dozen liquor jugs, and more of them"]


def quick(url: str, **options: object) -> Server:
    """A server that is not waited for."""
    return Server(url, wait=lambda seconds: None, timeout=20.0, **options)  # type: ignore[arg-type]


def silent(line: str) -> None:
    """No progress."""


@pytest.mark.parametrize(("form", "ids"), [("vllm", True), ("vllm", False), ("echo", True)])
@pytest.mark.parametrize("k", [3, V])
def test_intervals_hold_the_truth(form: str, ids: bool, k: int, tmp_path: Path) -> None:
    target, draft = Toy(0, form, ids), Toy(1, form, ids)
    with serving(target) as first, serving(draft) as second:
        path = log_servers(
            quick(first), quick(second), TEXTS, tmp_path / "x", ServerSettings(k, vocabulary=V), report=silent
        )
    dump = open_dump(str(path))
    assert len(dump) == sum(len(text) - 1 for text in TEXTS)
    batch = next(iter(dump.batches(1000)))
    assert batch.token is not None
    assert batch.doc is not None
    assert batch.token.tolist() == [token for text in TEXTS for token in tokens_of(text)[1:]]
    assert batch.doc.tolist() == [doc for doc, text in enumerate(TEXTS) for _ in text[1:]]
    for temperature in (1.0, 0.7):
        table = run(dump, Settings(("with_replacement",), (1,), (temperature,)))
        assert table is not None
        before = [token for text in TEXTS for token in tokens_of(text)[:-1]]
        p, q = (np.exp(logprobs_of(seed)[before] / temperature) for seed in (0, 1))
        right = np.minimum(p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)).sum(1)
        assert (table["certified_low"] <= right + 1e-5).all()
        assert (right <= table["certified_high"] + 1e-5).all()
        if k == V:
            assert (table["certified_high"] - table["certified_low"]).max() < 1e-4
    if form == "vllm" and ids:
        # The draft reads the very tokens of the target.
        assert draft.asked[0]["prompt"] == tokens_of(TEXTS[0])


def test_limits(tmp_path: Path) -> None:
    with serving(Toy(0)) as first, serving(Toy(1)) as second:
        asked = ServerSettings(3, new_tokens=4, max_positions=9)
        path = log_servers(quick(first), quick(second), TEXTS, tmp_path / "x", asked, report=silent)
    batch = next(iter(open_dump(str(path)).batches(100)))
    assert batch.doc is not None
    assert batch.doc.tolist() == [0] * 4 + [1] * 4 + [2]


def test_failures_that_pass_are_waited_for(tmp_path: Path) -> None:
    waited: list[float] = []
    toy = Toy(0, faults=[(503, "busy"), (500, "<html>"), (429, "{}")])
    with serving(toy) as first, serving(Toy(1)) as second:
        server = Server(first, wait=waited.append)
        log_servers(server, quick(second), TEXTS[:1], tmp_path / "x", report=silent)
    assert waited == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("toy", "message"),
    [
        (Toy(form="none"), "answers no prompt log-probabilities"),
        (Toy(form="text"), "prompt 0: the answer .*names its tokens by text"),
        (Toy(faults=[(401, '{"error": {"message": "wrong\\n key"}}')]), r"HTTP 401 \(wrong key\); set OPENAI_API_KEY"),
        (Toy(faults=[(503, "busy")] * 9), r"HTTP 503 \(busy\) \(6 tries\); start the server"),
        (Toy(faults=[(200, "<html>")]), "the answer is no JSON"),
        (Toy(models=("a", "b")), "serves a, b; name one"),
    ],
)
def test_failures_are_one_line(toy: Toy, message: str, tmp_path: Path) -> None:
    with serving(toy) as first, serving(Toy(1)) as second, pytest.raises(InputError, match=message) as caught:
        log_servers(quick(first), quick(second), TEXTS, tmp_path / "x", report=silent)
    assert str(caught.value).isprintable()


def test_a_server_that_is_not_there_and_one_that_is_slow(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Connection refused \(6 tries\)"):
        log_servers(quick("http://127.0.0.1:9"), quick("http://127.0.0.1:9"), TEXTS, tmp_path / "x", report=silent)
    with serving(Toy(delay=1.0)) as first:
        slow = Server(first, "toy", timeout=0.1, tries=2, wait=lambda seconds: None)
        with pytest.raises(InputError, match=r"no answer in 0.1 s \(2 tries\)"):
            log_servers(slow, slow, TEXTS, tmp_path / "y", report=silent)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://me:secret@x/v1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="server") as caught:
        Server(url)
    assert "secret" not in str(caught.value)


def test_other_tokens_and_single_ones_are_errors(tmp_path: Path) -> None:
    with serving(Toy(0, ids=False)) as first, serving(Toy(1, ids=False)) as second:
        for number, texts in enumerate((["a"], [""])):
            with pytest.raises(InputError):
                log_servers(quick(first), quick(second), texts, tmp_path / f"{number}", report=silent)
        with pytest.raises(InputError, match="--vocabulary is 5"):
            log_servers(quick(first), quick(second), TEXTS, tmp_path / "z", ServerSettings(3, 5), report=silent)


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    toy = Toy(0)
    with serving(toy) as first, serving(Toy(1)) as second:
        log_servers(quick(first), quick(second), TEXTS[:1], tmp_path / "x", report=silent)
    assert toy.keys == ["Bearer sk-hidden"]
    assert all(b"sk-hidden" not in file.read_bytes() for file in (tmp_path / "x").iterdir())


def command(first: str, second: str, out: Path, prompts: Path) -> list[str]:
    """The command line."""
    asked = ["--target-url", first, "--draft-url", second, "--prompts", str(prompts), "--out", str(out)]
    return [sys.executable, "-m", "mdsd_bounds.cli", "log", *asked, "--top-k", "4", "--vocabulary", str(V)]


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    prompts = tmp_path / "texts.txt"
    prompts.write_text("\n".join(f"{text} {number}" for number in range(8) for text in TEXTS) + "\n")
    first, second = Toy(0), Toy(1)
    with serving(first) as a, serving(second) as b:
        subprocess.run(command(a, b, tmp_path / "whole", prompts), check=True, capture_output=True)
        first.delay = 0.1
        for kill in (signal.SIGKILL, signal.SIGINT):
            process = subprocess.Popen(command(a, b, tmp_path / "cut", prompts), stderr=subprocess.PIPE, text=True)
            before = len(first.asked)
            while len(first.asked) < before + 4 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(kill)
            _, said = process.communicate()
            assert process.returncode == (130 if kill is signal.SIGINT else -9)
            assert kill is signal.SIGKILL or "the same command resumes there" in said
        first.delay = 0.0
        # The server moved meanwhile; what it serves is the same.
        result = subprocess.run(
            command(f"{a}/v1", b, tmp_path / "cut", prompts), check=True, capture_output=True, text=True
        )
        assert "goes on after" in result.stderr
        assert result.stdout.strip() == str(tmp_path / "cut")
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "cut").iterdir())
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_draft_that_runs_here(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from mdsd_bounds.models import server_capture
    from mdsd_bounds.models.loading import LoadedModel

    table = torch.from_numpy(logprobs_of(1)).float()

    class Tokens:
        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": tokens_of(text)}

    loaded = LoadedModel(model=None, tokenizer=Tokens(), identity={"source": "toy"})
    with pytest.MonkeyPatch.context() as patch, serving(Toy(0)) as first:
        patch.setattr(server_capture, "read_rows", lambda model, text, starts: table[text[0][:-1]])
        path = log_servers(quick(first), loaded, TEXTS, tmp_path / "x", ServerSettings(5, V), report=silent)
    held = json.loads((path / "facts.json").read_text())
    assert held["draft"] == {"source": "toy"}
    table_found = run(open_dump(str(path)), Settings(("with_replacement",), (1,)))
    assert table_found is not None
    before = [token for text in TEXTS for token in tokens_of(text)[:-1]]
    right = np.minimum(*(np.exp(logprobs_of(seed)[before]) for seed in (0, 1))).sum(1)
    assert (table_found["certified_low"] <= right + 1e-5).all()
    assert (right <= table_found["certified_high"] + 1e-5).all()


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    base = [sys.executable, "-m", "mdsd_bounds.cli", "log", "--prompts", "x", "--out", str(tmp_path / "o")]
    for more in (
        ["--target-url", "http://x", "--mode", "sampled"],
        ["--draft-url", "http://x", "--target", "a"],
    ):
        result = subprocess.run([*base, *more], capture_output=True, text=True)
        assert result.returncode == 2
        assert "--target-url" in result.stderr
        assert len(result.stderr.splitlines()) == 1
