"""Numbers that were rounded more coarsely than the type they are stored in: what is said of the rest must stay true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import safetensors.numpy
import torch

from mdsd_bounds import open_dump
from mdsd_bounds.dumps import LogitBatch
from mdsd_bounds.dumps.evidence import evidence
from mdsd_bounds.dumps.rounding import coarse_rounding, rounding_of, rounding_of_rows

VOCABULARY, ROWS, K = 60, 6, 40
ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: torch.tensor(x).bfloat16().float().numpy(),
    "two decimals": lambda x: x.round(2),
    "three decimals": lambda x: x.round(3),
    "one decimal": lambda x: x.round(1),
    "multiples of 1/64": lambda x: (x * 64).round() / 64,
    "three digits": lambda x: _digits(x, 3),
    "five digits": lambda x: _digits(x, 5),
    "codes of 8 bits": lambda x: _codes(x, 8),
    "codes of 16 bits": lambda x: _codes(x, 16),
    "float8": lambda x: torch.tensor(x).to(torch.float8_e4m3fn).float().numpy(),
}
FORMS = ("npz float32", "safetensors float64", "parquet arrays", "distillkit", "teacher parquet", "vLLM")


def _digits(values: np.ndarray, digits: int) -> np.ndarray:
    return np.array([float(f"{x:.{digits}g}") for x in values.flat]).reshape(values.shape)


def _codes(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row as its least number and codes of so many bits, and back."""
    least = values.min(-1, keepdims=True).astype(np.float32)
    step = ((values.max(-1, keepdims=True) - least) / (2**bits - 1)).astype(np.float32)
    return (least + ((values - least) / step).round().astype(np.float32) * step).astype(np.float64)


def _rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(8)
    logits = 3 * generator.normal(size=(2, ROWS, VOCABULARY))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p, np.argsort(-p, -1)[..., :K].copy()


def _write(folder: Path, form: str, ids: np.ndarray, values: np.ndarray) -> str:
    if form in ("npz float32", "safetensors float64"):
        dtype = np.float32 if form.startswith("npz") else np.float64
        arrays = {
            f"{role}_{name}": value
            for role, i, v in zip(("target", "draft"), ids, values.astype(dtype), strict=True)
            for name, value in (("ids", i), ("logprobs", v))
        } | {"vocabulary": np.array([VOCABULARY])}
        file = folder / ("pair.npz" if form.startswith("npz") else "pair.safetensors")
        np.savez(file, **arrays) if form.startswith("npz") else safetensors.numpy.save_file(arrays, file)
        return str(file)
    if form == "vLLM":
        tokens = [int(i[0]) for i in ids[0]]
        for role, i, v in zip("td", ids.tolist(), values.astype(np.float64).tolist(), strict=True):
            listed = [
                {str(t): {"logprob": x, "rank": n} for n, (t, x) in enumerate(zip(*row, strict=True), 1)}
                for row in zip(i, v, strict=True)
            ]
            answer = {"prompt_token_ids": [0, *tokens], "prompt_logprobs": [None, *listed]}
            (folder / f"{role}.json").write_text(json.dumps(answer))
        return f"{folder}/t.json,{folder}/d.json"
    lists = arrow.list_(arrow.float32())
    files = []
    for number, (i, v) in enumerate(zip(ids.tolist(), values.astype(np.float32).tolist(), strict=True)):
        files.append(str(folder / f"{number}.parquet"))
        if form == "parquet arrays":
            columns = {"ids": arrow.array(i), "logprobs": arrow.array(v, lists)}
        else:
            names = ("token_ids", "top_values" if form == "distillkit" else "logprobs")
            columns = {names[0]: arrow.array([i]), names[1]: arrow.array([v], arrow.list_(lists))}
            if form == "distillkit":
                columns["input_ids"] = arrow.array([list(range(ROWS + 1))])
        parquet.write_table(arrow.table(columns), files[-1])
    return ",".join(files)


def _untrue(batch: LogitBatch, p: np.ndarray) -> int:
    """Rows whose missing mass, cap or error bound is not what the dump says."""
    count = 0
    for role, full in zip(("target", "draft"), p, strict=True):
        held, cut = getattr(batch, f"{role}_logits").double().numpy(), getattr(batch, f"{role}_cut").numpy()
        for row, logs, (low, high, cap, slack) in zip(full, held[:, :VOCABULARY], cut, strict=True):
            stored = np.isfinite(logs)
            missing = row[~stored].sum()
            true = low - 1e-12 <= missing <= high + 1e-12 and np.log(row[~stored].max()) <= cap + 1e-12
            count += not (true and (np.abs(logs - np.log(row))[stored] <= slack + 1e-12).all())
    return count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rounded", ROUNDED)
def test_rows_rounded_before_they_were_stored_stay_within_what_is_said(tmp_path: Path, form: str, rounded: str) -> None:
    p, ids = _rows()
    values = ROUNDED[rounded](np.log(np.take_along_axis(p, ids, -1)))
    dump = open_dump(_write(tmp_path, form, ids, np.minimum(values, 0.0)))
    (batch,) = dump.batches(ROWS)
    assert _untrue(batch, p) == 0
    assert ("rounding" in evidence(dump).lines) is (
        rounded not in ("float32", "five digits", "three decimals", "codes of 16 bits")
    )


@pytest.mark.parametrize("cut_off", ["bfloat16", "four decimals"])
def test_missing_mass_holds_where_the_rest_of_the_number_was_cut_off(tmp_path: Path, cut_off: str) -> None:
    p, ids = _rows()
    values = np.log(np.take_along_axis(p, ids, -1))
    bits = (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    values = bits if cut_off == "bfloat16" else np.trunc(values * 1e4) / 1e4
    (batch,) = open_dump(_write(tmp_path, "npz float32", ids, values)).batches(ROWS)
    for role, full in zip(("target", "draft"), p, strict=True):
        stored = np.isfinite(getattr(batch, f"{role}_logits").numpy())
        missing, cut = (full * ~stored[:, :VOCABULARY]).sum(-1), getattr(batch, f"{role}_cut").numpy()
        assert ((cut[:, 0] <= missing) & (missing <= cut[:, 1])).all()


FEW: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bfloat16": ROUNDED["bfloat16"],
    "three decimals": ROUNDED["three decimals"],
    "six digits": lambda x: _digits(x, 6),
    "seven digits": lambda x: _digits(x, 7),
    "codes of 8 bits": lambda x: _codes(x, 8),
    "codes of 16 bits": lambda x: _codes(x, 16),
}


@pytest.mark.parametrize("kept", [1, 2, 3, 5])
@pytest.mark.parametrize("rounded", FEW)
def test_rows_of_few_values_are_as_coarse_as_their_file(tmp_path: Path, rounded: str, kept: int) -> None:
    if rounded.startswith("codes") and kept < 3:
        pytest.skip("the least and the largest number of a row are exact")
    generator = np.random.default_rng(9)
    logits = 3 * generator.normal(size=(2, 60, VOCABULARY))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ids = np.argsort(-p, -1)[..., :kept].copy()
    values = FEW[rounded](np.log(np.take_along_axis(p, ids, -1)))
    (batch,) = open_dump(_write(tmp_path, "npz float32", ids, np.minimum(values, 0.0))).batches(60)
    assert _untrue(batch, p) == 0


@pytest.mark.parametrize("kept", [3, 5, 20])
def test_softmax_of_coarse_logits_is_not_rounded(kept: int) -> None:
    logits = 3 * torch.randn(300, 50, generator=torch.Generator().manual_seed(2))
    for coarse in (logits.bfloat16(), logits.half()):
        values = torch.log_softmax(coarse.float(), -1).topk(kept).values.double()
        assert rounding_of_rows(values, values < 1, 2.0**-24) is None
        assert float((coarse_rounding(values, values < 1, 2.0**-24) > 0).double().mean()) < 0.03


WRITTEN: dict[str, Callable[[float], float]] = {
    "bfloat16": lambda x: float(torch.tensor(x, dtype=torch.float64).bfloat16()),
    "three digits": lambda x: float(f"{x:.3g}"),
    **{f"{n} decimals": lambda x, n=n: round(x, n) for n in (2, 3, 4, 6)},  # type: ignore[misc]
}


@pytest.mark.parametrize("written", WRITTEN)
def test_step_log_of_probabilities_that_were_rounded(tmp_path: Path, written: str) -> None:
    p, ids = _rows()
    lines = []
    for row in range(ROWS):
        top = [
            [[int(t), WRITTEN[written](float(full[row, t]))] for t in i[row]] for full, i in zip(p, ids, strict=True)
        ]
        token = int(ids[0, row, 0])
        position: dict[str, Any] = {
            "token": token,
            "p": float(p[0, row, token]),
            "candidates": top[1],
            "target_candidates": top[0],
        }
        if abs(top[0][0][1] - position["p"]) > 1e-3:
            position["p"] = top[0][0][1]
        lines.append({"step": row, "drafts": [top[1][0][0]], "accepted": 0, "positions": [position]})
    log = tmp_path / "steps.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    (batch,) = open_dump(log).batches(ROWS)
    assert _untrue(batch, p) == 0


def test_what_was_not_rounded_keeps_the_bound_of_its_type() -> None:
    logs = torch.log_softmax(torch.randn(200, 20, generator=torch.Generator().manual_seed(0)).double(), -1)
    for values, unit in ((logs, 1e-16), (logs.float().double(), 6e-8), (logs.half().double(), 5e-4)):
        assert float(coarse_rounding(values, values < 0, unit).max()) < 1e-12
    # Logits of few bits leave all of a row with the same last digits; so does a token that has nearly all of the mass.
    logits = torch.randn(500, 50, generator=torch.Generator().manual_seed(1)).bfloat16().double()
    logs = torch.log_softmax(4 * logits, -1).topk(20).values.float().double()
    assert float((coarse_rounding(logs, logs < 0, 6e-8) > 1e-4).double().mean()) < 0.01
    few = torch.tensor([[-0.5, -1.0, 0.0]]).double()  # two round numbers are no sign
    assert float(coarse_rounding(few, few <= 0, 6e-8)) == 0
    assert rounding_of([0.5, 0.25, 0.125]) is None
