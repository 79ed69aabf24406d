"""Readers of what other programs write: each format's trap, against a second route; damage is named."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import batch_bound
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump, optimal_acceptance, to_probs
from mdsd_bounds.dumps import inspect_dump, open_pair, open_side
from mdsd_bounds.dumps import single_model as sides
from mdsd_bounds.dumps.formats.distillkit import write_distillkit
from mdsd_bounds.dumps.formats.llama_cpp import write_llama_cpp


@pytest.fixture(autouse=True)
def _small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that do not state their vocabulary are taken to have the largest in use, which costs time, not rightness.
    monkeypatch.setattr(sides, "UNSTATED_WIDTH", 64)


COUNTS = (1, 2, 4)
SAMPLERS = ("with_replacement", "without_replacement", "greedy")


def logits(*shape: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def contains(path: str, target: torch.Tensor, draft: torch.Tensor, width: float = 1.0) -> None:
    """The intervals of the dump hold the bounds of the full rows, and are narrower than ``width``."""
    for batch in open_dump(path).batches(len(target)):
        for sampler in SAMPLERS:
            found = batch_bound(batch, COUNTS, sampler)
            full = optimal_acceptance(to_probs(target), to_probs(draft), COUNTS, sampler)
            assert (found.low <= full.low + 1e-9).all(), sampler
            assert (full.high <= found.high + 1e-9).all(), sampler
            assert (found.high - found.low).max() < width, sampler


# llama.cpp


@pytest.mark.parametrize("vocabulary", [30, 31])
@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
def test_llama_cpp(vocabulary: int, spread: float, tmp_path: Path) -> None:
    n_ctx, chunks = 9, 2
    kept = n_ctx - 1 - n_ctx // 2
    ids = torch.arange(chunks * n_ctx, dtype=torch.int32).reshape(chunks, n_ctx) % vocabulary
    first = logits(chunks, kept, vocabulary, spread=spread)
    second = first + logits(chunks, kept, vocabulary, seed=1, spread=1.0)
    for name, value in (("t.kld", first), ("d.kld", second)):
        write_llama_cpp(tmp_path / name, value, ids)
    dump = open_pair(tmp_path / "t.kld", tmp_path / "d.kld")
    assert (len(dump), dump.facts.target_width) == (chunks * kept, vocabulary)
    (batch,) = dump.batches(100)
    assert batch.token is not None
    assert batch.position is not None
    assert torch.equal(batch.token, ids[:, n_ctx // 2 + 1 :].reshape(-1).long())
    assert batch.position.tolist() == [5, 6, 7, 8] * 2
    # Every stored value is within the stated error of the true one, and every floored token is below the cap.
    true = torch.log_softmax(first.reshape(-1, vocabulary).double(), -1)
    assert batch.target_cut is not None
    stored = batch.target_logits > -float("inf")
    gap = torch.where(stored, (true - batch.target_logits).abs(), 0.0).amax(-1)
    assert (gap <= batch.target_cut[:, 3]).all()
    assert (torch.where(stored, -float("inf"), true).amax(-1) <= batch.target_cut[:, 2]).all()
    missing = torch.where(stored, 0.0, true.exp()).sum(-1)
    assert (batch.target_cut[:, 0] <= missing + 1e-12).all()
    assert (missing <= batch.target_cut[:, 1] + 1e-12).all()
    contains(f"{tmp_path}/t.kld,{tmp_path}/d.kld", first.reshape(-1, vocabulary), second.reshape(-1, vocabulary))


def test_llama_cpp_bytes_by_hand(tmp_path: Path) -> None:
    # Four tokens of context keep one row; five tokens of vocabulary pad to six codes.  p = 1/2, 1/4, 1/8, 1/8, floor.
    scale, least = math.log(16) / 60000, -math.log(32)
    codes = [round((math.log(p) - least) / scale) for p in (1 / 2, 1 / 4, 1 / 8, 1 / 8)] + [0, 0]
    data = b"_logits_" + struct.pack("<3i", 4, 5, 1) + struct.pack("<4i", 1, 2, 3, 4)
    data += struct.pack("<2f", scale, least) + struct.pack("<6H", *codes)
    (tmp_path / "x.kld").write_bytes(data)
    (batch,) = open_pair(tmp_path / "x.kld", tmp_path / "x.kld").batches(9)
    assert torch.allclose(batch.target_logits[0, :4].exp(), torch.tensor([0.5, 0.25, 0.125, 0.125]).double(), atol=1e-4)
    assert batch.target_logits[0, 4] == -float("inf")
    assert batch.token is not None
    assert batch.token.tolist() == [4]


def test_llama_cpp_constant_rows_are_known(tmp_path: Path) -> None:
    write_llama_cpp(tmp_path / "x.kld", torch.zeros(1, 1, 6), torch.zeros(1, 4, dtype=torch.int32))
    rows, cut = open_side(tmp_path / "x.kld").read(0, 1, 6)
    assert torch.allclose(rows.exp(), torch.full((1, 6), 1 / 6, dtype=torch.float64), atol=1e-6)
    assert cut is not None
    assert cut[0, 1] == 0


def test_a_file_that_llama_cpp_wrote(tmp_path: Path) -> None:
    # Written by llama-perplexity (llama.cpp commit 0c1e570, as shipped in llama-cpp-python 0.3.36) from
    # SmolLM2-135M-Instruct, Q4_1: "-c 8 --chunks 1 --kl-divergence-base"; it printed "[1]4.3359".
    path = tmp_path / "base.kld"
    with gzip.open(Path(__file__).parent / "data" / "llama_cpp_smollm2_135m.kld.gz") as packed, path.open("wb") as out:
        shutil.copyfileobj(packed, out)
    side = open_side(path)
    assert (side.rows, side.width) == (3, 49152)
    rows, cut = side.read(0, 3, 49152)
    assert cut is not None
    loss = -rows.gather(-1, side.columns["token"][:, None]).mean()
    assert math.isclose(float(loss.exp()), 4.3359, abs_tol=2e-3)
    assert (cut[:, 1] < 2e-2).all()
    assert (cut[:, 0] <= cut[:, 1]).all()
    total = rows.exp().sum(-1)
    assert (total + cut[:, 0] <= 1 + 2e-3).all()
    assert (total + cut[:, 1] >= 1 - 2e-3).all()
    (batch,) = open_pair(path, path).batches(3)
    same = batch_bound(batch, (1, 4), "without_replacement")
    assert (same.low > 0.95).all()  # a model is its own best draft
    assert (same.high > 1 - 1e-9).all()


def test_llama_cpp_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.kld"
    write_llama_cpp(path, logits(2, 3, 20), torch.zeros(2, 8, dtype=torch.int32))
    good = path.read_bytes()
    for data, message in [
        (good[:-10], "1 of 2 chunks are whole"),
        (good + b"0", "its header asks for"),
        (good[:15], "does not begin with"),
        (b"_logits_" + struct.pack("<3i", -1, 5, 1) + good[20:], "impossible"),
    ]:
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            open_side(path)
    row = 20 + 4 * 16 + 48
    path.write_bytes(good[:row] + struct.pack("<2f", 0.01, 3.0) + good[row + 8 :])
    with pytest.raises(InputError, match="row 1: stored probabilities sum"):
        open_side(path).read(0, 3, 20)
    path.write_bytes(b"_LOGITS_" + good[8:])
    with pytest.raises(InputError, match="not recognised"):
        open_side(path)


# vLLM


def prompt_logprobs(rows: torch.Tensor, tokens: list[int], k: int) -> list[dict[str, dict[str, float]] | None]:
    result: list[dict[str, dict[str, float]] | None] = [None]
    for row, token in zip(torch.log_softmax(rows.double(), -1), tokens[1:], strict=True):
        order = row.argsort(descending=True).tolist()
        names = [token, *[name for name in order[:k] if name != token]]
        result.append({str(name): {"logprob": float(row[name]), "rank": order.index(name) + 1} for name in names})
    return result


@pytest.mark.parametrize("form", ["lines", "server", "list", "flat", "no ranks"])
def test_vllm(form: str, tmp_path: Path) -> None:
    tokens = [3, 1, 4, 1, 5, 9, 2]
    pair = [logits(6, 20), logits(6, 20) + logits(6, 20, seed=2, spread=1.0)]
    for name, rows in zip("td", pair, strict=True):
        listed = prompt_logprobs(rows, tokens, 5)
        value: object = {"prompt_token_ids": tokens, "prompt_logprobs": listed}
        if form == "server":
            value = {"id": "x", "choices": [{"text": "", "prompt_logprobs": listed}]}
        elif form == "list":
            value = listed
        elif form == "no ranks":
            value = [
                position and {key: {"logprob": f["logprob"]} for key, f in position.items()} for position in listed
            ]
        elif form == "flat":
            flat: dict[str, list[float]] = {
                k: [] for k in ("start_indices", "end_indices", "token_ids", "logprobs", "ranks")
            }
            for position in listed:
                # As vLLM appends them: the own token first, then the top k with the own token again if it is there.
                entries = list((position or {}).items())
                entries += [entry for entry in entries[:1] if entry[1]["rank"] <= 5]
                flat["start_indices"].append(len(flat["token_ids"]))
                for key, fact in entries:
                    flat["token_ids"].append(int(key))
                    flat["logprobs"].append(fact["logprob"])
                    flat["ranks"].append(fact["rank"])
                flat["end_indices"].append(len(flat["token_ids"]))
            value = flat
        (tmp_path / f"{name}.json").write_text(json.dumps(value) + "\n")
    path = f"{tmp_path}/t.json,{tmp_path}/d.json"
    dump = open_dump(path)
    assert dump.facts.shift == "same"
    (batch,) = dump.batches(10)
    assert batch.token is not None
    assert batch.token.tolist() == tokens[1:]
    assert batch.position is not None
    assert batch.position.tolist() == [1, 2, 3, 4, 5, 6]
    # Entry t is the distribution of token t: row 0 is the distribution of tokens[1].
    probs = torch.log_softmax(pair[0][0].double(), -1)
    assert math.isclose(float(batch.target_logits[0, tokens[1]]), float(probs[tokens[1]]), rel_tol=1e-9)
    assert int((batch.target_logits[0] > -float("inf")).sum()) in (5, 6)
    contains(path, *pair)
    assert "not stated" in inspect_dump(path)["target vocabulary"]


def test_vllm_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, message in [
        ('{"prompt_logprobs": [null, {"5": {"logprob": -0.1}}, null]}', "position 2: it is empty"),
        ('{"prompt_logprobs": [null]}', "no log-probabilities"),
        ('{"prompt_logprobs": [null, {"five": {"logprob": -0.1}}]}', "line 1: 'five' is no integer"),
        ('{"prompt_logprobs": [null, {"5": {"logprob": -0.1}}]}\n{"prompt_', "line 2: no JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            open_side(path)
    path.write_text('{"prompt_logprobs": [null, {"5": {"logprob": -0.1}, "6": {"logprob": -0.2}}]}')
    with pytest.raises(InputError, match=r"row 0: the stored probabilities sum to 1\.72"):
        open_side(path).read(0, 1, 10)


# Hugging Face and TensorRT-LLM arrays


def test_forward_pass_predicts_the_next_token(tmp_path: Path) -> None:
    ids = torch.tensor([[7, 1, 2, 3], [7, 4, 5, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    rows = logits(2, 4, 12)
    save_file({"logits": rows, "input_ids": ids, "attention_mask": mask}, tmp_path / "t.safetensors")
    torch.save({"logits": rows.half(), "input_ids": ids, "attention_mask": mask}, tmp_path / "d.pt")
    (batch,) = open_pair(tmp_path / "t.safetensors", tmp_path / "d.pt").batches(10)
    assert batch.token is not None
    assert batch.doc is not None
    assert batch.position is not None
    assert batch.token.tolist() == [1, 2, 3, 4, 5]
    assert batch.doc.tolist() == [0, 0, 0, 1, 1]
    assert batch.position.tolist() == [1, 2, 3, 1, 2]
    assert torch.equal(batch.target_logits, torch.cat([rows[0, :3], rows[1, :2]]))
    assert torch.equal(batch.draft_logits, torch.cat([rows[0, :3], rows[1, :2]]).half())
    (part,) = open_pair(tmp_path / "t.safetensors", tmp_path / "d.pt").batches(3, start=2, stop=5)
    assert torch.equal(part.target_logits, batch.target_logits[2:])


def test_generated_steps_are_distributions_of_new_tokens(tmp_path: Path) -> None:
    sequences = torch.tensor([[9, 9, 1, 2, 3], [9, 9, 4, 5, 6]])
    steps = tuple(logits(2, 12, seed=step) for step in range(3))
    torch.save({"logits": steps, "sequences": sequences}, tmp_path / "t.pt")
    save_file({"logits": torch.stack(steps, 1), "sequences": sequences}, tmp_path / "d.safetensors")
    (batch,) = open_pair(tmp_path / "t.pt", tmp_path / "d.safetensors").batches(10)
    assert batch.token is not None
    assert batch.token.tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(batch.target_logits, batch.draft_logits)
    assert torch.equal(batch.target_logits[4], steps[1][1])
    torch.save({"scores": steps, "sequences": sequences}, tmp_path / "s.pt")
    assert open_side(tmp_path / "s.pt").stage == "processed"


@pytest.mark.parametrize("shape", [(6, 12), (2, 3, 12), (2, 1, 3, 12)])
def test_tensorrt_llm_arrays(shape: tuple[int, ...], tmp_path: Path) -> None:
    rows = logits(*shape).numpy()
    for name in ("t.npy", "d.npy"):
        np.save(tmp_path / name, rows)
    (batch,) = open_dump(f"{tmp_path}/t.npy,{tmp_path}/d.npy").batches(10)
    assert torch.equal(batch.target_logits, torch.from_numpy(rows.reshape(6, 12)))
    if len(shape) > 2:
        assert batch.doc is not None
        assert batch.doc.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": torch.zeros(2, 3, 4, 5)}, "one beam"),
        ({"logits": torch.zeros(2, 3, dtype=torch.int64)}, "dtype int64"),
        ({"logits": torch.zeros(2, 3, 4), "input_ids": torch.zeros(2, 5, dtype=torch.int64)}, "input_ids 5"),
        ({"logits": torch.zeros(1, 1, 4), "input_ids": torch.zeros(1, 1, dtype=torch.int64)}, "no row has a token"),
        ({"logits": torch.zeros(4, 3), "sequences": torch.zeros(1, 2, dtype=torch.int64)}, "only 2 tokens"),
        ({"weights": torch.zeros(2, 3)}, "holds weights"),
        ({"hidden_states": torch.zeros(2, 3)}, "without lm_head"),
        ({"hidden_states": torch.zeros(2, 3), "lm_head": torch.zeros(9, 4)}, "lm_head"),
        ({"ids": torch.zeros(2, 3, dtype=torch.int64), "logprobs": torch.zeros(2, 2)}, "give two"),
        ({"logits": torch.zeros(2, 3), "doc": torch.zeros(3, dtype=torch.int64)}, "give 2 integers"),
        ({"logits": torch.zeros(2, 3), "d2t": torch.tensor([1, 0, 0])}, "no map of distinct"),
    ],
)
def test_arrays_that_cannot_be(arrays: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=message):
        open_side(tmp_path / "x.safetensors")


# Top-k


@pytest.mark.parametrize("form", ["safetensors", "npz", "pt", "two files"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_top_k(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    pair = {"target": logits(8, 25), "draft": logits(8, 25) + logits(8, 25, seed=1, spread=1.0)}
    arrays = {"token": torch.arange(8), "vocabulary": torch.tensor(25)}
    for name, rows in pair.items():
        value, ids = torch.log_softmax(rows.double(), -1).topk(6, -1)
        arrays |= {f"{name}_ids": ids, f"{name}_logprobs": value.to(dtype)}
        if name == "draft":
            arrays["draft_missing"] = 1 - value.exp().sum(-1)
    path = f"{tmp_path}/x.{form}"
    if form == "npz":
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    elif form == "pt":
        torch.save(arrays, path)
    elif form == "safetensors":
        save_file(arrays, path)
    else:
        path = f"{tmp_path}/t.safetensors,{tmp_path}/d.safetensors"
        for name in pair:
            side = {key.removeprefix(f"{name}_"): value for key, value in arrays.items() if key.startswith(name)}
            save_file(side, f"{tmp_path}/{name[0]}.safetensors")
    if dtype == torch.float16:
        # Rounded to three digits, the stored mass and the exact tail do not make one; the error bound covers it.
        arrays.pop("draft_missing")
    contains(path, pair["target"], pair["draft"])
    assert "mass is not" in inspect_dump(path)["target, first row"]


def test_top_k_that_cannot_be(tmp_path: Path) -> None:
    ids = torch.tensor([[1, 2]])
    good = torch.tensor([[0.5, 0.25]]).log()
    for extra, message in [
        ({"missing": torch.tensor([0.5])}, "and the tail 0.5, not to one"),
        ({"missing": torch.tensor([0.1, 0.2])}, "missing has shape"),
        ({"vocabulary": torch.tensor(2)}, "token 2, but the vocabulary has 2 tokens"),
    ]:
        save_file({"ids": ids, "logprobs": good, **extra}, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match=message):
            list(open_pair(tmp_path / "x.safetensors", tmp_path / "x.safetensors").batches(1))


# Hidden states


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_hidden_states_give_the_models_own_logits(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    extra: dict[str, torch.Tensor] = {}
    if family == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, rms_norm_eps=1e-5))
        eps = 1e-5
    else:
        model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**size, final_logit_softcapping=5.0))
        extra = {"soft_cap": torch.tensor(5.0), "norm_offset": torch.tensor(1.0)}
        eps = model.config.rms_norm_eps
    model.eval()
    with torch.no_grad():
        model.model.norm.weight.normal_(0, 0.5)
        model.lm_head.weight.normal_(0, 2.0)
        before: list[torch.Tensor] = []
        hook = model.model.norm.register_forward_hook(lambda module, given, result: before.append(given[0]))
        own = model(torch.arange(10)[None]).logits[0]
        hook.remove()
    side = {"hidden_states": before[0][0], "lm_head": model.lm_head.weight.detach().clone(), **extra}
    side |= {"norm_weight": model.model.norm.weight.detach().clone(), "norm_eps": torch.tensor(eps)}
    save_file(side, tmp_path / "x.safetensors")
    (batch,) = open_pair(tmp_path / "x.safetensors", tmp_path / "x.safetensors").batches(20)
    assert torch.allclose(batch.target_logits, own, rtol=1e-5, atol=1e-5)
    value, full = (
        optimal_acceptance(to_probs(rows), to_probs(rows.flip(0)), (2,), "without_replacement").value
        for rows in (batch.target_logits, own)
    )
    assert (value - full).abs().max() < 1e-5
    assert open_dump(f"{tmp_path}/x.safetensors,{tmp_path}/x.safetensors").facts.kind == "hidden"


def test_drafts_over_fewer_tokens_are_mapped(tmp_path: Path) -> None:
    goal = torch.tensor([0, 3, 4, 9])
    small = logits(5, 4)
    save_file(
        {"logits": small, "d2t": goal - torch.arange(4), "vocabulary": torch.tensor(10)}, tmp_path / "d.safetensors"
    )
    save_file({"logits": logits(5, 10, seed=1)}, tmp_path / "t.safetensors")
    dump = open_pair(tmp_path / "t.safetensors", tmp_path / "d.safetensors")
    assert "mapped" in dump.facts.support
    (batch,) = dump.batches(5)
    assert torch.equal(batch.draft_logits[:, goal], small)
    assert int((batch.draft_logits > -float("inf")).sum()) == 20
    assert batch.draft_cut is None  # the zeros are exact: nothing is missing


# DistillKit


def pack(values: list[int], bits: int) -> list[int]:
    text = "".join(format(value, f"0{bits}b") for value in values)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


@pytest.mark.parametrize("form", ["raw", "packed", "folder"])
def test_distillkit(form: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    pair = [logits(6, 20), logits(6, 20) + logits(6, 20, seed=1, spread=1.0)]
    for name, rows in zip("td", pair, strict=True):
        value, ids = torch.log_softmax(rows, -1).topk(8, -1)
        spans = [(0, 4), (4, 6)]
        folder = tmp_path / name
        folder.mkdir()
        if form == "packed":
            table = arrow.table(
                {
                    "input_ids": texts,
                    "bytepacked_indices": [[pack(ids[row].tolist(), 5) for row in range(a, b)] for a, b in spans],
                    # Eight float32 bytes for each of 6 exact values, then bytes of the approximation, not read.
                    "compressed_logprobs": [
                        [[*value[row, :6].numpy().tobytes(), 1, 2, 3] for row in range(a, b)] for a, b in spans
                    ],
                }
            )
            parquet.write_table(table, folder / "data_0.parquet")
            (folder / "compression.json").write_text(json.dumps({"d": 20, "k": 8, "exact_k": 6}))
        elif form == "folder":
            for number, (tokens, (a, b)) in enumerate(zip(texts, spans, strict=True)):
                write_distillkit(folder / f"data_{number}.parquet", [(tokens, ids[a:b], value[a:b])])
        else:
            write_distillkit(
                folder / "data_0.parquet",
                [(tokens, ids[a:b], value[a:b]) for tokens, (a, b) in zip(texts, spans, strict=True)],
            )
    suffix = "/data_0.parquet" if form == "raw" else ""
    path = f"{tmp_path}/t{suffix},{tmp_path}/d{suffix}"
    (batch,) = open_dump(path).batches(10)
    assert batch.token is not None
    assert batch.doc is not None
    assert batch.token.tolist() == [1, 4, 1, 5, 2, 6]
    assert batch.doc.tolist() == [0, 0, 0, 0, 1, 1]
    stored = batch.target_logits > -float("inf")
    assert stored.sum(-1).tolist() == [6 if form == "packed" else 8] * 6
    true = torch.log_softmax(pair[0].double(), -1)
    width = true.shape[1]
    assert torch.allclose(batch.target_logits[:, :width][stored[:, :width]], true[stored[:, :width]], atol=1e-5)
    (middle,) = open_dump(path).batches(3, start=3, stop=6)
    assert torch.equal(middle.target_logits, batch.target_logits[3:])
    contains(path, *pair)


def test_distillkit_damage(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    value, ids = torch.log_softmax(logits(4, 20), -1).topk(3, -1)
    write_distillkit(path, [([1, 2, 3], ids, value)])
    with pytest.raises(InputError, match="text 0: 3 tokens but 4 positions"):
        open_side(path)
    write_distillkit(path, [([1, 2, 3, 4, 5], ids, value)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated or corrupt"):
        open_side(path)


# Step logs


def test_step_log(tmp_path: Path) -> None:
    target, draft = logits(4, 15), logits(4, 15) + logits(4, 15, seed=1, spread=1.0)
    p, q = to_probs(target), to_probs(draft)
    path = tmp_path / "steps.jsonl"
    lines = []
    for step in range(2):
        positions = []
        for row in (2 * step, 2 * step + 1):
            value, ids = q[row].topk(5)
            best, top = p[row].topk(4)
            positions.append(
                {
                    "token": int(top[1]),
                    "p": float(best[1]),
                    "candidates": list(zip(ids.tolist(), value.tolist(), strict=True)),
                    "target_candidates": [
                        {"token": int(i), "logprob": math.log(float(x))} for i, x in zip(top, best, strict=True)
                    ],
                }
            )
        lines.append(json.dumps({"step": step, "drafts": [1, 2], "accepted": 1, "positions": positions}))
    path.write_text("\n".join(lines) + "\n")
    contains(str(path), target, draft)
    facts = inspect_dump(str(path))
    assert facts["target steps"] == 2
    assert facts["target accepted of drafted, as logged"] == "0.5"
    for line, message in [
        ('{"drafts": [1], "accepted": 2, "positions": []}', "line 3: 2 of 1 drafts accepted"),
        ('{"drafts": [1], "accepted": 1, "positions": [{"token": 1, "p": 7}]}', "line 3: probability 7"),
        ("{", "line 3: no JSON"),
    ]:
        path.write_text("\n".join([*lines, line]))
        with pytest.raises(InputError, match=message):
            open_dump(path)


# Pairs


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    save_file({"logits": logits(4, 10), "token": torch.tensor([1, 2, 3, 4])}, tmp_path / "a.safetensors")
    save_file({"logits": logits(4, 10), "token": torch.tensor([1, 2, 5, 4])}, tmp_path / "b.safetensors")
    save_file({"logits": logits(3, 10), "input_ids": torch.arange(3)}, tmp_path / "c.safetensors")
    save_file({"logits": logits(4, 300), "d2t": torch.arange(300)}, tmp_path / "d.safetensors")
    torch.save({"logits": logits(4, 10)}, tmp_path / "e.pt")
    write_llama_cpp(tmp_path / "x.kld", logits(1, 4, 10), torch.zeros(1, 10, dtype=torch.int32))
    with pytest.raises(InputError, match=r"row 0: the target's token is 1 but the draft's 0"):
        open_pair(tmp_path / "a.safetensors", tmp_path / "x.kld")
    with pytest.raises(InputError, match="4 target rows but 2 draft rows"):
        open_pair(tmp_path / "e.pt", tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="names token 598, but the vocabulary has 10"):
        open_pair(tmp_path / "e.pt", tmp_path / "d.safetensors")
    with pytest.raises(InputError, match=r"holds one model \(llama\.cpp\)"):
        open_dump(tmp_path / "x.kld")
    with pytest.raises(InputError, match="no such file"):
        open_pair(tmp_path / "x.kld", tmp_path / "nothing")
    (tmp_path / "y").write_text("plain text")
    with pytest.raises(InputError, match=r"not recognised as any of .*llama\.cpp"):
        open_pair(tmp_path / "x.kld", tmp_path / "y")


@pytest.mark.parametrize("column", ["token", "doc"])
def test_columns_of_texts_and_numbers_without_room_are_errors(column: str, tmp_path: Path) -> None:
    """They were left out, and 2^64 - 1 was an empty slot."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = arrow.array(np.random.default_rng(0).normal(size=(3, 5)).tolist())
    pair = {"target_logits": rows, "draft_logits": rows}
    for values, message in (
        (arrow.array(["a", "b", "b"]), "give 3 integers"),
        (arrow.array(["a", "b", "b"]).dictionary_encode(), "give 3 integers"),
        (arrow.array([True, False, True]), "give 3 integers"),
        (arrow.array([1, 2, 2**64 - 1], arrow.uint64()), "holds 18446744073709551615; give numbers below 2\\^63"),
    ):
        parquet.write_table(arrow.table(pair | {column: values}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=message):
            open_dump(tmp_path / "x.parquet")
