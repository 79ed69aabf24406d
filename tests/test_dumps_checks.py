"""The gate of every reader: right values of inputs made from public reports, and refusal of rows that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from mdsd_bounds import InputError, open_dump
from mdsd_bounds.dumps import READERS, SIDES, DumpWriter, inspect_dump
from mdsd_bounds.dumps.checks import Rest, dense_top_k
from mdsd_bounds.dumps.evidence import evidence
from mdsd_bounds.dumps.formats.distillkit import write_distillkit
from mdsd_bounds.dumps.formats.llama_cpp import write_llama_cpp
from mdsd_bounds.pipeline.evaluate_block import Settings
from mdsd_bounds.pipeline.run import run
from mdsd_bounds.pipeline.tables import summarise

CASES = Path(__file__).parent / "data" / "cases"


def mean(path: str, drafts: int = 1, temperature: float = 1.0) -> float:
    table = run(open_dump(path), Settings(("with_replacement",), (drafts,), (temperature,)))
    assert table is not None
    return float(summarise(table)["mean"].iloc[0])


def case(names: str) -> str:
    return ",".join(str(CASES / name) for name in names.split(","))


@pytest.mark.parametrize(
    ("names", "drafts", "temperature", "value"),
    [
        *[
            (f"18-eagle3-d2t/{name}", 1, 1.0, 0.409054)
            for name in ("offsets.safetensors", "pair.npz", "pair-d2t.npz", "pair.pt", "pair-d2t-no-prefix.safetensors")
        ],
        ("18-eagle3-d2t/target.safetensors,18-eagle3-d2t/draft.safetensors", 1, 1.0, 0.409054),
        ("18-eagle3-d2t/pair-wide.safetensors", 1, 1.0, 0.249114),
        *[
            (f"23-added-tail-tokens/{name}.npz", drafts, temperature, value)
            for name in ("pair", "pair-with-tokens", "pair-padded-by-hand")
            for drafts, temperature, value in ((1, 1.0, 0.529161), (4, 1.0, 0.644618), (1, 0.0, 0.25))
        ],
    ],
)
def test_right_values(names: str, drafts: int, temperature: float, value: float) -> None:
    assert mean(case(names), drafts, temperature) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("18-eagle3-d2t/no-map.safetensors", "needs its token map"),
        ("18-eagle3-d2t/ids-instead.safetensors", "holds target ids, not offsets"),
        ("18-eagle3-d2t/target.safetensors,18-eagle3-d2t/draft-ids-instead.safetensors", "holds target ids"),
        ("18-eagle3-d2t/all-zero.safetensors", "zero everywhere"),
        ("18-eagle3-d2t/target.safetensors,18-eagle3-d2t/draft-zeros.safetensors", "zero everywhere"),
        ("21-hf-beam-scores/target-beams.pt,21-hf-beam-scores/draft-beams.pt", "rows of 4 texts"),
        ("21-hf-beam-scores/target-ids-of-other-batch.pt,21-hf-beam-scores/draft-ids-of-other-batch.pt", "rows of 4"),
        ("21-hf-beam-scores/target-tuple.pt,21-hf-beam-scores/draft-tuple.pt", "holds a tuple"),
        ("07-logprob-zero-under-spec/two-zeros.json,07-logprob-zero-under-spec/good.json", "sum to 2"),
    ],
)
def test_what_has_no_right_value(names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean(case(names))


def pair(width: int = 24, draft: int = 24, rows: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of two models that are alike where both have columns; float32, so that no format rounds them."""
    generator = torch.Generator().manual_seed(5)
    both = 2 * torch.randn(rows, max(width, draft), generator=generator)
    return both[:, :width].contiguous(), (both + 0.5 * torch.randn(both.shape, generator=generator))[
        :, :draft
    ].contiguous()


Write = Callable[[Path, torch.Tensor, torch.Tensor, torch.Tensor | None], str]


def _native(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    with DumpWriter(folder / "native", shard_rows=5) as writer:
        writer.append(p, q, **({} if token is None else {"token": token}))
    return str(folder / "native")


def _arrays(p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {"target_logits": p, "draft_logits": q} | ({} if token is None else {"token": token})


def _npz(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    np.savez(folder / "x.npz", **{name: value.numpy() for name, value in _arrays(p, q, token).items()})  # type: ignore[arg-type]
    return str(folder / "x.npz")


def _npy(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    for name, value in _arrays(p, q, token).items():
        np.save(folder / f"{name}.npy", value.numpy())
    return str(folder)


def _safetensors(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    save_file(_arrays(p, q, token), folder / "x.safetensors")
    return str(folder / "x.safetensors")


def _pt(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    torch.save(_arrays(p, q, token), folder / "x.pt")
    return str(folder / "x.pt")


def _parquet(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    columns = {name: value.tolist() for name, value in _arrays(p, q, token).items()}
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=5)
    return str(folder / "x.parquet")


def _hidden(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    """Named arrays: the rows are hidden states, the heads identities."""
    arrays = {"target_hidden_states": p, "draft_hidden_states": q}
    arrays |= {"target_lm_head": torch.eye(p.shape[1]), "draft_lm_head": torch.eye(q.shape[1])}
    save_file(arrays | ({} if token is None else {"token": token}), folder / "x.safetensors")
    return str(folder / "x.safetensors")


def _heads(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    """The draft's rows are those of the first of two heads."""
    held = _arrays(p, torch.stack([q, torch.zeros_like(q)], 1), token)
    save_file(held, folder / "x.safetensors")
    return str(folder / "x.safetensors")


def _joined(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    extra = {} if token is None else {"token": token}
    save_file({"logits": p} | extra, folder / "t.safetensors")
    torch.save({"logits": q}, folder / "d.pt")
    return f"{folder}/t.safetensors,{folder}/d.pt"


def _step_log(folder: Path, p: torch.Tensor, q: torch.Tensor, token: torch.Tensor | None) -> str:
    with (folder / "steps.jsonl").open("w") as stream:
        for row, (a, b) in enumerate(zip(torch.softmax(p.double(), -1), torch.softmax(q.double(), -1), strict=True)):
            place = {
                "token": 0 if token is None else int(token[row]),
                "candidates": list(enumerate(b.tolist())),
                "target_candidates": list(enumerate(a.tolist())),
            }
            stream.write(json.dumps({"step": row, "drafts": [0], "accepted": 0, "positions": [place]}) + "\n")
    return str(folder / "steps.jsonl")


#: One writer of full rows for every reader: a reader without one fails the first test below.
WRITERS: dict[str, Write] = {
    "native": _native,
    "npz": _npz,
    "npy": _npy,
    "safetensors": _safetensors,
    "pt": _pt,
    "parquet": _parquet,
    "arrays": _hidden,
    "joined": _joined,
    "heads": _heads,
    "step-log": _step_log,
}
#: Formats without a stated width cannot have two.
STATED = [name for name in READERS if name != "step-log"]


def test_every_reader_stands_behind_the_gate() -> None:
    assert set(WRITERS) == set(READERS)
    assert set(TOP_K) == set(SIDES) - {"llama.cpp"}


@pytest.mark.parametrize("reader", STATED)
@pytest.mark.parametrize(("width", "draft"), [(24, 20), (20, 24)])
def test_a_narrower_side_gets_exact_zeros(reader: str, width: int, draft: int, tmp_path: Path) -> None:
    p, q = pair(width, draft)
    path = WRITERS[reader](tmp_path, p, q, None)
    probs = [torch.zeros(len(p), 24, dtype=torch.float64) for _ in range(2)]
    probs[0][:, :width], probs[1][:, :draft] = torch.softmax(p.double(), -1), torch.softmax(q.double(), -1)
    assert mean(path) == pytest.approx(float(torch.minimum(*probs).sum(-1).mean()), abs=1e-9)
    wider = probs[0] if width > draft else probs[1]
    beyond = wider[:, 20:].sum(-1)
    stated = inspect_dump(path)["mass beyond the other's width"]
    assert f"at most {float(beyond.max()):.3g}, mean {float(beyond.mean()):.3g} over all rows" in stated
    table = run(open_dump(path), Settings(("greedy",), (1, 2)))
    assert table is not None
    role = "target" if width > draft else "draft"
    assert table[f"{role}_beyond"].max() == pytest.approx(float(beyond.max()), rel=1e-9)


@pytest.mark.parametrize("reader", STATED)
def test_a_reduced_vocabulary_without_a_map_is_refused(reader: str, tmp_path: Path) -> None:
    p, q = pair(24, 10)
    with pytest.raises(InputError, match="d2t"):
        open_dump(WRITERS[reader](tmp_path, p, q, None))


@pytest.mark.parametrize("reader", READERS)
def test_a_token_outside_the_vocabulary(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    token = p.argmax(-1)
    token[7] = 300_000
    with pytest.raises(InputError, match="300000"):
        list(open_dump(WRITERS[reader](tmp_path, p, q, token)).batches(5))


@pytest.mark.parametrize("reader", STATED)
def test_probabilities_are_not_taken_for_logits(reader: str, tmp_path: Path) -> None:
    p, q = (torch.softmax(rows, -1) for rows in pair(24, 22))
    with pytest.raises(InputError, match="save their logarithms"):
        list(open_dump(WRITERS[reader](tmp_path, p, q, None)).batches(5))


@pytest.mark.parametrize("reader", READERS)
def test_tokens_are_held_against_both_models(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    token = p.argmax(-1)
    (tmp_path / "good").mkdir()
    (tmp_path / "late").mkdir()
    good = evidence(open_dump(WRITERS[reader](tmp_path / "good", p, q, token)))
    assert not good.warnings
    expected = [float(torch.log_softmax(rows.double(), -1).gather(-1, token[:, None]).mean()) for rows in (p, q)]
    assert f"target {expected[0]:.2f}, draft {expected[1]:.2f}" in good.lines["log p of the recorded tokens"]
    late = evidence(open_dump(WRITERS[reader](tmp_path / "late", p, q.roll(1, 0), token))).warnings
    assert any("the draft's rows fit" in line for line in late), late
    assert not any("the target's rows fit the token" in line for line in late)


@pytest.mark.parametrize("reader", READERS)
def test_one_hot_everywhere_is_warned_of(reader: str, tmp_path: Path) -> None:
    p, q = pair()
    hot = torch.where(p == p.amax(-1, keepdim=True), 0.0, -9999.0)
    warnings = evidence(open_dump(WRITERS[reader](tmp_path, hot, q, None))).warnings
    assert any("target gives one token all of the mass in 12 of 12 rows" in line for line in warnings), warnings
    assert not any("draft gives one token" in line for line in warnings)


# Top-k entries, by every reader of them


def _top_arrays(folder: Path, ids: list[list[int]], logp: list[list[float]]) -> str:
    path = folder / "t.safetensors"
    save_file({"ids": torch.tensor(ids), "logprobs": torch.tensor(logp), "vocabulary": torch.tensor(30)}, path)
    return f"{path},{path}"


def _top_vllm(folder: Path, ids: list[list[int]], logp: list[list[float]]) -> str:
    path = folder / "t.json"
    flat = {
        "token_ids": [*chain(*ids)],
        "logprobs": [*chain(*logp)],
        "ranks": list(range(1, len(ids[0]) + 1)) * len(ids),
    }
    spans = {"start_indices": [0], "end_indices": [0]}
    for row in ids:
        spans["start_indices"].append(spans["end_indices"][-1])
        spans["end_indices"].append(spans["end_indices"][-1] + len(row))
    path.write_text(json.dumps(flat | spans))
    return f"{path},{path}"


def _top_distillkit(folder: Path, ids: list[list[int]], logp: list[list[float]]) -> str:
    path = folder / "t.parquet"
    write_distillkit(path, [(list(range(len(ids) + 1)), torch.tensor(ids), torch.tensor(logp))])
    return f"{path},{path}"


TOP_K: dict[str, Callable[[Path, list[list[int]], list[list[float]]], str]] = {
    "arrays": _top_arrays,
    "top-logprobs": _top_vllm,
    "distillkit": _top_distillkit,
}
GOOD = [[1, 2, 3], [4, 5, 6]]
LOGP = torch.tensor([[0.5, 0.2, 0.1], [0.4, 0.3, 0.1]]).log().tolist()


@pytest.mark.parametrize("reader", TOP_K)
@pytest.mark.parametrize(
    "change",
    [(1, 0, 5, None), (1, 2, -9, None), (1, 2, 2**31, None), (0, 1, None, float("nan")), (0, 0, None, float("inf"))],
)
def test_entries_that_cannot_be(reader: str, change: tuple[int, int, Any, Any], tmp_path: Path) -> None:
    ids, logp = [list(row) for row in GOOD], [list(row) for row in LOGP]
    list(open_dump(TOP_K[reader](tmp_path, ids, logp)).batches(5))
    row, slot, token, value = change
    if token is not None:
        ids[row][slot] = token
    if value is not None:
        logp[row][slot] = value
    (tmp_path / "bad").mkdir()
    with pytest.raises(InputError):
        list(open_dump(TOP_K[reader](tmp_path / "bad", ids, logp)).batches(5))


def test_the_vllm_key_of_a_negative_token(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"prompt_logprobs": [null, {"5": {"logprob": -0.7}, "-9": {"logprob": -0.7}}]}')
    with pytest.raises(InputError, match="'-9' is no token id"):
        open_dump(f"{path},{path}")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"missing": [float("nan"), 0.2]}, "not to one"),
        ({"missing": [-0.2, 0.2]}, "not to one"),
        ({"missing": [float("inf"), 0.2]}, "not to one"),
        ({"cap": [float("nan"), -1.0]}, "cap nan is below"),
        ({"cap": [-9.0, -1.0]}, "cap -9 is below"),
        ({"cut": [[float("nan"), 0.2, -2.3, 0.0]] * 2}, "with NaN"),
        ({"cut": [[0.2, 0.1, -2.3, 0.0]] * 2}, "missing mass from 0.2 to 0.1"),
        ({"cut": [[0.2, 0.2, float("nan"), 0.0]] * 2}, "with NaN"),
        ({"cut": [[0.2, 0.2, -2.3, -1.0]] * 2}, "error bound of -1"),
        ({"cut": [[0.0, 0.01, -2.3, 0.0]] * 2}, "not one together"),
        ({"cut": [[0.2, 0.2, -30.0, 0.0]] * 2}, "unknown tokens of at most"),
    ],
)
def test_what_top_k_rows_leave_open(extra: dict[str, Any], message: str, tmp_path: Path) -> None:
    held = {"ids": torch.tensor(GOOD), "logprobs": torch.tensor(LOGP), "vocabulary": torch.tensor(30)}
    held |= {name: torch.tensor(value, dtype=torch.float64) for name, value in extra.items()}
    for name, write in (("x.safetensors", save_file), ("x.pt", torch.save)):
        write(held, tmp_path / name)  # type: ignore[operator]
        with pytest.raises(InputError, match=message):
            mean(f"{tmp_path / name},{tmp_path / name}")


def test_a_native_dump_with_an_impossible_cut(tmp_path: Path) -> None:
    rows = torch.full((2, 30), -float("inf"))
    rows[:, :3] = torch.tensor(LOGP)
    for cut in ([0.3, 0.1, -2.0, 0.0], [0.2, float("nan"), -2.0, 0.0], [0.2, 0.2, -40.0, 0.0]):
        folder = tmp_path / str(cut[1:3])
        with DumpWriter(folder, kind="logprobs", support="top-k") as writer:
            columns = {name: torch.tensor([cut] * 2, dtype=torch.float64) for name in ("target_cut", "draft_cut")}
            writer.append(rows, rows, **columns)
        with pytest.raises(InputError, match="row 0"):
            mean(str(folder))


def test_masses_that_miss_one_by_a_little_widen_what_is_missing() -> None:
    _, cut = dense_top_k(
        torch.tensor([[1, 2]]),
        torch.tensor([[0.5, 0.4]], dtype=torch.float64).log(),
        30,
        "x",
        0,
        rest=Rest(missing=torch.tensor([0.10005])),
    )
    assert cut[0, 0] < 0.1 + 1e-6
    assert cut[0, 1] >= 0.10005 - 1e-9


def test_a_map_beside_npy_files(tmp_path: Path) -> None:
    held = np.load(CASES / "18-eagle3-d2t" / "pair.npz")
    for name in ("target_logits", "draft_logits", "draft_d2t"):
        np.save(tmp_path / f"{name}.npy", held[name])
    assert mean(str(tmp_path)) == pytest.approx(0.409054, abs=1e-6)
    (tmp_path / "draft_d2t.npy").unlink()
    tokens = held["draft_d2t"] + np.arange(len(held["draft_d2t"]))
    np.save(tmp_path / "t2d.npy", np.isin(np.arange(40), tokens))
    assert mean(str(tmp_path)) == pytest.approx(0.409054, abs=1e-6)


def test_ids_in_range_of_offsets_are_told_by_the_rows(tmp_path: Path) -> None:
    p, _ = pair(200)
    ids = torch.arange(1, 60, 2)
    arrays = {"target_logits": p, "draft_logits": p[:, ids], "d2t": ids}
    save_file({name: value.contiguous() for name, value in arrays.items()}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="may hold target ids"):
        open_dump(tmp_path / "x.safetensors")
    torch.save(arrays | {"d2t": ids - torch.arange(len(ids))}, tmp_path / "x.pt")
    del arrays["d2t"]
    torch.save(arrays | {"draft_target_ids": ids}, tmp_path / "y.pt")
    assert mean(str(tmp_path / "x.pt")) == mean(str(tmp_path / "y.pt")) > 0


def test_a_flat_batch_ends_where_its_texts_end(tmp_path: Path) -> None:
    p, _ = pair(24, rows=12)
    ids = torch.arange(12).reshape(3, 4)
    torch.save({"logits": p, "input_ids": ids}, tmp_path / "x.pt")
    (batch,) = open_dump(f"{tmp_path}/x.pt,{tmp_path}/x.pt").batches(20)
    assert batch.token is not None
    assert batch.token.tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    for extra in ({"sequences": ids}, {"sequences": ids[:1].tile(1, 4), "beam_indices": ids}):
        torch.save({"logits": p} | extra, tmp_path / "y.pt")
        with pytest.raises(InputError, match=r"texts?, but|beam search"):
            open_dump(f"{tmp_path}/y.pt,{tmp_path}/y.pt")


def test_a_llama_cpp_file_is_checked_too(tmp_path: Path) -> None:
    write_llama_cpp(tmp_path / "x.kld", pair(24, rows=3)[0][None], torch.full((1, 8), 77, dtype=torch.int32))
    with pytest.raises(InputError, match="token 77 is recorded"):
        mean(f"{tmp_path}/x.kld,{tmp_path}/x.kld")


@pytest.mark.parametrize("form", ["npz", "safetensors", "two files"])
@pytest.mark.parametrize("name", ["model.d2t", "draft.target_ids", "D2T", "hot_token_ids", "draft_id_to_target_id"])
def test_maps_under_other_names_are_applied_or_named(name: str, form: str, tmp_path: Path) -> None:
    """Heads as near as padding: without its map the draft would be read as if its tokens were the target's first."""
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(3, 200, generator=generator)
    tokens = torch.randperm(200, generator=generator)[:170].sort().values
    draft = target[:, tokens] + 0.1
    stored = tokens if "ids" in name else tokens - torch.arange(170)
    arrays = {"target_logits": target, "draft_logits": draft, name: stored}
    path = str(tmp_path / f"x.{form}")
    if form == "npz":
        np.savez(path, **{key: value.numpy() for key, value in arrays.items()})
    elif form == "safetensors":
        save_file(arrays, path)
    else:
        save_file({"logits": target}, tmp_path / "t.safetensors")
        save_file({"logits": draft, name: stored}, tmp_path / "d.safetensors")
        path = f"{tmp_path}/t.safetensors,{tmp_path}/d.safetensors"
    if name in ("hot_token_ids", "draft_id_to_target_id"):
        with pytest.raises(InputError, match=f"{name} may say what the draft's 170 columns stand for"):
            mean(path)
        return
    q = torch.zeros(3, 200, dtype=torch.float64)
    q[:, tokens] = torch.softmax(draft.double(), -1)
    expected = float(torch.minimum(torch.softmax(target.double(), -1), q).sum(-1).mean())
    assert mean(path) == pytest.approx(expected, abs=1e-9)


def test_two_maps_of_one_name_are_an_error(tmp_path: Path) -> None:
    held = np.load(CASES / "18-eagle3-d2t" / "pair.npz")
    arrays = {name: held[name] for name in held}
    np.savez(tmp_path / "x.npz", **arrays, **{"d2t": arrays["draft_d2t"] + 1})
    with pytest.raises(InputError, match="a second d2t"):
        mean(str(tmp_path / "x.npz"))
