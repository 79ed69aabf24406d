"""Rows that are no logits, tokens and texts that contradict each other, shifts: by every reader that can meet them."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_dumps_checks import STATED, WRITERS, pair

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import READERS, open_pair
from mdsd_bounds.dumps.evidence import evidence
from mdsd_bounds.dumps.scales import refuse_other_scales

Rows = torch.Tensor

#: What rows may hold instead of logits -> from log-probabilities, and what the error says.
SCALES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "probabilities": (torch.exp, "sums to one: probabilities"),
    "percentages": (lambda x: 100 * torch.exp(x), "sums to 100: percentages"),
    "negated": (torch.neg, "negated log-probabilities"),
    "base 2": (lambda x: x / math.log(2.0), "to base 2; multiply by ln 2"),
    "base 10": (lambda x: x / math.log(10.0), "to base 10"),
}


@pytest.mark.parametrize("reader", STATED)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("width", [5, 40])
def test_rows_on_another_scale(reader: str, scale: str, width: int, tmp_path: Path) -> None:
    change, message = SCALES[scale]
    p, q = pair(width, width)
    with pytest.raises(InputError, match=message):
        list(open_dump(WRITERS[reader](tmp_path, p, change(torch.log_softmax(q, -1)), None)).batches(5))


@pytest.mark.parametrize("width", [2, 5, 8, 40, 5000])
def test_logits_are_not_taken_for_another_scale(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    for low in (-3.0, 0.0, 1e-3, 20.0):
        rows = low + 2 * torch.rand(64, width, generator=generator)
        refuse_other_scales("x", "target", 0, rows)
        refuse_other_scales("x", "target", 0, -rows)
        refuse_other_scales("x", "target", 0, torch.log_softmax(rows, -1))
    # Exact zeros, rows of one token, and a distribution on one token of many.
    one = torch.full((3, width), -float("inf"))
    one[:, 0] = torch.tensor([0.0, 5.0, 1.0])
    refuse_other_scales("x", "target", 0, one)
    # A draft that proposes one token, as log-probabilities; and a vocabulary of one token.
    refuse_other_scales("x", "draft", 0, torch.where(one > -float("inf"), 0.0, one))
    refuse_other_scales("x", "draft", 0, torch.zeros(3, 1))


def test_one_row_of_probabilities_among_logits() -> None:
    rows = torch.randn(9, 200, generator=torch.Generator().manual_seed(0))
    rows[6] = torch.softmax(rows[6], -1)
    with pytest.raises(InputError, match=r"row 106 is non-negative and sums to one"):
        refuse_other_scales("x", "draft", 100, rows)


def test_probabilities_of_a_mapped_draft(tmp_path: Path) -> None:
    arrays = {"target_logits": torch.randn(6, 40), "draft_logits": torch.softmax(torch.randn(6, 10), -1)}
    save_file(arrays | {"draft_target_ids": torch.arange(10) * 3}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="probabilities"):
        list(open_dump(tmp_path / "x.safetensors").batches(6))


@pytest.mark.parametrize("reader", STATED)
def test_rows_that_were_never_written(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    p[9:], q[9:] = 0.0, 0.0
    with pytest.raises(InputError, match="row 9: every logit of both models is zero"):
        list(open_dump(WRITERS[reader](tmp_path, p, q, None)).batches(5))


@pytest.mark.parametrize("reader", STATED)
def test_a_constant_target_is_warned_of(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    p[3:5] = 0.25
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, p, q, None))).warnings
    assert any("target gives every token the same probability in 2 of 12 rows" in line for line in warnings), warnings


@pytest.mark.parametrize("reader", READERS)
def test_one_row_again_and_again_is_warned_of(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, p, q[:1].expand(12, -1).contiguous(), None))).warnings
    assert any("draft's row is the same in all of 12 rows" in line for line in warnings), warnings


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("lag", [2, -2, 3])
def test_a_draft_shifted_by_some_rows(reader: str, lag: int, tmp_path: Path) -> None:
    p, q = pair()
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, p, q.roll(lag, 0), None))).warnings
    word = {2: "two rows later", -2: "two rows earlier", 3: "three rows later"}[lag]
    assert any(f"the draft's rows fit the target's better {word}" in line for line in warnings), warnings


@pytest.mark.parametrize("reader", READERS)
def test_tokens_two_rows_off(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, p, q, p.argmax(-1).roll(-2)))).warnings
    assert any("the target's rows fit the token recorded two rows earlier" in line for line in warnings), warnings


@pytest.mark.parametrize("reader", READERS)
def test_almost_one_hot_everywhere(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    # A server that rounds: log-probability -1e-8 instead of 0.
    hot = torch.where(p == p.amax(-1, keepdim=True), 0.0, math.log(1e-8 / 23))
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, hot, q, None))).warnings
    assert any("target gives one token all of the mass in 12 of 12 rows" in line for line in warnings), warnings


def test_shifts_do_not_cross_the_borders_of_texts(tmp_path: Path) -> None:
    p, q = pair(rows=16)
    arrays = {"target_logits": p, "draft_logits": q.roll(1, 0), "doc": torch.arange(16)}
    save_file(arrays, tmp_path / "x.safetensors")
    assert not any("shifted" in line for line in evidence(open_dump(tmp_path / "x.safetensors")).warnings)


def test_top_k_to_base_two(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    logp, ids = torch.log_softmax(3 * torch.randn(12, 64, generator=generator).double(), -1).topk(24)
    for name, values in (("natural", logp), ("two", logp / math.log(2.0))):
        arrays = {"ids": ids, "logprobs": values, "vocabulary": torch.tensor(1_000_000)}
        save_file(arrays, tmp_path / f"{name}.safetensors")
        dump = open_pair(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
        assert sum("base 2" in line for line in evidence(dump).warnings) == (2 if name == "two" else 0)


# What one file says twice


@pytest.mark.parametrize("form", ["npz", "npy", "pt", "safetensors", "hidden", "two files"])
def test_two_columns_of_tokens(form: str, tmp_path: Path) -> None:
    p, q = pair()
    token, other = p.argmax(-1), p.argmax(-1).clone()
    other[4] = (other[4] + 1) % 24
    for name, tokens in (("same", token), ("other", other)):
        folder = tmp_path / name
        folder.mkdir()
        path = _with_tokens(folder, form, p, q, token, tokens)
        if name == "same":
            assert len(open_dump(path)) == 12
            continue
        with pytest.raises(InputError, match=r"row 4: .* the token"):
            open_dump(path)


def _with_tokens(folder: Path, form: str, p: Rows, q: Rows, token: Rows, tokens: Rows) -> str:
    if form == "two files":
        save_file({"target_logits": p, "token": token}, folder / "target_logits.safetensors")
        save_file({"draft_logits": q, "token": tokens}, folder / "draft_logits.safetensors")
        return str(folder)
    path = WRITERS["arrays" if form == "hidden" else form](folder, p, q, token)
    if form == "npy":
        np.save(folder / "tokens.npy", tokens.numpy())
        return path
    file = Path(path)
    if form == "npz":
        held = dict(np.load(file))
        np.savez(file, **held, tokens=tokens.numpy())
    elif form == "pt":
        torch.save(torch.load(file, weights_only=True) | {"tokens": tokens}, file)
    else:
        from safetensors.torch import load_file

        save_file(load_file(file) | {"tokens": tokens}, file)
    return path


def test_a_token_column_beside_a_text(tmp_path: Path) -> None:
    ids = torch.arange(10).reshape(2, 5)
    held = {"logits": torch.randn(2, 5, 12), "input_ids": ids, "token": ids[:, 1:].reshape(-1).clone()}
    save_file(held, tmp_path / "t.safetensors")
    open_pair(tmp_path / "t.safetensors", tmp_path / "t.safetensors")
    held["token"][3] = 11
    save_file(held, tmp_path / "t.safetensors")
    with pytest.raises(InputError, match="row 3: token gives the token 11, but the file also gives 4"):
        open_pair(tmp_path / "t.safetensors", tmp_path / "t.safetensors")


def test_a_prompt_beside_the_sequences_of_generate(tmp_path: Path) -> None:
    """The prompt is as long as what was generated: its ids fit the rows in number, and are not theirs."""
    sequences = torch.arange(12).reshape(2, 6)
    held = {"logits": torch.randn(2, 3, 16), "input_ids": sequences[:, :3].clone(), "sequences": sequences}
    save_file(held, tmp_path / "t.safetensors")
    dump = open_pair(tmp_path / "t.safetensors", tmp_path / "t.safetensors")
    (batch,) = dump.batches(9)
    assert batch.token is not None
    assert batch.token.tolist() == [3, 4, 5, 9, 10, 11]
    held["input_ids"][0, 0] = 7
    save_file(held, tmp_path / "t.safetensors")
    with pytest.raises(InputError, match="does not say which of the two logits belongs to"):
        open_pair(tmp_path / "t.safetensors", tmp_path / "t.safetensors")


def test_token_with_and_without_prefix(tmp_path: Path) -> None:
    p, q = pair()
    held = {"target_hidden_states": p, "draft_hidden_states": q, "lm_head": torch.eye(24)}
    held |= {"token": p.argmax(-1), "target_token": p.argmax(-1)}
    save_file(held, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds both token and target_token"):
        open_dump(tmp_path / "x.safetensors")


@pytest.mark.parametrize("ranks", [True, False])
def test_prompt_token_ids_that_are_not_of_these_rows(ranks: bool, tmp_path: Path) -> None:
    def entry(own: int, own_rank: int, best: list[int]) -> dict[str, Any]:
        listed = {own: (-6.0, own_rank)} | {token: (-1.0 - rank, rank) for rank, token in enumerate(best, 1)}
        return {str(k): {"logprob": v, **({"rank": r} if ranks else {})} for k, (v, r) in listed.items()}

    positions = [None, entry(9, 30, [4, 5]), entry(4, 3, [1, 2])]
    for ids in ([3, 9, 4], [3, 9, 7]):
        answer = {"prompt_token_ids": ids, "prompt_logprobs": positions}
        (tmp_path / "t.json").write_text(json.dumps(answer))
        if ids[-1] == 4 or not ranks:
            # Without ranks an own token among others looks like any of them.
            open_pair(tmp_path / "t.json", tmp_path / "t.json")
            continue
        with pytest.raises(InputError, match="prompt_token_ids has 7 at position 2, whose own token is 4"):
            open_pair(tmp_path / "t.json", tmp_path / "t.json")


@pytest.mark.parametrize("drafts", [[-1], [-1, 3], [3, -2]])
def test_drafts_of_a_step_log_are_tokens(drafts: list[int], tmp_path: Path) -> None:
    place = {"token": 3, "p": 0.5, "candidates": [[3, 0.4], [7, 0.3]]}
    step = {"step": 0, "drafts": drafts, "accepted": 0, "positions": [place]}
    (tmp_path / "x.jsonl").write_text(json.dumps(step) + "\n")
    with pytest.raises(InputError, match=r"line 1: -\d is no token id"):
        open_dump(tmp_path / "x.jsonl")


# What no reader knows


def test_files_that_no_reader_knows_are_called_by_their_names(tmp_path: Path) -> None:
    legacy = tmp_path / "old.pt"
    torch.save({"target_logits": torch.zeros(1, 2)}, legacy, _use_new_zipfile_serialization=False)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"a": 1}))
    for name, data, words in [
        ("h.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 20, "an HDF5 file"),
        ("e.npz", b"", "it is empty"),
        ("z.npy", b"\0" * 100, "begins with zeros"),
        ("l.pt", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("s.json", b'data: {"choices": []}\n\ndata: [DONE]\n', "a stream of events"),
        ("i.json", b"HTTP/1.1 200 OK\r\n\r\n{}", "an answer with its HTTP headers"),
        ("w.npz", b"\n<!DOCTYPE html>", "HTML or XML"),
        ("t.tar", b"a" * 257 + b"ustar\0", "a tar archive"),
        ("x.bin", b"abc", "wrong magic bytes"),
    ]:
        (tmp_path / name).write_bytes(data)
        for open_it in (open_dump, lambda path: open_pair(path, path)):
            with pytest.raises(InputError, match=words):
                open_it(str(tmp_path / name))
    for path in (legacy, tmp_path / "p.pkl"):
        with pytest.raises(InputError, match=r"a pickle .torch.save before torch 1\.6.* never loaded"):
            open_dump(path)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_row_of_logits_that_is_near_another_scale_by_chance_is_read(tmp_path: Path, sign: float) -> None:
    """Of logits that are all positive, some rows have exponentials of their negatives that sum nearly to one."""
    logits = np.abs(np.random.default_rng(5).normal(size=(4, 300)) * 3) + 2.0
    scale = 1.0 if sign > 0 else math.log(10.0)
    logits = sign * (logits + np.log(np.exp(-scale * logits).sum(-1, keepdims=True)) / scale + 2e-4)
    assert (sign * logits > 0).all()
    np.savez(tmp_path / "one.npz", target_logits=logits[:1], draft_logits=logits[:1] + 1.0)
    assert len(next(iter(open_dump(tmp_path / "one.npz").batches(1))).target_logits) == 1
    np.savez(tmp_path / "four.npz", target_logits=logits, draft_logits=logits + 1.0)
    with pytest.raises(InputError, match=r"exponentials of minus every row|to base 10"):
        list(open_dump(tmp_path / "four.npz").batches(4))


@pytest.mark.parametrize("form", ["logits", "top-k"])
def test_a_dump_joined_to_itself_is_warned_of(form: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = {f"{role}_logits": torch.randn(6, 12, generator=generator).repeat(2, 1) for role in ("target", "draft")}
    if form == "top-k":
        top = {role: torch.log_softmax(rows[f"{role}_logits"], -1).topk(5) for role in ("target", "draft")}
        rows = {f"{role}_ids": kept.indices for role, kept in top.items()}
        rows |= {f"{role}_logprobs": kept.values for role, kept in top.items()}
        rows["vocabulary"] = torch.tensor(12)
    position = torch.tensor([0, 1, 2, 0, 1, 2]).repeat(2)
    for apart in (True, False):
        doc = torch.tensor([3, 3, 3, 4, 4, 4]).repeat(2) + torch.arange(12) // 6 * 10 * apart
        save_file(rows | {"doc": doc, "position": position}, tmp_path / "dump.safetensors")
        said = [line for line in evidence(open_dump(tmp_path / "dump.safetensors")).warnings if "count twice" in line]
        start = "rows 0 and 6 are both position 0 of document 3, the first of 6 such pairs"
        assert [line.startswith(start) for line in said] == [True] * (not apart)
