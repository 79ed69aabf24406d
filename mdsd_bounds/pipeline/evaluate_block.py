"""What is computed at every position of a block of rows: bounds, and verifiers against them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
from torch import Tensor

from mdsd_bounds._backend.printable import counted
from mdsd_bounds._backend.progress import stage
from mdsd_bounds._backend.threads import one_blas_thread, one_torch_thread
from mdsd_bounds._backend.underflow import underflows
from mdsd_bounds.bounds import make_problem, solve, within
from mdsd_bounds.bounds.truncated.distributions import TruncatedDistribution, truncated_distribution
from mdsd_bounds.bounds.truncated.intervals import solve_cut
from mdsd_bounds.distributions import probs_and_defect
from mdsd_bounds.dumps.base import Dump, LogitBatch
from mdsd_bounds.pipeline.block_rows import adjusted_batch, warped_rows
from mdsd_bounds.pipeline.tables import COLUMNS, UNDERFLOW
from mdsd_bounds.problem import Bound, InputError, Option
from mdsd_bounds.samplers import sampler_options
from mdsd_bounds.sampling import UNCHANGED, SamplingOptions
from mdsd_bounds.verifiers import VERIFIERS, Verifier, acceptance_rate, get_verifier, load_third_party, output_distance
from mdsd_bounds.verifiers.registry import rule_key

#: Rows of a block: 64 rows of 151,936 tokens are 78 MB of float64 for each of p and q.
BLOCK_ROWS = 64


@dataclass(frozen=True)
class Settings:
    """What is computed at every position.

    Attributes
    ----------
    samplers, drafts, temperatures :
        Every combination is computed.
    verifiers : tuple of str or Verifier
        Verifiers to set against the bound, as :func:`matching_verifiers` gives them; empty for bounds alone.
    draft_temperature : float or None
        Temperature of the draft where it differs from the target's.
    target, draft : SamplingOptions
        Cuts, biases and penalties of either model, as its server applies them.
    samples, seed : int
        Monte Carlo samples of verifiers without a closed form, and their seed.
    options : dict
        Sampler options (``m``).
    method : str
        Route to the bound.
    tvs : tuple of float
        Tables of bounds alone: total variations within which the output may be from the target, each with its rows and
        its entry in a column ``tv``.  Empty: lossless bounds, and no such column.

    Examples
    --------
    >>> from mdsd_bounds.pipeline import Settings
    >>> settings = Settings(("with_replacement",), (1, 2), temperatures=(0.6, 1.0), verifiers=("rrs",))
    >>> settings.drafts, settings.temperatures
    ((1, 2), (0.6, 1.0))
    """

    samplers: tuple[str, ...]
    drafts: tuple[int, ...]
    temperatures: tuple[float, ...] = (1.0,)
    verifiers: tuple[str | Verifier, ...] = ()
    draft_temperature: float | None = None
    target: SamplingOptions = UNCHANGED
    draft: SamplingOptions = UNCHANGED
    samples: int = 1000
    seed: int = 0
    options: dict[str, Option] = field(default_factory=dict)
    method: str = "auto"
    tvs: tuple[float, ...] = ()

    @property
    def needs_text(self) -> bool:
        """Whether the tokens before a position matter."""
        return self.target.needs_text or self.draft.needs_text

    def check(self, dump: Dump) -> None:
        """Refuse what cannot be computed on a dump, before any of its rows is read.

        Raises
        ------
        InputError
            If a repetition penalty is asked for on log-probabilities, or any penalty where rows lack the beginning of
            their text.
        """
        if self.needs_text and dump.facts.skipped:
            raise InputError(
                f"{dump.facts.path}: penalties need the text, of whose beginning the rows of head "
                f"{dump.facts.skipped} leave out {counted(dump.facts.skipped, 'token')}; use head 0, or leave the "
                "penalties out"
            )
        if "logprobs" in dump.facts.kind and {self.target.repetition_penalty, self.draft.repetition_penalty} != {1.0}:
            raise InputError(
                f"{dump.facts.path}: a repetition penalty divides logits, but the dump holds {dump.facts.kind}; log "
                "whole logits, or use presence and frequency penalties"
            )

    def key(self, dump: Dump) -> str:
        """Digest of the settings and the dump's content; parts of another run or other rows are never mixed in.

        Where the dump lies, and what its files are called, does not matter.
        """
        facts = str(replace(dump.facts, path="", bytes=0))
        # Verifiers of others are told apart by their code: what an earlier state of it gave is not theirs.
        mine = asdict(replace(self, verifiers=tuple(rule_key(rule) for rule in self.verifiers)))
        identity = {"settings": mine, "dump": facts, "content": dump.fingerprint(), "block": BLOCK_ROWS}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def evaluate_block(batch: LogitBatch, settings: Settings, name: str = "dump") -> pd.DataFrame:
    """Per-position results of one block of rows, in the columns of :data:`mdsd_bounds.pipeline.tables.COLUMNS`.

    :data:`~mdsd_bounds.pipeline.tables.UNDERFLOW` flags the rows of which the target or the draft has a probability
    that float64 holds as subnormal, or as zero although its logit is finite.

    Rows of which some tokens are missing (``target_cut``, ``draft_cut``) get certified intervals
    (:mod:`mdsd_bounds.bounds.truncated.intervals`): ``low <= alpha* <= high`` however the missing mass lies, and
    ``value`` is the
    middle of the two.

    Raises
    ------
    InputError
        On rows that are no distributions; where verifiers are asked for and a row misses mass.
    """
    cut = batch.target_cut is not None or batch.draft_cut is not None
    frames: list[pd.DataFrame] = []
    bounds = _cut_bounds if cut else _full_bounds
    batch = adjusted_batch(batch, settings, name)
    stages = len(settings.temperatures) * len(settings.samplers)
    for t, temperature in enumerate(settings.temperatures):
        (target, target_warp), (draft, draft_warp) = warped_rows(batch, settings, temperature, name)
        floor = (underflows(target, **target_warp) | underflows(draft, **draft_warp)).cpu().numpy()
        for s, bound in enumerate(bounds(batch, settings, temperature, name)):
            before = len(frames)
            with stage(t * len(settings.samplers) + s, stages):
                frames.extend(_answers(bound, batch, temperature, settings))
            for frame in frames[before:]:
                frame[UNDERFLOW] = np.tile(floor, len(frame) // len(floor))
            # Its distributions are free for the next ones.
            del bound
    table = pd.concat(frames, ignore_index=True)
    _refuse_no_interval(table, name)
    return table


def _answers(bound: Bound, batch: LogitBatch, temperature: float, settings: Settings) -> list[pd.DataFrame]:
    """What is asked of one sampler at one temperature."""
    if settings.verifiers:
        # A table must not depend on how many cores a machine or a worker has.
        with one_torch_thread(), one_blas_thread():
            return _against_bound(bound, batch, temperature, settings)
    if settings.tvs:
        return [_frame(within(bound, tv), batch, temperature, "").assign(tv=tv) for tv in settings.tvs]
    return [_frame(bound, batch, temperature, "")]


def _refuse_no_interval(table: pd.DataFrame, name: str) -> None:
    """Every row of a table has an interval: none may be lost on the way to a mean."""
    low, high = table["certified_low"].to_numpy(), table["certified_high"].to_numpy()
    bad = np.flatnonzero(~((low <= high) & np.isfinite(table["value"].to_numpy())))
    if len(bad):
        row = table.iloc[int(bad[0])]
        raise InputError(
            f"{name} row {row['row']}: no interval for {row['sampler']} with {row['drafts']} drafts (from "
            f"{row['certified_low']} to {row['certified_high']}); the row's numbers contradict each other: log it again"
        )


def _full_bounds(batch: LogitBatch, settings: Settings, temperature: float, name: str) -> Iterator[Bound]:
    (p, p_warp), (q, q_warp) = warped_rows(batch, settings, temperature, name)
    (target, target_defect), (draft, draft_defect) = probs_and_defect(p, **p_warp), probs_and_defect(q, **q_warp)
    defects = target_defect, draft_defect
    for sampler, options in _asked(settings):
        problem, _, _ = make_problem(target, draft, settings.drafts, sampler, defects=defects, **options)
        yield solve(problem, settings.method)


def _cut_bounds(batch: LogitBatch, settings: Settings, temperature: float, name: str) -> Iterator[Bound]:
    if settings.method != "auto":
        raise InputError(f"{name}: its rows are cut, which method {settings.method!r} cannot bound; use method auto")
    (p, p_warp), (q, q_warp) = warped_rows(batch, settings, temperature, name)
    target, draft = (
        truncated_distribution(p, batch.target_cut, **p_warp),
        truncated_distribution(q, batch.draft_cut, **q_warp),
    )
    if settings.verifiers:
        for role, probs in (("target", target), ("draft", draft)):
            _refuse_missing(probs, role, int(batch.row[0]), name)
    for sampler, options in _asked(settings):
        yield solve_cut(target, draft, settings.drafts, sampler, options, solver=solve)


def _asked(settings: Settings) -> Iterator[tuple[str, dict[str, Option]]]:
    return ((sampler, sampler_options(sampler, settings.options)) for sampler in settings.samplers)


def _refuse_missing(probs: TruncatedDistribution, role: str, first_row: int, name: str) -> None:
    """A verifier's acceptance needs the whole distribution; a cut inside the stored tokens leaves one."""
    missing = probs.high > 0
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        raise InputError(
            f"{name} {role} row {first_row + row}: up to {float(probs.high[row]):.3g} of the mass is missing, and the "
            "acceptance of a verifier is not known; use mdsd bounds, which gives intervals, or cut inside the stored "
            "tokens (--top-k, --top-p)"
        )


def matching_verifiers(
    names: Sequence[str | Verifier | Callable[..., Tensor]] | None,
    samplers: Sequence[str],
    drafts: Sequence[int],
    *,
    lossy: bool = False,
    columns: Sequence[str] = (),
) -> tuple[str | Verifier, ...]:
    """The verifiers to compare: all registered and installed ones (lossless, or lossy where asked), or those named.

    Parameters
    ----------
    names : sequence or None
        Whatever :func:`mdsd_bounds.verifiers.get_verifier` finds, and ``"all"``; None is all.
    samplers, drafts : sequence
        What they must fit, at least one of each.
    lossy : bool
        Whether ``all`` means the lossy ones.
    columns : sequence of str
        Columns that the dump holds: ``all`` leaves out rules that need others.

    Returns
    -------
    tuple
        Names of registered verifiers, and the others themselves: what :class:`Settings` takes.

    Raises
    ------
    InputError
        If a named verifier is unknown, fits none of the samplers or none of the numbers of drafts, has the name of
        another one, or is lossy while others are not: lossy and lossless rules are never mixed in one table.

    Examples
    --------
    >>> from mdsd_bounds.pipeline import matching_verifiers
    >>> matching_verifiers(["rrs", "nss"], ("with_replacement",), (2,))
    ('rrs', 'nss')
    """
    found: list[Verifier] = []
    for name in ["all"] if names is None else names:
        if name == "all":
            load_third_party()
            fits = [rule for rule in VERIFIERS.values() if rule.lossless != lossy and rule.takes(samplers)]
            found += [rule for rule in fits if set(rule.needs) <= set(columns)]
        else:
            found.append(_fitting(get_verifier(name), samplers, drafts))
    chosen: dict[str, Verifier] = {}
    for rule in found:
        if chosen.setdefault(rule.name, VERIFIERS.get(rule.name, rule)) != rule:
            raise InputError(f"two verifiers are called {rule.name!r}; give yours another name")
    rules = list(chosen.values())
    if len({rule.lossless for rule in rules}) > 1:
        mixed = ", ".join(rule.name for rule in rules if not rule.lossless)
        raise InputError(f"{mixed}: lossy; compare lossy verifiers in a table of their own")
    return tuple(rule.name if rule.name in VERIFIERS else rule for rule in rules)


def _fitting(rule: Verifier, samplers: Sequence[str], drafts: Sequence[int]) -> Verifier:
    """The rule, if it fits at least one of the samplers and one of the numbers of drafts."""
    if not rule.takes(samplers):
        raise InputError(
            f"verifier {rule.name!r} does not fit the samplers {', '.join(samplers)}; "
            f"it is for {', '.join(rule.samplers)}"
        )
    if rule.drafts_needed is not None and rule.drafts_needed not in drafts:
        raise InputError(f"verifier {rule.name!r} takes {rule.drafts_needed} drafts; add it to --drafts")
    return rule


def _frame(bound: Bound, batch: LogitBatch, temperature: float, verifier: str) -> pd.DataFrame:
    counts = bound.problem.n_drafts
    rows = np.asarray(batch.row)
    # Rows of a dump that names no documents stand for themselves.
    documents = rows if batch.doc is None else np.asarray(batch.doc)
    positions = rows if batch.position is None else np.asarray(batch.position)
    size = len(rows)
    # As an array: a scalar NaN becomes a column of objects.
    unknown = np.full(size * len(counts), np.nan)
    frame = pd.DataFrame(
        {
            "temperature": float(temperature),
            "sampler": bound.problem.sampler,
            "drafts": np.repeat(np.asarray(counts, dtype=np.int64), size),
            "verifier": verifier,
            "row": np.tile(rows, len(counts)),
            "doc": np.tile(documents, len(counts)),
            "position": np.tile(positions, len(counts)),
            "acceptance": unknown,
            "mc_stderr": unknown,
            "value": bound.value.reshape(-1).cpu().numpy(),
            "certified_low": bound.low.reshape(-1).cpu().numpy(),
            "certified_high": bound.high.reshape(-1).cpu().numpy(),
            "subset_size": bound.subset_size.reshape(-1).cpu().numpy(),
        },
        columns=COLUMNS,
    )
    for role, probs in (("target", bound.problem.p), ("draft", bound.problem.q)):
        beyond = _beyond(batch, role, probs)
        if beyond is not None:
            frame[f"{role}_beyond"] = np.tile(beyond, len(counts))
    return frame


def _beyond(batch: LogitBatch, role: str, probs: Tensor) -> np.ndarray | None:
    """Mass ``[B]`` of a model on columns that the other one lacks; None where their heads are of one width."""
    width = getattr(batch, "draft_width" if role == "target" else "target_width", None)
    if width is None or width >= probs.shape[-1] or probs.ndim != 2:
        return None
    beyond: np.ndarray = probs[:, width:].sum(-1).cpu().numpy()
    return beyond


def _against_bound(bound: Bound, batch: LogitBatch, temperature: float, settings: Settings) -> list[pd.DataFrame]:
    frames = []
    problem = bound.problem
    for i, given in enumerate(settings.verifiers):
        rule = get_verifier(given)
        counts = tuple(n for n in problem.n_drafts if rule.drafts_needed in (None, n))
        if problem.sampler not in rule.samplers or not counts:
            continue
        options = {**problem.options, **_columns(rule, batch)}
        with stage(i, len(settings.verifiers)):
            rate = acceptance_rate(
                problem.p,
                problem.q,
                counts,
                sampler=problem.sampler,
                verifier=rule,
                samples=settings.samples,
                # The seed belongs to the rows, so that results do not depend on what else ran before them.
                seed=settings.seed + int(batch.row[0]),
                generator=None,
                **options,
            )
        frame = _frame(bound, batch, temperature, rule.name)
        frame = frame[frame["drafts"].isin(counts)].reset_index(drop=True)
        frame["acceptance"] = rate.value.reshape(-1).cpu().numpy()
        frame["mc_stderr"] = rate.stderr.reshape(-1).cpu().numpy()
        if not rule.lossless:
            distance = output_distance(problem.p, problem.q, counts, problem.sampler, rule, **options)
            frame["tv"] = distance.reshape(-1).cpu().numpy()
        frames.append(frame)
    return frames


def _columns(rule: Verifier, batch: LogitBatch) -> dict[str, Tensor]:
    """What a rule needs of a dump beside its distributions."""
    held = {name: getattr(batch, name) for name in rule.needs}
    missing = next((name for name, value in held.items() if value is None), None)
    if missing is not None:
        raise InputError(
            f"verifier {rule.name!r} needs the column {missing!r}, which the dump does not hold; make a dump with a "
            "judge's scores by mdsd judge log"
        )
    return held
