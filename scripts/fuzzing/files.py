"""Small good files of every form that can be read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import Tensor

from fuzzing.server_answers import Answer, chat, vllm_completion
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.dumps.convert import convert
from mdsd_bounds.dumps.formats.distillkit import write_distillkit
from mdsd_bounds.dumps.formats.llama_cpp import write_llama_cpp

ROWS, V, TOKENS = 4, 8, [3, 1, 4, 1, 5]

Make = Callable[[Path], None]


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair() -> dict[str, Tensor]:
    return {
        "target_logits": random_rows(ROWS, V),
        "draft_logits": random_rows(ROWS, V, seed=1),
        "token": torch.arange(ROWS),
        "doc": torch.tensor([0, 0, 1, 1]),
    }


def native(folder: Path) -> None:
    with DumpWriter(folder, shard_rows=3, notes={"model": "x"}) as writer:
        held = pair()
        writer.append(held["target_logits"].half(), held["draft_logits"].half(), token=held["token"], doc=held["doc"])


def native_cut(folder: Path) -> None:
    converted("top.npz", 3)(folder)
    convert(folder / "top.npz", folder / "dump")


def converted(names: str, top_k: int | None = None) -> Make:
    def make(folder: Path) -> None:
        native(folder / "source")
        convert(folder / "source", ",".join(str(folder / name) for name in names.split(",")), top_k=top_k)
        for file in (folder / "source").iterdir():
            file.unlink()
        (folder / "source").rmdir()

    return make


def stored(name: str, arrays: Callable[[], dict[str, Any]]) -> Make:
    def make(folder: Path) -> None:
        held, path = arrays(), folder / name
        if path.suffix == ".safetensors":
            path.write_bytes(save(held))
        elif path.suffix == ".pt":
            torch.save(held, path)
        else:
            (np.savez_compressed if "packed" in name else np.savez)(path, **{k: v.numpy() for k, v in held.items()})

    return make


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def forward(seed: int = 0) -> dict[str, Tensor]:
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    ids = torch.arange(8).reshape(2, 4)
    return {"logits": random_rows(2, 4, V, seed=seed), "input_ids": ids, "attention_mask": mask}


def generated() -> dict[str, Any]:
    steps = tuple(random_rows(2, V, seed=step) for step in range(3))
    return {"sequences": torch.arange(10).reshape(2, 5) % V, "output_logits": steps}


def hidden() -> dict[str, Tensor]:
    held = {"hidden_states": random_rows(ROWS, 3), "lm_head": random_rows(V, 3, seed=1), "lm_head_bias": torch.zeros(V)}
    return held | {"norm_weight": torch.ones(3), "norm_eps": torch.tensor([1e-6]), "soft_cap": torch.tensor([30.0])}


def mapped() -> dict[str, Tensor]:
    held = {"draft_logits": random_rows(ROWS, 4, seed=1), "draft_d2t": torch.tensor([0, 1, 1, 3])}
    return {"target_logits": random_rows(ROWS, V)} | held


def eagle() -> dict[str, Tensor]:
    return {"logits": random_rows(ROWS, 4), "d2t": torch.tensor([0, 1, 1, 3]), "vocabulary": torch.tensor(V)}


def top_k(seed: int = 0) -> dict[str, Tensor]:
    logprobs, ids = torch.log_softmax(random_rows(ROWS, V, seed=seed).double(), -1).topk(3)
    held = {"ids": ids, "logprobs": logprobs, "missing": 1 - logprobs.exp().sum(-1), "cap": logprobs[:, -1].clone()}
    return held | {"vocabulary": torch.tensor(V), "token": torch.arange(ROWS)}


def capture(folder: Path) -> None:
    states = {
        "target_hidden_states": random_rows(ROWS, 3),
        "draft_hidden_states": random_rows(ROWS, 2),
        "token": torch.arange(ROWS),
    }
    (folder / "rows.safetensors").write_bytes(save(states))
    heads = {"target_lm_head": random_rows(V, 3, seed=1), "draft_lm_head": random_rows(V, 2, seed=1)}
    (folder / "head.safetensors").write_bytes(save(heads))
    (folder / "facts.json").write_text(json.dumps({"target": "a", "draft": "b", "hidden_sizes": [3, 2]}))


def answered(answer: Answer, container: str = "json") -> Make:
    def make(folder: Path) -> None:
        for seed, name in enumerate(("t", "d")):
            rows = torch.log_softmax(random_rows(ROWS, V, seed=seed).double(), -1)
            value = answer(rows, TOKENS[1:], 3)
            if container == "parquet":
                pq.write_table(pa.Table.from_pylist([value, value]), folder / f"{name}.parquet")
                continue
            text = {
                "json": json.dumps(value, indent=1),
                "jsonl": f"{json.dumps(value)}\n" * 2,
                "array.json": json.dumps([value, value]),
            }[container]
            (folder / f"{name}.{container.split('.')[-1]}").write_text(text)

    return make


def flat(rows: Tensor, tokens: list[int], k: int) -> Any:
    flat: dict[str, list[float]] = {"start_indices": [], "end_indices": [], "token_ids": [], "logprobs": []}
    for position in vllm_completion(rows, tokens, k)["choices"][0]["prompt_logprobs"]:
        flat["start_indices"].append(len(flat["token_ids"]))
        for key, fact in (position or {}).items():
            flat["token_ids"].append(int(key))
            flat["logprobs"].append(fact["logprob"])
        flat["end_indices"].append(len(flat["token_ids"]))
    return flat


def small_floats(kind: str) -> Make:
    def make(folder: Path) -> None:
        pair = {name: random_rows(ROWS, V, seed=seed) for seed, name in enumerate(("target_logits", "draft_logits"))}
        if kind == "safetensors":
            held = {name: value.to(torch.float8_e5m2) for name, value in pair.items()}
            (folder / "x.safetensors").write_bytes(save(held))
            return
        for name, value in zip("td", pair.values(), strict=True):
            stored = value.to(torch.bfloat16).view(torch.int16).numpy()
            np.save(folder / f"{name}.npy", stored)
            data = (folder / f"{name}.npy").read_bytes()
            (folder / f"{name}.npy").write_bytes(data.replace(b"'<i2', ", b"'|V2', ", 1))

    return make


def heads(folder: Path) -> None:
    held = {
        "target_logits": random_rows(ROWS, V),
        "draft_logits": random_rows(ROWS, 2, V, seed=1),
        "doc": torch.tensor([0, 0, 1, 1]),
    }
    np.savez(folder / "x.npz", **{name: value.numpy() for name, value in held.items()})  # type: ignore[arg-type]


def texts_of_tokens(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    answered(chat)(folder)
    for name in ("t", "d"):
        file = folder / f"{name}.json"
        file.write_text(file.read_text().replace("token_id:", "t"))
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(V)}, unk_token="t0")).save(str(folder / "tokenizer.json"))


def different_chunks(folder: Path) -> None:
    ids = torch.arange(16, dtype=torch.int32).reshape(2, 8) % V
    write_llama_cpp(folder / "t.kld", random_rows(2, 3, V), ids)
    write_llama_cpp(folder / "d.kld", random_rows(1, 3, V, seed=1), ids[:1])


def columns(folder: Path) -> None:
    pq.write_table(pa.table({name: value.tolist() for name, value in pair().items()}), folder / "x.parquet")


def packed_steps(folder: Path) -> None:
    steps(full=True)(folder)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress((folder / "x.jsonl").read_bytes(), mtime=0))
    (folder / "x.jsonl").unlink()


def array_log(folder: Path) -> None:
    positions("cut")(folder)
    lines = [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]
    (folder / "x.json").write_text(json.dumps(lines))
    (folder / "x.jsonl").unlink()


def texts(folder: Path) -> None:
    for seed, name in enumerate(("t", "d")):
        logprobs, ids = torch.log_softmax(random_rows(ROWS, V, seed=seed), -1).topk(3)
        write_distillkit(folder / f"{name}.parquet", [(TOKENS, ids, logprobs), (TOKENS, ids, logprobs)])


def packed(folder: Path) -> None:
    for seed, name in enumerate(("t", "d")):
        logprobs, ids = torch.log_softmax(random_rows(ROWS, V, seed=seed), -1).topk(4)
        # Three bits an id, twelve in all, and four that pad them to bytes.
        indices = [list((int("".join(f"{i:03b}" for i in row), 2) << 4).to_bytes(2, "big")) for row in ids.tolist()]
        values = [[*row.numpy().tobytes(), 0, 1] for row in logprobs[:, :2]]
        nested = pa.list_(pa.list_(pa.uint8()))
        columns = {"bytepacked_indices": pa.array([indices], nested), "compressed_logprobs": pa.array([values], nested)}
        pq.write_table(pa.table({"input_ids": [TOKENS], **columns}), folder / f"{name}.parquet")
    (folder / "compression.json").write_text(json.dumps({"d": V, "k": 4, "exact_k": 2, "exact_dtype": "float32"}))


def llama_cpp(folder: Path) -> None:
    ids = torch.arange(16, dtype=torch.int32).reshape(2, 8) % V
    for seed, name in enumerate(("t", "d")):
        write_llama_cpp(folder / f"{name}.kld", random_rows(2, 3, V, seed=seed), ids)


def steps(*, full: bool) -> Make:
    def make(folder: Path) -> None:
        lines = []
        for step in range(4):
            position = {"token": step, "p": 0.5, "candidates": [[step, 0.4], [7, 0.3]]}
            if full:
                position["target_candidates"] = [{"token": step, "p": 0.5}, {"token": 6, "logprob": -1.6094}]
            positions = [position, dict(position, token=6, p=0.2)]
            lines.append({"step": step, "doc": 0, "drafts": [step, 7], "accepted": 1, "positions": positions})
        (folder / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return make


def positions(kind: str) -> Make:
    def make(folder: Path) -> None:
        p, q = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
        line: dict[str, Any] = {"step": 0, "p": p, "q": q, "drafts": [1, 0], "token": 0, "accepted": True}
        if kind == "cut":
            line |= {"p": {"0": 0.5, "1": 0.25}, "p_tail": 0.25, "q": {"0": 0.25, "1": 0.5}}
        lines = [{"doc": 0, "position": place, **line} for place in range(3)]
        if kind != "parquet":
            (folder / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return
        for line in lines:
            del line["p"]
            line |= {"p_tokens": [0, 1], "p_probs": [0.5, 0.25], "p_tail": 0.25}
        pd.DataFrame(lines).to_parquet(folder / "x.parquet")

    return make


def trees(folder: Path) -> None:
    position = {"token": 4, "p": 0.5, "target_candidates": [[4, 0.5], [6, 0.2]], "candidates": [[4, 0.4], [5, 0.3]]}
    line = {
        **{"step": 0, "doc": 0, "rule": "recursive_rejection", "sampler": "without_replacement", "drafts": [4, 5, 6]},
        **{"parents": [0, 0, 1], "slots": {"0": [4, 5], "1": [6]}, "q": [0.4, 0.3, 0.5], "p": [0.5, 0.2, 0.3]},
        **{"reach": [0.5, 0.2, 0.25], "accepted": 1, "path": [1], "tokens": [4, 9], "expected": 0.95, "emitted": 1.95},
        **{"draft_passes": 2, "seconds": [0.1, 0.2, 0.3], "positions": [position, dict(position, token=9)]},
    }
    lines = [dict(line, doc=doc, step=step) for doc in range(2) for step in range(2)]
    (folder / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def table(*, compared: bool) -> Make:
    def make(folder: Path) -> None:
        count = 8
        held: dict[str, Any] = {
            **{"temperature": [1.0] * count, "sampler": ["greedy"] * count, "drafts": [1, 2] * 4, "row": range(count)},
            **{"verifier": ["rrs" if compared else ""] * count, "doc": [0, 0, 1, 1] * 2, "position": range(count)},
            **{"acceptance": [0.5 if compared else np.nan] * count, "mc_stderr": [0.0] * count},
            **{
                "value": [0.6] * count,
                "certified_low": [0.6] * count,
                "certified_high": [0.6] * count,
                "subset_size": [3] * count,
            },
        }
        pd.DataFrame(held | ({"tv": [0.0] * count} if compared else {})).to_parquet(folder / "x.parquet")

    return make


def token_map(name: str) -> Make:
    def make(folder: Path) -> None:
        held = {"d2t": torch.tensor([0, 1, 1, 3]), "t2d": torch.zeros(16, dtype=torch.bool)}
        held["t2d"][[0, 2, 3, 6]] = True
        if name.endswith(".npy"):
            np.save(folder / name, np.array([0, 2, 3, 6]))
        else:
            stored(name, lambda: held)(folder)

    return make


def prompts(name: str) -> Make:
    def make(folder: Path) -> None:
        text = "".join(json.dumps({"prompt": f"text {i}", "id": i}) + "\n" for i in range(4)).encode()
        (folder / name).write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)

    return make


def costs(folder: Path) -> None:
    (folder / "x.json").write_text(json.dumps({"target": {"1": 0.1, "8": 0.2}, "draft": {"1": 0.01}}))
