"""What lies beside the rows: masks, maps under strange names, files that nobody named, and rows in another order."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.cli import app
from mdsd_bounds.dumps import DumpWriter
from mdsd_bounds.dumps.evidence import evidence
from mdsd_bounds.dumps.fingerprint import files_of, fingerprint


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["sequences", "no ids", "flat"])
def test_masked_rows_are_left_out(form: str, tmp_path: Path) -> None:
    p, q = rows(2, 6, 9), rows(2, 6, 9, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    arrays: dict[str, torch.Tensor] = {"attention_mask": mask}
    if form == "sequences":
        ids = torch.randint(9, (2, 9), generator=torch.Generator().manual_seed(2))
        arrays = {"sequences": ids, "attention_mask": torch.cat([torch.ones(2, 3, dtype=torch.int64), mask], 1)}
    if form == "flat":
        p, q, arrays = p.reshape(12, 9), q.reshape(12, 9), {"attention_mask": mask.reshape(12)}
    torch.save({"output_logits": p, **arrays}, tmp_path / "t.pt")
    torch.save({"output_logits": q, **arrays}, tmp_path / "d.pt")
    kept = mask.reshape(-1) == 1
    for path in (f"{tmp_path}/t.pt,{tmp_path}/d.pt", _pair(tmp_path, p, q, arrays)):
        batch = next(open_dump(path).batches(20))
        assert torch.equal(batch.target_logits, p.reshape(12, 9)[kept])
        assert torch.equal(batch.draft_logits, q.reshape(12, 9)[kept])
        if form == "sequences":
            assert batch.token is not None
            assert torch.equal(batch.token, arrays["sequences"][:, 3:].reshape(-1)[kept])


def _pair(folder: Path, p: torch.Tensor, q: torch.Tensor, arrays: dict[str, torch.Tensor]) -> str:
    save_file({"target_logits": p, "draft_logits": q, **arrays}, folder / "pair.safetensors")
    return str(folder / "pair.safetensors")


def test_a_mask_of_the_prompts_says_nothing_of_the_rows(tmp_path: Path) -> None:
    ids = torch.zeros(2, 9, dtype=torch.int64)
    path = _pair(
        tmp_path, rows(2, 6, 9), rows(2, 6, 9, seed=1), {"sequences": ids, "attention_mask": ids[:, :3].clone()}
    )
    assert len(open_dump(path)) == 12


@pytest.mark.parametrize("shape", [(5, 7), (2, 7), (2, 5)])
def test_a_mask_of_another_pass_is_an_error(shape: tuple[int, int], tmp_path: Path) -> None:
    mask = torch.ones(shape, dtype=torch.int64)
    with pytest.raises(InputError, match="attention_mask"):
        open_dump(_pair(tmp_path, rows(2, 6, 9), rows(2, 6, 9, seed=1), {"attention_mask": mask}))


def _maps(kept: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
    marks = torch.zeros(width, dtype=torch.int64)
    marks[kept] = 1
    return {
        "hot_token_id": kept,
        "hot_token_id [1, V]": kept[None],
        "draft_id_to_target_id as floats": kept.float(),
        "vocab_mask": marks.bool(),
        "t2d_mask": marks,
    }


@pytest.mark.parametrize("count", [5, 22])
@pytest.mark.parametrize("name", list(_maps(torch.arange(2), 3)))
def test_what_may_be_a_map_is_named(name: str, count: int, tmp_path: Path) -> None:
    """Also where there are as many rows as columns."""
    kept = torch.randperm(26, generator=torch.Generator().manual_seed(3))[:22].sort().values
    p, array = rows(count, 26), _maps(kept, 26)[name]
    path = _pair(tmp_path, p, p[:, kept].contiguous(), {name: array})
    with pytest.raises(InputError, match="may say what the draft's 22 columns stand for"):
        open_dump(path)


@pytest.mark.parametrize(
    "array",
    [
        torch.tensor([0, 0, 1, 1, 2, 2] * 4)[:22],
        torch.rand(22),
        torch.ones(26),
        torch.rand(22).to(torch.float8_e4m3fn),
        torch.full((22,), float("nan")),
    ],
)
def test_numbers_of_rows_are_no_map(array: torch.Tensor, tmp_path: Path) -> None:
    assert len(open_dump(_pair(tmp_path, rows(22, 26), rows(22, 22, seed=1), {"lengths": array}))) == 22


@pytest.mark.parametrize("name", ["d2t", "draft_target_ids", "token"])
def test_files_beside_npy_are_content(name: str, tmp_path: Path) -> None:
    for role in ("target", "draft"):
        np.save(tmp_path / f"{role}.npy", rows(4, 6).numpy())
    paths = [tmp_path / "target.npy", tmp_path / "draft.npy"]
    seen = {fingerprint(paths)}
    for value in (0, 1):
        np.save(tmp_path / f"{name}.npy", np.full(6, value))
        seen.add(fingerprint(paths))
    assert len(seen) == 3
    assert files_of(paths).count(tmp_path / f"{name}.npy") == 1


def test_how_rows_are_compressed_is_content(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data_0.parquet")
    seen = set()
    for value in (4, 6):
        (tmp_path / "compression.json").write_text(f'{{"exact_k": {value}}}')
        seen.add(fingerprint([tmp_path / "data_0.parquet"]))
    assert len(seen) == 2


def test_a_head_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = _pair(tmp_path, rows(4, 6), rows(4, 6, seed=1), {})
    assert len(open_dump(f"{path}#head=0")) == 4
    with pytest.raises(InputError, match="one head"):
        open_dump(f"{path}#head=7")


@pytest.mark.parametrize("stated", [24.7, -3.0, float("nan")])
def test_a_vocabulary_is_an_integer(stated: float, tmp_path: Path) -> None:
    ids = torch.arange(3).repeat(4, 1)
    logp = torch.log_softmax(rows(4, 3), -1)
    arrays = {f"{role}_ids": ids.clone() for role in ("target", "draft")}
    arrays |= {f"{role}_logprobs": logp.clone() for role in ("target", "draft")}
    save_file({**arrays, "vocabulary": torch.tensor(stated)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="give one integer above 0"):
        open_dump(tmp_path / "x.safetensors")


def test_two_members_of_one_name_are_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", target_logits=rows(4, 6).numpy(), draft_logits=rows(4, 6, seed=1).numpy())
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("target_logits", archive.read("draft_logits.npy"))
    with pytest.raises(InputError, match="two arrays of one name"):
        open_dump(tmp_path / "x.npz")


@pytest.mark.parametrize("change", ["twice", "left out"])
def test_every_shard_of_a_native_dump_counts_once(change: str, tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "d", shard_rows=4) as writer:
        writer.append(rows(8, 6), rows(8, 6, seed=1))
    file = tmp_path / "d" / "manifest.json"
    stated = json.loads(file.read_text())
    shards = stated["shards"]
    stated["shards"] = [shards[0], shards[0]] if change == "twice" else shards[:1]
    file.write_text(json.dumps(stated))
    with pytest.raises(InputError, match="twice" if change == "twice" else "does not list it"):
        open_dump(tmp_path / "d")


def _shifted(folder: Path, **columns: Any) -> str:
    """A draft whose rows are one position late, written in the order that the columns say."""
    docs, places = columns["doc"], columns["position"]
    length = int(places.max()) + 1
    texts = rows(int(docs.max()) + 1, length + 1, 40, seed=4)
    target = texts[docs, places + 1]
    draft = texts[docs, (places - columns.get("late", 1)).clamp(min=-1) + 1]
    arrays = {"target_logits": target, "draft_logits": draft + 0.3 * rows(*draft.shape, seed=5), "doc": docs}
    if columns.get("compressed"):
        np.savez_compressed(folder / "x.npz", **{k: v.numpy() for k, v in (arrays | {"position": places}).items()})
        return str(folder / "x.npz")
    return _saved(folder, arrays | {"position": places})


def _saved(folder: Path, arrays: dict[str, torch.Tensor]) -> str:
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "x.safetensors")
    return str(folder / "x.safetensors")


@pytest.mark.parametrize(
    "order",
    ["one text", "two texts in turn", "twenty in turn", "hundred in turn", "backwards", "every other", "shuffled"],
)
@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_shift_is_seen_in_any_order(order: str, late: int, compressed: bool, tmp_path: Path) -> None:
    step = torch.arange(800 if order == "hundred in turn" else 200)
    mixed = torch.randperm(200, generator=torch.Generator().manual_seed(8))
    doc, position = {
        "one text": (step * 0, step),
        "two texts in turn": (step % 2, step // 2),
        "twenty in turn": (step % 20, step // 20),
        "hundred in turn": (step % 100, step // 100),
        "shuffled": (mixed % 3, mixed // 3),
        "backwards": (step * 0, 199 - step),
        "every other": (step * 0, 2 * step),
    }[order]
    late = 2 * late if order == "every other" else late
    path = _shifted(tmp_path, doc=doc, position=position, late=late, compressed=compressed)
    found = evidence(open_dump(path)).warnings
    assert any("shifted" in line for line in found) == bool(late), found


def test_a_shift_far_behind_is_seen_in_files_that_are_read_forward(tmp_path: Path) -> None:
    step = torch.arange(400)
    path = _shifted(tmp_path, doc=step * 0, position=step, compressed=True, late=(step > 80).long())
    found = evidence(open_dump(path)).warnings
    assert any("shifted" in line for line in found), found


def test_convert_warns_of_a_shift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = torch.arange(80)
    for late in (0, 1):
        path = _shifted(tmp_path, doc=step * 0, position=step, late=late)
        app(["convert", path, f"{tmp_path}/{late}.npz", "--quiet"], standalone_mode=False)
        assert ("shifted by 1" in capsys.readouterr().err) == bool(late)


def _two_npy(folder: Path, ending: str = ".npy") -> str:
    folder.mkdir(exist_ok=True)
    for role in ("target", "draft"):
        with (folder / f"{role}_logits{ending}").open("wb") as stream:
            np.save(stream, rows(4, 6, seed=len(role)).numpy())
    return f"{folder}/target_logits{ending},{folder}/draft_logits{ending}"


@pytest.mark.parametrize("name", ["token", "doc", "d2t"])
def test_files_beside_arrays_without_their_ending_are_content(name: str, tmp_path: Path) -> None:
    path = _two_npy(tmp_path, ".bin")
    seen = [open_dump(path).fingerprint()]
    for value in (0, 1):
        np.save(tmp_path / f"{name}.npy", np.arange(6)[::-1] - np.arange(6) if name == "d2t" else np.full(4, value))
        seen.append(open_dump(path).fingerprint())
        if name == "d2t":
            break
    assert len(set(seen)) == len(seen)


def test_a_stray_file_does_not_stand_for_the_rows(tmp_path: Path) -> None:
    _two_npy(tmp_path / "x")
    save_file({"x": rows(3)}, tmp_path / "x" / "notes.safetensors")
    first = open_dump(tmp_path / "x")
    assert tmp_path / "x" / "draft_logits.npy" in first.beside
    before = first.fingerprint()
    np.save(tmp_path / "x" / "draft_logits.npy", rows(4, 6, seed=9).numpy())
    assert open_dump(tmp_path / "x").fingerprint() != before


@pytest.mark.parametrize("mapped", [False, True])
def test_columns_beside_two_files_in_two_folders(mapped: bool, tmp_path: Path) -> None:
    target, draft = _two_npy(tmp_path / "a").split(",")[0], _two_npy(tmp_path / "b").split(",")[1]
    if mapped:
        np.save(tmp_path / "b" / "d2t.npy", np.arange(6)[::-1] - np.arange(6))
    np.save(tmp_path / "b" / "token.npy", np.array([1, 2, 3, 4]))
    np.save(tmp_path / "a" / "doc.npy", np.array([0, 0, 1, 1]))
    batch = next(open_dump(f"{target},{draft}").batches(4))
    assert batch.token is not None
    assert batch.doc is not None
    assert batch.token.tolist() == [1, 2, 3, 4]
    assert batch.doc.tolist() == [0, 0, 1, 1]
    np.save(tmp_path / "a" / "token.npy", np.array([1, 2, 5, 4]))
    with pytest.raises(InputError, match="row 2"):
        open_dump(f"{target},{draft}")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"p": 0.5, "logprob": -5.0}, "p is 0.5 and logprob -5.0"),
        ({"p": 1e-4, "logprob": -0.7}, "keep the right one"),
        ({"p": True}, "give a number"),
        ({"logprob": False}, "give a number"),
        ({"p": 0.5, "logprob": -0.69}, ""),
        ({"p": 0.0, "logprob": -float("inf")}, ""),
    ],
)
def test_a_probability_of_a_step_said_twice(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    position = {"token": 5, **said, "candidates": [[5, 0.5], [6, 0.25]]}
    (tmp_path / "x.jsonl").write_text(json.dumps({"drafts": [5], "accepted": 1, "positions": [position] * 2}))
    if message:
        with pytest.raises(InputError, match=message):
            open_dump(tmp_path / "x.jsonl")
    else:
        assert len(open_dump(tmp_path / "x.jsonl")) == 2


@pytest.mark.parametrize("values", [(0, -10000), (1, 2)])
@pytest.mark.parametrize("ids", [False, True])
def test_a_mask_holds_ones_and_zeros(values: tuple[int, int], ids: bool, tmp_path: Path) -> None:
    """Biases of attention are zero where a token is read; packed texts are numbered."""
    mask = torch.tensor([[values[0]] * 4 + [values[1]] * 2] * 2)
    arrays = {"attention_mask": mask} | ({"input_ids": torch.ones(2, 6, dtype=torch.int64)} if ids else {})
    with pytest.raises(InputError, match=f"attention_mask holds {values[1]}"):
        open_dump(_pair(tmp_path, rows(2, 6, 9), rows(2, 6, 9, seed=1), arrays))
