"""Padding in data sets of a teacher's log-probabilities: a mask says which positions are none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mdsd_bounds import InputError
from mdsd_bounds.dumps import open_side

COUNT, WIDTH = 12, 24


@pytest.mark.parametrize("form", ["distillkit", "teacher"])
@pytest.mark.parametrize("padding", [0, 3])
def test_padding_of_data_sets_is_an_error(form: str, padding: int, tmp_path: Path) -> None:
    value, ids = torch.log_softmax(torch.randn(COUNT, WIDTH, generator=torch.Generator().manual_seed(0)), -1).topk(6)
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
