"""The native dump: a folder of safetensors shards and a ``manifest.json`` that says what they are.

Shards are written one by one under another name, flushed to disk and renamed, and the manifest after each of them: a
run killed at any moment leaves a readable dump of its finished shards, and :class:`DumpWriter` continues it.  Each
shard holds ``target_logits`` and ``draft_logits`` ``[rows, V]`` and, where known, ``doc``, ``position``, ``token``;
``target_cut`` and ``draft_cut`` ``[rows, 4]`` where rows are cut (:class:`mdsd_bounds.dumps.LogitBatch`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mdsd_bounds._backend.dtypes import LOGITS, torch_name
from mdsd_bounds._backend.memory import memory_limit
from mdsd_bounds._backend.whole_files import leftovers, remove_leftovers, write_whole
from mdsd_bounds.dumps.base import Dump, Facts, check_columns, check_pair, size_on_disk
from mdsd_bounds.dumps.checks import CUTS, JUDGED, SCORED
from mdsd_bounds.dumps.containers.safetensors import safetensors_bytes
from mdsd_bounds.dumps.containers.text import parse, whole_text
from mdsd_bounds.dumps.safetensors_shard import check_shard, open_shard
from mdsd_bounds.dumps.verified import ALGORITHMS, Record, digest_of
from mdsd_bounds.problem import InputError

MANIFEST = "manifest.json"
INTACT = "finished shards are intact: make room and run again"
_COLUMNS = ("doc", "position", "token", *CUTS, *JUDGED)


class Shard(BaseModel):
    """One file of a dump."""

    model_config = ConfigDict(extra="forbid")
    file: str = Field(pattern=r"^[\w.-]+\.safetensors$")
    rows: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    #: Faster to compute; absent in older dumps.
    xxh3_128: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")


class Manifest(BaseModel):
    """What the shards hold.  ``complete`` is set by :meth:`DumpWriter.close`, when no more rows will come."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["mdsd-dump"] = "mdsd-dump"
    version: Literal[1] = 1
    complete: bool = False
    target_width: int = Field(ge=1)
    draft_width: int = Field(ge=1)
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    kind: Literal["logits", "logprobs"] = "logits"
    support: Literal["full", "mapped", "floored", "top-k"] = "full"
    shift: Literal["next", "same"] = "next"
    stage: Literal["raw", "processed"] = "raw"
    columns: list[Literal["doc", "position", "token", "target_cut", "draft_cut", "judge_token", "judge_score"]] = []
    hidden_sizes: tuple[int, int] | None = None
    notes: dict[str, Any] = {}
    shards: list[Shard] = []


class DumpWriter:
    """Writes a native dump shard by shard; opened on an unfinished one it continues after its last finished shard.

    Parameters
    ----------
    path : str or Path
        Folder of the dump; made if absent.
    shard_rows : int
        Rows of a shard.  Rows are kept in memory until a shard is full.
    hidden_sizes : (int, int) or None
        Widths of the models' hidden states, where known: what the rows would take in that form.
    **facts
        Fields of :class:`Manifest` (``kind``, ``stage``, ``notes``, ...).  Reopening a dump whose manifest says
        otherwise is refused.

    Attributes
    ----------
    rows : int
        Rows safely on disk; a resumed run goes on from here.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from mdsd_bounds import open_dump
    >>> from mdsd_bounds.dumps import DumpWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DumpWriter(folder, notes={"target": "large", "draft": "small"}) as writer:
    ...     for doc in range(2):
    ...         rows = torch.randn(3, 8), torch.randn(3, 8)
    ...         writer.append(*rows, doc=torch.full((3,), doc), position=torch.arange(3))
    >>> dump = open_dump(folder)
    >>> len(dump), dump.facts.notes["draft"]
    (6, 'small')
    """

    def __init__(
        self, path: str | Path, *, shard_rows: int = 64, hidden_sizes: tuple[int, int] | None = None, **facts: Any
    ) -> None:
        self.path = Path(path)
        self.shard_rows = shard_rows
        self._hidden_sizes = hidden_sizes
        self._facts = facts
        self._pending: list[dict[str, Tensor]] = []
        self._manifest: Manifest | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot make the dump's folder ({error.strerror})") from None
        if (self.path / MANIFEST).exists():
            self._manifest = read_manifest(self.path)
            self._refuse_other(self._manifest)
        elif foreign := sorted({file.name for file in self.path.iterdir()} - {x.name for x in leftovers(self.path)}):
            raise InputError(
                f"{path}: is not empty and holds no {MANIFEST} ({foreign[0]}); write to a folder of its own"
            )
        remove_leftovers(self.path)

    @property
    def rows(self) -> int:
        """Rows in finished shards."""
        return sum(shard.rows for shard in self._manifest.shards) if self._manifest else 0

    @property
    def complete(self) -> bool:
        """Whether the dump was closed as whole before."""
        return self._manifest is not None and self._manifest.complete

    def append(self, target_logits: Tensor, draft_logits: Tensor, **columns: Tensor) -> None:
        """Add rows ``[B, V_t]``, ``[B, V_d]`` of one dtype; doc, position, token ``[B]`` int64, the cuts ``[B, 4]``.

        Raises
        ------
        InputError
            If shapes, dtypes or columns differ from the rows before, or the disk is full; finished shards stay intact.
        """
        check_pair(str(self.path), tuple(target_logits.shape), tuple(draft_logits.shape))
        unknown = set(columns) - set(_COLUMNS)
        if unknown:
            raise InputError(
                f"{self.path}: unknown column {sorted(unknown)[0]!r}; a dump may have {', '.join(_COLUMNS)}"
            )
        if target_logits.dtype != draft_logits.dtype:
            raise InputError(
                f"{self.path}: target {target_logits.dtype} but draft {draft_logits.dtype}; give one dtype"
            )
        if self._manifest is None:
            self._manifest = Manifest(
                target_width=target_logits.shape[1],
                draft_width=draft_logits.shape[1],
                dtype=_dtype_name(target_logits.dtype, self.path),
                columns=[name for name in _COLUMNS if name in columns],  # type: ignore[misc]
                hidden_sizes=self._hidden_sizes,
                **self._facts,
            )
            # Before any shard, so that shards without a manifest are somebody else's.
            self._save_manifest(self._manifest)
        manifest = self._manifest
        given = (target_logits.shape[1], draft_logits.shape[1], str(target_logits.dtype).removeprefix("torch."))
        held = (manifest.target_width, manifest.draft_width, manifest.dtype)
        if given != held or set(columns) != set(manifest.columns):
            raise InputError(
                f"{self.path}: rows of widths and dtype {given} with columns {sorted(columns)} do not fit the dump's "
                f"{held} with {sorted(manifest.columns)}; write them to a dump of their own"
            )
        rows = {"target_logits": target_logits, "draft_logits": draft_logits}
        rows |= check_columns(str(self.path), columns, target_logits.shape[0])
        self._pending.append({name: value.detach().cpu() for name, value in rows.items()})
        while self._waiting() >= self.shard_rows:
            self._flush(self.shard_rows)

    def close(self) -> None:
        """Write what is left and mark the dump as complete."""
        if self._waiting():
            self._flush(self._waiting())
        if self._manifest is None:
            raise InputError(f"{self.path}: nothing was written; append rows before closing")
        self._save_manifest(self._manifest.model_copy(update={"complete": True}))

    def __enter__(self) -> DumpWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        # After an error the dump stays unfinished, to be continued by the next writer.
        if kind is None:
            self.close()

    def _waiting(self) -> int:
        return sum(part["target_logits"].shape[0] for part in self._pending)

    def _flush(self, rows: int) -> None:
        joined = {name: torch.cat([part[name] for part in self._pending]) for name in self._pending[0]}
        shard = {name: value[:rows].contiguous() for name, value in joined.items()}
        rest = {name: value[rows:] for name, value in joined.items()}
        data = safetensors_bytes(shard)
        assert self._manifest is not None
        name = f"shard-{len(self._manifest.shards):05d}.safetensors"
        write_whole(self.path / name, data, INTACT)
        digests = {algorithm: make(data).hexdigest() for algorithm, make in ALGORITHMS.items()}
        entry = Shard(file=name, rows=rows, **digests)
        self._save_manifest(self._manifest.model_copy(update={"shards": [*self._manifest.shards, entry]}))
        self._pending = [rest] if rest["target_logits"].shape[0] else []

    def _save_manifest(self, manifest: Manifest) -> None:
        stated = manifest.model_dump(mode="json", exclude={"hidden_sizes"} if manifest.hidden_sizes is None else None)
        for shard in stated["shards"]:
            if shard["xxh3_128"] is None:
                del shard["xxh3_128"]
        text = json.dumps(stated, indent=1, sort_keys=True) + "\n"
        write_whole(self.path / MANIFEST, text.encode(), INTACT)
        self._manifest = manifest

    def _refuse_other(self, manifest: Manifest) -> None:
        for name, value in self._facts.items():
            if json.loads(json.dumps(value)) != getattr(manifest, name):
                raise InputError(
                    f"{self.path}: holds a dump whose {name} differs from this run's; delete it or write elsewhere"
                )


def open_native(path: Path) -> Dump:
    """Open a native dump for lazy reading.

    Raises
    ------
    InputError
        If the manifest is invalid, a shard is missing, truncated or disagrees with it.
    """
    manifest = read_manifest(path)
    _refuse_other_shards(path, manifest)
    layout = _layout(manifest)
    starts, total = [], 0
    for shard in manifest.shards:
        starts.append(total)
        total += shard.rows
        check_shard(path / shard.file, layout, shard.rows, MANIFEST)
    if total == 0:
        raise InputError(f"{path}: the dump has no rows; log some positions first")
    notes = dict(manifest.notes)
    if not manifest.complete:
        notes["unfinished"] = f"the run that wrote it stopped after {total} rows; run it again to continue"
    facts = Facts(
        str(path),
        "native",
        total,
        manifest.target_width,
        manifest.draft_width,
        manifest.dtype,
        kind=manifest.kind,
        support=manifest.support,
        shift=manifest.shift,
        stage=manifest.stage,
        bytes=size_on_disk(path),
        hidden_sizes=manifest.hidden_sizes,
        notes=notes,
    )

    past_cache = facts.bytes > memory_limit() / 2
    record = Record(path, beside=True)

    def read_rows(start: int, stop: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        joined: dict[str, Tensor] = {}
        for first, shard in zip(starts, manifest.shards, strict=True):
            low, high = max(start, first), min(stop, first + shard.rows)
            if low < high:
                with open_shard(path / shard.file, layout, shard.rows) as held:
                    _refuse_damaged(path / shard.file, held.stream, shard, record)
                    if not joined:
                        joined = {name: held.room(name, low - first, stop - start) for name in layout}
                    for name, rows in joined.items():
                        held.read(name, low - first, rows[low - start : high - start], past_cache)
        return joined.pop("target_logits"), joined.pop("draft_logits"), joined

    return Dump(facts, read_rows)


def _refuse_other_shards(path: Path, manifest: Manifest) -> None:
    """Refuse shards that are listed twice, or are copies, and in a dump that is complete one that is not listed."""
    listed = [shard.file for shard in manifest.shards]
    if twice := [name for name, count in Counter(listed).items() if count > 1]:
        raise InputError(f"{path / MANIFEST}: lists {twice[0]} twice; write the dump again")
    # Rows without places may be the same by chance, where a toy wrote them.
    first: dict[str, str] = {}
    for shard in manifest.shards if {"doc", "position"} <= set(manifest.columns) else ():
        if (same := first.setdefault(shard.sha256, shard.file)) != shard.file:
            raise InputError(
                f"{path / MANIFEST}: {shard.file} has the checksum of {same}, the same rows at the same places, which "
                "would count twice; remove the copy from the manifest and the folder, or write the dump again"
            )
    lying = {file.name for file in path.glob("shard-*.safetensors")} if manifest.complete else set()
    if other := sorted(lying - set(listed)):
        raise InputError(
            f"{path}: {other[0]} lies there and {MANIFEST} does not list it, though it says that the dump is complete; "
            "restore the manifest, or move the shard elsewhere"
        )


def _refuse_damaged(file: Path, stream: FileIO, shard: Shard, record: Record) -> None:
    """Hold an open shard against the manifest: read whole the first time, remembered afterwards."""
    algorithm = "sha256" if shard.xxh3_128 is None else "xxh3_128"
    if record.digest(file, stream, algorithm) != getattr(shard, algorithm):
        raise InputError(_differs(file, algorithm))


def verify_native(path: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Read every shard, whatever is remembered of it, and compare all its checksums with the manifest's.

    Returns
    -------
    int
        Shards verified.

    Raises
    ------
    InputError
        On the first shard that differs, or cannot be read.
    """
    shards = read_manifest(path).shards
    for number, shard in enumerate(shards):
        if progress is not None:
            progress(number, len(shards))
        file = path / shard.file
        try:
            with file.open("rb", buffering=0) as stream:
                for algorithm in ("sha256", "xxh3_128"):
                    stated = getattr(shard, algorithm)
                    if stated is not None and digest_of(stream, algorithm) != stated:
                        raise InputError(_differs(file, algorithm))
        except OSError as error:
            raise InputError(f"{file}: the shard cannot be read ({error.strerror}); fetch or log it again") from None
    return len(shards)


def _differs(file: Path, algorithm: str) -> str:
    name = {"sha256": "SHA-256", "xxh3_128": "XXH3"}[algorithm]
    return f"{file}: {name} differs from the manifest's, the shard is damaged; fetch or log it again"


def read_manifest(path: Path) -> Manifest:
    """What a native dump's manifest says.

    Raises
    ------
    InputError
        If it is missing or invalid.
    """
    file = path / MANIFEST
    if not file.exists():
        raise InputError(f"{path}: no {MANIFEST} in this folder; it is no native dump")
    try:
        text = whole_text(file)
        parse(text)  # a name that is there twice is an error
        return Manifest.model_validate_json(text)
    except (ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{file}: invalid manifest, {where}: {first['msg']}; write the dump again") from None


def _layout(manifest: Manifest) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Type and shape of a row of everything a shard holds."""
    dtype = getattr(torch, manifest.dtype)
    held = {"target_logits": (dtype, [manifest.target_width]), "draft_logits": (dtype, [manifest.draft_width])}
    for column in manifest.columns:
        wide = [4] if column in CUTS else [SCORED] if column in JUDGED else []
        held[column] = (torch.float64 if column in (*CUTS, JUDGED[1]) else torch.int64, wide)
    return held


def _dtype_name(dtype: torch.dtype, path: Path) -> Any:
    name = torch_name(dtype)
    if name not in LOGITS:
        raise InputError(f"{path}: logits of dtype {name}; give float16, bfloat16, float32 or float64")
    return name
