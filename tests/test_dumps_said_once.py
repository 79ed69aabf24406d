"""What a file, or one beside it, says of its rows is read in every form: maps, masks, columns, whose rows they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import open_side

COUNT, WIDTH, FEW, HEADS = 12, 24, 20, 2
KEPT = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))[:FEW].sort().values
D2T = KEPT - torch.arange(FEW)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wide(draft: torch.Tensor) -> torch.Tensor:
    """Rows over the target's vocabulary, by the map."""
    found = torch.full((len(draft), WIDTH), -float("inf"))
    found[:, KEPT] = draft
    return found


def saved(path: Path, **arrays: torch.Tensor) -> Path:
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["d2t", "draft_d2t", "target_ids", "t2d"])
@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("head", [0, 1])
def test_a_map_of_several_heads(name: str, files: int, head: int, tmp_path: Path) -> None:
    target, draft = rows(COUNT, WIDTH), rows(COUNT, HEADS, FEW, seed=1)
    marks = torch.zeros(WIDTH, dtype=torch.int64)
    marks[KEPT] = 1
    held = {name: {"target_ids": KEPT, "t2d": marks}.get(name, D2T)}
    if files == 1:
        path = str(saved(tmp_path / "x.npz", target_logits=target, draft_logits=draft, **held))
    else:
        path = f"{saved(tmp_path / 't.npz', logits=target)},{saved(tmp_path / 'd.npz', logits=draft, **held)}"
    (batch,) = open_dump(f"{path}#head={head}").batches(64)
    assert torch.equal(batch.target_logits, target[head:])
    assert torch.equal(batch.draft_logits, wide(draft[: COUNT - head, head]))


@pytest.mark.parametrize("column", ["token", "doc"])
def test_columns_of_several_heads_in_both_files(column: str, tmp_path: Path) -> None:
    target = saved(tmp_path / "t.npz", logits=rows(COUNT, WIDTH), **{column: torch.arange(COUNT) // 3})
    draft = saved(tmp_path / "d.npz", logits=rows(COUNT, HEADS, WIDTH, seed=1), **{column: torch.arange(COUNT) // 4})
    with pytest.raises(InputError, match=column):
        open_dump(f"{target},{draft}")


def test_texts_of_several_heads_in_the_draft_alone(tmp_path: Path) -> None:
    p, q = rows(COUNT, WIDTH), rows(COUNT, HEADS, WIDTH, seed=1)
    doc = (torch.arange(COUNT) >= 5).to(torch.int64)
    path = f"{saved(tmp_path / 't.npz', logits=p)},{saved(tmp_path / 'd.npz', logits=q, doc=doc)}#head=1"
    (batch,) = open_dump(path).batches(64)
    kept = [row for row in range(1, COUNT) if row != 5]
    assert torch.equal(batch.target_logits, p[kept])
    assert torch.equal(batch.draft_logits, q[[row - 1 for row in kept], 1])


def test_a_later_head_has_no_row_of_padding(tmp_path: Path) -> None:
    p, q = rows(COUNT, WIDTH), rows(COUNT, HEADS, WIDTH, seed=1)
    mask = (torch.arange(COUNT) >= 4).to(torch.int64)
    path = saved(tmp_path / "x.npz", target_logits=p, draft_logits=q, attention_mask=mask)
    (batch,) = open_dump(f"{path}#head=1").batches(64)
    assert torch.equal(batch.target_logits, p[5:])
    assert torch.equal(batch.draft_logits, q[4:-1, 1])


@pytest.mark.parametrize("form", ["folder", "two files", "batch"])
@pytest.mark.parametrize("name", ["attention_mask", "input_ids"])
def test_texts_beside_npy_files(name: str, form: str, tmp_path: Path) -> None:
    p, q = rows(COUNT, WIDTH), rows(COUNT, WIDTH, seed=1)
    mask = (torch.arange(COUNT) % 4 > 0).to(torch.int64)
    ids = torch.randint(WIDTH, (COUNT,), generator=torch.Generator().manual_seed(2))
    kept = torch.arange(COUNT - 1) if name == "input_ids" else mask.nonzero()[:, 0]
    shape: tuple[int, ...] = (COUNT,)
    if form == "batch":
        shape = (3, 4)
        kept = torch.tensor([row for row in range(COUNT) if row % 4 < 3]) if name == "input_ids" else kept
    np.save(tmp_path / "target_logits.npy", p.reshape(*shape, WIDTH).numpy())
    np.save(tmp_path / "draft_logits.npy", q.reshape(*shape, WIDTH).numpy())
    np.save(tmp_path / f"{name}.npy", (ids if name == "input_ids" else mask).reshape(shape).numpy())
    both = f"{tmp_path}/target_logits.npy,{tmp_path}/draft_logits.npy"
    (batch,) = open_dump(str(tmp_path) if form == "folder" else both).batches(64)
    assert torch.equal(batch.target_logits, p[kept])
    assert torch.equal(batch.draft_logits, q[kept])
    if name == "input_ids":
        assert batch.token is not None
        assert torch.equal(batch.token, ids[kept + 1])


def test_a_map_and_tokens_beside_one_npy_file(tmp_path: Path) -> None:
    p, q = rows(COUNT, WIDTH), rows(COUNT, FEW, seed=1)
    (tmp_path / "draft").mkdir()
    saved(tmp_path / "t.npz", logits=p, token=torch.arange(COUNT))
    np.save(tmp_path / "draft" / "d.npy", q.numpy())
    np.save(tmp_path / "draft" / "d2t.npy", D2T.numpy())
    path = f"{tmp_path}/t.npz,{tmp_path}/draft/d.npy"
    (batch,) = open_dump(path).batches(64)
    assert torch.equal(batch.draft_logits, wide(q))
    np.save(tmp_path / "draft" / "token.npy", np.arange(COUNT)[::-1])
    with pytest.raises(InputError, match="row 0: the target's token is 0 but the draft's 11"):
        open_dump(path)


def test_a_third_file_beside_two_of_rows_is_an_error(tmp_path: Path) -> None:
    save_file({"target_logits": rows(COUNT, WIDTH)}, tmp_path / "target_logits.safetensors")
    save_file({"draft_logits": rows(COUNT, FEW, seed=1)}, tmp_path / "draft_logits.safetensors")
    assert len(open_dump(tmp_path)) == COUNT
    save_file({"d2t": D2T}, tmp_path / "d2t.safetensors")
    with pytest.raises(InputError, match=r"d2t\.safetensors"):
        open_dump(tmp_path)


def test_rows_named_after_the_other_model_are_an_error(tmp_path: Path) -> None:
    save_file({"target_logits": rows(COUNT, WIDTH)}, tmp_path / "a.safetensors")
    save_file({"draft_logits": rows(COUNT, WIDTH, seed=1)}, tmp_path / "b.safetensors")
    assert len(open_dump(f"{tmp_path}/a.safetensors,{tmp_path}/b.safetensors")) == COUNT
    with pytest.raises(InputError, match="holds draft_logits, and is given as the target"):
        open_dump(f"{tmp_path}/b.safetensors,{tmp_path}/a.safetensors")


@pytest.mark.parametrize("column", ["token", "doc"])
def test_columns_named_after_a_model(column: str, tmp_path: Path) -> None:
    pair = {"target_logits": rows(COUNT, WIDTH), "draft_logits": rows(COUNT, WIDTH, seed=1)}
    one, other = torch.arange(COUNT) // 3, torch.arange(COUNT) // 4
    (batch,) = open_dump(saved(tmp_path / "x.npz", **pair, **{f"target_{column}": one})).batches(64)
    assert torch.equal(getattr(batch, column), one)
    with pytest.raises(InputError, match=column):
        open_dump(saved(tmp_path / "y.npz", **pair, **{f"target_{column}": one, f"draft_{column}": other}))
    side = saved(tmp_path / "t.npz", logits=pair["target_logits"], **{f"target_{column}": one, column: other})
    with pytest.raises(InputError, match=f"holds both {column} and target_{column}"):
        open_dump(f"{side},{saved(tmp_path / 'd.npz', logits=pair['draft_logits'])}")


def test_a_mask_of_truth_values_in_parquet(tmp_path: Path) -> None:
    p, q = rows(COUNT, WIDTH), rows(COUNT, WIDTH, seed=1)
    mask = torch.arange(COUNT) >= 4
    table = {"target_logits": list(p.numpy()), "draft_logits": list(q.numpy()), "attention_mask": mask.tolist()}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    (batch,) = open_dump(tmp_path / "x.parquet").batches(64)
    assert torch.equal(batch.target_logits, p[mask])
    pq.write_table(pa.table(table | {"attention_mask": ["1"] * COUNT}), tmp_path / "y.parquet")
    with pytest.raises(InputError, match="attention_mask is string"):
        open_dump(tmp_path / "y.parquet")


def _vllm(logits: torch.Tensor, copies: int) -> dict[str, object]:
    """A completion of several choices, of which each holds the prompt's rows."""
    value, ids = torch.log_softmax(logits, -1).topk(6)
    listed = [
        {str(token): {"logprob": x, "rank": rank} for rank, (token, x) in enumerate(zip(*row, strict=True), 1)}
        for row in zip(ids.tolist(), value.tolist(), strict=True)
    ]
    tokens = [0, *ids[:, 0].tolist()]
    choice = {"text": "", "prompt_logprobs": [None, *listed], "prompt_token_ids": tokens}
    return {"choices": [choice | {"index": index} for index in range(copies)]}


def _sglang(logits: torch.Tensor, copies: int) -> list[dict[str, object]]:
    value, ids = torch.log_softmax(logits, -1).topk(6)
    tops = [
        list(map(list, zip(*row, [None] * 6, strict=True))) for row in zip(value.tolist(), ids.tolist(), strict=True)
    ]
    own = [[None, 0, None], *([x, token, None] for x, token, _ in (row[0] for row in tops))]
    return [{"meta_info": {"input_token_logprobs": own, "input_top_logprobs": [None, *tops]}}] * copies


@pytest.mark.parametrize("form", [_vllm, _sglang])
def test_a_prompt_beside_each_continuation_is_one_text(form: object, tmp_path: Path) -> None:
    for role, seed in (("t", 0), ("d", 0)):
        first, second = rows(COUNT, WIDTH, seed=seed), rows(COUNT, WIDTH, seed=seed + 1)
        answers = [form(first, 1), form(second, 3)]  # type: ignore[operator]
        (tmp_path / f"{role}.json").write_text("\n".join(map(json.dumps, answers)))
    dump = open_dump(f"{tmp_path}/t.json,{tmp_path}/d.json")
    assert len(dump) == 2 * COUNT
    assert dump.facts.notes["target copies"].startswith("2 times a prompt once more")
    (batch,) = dump.batches(64)
    assert batch.doc is not None
    assert batch.doc.unique().tolist() == [0, 1]


@pytest.mark.parametrize("form", ["distillkit", "teacher"])
@pytest.mark.parametrize("padding", [0, 3])
def test_padding_of_data_sets_is_an_error(form: str, padding: int, tmp_path: Path) -> None:
    value, ids = torch.log_softmax(rows(COUNT, WIDTH), -1).topk(6)
    long = COUNT + (form == "distillkit")
    names = ("token_ids", "top_values") if form == "distillkit" else ("top_k_ids", "top_k_logprobs")
    held = dict(zip(names, (ids.tolist(), value.tolist()), strict=True))
    held |= {"input_ids": list(range(long)), "attention_mask": [0] * padding + [1] * (long - padding)}
    file = tmp_path / ("x.parquet" if form == "distillkit" else "x.jsonl")
    if form == "distillkit":
        pq.write_table(pa.table({name: [values] for name, values in held.items()}), file)
    else:
        file.write_text(json.dumps(held))
    if padding:
        with pytest.raises(InputError, match="attention_mask marks"):
            open_side(file)
    else:
        assert open_side(file).rows == COUNT
