"""What a judge would accept at every threshold, from the log of a decoder's own steps.

A tried draft token x was drawn from q, so that averages over tried tokens are averages over q, without the rest of the
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mdsd_bounds.dumps.boundary import reading
from mdsd_bounds.dumps.containers.records import records
from mdsd_bounds.dumps.step_schema import PositionRecord, StepReader, StepRecord
from mdsd_bounds.judge.plane import checked_thresholds
from mdsd_bounds.pipeline.tables import bootstrap_interval
from mdsd_bounds.problem import InputError

_REMEDY = "log drafts, accepted and positions with token, p, candidates, target_candidates and judge_score"


def curve_of_steps(path: str | Path, thresholds: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """Acceptance and total variation of a judge at each threshold, estimated from the tokens that were tried.

    For a token x tried at a position, with score s: acceptance ``1`` where ``s > threshold``, else
    ``min(1, p_x / q_x)``; what the judge adds to that is the estimate of the total variation (one draft:
    docs/judge.md, identity).  Positions after the first rejection of a step were not tried.

    Parameters
    ----------
    path : str or Path
        A step log of chains: ``drafts`` in order, one position each.
    thresholds : sequence of float
        In [0, 1].
    seed : int
        Of the resampling.

    Returns
    -------
    pandas.DataFrame
        ``rule``, ``parameter``, ``acceptance`` and ``tv`` with 95% intervals (``..._low``, ``..._high``: documents
        resampled, NaN for a single one), ``tried`` tokens and ``documents``.  A tried token without a score is never
        approved.

    Raises
    ------
    InputError
        Naming the line: a tree, several drafts a position, an accepted draft that is not the committed token, or a
        tried token whose p or q was not logged.  Leaving such a token out would favour those that were accepted.  Also
        where a threshold is outside [0, 1].

    Notes
    -----
    Which positions were tried depends on the rule that decoded: the numbers are of its texts.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from mdsd_bounds.judge import curve_of_steps
    >>> held = {"candidates": [[5, 0.8]], "target_candidates": [[7, 0.6], [5, 0.4]], "judge_score": [[5, 0.7]]}
    >>> step = {"doc": 0, "drafts": [5], "accepted": 0, "positions": [{"token": 7, **held}]}
    >>> log = Path(tempfile.mkdtemp()) / "steps.jsonl"
    >>> _ = log.write_text(json.dumps(step))
    >>> curve_of_steps(log, [0.5, 0.9])[["rule", "parameter", "acceptance", "tv"]]
                       rule  parameter  acceptance   tv
    0  speculative sampling        NaN         0.5  0.0
    1                 judge        0.5         1.0  0.5
    2                 judge        0.9         0.5  0.0
    3         accept always        NaN         1.0  0.5
    """
    thresholds = checked_thresholds(thresholds)
    tried: list[tuple[int, float, float]] = []
    reader = StepReader()
    with reading(Path(path), "step of a step log", _REMEDY) as place:
        for record in records(Path(path)):
            place.at = record.at
            step = reader.read(record.value)
            tried += [(step.doc, *one) for one in _tried(step)]
    if not tried:
        raise InputError(f"{path}: no draft token was tried; {_REMEDY}")
    doc, lossless, score = (np.array(column, float) for column in zip(*tried, strict=True))
    if np.isnan(score).all():
        raise InputError(f"{path}: holds no judge's scores; {_REMEDY}")
    rules = [("speculative sampling", np.nan, np.zeros(len(doc), bool))]
    rules += [("judge", threshold, score > threshold) for threshold in thresholds]
    rules += [("accept always", np.nan, np.ones(len(doc), bool))]
    accepted = np.stack([np.where(approved, 1.0, lossless) for _, _, approved in rules], 1)
    found = pd.DataFrame([(rule, parameter) for rule, parameter, _ in rules], columns=["rule", "parameter"])
    for name, values in (("acceptance", accepted), ("tv", accepted - lossless[:, None])):
        found[name] = values.mean(0)
        found[f"{name}_low"], found[f"{name}_high"] = bootstrap_interval(values, doc, seed=seed)
    return found.assign(tried=len(doc), documents=len(np.unique(doc)))


def _tried(step: StepRecord) -> list[tuple[float, float]]:
    """``min(1, p / q)`` and the score of each tried token of a step; NaN where there is no score."""
    if step.is_tree:
        raise ValueError("a tree; the judge's curve is counted from chains")
    count = min(step.accepted + 1, len(step.drafts))
    if len(step.positions) < count:
        raise ValueError(f"{count} drafts were tried, but there are {len(step.positions)} positions")
    found = []
    for place, (token, position) in enumerate(zip(step.drafts[:count], step.positions, strict=False)):
        if place < step.accepted and position.token != token:
            raise ValueError(
                f"draft token {token} is accepted at position {place}, but token {position.token} is committed there"
            )
        q = (position.candidates or {}).get(token)
        if q is None or q.p <= 0:
            raise ValueError(f"draft token {token} is not among the candidates; log its probability")
        score = (position.judge_score or {}).get(token, np.nan)
        found.append((min(1.0, _target_chance(position, token) / q.p), score))
    return found


def _target_chance(position: PositionRecord, token: int) -> float:
    listed = (position.target_candidates or {}).get(token)
    if listed is not None:
        return listed.p
    if position.token == token and position.chance is not None:
        return position.chance.p
    raise ValueError(f"the target's probability of draft token {token} is not logged; add it to target_candidates")
