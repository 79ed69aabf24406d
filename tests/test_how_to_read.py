"""How a dump is read, where its file leaves that open: one of several heads, and ids of tokens named by text."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from mdsd_bounds import InputError, open_dump
from mdsd_bounds._backend.filesystem import split
from mdsd_bounds.cli.commands import app
from mdsd_bounds.dumps import open_pair, single_model
from mdsd_bounds.dumps.formats.llama_cpp import write_llama_cpp
from mdsd_bounds.dumps.formats.top_logprobs.positions import Text
from mdsd_bounds.dumps.formats.top_logprobs.tokenizer import resolver
from mdsd_bounds.dumps.how_to_read import HowToRead

CASES = Path(__file__).parent / "data" / "cases"


def rows(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Several heads


@pytest.mark.parametrize("form", ["npz", "safetensors", "two files", "npy"])
@pytest.mark.parametrize("head", [0, 1, 2])
def test_head_k_predicts_what_the_target_predicts_k_rows_later(form: str, head: int, tmp_path: Path) -> None:
    target, draft = rows(7, 12), rows(7, 3, 12, seed=1)
    if form == "npz":
        np.savez(tmp_path / "x.npz", target_logits=target.numpy(), draft_logits=draft.numpy())
        path = str(tmp_path / "x.npz")
    elif form == "safetensors":
        doc = torch.tensor([0, 0, 0, 1, 1, 1, 1])
        save_file({"target_logits": target, "draft_logits": draft, "doc": doc}, tmp_path / "x.safetensors")
        path = str(tmp_path / "x.safetensors")
    elif form == "npy":
        np.save(tmp_path / "t.npy", target.numpy())
        np.save(tmp_path / "d.npy", draft.numpy())
        path = f"{tmp_path}/t.npy,{tmp_path}/d.npy"
    else:
        save_file({"logits": target}, tmp_path / "t.safetensors")
        torch.save({"logits": draft}, tmp_path / "d.pt")
        path = f"{tmp_path}/t.safetensors,{tmp_path}/d.pt"
    dump = open_dump(f"{path}#head={head}")
    assert dump.facts.heads == 3
    held = list(dump.batches(2))
    edges = [0, 3, 7] if form == "safetensors" else [0, 7]
    places = [i for a, b in pairwise(edges) for i in range(a + head, b)]
    assert torch.equal(torch.cat([batch.target_logits for batch in held]), target[places])
    wanted = draft[[i - head for i in places], head]
    assert torch.equal(torch.cat([batch.draft_logits for batch in held]), wanted)
    assert dump.fingerprint() != open_dump(f"{path}#head={(head + 1) % 3}").fingerprint()


def test_a_head_of_a_dump_that_is_fetched(tmp_path: Path) -> None:
    """How a dump is to be read holds for what was fetched as well, and stays in its name."""
    target, draft = torch.randn(6, 5), torch.randn(6, 3, 5)
    np.savez(tmp_path / "x.npz", target_logits=target.numpy(), draft_logits=draft.numpy())
    fs, place = split(f"memory://{tmp_path.name}/x.npz")
    fs.pipe_file(place, (tmp_path / "x.npz").read_bytes())
    url = f"memory://{tmp_path.name}/x.npz#head=2"
    dump = open_dump(url)
    assert dump.facts.path == url
    (batch,) = dump.batches(9)
    assert torch.equal(batch.draft_logits, draft[:4, 2])


def test_heads_of_a_batch_with_its_texts(tmp_path: Path) -> None:
    target, draft = rows(2, 5, 12), rows(2, 5, 2, 12, seed=1)
    ids = torch.arange(10).reshape(2, 5)
    held = {"target_logits": target, "draft_logits": draft, "input_ids": ids}
    save_file(held, tmp_path / "x.safetensors")
    (batch,) = open_dump(f"{tmp_path}/x.safetensors#head=1").batches(20)
    # The last row of each text has no token after it, and the first no draft's row before.
    assert torch.equal(batch.target_logits, target[:, 1:4].reshape(6, 12))
    assert torch.equal(batch.draft_logits, draft[:, :3, 1].reshape(6, 12))
    assert batch.token is not None
    assert batch.token.tolist() == [2, 3, 4, 7, 8, 9]


def test_two_drafts_of_several_heads_are_compared_at_the_same_one(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        np.savez(tmp_path / f"{name}.npz", target_logits=rows(7, 12), draft_logits=rows(7, 3, 12, seed=number + 1))
    names = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    ask = ["--paired", "--drafts", "2", "--sampler", "greedy", "--verifier", "greedy", "--format", "json", "--quiet"]
    chosen = CliRunner().invoke(app, ["compare", *names, *ask, "--head", "1"])
    by_name = CliRunner().invoke(app, ["compare", *(f"{name}#head=1" for name in names), *ask])
    assert chosen.exit_code == by_name.exit_code == 0, chosen.output
    assert json.loads(chosen.stdout)[0]["difference"] == json.loads(by_name.stdout)[0]["difference"]
    refused = CliRunner().invoke(app, ["compare", *names, *ask])
    assert refused.exit_code == 2
    assert "the draft has 3 heads; give --head" in " ".join(refused.output.split())


def test_a_table_per_head(tmp_path: Path) -> None:
    target = rows(9, 12)
    draft = torch.stack([torch.cat([target[head:], rows(head, 12, seed=3)]) for head in range(3)], 1)
    draft[:, 1] += rows(9, 12, seed=4)
    np.savez(tmp_path / "x.npz", target_logits=target.numpy(), draft_logits=draft.numpy())
    command = ["bounds", str(tmp_path / "x.npz"), "--sampler", "with_replacement", "--drafts", "1", "--quiet"]
    every = CliRunner().invoke(app, [*command, "--format", "json"], catch_exceptions=False)
    table = json.loads(every.stdout)
    table = table["rows"] if isinstance(table, dict) else table
    assert [row["head"] for row in table] == [0, 1, 2]
    assert [row["positions"] for row in table] == [9, 8, 7]
    assert [row["mean"] > 1 - 1e-6 for row in table] == [True, False, True]
    one = CliRunner().invoke(app, [*command, "--head", "1", "--format", "json"], catch_exceptions=False)
    first = json.loads(one.stdout)
    first = first["rows"] if isinstance(first, dict) else first
    assert math.isclose(first[0]["mean"], table[1]["mean"])
    with pytest.raises(InputError, match="head 5 is asked for, and the draft has heads 0 to 2"):
        open_dump(f"{tmp_path}/x.npz#head=5")
    with pytest.raises(InputError, match="'head=x' says nothing of how to read"):
        open_dump(f"{tmp_path}/x.npz#head=x")


def test_how_a_dump_is_read_hides_no_input_from_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", target_logits=rows(4, 12).numpy(), draft_logits=rows(4, 2, 12).numpy())
    before = (tmp_path / "x.npz").read_bytes()
    path = str(tmp_path / "x.npz")
    for command in (
        ["bounds", path, "--head", "1", "--out", path, "--force"],
        ["bounds", f"{path}#head=1", "--out", path, "--force"],
        ["convert", f"{path}#head=1", path, "--force"],
        ["convert", path, path, "--head", "1", "--force"],
    ):
        assert isinstance(CliRunner().invoke(app, command).exception, InputError), command
        assert (tmp_path / "x.npz").read_bytes() == before


# Texts through a tokenizer


def tokenizer(folder: Path, words: dict[str, int]) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0")).save(str(folder / "tokenizer.json"))
    return folder


def interval(path: str) -> tuple[list[float], list[float]]:
    from problems import batch_bound

    (batch,) = open_dump(path).batches(100)
    found = batch_bound(batch, (1,), "with_replacement")
    return found.low[0].tolist(), found.high[0].tolist()


@pytest.mark.parametrize("form", ["chat", "completions"])
def test_texts_with_the_tokenizer_give_the_same_interval(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_model, "UNSTATED_WIDTH", 64)
    folder = tokenizer(tmp_path, {f"t{i}": i for i in range(12)})
    names = ",".join(str(CASES / "04-openai-top-logprobs" / f"{role}-{form}.json") for role in ("target", "draft"))
    for place in (folder, folder / "tokenizer.json"):
        low, high = interval(f"{names}#tokenizer={place}")
        assert low == pytest.approx([0.70, 0.50], abs=2e-6)
        assert high == pytest.approx([0.75, 0.70], abs=2e-6)
    result = CliRunner().invoke(app, ["bounds", names, "--tokenizer", str(folder), "--drafts", "1", "--quiet"])
    assert result.exit_code == 0


def test_two_tokens_with_one_text_are_never_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_model, "UNSTATED_WIDTH", 64)
    # The text "x" is both the word x and x with a leading space that decoding drops.
    folder = tokenizer(tmp_path, {"t0": 0, "x": 1, "y": 2, "\u2581z": 3, " z": 4})
    found = resolver(HowToRead(tokenizer=str(folder)))
    assert found is not None
    assert (found(Text("x")), found(Text("y"))) == (1, 2)
    assert found(Text(" z")) is None
    held: Any = {"tokens": ["x", " z"], "token_logprobs": [math.log(0.5), math.log(0.6)]}
    held["top_logprobs"] = [{"x": math.log(0.5), "y": math.log(0.2)}, {" z": math.log(0.25), "y": math.log(0.1)}]
    (tmp_path / "a.json").write_text(json.dumps({"choices": [{"text": "", "logprobs": held}]}))
    path = f"{tmp_path}/a.json,{tmp_path}/a.json#tokenizer={folder}"
    (batch,) = open_dump(path).batches(5)
    assert batch.token is not None
    assert batch.token.tolist() == [1, -1]
    assert (batch.target_logits[1] > -math.inf).nonzero()[:, 0].tolist() == [2]
    assert batch.target_cut is not None
    # The entry that was kept under this text bounds nothing: another may have been lost.
    assert batch.target_cut[1, 1] == pytest.approx(0.9, abs=1e-6)
    assert batch.target_cut[1, 2] > math.log(0.9)


def test_a_collision_of_texts_is_not_taken_for_a_row(tmp_path: Path) -> None:
    path = CASES / "04-openai-top-logprobs" / "string-collision.json"
    folder = tokenizer(tmp_path, {"t0": 0, "true": 1, "false": 2})
    with pytest.raises(InputError, match=r"itself has log-probability -0\.51.*two tokens share a text"):
        open_dump(f"{path},{path}#tokenizer={folder}")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such tokenizer"), ("{}", "give the tokenizer.json"), ("\xff\0", "give the tokenizer.json")],
)
def test_tokenizers_that_are_none(content: str | None, message: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    path = CASES / "04-openai-top-logprobs" / "target-chat.json"
    with pytest.raises(InputError, match=message):
        open_dump(f"{path},{path}#tokenizer={tmp_path}")


# llama.cpp files of different numbers of chunks


def test_common_chunks(tmp_path: Path) -> None:
    ids = torch.arange(3 * 8, dtype=torch.int32).reshape(3, 8) % 20
    target, draft = rows(3, 3, 20), rows(3, 3, 20, seed=1)
    write_llama_cpp(tmp_path / "t.kld", target, ids)
    write_llama_cpp(tmp_path / "d.kld", draft[:2], ids[:2])
    write_llama_cpp(tmp_path / "whole.kld", draft, ids)
    dump = open_pair(tmp_path / "t.kld", tmp_path / "d.kld")
    assert len(dump) == 6
    assert dump.facts.notes["common chunks"] == "the first 2 of the target's 3; the other file ends there"
    (batch,) = dump.batches(10)
    (full,) = open_pair(tmp_path / "t.kld", tmp_path / "whole.kld").batches(6, stop=6)
    assert torch.equal(batch.target_logits, full.target_logits)
    assert torch.equal(batch.draft_logits, full.draft_logits)
    write_llama_cpp(tmp_path / "other.kld", draft[:2], ids[:2] + 1)
    with pytest.raises(InputError, match=r"the token differs.*another text"):
        open_pair(tmp_path / "t.kld", tmp_path / "other.kld")
