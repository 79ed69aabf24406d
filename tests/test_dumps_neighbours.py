"""What other arrays and files say of rows counts wherever it stands: several heads, folders, files joined to others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import LogitBatch

V, N, HEADS = 9, 12, 3
#: Target tokens of a draft's six columns, and the map as offsets.
TOKENS = torch.tensor([7, 0, 3, 4, 8, 1])
D2T = TOKENS - torch.arange(6)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def widened(draft: Tensor) -> Tensor:
    wide = torch.full((*draft.shape[:-1], V), -float("inf"))
    wide[..., TOKENS] = draft
    return wide


def read(path: str | Path) -> LogitBatch:
    return next(open_dump(str(path)).batches(100))


def two(folder: Path, target: dict[str, Tensor], draft: dict[str, Tensor]) -> str:
    save_file(target, folder / "t.safetensors")
    save_file(draft, folder / "d.safetensors")
    return f"{folder / 't.safetensors'},{folder / 'd.safetensors'}"


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("name", ["draft_d2t", "draft_target_ids", "draft_t2d"])
def test_maps_of_several_heads(files: int, name: str, tmp_path: Path) -> None:
    target, draft = rows(N, V), rows(N, HEADS, 6, seed=1)
    held = {"draft_d2t": D2T, "draft_target_ids": TOKENS, "draft_t2d": torch.zeros(V, dtype=torch.bool)}[name]
    wide = widened(draft)
    if name == "draft_t2d":
        held[TOKENS] = True
        wide = torch.full((N, HEADS, V), -float("inf"))
        wide[..., TOKENS.sort().values] = draft
    arrays = {"target_logits": target}, {"draft_logits": draft, name: held}
    if files == 1:
        save_file(arrays[0] | arrays[1], tmp_path / "x.safetensors")
    path = str(tmp_path / "x.safetensors") if files == 1 else two(tmp_path, *arrays)
    for head in range(HEADS):
        batch = read(f"{path}#head={head}")
        assert torch.equal(batch.target_logits, target[head:])
        assert torch.equal(batch.draft_logits, wide[: N - head, head])


@pytest.mark.parametrize("name", ["doc", "attention_mask", "input_ids"])
def test_what_the_file_of_several_heads_says_of_its_rows(name: str, tmp_path: Path) -> None:
    """The target's file says nothing: texts of five and seven rows, or six of which the last two are padding."""
    target, draft = rows(2, 6, V), rows(2, 6, HEADS, V, seed=1)
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, 4:] = 0
    kept = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    held = {"attention_mask": mask}
    if name == "doc":
        target, draft = target.reshape(N, V), draft.reshape(N, HEADS, V)
        held, kept = {"doc": torch.tensor([0] * 5 + [1] * 7)}, list(range(N))
    elif name == "input_ids":
        held["input_ids"] = torch.randint(V, (2, 6), generator=torch.Generator().manual_seed(2))
        kept = [0, 1, 2, 6, 7, 8, 9, 10]
    path = two(tmp_path, {"logits": target}, {"logits": draft, **held})
    same = held["doc"] if name == "doc" else torch.arange(N) // 6
    for head in range(HEADS):
        wanted = [row for row in kept if row - head in kept and same[row] == same[row - head]]
        batch = read(f"{path}#head={head}")
        assert torch.equal(batch.target_logits, target.reshape(N, V)[wanted])
        assert torch.equal(batch.draft_logits, draft.reshape(N, HEADS, V)[[row - head for row in wanted], head])
        if name == "input_ids":
            assert batch.token is not None
            assert torch.equal(batch.token, held["input_ids"].reshape(N)[[row + 1 for row in wanted]])


@pytest.mark.parametrize("name", ["token", "doc"])
def test_several_heads_of_another_text(name: str, tmp_path: Path) -> None:
    column = torch.arange(N) // 4
    target = {"logits": rows(N, V), name: column}
    draft = {"logits": rows(N, HEADS, V, seed=1), name: column.roll(2)}
    with pytest.raises(InputError, match=name):
        read(two(tmp_path, target, draft))


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("name", ["attention_mask", "input_ids", "d2t", "token"])
def test_files_of_a_folder_that_say_more_of_its_rows(form: str, name: str, tmp_path: Path) -> None:
    target, draft, kept = rows(2, 6, V), rows(2, 6, V, seed=1), list(range(N))
    held = torch.ones(2, 6, dtype=torch.int64)
    if name == "attention_mask":
        held[0, 4:], kept = 0, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    elif name == "input_ids":
        held, kept = torch.arange(12).reshape(2, 6) % V, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    elif name == "d2t":
        held, draft = D2T, draft[..., :6].contiguous()
    else:
        held = torch.arange(N) % V
    for file, array in {"target_logits": target, "draft_logits": draft, name: held}.items():
        if form == "npy":
            np.save(tmp_path / f"{file}.npy", array.numpy())
        else:
            save_file({file: array}, tmp_path / f"{file}.safetensors")
    batch = read(tmp_path)
    assert torch.equal(batch.target_logits, target.reshape(N, V)[kept])
    draft = draft.reshape(N, -1)[kept]
    assert torch.equal(batch.draft_logits, widened(draft) if name == "d2t" else draft)
    if name in ("input_ids", "token"):
        assert batch.token is not None
        assert batch.token.tolist() == [((row + (name == "input_ids")) % N) % V for row in kept]


@pytest.mark.parametrize("name", ["d2t", "token", "attention_mask"])
def test_files_beside_an_npy_that_is_joined_to_another_form(name: str, tmp_path: Path) -> None:
    target, draft = rows(N, V), rows(N, V if name != "d2t" else 6, seed=1)
    np.savez(tmp_path / "target.npz", logits=target.numpy())
    np.save(tmp_path / "draft.npy", draft.numpy())
    held = {"d2t": D2T, "token": torch.arange(N) % V, "attention_mask": torch.ones(N, dtype=torch.int64)}[name]
    np.save(tmp_path / f"{name}.npy", held.numpy())
    batch = read(f"{tmp_path}/target.npz,{tmp_path}/draft.npy")
    assert torch.equal(batch.draft_logits, widened(draft) if name == "d2t" else draft)
    assert (batch.token is not None) == (name == "token")
    if name == "token":
        assert batch.token is not None
        assert batch.token.tolist() == held.tolist()


def test_files_in_the_wrong_order(tmp_path: Path) -> None:
    save_file({"target_logits": rows(N, V)}, tmp_path / "a.safetensors")
    save_file({"draft_logits": rows(N, V, seed=1)}, tmp_path / "b.safetensors")
    assert len(open_dump(f"{tmp_path}/a.safetensors,{tmp_path}/b.safetensors")) == N
    with pytest.raises(InputError, match=r"b.safetensors: holds draft_logits, and target_logits is wanted here"):
        open_dump(f"{tmp_path}/b.safetensors,{tmp_path}/a.safetensors")


def test_columns_of_each_model_in_a_file_of_both(tmp_path: Path) -> None:
    arrays = {"target_logits": rows(N, V), "draft_logits": rows(N, V, seed=1)}
    token = torch.arange(N) % V
    save_file(arrays | {"target_token": token, "draft_token": token.clone()}, tmp_path / "x.safetensors")
    batch = read(tmp_path / "x.safetensors")
    assert batch.token is not None
    assert torch.equal(batch.token, token)
    for other in ({"draft_token": token.roll(1)}, {"token": token.roll(1)}):
        save_file(arrays | {"target_token": token} | other, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match="token"):
            open_dump(tmp_path / "x.safetensors")


@pytest.mark.parametrize("values", ["truth", "numbers", "texts"])
def test_a_mask_in_parquet(values: str, tmp_path: Path) -> None:
    p, q, mask = rows(N, V), rows(N, V, seed=1), torch.arange(N) < 9
    held: dict[str, list[object]] = {
        "truth": mask.tolist(), "numbers": mask.long().tolist(), "texts": ["yes"] * N
    }  # fmt: skip
    columns = {"target_logits": p.tolist(), "draft_logits": q.tolist(), "attention_mask": held[values]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    if values == "texts":
        with pytest.raises(InputError, match="attention_mask is string"):
            open_dump(tmp_path / "x.parquet")
        return
    assert torch.equal(read(tmp_path / "x.parquet").target_logits.float(), p[mask])
    pq.write_table(pa.table(columns | {"token": held[values]}), tmp_path / "x.parquet")
    if values == "truth":
        with pytest.raises(InputError, match="token"):
            open_dump(tmp_path / "x.parquet")


def test_a_column_in_the_file_of_the_rows_and_in_another(tmp_path: Path) -> None:
    token = torch.arange(N) % V
    save_file({"target_logits": rows(N, V), "token": token}, tmp_path / "target_logits.safetensors")
    save_file({"draft_logits": rows(N, V, seed=1)}, tmp_path / "draft_logits.safetensors")
    assert read(tmp_path).token is not None
    save_file({"token": token.roll(1)}, tmp_path / "columns.safetensors")
    with pytest.raises(InputError, match="token is in another file of the folder too"):
        open_dump(tmp_path)


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("named", ["folder", "files"])
def test_what_lies_beside_rows_is_part_of_their_fingerprint(form: str, named: str, tmp_path: Path) -> None:
    pair = {"target_logits": rows(N, V), "draft_logits": rows(N, 6, seed=1)}
    seen = set()
    for turn in range(2):
        tokens = TOKENS.flip(0) if turn else TOKENS
        for name, array in (pair | {"target_ids": tokens.contiguous()}).items():
            if form == "npy":
                np.save(tmp_path / f"{name}.npy", array.numpy())
            else:
                save_file({name: array}, tmp_path / f"{name}.safetensors")
        files = ",".join(str(tmp_path / f"{name}.{form}") for name in pair)
        seen.add(open_dump(str(tmp_path) if named == "folder" else files).fingerprint())
    assert len(seen) == 2
