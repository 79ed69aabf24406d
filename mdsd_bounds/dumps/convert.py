"""From any dump, or two one-model files, to any format that can hold what the rows say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdsd_bounds._backend.whole_files import whole_file, whole_folder, whole_pair
from mdsd_bounds.dumps.base import Dump, LogitBatch
from mdsd_bounds.dumps.checks import CUTS, JUDGED, cut_columns
from mdsd_bounds.dumps.containers.safetensors import safetensors_bytes, write_safetensors
from mdsd_bounds.dumps.containers.torch_zip import save_torch
from mdsd_bounds.dumps.formats.distillkit import write_distillkit
from mdsd_bounds.dumps.formats.llama_cpp import encode, write_header
from mdsd_bounds.dumps.formats.native import DumpWriter
from mdsd_bounds.dumps.how_to_read import parted
from mdsd_bounds.dumps.top_k_rows import joined, to_float32, top_k_arrays
from mdsd_bounds.problem import InputError, rounding_unit

_BLOCK = 32
_REMEDY = "free space and convert again"
_ROLES = ("target", "draft")
Name = str | os.PathLike[str]
#: What the formats have no place for; a judge's scores are held by native dumps alone.
_LOST = {".npy": ("doc", "position", "token", *JUDGED), ".kld": ("doc", "position", *JUDGED)}
#: float32 roundings by which two statements of one row may differ.
_ROUNDINGS = 4


def convert(
    src: Name | tuple[Name, Name],
    dst: Name,
    *,
    top_k: int | None = None,
    shard_rows: int = 64,
    limit: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write a dump in another format.

    Parameters
    ----------
    src :
        A dump, or two one-model files in any known formats, the target's and the draft's.
    dst :
        By its ending: a folder (no ending) is a native dump; ``.safetensors``, ``.npz`` and ``.pt`` hold a pair;
        two paths joined by a comma give one file a model: ``.npy``, ``.kld`` (llama.cpp), ``.json`` (vLLM) and
        ``.parquet`` (DistillKit).
    top_k : int or None
        Store only the k most probable tokens of each row with the mass of the rest; required for ``.json`` and
        ``.parquet``, which hold nothing else.
    shard_rows : int
        Of a native dump.
    limit : int or None
        Convert only the first rows.
    force : bool
        Replace files that exist; a source is never replaced, nor a folder.
    progress : callable or None
        Called with (rows read, rows in all); formats with a file a model read the dump once for each.
    report : callable or None
        Told in one line what the format cannot hold and leaves out.

    Returns
    -------
    Path
        What was written (the target's file of two).

    Raises
    ------
    InputError
        If the format cannot hold the rows (truncated rows in a format of full logits, no recorded tokens for formats
        that are built around them), the destination exists, or the disk is full; no half-written file stays behind.

    Notes
    -----
    Native, .safetensors, .npy and .kld are written block by block, .npz in one pass a model; the others hold k numbers
    a row in memory, .pt everything.
    """
    from mdsd_bounds.dumps import open_dump, open_pair

    dump = _watched(open_pair(*src) if isinstance(src, tuple) else open_dump(src), limit, progress)
    sources = src if isinstance(src, tuple) else (src,)
    parts = [Path(part) for part in os.fspath(dst).split(",")]
    kinds = {part.suffix.lower() for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else ""
    pairs = {".npy", ".kld", ".json", ".parquet"}
    if (len(parts) == 2) != (kind in pairs) or (kind not in pairs and kind not in ("", ".safetensors", ".npz", ".pt")):
        raise InputError(
            f"{dst}: give a folder, .safetensors, .npz or .pt, or two files joined by a comma: .npy, .kld, .json, "
            ".parquet"
        )
    for part in parts:
        if part.is_file() and force and kind != "" and not _is_source(part, sources):
            continue
        if part.exists() and not (kind == "" and part.is_dir() and not any(part.iterdir())):
            unforced = "" if part.is_file() or not force else " (force replaces files alone)"
            raise InputError(f"{part}: exists already{unforced}; delete it or write elsewhere")
        if not part.absolute().parent.is_dir():
            raise InputError(f"{part}: its folder does not exist; make it first")
    if top_k is not None and (kind in ("", ".npy", ".kld") or top_k < 1):
        raise InputError(f"{dst}: top_k={top_k} cannot be stored so; use .safetensors, .npz, .pt, .json or .parquet")
    if kind == "":
        return _native(dump, parts[0], shard_rows)
    first = next(dump.batches(1))
    report = report or (lambda line: None)
    if lost := [name for name in _LOST.get(kind, JUDGED) if getattr(first, name) is not None]:
        report(f"{dst}: {kind} cannot hold {', '.join(lost)}; left out")
    cut = first.target_cut is not None or first.draft_cut is not None
    if kind in (".json", ".parquet") and top_k is None:
        raise InputError(
            f"{dst}: this format holds the most probable tokens alone; say how many with --top-k (top_k=20)"
        )
    if kind in (".json", ".parquet", ".kld") and first.token is None:
        raise InputError(f"{dst}: this format holds the text, and {dump.facts.path} records no tokens; choose another")
    if cut and top_k is None:
        raise InputError(
            f"{dst}: rows of {dump.facts.path} are cut ({dump.facts.support}); give top_k, or write a native folder"
        )
    if kind in (".json", ".parquet"):
        assert top_k is not None
        writer: Callable[..., None] = _write_vllm if kind == ".json" else _write_texts
        tables = _top_k_arrays(dump, top_k)
        for role in _ROLES:
            _require_said(f"{dst}: {role}s of {dump.facts.path}", tables, role)
        if renumbered := _renumbered(tables):
            report(f"{dst}: {kind} cannot hold {renumbered}; texts and places are numbered anew")
        _both(parts, partial(writer, tables=tables))
    elif top_k is not None:
        tables = _top_k_arrays(dump, top_k)
        _whole(parts[0], lambda path: _write_arrays(path, tables, kind))
    elif len(parts) == 2:
        _both(parts, partial(_npy if kind == ".npy" else _kld, dump=dump))
    else:
        _whole(parts[0], lambda path: _full(path, dump, kind))
    return parts[0]


def _is_source(path: Path, sources: tuple[Name, ...]) -> bool:
    parts = [Path(part) for source in sources for part in parted(os.fspath(source))[0].split(",")]
    return any(part.exists() and path.samefile(part) for part in parts)


def _watched(dump: Dump, limit: int | None, progress: Callable[[int, int], None] | None) -> Dump:
    """The first rows of a dump, and word of each block that is read."""
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give an integer of at least 1")
    rows = len(dump) if limit is None else min(limit, len(dump))

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if progress is not None:
            progress(start, rows)
        return dump.read_rows(start, stop)

    return Dump(replace(dump.facts, rows=rows), read_rows)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    with whole_file(path, _REMEDY) as temporary:
        write(temporary)


def _both(paths: list[Path], write: Callable[..., None]) -> None:
    with whole_pair(paths[0], paths[1], _REMEDY) as temporaries:
        for path, role in zip(temporaries, _ROLES, strict=True):
            write(path, role=role)


def _native(dump: Dump, path: Path, shard_rows: int) -> Path:
    facts = dump.facts
    support = next((name for name in ("floored", "top-k", "mapped") if name in facts.support), "full")
    notes = {"converted from": facts.format, **{str(name): str(value) for name, value in facts.notes.items()}}
    kind = "logprobs" if "logprobs" in facts.kind else "logits"
    shift = "same" if facts.shift == "same" else "next"
    stage = "processed" if "processed" in facts.stage else "raw"
    metadata: dict[str, Any] = {"kind": kind, "support": support, "shift": shift, "stage": stage, "notes": notes}
    with whole_folder(path) as begun, DumpWriter(begun, shard_rows=shard_rows, **metadata) as writer:
        for batch in dump.batches(_BLOCK):
            columns = {
                name: value
                for name in ("doc", "position", "token", *JUDGED)
                if (value := getattr(batch, name)) is not None
            }
            rows = []
            for role in _ROLES:
                logits, cut = _role(batch, role)
                if cut is not None:
                    logits, cut = to_float32(logits, cut)
                    columns[f"{role}_cut"] = cut
                rows.append(logits)
            dtype = torch.promote_types(rows[0].dtype, rows[1].dtype)
            writer.append(rows[0].to(dtype), rows[1].to(dtype), **columns)
    return path


def _role(batch: LogitBatch, role: str) -> tuple[Tensor, Tensor | None]:
    return getattr(batch, f"{role}_logits"), getattr(batch, f"{role}_cut")


def _top_k_arrays(dump: Dump, k: int) -> dict[str, Tensor]:
    parts = []
    for batch in dump.batches(_BLOCK):
        held = {name: getattr(batch, name) for name in ("doc", "position", "token")}
        columns = {name: value for name, value in held.items() if value is not None}
        parts.append(top_k_arrays(_role(batch, "target"), _role(batch, "draft"), k) | columns)
    return joined(parts) | {"vocabulary": torch.tensor(max(dump.facts.target_width, dump.facts.draft_width))}


def _write_arrays(path: Path, arrays: dict[str, Tensor], kind: str) -> None:
    if kind == ".npz":
        # By its stream: to a name without the ending, NumPy adds one.
        with path.open("wb") as stream:
            np.savez(stream, **{name: value.numpy() for name, value in arrays.items()})  # type: ignore[arg-type]
    elif kind == ".pt":
        save_torch(arrays, path)
    else:
        path.write_bytes(safetensors_bytes(arrays))


def _columns(dump: Dump) -> dict[str, Tensor]:
    pieces: dict[str, list[Tensor]] = {}
    for start in range(0, len(dump), _BLOCK):
        _, _, held = dump.read_rows(start, min(start + _BLOCK, len(dump)))
        for name, value in held.items():
            if name not in (*CUTS, *JUDGED):
                pieces.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in pieces.items()}


def _rows(dump: Dump, role: str) -> Iterator[Tensor]:
    for batch in dump.batches(_BLOCK):
        yield _role(batch, role)[0]


def _full(path: Path, dump: Dump, kind: str) -> None:
    width = max(dump.facts.target_width, dump.facts.draft_width)
    shape = (len(dump), width)
    columns = _columns(dump)
    dtypes = {role: next(_rows(dump, role)).dtype for role in _ROLES}
    if kind == ".pt":
        rows = {f"{role}_logits": torch.cat(list(_rows(dump, role))) for role in _ROLES}
        save_torch(rows | columns, path)
    elif kind == ".npz":
        _npz(path, dump, shape, dtypes, columns)
    else:
        _safetensors(path, dump, shape, dtypes, columns)


def _safetensors(
    path: Path, dump: Dump, shape: tuple[int, int], dtypes: dict[str, torch.dtype], columns: dict[str, Tensor]
) -> None:
    layout = {f"{role}_logits": (dtypes[role], shape) for role in _ROLES} | {
        name: (value.dtype, tuple(value.shape)) for name, value in columns.items()
    }
    with path.open("wb") as stream:
        rows = chain.from_iterable(_rows(dump, role) for role in _ROLES)
        write_safetensors(stream, layout, chain(rows, columns.values()))


def _numpy(rows: Tensor) -> np.ndarray:
    # NumPy has no bfloat16; float32 holds every value of it.
    return (rows.to(torch.float32) if rows.dtype == torch.bfloat16 else rows).numpy()


def _npz(
    path: Path, dump: Dump, shape: tuple[int, int], dtypes: dict[str, torch.dtype], columns: dict[str, Tensor]
) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for role in _ROLES:
            descr = np.lib.format.dtype_to_descr(_numpy(torch.empty(0, dtype=dtypes[role])).dtype)
            with archive.open(f"{role}_logits.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
                for rows in _rows(dump, role):
                    stream.write(np.ascontiguousarray(_numpy(rows)).tobytes())
        for name, value in columns.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, value.numpy())


def _npy(path: Path, dump: Dump, role: str) -> None:
    width = max(dump.facts.target_width, dump.facts.draft_width)
    first = _numpy(next(_rows(dump, role)))
    with path.open("wb") as stream:
        descr = np.lib.format.dtype_to_descr(first.dtype)
        np.lib.format.write_array_header_1_0(
            stream, {"descr": descr, "fortran_order": False, "shape": (len(dump), width)}
        )
        for rows in _rows(dump, role):
            stream.write(np.ascontiguousarray(_numpy(rows)).tobytes())


def _kld(path: Path, dump: Dump, role: str) -> None:
    """One chunk: of n_ctx tokens llama.cpp keeps n_ctx - 1 - n_ctx/2 rows, so 2 N + 2 tokens hold N rows."""
    width = max(dump.facts.target_width, dump.facts.draft_width)
    count = len(dump)
    ids = np.zeros((1, 2 * count + 2), "<i4")
    columns = _columns(dump)
    ids[0, count + 2 :] = columns["token"].numpy()
    with path.open("wb") as stream:
        write_header(stream, ids, width)
        for rows in _rows(dump, role):
            stream.write(encode(rows).tobytes())


def _texts(tables: dict[str, Tensor], role: str) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    docs = tables.get("doc", torch.zeros_like(tables["token"]))
    edges = [0, *((docs[1:] != docs[:-1]).nonzero()[:, 0] + 1).tolist(), len(docs)]
    for a, b in pairwise(edges):
        # Both formats hold float32, and their readers count on no more.
        values = tables[f"{role}_logprobs"][a:b].to(torch.float32)
        yield tables["token"][a:b].tolist(), tables[f"{role}_ids"][a:b].to(torch.int64), values


def _require_said(where: str, tables: dict[str, Tensor], role: str) -> None:
    """Refuse rows of which less is known than a list of the most probable tokens says by itself.

    Such a list states float32 values, the mass that they leave, and that no other token exceeds the least of them;
    it has no place for a larger error bound (llama.cpp's half code step) or cap (one token of a step log).
    """
    ids, cut = tables[f"{role}_ids"], tables[f"{role}_cut"]
    values = tables[f"{role}_logprobs"].to(torch.float32).to(torch.float64)
    said = cut_columns(values, ids >= 0, where, 0)
    size = torch.where(torch.isfinite(values), values.abs(), 0.0).amax(-1)
    room = _ROUNDINGS * rounding_unit(torch.float32) * (size + 1.0)
    low, high, cap, slack = cut.unbind(-1)
    more = (slack > said[:, 3] + room) | (low < said[:, 0] - room) | (high > said[:, 1] + room)
    more |= torch.minimum(cap, high.log()) > said[:, 2] + room
    if bool(more.any()):
        raise InputError(
            f"{where} row {int(more.nonzero()[0])}: less is known of the row than this format says of its k most "
            "probable tokens (their rounding, or the largest of the others); write .safetensors, .npz or .pt"
        )


def _renumbered(tables: dict[str, Tensor]) -> str:
    """The columns that formats of one record a text do not give back: they count texts from 0, and places from 1."""
    lost = []
    doc = tables.get("doc", torch.zeros_like(tables["token"]))
    new = torch.nn.functional.pad((doc[1:] != doc[:-1]).to(torch.int64), (1, 0)).cumsum(-1)
    if bool((doc != new).any()):
        lost.append("doc")
    if "position" in tables:
        first = torch.searchsorted(new, new)
        if bool((tables["position"] != torch.arange(len(new)) - first + 1).any()):
            lost.append("position")
    return ", ".join(lost)


def _write_texts(path: Path, tables: dict[str, Tensor], role: str) -> None:
    # The token before the first row is not recorded; a text begins with token 0 in its place.
    write_distillkit(path, [([0, *tokens], ids, values) for tokens, ids, values in _texts(tables, role)])


def _write_vllm(path: Path, tables: dict[str, Tensor], role: str) -> None:
    answers = []
    for tokens, ids, values in _texts(tables, role):
        positions: list[Any] = [None]
        for row in range(len(tokens)):
            ranked = zip(ids[row].tolist(), values[row].tolist(), strict=True)
            positions.append(
                {
                    str(token): {"logprob": value, "rank": rank}
                    for rank, (token, value) in enumerate(ranked, 1)
                    if token >= 0
                }
            )
        answers.append({"prompt_token_ids": [0, *tokens], "prompt_logprobs": positions})
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
