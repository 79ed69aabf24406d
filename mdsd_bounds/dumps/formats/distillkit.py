"""DistillKit parquet files of teacher log-probabilities (Arcee): one model, one text a row, top-k of each position.

Read are the raw form, columns ``token_ids`` and ``top_values``, and the compressed form, ``bytepacked_indices`` and
``compressed_logprobs``.  Of the latter only the values that were stored exactly are taken, the first ``exact_k`` of
each position; the polynomial approximation of the others comes without an error bound, so they count as unknown.  The
compression settings are not in the file: a ``compression.json`` beside it must give ``d`` (vocabulary), ``k``
and ``exact_k``, and ``exact_dtype`` where it is not float32.

Position t of a text of tokens ``input_ids`` is the distribution of token t + 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.dtypes import LOGITS
from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.checks import dense_top_k
from mdsd_bounds.dumps.containers.files import beginning
from mdsd_bounds.dumps.containers.parquet import MAGIC, open_parquet
from mdsd_bounds.dumps.containers.text import integer, parse, whole_text
from mdsd_bounds.dumps.single_model import Side, file_size
from mdsd_bounds.problem import InputError, rounding_unit

#: Beside the rows: how they were compressed.
SETTINGS = "compression.json"
RAW = ("token_ids", "top_values")
PACKED = ("bytepacked_indices", "compressed_logprobs")


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def is_distillkit(path: Path) -> bool:
    """Whether it is a parquet file, or a folder of them, with the columns of either form."""
    files = _files(path)
    if not files or beginning(files[0], 4) != MAGIC:
        return False
    try:
        names = open_parquet(files[0]).schema_arrow.names
    except InputError:
        return True  # damaged: opening it says so
    return any(all(name in names for name in form) for form in (RAW, PACKED))


def open_distillkit(path: Path) -> Side:
    """Open a file or folder; texts are read one row group at a time.

    Raises
    ------
    InputError
        If a file is damaged, a text's rows do not fit its tokens, or the compression settings are missing.
    """
    # Row of the dump where each text starts; texts are read again when asked for, one group held at a time.
    starts: list[int] = []
    places: list[tuple[Path, int, int]] = []
    tokens: list[int] = []
    docs: list[int] = []
    positions: list[int] = []
    total, form = 0, RAW
    with reading(path, "DistillKit parquet", "fetch it again") as place:
        for file in _files(path):
            held = open_parquet(file)
            form = RAW if RAW[0] in held.schema_arrow.names else PACKED
            if lacking := [name for name in ("input_ids", *form) if name not in held.schema_arrow.names]:
                raise InputError(f"{file}: lacks the columns {', '.join(lacking)}; write them")
            masked = "attention_mask" in held.schema_arrow.names
            wanted = ["input_ids", form[0]] + ["attention_mask"] * masked
            for group in range(held.num_row_groups):
                table = held.read_row_group(group, columns=wanted)
                for text in range(table.num_rows):
                    place.at = f"text {len(starts)}"
                    ids = [integer(token) for token in table["input_ids"][text].as_py()]
                    if masked:
                        _refuse_padding(f"{file} text {len(starts)}", table["attention_mask"][text].as_py())
                    rows = min(len(table[form[0]][text]), len(ids) - 1)
                    if len(table[form[0]][text]) not in (len(ids), len(ids) - 1):
                        raise InputError(
                            f"{file} text {len(starts)}: {len(ids)} tokens but {len(table[form[0]][text])} positions; "
                            "the file was cut or made by another program"
                        )
                    starts.append(total)
                    places.append((file, group, text))
                    docs += [len(places) - 1] * rows
                    positions += range(1, rows + 1)
                    tokens += ids[1 : rows + 1]
                    total += rows
    if total == 0:
        raise InputError(f"{path}: no positions; the texts are empty")
    settings = _settings(path) if form == PACKED else {}
    unit = rounding_unit(getattr(torch, settings.get("exact_dtype", "float32")))
    last: dict[str, Any] = {}

    def text_rows(number: int) -> tuple[Tensor, Tensor]:
        file, group, text = places[number]
        if last.get("key") != (file, group):
            last["key"] = (file, group)
            last["table"] = open_parquet(file).read_row_group(group, columns=list(form))
        first, second = (last["table"][name][text].as_py() for name in form)
        if form == RAW:
            return _raw(first, second, f"{file} text {number}")
        return _unpack(first, second, settings, f"{file} text {number}")

    def read(start: int, stop: int, width: int) -> tuple[Tensor, Tensor | None]:
        pieces, cuts = [], []
        number = int(np.searchsorted(starts, start, side="right")) - 1
        while number < len(starts) and starts[number] < stop:
            ids, logprobs = text_rows(number)
            end = starts[number + 1] if number + 1 < len(starts) else total
            a, b = max(start, starts[number]) - starts[number], min(stop, end) - starts[number]
            if b > a:
                ids, logprobs = ids[a:b], logprobs[a:b]
                rows, cut = dense_top_k(ids, logprobs, width, str(path), starts[number] + a, unit=unit)
                pieces.append(rows)
                cuts.append(cut)
            number += 1
        return torch.cat(pieces), torch.cat(cuts)

    return Side(
        str(path),
        "distillkit",
        total,
        settings.get("d"),
        settings.get("exact_dtype", "float32"),
        read,
        {"doc": torch.tensor(docs), "position": torch.tensor(positions), "token": torch.tensor(tokens)},
        kind="logprobs",
        support="top-k",
        bytes=sum(file_size(file) for file in _files(path)),
        notes={"texts": len(starts)} | ({"compressed": "only exactly stored values are used"} if settings else {}),
    )


def _refuse_padding(where: str, mask: list[Any] | None) -> None:
    if not all(mask or ()):
        raise InputError(f"{where}: attention_mask marks padding; write the texts without it")


def _raw(ids: list[list[int]], values: list[list[float]], where: str) -> tuple[Tensor, Tensor]:
    try:
        tokens = torch.tensor(ids, dtype=torch.int64)
        logprobs = torch.tensor(values, dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: positions of different length ({error}); write k values for each") from None
    if tokens.shape != logprobs.shape:
        raise InputError(f"{where}: token_ids {tuple(tokens.shape)} but top_values {tuple(logprobs.shape)}")
    return tokens, logprobs


def _unpack(
    ids: list[list[int]], values: list[list[int]], settings: dict[str, Any], where: str
) -> tuple[Tensor, Tensor]:
    """Indices are packed bit by bit, most significant first, ceil(log2 d) bits each; exact values come first."""
    width = math.ceil(math.log2(settings["d"]))
    exact, dtype = settings["exact_k"], getattr(torch, settings["exact_dtype"])
    try:
        packed = np.array(ids, dtype=np.uint8)
        stored = torch.tensor(values, dtype=torch.uint8)
        bits = np.unpackbits(packed, axis=-1)[:, : settings["k"] * width].reshape(len(packed), settings["k"], width)
        head = stored[:, : exact * dtype.itemsize].contiguous().view(dtype)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where}: bytes do not fit the compression settings ({error}); check d, k, exact_k") from None
    tokens = bits[:, :exact].astype(np.int64) @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))
    if head.shape[1] != exact:
        raise InputError(f"{where}: {head.shape[1]} exact values, not {exact}; check the compression settings")
    return torch.from_numpy(tokens), head.to(torch.float64)


def _settings(path: Path) -> dict[str, Any]:
    file = (path if path.is_dir() else path.parent) / SETTINGS
    if not file.exists():
        raise InputError(
            f"{path}: compressed log-probabilities need {file} with the run's d, k, exact_k and exact_dtype"
        )
    with reading(file, "settings", "give the run's d, k, exact_k and exact_dtype"):
        given = parse(whole_text(file))
        settings: dict[str, Any] = {name: integer(given[name]) for name in ("d", "k", "exact_k")}
        settings["exact_dtype"] = str(given.get("exact_dtype", "float32"))
    if not 1 <= settings["exact_k"] <= settings["k"] <= settings["d"] < 1 << 31:
        raise InputError(f"{file}: 1 <= exact_k <= k <= d must hold; give the run's settings")
    if settings["exact_dtype"] not in LOGITS:
        raise InputError(f"{file}: exact_dtype must be one of {', '.join(LOGITS)}; nothing else is exact")
    return settings


def write_distillkit(path: Path, texts: list[tuple[list[int], Tensor, Tensor]]) -> None:
    """Write the raw form: for each text its tokens, top-k ids ``[rows, k]`` and log-probabilities ``[rows, k]``."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = arrow.table(
        {
            "input_ids": arrow.array([tokens for tokens, _, _ in texts], arrow.list_(arrow.int64())),
            "token_ids": arrow.array([ids.tolist() for _, ids, _ in texts], arrow.list_(arrow.list_(arrow.int64()))),
            "top_values": arrow.array(
                [values.tolist() for _, _, values in texts], arrow.list_(arrow.list_(arrow.float32()))
            ),
        }
    )
    # Arrow opens no file whose name is not UTF-8.
    with path.open("wb") as file:
        parquet.write_table(table, file)
