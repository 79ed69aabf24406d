"""What a dump is: facts about it, and rows of logits read lazily in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.dumps.checks import CUTS, JUDGED, SCORED, admit
from mdsd_bounds.dumps.widths import check_widths
from mdsd_bounds.problem import InputError, whole_number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Facts:
    """What a dump holds, described by facts and not by its file extension.

    Attributes
    ----------
    path : str
        Where it is.
    format : str
        Name in :data:`mdsd_bounds.dumps.READERS`.
    rows : int
        Positions.
    target_width, draft_width : int
        Columns of the two heads as stored; rows of the narrower one are read with exact zeros in the others.
    dtype : str
        Dtype of the stored numbers.
    kind : str
        ``logits``, ``logprobs`` or ``hidden``.
    support : str
        ``full``, ``floored``, ``top-k`` or ``mapped``.
    shift : str
        Which token row t is the distribution of: ``next`` (t + 1) or ``same`` (t).
    stage : str
        ``raw`` or ``processed`` (temperature or cuts already applied).
    bytes : int
        Size on disk.
    fixed_bytes : int
        Of these, bytes that do not grow with the rows (the heads of hidden states).
    hidden_sizes : (int, int) or None
        Widths of the target's and the draft's hidden states, where known.
    notes : mapping
        Everything else a reader knows: models, prompts, versions.
    largest : int
        Largest token id seen where no file states its vocabulary and the widths are an assumption; otherwise -1.
    heads : int
        Heads of a draft that has several (:mod:`mdsd_bounds.dumps.formats.several_heads`); the rows are of one.
    skipped : int
        Tokens at the beginning of each text that have no row here, although the file records them: those before the
        first row of a later head.
    forwards : bool
        Whether going back to earlier rows costs reading the file from its beginning.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> facts = load_example().facts
    >>> facts.rows, facts.kind, facts.support, facts.dtype
    (32, 'logits', 'full', 'float16')
    """

    path: str
    format: str
    rows: int
    target_width: int
    draft_width: int
    dtype: str
    kind: str = "logits"
    support: str = "full"
    shift: str = "next"
    stage: str = "raw"
    bytes: int = 0
    fixed_bytes: int = 0
    hidden_sizes: tuple[int, int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    largest: int = -1
    forwards: bool = False
    heads: int = 1
    skipped: int = 0


@dataclass(frozen=True, repr=False)
class LogitBatch:
    """Rows of a dump: ``target_logits``, ``draft_logits`` ``[B, V]`` in their stored dtype, and what they belong to.

    ``row`` ``[B]`` int64 is the row's number in the dump.  ``doc``, ``position``, ``token`` are ``[B]`` int64 or None.

    ``target_cut`` and ``draft_cut`` are None where rows are full.  Where tokens are missing (top-k, floored) the logits
    are natural-log probabilities at temperature 1, ``-inf`` for tokens that were not stored, and the cut is ``[B, 4]``
    float64: least and greatest mass of those tokens, the largest log-probability one of them may have, and the error
    bound of the stored logarithms (:mod:`mdsd_bounds.bounds.truncated.distributions` turns them into distributions).

    ``target_width`` and ``draft_width`` are the columns that each side has itself; the others hold exact zeros.

    ``judge_token`` int64 and ``judge_score`` float64 ``[B, 8]`` are tokens that a judge scored and its scores, or None;
    -1 and NaN where it scored fewer.

    ``past`` ``[P]`` int64 are the tokens of the first row's document in the rows before it, where they were asked for.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> for batch in load_example().batches(16):
    ...     print(tuple(batch.target_logits.shape), batch.row[0].item(), batch.doc.unique().numel())
    (16, 151936) 0 8
    (16, 151936) 16 8
    """

    target_logits: Tensor
    draft_logits: Tensor
    row: Tensor
    doc: Tensor | None = None
    position: Tensor | None = None
    token: Tensor | None = None
    target_cut: Tensor | None = None
    draft_cut: Tensor | None = None
    target_width: int | None = None
    draft_width: int | None = None
    past: Tensor | None = None
    judge_token: Tensor | None = None
    judge_score: Tensor | None = None

    def __repr__(self) -> str:
        rows, width = self.target_logits.shape
        first = f"the first is {int(self.row[0])}" if rows else "none"
        kind = str(self.target_logits.dtype).removeprefix("torch.")
        also = [field.name for field in fields(self)[3:] if isinstance(getattr(self, field.name), torch.Tensor)]
        return f"LogitBatch(rows={rows} ({first}), V={width:,}, {kind}{'; ' if also else ''}{', '.join(also)})"


#: Reads rows [start, stop) as (target [B, V_t], draft [B, V_d], columns): doc, position, token where known.
ReadRows = Callable[[int, int], tuple[Tensor, Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, repr=False)
class Dump:
    """An opened dump.  Nothing but its facts is in memory until rows are asked for.

    ``content`` gives a digest of the dump's content (:mod:`mdsd_bounds.dumps.fingerprint`), and ``paths`` are the
    local files or folders it was opened from, both where known; ``beside`` are files read without being named.

    Examples
    --------
    >>> from mdsd_bounds import load_example
    >>> dump = load_example()
    >>> len(dump), dump.facts.target_width
    (32, 151936)
    >>> dump.to_frame().set_index("fact").loc[["rows", "dtype", "kind"]]
             value
    fact
    rows        32
    dtype  float16
    kind    logits
    """

    facts: Facts
    read_rows: ReadRows = field(repr=False)
    content: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    paths: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    beside: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        check_widths(self.facts.target_width, self.facts.draft_width, self.facts.path)

    def __len__(self) -> int:
        return self.facts.rows

    def __repr__(self) -> str:
        facts = self.facts
        wide = f"V={facts.target_width:,}"
        if facts.draft_width != facts.target_width:
            wide += f" and {facts.draft_width:,}"
        return f"Dump({facts.format}, {facts.rows:,} positions, {wide}, {facts.dtype} {facts.kind}, {facts.path!r})"

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with the facts that ``mdsd inspect`` prints first: ``fact`` and ``value``."""
        import pandas as pd

        shown = {field.name: getattr(self.facts, field.name) for field in fields(self.facts) if field.name != "notes"}
        return pd.DataFrame({"fact": list(shown), "value": [printable(value) for value in shown.values()]})

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(printable(repr(self)))}</p>{self.to_frame().to_html(border=0, index=False)}"

    def fingerprint(self) -> str:
        """Digest of the content: the same for the same rows under any path, another one for other rows.

        Cost: the first time for each content, all bytes of the dump are read; of a native dump, its manifest.
        """
        if self.content is not None:
            return self.content()
        # Rows that come from no file: all that is known of them is what they are.
        digest = hashlib.sha256()
        for start in range(0, len(self), 64):
            target, draft, columns = self.read_rows(start, min(start + 64, len(self)))
            for name, rows in [("target", target), ("draft", draft), *sorted(columns.items())]:
                digest.update(f"{name} {rows.dtype} {tuple(rows.shape)}".encode())
                digest.update(rows.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batches(self, batch_size: int, start: int = 0, stop: int | None = None) -> Iterator[LogitBatch]:
        """Rows ``start`` to ``stop`` in order, ``batch_size`` at a time, both heads as wide as the wider one.

        Raises
        ------
        InputError
            If the range is outside the dump, a number is none, a row cannot be read, or it cannot be
            (:func:`mdsd_bounds.dumps.checks.admit`).
        """
        asked = batch_size, start, len(self) if stop is None else stop
        # Plain integers: those of few bits overflow where rows are counted.
        whole = [number for value in asked if (number := whole_number(value)) is not None]
        if len(whole) < len(asked):
            raise InputError(f"{self.facts.path}: batches of {', '.join(map(repr, asked))}; give integers")
        batch_size, start, stop = whole
        if batch_size < 1:
            raise InputError(f"{self.facts.path}: batches of {batch_size} rows asked for; give at least 1")
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"{self.facts.path}: rows {start} to {stop} asked for; the dump has {len(self)} rows")
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            target, draft, columns = self.read_rows(first, last)
            if target.shape[0] != last - first or draft.shape[0] != last - first:
                raise InputError(f"{self.facts.path}: row {first} cannot be read; the file is shorter than it says")
            widths = target.shape[1], draft.shape[1]
            target, draft, columns = admit(self.facts.path, first, target, draft, columns)
            yield LogitBatch(
                target, draft, torch.arange(first, last), **columns, target_width=widths[0], draft_width=widths[1]
            )


def check_pair(path: str, target: tuple[int, ...], draft: tuple[int, ...]) -> None:
    """Refuse a pair whose arrays are no two matrices with the same rows and alignable widths.

    Raises
    ------
    InputError
        With the shapes and the remedy.
    """
    for name, shape in (("target_logits", target), ("draft_logits", draft)):
        if len(shape) != 2 or shape[1] == 0:
            raise InputError(f"{path}: {name} has shape {tuple(shape)}; give [positions, vocabulary]")
    if target[0] != draft[0]:
        raise InputError(f"{path}: {target[0]} target rows but {draft[0]} draft rows; log both over the same positions")
    if target[0] == 0:
        raise InputError(f"{path}: the dump has no rows; log some positions first")
    check_widths(target[1], draft[1], path)


def check_columns(path: str, columns: dict[str, Any], rows: int) -> dict[str, Tensor]:
    """The columns doc, position and token as int64 tensors of the right length, cuts as float64 ``[rows, 4]``.

    Raises
    ------
    InputError
        If one has another length or is not integer.
    """
    checked = {}
    for name, values in columns.items():
        try:
            column = torch.as_tensor(values)
        except (TypeError, ValueError):
            kind = getattr(values, "dtype", type(values).__name__)
            raise InputError(
                f"{path}: {name} is {kind}; give {rows} integers (numpy.unique(..., return_inverse=True) makes "
                "numbers of names)"
            ) from None
        if name in CUTS:
            if column.shape != (rows, 4) or column.dtype != torch.float64:
                raise InputError(f"{path}: {name} has shape {tuple(column.shape)}; give float64 [{rows}, 4]")
            checked[name] = column
            continue
        if name in JUDGED:
            kind = torch.int64 if name == JUDGED[0] else torch.float64
            if column.shape != (rows, SCORED) or column.dtype != kind:
                raise InputError(
                    f"{path}: {name} has shape {tuple(column.shape)} {column.dtype}; give {kind} [{rows}, 8]"
                )
            checked[name] = column
            continue
        if column.ndim != 1 or column.shape[0] != rows or not _counts(column):
            raise InputError(f"{path}: {name} has shape {tuple(column.shape)} {column.dtype}; give {rows} integers")
        checked[name] = column.to(torch.int64)
    return checked


def _counts(column: Tensor) -> bool:
    return not (column.is_floating_point() or column.is_complex() or column.dtype == torch.bool)


def size_on_disk(*paths: Path) -> int:
    """Bytes of the files, and of all files in the folders, given; hidden ones are no part of a dump."""
    return sum(
        sum(part.stat().st_size for part in path.rglob("*") if part.is_file() and not part.name.startswith("."))
        if path.is_dir()
        else path.stat().st_size
        for path in paths
    )
