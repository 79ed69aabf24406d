"""The only loop: dump -> blocks of rows -> per-position results.

A dump is cut into *blocks* of a fixed number of rows.  A block is the unit of reading, computing, writing and
resuming, so that results do not depend on batch sizes, on how blocks are shared among workers, or on where a run was
interrupted.  The next block is read while the present one is computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdsd_bounds.bounds import make_problem, solve
from mdsd_bounds.distributions import to_law
from mdsd_bounds.problem import Bound, InputError
from mdsd_bounds.results import COLUMNS

#: Rows of a block: 32 rows of 151,936 tokens are 39 MB of float64 for each of p and q.
BLOCK_ROWS = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is computed at every position.

    Attributes
    ----------
    samplers, drafts, temperatures :
        Every combination is computed.
    verifiers : tuple of str
        Names of verifiers to set against the bound; empty for bounds alone.
    draft_temperature : float or None
        Temperature of the draft where it differs from the target's.
    top_k, top_p :
        Warps of both models, as a serving stack applies them.
    samples, seed : int
        Monte Carlo samples of verifiers without a closed form, and their seed.
    options : dict
        Sampler options (``m``).
    method : str
        Route to the bound.
    """

    samplers: tuple[str, ...]
    drafts: tuple[int, ...]
    temperatures: tuple[float, ...] = (1.0,)
    verifiers: tuple[str, ...] = ()
    draft_temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    samples: int = 1000
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    method: str = "auto"

    def key(self, dump: Any) -> str:
        """Digest of the settings and the dump's identity; parts of another run are never mixed in."""
        identity = {"settings": asdict(self), "dump": str(dump.facts), "rows": len(dump), "block": BLOCK_ROWS}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def evaluate_block(batch: Any, settings: Settings, name: str = "dump") -> pd.DataFrame:
    """Per-position results of one block of rows, in the columns of :data:`mdsd_bounds.results.COLUMNS`."""
    first = int(batch.row[0])
    frames = []
    for temperature in settings.temperatures:
        warp: dict[str, Any] = {"top_k": settings.top_k, "top_p": settings.top_p, "first_row": first}
        draft_temperature = temperature if settings.draft_temperature is None else settings.draft_temperature
        p = to_law(batch.target_logits, temperature=temperature, name=f"{name} target_logits", **warp)
        q = to_law(batch.draft_logits, temperature=draft_temperature, name=f"{name} draft_logits", **warp)
        for sampler in settings.samplers:
            options = settings.options if sampler == "top_m_plus" else {}
            problem, _, _ = make_problem(p, q, settings.drafts, sampler, **options)
            bound = solve(problem, settings.method)
            if settings.verifiers:
                frames.extend(_against_bound(bound, batch, temperature, settings))
            else:
                frames.append(_frame(bound, batch, temperature, ""))
    return pd.concat(frames, ignore_index=True)


def matching_verifiers(
    names: Sequence[str] | None, samplers: Sequence[str], drafts: Sequence[int], *, lossy: bool = False
) -> tuple[str, ...]:
    """The verifiers to compare: all registered ones (lossless, or lossy where asked), or those named.

    Raises
    ------
    InputError
        If a named verifier is unknown, fits none of the samplers or none of the numbers of drafts, or is lossy while
        others are not: lossy and lossless rules are never mixed in one table.
    """
    from mdsd_bounds.verifiers import VERIFIERS, get_verifier

    if names is None:
        names = [name for name, rule in VERIFIERS.items() if rule.lossless != lossy]
        return tuple(name for name in names if set(VERIFIERS[name].samplers) & set(samplers))
    rules = [get_verifier(name) for name in names]
    for rule in rules:
        if not set(rule.samplers) & set(samplers):
            raise InputError(
                f"verifier {rule.name!r} does not fit the samplers {', '.join(samplers)}; "
                f"it is for {', '.join(rule.samplers)}"
            )
        if rule.drafts_needed is not None and rule.drafts_needed not in drafts:
            raise InputError(f"verifier {rule.name!r} takes {rule.drafts_needed} drafts; add it to --drafts")
    if len({rule.lossless for rule in rules}) > 1:
        mixed = ", ".join(rule.name for rule in rules if not rule.lossless)
        raise InputError(f"{mixed}: lossy; compare lossy verifiers in a table of their own")
    return tuple(names)


def run(
    dump: Any,
    settings: Settings,
    *,
    out: str | None = None,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    progress: Progress | None = None,
    keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
) -> pd.DataFrame | None:
    """Run ``settings`` over a dump and return the per-position table.

    Parameters
    ----------
    dump :
        An opened dump (:func:`mdsd_bounds.open_dump`).
    out : str or None
        Parquet file for the per-position table.  Each finished block is kept beside it, in ``OUT.parts``, until the
        file is whole; the same command run again after an interruption continues there.
    shard : (i, N)
        Compute only blocks i, i + N, ...  With ``out``, the table is put together by whichever run finishes last.
    limit : int or None
        Use only the first ``limit`` rows.
    progress : callable or None
        Called with (rows done, rows in all).
    keep : callable or None
        Applied to each block's table, for callers that need only some columns.

    Returns
    -------
    DataFrame or None
        The whole table; None when other shards are still missing.

    Raises
    ------
    InputError
        If the dump has no rows, ``out`` cannot be written, or ``OUT.parts`` belongs to other settings.
    """
    rows = len(dump) if limit is None else min(limit, len(dump))
    if rows == 0:
        raise InputError(f"{dump.facts.path}: the dump has no rows; log some positions first")
    blocks = [(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS)]
    mine = [b for b in range(len(blocks)) if b % shard[1] == shard[0]]
    parts = _Parts(out, settings.key(dump) + f"-{rows}") if out is not None else None
    todo = [b for b in mine if parts is None or not parts.has(b)]
    done = sum(blocks[b][1] - blocks[b][0] for b in mine if b not in set(todo))
    total = sum(blocks[b][1] - blocks[b][0] for b in mine)
    frames = []
    if progress is not None:
        progress(done, total)
    for block, batch in _prefetch(dump, [(b, *blocks[b]) for b in todo]):
        frame = evaluate_block(batch, settings, str(dump.facts.path))
        if parts is not None:
            parts.write(block, frame)
        else:
            frames.append(frame if keep is None else keep(frame))
        done += blocks[block][1] - blocks[block][0]
        if progress is not None:
            progress(done, total)
    if parts is None:
        return pd.concat(frames, ignore_index=True)
    return parts.join(len(blocks))


def _prefetch(dump: Any, spans: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, Any]]:
    """Blocks in order, the next one read by a thread while the caller computes."""

    def read(span: tuple[int, int, int]) -> Any:
        _, start, stop = span
        batches = list(dump.batches(stop - start, start=start, stop=stop))
        if len(batches) != 1 or len(batches[0].row) != stop - start:
            raise InputError(f"{dump.facts.path}: rows {start} to {stop - 1} could not be read whole; did it shrink?")
        return batches[0]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, spans[0]) if spans else None
        for i, span in enumerate(spans):
            assert ahead is not None
            batch = ahead.result()
            ahead = reader.submit(read, spans[i + 1]) if i + 1 < len(spans) else None
            yield span[0], batch


def _frame(bound: Bound, batch: Any, temperature: float, verifier: str) -> pd.DataFrame:
    counts = bound.problem.n_drafts
    rows = np.asarray(batch.row)
    # Rows of a dump that names no documents stand for themselves.
    documents = rows if batch.doc is None else np.asarray(batch.doc)
    positions = rows if batch.position is None else np.asarray(batch.position)
    size = len(rows)
    return pd.DataFrame(
        {
            "temperature": float(temperature),
            "sampler": bound.problem.sampler,
            "drafts": np.repeat(np.asarray(counts, dtype=np.int64), size),
            "verifier": verifier,
            "row": np.tile(rows, len(counts)),
            "doc": np.tile(documents, len(counts)),
            "position": np.tile(positions, len(counts)),
            "acceptance": np.nan,
            "acceptance_stderr": np.nan,
            "value": bound.value.reshape(-1).cpu().numpy(),
            "low": bound.low.reshape(-1).cpu().numpy(),
            "high": bound.high.reshape(-1).cpu().numpy(),
            "subset_size": bound.subset_size.reshape(-1).cpu().numpy(),
        },
        columns=COLUMNS,
    )


def _against_bound(bound: Bound, batch: Any, temperature: float, settings: Settings) -> list[pd.DataFrame]:
    from mdsd_bounds.verifiers import acceptance_rate, get_verifier

    frames = []
    problem = bound.problem
    for name in settings.verifiers:
        rule = get_verifier(name)
        counts = tuple(n for n in problem.n_drafts if rule.drafts_needed in (None, n))
        if problem.sampler not in rule.samplers or not counts:
            continue
        rate = acceptance_rate(
            problem.p,
            problem.q,
            counts,
            sampler=problem.sampler,
            verifier=name,
            samples=settings.samples,
            # The seed belongs to the rows, so that results do not depend on what else ran before them.
            seed=settings.seed + int(batch.row[0]),
            **problem.options,
        )
        frame = _frame(bound, batch, temperature, name)
        frame = frame[frame["drafts"].isin(counts)].reset_index(drop=True)
        frame["acceptance"] = rate.value.reshape(-1).cpu().numpy()
        frame["acceptance_stderr"] = rate.stderr.reshape(-1).cpu().numpy()
        frames.append(frame)
    return frames


class _Parts:
    """Finished blocks beside the output file; each is written under another name and renamed when whole."""

    def __init__(self, out: str, key: str) -> None:
        self.out = Path(out)
        self.folder = Path(f"{out}.parts")
        if not self.out.parent.is_dir():
            raise InputError(f"{out}: the folder {self.out.parent} does not exist; make it first")
        self.folder.mkdir(exist_ok=True)
        mark = self.folder / "key"
        if mark.exists() and mark.read_text() != key:
            raise InputError(
                f"{self.folder}: parts of a run with other settings or another dump; delete it or change --out"
            )
        mark.write_text(key)

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:09d}.parquet"

    def has(self, block: int) -> bool:
        return self._path(block).exists()

    def write(self, block: int, frame: pd.DataFrame) -> None:
        _write_whole(frame, self._path(block))

    def join(self, blocks: int) -> pd.DataFrame | None:
        if not all(self.has(block) for block in range(blocks)):
            return None
        table = pd.concat([pd.read_parquet(self._path(block)) for block in range(blocks)], ignore_index=True)
        _write_whole(table, self.out)
        shutil.rmtree(self.folder)
        return table


def _write_whole(frame: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        frame.to_parquet(temporary, index=False)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: could not be written ({error.strerror}); finished parts are intact") from None
