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
from mdsd_bounds.dumps.rounding import coarse_rounding, decimals_error

VOCABULARY, ROWS, K = 60, 6, 40
ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: torch.tensor(x).bfloat16().float().numpy(),
    "two decimals": lambda x: x.round(2),
    "three decimals": lambda x: x.round(3),
}
FORMS = ("npz float32", "safetensors float64", "parquet arrays", "distillkit", "teacher parquet")


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
    (batch,) = open_dump(_write(tmp_path, form, ids, values)).batches(ROWS)
    assert _untrue(batch, p) == 0


@pytest.mark.parametrize("decimals", [2, 3, 4, 6])
def test_step_log_of_probabilities_with_few_decimals(tmp_path: Path, decimals: int) -> None:
    p, ids = _rows()
    lines = []
    for row in range(ROWS):
        top = [[[int(t), round(float(full[row, t]), decimals)] for t in i[row]] for full, i in zip(p, ids, strict=True)]
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
        assert float(coarse_rounding(values, values < 0, unit).max()) == 0
    few = torch.tensor([[-0.5, -1.0, 0.0]]).double()  # two round numbers are no sign
    assert float(coarse_rounding(few, few <= 0, 6e-8)) == 0
    assert decimals_error([0.5, 0.25, 0.125]) == 0
